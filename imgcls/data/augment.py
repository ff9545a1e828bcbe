"""Augmentation and normalisation on the device, for batches of uint8 images that are all of one size.

What is drawn for a sample is a function of (seed, epoch, sample) (`order.py`); what is applied, in this order: border
of `--pad-size`, crop (`--random-crop` or the centre), mirror, then (x - mean) / std.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from imgcls.data import order
from imgcls.errors import UsageError
from imgcls.sections import AugmentConfig

# which draw of a sample decides what; never reorder, or old runs cannot be repeated
_ROW, _COLUMN, _MIRROR = 0, 1, 2


@dataclass(frozen=True)
class Geometry:
    """Where each of n samples is cut from the (padded) image: int64 arrays (n,); mirrored left to right or not."""

    top: np.ndarray
    left: np.ndarray
    mirror: np.ndarray


def plan(config: AugmentConfig, seed: int, epoch: int, samples: np.ndarray, size: tuple[int, int],
         crop: tuple[int, int], train: bool) -> Geometry:
    """The geometry of the given samples, images of `size` (H, W) before padding, cropped to `crop` (H, W)."""
    pad = config.pad_size if train else 0
    free = (size[0] + 2 * pad - crop[0], size[1] + 2 * pad - crop[1])
    if train and config.random_crop:
        top = order.integers(seed, epoch, samples, _ROW, free[0] + 1)
        left = order.integers(seed, epoch, samples, _COLUMN, free[1] + 1)
    else:
        top, left = (np.full(len(samples), room // 2) for room in free)
    if train and config.random_mirror:
        mirror = order.uniform(seed, epoch, samples, _MIRROR) < 0.5
    else:
        mirror = np.zeros(len(samples), bool)
    return Geometry(top, left, mirror)


def cut(images: Tensor, samples: Tensor, geometry: Geometry, crop: tuple[int, int]) -> Tensor:
    """Gather `samples` from uint8 or float (N, H, W, C) and cut and mirror each: one pass, (n, *crop, C)."""
    rows = np.arange(crop[0]) + geometry.top[:, None]
    columns = np.arange(crop[1]) + geometry.left[:, None]
    columns = np.where(geometry.mirror[:, None], columns[:, ::-1], columns)
    device = images.device
    return images[samples[:, None, None], torch.from_numpy(rows).to(device)[:, :, None],
                  torch.from_numpy(np.ascontiguousarray(columns)).to(device)[:, None, :]]


def fit(images: Tensor, config: AugmentConfig, shape: Sequence[int], train: bool) -> tuple[Tensor, str]:
    """Make whole sets fit the network's (C, H, W): channels by grey replication or luma, small images enlarged.

    Takes and returns (N, H, W, C); the border of --pad-size is laid here, once. The text says what was done, or "".
    """
    channels, height, width = shape
    done = []
    if images.shape[3] != channels:
        images = _to_channels(images, channels)
        done.append(f"converted to {channels} channel{'s' * (channels > 1)}")
    pad = config.pad_size if train else 0
    if images.shape[1] + 2 * pad < height or images.shape[2] + 2 * pad < width:
        scale = max((height - 2 * pad) / images.shape[1], (width - 2 * pad) / images.shape[2])
        size = [max(round(images.shape[1] * scale), height - 2 * pad), max(round(images.shape[2] * scale), width - 2 * pad)]
        done.append(f"enlarged from {images.shape[1]}x{images.shape[2]} to {size[0]}x{size[1]} to hold the crop")
        images = _enlarge(images, size)
    if pad:
        images = F.pad(images, (0, 0, pad, pad, pad, pad), value=config.fill_value)
    return images, ", ".join(done)


class Normalizer:
    """(x - mean) / std per channel, uint8 (n, H, W, C) -> float32 (n, C, H, W) in channels_last memory."""

    def __init__(self, config: AugmentConfig, channels: int, device: torch.device) -> None:
        mean, std = (per_channel(values, channels, name) for name, values in (
            ("--rgb-mean", config.rgb_mean), ("--rgb-std", config.rgb_std)))
        if min(std) <= 0:
            raise UsageError(f"--rgb-std {','.join(map(str, config.rgb_std))}: must be above 0")
        self.mean = torch.tensor(mean, device=device) if any(mean) else None
        self.scale = torch.tensor([1 / s for s in std], device=device)
        if len(set(std)) == 1:
            self.scale = self.scale[0]  # one factor: a plain multiplication, and 1 is none at all
        self.scaled = any(s != 1 for s in std)

    def __call__(self, images: Tensor) -> Tensor:
        pixels = images.float()
        if self.mean is not None:
            pixels.sub_(self.mean)
        if self.scaled:
            pixels.mul_(self.scale)
        return pixels.permute(0, 3, 1, 2)


def per_channel(values: Sequence[float], channels: int, flag: str) -> list[float]:
    """One value for each channel: a single value is for all, three on a grey image are averaged."""
    if len(values) == channels:
        return list(values)
    if len(values) == 1:
        return list(values) * channels
    if channels == 1:
        return [sum(values) / len(values)]
    raise UsageError(f"{flag} {','.join(f'{v:g}' for v in values)}: needs 1 or {channels} values, one per channel")


def describe(config: AugmentConfig, shape: Sequence[int]) -> str:
    """The training augmentation in words, for the start-up summary."""
    parts = []
    if config.pad_size:
        parts.append(f"border {config.pad_size} of value {config.fill_value}")
    parts.append(f"{'random' if config.random_crop else 'centre'} crop {shape[1]}x{shape[2]}")
    if config.random_mirror:
        parts.append("random mirror")
    mean, std = (",".join(f"{v:g}" for v in values) for values in (config.rgb_mean, config.rgb_std))
    return ", ".join(parts) + f"; (x - {mean}) / {std}"


def _to_channels(images: Tensor, channels: int) -> Tensor:
    if images.shape[3] == 1:
        return images.expand(-1, -1, -1, channels).contiguous()
    if images.shape[3] == 3 and channels == 1:
        weights = torch.tensor([0.299, 0.587, 0.114], device=images.device)
        grey = torch.cat([(part.float() @ weights).round() for part in images.split(4096)])
        return grey.to(images.dtype)[..., None]
    raise UsageError(f"--image-shape: the images have {images.shape[3]} channels, the network wants {channels}")


def _enlarge(images: Tensor, size: list[int]) -> Tensor:
    parts = [F.interpolate(part.permute(0, 3, 1, 2).float(), size, mode="bilinear").permute(0, 2, 3, 1)
             for part in images.split(4096)]
    whole = torch.cat(parts)
    return (whole.round().clamp(0, 255).to(torch.uint8) if images.dtype == torch.uint8 else whole).contiguous()
