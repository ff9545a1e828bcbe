"""Start a command on many devices or machines, as MXNet's tool of this name."""

import sys

from imgcls.cli.launch import main

sys.exit(main())
