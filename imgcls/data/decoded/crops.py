"""Finished crops of a validation set: what becomes of an image there is the same in every epoch.

The first images of the set are kept, as many as there is room for. Where all of a batch are, it is one copy.
"""

from __future__ import annotations

import numpy as np

from imgcls.data.decoded.segment import HEADER_BYTES, Segment

#: states of a row
_KEPT, _KEPT_ENLARGED = 1, 2


def table_bytes(num_samples: int) -> int:
    """Return what the table of a set takes, beside the pixels."""
    return HEADER_BYTES + num_samples + -num_samples % HEADER_BYTES


class CropCache:
    """uint8 (H, W, C) of the first samples of a set, by number, for many threads and processes."""

    def __init__(self, segment: Segment, num_samples: int, shape: tuple[int, int, int]) -> None:
        """`shape` is (H, W, C)."""
        self._segment = segment
        self._row_bytes = shape[0] * shape[1] * shape[2]
        self._first = table_bytes(num_samples)
        #: samples with a number below it are kept
        self.capacity = max(min(num_samples, (segment.size - self._first) // self._row_bytes), 0)
        self._states = segment.bytes[HEADER_BYTES:HEADER_BYTES + self.capacity]
        rows = segment.bytes[self._first:self._first + self.capacity * self._row_bytes]
        self._rows = rows.reshape(self.capacity, *shape)

    @property
    def num_images(self) -> int:
        """How many crops are kept so far."""
        return int(np.count_nonzero(self._states))

    def fill(self, indices: np.ndarray, rows: np.ndarray, enlarged: np.ndarray) -> bool:
        """Fill `rows`, uint8 (n, H, W, C), and `enlarged`, bool (n,), if all of these samples are kept."""
        first, last = int(indices[0]), int(indices[-1])
        if last >= self.capacity or first > last:
            return False
        if last - first == len(indices) - 1 and (indices[1:] > indices[:-1]).all():
            states = self._states[first:last + 1]
            if not states.all():
                return False
            rows[:] = self._rows[first:last + 1]
        else:
            if indices.max() >= self.capacity or not (states := self._states[indices]).all():
                return False
            for row, index in zip(rows, indices.tolist(), strict=True):
                row[:] = self._rows[index]
        enlarged[:] = states == _KEPT_ENLARGED
        return True

    def put(self, index: int, row: np.ndarray, *, is_enlarged: bool) -> None:
        """Keep the finished crop of a sample, if it is one of those that are kept."""
        if index < self.capacity and not self._states[index] and self._segment.write(
                self._first + index * self._row_bytes, row):
            with self._segment.locked():  # other processors see the row before the state
                self._states[index] = _KEPT_ENLARGED if is_enlarged else _KEPT
