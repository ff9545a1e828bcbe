#!/usr/bin/env python3
"""Run every check that is not a test: the linter, the size limits, the types and the docs.

    python3 scripts/check.py

Makes .venv on the first call, as scripts/test.py does. All checks run even when one fails, so that all faults
can be mended at once. `pre-commit` runs the quick ones before a commit, CI this file and the tests.
"""

import os
import subprocess
import sys
import time

from _environment import ROOT, ensure

CHECKS = {
    "ruff": ["-m", "ruff", "check", "."],
    "limits": ["scripts/limits.py"],
    # every tool as a module of .venv's Python: one that is installed elsewhere has another version
    "pyright": ["-m", "pyright"],
    "docs": ["-m", "mkdocs", "build", "--strict", "--site-dir", "build/site"],
}
# Material's advertisement of its successor is not about this site.
ENVIRONMENT = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}


def main() -> int:
    """Run the checks one after another; return 1 if any of them fails."""
    python = ensure("dev", "test")  # both names, so that scripts/test.py finds its own in the stamp
    failed = []
    for name, arguments in CHECKS.items():
        start = time.monotonic()
        # Output goes straight through: each tool names its own findings.
        status = subprocess.run([python, *arguments], cwd=ROOT, env=ENVIRONMENT, check=False).returncode
        print(f"{name}: {'failed' if status else 'passed'} ({time.monotonic() - start:.0f} s)", flush=True)
        if status:
            failed.append(name)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
