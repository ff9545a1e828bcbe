"""How every command ends: a user's error is one line on stderr and an exit status, never a traceback."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from imgcls.config.resolve import spelling_of
from imgcls.distributed.rank_info import AGENT_VARIABLE
from imgcls.errors import ImgclsError, Stopped, UsageError

T = TypeVar("T")


def in_background(function: Callable[..., T], *arguments: Any) -> Callable[[], T]:
    """Begin `function(*arguments)` in a thread; calling what this returns waits for the result, or raises its
    error.

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
    """Around the first import of torch: a quarter of it goes into looking for garbage among objects that are
    there to stay, and so does the end of the program. Does nothing where torch is loaded already."""
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def run_main(function: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None, name: str,
             *own: type) -> int:
    """Call `function(argv)` and return the exit status: its own, 1 or 2 for errors, 130 after Ctrl-C.

    `own` are the sections of settings that only this command has: errors about them are told with its flags.
    """
    # Threads of torch that wait for each other spin; where another program wants the same cores, a long spin
    # makes small networks tens of times slower. This is read when torch is loaded, and costs nothing on an
    # idle machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    status = _status_of(function, argv, name, own)
    if _joined():
        # Threads of gloo may still want to let go of Python's objects, and a thread that asks an interpreter
        # which is about to end for anything takes the whole process down with SIGABRT: leave without that
        # end.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    return status


def _joined() -> bool:
    """Whether this process is one of several."""
    process_group = sys.modules.get("imgcls.distributed.process_group")  # not loaded: no torch, nobody to join
    return process_group is not None and process_group.has_joined()


def _status_of(function: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None, name: str,
               own: Sequence[type]) -> int:
    try:
        return function(sys.argv[1:] if argv is None else argv) or 0
    except ImgclsError as error:
        _print_error(error, name, own)
        return error.exit_status
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # whoever read our output has left (| head); what is still buffered has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception:
        if not _joined():
            raise
        traceback.print_exc()
        return 1


def _print_error(error: ImgclsError, name: str, own: Sequence[type]) -> None:
    """The error in one line on stderr. One process among several leaves it to the agent that started it, if
    there is one, and otherwise says which it is; what all of them would say, only the first says."""
    message = error.spelled(spelling_of(*own))
    line = "; ".join(part.strip() for part in message.splitlines() if part.strip()).replace(":;", ":")
    rank, several = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1") != "1"
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        content = {"message": line, "extraInfo": {"timestamp": str(int(time.time())), "exit_status": error.exit_status,
                                                  "kind": type(error).__name__}}
        with contextlib.suppress(OSError), open(path, "w", encoding="utf-8") as stream:
            json.dump({"message": content}, stream)
    if several and isinstance(error, (Stopped, UsageError)) and rank != "0":
        return
    if AGENT_VARIABLE in os.environ:
        return
    where = f"rank {rank}: " if several and rank != "0" and not line.startswith("rank ") else ""
    print(f"{name}: error: {where}{line}", file=sys.stderr)
