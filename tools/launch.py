"""Start a command on many devices or machines, as MXNet's tool of this name."""

import sys

# MXNet's users and their shell scripts know this path; imgcls-launch is the same command.
from imgcls.cli.launch import main

sys.exit(main())
