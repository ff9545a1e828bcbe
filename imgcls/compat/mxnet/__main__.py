"""`python -m imgcls.compat.mxnet SCRIPT [ARGUMENT...]`: run a program written for MXNet on this package."""

import runpy
import sys

from imgcls.compat.mxnet._alias import install


def main() -> int:
    """Run the program that the command line names."""
    if len(sys.argv) < 2:
        print("usage: python -m imgcls.compat.mxnet SCRIPT [ARGUMENT...]", file=sys.stderr)
        return 2
    install()
    del sys.argv[0]
    # As with `python SCRIPT`: modules are imported from the program's folder.
    sys.path[0] = sys.argv[0].rpartition("/")[0] or "."
    runpy.run_path(sys.argv[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
