"""Augmentation of whole sets of images of one size, on the device; and a description of all augmentation.

`fit_to_shape` and `cut` serve the resident loader: where to cut is drawn by `crops.CropSampler`. Images of
many sizes are cut while they are decoded (`decode.py`). `describe` is for the summary at the start of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from imgcls.config.flags import show
from imgcls.config.sections import AugmentConfig
from imgcls.data.crops import Size, Windows, aspect_range
from imgcls.data.policies import describe_policy
from imgcls.errors import UsageError
from imgcls.storage import memory

#: images that are converted at a time: float32 copies of a whole set could be more than there is memory
_CHUNK = 4096
#: weights of red, green and blue in grey (ITU-R BT.601, as OpenCV and MXNet have them)
_LUMA = (0.299, 0.587, 0.114)


def cut(images: Tensor, indices: Tensor, windows: Windows, crop: Size) -> Tensor:
    """Return `indices` (n,) of uint8 or float (N, H, W, C), cut and mirrored in one pass: (n, *crop, C)."""
    # Advanced indexing with (n, 1, 1), (n, H, 1) and (n, 1, W): torch gathers sample, row and column at once.
    rows = np.arange(crop[0]) + windows.top[:, None]
    columns = np.arange(crop[1]) + windows.left[:, None]
    # mirroring is reading the columns from right to left: no second copy
    columns = np.where(windows.mirror[:, None], columns[:, ::-1], columns)
    device = images.device
    return images[indices[:, None, None], torch.from_numpy(rows).to(device)[:, :, None],
                  torch.from_numpy(np.ascontiguousarray(columns)).to(device)[:, None, :]]


def fit_to_shape(images: Tensor, config: AugmentConfig, shape: Sequence[int],
                 train: bool) -> tuple[Tensor, str]:
    """Make a whole set fit the network's (C, H, W): other channels converted, small images enlarged.

    Takes and returns (N, H, W, C); the border of `pad_size` is added here, once for all epochs. The text says
    what was converted or enlarged, or "". UsageError where the channels cannot be converted or the result
    does not fit in memory.
    """
    num_channels, height, width = shape
    done = []
    if images.shape[3] != num_channels:
        images = _to_channels(images, num_channels)
        done.append(f"converted to {num_channels} channel{'s' if num_channels > 1 else ''}")
    pad = config.pad_size if train else 0
    if images.shape[1] + 2 * pad < height or images.shape[2] + 2 * pad < width:
        scale = max((height - 2 * pad) / images.shape[1], (width - 2 * pad) / images.shape[2])
        # rounding must not leave an edge one pixel short of the crop
        size = [max(round(images.shape[1] * scale), height - 2 * pad),
                max(round(images.shape[2] * scale), width - 2 * pad)]
        before = f"{images.shape[1]}x{images.shape[2]}"
        done.append(f"enlarged from {before} to {size[0]}x{size[1]} to hold the crop")
        _require_memory(images, size, num_channels, 4, f"`image_shape` {show(shape)}")
        images = _enlarge(images, size)
    if pad:
        size = [images.shape[1] + 2 * pad, images.shape[2] + 2 * pad]
        _require_memory(images, size, num_channels, images.element_size(), f"`pad_size` {pad}")
        images = _with_border(images, pad, config)
    return images, ", ".join(done)


def _with_border(images: Tensor, pad: int, config: AugmentConfig) -> Tensor:
    """Return images (N, H, W, C) as (N, H + 2 pad, W + 2 pad, C)."""
    if config.pad_mode == "constant":
        return F.pad(images, (0, 0, pad, pad, pad, pad), value=config.fill_value)
    # torch's own modes reject integers, and borders as wide as the image
    mode: Any = config.pad_mode
    rows, columns = (torch.from_numpy(np.pad(np.arange(side), pad, mode)) for side in images.shape[1:3])
    return images[:, rows[:, None], columns]


def describe(config: AugmentConfig, shape: Sequence[int]) -> str:
    """Return the training augmentation in words, for the start-up summary, in the order applied."""
    # The order is that of `CropSpec`, which is the order in which MXNet does these things.
    parts = [f"short edge {config.resize}"] if config.resize else []
    parts += _describe_warp(config)
    if config.pad_size:
        mode = f"of value {config.fill_value}" if config.pad_mode == "constant" else f"({config.pad_mode})"
        parts.append(f"border {config.pad_size} {mode}")
    parts.append(_describe_crop(config, shape))
    if config.interpolation != "bilinear":
        parts.append(f"{config.interpolation} interpolation")
    parts += [f"{name} {value:g}" for name, value in (
        ("brightness", config.brightness), ("contrast", config.contrast), ("saturation", config.saturation),
        ("hue", config.max_random_h), ("saturation (HLS)", config.max_random_s),
        ("lightness", config.max_random_l), ("lighting noise", config.pca_noise)) if value]
    if config.alternating_mirror:
        parts.append("mirror in turns")
    elif config.random_mirror:
        parts.append("random mirror")
    if policy := describe_policy(config):
        parts.append(policy)
    if config.random_erase:
        parts.append(f"random erasing {config.random_erase:g}")
    mean, std = (",".join(f"{v:g}" for v in values) for values in (config.rgb_mean, config.rgb_std))
    return ", ".join(parts) + f"; (x - {config.mean_image or mean}) / {std}"


def _describe_warp(config: AugmentConfig) -> list[str]:
    """Return a phrase for each part of the warp that is requested."""
    parts = []
    if config.max_random_rotate_angle:
        parts.append(f"rotation to {config.max_random_rotate_angle} degrees")
    if config.max_random_shear_ratio:
        parts.append(f"shear to {config.max_random_shear_ratio:g}")
    if (config.min_random_scale, config.max_random_scale) != (1, 1):
        parts.append(f"scale {config.min_random_scale:g}-{config.max_random_scale:g}")
    # with random resized crops the aspect is that of the crop
    if not config.random_resized_crop and aspect_range(config) != (1, 1):
        parts.append(f"aspect {_range(aspect_range(config))}")
    return parts


def _describe_crop(config: AugmentConfig, shape: Sequence[int]) -> str:
    """Return a phrase for the crop, with the size that it becomes."""
    size = f"{shape[1]}x{shape[2]}"
    if config.random_resized_crop:
        area = _range((config.min_random_area, config.max_random_area))
        return f"random resized crop (area {area}, aspect {_range(aspect_range(config))}) to {size}"
    where = "random" if config.random_crop else "centre"
    if config.max_crop_size != -1:
        return f"{where} square of side {config.min_crop_size}-{config.max_crop_size} to {size}"
    return f"{where} crop {size}"


def _range(ends: tuple[float, float]) -> str:
    return "-".join(f"{end:.3g}" for end in ends)


def _require_memory(images: Tensor, size: Sequence[int], num_channels: int, num_bytes: int,
                    setting: str) -> None:
    """Raise UsageError unless the images at this size, `num_bytes` a value, fit in memory beside these."""
    if images.device.type == "cpu":  # a GPU's allocator raises an error of its own
        count, (height, width) = len(images), size
        memory.require(count * height * width * num_channels * num_bytes,
                       f"{setting}: {count:,} images of {height} x {width} pixels")


def _to_channels(images: Tensor, num_channels: int) -> Tensor:
    """Return (N, H, W, num_channels): grey is repeated, RGB becomes its luma."""
    if images.shape[3] == 1:
        return images.expand(-1, -1, -1, num_channels).contiguous()
    if images.shape[3] == 3 and num_channels == 1:
        # in float32 and rounded, once: OpenCV's fixed-point luma may differ by one
        weights = torch.tensor(_LUMA, device=images.device)
        grey = torch.cat([(chunk.float() @ weights).round() for chunk in images.split(_CHUNK)])
        return grey.to(images.dtype)[..., None]
    raise UsageError(f"`image_shape`: the images have {images.shape[3]} channels, "
                     f"the network wants {num_channels}")


def _enlarge(images: Tensor, size: list[int]) -> Tensor:
    """Return (N, *size, C), bilinear; bytes are rounded, floats are left as they come."""
    # torch interpolates (N, C, H, W) only; the result goes back to (N, H, W, C), in which crops are gathered
    chunks = [F.interpolate(chunk.permute(0, 3, 1, 2).float(), size, mode="bilinear").permute(0, 2, 3, 1)
              for chunk in images.split(_CHUNK)]
    enlarged = torch.cat(chunks)
    if images.dtype == torch.uint8:
        enlarged = enlarged.round().clamp(0, 255).to(torch.uint8)
    return enlarged.contiguous()
