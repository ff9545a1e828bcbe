"""Normalisation on the device: uint8 pixels -> float32 (x - mean) / std.

The mean is a number, a colour or an image: a file of MXNet's (one array in a `.params` container), of Caffe's
or of numpy's. Called by the loaders with each batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from imgcls.config.sections import AugmentConfig
from imgcls.errors import DataError, UsageError, reason
from imgcls.formats import caffe, npy, params
from imgcls.storage.paths import to_path
from imgcls.storage.reading import read_all


class Normalizer:
    """(x - mean) / std per channel, uint8 (n, H, W, C) -> float32 (n, C, H, W) in channels_last memory.

    With `mean_image` the mean is an image; `shape` (C, H, W) is then needed.
    """

    def __init__(self, config: AugmentConfig, num_channels: int, device: torch.device,
                 shape: Sequence[int] | None = None) -> None:
        mean = per_channel(config.rgb_mean, num_channels, "`rgb_mean`")
        std = per_channel(config.rgb_std, num_channels, "`rgb_std`")
        # refused here: it would turn every pixel into infinity, and the loss into NaN many steps later
        if min(std) <= 0:
            raise UsageError(f"`rgb_std` {','.join(map(str, config.rgb_std))}: must be above 0")
        self._mean = torch.tensor(mean, device=device) if any(mean) else None
        self._mean_images = None
        if config.mean_image and shape is not None:
            image = torch.from_numpy(read_mean_image(config.mean_image, shape)).permute(1, 2, 0).to(device)
            self._mean_images = torch.stack([image, image.flip(1)])  # as it is, and mirrored
        # the reciprocal once: multiplying a batch is faster than dividing it
        self._scale = torch.tensor([1 / s for s in std], device=device)
        if len(set(std)) == 1:
            self._scale = self._scale[0]  # one factor: a plain multiplication, and 1 is none at all
        self._is_scaled = any(s != 1 for s in std)

    def __call__(self, images: Tensor, mirrored: np.ndarray | None = None) -> Tensor:
        """Return normalised images; where `mirrored`, bool (n,), the mean image is mirrored as well."""
        if self._is_scaled and self._scale.ndim == 0 and self._mean is None and self._mean_images is None:
            # uint8 times a float32 number: one pass over memory, where MNIST's x / 255 spends its time
            return (images * self._scale).permute(0, 3, 1, 2)
        pixels = images.float()
        # Row by row: torch is several times slower at broadcasting over three values than over a row of them.
        rows = pixels.flatten(2)
        width = pixels.shape[2]
        if self._mean_images is not None:
            which = np.zeros(len(images), bool) if mirrored is None else mirrored
            pixels.sub_(self._mean_images[torch.from_numpy(which).long().to(images.device)])
        elif self._mean is not None:
            rows.sub_(self._mean.repeat(width))
        if self._is_scaled:
            rows.mul_(self._scale.repeat(width) if self._scale.ndim else self._scale)
        return pixels.permute(0, 3, 1, 2)


def read_mean_image(path: str, shape: Sequence[int]) -> np.ndarray:
    """Return the one array of an MXNet file, a Caffe mean (.binaryproto) or numpy's (.npy).

    It is float32 (C, H, W), RGB. Raises DataError where it is of another shape.
    """
    # the name of the array does not matter: MXNet calls it mean_img
    try:
        content = bytearray(read_all(to_path(path, "`mean_image`")))  # arrays are views of it, for torch
    except OSError as error:
        raise DataError(path, reason(error)) from error
    if caffe.is_mean(path):
        arrays = [caffe.loads_mean(bytes(content), path)]
    elif npy.is_npy(path):
        arrays = [npy.loads(content, path)]
    else:
        arrays = list(params.loads(content, path).values())
    if len(arrays) != 1:
        raise DataError(path, f"holds {len(arrays)} arrays, a mean image is one")
    if arrays[0].shape != tuple(shape):
        advice = ""  # Caffe's are of the size before the crop: their mean is what its users take then, too
        if arrays[0].ndim == 3 and len(arrays[0]) == shape[0]:
            means = ",".join(f"{mean:.3f}" for mean in arrays[0].mean((1, 2), dtype=float))
            advice = f"; its mean per channel is `rgb_mean` {means}"
        raise DataError(path, f"the mean image is {'x'.join(map(str, arrays[0].shape))}, `image_shape` is "
                              f"{'x'.join(map(str, shape))}{advice}")
    image = np.ascontiguousarray(arrays[0], np.float32)
    if not np.isfinite(image).all():
        raise DataError(path, "holds values that are not numbers")
    return image


def per_channel(values: Sequence[float], num_channels: int, setting: str) -> list[float]:
    """Return one value for each channel: a single value is for all, three on a grey image are averaged."""
    if len(values) == num_channels:
        return list(values)
    if len(values) == 1:
        return list(values) * num_channels
    if num_channels == 1:
        return [sum(values) / len(values)]
    raise UsageError(f"{setting} {','.join(f'{v:g}' for v in values)}: needs 1 or {num_channels} values, "
                     "one per channel")
