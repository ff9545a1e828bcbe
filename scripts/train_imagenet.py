"""Train on record files or folders of photographs, as MXNet's script of this name."""

import sys

from imgcls.cli.train import main

# The name of the script decides on the data set's defaults, as in MXNet; `prog` is shown by --help.
sys.exit(main(dataset="imagenet", prog="train_imagenet.py"))
