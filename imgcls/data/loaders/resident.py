"""Batches of data that fit in memory: kept as uint8 on the device, cut, augmented and normalised there.

The images of several batches are gathered at a time. It starts no threads and has nothing to wait for.
`make.py` decides which data it is for.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from imgcls.config.flags import show
from imgcls.config.sections import AugmentConfig
from imgcls.data import augment, order
from imgcls.data.crops import CropSampler
from imgcls.data.erasing import erase
from imgcls.data.loaders.batch import Batch, rows_to_mix
from imgcls.data.normalize import Normalizer
from imgcls.data.sampling import EACH_ONCE, Sampling
from imgcls.data.sources import ArraySource
from imgcls.errors import UsageError, verbatim

#: images that are gathered at a time: fewer need more calls, each of which takes time on a GPU; more do not
#: stay in a core's cache until the network reads them
_GROUP_IMAGES, _GROUP_IMAGES_ON_CPU = 2048, 512


class ResidentLoader:
    """Batches of an ArraySource whose arrays are on the device.

    The last batch of an epoch may be smaller: no sample is dropped and none comes twice, unless `sampling`
    says otherwise.
    """

    def __init__(self, source: ArraySource, *, batch_size: int, image_shape: Sequence[int],
                 augment_config: AugmentConfig, train: bool, seed: int, device: torch.device,
                 shard: order.Shard = order.NO_SHARD,
                 sampling: Sampling = EACH_ONCE) -> None:
        if not len(source):
            raise UsageError(f"{verbatim(source.description)}: holds no images")
        self._count = len(source)
        self._shard = shard
        self.num_samples = shard.num_of_epoch(self._count)
        self.batch_size = batch_size
        self.batches_per_epoch = -(-self.num_samples // batch_size)
        self.seconds = 0.0
        self.note = ""
        #: samples that were damaged when `source` was decoded, numbered as before, and are not in it
        self.bad_indices: list[int] = []
        self._train = train
        self._seed = seed
        self._device = device
        self._orders = sampling.orders(np.asarray(source.labels, np.int64), batch_size)
        # all labels and images go to the device once; an epoch copies nothing but indices
        self._labels = torch.from_numpy(np.ascontiguousarray(source.labels, dtype=np.int64)).to(device)
        images = torch.from_numpy(np.ascontiguousarray(source.images)).to(device)
        self._is_flat = images.ndim != 4 or len(image_shape) != 3
        if self._is_flat:
            num_values = math.prod(images.shape[1:])
            if math.prod(image_shape) != num_values:
                raise UsageError(f"`image_shape` {show(image_shape)}: the images of "
                                 f"{verbatim(source.description)} have {num_values} values")
            # Flat rows of numbers go through the same code as images of one row of grey pixels, and are
            # flattened again at the end. Of the augmentation only mirroring applies to them.
            images = images.reshape(self._count, 1, -1, 1)
            crop = (1, images.shape[2])
            augment_config = _only_mirror(augment_config)
        else:
            # channels last: a row of a crop is then one piece of memory
            images = images.permute(0, 2, 3, 1).contiguous()
            images, self.note = augment.fit_to_shape(images, augment_config, image_shape, train)
            crop = (image_shape[1], image_shape[2])
        self._images = images.contiguous()
        # checks the settings too: those that exclude each other are an error before the first batch
        self._crops = CropSampler(augment_config, crop, images.shape[3], seed=seed, train=train)
        pad = self._crops.pad
        self._size = (images.shape[1] - 2 * pad, images.shape[2] - 2 * pad)  # before the border
        mirrors = train and (augment_config.random_mirror or augment_config.alternating_mirror)
        self._is_identity = crop == tuple(images.shape[1:3]) and not mirrors
        self._normalize = Normalizer(augment_config, images.shape[3], device)

    def epoch_indices(self, epoch: int) -> np.ndarray:
        """Return int64 (N,): the samples of this shard in the order of the epoch (see `order.repeated`)."""
        if not self._train:
            return self._shard.of_epoch(np.arange(self._count))
        return self._shard.of_epoch(self._orders.permutation(self._seed, epoch, self._count))

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from `first_batch` on, whether those before were taken or not."""
        indices = self.epoch_indices(epoch)
        group_images = _GROUP_IMAGES_ON_CPU if self._device.type == "cpu" else _GROUP_IMAGES
        group_size = max(group_images * self._shard.parts_per_batch // self.batch_size, 1)
        # Groups begin at multiples of their size wherever the epoch is entered: a resumed run makes the
        # same calls as one that was not stopped, and so the same bits.
        for group in range(first_batch // group_size, -(-self.batches_per_epoch // group_size)):
            started = time.perf_counter()
            numbers = range(group * group_size, min((group + 1) * group_size, self.batches_per_epoch))
            local_batches = [order.local_batch(indices, number, self.batch_size, self._shard)
                             for number in numbers]
            images = self._prepare(epoch, [local.indices for local in local_batches],
                                   [local.drawn for local in local_batches])
            for number, local in zip(numbers, local_batches, strict=True):
                batch_images, batch_labels = next(images)
                self.seconds += time.perf_counter() - started
                if number >= first_batch:
                    yield Batch(batch_images, batch_labels, local.num_valid, local.global_size,
                                partners=rows_to_mix(local.partners, local.num_valid, self._device))
                started = time.perf_counter()

    def _prepare(self, epoch: int, indices: Sequence[np.ndarray], drawn: Sequence[np.ndarray],
                 ) -> Iterator[tuple[Tensor, Tensor]]:
        """Gather, cut, mirror and normalise the samples of some batches: float32 (n, C, H, W), int64 (n,) of
        each."""
        sizes = [len(part) for part in indices]
        on_device = torch.from_numpy(np.concatenate(indices)).to(self._device)
        all_drawn = np.concatenate(drawn)
        if self._is_identity:
            pixels = self._images.index_select(0, on_device)
        else:
            windows = self._crops.windows(epoch, all_drawn, self._size)
            pixels = augment.cut(self._images, on_device, windows, self._crops.crop)
        labels = self._labels.index_select(0, on_device).split(sizes)
        if self._device.type == "cpu":
            # One at a time, when it is requested: float32 takes four times the memory of bytes, and that of a
            # single batch is still in the core's cache when the network reads it, and is used again after it.
            images = map(self._finish, itertools.repeat(epoch), pixels.split(sizes), drawn)
        else:
            images = self._finish(epoch, pixels, all_drawn).split(sizes)
        return zip(images, labels, strict=False)

    def _finish(self, epoch: int, pixels: Tensor, drawn: np.ndarray) -> Tensor:
        """Return pixels (n, H, W, C) as the network takes them: normalised, erased, flattened if needed."""
        if pixels.dtype == torch.uint8:
            images = self._normalize(pixels)
        else:  # floats that the user passed: already as the network is to get them
            images = pixels.permute(0, 3, 1, 2).float()
        if (erased := self._crops.erased(epoch, drawn)) is not None:
            erase(images, erased)
        return images.flatten(1) if self._is_flat else images


def _only_mirror(config: AugmentConfig) -> AugmentConfig:
    return AugmentConfig(random_mirror=config.random_mirror, alternating_mirror=config.alternating_mirror,
                         rgb_mean=config.rgb_mean, rgb_std=config.rgb_std)
