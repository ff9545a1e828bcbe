"""The augmenters of `mx.image`: objects that change an image, and `CreateAugmenter`, a list of them.

Random numbers come from Python's `random` and numpy's generator, as in MXNet.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from imgcls.compat.mxnet import _image_functions as functions
from imgcls.compat.mxnet import nd
from imgcls.compat.mxnet.nd import NDArray

#: how much red, green and blue count in grey
# of ITU-R BT.601, as in MXNet; RandomGrayAug has other numbers there too
_GREY = np.array([[[0.299, 0.587, 0.114]]], np.float32)


# Random numbers come from the generators that MXNet uses, in its order: a script that seeds
# `random` and numpy gets the same images as with MXNet.
class Augmenter:
    """The base class: called with an image, an NDArray (H, W, C), it returns the changed image."""

    def __init__(self, **kwargs: Any) -> None:
        # arrays become lists: `dumps` is JSON
        self._kwargs = {name: (value.asnumpy().tolist() if isinstance(value, NDArray) else
                               value.tolist() if isinstance(value, np.ndarray) else value)
                        for name, value in kwargs.items()}

    def dumps(self) -> Any:
        """Return the name and the settings as JSON text."""
        # ImageIter logs this text, and code that compares lists of augmenters does so by it
        return json.dumps([type(self).__name__.lower(), self._kwargs])

    def __call__(self, src: NDArray) -> NDArray:
        raise NotImplementedError("an augmenter of your own must say what it does")


class SequentialAug(Augmenter):
    """Apply several augmenters, one after the other."""

    def __init__(self, ts: Sequence[Augmenter]) -> None:
        super().__init__()
        self.ts = ts

    def dumps(self) -> Any:
        return [type(self).__name__.lower(), [augmenter.dumps() for augmenter in self.ts]]

    def __call__(self, src: NDArray) -> NDArray:
        for augmenter in self.ts:
            src = augmenter(src)
        return src


class RandomOrderAug(SequentialAug):
    """Apply several augmenters, in random order."""

    def __call__(self, src: NDArray) -> NDArray:
        shuffled = list(self.ts)
        # MXNet shuffles the caller's own list; here that is not changed
        random.shuffle(shuffled)
        self.ts = shuffled
        return super().__call__(src)


class ResizeAug(Augmenter):
    """Resize so that the short edge is `size`."""

    def __init__(self, size: int, interp: int = 2) -> None:
        super().__init__(size=size, interp=interp)
        self.size, self.interp = size, interp

    def __call__(self, src: NDArray) -> NDArray:
        return functions.resize_short(src, self.size, self.interp)


class ForceResizeAug(Augmenter):
    """Resize to `size` (width, height)."""

    def __init__(self, size: Sequence[int], interp: int = 2) -> None:
        super().__init__(size=size, interp=interp)
        self.size, self.interp = size, interp

    def __call__(self, src: NDArray) -> NDArray:
        return functions.imresize(src, *self.size, interp=self.interp)


class RandomCropAug(Augmenter):
    """Crop a window of `size` (width, height) at a random place."""

    def __init__(self, size: Sequence[int], interp: int = 2) -> None:
        super().__init__(size=size, interp=interp)
        self.size, self.interp = size, interp

    def __call__(self, src: NDArray) -> NDArray:
        return functions.random_crop(src, self.size, self.interp)[0]


class RandomSizedCropAug(Augmenter):
    """Crop a window of random area and aspect ratio, and resize it to `size` (width, height)."""

    def __init__(self, size: Sequence[int], area: Any, ratio: Sequence[float], interp: int = 2,
                 **kwargs: Any) -> None:
        # its old name, which MXNet still takes
        area = kwargs.pop("min_area", area)
        super().__init__(size=size, area=area, ratio=ratio, interp=interp)
        self.size, self.area, self.ratio, self.interp = size, area, ratio, interp

    def __call__(self, src: NDArray) -> NDArray:
        return functions.random_size_crop(src, self.size, self.area, self.ratio, self.interp)[0]


class CenterCropAug(Augmenter):
    """Crop the centre, a window of `size` (width, height)."""

    def __init__(self, size: Sequence[int], interp: int = 2) -> None:
        super().__init__(size=size, interp=interp)
        self.size, self.interp = size, interp

    def __call__(self, src: NDArray) -> NDArray:
        return functions.center_crop(src, self.size, self.interp)[0]


class BrightnessJitterAug(Augmenter):
    """Multiply the brightness by a random number in [1 - brightness, 1 + brightness]."""

    def __init__(self, brightness: float) -> None:
        super().__init__(brightness=brightness)
        self.brightness = brightness

    def __call__(self, src: NDArray) -> NDArray:
        # in place, as in MXNet: a pipeline that keeps the decoded image must copy it
        src *= 1.0 + random.uniform(-self.brightness, self.brightness)
        return src


class ContrastJitterAug(Augmenter):
    """Multiply the distance from the mean grey by a random number in [1 - contrast, 1 + contrast]."""

    def __init__(self, contrast: float) -> None:
        super().__init__(contrast=contrast)
        self.contrast = contrast

    def __call__(self, src: NDArray) -> NDArray:
        alpha = 1.0 + random.uniform(-self.contrast, self.contrast)
        # `size` counts the values of three channels: a third of it is the number of pixels
        grey = (3.0 * (1.0 - alpha) / src.size) * float((src._data * _GREY).sum(dtype=np.float32))
        src *= alpha
        src += grey
        return src


class SaturationJitterAug(Augmenter):
    """Multiply each pixel's distance from its grey by a random number in [1 - saturation, 1 + saturation]."""

    def __init__(self, saturation: float) -> None:
        super().__init__(saturation=saturation)
        self.saturation = saturation

    def __call__(self, src: NDArray) -> NDArray:
        alpha = 1.0 + random.uniform(-self.saturation, self.saturation)
        grey = (src._data * _GREY).sum(2, keepdims=True) * np.float32(1.0 - alpha)
        src *= alpha
        # the grey of each pixel broadcasts over its channels
        src._data += grey
        return src


