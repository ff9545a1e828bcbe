"""Where the pixels of a decoded cache are: in the segment behind its tables, or in a file on a disk.

The caches number their places, and a store reads and writes the pixels of a place. What is read from a file
is always compared with a checksum of what was written: disks lose bytes, and people change files, also while
a run reads.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from imgcls.data.decoded.pixel_file import PixelFile
from imgcls.data.decoded.segment import Segment

#: words of a row in a checksum: no power of two, so that pages of a file that changed places are noticed
_SUM_WORDS = 509
_WEIGHTS = np.arange(1, 2 * _SUM_WORDS, 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
#: in a file nothing is at 0, which in the tables means nowhere
_FILE_BEGIN = 64


class Store(Protocol):
    """Pixels by the number of their place, for many threads and processes."""

    #: pixels are from the byte `begin` to before the byte `end`
    begin: int
    end: int

    def write(self, number: int, offset: int, pixels: np.ndarray) -> bool:
        """Write the C-contiguous uint8 pixels of a place; False where there is no room for them."""
        ...

    def read(self, number: int, offset: int, shape: tuple[int, ...]) -> np.ndarray | None:
        """Return the pixels of a place, uint8 `shape`; None where they are no longer there.

        Valid until this thread reads again.
        """
        ...

    def read_many(self, first: int, offset: int, pixels: np.ndarray) -> bool:
        """Fill uint8 (n, H, W, C) from the places first .. first + n - 1; False where one is not there."""
        ...


class MemoryStore:
    """The bytes of a segment from `begin` on."""

    def __init__(self, segment: Segment, begin: int) -> None:
        self._segment = segment
        self.begin = begin
        self.end = segment.size

    def write(self, number: int, offset: int, pixels: np.ndarray) -> bool:
        """See `Store`."""
        return self._segment.write(offset, pixels)

    def read(self, number: int, offset: int, shape: tuple[int, ...]) -> np.ndarray:
        """Return a view of them."""
        height, width, channels = shape
        return self._segment.bytes[offset:offset + height * width * channels].reshape(shape)

    def read_many(self, first: int, offset: int, pixels: np.ndarray) -> bool:
        """See `Store`."""
        pixels.reshape(-1)[:] = self._segment.bytes[offset:offset + pixels.size]
        return True


class DiskStore:
    """A file of at most `end` bytes, and a checksum of each place."""

    begin = _FILE_BEGIN

    def __init__(self, file: PixelFile, end: int, sums: np.ndarray) -> None:
        """`sums`, uint64, has a number for each place; processes share it."""
        self._file = file
        self.end = end
        self._sums = sums

    def write(self, number: int, offset: int, pixels: np.ndarray) -> bool:
        """See `Store`."""
        # first: a process that finds the place in the tables must find its checksum
        self._sums[number] = checksum(pixels)
        return self._file.write(offset, pixels)

    def read(self, number: int, offset: int, shape: tuple[int, ...]) -> np.ndarray | None:
        """See `Store`."""
        pixels = self._file.read(offset, shape)
        return pixels if pixels is not None and checksum(pixels) == int(self._sums[number]) else None

    def read_many(self, first: int, offset: int, pixels: np.ndarray) -> bool:
        """See `Store`."""
        return self._file.read_into(pixels, offset) and all(
            checksum(row) == int(self._sums[first + i]) for i, row in enumerate(pixels))


def checksum(pixels: np.ndarray) -> int:
    """Return 64 bits that tell whether C-contiguous uint8 pixels are those that were written.

    Sums of words of 8 bytes, a hundredth of a decoder's time: against broken disks and half-written pages,
    not against an attacker.
    """
    flat = pixels.reshape(-1)
    end = len(flat) // (8 * _SUM_WORDS) * (8 * _SUM_WORDS)
    # the last row, filled up: an image has any number of bytes
    rest = np.zeros(8 * _SUM_WORDS, np.uint8)
    rest[:len(flat) - end] = flat[end:]
    sums = flat[:end].view(np.uint64).reshape(-1, _SUM_WORDS).sum(0, dtype=np.uint64)
    sums += rest.view(np.uint64)
    return int(np.dot(sums, _WEIGHTS)) ^ len(flat)
