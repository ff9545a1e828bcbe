"""A batch in the memory of the host, and the buffers that batches are written into."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from imgcls.data.order import LocalBatch
from imgcls.errors import DataError


@dataclass
class HostBatch:
    """A batch as bytes: `pixels` uint8 (n, H, W, C), RGB, of the samples `indices` int64 (n,).

    Valid until its buffer is recycled, that is until the next batch is requested from the loader.
    """

    indices: np.ndarray
    #: int64 (n,): what augmentation is drawn for, and the rows to be mixed with (see `LocalBatch`)
    drawn: np.ndarray
    partners: np.ndarray | None
    pixels: torch.Tensor
    #: what `pixels` is the beginning of
    buffer: torch.Tensor
    #: how many of the n count: 0 where this process has nothing of a small batch
    num_valid: int
    #: how many samples all processes together have in the batch
    global_size: int
    #: bool (n,): which are mirrored, which were enlarged to hold the crop, and which are undamaged
    mirrored: np.ndarray
    enlarged: np.ndarray
    good: np.ndarray
    #: int64 (n, 4): the box of each that is erased on the device (`erasing`)
    erased: np.ndarray
    #: index of each damaged sample, and what is wrong with it
    problems: list[tuple[int, DataError]] = field(default_factory=list)


def host_batch(local: LocalBatch, buffer: torch.Tensor) -> HostBatch:
    """Return the batch of these samples in `buffer`; no row of it is filled yet."""
    count = len(local.indices)
    return HostBatch(local.indices, local.drawn, local.partners, buffer[:count], buffer, local.num_valid,
                     local.global_size, mirrored=np.zeros(count, bool),
                     enlarged=np.zeros(count, bool), good=np.ones(count, bool),
                     erased=np.zeros((count, 4), np.int64))


class BufferPool:
    """uint8 buffers of one shape, used again and again: memory does not grow, and is pinned only once."""

    def __init__(self, shape: tuple[int, ...], *, pinned: bool) -> None:
        """`pinned` memory is copied to a GPU in the background, but takes long to allocate."""
        self._shape = shape
        self._pinned = pinned
        self._free: list[torch.Tensor] = []

    @property
    def num_free(self) -> int:
        """How many buffers are free."""
        return len(self._free)

    def take(self, count: int) -> list[torch.Tensor]:
        """Return `count` buffers, which are the caller's until they are put back; allocate missing ones."""
        taken, self._free = self._free[:count], self._free[count:]
        while len(taken) < count:
            # not cleared: every row that is shown is written first
            taken.append(torch.empty(self._shape, dtype=torch.uint8, pin_memory=self._pinned))
        return taken

    def put_back(self, buffers: list[torch.Tensor]) -> None:
        """Keep these buffers for the next `take`."""
        self._free += buffers
