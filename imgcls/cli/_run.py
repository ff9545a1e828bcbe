"""How every command ends: a user's error is one line on stderr and an exit status, never a traceback."""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from imgcls.errors import ImgclsError

T = TypeVar("T")


def in_background(function: Callable[..., T], *arguments: Any) -> Callable[[], T]:
    """Begin `function(*arguments)` in a thread; calling what this returns waits for the result, or raises its error.

    For reading data while torch is loaded. The thread does not keep the program alive.
    """
    box: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            box.put((function(*arguments), None))
        except BaseException as error:
            box.put((None, error))

    def result() -> T:
        value, error = box.get()
        if error is not None:
            raise error
        return value

    threading.Thread(target=work, daemon=True).start()
    return result


@contextlib.contextmanager
def loading_torch() -> Iterator[None]:
    """Around the first import of torch: a quarter of it goes into looking for garbage among objects that are there to
    stay, and so does the end of the program. Does nothing where torch is loaded already."""
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def run_main(function: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None, name: str) -> int:
    """Call `function(argv)` and return the exit status: its own, 1 or 2 for errors, 130 after Ctrl-C."""
    # Threads of torch that wait for each other spin; where another program wants the same cores, a long spin makes
    # small networks tens of times slower. This is read when torch is loaded, and costs nothing on an idle machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        return function(sys.argv[1:] if argv is None else argv) or 0
    except ImgclsError as error:
        line = "; ".join(part.strip() for part in str(error).splitlines() if part.strip()).replace(":;", ":")
        print(f"{name}: error: {line}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # whoever read our output has left (| head); what is still buffered has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
