"""The functions of `mx.image`: decode, resize and crop single images with OpenCV, as MXNet does.

Images are NDArrays uint8 (H, W, C). The functions are those of MXNet's python/mxnet/image/image.py, with its
names and arguments.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from imgcls.compat.mxnet.base import MXNetError, translated
from imgcls.compat.mxnet.nd import NDArray
from imgcls.data import opencv
from imgcls.data import pixels as pixel_ops
from imgcls.data.image_header import BadImageError
from imgcls.data.opencv import cv2
from imgcls.errors import DataError, reason
from imgcls.storage.paths import to_local_path

#: (x, y, width, height)
Crop = tuple[int, int, int, int]

#: MXNet's interpolation methods: OpenCV's 0 to 4, and two that choose one of these
_METHODS = (0, 1, 2, 3, 4, 9, 10)
_RANDOM_METHOD = 10


@translated
def imdecode(buf: bytes | bytearray | memoryview | np.ndarray | NDArray, flag: int = 1,
             to_rgb: bool | int = True, out: None = None) -> NDArray:
    """Return the image in `buf`, uint8 (H, W, 3), or with `flag` 0 grey (H, W, 1), turned as its EXIF says.

    Red comes first unless `to_rgb` is off. Bytes that cannot be decoded are an MXNetError.
    """
    _check_no_out(out)
    data = buf._data if isinstance(buf, NDArray) else buf
    if not isinstance(data, (bytes, bytearray, memoryview, np.ndarray)):
        raise ValueError(f"an encoded image is bytes, not {type(buf).__name__}")
    return _decode(np.frombuffer(data, np.uint8), flag, to_rgb, "an image")


@translated
def imread(filename: str | os.PathLike[str], flag: int = 1, to_rgb: bool | int = True,
           out: None = None) -> NDArray:
    """Return `imdecode` of a file."""
    _check_no_out(out)
    # Not OpenCV's imread, which returns None without a reason where the file cannot be read.
    path = to_local_path(filename)
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(path, reason(error)) from error
    return _decode(data, flag, to_rgb, path)


def imresize(src: NDArray, w: int, h: int, interp: int = 1, out: None = None) -> NDArray:
    """Resize to `w` by `h` with an OpenCV method 0-4; 9: cubic or area by direction, 10: any."""
    _check_no_out(out)
    pixels = src._data
    method = _check_method(interp)
    with _without_ipp():
        resized = pixel_ops.resize(pixels, (h, w), method)
    # OpenCV drops the axis of a single channel.
    return NDArray(resized if resized.ndim == pixels.ndim else resized[:, :, None])


def resize_short(src: NDArray, size: int, interp: int = 2) -> NDArray:
    """Resize so that the short edge is `size`."""
    height, width = src.shape[:2]
    # The long side is rounded down, as in MXNet's image.py.
    w, h = (size, size * height // width) if height > width else (size * width // height, size)
    return imresize(src, w, h, interp)


def scale_down(src_size: Sequence[int], size: Sequence[int]) -> tuple[int, int]:
    """Return the largest (width, height) that fits into `src_size`, `size` or smaller in its proportions."""
    width = float(size[0])
    height = float(size[1])
    # Multiplied before it is divided, as in MXNet: the other way round some sizes come out smaller by one.
    if src_size[1] < height:
        width = width * src_size[1] / height
        height = float(src_size[1])
    if src_size[0] < width:
        height = height * src_size[0] / width
        width = float(src_size[0])
    return int(width), int(height)


def fixed_crop(src: NDArray, x0: int, y0: int, w: int, h: int, size: Sequence[int] | None = None,
               interp: int = 2) -> NDArray:
    """Return the window of `w` by `h` at (x0, y0), resized to `size` (width, height) where that differs."""
    window = src[y0:y0 + h, x0:x0 + w]  # a view, as long as it is not resized
    return window if size is None or (w, h) == tuple(size) else imresize(window, size[0], size[1], interp)


def random_crop(src: NDArray, size: Sequence[int], interp: int = 2) -> tuple[NDArray, Crop]:
    """Return a window of `size` (width, height) anywhere, and where it is: (x, y, width, height).

    It is smaller where the image is, and then enlarged. Drawn from Python's `random`.
    """
    width, height = scale_down((src.shape[1], src.shape[0]), size)
    # Python's generator, which MXNet draws from as well: `random.seed` gives the same windows.
    x = random.randint(0, src.shape[1] - width)
    y = random.randint(0, src.shape[0] - height)
    return fixed_crop(src, x, y, width, height, size, interp), (x, y, width, height)


def center_crop(src: NDArray, size: Sequence[int], interp: int = 2) -> tuple[NDArray, Crop]:
    """Return what `random_crop` does, from the middle."""
    width, height = scale_down((src.shape[1], src.shape[0]), size)
    # Rounded down: of an odd margin the larger half is right and below.
    x = (src.shape[1] - width) // 2
    y = (src.shape[0] - height) // 2
    return fixed_crop(src, x, y, width, height, size, interp), (x, y, width, height)


def random_size_crop(src: NDArray, size: Sequence[int], area: float | Sequence[float],
                     ratio: Sequence[float], interp: int = 2, **kwargs: Any) -> tuple[NDArray, Crop]:
    """Return a window of random area and aspect ratio, resized to `size`, and its (x, y, width, height).

    `area` is the least part of the image, or (least, most); `ratio` is (least, most) of width / height. After
    ten draws that do not fit the window is that of `center_crop`.
    """
    height, width = src.shape[:2]
    area = kwargs.pop("min_area", area)
    smallest, largest = (area, 1.0) if isinstance(area, (int, float)) else area
    for _ in range(10):
        wanted = random.uniform(smallest, largest) * height * width
        log_ratio = math.log(ratio[0]), math.log(ratio[1])
        proportion = math.exp(random.uniform(*log_ratio))
        w, h = round(math.sqrt(wanted * proportion)), round(math.sqrt(wanted / proportion))
        if w <= width and h <= height:
            x, y = random.randint(0, width - w), random.randint(0, height - h)
            return fixed_crop(src, x, y, w, h, size, interp), (x, y, w, h)
    return center_crop(src, size, interp)


def copyMakeBorder(src: NDArray, top: int, bot: int, left: int, right: int, type: int = 0,  # noqa: N802
                   value: float = 0.0, values: Sequence[float] = ()) -> NDArray:
    """Return the image with a border; `type` is OpenCV's number of its kind, 0 for one colour."""
    colour = tuple(values) or (value,) * src.shape[2]
    made = cv2.copyMakeBorder(src._data, top, bot, left, right, type, value=colour)
    return NDArray(made.reshape(*made.shape[:2], -1))


