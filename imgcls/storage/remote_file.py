"""Read a remote file where it is: as a stream that runs ahead of its reader, without a copy on the disk.

`formats/archives` and `data/` read archives and shards so that are larger than any disk. What is read in
order comes in parts of 8 MB, several at a time; what is far from the place before is asked for on its own.
Memory holds no more than the parts that are under way.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any

from imgcls.errors import DataError
from imgcls.storage.remote import PART_BYTES, PARTS_AT_ONCE, FileInfo, RemotePath
from imgcls.storage.thread_pool import DaemonPool

#: what is nearer than this is read through: skipping it would cost a round trip, in which as much arrives
SKIP_BYTES = 2 << 20
#: what is asked for at a place far from the one before: a header, and what may stand behind it
_SINGLE_BYTES = 64 << 10


class RemoteFile(io.RawIOBase):
    """A remote file as a binary stream for one thread; `read` gives all that was requested, up to the end.

    Each request is tried several times, from where it broke. A RunError or DataError where it fails for good.
    """

    def __init__(self, path: RemotePath) -> None:
        """Ask for the size; FileNotFoundError where there is no such file."""
        self.path = path
        self.info: FileInfo = path.stat()
        self._position = 0
        #: the byte behind what was read last
        self._last_end = 0
        #: bytes that were asked for on their own, and where they begin
        self._single = (0, b"")
        self._parts: dict[int, Future[bytes]] = {}
        #: how many parts are under way: it doubles as long as parts follow one another
        self._num_ahead = 1
        self._pool: DaemonPool | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True: any place can be asked for."""
        return True

    def tell(self) -> int:
        """Return the byte that is read next."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte, as of any file. Nothing is requested."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.info.size}[whence]
        if base + offset < 0:
            raise ValueError(f"byte {base + offset} is before the beginning")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, but for what is behind the end; return the number of bytes."""
        target = memoryview(buffer).cast("B")
        begin = self._position
        end = min(begin + len(target), self.info.size)
        filled = 0
        while begin + filled < end:
            piece = self._bytes_at(begin + filled, end)
            target[filled:filled + len(piece)] = piece
            filled += len(piece)
        self._position = self._last_end = max(begin, end) if filled else begin
        return filled

    def close(self) -> None:
        """Drop what is under way."""
        if self._pool:
            self._pool.close(wait=False)
            self._pool = None
        self._parts.clear()
        super().close()

    def _bytes_at(self, begin: int, end: int) -> memoryview:
        """Return bytes from `begin` on, `end` at most; fewer where they stand in several parts."""
        first, data = self._single
        if first <= begin < first + len(data):
            return memoryview(data)[begin - first:end - first]
        # a jump backwards is none to be near: those parts are gone
        number = begin // PART_BYTES
        is_near = 0 <= begin - self._last_end <= SKIP_BYTES
        if number not in self._parts and not is_near:
            last = min(max(end, begin + _SINGLE_BYTES), self.info.size)
            self._single = (begin, read_range(self.path, begin, last))
            return memoryview(self._single[1])[:end - begin]
        first = number * PART_BYTES
        return memoryview(self._part(number))[begin - first:end - first]

    def _part(self, number: int) -> bytes:
        """Return a part, and have those behind it fetched."""
        if number not in self._parts:
            self._num_ahead = 1
        # those behind us are not read again
        for old in [part for part in self._parts if part < number]:
            del self._parts[old]
            self._num_ahead = min(2 * self._num_ahead, PARTS_AT_ONCE)
        # one part at first: where the reader jumps on, the others would have come for nothing
        num_parts = -(-self.info.size // PART_BYTES)
        self._pool = self._pool or DaemonPool(PARTS_AT_ONCE, "imgcls-stream")
        for part in range(number, min(number + self._num_ahead, num_parts)):
            if part not in self._parts:
                begin = part * PART_BYTES
                self._parts[part] = self._pool.submit(
                    read_range, self.path, begin, min(begin + PART_BYTES, self.info.size))
        return self._parts[number].result()


def read_range(path: RemotePath, begin: int, end: int) -> bytes:
    """Return bytes begin .. end - 1 of a file that was there; a DataError where it is there no longer."""
    try:
        pieces = [path.read_range(start, min(start + PART_BYTES, end))
                  for start in range(begin, end, PART_BYTES)]
    except FileNotFoundError as error:
        raise DataError(path, "is there no longer") from error
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def check_unchanged(files: Iterable[tuple[RemotePath, str]]) -> None:
    """Raise a DataError where one of (file, version) is another by now: what was read would be of both."""
    for path, version in files:
        now = path.info(fresh=True)
        if now is None or now.version != version:
            raise DataError(path, "changed while it was read")
