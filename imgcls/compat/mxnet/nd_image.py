"""`mx.nd.image`: preprocessing of images, as functions of arrays (H, W, C) or batches (N, H, W, C)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from imgcls.compat.mxnet import _augmenters as augmenters
from imgcls.compat.mxnet import _image_functions as functions
from imgcls.compat.mxnet import random
from imgcls.compat.mxnet._registration import missing
from imgcls.compat.mxnet.base import MXNetError
from imgcls.compat.mxnet.nd import NDArray


def to_tensor(data: NDArray) -> NDArray:
    """Return pixels 0 to 255 as float32 in [0, 1], channels first."""
    if data.ndim not in (3, 4):
        raise MXNetError(f"to_tensor: {data.shape} is no image (H, W, C)")
    # Divided in float32, as in MXNet; then one copy, as swapped axes would be a view.
    values = data._data.astype(np.float32) / np.float32(255)
    return NDArray(np.ascontiguousarray(np.moveaxis(values, -1, -3)))


def normalize(data: NDArray, mean: float | Sequence[float] = 0.0,
              std: float | Sequence[float] = 1.0) -> NDArray:
    """Return (data - mean) / std of each channel, for images (C, H, W)."""
    # (C, 1, 1): a number for each channel, or one for all
    offset, scale = (np.asarray(value, np.float32).reshape(-1, 1, 1) for value in (mean, std))
    return NDArray((data._data - offset) / scale)


def resize(data: NDArray, size: int | Sequence[int], keep_ratio: bool = False, interp: int = 1) -> NDArray:
    """Return the image resized to `size` (width, height); one number is both sides, or with `keep_ratio` the
    short side."""
    if data.ndim == 4:
        # OpenCV resizes one image at a time
        return NDArray(np.stack([resize(NDArray(image), size, keep_ratio, interp)._data
                                 for image in data._data]))
    sides = [size] if isinstance(size, int) else list(size)
    if len(sides) == 1 and keep_ratio:
        return functions.resize_short(data, sides[0], interp)
    return functions.imresize(data, sides[0], sides[-1], interp)


def crop(data: NDArray, x: int, y: int, width: int, height: int) -> NDArray:
    """Return the window of `width` by `height` at (x, y), a copy; MXNetError where it does not fit."""
    # a negative start would count from the end in numpy, and silently give another window
    if x < 0 or y < 0 or x + width > data.shape[-2] or y + height > data.shape[-3]:
        raise MXNetError(f"crop: {width} x {height} at ({x}, {y}) does not fit into {data.shape}")
    return NDArray(data._data[..., y:y + height, x:x + width, :].copy())


def flip_left_right(data: NDArray) -> NDArray:
    """Return the image with left and right swapped."""
    # the axis of the width, counted from the end, so that it works for a batch as well
    return NDArray(data._data[..., ::-1, :].copy())


def flip_top_bottom(data: NDArray) -> NDArray:
    """Return the image with top and bottom swapped."""
    return NDArray(data._data[..., ::-1, :, :].copy())


def random_flip_left_right(data: NDArray, p: float = 0.5) -> NDArray:
    """Return the image, with probability `p` mirrored."""
    # one number for a whole batch, as MXNet's operator draws it
    return flip_left_right(data) if _drawn() < p else data


def random_flip_top_bottom(data: NDArray, p: float = 0.5) -> NDArray:
    """Return the image, with probability `p` upside down."""
    return flip_top_bottom(data) if _drawn() < p else data


# Computed in float32; integer pixels are clipped to 0 .. 255 and keep their dtype.
def _as_float(data: NDArray, change: Any) -> NDArray:
    changed = change(data.astype(np.float32))._data
    if np.issubdtype(data.dtype, np.integer):
        changed = np.clip(changed, 0, 255)
    return NDArray(changed.astype(data.dtype))


def random_brightness(data: NDArray, min_factor: float, max_factor: float) -> NDArray:
    """Return the image times a random factor."""
    # drawn first: the sequence of random numbers does not depend on the image
    factor = _drawn(min_factor, max_factor)
    return _as_float(data, lambda image: image * factor)


def random_color_jitter(data: NDArray, brightness: float = 0.0, contrast: float = 0.0,
                        saturation: float = 0.0, hue: float = 0.0) -> NDArray:
    """Return the image with random brightness, contrast, saturation and hue."""
    made: list[augmenters.Augmenter] = [augmenters.ColorJitterAug(brightness, contrast, saturation)]
    if hue:
        made.append(augmenters.HueJitterAug(hue))
    return _as_float(data, augmenters.SequentialAug(made))


def _drawn(low: float = 0.0, high: float = 1.0) -> float:
    return float(random.uniform(low, high).asscalar())


def __getattr__(name: str) -> Any:
    raise missing("mxnet.nd.image", name, [key for key in globals() if not key.startswith("_")])
