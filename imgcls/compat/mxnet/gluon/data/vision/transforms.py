"""`mx.gluon.data.vision.transforms`: preprocessing and augmentation of images, as functions of NDArrays.

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
    """The base class: called with an image, it returns the changed image."""

    # Gluon's transforms are blocks, which scripts may hybridize.
    def hybridize(self, active: bool = True, **kwargs: Any) -> None:
        """Do nothing: there is no graph to be made."""

    def __call__(self, x: NDArray) -> NDArray:
        return self.forward(x)

    # Gluon's form of a block without shown settings.
    def __repr__(self) -> str:
        return f"{type(self).__name__}(\n)"

    def forward(self, x: NDArray) -> NDArray:
        """Return the changed image."""
        raise NotImplementedError("a transform of your own must say what it does")


def _shown(name: str, parts: Sequence[str]) -> str:
    """Return blocks inside of a block as Gluon prints them."""
    lines = [f"  ({number}): " + part.replace("\n", "\n  ") for number, part in enumerate(parts)]
    return "\n".join([f"{name}(", *lines, ")"])


# Gluon joins neighbouring hybrid transforms into one block, which is visible when a Compose is printed.
def _is_hybrid(transform: Any) -> bool:
    return isinstance(transform, _Transform) and not isinstance(transform, (CenterCrop, Compose,
                                                                            RandomResizedCrop))


# Any function of an image works, Gluon's or the caller's own.
class Compose(_Transform):
    """Apply several transforms, one after the other."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        # a copy, as the caller may change the list later
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
    """Convert the image to `dtype`."""

    def __init__(self, dtype: Any = "float32") -> None:
        self._dtype = dtype

    def forward(self, x: NDArray) -> NDArray:
        return x.astype(self._dtype)


# Channels first is the layout of every network here.
class ToTensor(_Transform):
    """Return pixels 0 to 255 as float32 in [0, 1], channels first; also of a batch (N, H, W, C)."""

    def forward(self, x: NDArray) -> NDArray:
        return nd_image.to_tensor(x)


class Normalize(_Transform):
    """Return (x - mean) / std for images (C, H, W); both are a number, or one for each channel."""

    def __init__(self, mean: float | Sequence[float] = 0.0, std: float | Sequence[float] = 1.0) -> None:
        self._mean, self._std = mean, std

    def forward(self, x: NDArray) -> NDArray:
        return nd_image.normalize(x, self._mean, self._std)


# Bilinear by default, where mx.image's default is cubic.
class Resize(_Transform):
    """Resize to (width, height); one number is both sides, or with `keep_ratio` the short side."""

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


# Enlarged bilinearly, where mx.image's default is cubic.
class CenterCrop(_Transform):
    """Crop the centre, (width, height) or a square; a smaller image is enlarged."""

    def __init__(self, size: int | Sequence[int], interpolation: int = 1) -> None:
        self._size = (size, size) if isinstance(size, int) else tuple(size)
        self._interpolation = interpolation

    def forward(self, x: NDArray) -> NDArray:
        return image.center_crop(x, self._size, self._interpolation)[0]  # [1] is the window's place


class CropResize(_Transform):
    """Crop a window, and resize it to `size` (width, height) where that is given."""

    def __init__(self, x: int, y: int, width: int, height: int, size: int | Sequence[int] | None = None,
                 interpolation: int | None = None) -> None:
        self._window = x, y, width, height
        self._size = size
        self._interpolation = 1 if interpolation is None else interpolation

    def forward(self, x: NDArray) -> NDArray:
        # raises for a window that is not inside of the image, as MXNet does
        window = nd_image.crop(x, *self._window)
        return window if self._size is None else nd_image.resize(window, self._size, False,
                                                                 self._interpolation)


# The augmenters of mx.image do the work; random numbers are Python's, where MXNet's come from C++.
class _Random(_Transform):
    """A random change of pixels, whose dtype is kept."""

    _augmenter: augmenters.Augmenter

    def forward(self, x: NDArray) -> NDArray:
        return nd_image._as_float(x, self._augmenter)


class RandomResizedCrop(_Transform):
    """Crop a window of random area and aspect ratio, and resize it to `size` (width, height)."""

    def __init__(self, size: int | Sequence[int], scale: Sequence[float] = (0.08, 1.0),
                 ratio: Sequence[float] = (3.0 / 4.0, 4.0 / 3.0), interpolation: int = 1) -> None:
        self._size = (size, size) if isinstance(size, int) else tuple(size)
        self._scale, self._ratio, self._interpolation = scale, ratio, interpolation

    def forward(self, x: NDArray) -> NDArray:
        return image.random_size_crop(x, self._size, self._scale, self._ratio, self._interpolation)[0]


class RandomFlipLeftRight(_Transform):
    """Mirror the image horizontally with probability 1/2."""

    def forward(self, x: NDArray) -> NDArray:
        return nd_image.random_flip_left_right(x)


class RandomFlipTopBottom(_Transform):
    """Mirror the image vertically with probability 1/2."""

    def forward(self, x: NDArray) -> NDArray:
        return nd_image.random_flip_top_bottom(x)


class RandomBrightness(_Random):
    """Multiply the brightness by a random number in [1 - brightness, 1 + brightness]."""

    def __init__(self, brightness: float) -> None:
        self._augmenter = augmenters.BrightnessJitterAug(brightness)


class RandomContrast(_Random):
    """Multiply the distance from the mean grey by a random number in [1 - contrast, 1 + contrast]."""

    def __init__(self, contrast: float) -> None:
        self._augmenter = augmenters.ContrastJitterAug(contrast)


class RandomSaturation(_Random):
    """Multiply each pixel's distance from its grey by a random number in [1 - saturation, 1 + saturation]."""

    def __init__(self, saturation: float) -> None:
        self._augmenter = augmenters.SaturationJitterAug(saturation)


class RandomHue(_Random):
    """Rotate the colours in YIQ by a random angle in [-hue * pi, hue * pi]."""

    def __init__(self, hue: float) -> None:
        self._augmenter = augmenters.HueJitterAug(hue)


class RandomColorJitter(_Transform):
    """Change brightness, contrast, saturation and hue by random amounts."""

    def __init__(self, brightness: float = 0, contrast: float = 0, saturation: float = 0,
                 hue: float = 0) -> None:
        # kept as numbers: the order of the first three is drawn for each image, hue comes last
        self._amounts = brightness, contrast, saturation, hue

    def forward(self, x: NDArray) -> NDArray:
        return nd_image.random_color_jitter(x, *self._amounts)


class RandomLighting(_Random):
    """Add noise along the principal components of ImageNet's colours."""

    def __init__(self, alpha: float) -> None:
        self._augmenter = augmenters.LightingAug(alpha, augmenters.EIGENVALUES, augmenters.EIGENVECTORS)


def __getattr__(name: str) -> Any:
    raise missing("mxnet.gluon.data.vision.transforms", name,
                  [key for key in globals() if key[0].isupper()])
