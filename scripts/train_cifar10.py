"""Train on CIFAR-10, as MXNet's script of this name."""

import sys

from imgcls.cli.train import main

# The name of the script decides on the data set's defaults, as in MXNet; `prog` is shown by --help.
sys.exit(main(dataset="cifar10", prog="train_cifar10.py"))
