"""How every command ends: a user's error is one line on stderr and an exit status, never a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from imgcls.errors import ImgclsError


def run_main(function: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None, name: str) -> int:
    """Call `function(argv)` and return the exit status: its own, 1 or 2 for errors, 130 after Ctrl-C."""
    # Threads of torch that wait for each other spin; where another program wants the same cores, a long spin makes
    # small networks tens of times slower. This is read when torch is loaded, and costs nothing on an idle machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        return function(sys.argv[1:] if argv is None else argv) or 0
    except ImgclsError as error:
        print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # whoever read our output has left (| head); what is still buffered has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
