"""stdout and stderr that may break during a run: a terminal is closed, or the reader of a pipe has ended.

What can no longer be shown must not cost what was learned: lines that no one can read are dropped. A reader
that ends (`2>&1 | head`) makes other programs end by SIGPIPE; here it is a request to end in good order,
which `StopSignal` looks for. Called by `run`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast


class LastingStream:
    """A text stream that raises no error, except BrokenPipeError where results are no longer read."""

    def __init__(self, stream: TextIO, *, raises_when_unread: bool) -> None:
        """With `raises_when_unread`, BrokenPipeError is raised as by any stream of Python."""
        self._stream = stream
        self._raises_when_unread = raises_when_unread
        #: whether the reader of the pipe has ended
        self.is_unread = False

    def write(self, text: str) -> int:
        """Write as far as that is possible; return the length of `text` in any case."""
        with self._dropping_errors():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what can be."""
        with self._dropping_errors():
            self._stream.flush()

    # For isatty, encoding, fileno and whatever else libraries use of a stream.
    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _dropping_errors(self) -> Iterator[None]:
        # EIO: the terminal is gone. EPIPE: the reader is. ENOSPC: a log on a full disk. EAGAIN: a terminal
        # that was set to non-blocking. None of them is a reason to lose a run.
        try:
            yield
        except OSError as error:
            if error.errno == errno.EPIPE:
                self.is_unread = True
                # Results that no one reads end a command, as everywhere: `imgcls-score ... | head -1`.
                if self._raises_when_unread:
                    raise


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Have stdout and stderr outlast the terminal or pipe behind them, within the block."""
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nothing:
        # Python has no stream at all for what was closed before it began (2>&-)
        out = LastingStream(sys.stdout or nothing, raises_when_unread=True)
        err = LastingStream(sys.stderr or nothing, raises_when_unread=False)
        sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
        try:
            yield
        finally:
            # a stream that other code put there meanwhile stays
            if sys.stdout is cast(TextIO, out):
                sys.stdout = before[0]
            if sys.stderr is cast(TextIO, err):
                sys.stderr = before[1]


def is_unread() -> bool:
    """Return whether the log is no longer read and should be: under nohup it need not be."""
    return getattr(sys.stderr, "is_unread", False) and not is_hangup_ignored()


def is_hangup_ignored() -> bool:
    """Return whether this process was started to outlive its terminal, by nohup for example."""
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    return hangup is not None and signal.getsignal(hangup) == signal.SIG_IGN
