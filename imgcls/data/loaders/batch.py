"""What a loader yields to the trainer: a `Batch` on the device; and the interface of every loader."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from imgcls.data import order


@dataclass(frozen=True)
class Batch:
    """float32 `images` (n, C, H, W) normalised, or flat rows (n, values); int64 `labels` (n,); and how many
    of the n are not padding.

    `global_size` counts the samples that all processes together have in this batch, damaged ones included:
    a sum over the valid samples divided by `global_size` adds up to the mean.
    """

    images: Tensor
    labels: Tensor
    num_valid: int
    global_size: int
    #: int64 (num_valid,): the row of the image that each is to be mixed with; None where nothing is mixed
    partners: Tensor | None = None
    #: int64 (n,) of images that were mixed: the labels of the second parts; `share` is the part of the first
    other_labels: Tensor | None = None
    share: float = 1.0

    def without_padding(self) -> Batch:
        """Return the rows that count."""
        rows = slice(self.num_valid)
        other_labels = None if self.other_labels is None else self.other_labels[rows]
        return replace(self, images=self.images[rows], labels=self.labels[rows], other_labels=other_labels)

    def micro_batches(self, count: int) -> Iterator[Batch]:
        """Yield the batch in `count` parts, cut as `order.Shard` cuts it for as many processes."""
        if count == 1:
            yield self
            return
        for index in range(count):
            first, end = order.Shard(index, count).bounds(self.num_valid)
            # an empty part keeps one sample that does not count, as an empty shard does (`order.local_batch`)
            rows = slice(first, max(end, first + 1)) if first < self.num_valid else slice(0, 1)
            other_labels = None if self.other_labels is None else self.other_labels[rows]
            yield Batch(self.images[rows], self.labels[rows], end - first, self.global_size,
                        other_labels=other_labels, share=self.share)


#: what is done to a batch on the device: (batch, epoch, number of the batch in it) -> batch
BatchTransform = Callable[[Batch, int, int], Batch]


def rows_to_mix(partners: np.ndarray | None, num_valid: int, device: torch.device) -> Tensor | None:
    """Return `partners` for a `Batch`, None where there are none."""
    return torch.from_numpy(partners).to(device) if partners is not None and num_valid else None


class Loader(Protocol):
    """What the trainer needs: sizes, and the batches of an epoch from a given batch on."""

    #: samples of an epoch: of all processes, or of this one where its shard is independent
    num_samples: int
    #: over all processes
    batch_size: int
    batches_per_epoch: int
    #: seconds spent so far in preparing batches, to tell a slow disk from a slow network
    seconds: float
    #: what had to be done to the images to make them fit, or ""
    note: str

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]: ...
