"""Train on record files or folders of photographs, as MXNet's script of this name."""

import sys

from imgcls.cli.train import main

sys.exit(main(dataset="imagenet", prog="train_imagenet.py"))
