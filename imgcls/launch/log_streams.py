"""Output of an agent's workers: whole lines, each behind its rank, without torch's own messages.

The agent opens a stream for each worker's stdout and stderr, and their lines are written to its own. No
output is stored.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import threading
from dataclasses import dataclass

# messages of torch's C++ about connections, such as [rank1]:[W1120 21:18:11.185 socket.cpp:697] [c10d] ...
_NOISE = re.compile(
    rb"^(\[rank\d+\]:)?\s*\[[IWEF]\d{3,4} .*\b(socket|TCPStore\w*|ProcessGroup\w*|NCCLUtils|"
    rb"HeartbeatMonitor|FlightRecorder\w*|logger|reducer|Functional)\.[ch]pp:\d+\]|^frame #\d+: ")
#: a longer line is passed on in pieces
MAX_LINE_BYTES = 1 << 16
#: reads of what is left in a pipe at the end; a worker's child that writes for ever must not keep the agent
MAX_FINAL_READS = 1 << 12


def is_noise(line: bytes) -> bool:
    """Return whether a line is a message of torch's own about its connections, of no use to a user."""
    return bool(_NOISE.match(line))


@dataclass
class _Stream:
    target: int
    prefix: bytes
    show_noise: bool
    #: the beginning of a line whose end has not come yet
    partial: bytes = b""


class LogStreams:
    """Pipes from workers to this process's own stdout (1) and stderr (2), emptied by a thread."""

    def __init__(self) -> None:
        self._streams: dict[int, _Stream] = {}
        self._writers: list[int] = []
        self._selector = selectors.DefaultSelector()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self, target: int, prefix: str, *, show_noise: bool) -> str:
        """Return a path to write a worker's output to; its lines are written to `target`, behind `prefix`.

        With `show_noise` no line is left out.
        """
        reader, writer = os.pipe()
        # our end only: a worker's print must wait while we are behind
        os.set_blocking(reader, False)
        self._streams[reader] = _Stream(target, prefix.encode(), show_noise)
        self._selector.register(reader, selectors.EVENT_READ)
        self._writers.append(writer)
        return f"/dev/fd/{writer}"

    def start(self) -> None:
        """Begin to read: the workers have their ends of the pipes by now, and ours are closed."""
        self._close_writers()
        if self._streams:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Pass on what is left, when the workers are gone."""
        self._close_writers()
        self._closing.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        self._selector.close()
        for reader in self._streams:
            os.close(reader)
        self._streams.clear()

    def _close_writers(self) -> None:
        for writer in self._writers:
            os.close(writer)
        self._writers.clear()

    def _run(self) -> None:
        while not self._closing.is_set():
            for key, _events in self._selector.select(timeout=0.2):
                self._read(key.fd)
            # all workers have closed their output and may still be running
            if not self._selector.get_map():
                self._closing.wait()
        for reader, stream in self._streams.items():
            self._read(reader, until_empty=True)
            if stream.partial:
                _write_line(stream, stream.partial)

    def _read(self, reader: int, *, until_empty: bool = False) -> None:
        stream = self._streams[reader]
        for _ in range(MAX_FINAL_READS if until_empty else 1):
            try:
                data = os.read(reader, MAX_LINE_BYTES)
            except OSError:  # nothing there now
                return
            if not data:  # all other ends are closed
                with contextlib.suppress(KeyError):
                    self._selector.unregister(reader)
                return
            *lines, stream.partial = (stream.partial + data).split(b"\n")
            for line in lines:
                _write_line(stream, line)
            # a line without an end must not fill the memory
            if len(stream.partial) > MAX_LINE_BYTES:
                _write_line(stream, stream.partial)
                stream.partial = b""


def _write_line(stream: _Stream, line: bytes) -> None:
    if is_noise(line) and not stream.show_noise:
        return
    # a progress bar draws over itself: what a terminal would show in the end
    shown = line.rstrip(b"\r").rpartition(b"\r")[2]
    with contextlib.suppress(OSError):  # the reader of our output is gone
        write_all(stream.target, stream.prefix + shown + b"\n")


def write_all(target: int, data: bytes) -> None:
    """Write all of `data` to a file descriptor, which may take it in pieces."""
    while data:
        data = data[os.write(target, data):]
