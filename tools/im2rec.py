"""Pack images into record files, as MXNet's tool of this name."""

import sys

from imgcls.cli.im2rec import main

sys.exit(main())
