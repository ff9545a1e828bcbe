"""Train on CIFAR-10, as MXNet's script of this name."""

import sys

from imgcls.cli.train import main

sys.exit(main(dataset="cifar10", prog="train_cifar10.py"))
