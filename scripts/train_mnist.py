"""Train mlp, lenet, ... on MNIST, as MXNet's script of this name."""

import sys

from imgcls.cli.train import main

sys.exit(main(dataset="mnist", prog="train_mnist.py"))
