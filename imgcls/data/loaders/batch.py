"""What a loader hands to the trainer: a `Batch` on the device; and what every loader offers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from imgcls.data import order


@dataclass(frozen=True)
class Batch:
    """float32 `images` (n, C, H, W) normalised, int64 `labels` (n,), and how many of the n are not padding.

    `global_size` counts the samples that all processes together have in this batch, damaged ones included:
    a sum over the valid samples divided by `global_size` adds up to the mean.
    """

    images: Tensor
    labels: Tensor
    num_valid: int
    global_size: int

    def micro_batches(self, count: int) -> Iterator[Batch]:
        """Yield the batch in `count` parts, cut as `order.Shard` cuts it for as many processes."""
        if count == 1:
            yield self
            return
        for index in range(count):
            first, end = order.Shard(index, count).bounds(self.num_valid)
            # an empty part keeps one sample that does not count, as an empty shard does (`order.local_batch`)
            rows = slice(first, max(end, first + 1)) if first < self.num_valid else slice(0, 1)
            yield Batch(self.images[rows], self.labels[rows], end - first, self.global_size)


class Loader(Protocol):
    """What the trainer needs: sizes, and the batches of an epoch from a given batch on."""

    #: samples of an epoch: of all processes, or of this one where its shard is independent
    num_samples: int
    #: over all processes
    batch_size: int
    batches_per_epoch: int
    #: seconds spent so far in getting batches ready, to tell a slow disk from a slow network
    seconds: float
    #: what had to be done to the images to make them fit, or ""
    note: str

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]: ...
