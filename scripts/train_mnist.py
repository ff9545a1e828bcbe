#!/usr/bin/env python3
"""Train mlp, lenet, ... on MNIST, as MXNet's script of this name."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # from any folder, and without an installation: the package is beside this folder
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from imgcls.cli import start

    # The name of the script decides on the data set's defaults, as in MXNet; `prog` is shown by --help.
    sys.exit(start("train", dataset="mnist", prog="train_mnist.py"))
