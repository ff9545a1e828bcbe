"""Write the index of a record file, as MXNet's tool of this name."""

import sys

from imgcls.cli.rec2idx import main

sys.exit(main())
