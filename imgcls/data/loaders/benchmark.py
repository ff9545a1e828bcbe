"""`benchmark` 1: noise in place of data, to measure the network alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from imgcls.data import order
from imgcls.data.loaders.batch import Batch


class BenchmarkLoader:
    """One batch of noise in [-1, 1) with random labels, again and again (MXNet: SyntheticDataIter)."""

    def __init__(self, *, num_samples: int, batch_size: int, image_shape: Sequence[int], num_classes: int,
                 seed: int, device: torch.device, shard: order.Shard = order.NO_SHARD) -> None:
        self.batch_size = batch_size
        self.seconds = 0.0
        self.note = ""
        self.batches_per_epoch = max(num_samples // batch_size, 1)
        self.num_samples = self.batches_per_epoch * batch_size  # full batches only, as MXNet counts them
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand((batch_size, *image_shape), generator=generator) * 2 - 1
        if images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)  # as the other loaders give them
        labels = torch.randint(num_classes, (batch_size,), generator=generator)
        local = order.local_batch(np.arange(batch_size), 0, batch_size, shard)
        images, labels = images[local.indices], labels[local.indices]
        self._batch = Batch(images.to(device), labels.to(device), local.num_valid, local.global_size)

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """Yield the same batch, `batches_per_epoch` times."""
        for _ in range(first_batch, self.batches_per_epoch):
            yield self._batch
