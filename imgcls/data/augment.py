"""Augmentation and normalisation on the device, for batches of uint8 images that are all of one size.

What is drawn for a sample is a function of (seed, epoch, sample) (`order.py`); what is applied, in this order: border
of `--pad-size`, crop (`--random-crop` or the centre), mirror, then (x - mean) / std. Everything else that can be done
to an image is planned in `plan.py` and done in `decode.py`; `describe` puts all of it into words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from imgcls.config.sections import AugmentConfig
from imgcls.data import order
from imgcls.data.crops import COLUMN, MIRROR, ROW, aspects
from imgcls.errors import DataError, UsageError
from imgcls.formats import caffe, params


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
        top = order.integers(seed, epoch, samples, ROW, free[0] + 1)
        left = order.integers(seed, epoch, samples, COLUMN, free[1] + 1)
    else:
        top, left = (np.full(len(samples), room // 2) for room in free)
    if train and config.random_mirror:
        mirror = order.uniform(seed, epoch, samples, MIRROR) < 0.5
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
        size = [max(round(images.shape[axis] * scale), (height, width)[axis - 1] - 2 * pad) for axis in (1, 2)]
        done.append(f"enlarged from {images.shape[1]}x{images.shape[2]} to {size[0]}x{size[1]} to hold the crop")
        images = _enlarge(images, size)
    if pad:
        images = F.pad(images, (0, 0, pad, pad, pad, pad), value=config.fill_value)
    return images, ", ".join(done)


class Normalizer:
    """(x - mean) / std per channel, uint8 (n, H, W, C) -> float32 (n, C, H, W) in channels_last memory.

    With --mean-image the mean is an image; `shape` (C, H, W) is then needed.
    """

    def __init__(self, config: AugmentConfig, channels: int, device: torch.device,
                 shape: Sequence[int] | None = None) -> None:
        mean, std = (per_channel(values, channels, name) for name, values in (
            ("`rgb_mean`", config.rgb_mean), ("`rgb_std`", config.rgb_std)))
        if min(std) <= 0:
            raise UsageError(f"`rgb_std` {','.join(map(str, config.rgb_std))}: must be above 0")
        self.mean = torch.tensor(mean, device=device) if any(mean) else None
        self.mean_image = None
        if config.mean_image and shape is not None:
            image = torch.from_numpy(read_mean_image(config.mean_image, shape)).permute(1, 2, 0).to(device)
            self.mean_image = torch.stack([image, image.flip(1)])
        self.scale = torch.tensor([1 / s for s in std], device=device)
        if len(set(std)) == 1:
            self.scale = self.scale[0]  # one factor: a plain multiplication, and 1 is none at all
        self.scaled = any(s != 1 for s in std)

    def __call__(self, images: Tensor, mirrored: np.ndarray | None = None) -> Tensor:
        """`mirrored` bool (n,) says which images are: their mean image has to be as well."""
        if self.scaled and self.scale.ndim == 0 and self.mean is None and self.mean_image is None:
            return (images * self.scale).permute(0, 3, 1, 2)  # in one pass over memory
        pixels = images.float()
        # Row by row, as torch is several times slower at broadcasting over three values than over a row of them.
        rows, width = pixels.flatten(2), pixels.shape[2]
        if self.mean_image is not None:
            which = np.zeros(len(images), bool) if mirrored is None else mirrored
            pixels.sub_(self.mean_image[torch.from_numpy(which).long().to(images.device)])
        elif self.mean is not None:
            rows.sub_(self.mean.repeat(width))
        if self.scaled:
            rows.mul_(self.scale.repeat(width) if self.scale.ndim else self.scale)
        return pixels.permute(0, 3, 1, 2)


def read_mean_image(path: str, shape: Sequence[int]) -> np.ndarray:
    """The one array of an MXNet file, or a Caffe mean (.binaryproto), float32 (C, H, W) in RGB; DataError where it is
    of another shape."""
    arrays = [caffe.load_mean(path)] if caffe.is_mean(path) else list(params.load(path).values())
    if len(arrays) != 1:
        raise DataError(path, f"holds {len(arrays)} arrays, a mean image is one")
    if arrays[0].shape != tuple(shape):
        instead = ""  # Caffe's are of the size before the crop: their mean is what its users take then, too
        if arrays[0].ndim == 3 and len(arrays[0]) == shape[0]:
            means = ",".join(f"{mean:.3f}" for mean in arrays[0].mean((1, 2), dtype=float))
            instead = f"; its mean per channel is `rgb_mean` {means}"
        raise DataError(path, f"the mean image is {'x'.join(map(str, arrays[0].shape))}, `image_shape` is "
                              f"{'x'.join(map(str, shape))}{instead}")
    return np.ascontiguousarray(arrays[0], np.float32)


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
    """The training augmentation in words, for the start-up summary, in the order applied."""
    parts = []
    if config.resize:
        parts.append(f"short edge {config.resize}")
    warp = [text for text, on in (
        (f"rotation to {config.max_random_rotate_angle} degrees", config.max_random_rotate_angle),
        (f"shear to {config.max_random_shear_ratio:g}", config.max_random_shear_ratio),
        (f"scale {config.min_random_scale:g}-{config.max_random_scale:g}",
         (config.min_random_scale, config.max_random_scale) != (1, 1)),
        (f"aspect {_range(aspects(config))}", not config.random_resized_crop and aspects(config) != (1, 1))) if on]
    parts += warp
    if config.pad_size:
        parts.append(f"border {config.pad_size} of value {config.fill_value}")
    if config.random_resized_crop:
        area = _range((config.min_random_area, config.max_random_area))
        parts.append(f"random resized crop (area {area}, aspect {_range(aspects(config))}) to {shape[1]}x{shape[2]}")
    elif config.max_crop_size != -1:
        parts.append(f"{'random' if config.random_crop else 'centre'} square of side {config.min_crop_size}-"
                     f"{config.max_crop_size} to {shape[1]}x{shape[2]}")
    else:
        parts.append(f"{'random' if config.random_crop else 'centre'} crop {shape[1]}x{shape[2]}")
    if config.interpolation != "bilinear":
        parts.append(f"{config.interpolation} interpolation")
    parts += [f"{name} {value:g}" for name, value in (
        ("brightness", config.brightness), ("contrast", config.contrast), ("saturation", config.saturation),
        ("hue", config.max_random_h), ("saturation (HLS)", config.max_random_s), ("lightness", config.max_random_l),
        ("lighting noise", config.pca_noise)) if value]
    if config.random_mirror:
        parts.append("random mirror")
    mean, std = (",".join(f"{v:g}" for v in values) for values in (config.rgb_mean, config.rgb_std))
    return ", ".join(parts) + f"; (x - {config.mean_image or mean}) / {std}"


def _range(ends: tuple[float, float]) -> str:
    return "-".join(f"{end:.3g}" for end in ends)


def _to_channels(images: Tensor, channels: int) -> Tensor:
    if images.shape[3] == 1:
        return images.expand(-1, -1, -1, channels).contiguous()
    if images.shape[3] == 3 and channels == 1:
        weights = torch.tensor([0.299, 0.587, 0.114], device=images.device)
        grey = torch.cat([(part.float() @ weights).round() for part in images.split(4096)])
        return grey.to(images.dtype)[..., None]
    raise UsageError(f"`image_shape`: the images have {images.shape[3]} channels, the network wants {channels}")


def _enlarge(images: Tensor, size: list[int]) -> Tensor:
    parts = [F.interpolate(part.permute(0, 3, 1, 2).float(), size, mode="bilinear").permute(0, 2, 3, 1)
             for part in images.split(4096)]
    whole = torch.cat(parts)
    return (whole.round().clamp(0, 255).to(torch.uint8) if images.dtype == torch.uint8 else whole).contiguous()
