#!/usr/bin/env python3
"""Run the tests in an environment of their own: makes .venv on the first call.

    python3 scripts/test.py [flags of pytest]

They are shared among as many processes as there are cores, at most four; `-n 0` runs them in one, as a
debugger needs it.
"""

import os
import subprocess
import sys

from _environment import ROOT, ensure

#: each process loads torch and trains: more of them want more memory than small machines have
MAX_PROCESSES = 4

if __name__ == "__main__":
    num_processes = min(os.cpu_count() or 1, MAX_PROCESSES)
    # Only what tests need: the linter and the documentation's tools are scripts/check.py's.
    # worksteal: tests of one file mostly stay together, with what their fixtures have made
    command = [ensure("test"), "-m", "pytest", "-n", str(num_processes), "--dist", "worksteal", *sys.argv[1:]]
    sys.exit(subprocess.run(command, cwd=ROOT, check=False).returncode)
