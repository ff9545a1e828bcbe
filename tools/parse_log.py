#!/usr/bin/env python3
"""Print the epochs of a training log as a table, as MXNet's tool of this name."""

import sys

# MXNet's users and their shell scripts know this path; imgcls-parse-log is the same command.
from imgcls.cli.parse_log import main

sys.exit(main())
