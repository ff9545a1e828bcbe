#!/usr/bin/env python3
"""Pack images into record files, as MXNet's tool of this name."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # from any folder, and without an installation: the package is beside this folder
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from imgcls.cli import start

    # MXNet's users and their shell scripts know this path; imgcls-im2rec is the same command.
    sys.exit(start("im2rec"))
