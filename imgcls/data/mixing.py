"""Mixup and CutMix: each image of a batch is mixed with the one before it, on the device.

Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", and Yun et al. 2019, "CutMix: Regularization
Strategy to Train Strong Classifiers", as torchvision has them: one draw for a batch, and its images in their
order are mixed with the same images shifted by one. Which of the two methods, and how much of each image, is
a function of (seed, epoch, batch). A loader with a `Shard` that `has_partners` gives a process the one image
more that it needs. Called by the trainer.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from torch import Tensor

from imgcls.config.flags import show
from imgcls.config.sections import RegularizationConfig
from imgcls.data import order
from imgcls.data.loaders.batch import Batch
from imgcls.errors import UsageError

#: tries of a gamma number that are drawn at once; at most one in twenty is rejected: one is always accepted
_MAX_TRIES = 16


class Mix(NamedTuple):
    """How a batch is mixed: the first image's part of each, and the box (top, left, bottom, right) of the
    other one that CutMix pastes into it; None for mixup, which blends all of it."""

    share: float
    box: tuple[int, int, int, int] | None


class Mixing:
    """Mixes batches as `mixup` and `cutmix` say: with both, a batch has the one or the other."""

    def __init__(self, config: RegularizationConfig, seed: int) -> None:
        self._mixup = config.mixup
        self._cutmix = config.cutmix
        self._seed = seed

    def __call__(self, batch: Batch, epoch: int, batch_index: int) -> Batch:
        """Return batch `batch_index` of an epoch with mixed images and the labels of both parts.

        A batch without partners stays as it is, such as that of a process with nothing of a small batch.
        """
        if batch.partners is None:
            return batch
        count = batch.num_valid
        height, width = batch.images.shape[2:] if batch.images.ndim == 4 else (1, 1)
        mix = self.draw(epoch, batch_index, (height, width))
        if mix.box is None:
            images = batch.images[:count].lerp(_take(batch.images, batch.partners), 1 - mix.share)
        else:
            top, left, bottom, right = mix.box
            # copied: a loader may give the same memory again
            images = batch.images[:count].clone()
            images[:, :, top:bottom, left:right] = _take(
                batch.images[:, :, top:bottom, left:right], batch.partners)
        return dataclasses.replace(batch, images=images, labels=batch.labels[:count], partners=None,
                                   other_labels=batch.labels[batch.partners], share=mix.share)

    def draw(self, epoch: int, batch_index: int, size: tuple[int, int]) -> Mix:
        """Return how a batch of images of this (height, width) is mixed."""
        draws = order.Draws(self._seed, epoch, np.array([batch_index]))
        which, row, column, *numbers = draws.uniform(order.MIX, 3 + _NUM_BETA)[:, 0].tolist()
        is_mixup = which < 0.5 if self._mixup and self._cutmix else bool(self._mixup)
        share = beta(self._mixup if is_mixup else self._cutmix, np.array(numbers))
        if is_mixup:
            return Mix(share, None)
        # torchvision's box: around any pixel, cut off at the border; what is left of it counts
        height, width = size
        half = 0.5 * np.sqrt(1 - share)
        half_height, half_width = int(half * height), int(half * width)
        y, x = int(row * height), int(column * width)
        top, bottom = max(y - half_height, 0), min(y + half_height, height)
        left, right = max(x - half_width, 0), min(x + half_width, width)
        return Mix(1 - (bottom - top) * (right - left) / (height * width), (top, left, bottom, right))


def make_mixing(config: RegularizationConfig, image_shape: tuple[int, ...], seed: int) -> Mixing | None:
    """Return what mixes the batches of a run, None where nothing is mixed.

    UsageError for `cutmix` on data that are no images.
    """
    if config.cutmix and len(image_shape) != 3:
        raise UsageError(f"`cutmix` {config.cutmix:g}: needs images, and `image_shape` "
                         f"{show(image_shape)} is of flat rows; `mixup` is for these too")
    return Mixing(config, seed) if config.mixup or config.cutmix else None


def _take(images: Tensor, rows: Tensor) -> Tensor:
    """Return `rows` of (n, C, H, W) in channels_last memory, or of (n, values)."""
    if images.ndim != 4:
        return images.index_select(0, rows)
    # by whole pixels, as they lie in memory: torch would bring the channels into another order first
    return images.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)


#: uniform numbers that `beta` takes: two gamma numbers, with three a try and one more each
_NUM_BETA = 2 * (3 * _MAX_TRIES + 1)


def beta(alpha: float, uniform: np.ndarray) -> float:
    """Return a number of the distribution Beta(alpha, alpha) from `_NUM_BETA` uniform ones in [0, 1)."""
    first, second = (_log_gamma(alpha, numbers) for numbers in uniform.reshape(2, -1))
    # a quotient of logarithms: with a small alpha both numbers may be too small for a float
    return float(1 / (1 + np.exp(np.clip(second - first, -700, 700))))


def _log_gamma(shape: float, uniform: np.ndarray) -> float:
    """Return the logarithm of a number of Gamma(shape, 1) (Marsaglia and Tsang 2000)."""
    boost, (first, second, accept) = uniform[0], uniform[1:].reshape(3, -1)
    # Box and Muller 1958; 1 - u is in (0, 1], so no logarithm of 0 is taken
    normal = np.sqrt(-2 * np.log(1 - first)) * np.cos(2 * np.pi * second)
    d = (shape + 1 if shape < 1 else shape) - 1 / 3
    v = (1 + normal / np.sqrt(9 * d)) ** 3
    log_v = np.log(np.maximum(v, 1e-300))
    fits = (v > 0) & (np.log(1 - accept) < 0.5 * normal ** 2 + d - d * v + d * log_v)
    log_gamma = float(np.log(d) + log_v[fits.argmax()])
    # Gamma(shape) from Gamma(shape + 1), their method for a shape below 1
    return log_gamma + float(np.log(1 - boost)) / shape if shape < 1 else log_gamma
