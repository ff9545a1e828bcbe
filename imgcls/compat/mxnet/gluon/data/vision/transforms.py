"""`mx.gluon.data.vision.transforms`: what prepares an image for a network, as functions of NDArrays.

An image is uint8 (H, W, C) until `ToTensor` makes it float32 (C, H, W) in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from imgcls.compat.mxnet import _augmenters as augmenters
from imgcls.compat.mxnet import image, nd_image
from imgcls.compat.mxnet._registration import missing
from imgcls.compat.mxnet.nd import NDArray


class _Transform:
    """The base: called with an image, it returns another."""

    # Gluon's are blocks, which scripts may hybridize.
    def hybridize(self, active: bool = True, **kwargs: Any) -> None:
        """Do nothing: there is no graph to be made."""

    def __call__(self, x: NDArray) -> NDArray:
        return self.forward(x)

    # Gluon's form of a block that shows none of its settings.
    def __repr__(self) -> str:
        return f"{type(self).__name__}(\n)"

    def forward(self, x: NDArray) -> NDArray:
        """Return the changed image."""
        raise NotImplementedError("a transform of your own must say what it does")


def _shown(name: str, parts: Sequence[str]) -> str:
    """Return blocks inside of a block as Gluon prints them."""
    lines = [f"  ({number}): " + part.replace("\n", "\n  ") for number, part in enumerate(parts)]
    return "\n".join([f"{name}(", *lines, ")"])


# Gluon makes one block of those that stand side by side, which shows when a Compose is printed.
def _is_hybrid(transform: Any) -> bool:
    return isinstance(transform, _Transform) and not isinstance(transform, (CenterCrop, Compose,
                                                                            RandomResizedCrop))


# Any function of an image does, Gluon's or the caller's own.
class Compose(_Transform):
    """Several transforms, one after the other."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        # a copy, as the caller may go on changing the list
        self._transforms = list(transforms)

    def __repr__(self) -> str:
        groups: list[list[Any]] = []
        for one in self._transforms:
            if not (groups and _is_hybrid(one) and _is_hybrid(groups[-1][-1])):
                groups.append([])
            groups[-1].append(one)
        return _shown("Compose", [repr(group[0]) if len(group) == 1 else _shown(
            "HybridSequential", [repr(one) for one in group]) for group in groups])

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
        return nd_image.to_tensor(x)


class Normalize(_Transform):
    """(x - mean) / std of each channel, for images (C, H, W); both are a number or one for each channel."""

    def __init__(self, mean: float | Sequence[float] = 0.0, std: float | Sequence[float] = 1.0) -> None:
        self._mean, self._std = mean, std

    def forward(self, x: NDArray) -> NDArray:
        return nd_image.normalize(x, self._mean, self._std)


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
        # MXNet's sizes are (width, height), arrays are (height, width)
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


class CropResize(_Transform):
    """A window, resized to `size` (width, height) where that is given."""

    def __init__(self, x: int, y: int, width: int, height: int, size: int | Sequence[int] | None = None,
                 interpolation: int | None = None) -> None:
        self._window = x, y, width, height
        self._size = size
        self._interpolation = 1 if interpolation is None else interpolation

    def forward(self, x: NDArray) -> NDArray:
        # refuses a window that reaches out of the image, as MXNet does
        window = nd_image.crop(x, *self._window)
        return window if self._size is None else nd_image.resize(window, self._size, False,
                                                                 self._interpolation)


# The augmenters of mx.image do the work; random numbers are Python's, where Gluon's are the C++ library's.
class _Random(_Transform):
    """A random change of pixels that keep their type."""

    _augmenter: augmenters.Augmenter

    def forward(self, x: NDArray) -> NDArray:
        return nd_image._as_float(x, self._augmenter)


class RandomResizedCrop(_Transform):
    """A window of random area and proportions, resized to `size` (width, height)."""

    def __init__(self, size: int | Sequence[int], scale: Sequence[float] = (0.08, 1.0),
                 ratio: Sequence[float] = (3.0 / 4.0, 4.0 / 3.0), interpolation: int = 1) -> None:
        self._size = (size, size) if isinstance(size, int) else tuple(size)
        self._scale, self._ratio, self._interpolation = scale, ratio, interpolation

    def forward(self, x: NDArray) -> NDArray:
        return image.random_size_crop(x, self._size, self._scale, self._ratio, self._interpolation)[0]


class RandomFlipLeftRight(_Transform):
    """Left and right swapped in half of the cases."""

    def forward(self, x: NDArray) -> NDArray:
        return nd_image.random_flip_left_right(x)


class RandomFlipTopBottom(_Transform):
    """Top and bottom swapped in half of the cases."""

    def forward(self, x: NDArray) -> NDArray:
        return nd_image.random_flip_top_bottom(x)


class RandomBrightness(_Random):
    """Brightness times a number in [1 - brightness, 1 + brightness]."""

    def __init__(self, brightness: float) -> None:
        self._augmenter = augmenters.BrightnessJitterAug(brightness)


class RandomContrast(_Random):
    """Distance from the mean grey times a random number."""

    def __init__(self, contrast: float) -> None:
        self._augmenter = augmenters.ContrastJitterAug(contrast)


class RandomSaturation(_Random):
    """Distance of each pixel from its grey times a random number."""

    def __init__(self, saturation: float) -> None:
        self._augmenter = augmenters.SaturationJitterAug(saturation)


class RandomHue(_Random):
    """Colours turned by a random angle."""

    def __init__(self, hue: float) -> None:
        self._augmenter = augmenters.HueJitterAug(hue)


class RandomColorJitter(_Transform):
    """Brightness, contrast, saturation and hue."""

    def __init__(self, brightness: float = 0, contrast: float = 0, saturation: float = 0,
                 hue: float = 0) -> None:
        # kept as numbers: the order of the four is drawn anew for each image
        self._amounts = brightness, contrast, saturation, hue

    def forward(self, x: NDArray) -> NDArray:
        return nd_image.random_color_jitter(x, *self._amounts)


class RandomLighting(_Random):
    """Noise along the main directions of ImageNet's colours."""

    def __init__(self, alpha: float) -> None:
        self._augmenter = augmenters.LightingAug(alpha, augmenters.EIGENVALUES, augmenters.EIGENVECTORS)


def __getattr__(name: str) -> Any:
    raise missing("mxnet.gluon.data.vision.transforms", name,
                  [key for key in globals() if key[0].isupper()])
