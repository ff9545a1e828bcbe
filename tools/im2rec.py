"""Pack images into record files, as MXNet's tool of this name."""

import sys

# MXNet's users and their shell scripts know this path; imgcls-im2rec is the same command.
from imgcls.cli.im2rec import main

sys.exit(main())
