"""Finished crops of a validation set: the crop of an image is the same there in every epoch.

The first images of the set are kept, as many as fit. A batch of kept images alone is filled by one copy. The
tables are in shared memory, the pixels behind them or in a file (`stores`).
"""

from __future__ import annotations

import numpy as np

from imgcls.data.decoded.pixel_file import PixelFile
from imgcls.data.decoded.segment import HEADER_BYTES, Segment
from imgcls.data.decoded.stores import DiskStore, MemoryStore, Store

#: states of a row
_KEPT, _KEPT_ENLARGED = 1, 2


def table_bytes(num_samples: int) -> int:
    """Return how many bytes the header and the table of a set take in a segment, beside the pixels."""
    return HEADER_BYTES + num_samples + -num_samples % HEADER_BYTES


def disk_table_bytes(num_samples: int) -> tuple[int, int]:
    """Return the same where the pixels are on a disk, and how many of these bytes are saved to a file: those
    behind the header."""
    table = table_bytes(num_samples) + 8 * num_samples
    return table, table - HEADER_BYTES


class CropCache:
    """uint8 (H, W, C) of the first samples of a set, by number, for many threads and processes."""

    def __init__(self, segment: Segment, num_samples: int, shape: tuple[int, int, int],
                 file: PixelFile | None = None, limit: int = 0) -> None:
        """`shape` is (H, W, C). Keep pixels in the rest of `segment`, or in `limit` bytes of `file`."""
        self._segment = segment
        self._row_bytes = shape[0] * shape[1] * shape[2]
        end = table_bytes(num_samples)
        self._store: Store = MemoryStore(segment, end)
        if file:
            sums = segment.bytes[end:end + 8 * num_samples].view(np.uint64)
            self._store = DiskStore(file, limit, sums)
        #: only samples with a number below it can be kept
        self.capacity = max(min(num_samples, (self._store.end - self._store.begin) // self._row_bytes), 0)
        self._states = segment.bytes[HEADER_BYTES:HEADER_BYTES + num_samples]

    @property
    def num_images(self) -> int:
        """How many crops are kept so far."""
        return int(np.count_nonzero(self._states))

    def fill(self, indices: np.ndarray, rows: np.ndarray, enlarged: np.ndarray) -> np.ndarray:
        """Fill those of `rows`, uint8 (n, H, W, C), and `enlarged`, bool (n,), whose samples are kept.

        Returns which they are, bool (n,).
        """
        first, last = int(indices[0]), int(indices[-1])
        # nearly always: nothing is shuffled, and all are kept
        if 0 <= last - first == len(indices) - 1 and last < self.capacity and (
                indices[1:] > indices[:-1]).all() and (states := self._states[first:last + 1]).all() and (
                self._read(first, rows)):
            enlarged[:] = states == _KEPT_ENLARGED
            return np.ones(len(indices), bool)
        # a batch with a damaged image, or with one beyond the capacity
        filled = np.zeros(len(indices), bool)
        for i, index in enumerate(indices.tolist()):
            if index < self.capacity and (state := self._states.item(index)):
                filled[i] = self._read(index, rows[i:i + 1])
                enlarged[i] = state == _KEPT_ENLARGED
        return filled

    def put(self, index: int, row: np.ndarray, *, is_enlarged: bool) -> None:
        """Keep the finished crop of a sample, if its number is below the capacity."""
        if index < self.capacity and not self._states[index] and self._store.write(
                index, self._offset(index), row):
            with self._segment.locked():  # other processors see the row before the state
                self._states[index] = _KEPT_ENLARGED if is_enlarged else _KEPT
                self._segment.note_change()

    def recover(self, num_bytes: int) -> None:
        """Use a table that was read from a file, for `num_bytes` of pixels; drop entries without pixels."""
        states = self._states
        # rows are stored by number: those behind the end of the file are not there
        num_there = min((num_bytes - self._store.begin) // self._row_bytes, self.capacity)
        states[max(num_there, 0):] = 0
        states[states > _KEPT_ENLARGED] = 0

    @property
    def used_bytes(self) -> int:
        """Where the last kept crop ends, in bytes; 0 where none is kept."""
        kept = np.flatnonzero(self._states)
        return self._offset(int(kept[-1]) + 1) if len(kept) else 0

    def _offset(self, index: int) -> int:
        return self._store.begin + index * self._row_bytes

    def _read(self, first: int, rows: np.ndarray) -> bool:
        """Fill `rows` from the samples first .. first + n - 1; False where one of them is gone.

        A single sample that is gone is then no longer counted as kept.
        """
        if self._store.read_many(first, self._offset(first), rows):
            return True
        # of many it is not known which one is gone: `fill` then reads each alone
        if len(rows) == 1:
            with self._segment.locked():
                self._states[first] = 0
                self._segment.note_change()
        return False
