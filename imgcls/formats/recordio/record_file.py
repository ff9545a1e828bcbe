"""The bytes of a record file: read by position, from any thread, and never mapped.

A mapped file that another process cuts short ends this one with SIGBUS, and no check before reading can
prevent it: the file may be cut between the two. A read that finds nothing is an error like any other.
Reading copies the bytes, where a mapping brings them in page by page; that costs some microseconds a record,
and decoding the image hundreds.
"""

from __future__ import annotations

import errno
import os
import weakref
from typing import BinaryIO

import numpy as np

from imgcls.errors import DataError, LostDataError, reason
from imgcls.storage.partial_copy import PartialCopy
from imgcls.storage.paths import AnyPath
from imgcls.storage.reading import open_read

#: bytes that are read at a time where headers stand closely: a system call costs as much as copying some kB
_SPAN_BYTES = 1 << 20
#: records farther apart than this have their headers read one by one
_FAR_APART_BYTES = 1 << 13


class RecordFile:
    """An open record file of `size` bytes. Fewer than that are a `LostDataError` when they are requested.

    As a sequence it is the file's whole 4-byte words, u32 little-endian: `file[3:5]`, `file.item(3)`.
    """

    def __init__(self, path: AnyPath, cache_gb: float | None = None, stream: BinaryIO | None = None,
                 partial: PartialCopy | None = None) -> None:
        """Open the file, of a URL the copy in the cache; a DataError where it cannot be opened.

        Or take over an open `stream` of a part of it, or a `partial` copy, whose bytes are fetched as they
        are read.
        """
        self.path = path
        self._partial = partial
        try:
            opened = stream or partial or open_read(path, cache_gb=cache_gb)
            status = os.fstat(opened.fileno())
        except OSError as error:
            raise DataError(path, reason(error)) from error
        # Readers have no `close`: the file is closed when this object is collected.
        if not isinstance(opened, PartialCopy):  # threads may still be writing into that
            weakref.finalize(self, opened.close)
        self._handle = opened.fileno()
        self.size = status.st_size
        self.mtime_ns = status.st_mtime_ns
        #: the path of the file that is read; "" for a copy without a name or a partial one: not cached then
        name = getattr(opened, "name", "")
        self.name = name if isinstance(name, str) else ""
        _make_room_for_handles(self._handle)

    def __len__(self) -> int:
        return self.size // 4

    def __getitem__(self, words: slice) -> np.ndarray:
        first, end, _ = words.indices(len(self))
        return np.frombuffer(self.read(4 * first, 4 * end), "<u4")

    @property
    def handle(self) -> int:
        """The number by which the system knows the open file."""
        return self._handle

    def item(self, i: int, /) -> int:
        """Return word `i`."""
        return int.from_bytes(self.read(4 * i, 4 * i + 4), "little")

    def read(self, begin: int, end: int) -> bytes:
        """Return bytes begin .. end - 1."""
        if self._partial is not None and not self._partial.is_complete:
            self._partial.require(begin, end)
        try:
            data = os.pread(self._handle, end - begin, begin)
            if len(data) == end - begin:
                return data
            # A signal may end a read early, and one of 2 GB and more always does.
            pieces = [data]
            position = begin + len(data)
            while position < end and (data := os.pread(self._handle, end - position, position)):
                pieces.append(data)
                position += len(data)
        except OSError as error:
            # a bad sector of the disk damages the record there; any other error (a lost server) is the file's
            kind = DataError if error.errno == errno.EIO else LostDataError
            raise kind(self.path, f"cannot be read: {reason(error)}", begin) from error
        if position < end:
            now = os.fstat(self._handle).st_size
            raise LostDataError(
                self.path, f"was cut while it was in use: it had {self.size} bytes and now has {now}", begin)
        return b"".join(pieces)

    def rows(self, word_index: np.ndarray, width: int) -> np.ndarray:
        """Return u32 (N, width): `width` words from each of these on; zeros behind the end of the file."""
        table = np.zeros((len(word_index), width), np.uint32)
        if not len(word_index):
            return table
        num_words = len(self)
        # Where the offsets are close together and in order, in spans; else one by one.
        is_rising = bool((word_index[1:] >= word_index[:-1]).all())
        span = 4 * int(word_index[-1] - word_index[0])
        if not is_rising or span > _FAR_APART_BYTES * len(word_index):
            for row, first in zip(table, word_index.tolist(), strict=True):
                words = self[first:first + width]
                row[:len(words)] = words
            return table
        first = 0
        while first < len(word_index):
            begin = word_index.item(first)
            end = int(np.searchsorted(word_index, begin + _SPAN_BYTES // 4, side="left"))
            last_word = min(word_index.item(end - 1) + width, num_words)
            words = np.zeros(word_index.item(end - 1) + width - begin, np.uint32)
            words[:max(last_word - begin, 0)] = self[begin:last_word]
            table[first:end] = words[(word_index[first:end] - begin)[:, None] + np.arange(width)]
            first = end
        return table


class FileView:
    """A `RecordFile` as the bytes that `framing.join_parts` walks through, each part read on request."""

    def __init__(self, file: RecordFile) -> None:
        self._file = file

    def __len__(self) -> int:
        return self._file.size

    def __getitem__(self, bytes_: slice) -> memoryview:
        first, end, _ = bytes_.indices(len(self))
        return memoryview(self._file.read(first, end))


def _make_room_for_handles(handle: int) -> None:
    """Raise the number of files that this process may have open, where a set of many parts uses up half."""
    try:
        import resource
    except ImportError:  # not on every system
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and 2 * handle > soft and soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