def color_normalize(src: NDArray, mean: Any, std: Any = None) -> NDArray:
    """Return (src - mean) / std, computed in place; both are NDArrays or numbers, None leaves a step out."""
    # An array of uint8 would wrap around: callers convert it to float32 first, as with MXNet.
    if mean is not None:
        src -= mean
    if std is not None:
        src /= std
    return src


def _decode(data: np.ndarray, flag: int, to_rgb: bool | int, name: object) -> NDArray:
    if flag not in (0, 1):
        raise MXNetError(f"flag {flag} is not known: 1 gives three channels, 0 gives grey")
    # Not the loaders' decoder, which crops and resizes on the way: here all of the image is wanted.
    try:
        pixels = opencv.decode(data.data, cv2.IMREAD_COLOR if flag else cv2.IMREAD_GRAYSCALE)
    except BadImageError as error:
        raise DataError(name, str(error)) from error
    # MXNet's grey images keep an axis for their one channel.
    if not flag:
        return NDArray(pixels[:, :, None])
    return NDArray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels) if to_rgb else pixels)  # in place


# Intel's library rounds cubic interpolation in another way than OpenCV, which is MXNet's.
@contextlib.contextmanager
def _without_ipp() -> Iterator[None]:
    if not hasattr(cv2, "ipp"):
        yield
        return
    before = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)
    try:
        yield
    finally:
        cv2.ipp.setUseIPP(before)


def _check_method(interp: int) -> int:
    if interp not in _METHODS:
        raise MXNetError(f"interp {interp} is not known: there is 0 nearest, 1 bilinear, 2 cubic, 3 area, "
                         "4 Lanczos, 9 by direction, 10 random")
    return random.randint(0, 4) if interp == _RANDOM_METHOD else interp  # both ends count


def _check_no_out(out: object) -> None:
    # An argument of MXNet's operators: accepting and ignoring it would leave the caller's array as it was.
    if out is not None:
        raise MXNetError("out: images are always new arrays here; leave it out")
