"""The operations of RandAugment, TrivialAugment and AugMix on uint8 pixels, as torchvision defines them.

OpenCV and tables in place of torchvision's own functions on tensors: several times as fast on one image (see
docs/augmentation.md). Called by `decode.py` with what `policies.py` has drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from imgcls.data.opencv import cv2
from imgcls.data.policies import Policy

#: torchvision's weights of grey
_GREY = np.array([[0.2989, 0.587, 0.114]], np.float32)
_VALUES = np.arange(256, dtype=np.float32)
# Pillow's SMOOTH, which sharpness moves away from or towards
_BLUR = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


def apply(image: np.ndarray, policy: Policy) -> None:
    """Change uint8 (H, W, C), C 1 or 3, in place as the policy says."""
    # torchvision's defaults of the three policies
    flags = cv2.INTER_LINEAR if policy.is_smooth else cv2.INTER_NEAREST
    # a single chain changes the image in place: no sum of floats is needed
    if not policy.original and len(policy.chains) == 1:
        for name, magnitude in policy.chains[0].operations:
            OPERATIONS[name](image, magnitude, flags)
        return
    total = np.multiply(image, np.float32(policy.original), dtype=np.float32)
    for chain in policy.chains:
        changed = image.copy()
        for name, magnitude in chain.operations:
            OPERATIONS[name](changed, magnitude, flags)
        total += np.float32(chain.weight) * changed
    # the weights add up to 1 except for rounding, which must not take a value below its whole number
    np.copyto(image, np.clip(total + 1e-3, 0, 255), casting="unsafe")


def _warp(image: np.ndarray, matrix: list[list[float]], flags: int) -> None:
    """Move pixels: `matrix` (2, 3) gives where each comes from; black where that is outside."""
    height, width = image.shape[:2]
    moved = cv2.warpAffine(image, np.array(matrix, np.float64), (width, height),
                           # the matrix maps the result to the source, as torchvision's does
                           flags=flags | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_CONSTANT)
    image[:] = moved.reshape(image.shape)


def _shear_x(image: np.ndarray, magnitude: float, flags: int) -> None:
    # about the corner of the image, which is half a pixel from the first pixel's centre
    _warp(image, [[1, magnitude, magnitude / 2], [0, 1, 0]], flags)


def _shear_y(image: np.ndarray, magnitude: float, flags: int) -> None:
    _warp(image, [[1, 0, 0], [magnitude, 1, magnitude / 2]], flags)


def _translate_x(image: np.ndarray, magnitude: float, flags: int) -> None:
    _warp(image, [[1, 0, -int(magnitude)], [0, 1, 0]], flags)


def _translate_y(image: np.ndarray, magnitude: float, flags: int) -> None:
    _warp(image, [[1, 0, 0], [0, 1, -int(magnitude)]], flags)


def _rotate(image: np.ndarray, magnitude: float, flags: int) -> None:
    """Rotate by degrees, counter-clockwise, about the centre."""
    cos, sin = math.cos(math.radians(magnitude)), math.sin(math.radians(magnitude))
    y, x = (image.shape[0] - 1) / 2, (image.shape[1] - 1) / 2
    _warp(image, [[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]], flags)


def _look_up(image: np.ndarray, table: np.ndarray) -> None:
    """Replace each value by `table` (256,) or, by channel, (256, 1, C); cut off to bytes as torch does it."""
    table = np.clip(table, 0, 255).astype(np.uint8)
    image[:] = cv2.LUT(image, table).reshape(image.shape)


def _brightness(image: np.ndarray, magnitude: float, _flags: int) -> None:
    _look_up(image, _VALUES * np.float32(1 + magnitude))


def _grey(image: np.ndarray) -> np.ndarray:
    """Return float32 (H, W), whole numbers."""
    if image.shape[2] == 1:
        return image[:, :, 0].astype(np.float32)
    # cut to whole numbers, as torchvision's uint8 grey is
    return np.floor(cv2.transform(image.astype(np.float32), _GREY))


def _contrast(image: np.ndarray, magnitude: float, _flags: int) -> None:
    factor = np.float32(1 + magnitude)
    _look_up(image, _VALUES * factor + np.float32(_grey(image).mean()) * (1 - factor))


def _color(image: np.ndarray, magnitude: float, _flags: int) -> None:
    if image.shape[2] == 1:
        return  # grey has no colour to change
    factor = np.float32(1 + magnitude)
    mixed = image * factor
    mixed += (_grey(image) * (1 - factor))[:, :, None]
    np.copyto(image, np.clip(mixed, 0, 255, out=mixed), casting="unsafe")


def _sharpness(image: np.ndarray, magnitude: float, _flags: int) -> None:
    if min(image.shape[:2]) <= 2:
        return  # the border stays as it is
    inner = image[1:-1, 1:-1]
    sharp = image.astype(np.float32)
    blurred = np.rint(cv2.filter2D(sharp, -1, _BLUR).reshape(image.shape)[1:-1, 1:-1])
    sharp = sharp[1:-1, 1:-1]
    sharp += (blurred - sharp) * np.float32(-magnitude)
    np.copyto(inner, np.clip(sharp, 0, 255), casting="unsafe")


def _posterize(image: np.ndarray, magnitude: float, _flags: int) -> None:
    """Keep this many upper bits."""
    np.bitwise_and(image, np.uint8(256 - (1 << (8 - int(magnitude))) & 255), out=image)


def _solarize(image: np.ndarray, magnitude: float, _flags: int) -> None:
    """Invert values from `magnitude` up."""
    # at the threshold itself too, as torchvision has it
    _look_up(image, np.where(magnitude <= _VALUES, 255 - _VALUES, _VALUES))


def _autocontrast(image: np.ndarray, _magnitude: float, _flags: int) -> None:
    """Stretch each channel to 0 .. 255; one of a single value stays as it is."""
    low, high = (extreme(axis=(0, 1)).astype(np.float32) for extreme in (image.min, image.max))
    is_flat = low == high
    # in torchvision's order, since another one rounds differently
    scale = np.where(is_flat, np.float32(1), (high - low) * np.float32(1 / 255))
    _look_up(image, ((_VALUES[:, None] - np.where(is_flat, np.float32(0), low)) / scale)[:, None])


def _equalize(image: np.ndarray, _magnitude: float, _flags: int) -> None:
    """Make the values of each channel about equally frequent (Pillow's rule, which torchvision follows)."""
    tables = np.empty((256, 1, image.shape[2]), np.float32)
    for channel in range(image.shape[2]):
        counts = cv2.calcHist([image], [channel], None, [256], [0, 256]).ravel().astype(np.int64)
        # Pillow's rule: without the pixels of the brightest value that occurs
        step = (counts.sum() - counts[counts.nonzero()[0][-1]]) // 255
        # of one value alone, or nearly so, nothing can be made
        tables[:, 0, channel] = _VALUES if not step else np.concatenate(
            [[0], (np.cumsum(counts)[:-1] + step // 2) // step])
    _look_up(image, tables)


def _identity(_image: np.ndarray, _magnitude: float, _flags: int) -> None:
    pass


#: name -> what changes uint8 (H, W, C) in place, given the magnitude and OpenCV's interpolation for warps
OPERATIONS: dict[str, Callable[[np.ndarray, float, int], None]] = {
    "identity": _identity, "shear_x": _shear_x, "shear_y": _shear_y, "translate_x": _translate_x,
    "translate_y": _translate_y, "rotate": _rotate, "brightness": _brightness, "color": _color,
    "contrast": _contrast, "sharpness": _sharpness, "posterize": _posterize, "solarize": _solarize,
    "autocontrast": _autocontrast, "equalize": _equalize}