class HueJitterAug(Augmenter):
    """Rotate the colours in YIQ by a random angle in [-hue * pi, hue * pi]."""

    def __init__(self, hue: float) -> None:
        super().__init__(hue=hue)
        self.hue = hue
        # Rounded to three digits in MXNet, and so not exact inverses: a hue of 0 still changes the
        # image a little.
        self.to_yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
        self.to_rgb = np.array([[1.0, 0.956, 0.621], [1.0, -0.272, -0.647], [1.0, -1.107, 1.705]])

    def __call__(self, src: NDArray) -> NDArray:
        angle = random.uniform(-self.hue, self.hue) * np.pi
        cosine, sine = np.cos(angle), np.sin(angle)
        # Y, the brightness, stays; I and Q are rotated
        turn = np.array([[1.0, 0.0, 0.0], [0.0, cosine, -sine], [0.0, sine, cosine]])
        return nd.dot(src, nd.array(np.dot(np.dot(self.to_rgb, turn), self.to_yiq).T))


class ColorJitterAug(RandomOrderAug):
    """Change brightness, contrast and saturation, in random order."""

    def __init__(self, brightness: float, contrast: float, saturation: float) -> None:
        kinds = ((brightness, BrightnessJitterAug), (contrast, ContrastJitterAug),
                 (saturation, SaturationJitterAug))
        # a kind with the amount 0 draws no random numbers, and is not in the shuffled list
        super().__init__([kind(amount) for amount, kind in kinds if amount > 0])


class LightingAug(Augmenter):
    """Add noise along the principal components of the colours (AlexNet's PCA noise)."""

    def __init__(self, alphastd: float, eigval: Any, eigvec: Any) -> None:
        super().__init__(alphastd=alphastd, eigval=eigval, eigvec=eigvec)
        self.alphastd, self.eigval, self.eigvec = alphastd, eigval, eigvec

    def __call__(self, src: NDArray) -> NDArray:
        # numpy's generator here and Python's elsewhere: so it is in MXNet
        alpha = np.random.normal(0, self.alphastd, size=(3,))
        src += nd.array(np.dot(self.eigvec * alpha, self.eigval))
        return src


