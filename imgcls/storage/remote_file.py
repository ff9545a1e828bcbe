"""Read a remote file where it is: as a stream that runs ahead of its reader, without a copy on the disk.

This is how `formats/archives` and `data/` read archives and shards that are larger than the disk. What is
read in order comes in parts of 8 MB, several at a time; what is far from the last position is requested on
its own. Memory holds no more than the parts that are under way.
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

#: a gap smaller than this is read through: skipping it would cost a round trip, in which as much arrives
SKIP_BYTES = 2 << 20
#: size of a request far from the last position: a header, and what may come after it
_SINGLE_BYTES = 64 << 10


class RemoteFile(io.RawIOBase):
    """A remote file as a binary stream for one thread; `read` returns all that was requested, up to the end.

    Each request is tried several times, from where it broke. A RunError or DataError where it fails for good.
    """

    def __init__(self, path: RemotePath) -> None:
        """Request the size; FileNotFoundError where there is no such file."""
        self.path = path
        self.info: FileInfo = path.stat()
        self._position = 0
        #: the byte behind what was read last
        self._last_end = 0
        #: bytes that were requested on their own, and where they begin
        self._single = (0, b"")
        self._parts: dict[int, Future[bytes]] = {}
        #: how many parts are under way: it doubles as long as parts follow one another
        self._num_ahead = 1
        self._pool: DaemonPool | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True: any position can be requested."""
        return True

    def tell(self) -> int:
        """Return the number of the byte that is read next."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position, as in any file, and return it. Nothing is requested."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.info.size}[whence]
        if base + offset < 0:
            raise ValueError(f"byte {base + offset} is before the beginning")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as the file goes; return the number of bytes."""
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
        """Return bytes begin .. end - 1, or only the first of them where they are in several parts."""
        first, data = self._single
        if first <= begin < first + len(data):
            return memoryview(data)[begin - first:end - first]
        # a jump backwards never counts as near: those parts were dropped
        number = begin // PART_BYTES
        is_near = 0 <= begin - self._last_end <= SKIP_BYTES
        if number not in self._parts and not is_near:
            last = min(max(end, begin + _SINGLE_BYTES), self.info.size)
            self._single = (begin, read_range(self.path, begin, last))
            return memoryview(self._single[1])[:end - begin]
        first = number * PART_BYTES
        return memoryview(self._part(number))[begin - first:end - first]

    def _part(self, number: int) -> bytes:
        """Return a part, and begin to fetch those after it."""
        if number not in self._parts:
            self._num_ahead = 1
        # the parts before it are not read again
        for old in [part for part in self._parts if part < number]:
            del self._parts[old]
            self._num_ahead = min(2 * self._num_ahead, PARTS_AT_ONCE)
        # one part at first: where the reader jumps again, the others would be fetched for nothing
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
    """Raise DataError where a file no longer has its version: what was read may be of two versions."""
    for path, version in files:
        now = path.info(fresh=True)
        if now is None or now.version != version:
            raise DataError(path, "changed while it was read")
