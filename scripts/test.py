#!/usr/bin/env python3
"""Run the tests in an environment of their own: makes .venv on the first call.

    python3 scripts/test.py [flags of pytest]
"""

import subprocess
import sys

from _environment import ROOT, ensure

if __name__ == "__main__":
    # Only what tests need: the linter and the documentation's tools are scripts/check.py's.
    command = [ensure("test"), "-m", "pytest", *sys.argv[1:]]
    sys.exit(subprocess.run(command, cwd=ROOT, check=False).returncode)
