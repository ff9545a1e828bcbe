"""Write the index of a record file, as MXNet's tool of this name."""

import sys

# MXNet's users and their shell scripts know this path; imgcls-rec2idx is the same command.
from imgcls.cli.rec2idx import main

sys.exit(main())
