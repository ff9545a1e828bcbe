"""Train a pretrained network on other classes, as MXNet's script of this name."""

import sys

from imgcls.cli.finetune import main

sys.exit(main())
