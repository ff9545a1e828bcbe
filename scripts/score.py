"""Measure a checkpoint on labelled data, as MXNet's script of this name."""

import sys

# MXNet's users and their shell scripts know this path; imgcls-score is the same command.
from imgcls.cli.score import main

sys.exit(main())
