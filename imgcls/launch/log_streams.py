"""Output of an agent's workers: whole lines, told apart by rank, without what torch's insides say to themselves."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import threading
from dataclasses import dataclass, field

#: remarks of torch's C++ about connections, such as [rank1]:[W1120 21:18:11.185 socket.cpp:697] [c10d] ...
NOISE = re.compile(rb"^(\[rank\d+\]:)?\s*\[[IWEF]\d{3,4} .*\b(socket|TCPStore\w*|ProcessGroup\w*|NCCLUtils|"
                   rb"HeartbeatMonitor|FlightRecorder\w*|logger|reducer|Functional)\.[ch]pp:\d+\]|^frame #\d+: ")
#: a longer line is passed on in pieces
LONGEST_BYTES = 1 << 16


@dataclass
class _Stream:
    target: int
    prefix: bytes
    noisy: bool
    rest: bytes = b""


@dataclass
class Streams:
    """Pipes from workers to this process's own stdout (1) and stderr (2), emptied by a thread."""

    _streams: dict[int, _Stream] = field(default_factory=dict)
    _writers: list[int] = field(default_factory=list)
    _selector: selectors.DefaultSelector = field(default_factory=selectors.DefaultSelector)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def open(self, target: int, prefix: str, *, noisy: bool) -> str:
        """A path that a worker's output can be written to; it comes out at `target` with `prefix` before each line.

        With `noisy` nothing is left out.
        """
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        self._streams[reader] = _Stream(target, prefix.encode(), noisy)
        self._selector.register(reader, selectors.EVENT_READ)
        self._writers.append(writer)
        return f"/dev/fd/{writer}"

    def start(self) -> None:
        """The workers have their ends: give up ours, and begin to read."""
        for writer in self._writers:
            os.close(writer)
        self._writers.clear()
        if self._streams:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """The workers are gone: pass on what is left."""
        for writer in self._writers:
            os.close(writer)
        self._writers.clear()
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        self._selector.close()
        for reader in self._streams:
            os.close(reader)
        self._streams.clear()

    def _run(self) -> None:
        while not self._over.is_set():
            for key, _events in self._selector.select(timeout=0.2):
                self._read(key.fd)
            if not self._selector.get_map():
                self._over.wait()
        for reader, stream in self._streams.items():
            self._read(reader, until_empty=True)
            if stream.rest:
                self._write(stream, stream.rest)

    def _read(self, reader: int, *, until_empty: bool = False) -> None:
        stream = self._streams[reader]
        for _ in range(1 << 12 if until_empty else 1):
            try:
                data = os.read(reader, LONGEST_BYTES)
            except OSError:  # nothing there now
                return
            if not data:  # all other ends are closed
                with contextlib.suppress(KeyError):
                    self._selector.unregister(reader)
                return
            *lines, stream.rest = (stream.rest + data).split(b"\n")
            for line in lines:
                self._write(stream, line)
            if len(stream.rest) > LONGEST_BYTES:
                self._write(stream, stream.rest)
                stream.rest = b""

    def _write(self, stream: _Stream, line: bytes) -> None:
        if NOISE.match(line) and not stream.noisy:
            return
        # a progress bar draws over itself: what a terminal would show in the end
        shown = line.rstrip(b"\r").rpartition(b"\r")[2]
        with contextlib.suppress(OSError):  # whoever read us has left
            _write_all(stream.target, stream.prefix + shown + b"\n")


def _write_all(target: int, data: bytes) -> None:
    while data:
        data = data[os.write(target, data):]
