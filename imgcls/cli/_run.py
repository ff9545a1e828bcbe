"""End every command: turn a user's error into one line on stderr and an exit status, never a traceback."""

from __future__ import annotations

import contextlib
import copy
import errno
import gc
import io
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from imgcls.config.resolve import spelling_of
from imgcls.distributed import rank_info
from imgcls.distributed.rank_info import AGENT_VARIABLE
from imgcls.errors import ImgclsError, RunError, Stopped, UsageError, printable, reason, tell
from imgcls.storage import cores, tracebacks

T = TypeVar("T")

#: error numbers of a file that takes no more bytes: a full disk, a quota, a limit, a device that failed
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def in_background(function: Callable[..., T], *arguments: Any) -> Callable[[], T]:
    """Begin `function(*arguments)` in a thread; return a function that waits for its result or error.

    For reading data while torch is loaded. The function that is returned may be called once: a second call
    would wait for ever. The thread does not keep the program alive.
    """
    # takes the result at once: the thread ends whether or not anybody fetches it
    box: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            box.put((function(*arguments), None))
        # of every kind: it is raised where the result is waited for
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
    """Pause garbage collection during the first import of torch, and leave its objects out of later ones.

    They live until the end, and to look through them takes a quarter of the time of the import and of the end
    of the program. Does nothing where torch is loaded already.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        # no later collection looks at what exists now, that at the end of the program included
        gc.freeze()
        gc.enable()


class _Terminated(KeyboardInterrupt):
    """Raised at SIGTERM and SIGHUP, handled like Ctrl-C: files that are half written are removed."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__()
        self.number = number


@contextlib.contextmanager
def ending_in_order() -> Iterator[None]:
    """Make SIGTERM, and SIGHUP unless nohup ignores it, end a command as Ctrl-C does.

    For commands that write large files and handle no signals themselves: their temporary files are removed.
    Does nothing outside the main thread.
    """
    def end(number: int, frame: object) -> None:
        raise _Terminated(signal.Signals(number))

    # Windows has no SIGHUP
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    taken = [number for number in numbers if before[number] == signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        taken = []
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


def run_main(function: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None, name: str,
             *own: type) -> int:
    """Call `function(argv)` and return the exit status: its own, 1 or 2 for errors, 130 after Ctrl-C.

    `argv` None means the arguments of this process. An error in a thread makes the status 1. `own` are the
    sections of settings that only this command has: messages spell them as its flags.
    """
    cores.watch()  # measures what other processes compute while Python loads torch and the data
    _open_standard_streams()
    # a character that the terminal's encoding does not have must not end the command
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    with _warnings_about_flags(own), _errors_of_threads(name, own) as thread_errors:
        status = _status_of(function, argv, name, own)
    status = status or (1 if thread_errors else 0)
    if _joined():
        # Threads of gloo may still release Python objects; one that does so while the interpreter shuts down
        # ends the whole process with SIGABRT. So leave without that shutdown.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    return status


def _open_standard_streams() -> None:
    """Open /dev/null in place of standard streams that were closed (2>&-).

    Else the next file, a checkpoint perhaps, gets descriptor 2, and C code writes its messages into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    # Python has None for a stream that was closed before it began: `flush` would fail on it, and `print` to a
    # stderr of None would write to stdout.
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open until the end


@contextlib.contextmanager
def _errors_of_threads(name: str, own: Sequence[type]) -> Iterator[list[BaseException]]:
    """Print an error that ends a thread as one line, too; yield the list that collects these errors.

    The exit status depends on it: the code that waits for such a thread may not notice that it failed.
    """
    errors: list[BaseException] = []
    before = threading.excepthook

    def tell_error(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is not None and not isinstance(arguments.exc_value, SystemExit):
            errors.append(arguments.exc_value)
            _print_error(tracebacks.as_told(arguments.exc_value), name, own)

    threading.excepthook = tell_error
    try:
        yield errors
    finally:
        threading.excepthook = before


@contextlib.contextmanager
def _warnings_about_flags(own: Sequence[type]) -> Iterator[None]:
    """Spell settings as this command's flags in errors that are logged as warnings ("left out: ...")."""
    handler = logging.lastResort  # what prints warnings where no one has set logging up
    if handler is None:
        yield
        return
    handler.setFormatter(_FlagFormatter(own))
    try:
        yield
    finally:
        handler.setFormatter(None)  # the handler is logging's own, and outlives the command


class _FlagFormatter(logging.Formatter):
    """Spell as flags the settings that errors among a record's arguments name; escape text from files."""

    def __init__(self, own: Sequence[type]) -> None:
        super().__init__()
        self._own = own

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.args, tuple) and any(isinstance(arg, ImgclsError) for arg in record.args):
            record = copy.copy(record)  # other handlers show it as Python spells settings
            spelling = spelling_of(*self._own)
            record.args = tuple(arg.spelled(spelling) if isinstance(arg, ImgclsError) else arg
                                for arg in record.args or ())
        return printable(super().format(record), keep="\n" if record.exc_info else "")


