"""Measure a checkpoint on labelled data, as MXNet's script of this name."""

import sys

from imgcls.cli.score import main

sys.exit(main())
