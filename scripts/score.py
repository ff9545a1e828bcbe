#!/usr/bin/env python3
"""Measure a checkpoint on labelled data, as MXNet's script of this name."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # from any folder, and without an installation: the package is beside this folder
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from imgcls.cli import start

    # MXNet's users and their shell scripts know this path; imgcls-score is the same command.
    sys.exit(start("score"))