def _joined() -> bool:
    """Return whether this process is one of several."""
    # a module that is not loaded has joined nothing, and loading it would load torch
    process_group = sys.modules.get("imgcls.distributed.process_group")
    return process_group is not None and process_group.has_joined()


def _status_of(function: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None, name: str,
               own: Sequence[type]) -> int:
    try:
        try:
            return function(sys.argv[1:] if argv is None else argv) or 0
        finally:  # what was printed may still be buffered, and the disk be full
            sys.stdout.flush()
    except ImgclsError as error:
        _print_error(error, name, own)
        return error.exit_status
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, _Terminated) else signal.SIGINT
        with contextlib.suppress(OSError):
            tell(f"{name}: {'interrupted' if number == signal.SIGINT else f'terminated ({number.name})'}")
        return 128 + number  # what a shell reports for a program that a signal has ended
    except BrokenPipeError:
        # the reader of our output has exited (| head): what is still buffered is discarded
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        # a bug of ours, or no memory: one line all the same, and the traceback in a file
        _print_error(_output_error(error) or tracebacks.as_told(error), name, own)
        return 1


def _output_error(error: Exception) -> RunError | None:
    """Return the error to print where stdout takes no more bytes (a full disk), else None.

    What is still buffered for stdout is then discarded.
    """
    if not isinstance(error, OSError) or error.errno not in _FULL or error.filename is not None:
        return None
    try:
        os.write(sys.stdout.fileno(), b"\n")  # tried, since nothing else shows which of the open files it was
    except OSError as full:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return RunError(f"standard output: {reason(full)}; not all could be printed")
    return None


def _print_error(error: ImgclsError, name: str, own: Sequence[type]) -> None:
    """Print the error in one line on stderr, once for all processes of a job.

    Under our own agent it is only written to the file that the agent reads, and the agent prints it. Without
    one, each process prints its own error, behind its rank where that is above 0. Two errors are printed by
    rank 0 alone: a stop that was requested, and, under torchrun, wrong usage. Processes that were started by
    hand each print theirs: the mistake may be in one command only, or on one machine.
    """
    line = error.spelled(spelling_of(*own))
    path = os.environ.get("TORCHELASTIC_ERROR_FILE", "")
    is_written = bool(path) and _write_error_file(path, line, error)
    rank = _rank()
    if rank > 0 and isinstance(error, Stopped):
        return
    # our agent reads the file and prints one line for all its processes, and torchrun shows the first's
    if is_written and (AGENT_VARIABLE in os.environ or (rank > 0 and isinstance(error, UsageError))):
        return
    if rank > 0 and not line.startswith("rank "):
        line = f"rank {rank}: {line}"
    # stderr may be a terminal that was closed, which is one reason for a stop: the exit status is kept
    with contextlib.suppress(OSError):
        tell(f"{name}: error: {line}")


def _rank() -> int:
    """Return the rank of this process, 0 where it is the only one or the environment is contradictory."""
    # torch's variables: set by our agent, by torchrun and by every launcher alike
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return 0
    try:
        info = rank_info.detect()
    except UsageError:  # perhaps the very error that is being printed
        return 0
    return info.rank if info else 0


def _write_error_file(path: str, line: str, error: ImgclsError) -> bool:
    """Write the error to the file that torch's agent reads, as torch's own ErrorHandler does.

    Return whether that succeeded.
    """
    content = {"message": line, "extraInfo": {
        "timestamp": str(int(time.time())), "exit_status": error.exit_status, "kind": type(error).__name__}}
    # without the file the agent still knows that the process failed, only not why
    try:
        with open(path, "w", encoding="utf-8") as stream:
            json.dump({"message": content}, stream)
    except OSError:
        return False
    return True
