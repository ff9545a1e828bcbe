"""`mx.gluon.data.vision.transforms`: what prepares an image for a network, as functions of NDArrays.

An image is uint8 (H, W, C) until `ToTensor` makes it float32 (C, H, W) in [0, 1]. Those that draw random
numbers are not here: training reads its images with `mx.io.ImageRecordIter`, or with `imgcls-train`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from imgcls.compat.mxnet import image
from imgcls.compat.mxnet._registration import missing
from imgcls.compat.mxnet.nd import NDArray
from imgcls.errors import UsageError


class _Transform:
    """The base: called with an image, it returns another."""

    # Gluon's are blocks, which scripts may hybridize.
    def hybridize(self, active: bool = True, **kwargs: Any) -> None:
        """Do nothing: there is no graph to be made."""

    def __call__(self, x: NDArray) -> NDArray:
        return self.forward(x)

    def forward(self, x: NDArray) -> NDArray:
        """Return the changed image."""
        raise NotImplementedError("a transform of your own must say what it does")


# Any function of an image does, Gluon's or the caller's own.
class Compose(_Transform):
    """Several transforms, one after the other."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self._transforms = list(transforms)

    def forward(self, x: NDArray) -> NDArray:
        for transform in self._transforms:
            x = transform(x)
        return x


# For networks that normalise inside, such as those of InsightFace.
class Cast(_Transform):
    """Another type of numbers."""

    def __init__(self, dtype: Any = "float32") -> None:
        self._dtype = dtype

    def forward(self, x: NDArray) -> NDArray:
        return x.astype(self._dtype)


# Channels first is the layout of every network here.
class ToTensor(_Transform):
    """Pixels 0 to 255 as float32 in [0, 1], channels first; a batch (N, H, W, C) does as well."""

    def forward(self, x: NDArray) -> NDArray:
        if x.ndim not in (3, 4):
            raise UsageError(f"ToTensor: {x.shape} is no image (H, W, C)")
        # Divided as MXNet does, in float32.
        values = x._data.astype(np.float32) / np.float32(255)
        # One copy now: torch and OpenCV would each make one of a view with swapped axes.
        return NDArray(np.ascontiguousarray(np.moveaxis(values, -1, -3)))


class Normalize(_Transform):
    """(x - mean) / std of each channel, for images (C, H, W); both are a number or one for each channel."""

    def __init__(self, mean: float | Sequence[float] = 0.0, std: float | Sequence[float] = 1.0) -> None:
        # One axis more for height and one for width.
        self._mean = np.asarray(mean, np.float32).reshape(-1, 1, 1)
        self._std = np.asarray(std, np.float32).reshape(-1, 1, 1)

    def forward(self, x: NDArray) -> NDArray:
        return NDArray((x._data - self._mean) / self._std)


# Bilinear unless told otherwise; mx.image takes cubic there.
class Resize(_Transform):
    """To (width, height), or to `size` on both sides, with `keep_ratio` on the short one."""

    def __init__(self, size: int | Sequence[int], keep_ratio: bool = False, interpolation: int = 1) -> None:
        self._size = size
        self._keeps_ratio = keep_ratio
        self._interpolation = interpolation

    def forward(self, x: NDArray) -> NDArray:
        if isinstance(self._size, int) and self._keeps_ratio:
            return image.resize_short(x, self._size, self._interpolation)
        width, height = (self._size, self._size) if isinstance(self._size, int) else self._size
        return image.imresize(x, width, height, self._interpolation)


# Enlarged bilinearly, where mx.image does it with a cubic.
class CenterCrop(_Transform):
    """The middle, (width, height) or a square; a smaller image is enlarged."""

    def __init__(self, size: int | Sequence[int], interpolation: int = 1) -> None:
        self._size = (size, size) if isinstance(size, int) else tuple(size)
        self._interpolation = interpolation

    def forward(self, x: NDArray) -> NDArray:
        return image.center_crop(x, self._size, self._interpolation)[0]  # [1] says where it was cut


def __getattr__(name: str) -> Any:
    raise missing("mxnet.gluon.data.vision.transforms", name, [
        "Compose", "Cast", "ToTensor", "Normalize", "Resize", "CenterCrop"])
