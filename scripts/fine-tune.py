"""Train a pretrained network on other classes, as MXNet's script of this name."""

import sys

# MXNet's users and their shell scripts know this path; imgcls-finetune is the same command.
from imgcls.cli.finetune import main

sys.exit(main())