# MXNet subtracts and divides in float32 and in place where it can: images come out of `CastAug`
# before.
class ColorNormalizeAug(Augmenter):
    """Return (image - mean) / std; None for one of them leaves that step out."""

    def __init__(self, mean: Any, std: Any) -> None:
        self.mean = mean if mean is None or isinstance(mean, NDArray) else nd.array(mean)
        self.std = std if std is None or isinstance(std, NDArray) else nd.array(std)
        super().__init__(mean=self.mean, std=self.std)

    def __call__(self, src: NDArray) -> NDArray:
        return functions.color_normalize(src, self.mean, self.std)


class RandomGrayAug(Augmenter):
    """Turn the image grey, with probability `p`."""

    def __init__(self, p: float) -> None:
        super().__init__(p=p)
        self.p = p
        # the weights of ITU-R BT.709
        self.mat = nd.array([[0.21] * 3, [0.72] * 3, [0.07] * 3])

    def __call__(self, src: NDArray) -> NDArray:
        return nd.dot(src, self.mat) if random.random() < self.p else src


class HorizontalFlipAug(Augmenter):
    """Mirror the image horizontally, with probability `p`."""

    def __init__(self, p: float) -> None:
        super().__init__(p=p)
        self.p = p

    def __call__(self, src: NDArray) -> NDArray:
        # a copy: a view with a negative stride is refused by torch, which may come next
        return NDArray(src._data[:, ::-1].copy()) if random.random() < self.p else src


class CastAug(Augmenter):
    """Convert the image to the dtype `typ`."""

    def __init__(self, typ: str = "float32") -> None:
        super().__init__(type=typ)
        self.typ = typ

    def __call__(self, src: NDArray) -> NDArray:
        return src.astype(self.typ)


#: of ImageNet's colours, 0 to 255: PCA's eigenvalues and eigenvectors, mean and standard deviation
# Krizhevsky et al. 2012, from the training set; the same numbers in MXNet and in
# fb.resnet.torch
EIGENVALUES = np.array([55.46, 4.794, 1.148])
EIGENVECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
_MEAN = np.array([123.68, 116.28, 103.53])
_STD = np.array([58.395, 57.12, 57.375])


# The order matters: each augmenter gets the result of the one before.
def CreateAugmenter(data_shape: Sequence[int], resize: int = 0, rand_crop: bool = False,  # noqa: N802
                    rand_resize: bool = False, rand_mirror: bool = False, mean: Any = None, std: Any = None,
                    brightness: float = 0, contrast: float = 0, saturation: float = 0, hue: float = 0,
                    pca_noise: float = 0, rand_gray: float = 0, inter_method: int = 2) -> list[Augmenter]:
    """Return the list of augmenters whose images have `data_shape` (3, height, width), in MXNet's order."""
    # MXNet's sizes are (width, height); shapes are (channels, height, width)
    size = (data_shape[2], data_shape[1])
    # the short edge before the crop, or a crop of a large photograph would show a detail alone
    made: list[Augmenter] = [ResizeAug(resize, inter_method)] if resize > 0 else []
    if rand_resize:
        if not rand_crop:
            raise AssertionError("rand_resize needs rand_crop")
        # of Szegedy et al. 2015: 8 to 100 % of the area, 3:4 to 4:3
        made.append(RandomSizedCropAug(size, 0.08, (3.0 / 4.0, 4.0 / 3.0), inter_method))
    else:
        made.append((RandomCropAug if rand_crop else CenterCropAug)(size, inter_method))
    if rand_mirror:
        made.append(HorizontalFlipAug(0.5))
    # float32 before the colours: on uint8 a product would wrap around at 256
    made.append(CastAug())
    if brightness or contrast or saturation:
        made.append(ColorJitterAug(brightness, contrast, saturation))
    if hue:
        made.append(HueJitterAug(hue))
    if pca_noise > 0:
        made.append(LightingAug(pca_noise, EIGENVALUES, EIGENVECTORS))
    if rand_gray > 0:
        made.append(RandomGrayAug(rand_gray))
    # True stands for ImageNet's numbers
    mean = _MEAN if mean is True else mean
    std = _STD if std is True else std
    if mean is not None or std is not None:
        made.append(ColorNormalizeAug(mean, std))
    return made
