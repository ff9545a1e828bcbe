"""Batches on the device, in the order of the epoch, from any position: the face that the trainer sees.

`ResidentLoader` is for data that fits in memory: decoded once, kept as uint8 on the device, cut, augmented and
normalised there for several batches at a time. It starts no threads and has nothing to wait for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from imgcls.config.sections import AugmentConfig
from imgcls.data import augment, order
from imgcls.data.sources import ArraySource
from imgcls.errors import UsageError

#: images that are gathered and normalised at a time; larger pieces fall out of the cache
_PIECE = 2048


@dataclass(frozen=True)
class Batch:
    """float32 `images` (n, C, H, W) normalised, int64 `labels` (n,), and how many of the n are not padding.

    `whole` counts the samples that all processes together have in this batch, damaged ones included: a sum over the
    valid samples divided by `whole` adds up to the mean.
    """

    images: Tensor
    labels: Tensor
    valid: int
    whole: int

    def pieces(self, count: int) -> Iterator[Batch]:
        """The batch in `count` pieces, cut as `order.Share` cuts it for as many processes."""
        if count == 1:
            yield self
            return
        for index in range(count):
            first, end = order.Share(index, count).bounds(self.valid)
            some = slice(first, max(end, first + 1)) if first < self.valid else slice(0, 1)
            yield Batch(self.images[some], self.labels[some], end - first, self.whole)


class Loader(Protocol):
    """What the trainer needs: sizes, and the batches of an epoch from a given batch on."""

    num_samples: int
    batch_size: int
    batches_per_epoch: int
    #: seconds spent so far in getting batches ready, to tell a slow disk from a slow network
    seconds: float
    #: what had to be done to the images to make them fit, or ""
    note: str

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]: ...


class ResidentLoader:
    """Batches of an ArraySource that lives on the device. The last batch of an epoch may be smaller: nothing is
    dropped and nothing comes twice."""

    def __init__(self, source: ArraySource, *, batch_size: int, image_shape: Sequence[int],
                 augment_config: AugmentConfig, train: bool, seed: int, device: torch.device,
                 share: order.Share = order.WHOLE) -> None:
        if not len(source):
            raise UsageError(f"{source.description}: holds no images")
        self._count, self._share = len(source), share
        self.num_samples, self.batch_size = len(share.of_epoch(np.arange(self._count))), batch_size
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
        samples = self._share.of_epoch(samples)
        per_piece = max(_PIECE * self._share.pieces // self.batch_size, 1)
        first_piece = first_batch // per_piece
        for piece in range(first_piece, -(-self.batches_per_epoch // per_piece)):
            started = time.perf_counter()
            numbers = range(piece * per_piece, min((piece + 1) * per_piece, self.batches_per_epoch))
            chosen = [order.own(samples, number, self.batch_size, self._share) for number in numbers]
            images, labels = self._prepare(epoch, np.concatenate([own.samples for own in chosen]))
            sizes = [len(own.samples) for own in chosen]
            batches = zip(numbers, chosen, images.split(sizes), labels.split(sizes), strict=True)
            self.seconds += time.perf_counter() - started
            for number, own, batch, batch_labels in batches:
                if number >= first_batch:
                    yield Batch(batch, batch_labels, own.valid, own.whole)

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


class BenchmarkLoader:
    """`--benchmark 1`: one batch of noise in [-1, 1) with random labels, again and again."""

    def __init__(self, *, num_samples: int, batch_size: int, image_shape: Sequence[int], num_classes: int, seed: int,
                 device: torch.device, share: order.Share = order.WHOLE) -> None:
        self.num_samples, self.batch_size, self.seconds, self.note = num_samples, batch_size, 0.0, ""
        self.batches_per_epoch = max(num_samples // batch_size, 1)
        self.num_samples = self.batches_per_epoch * batch_size
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand((batch_size, *image_shape), generator=generator) * 2 - 1
        if images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        labels = torch.randint(num_classes, (batch_size,), generator=generator)
        own = order.own(np.arange(batch_size), 0, batch_size, share)
        images, labels = images[own.samples], labels[own.samples]
        self._batch = Batch(images.to(device), labels.to(device), own.valid, own.whole)

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The same batch, batches_per_epoch times."""
        for _ in range(first_batch, self.batches_per_epoch):
            yield self._batch
