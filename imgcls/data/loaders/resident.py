"""Batches of data that fit in memory: decoded once, kept as uint8 on the device, cut, augmented and normalised there.

Several batches are made at a time. It starts no threads and has nothing to wait for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from imgcls.config.sections import AugmentConfig
from imgcls.data import augment, order
from imgcls.data.loaders.batch import Batch
from imgcls.data.sources import ArraySource
from imgcls.errors import UsageError

#: images that are gathered and normalised at a time; larger pieces fall out of the cache
_PIECE = 2048


class ResidentLoader:
    """Batches of an ArraySource that lives on the device. The last batch of an epoch may be smaller: nothing is
    dropped and nothing comes twice."""

    def __init__(self, source: ArraySource, *, batch_size: int, image_shape: Sequence[int],
                 augment_config: AugmentConfig, train: bool, seed: int, device: torch.device,
                 shard: order.Shard = order.NO_SHARD) -> None:
        if not len(source):
            raise UsageError(f"{source.description}: holds no images")
        self._count, self._shard = len(source), shard
        self.num_samples, self.batch_size = len(shard.of_epoch(np.arange(self._count))), batch_size
        self.batches_per_epoch = -(-self.num_samples // batch_size)
        self.seconds = 0.0
        self.note = ""
        self._config, self._train, self._seed, self._device = augment_config, train, seed, device
        self._labels = torch.from_numpy(np.ascontiguousarray(source.labels, dtype=np.int64)).to(device)
        images = torch.from_numpy(np.ascontiguousarray(source.images)).to(device)
        self._flat = images.ndim != 4 or len(image_shape) != 3
        if self._flat:
            images = images.reshape(self._count, 1, -1, 1)  # one row of grey pixels: flattened again when cut
            shape = (1, 1, images.shape[2])
        else:
            images = images.permute(0, 2, 3, 1).contiguous()
            images, self.note = augment.fit(images, augment_config, image_shape, train)
            shape = tuple(image_shape)
        self._images = images.contiguous()
        self._crop = (shape[1], shape[2])
        pad = augment_config.pad_size if train and not self._flat else 0
        self._size = (images.shape[1] - 2 * pad, images.shape[2] - 2 * pad)
        self._whole = self._crop == tuple(images.shape[1:3]) and not (train and augment_config.random_mirror)
        self._normalize = augment.Normalizer(augment_config, images.shape[3], device)

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from `first_batch` on, the same whether or not those before it were taken."""
        samples = order.permutation(self._seed, epoch, self._count) if self._train else np.arange(self._count)
        samples = self._shard.of_epoch(samples)
        per_piece = max(_PIECE * self._shard.num_parts // self.batch_size, 1)
        first_piece = first_batch // per_piece
        for piece in range(first_piece, -(-self.batches_per_epoch // per_piece)):
            started = time.perf_counter()
            numbers = range(piece * per_piece, min((piece + 1) * per_piece, self.batches_per_epoch))
            chosen = [order.local_batch(samples, number, self.batch_size, self._shard) for number in numbers]
            images, labels = self._prepare(epoch, np.concatenate([own.indices for own in chosen]))
            sizes = [len(own.indices) for own in chosen]
            batches = zip(numbers, chosen, images.split(sizes), labels.split(sizes), strict=True)
            self.seconds += time.perf_counter() - started
            for number, own, batch, batch_labels in batches:
                if number >= first_batch:
                    yield Batch(batch, batch_labels, own.num_valid, own.global_size)

    def _prepare(self, epoch: int, samples: np.ndarray) -> tuple[Tensor, Tensor]:
        """Gather, cut, mirror and normalise these samples: float32 (n, C, H, W), int64 (n,)."""
        index = torch.from_numpy(samples).to(self._device)
        if self._whole:
            pixels = self._images.index_select(0, index)
        else:
            geometry = augment.plan(self._config, self._seed, epoch, samples, self._size, self._crop, self._train)
            pixels = augment.cut(self._images, index, geometry, self._crop)
        images = self._normalize(pixels) if pixels.dtype == torch.uint8 else pixels.permute(0, 3, 1, 2).float()
        return (images.flatten(1) if self._flat else images), self._labels.index_select(0, index)
