"""Decode an image, shrink it and encode it again, as MXNet's im2rec.py does with the same OpenCV.

Called by the threads of `pack`, and by `imgcls-verify` to decode. As OpenCV does it: CMYK becomes BGR, and of
an animation the first picture is taken. With color 1 and 0 EXIF orientation is applied, 16-bit becomes 8-bit
and alpha is dropped; with color -1 not. Where an image cannot be decoded or encoded, a text that says why is
returned in place of the result; nothing is raised.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from imgcls.data.image_header import MAX_PIXELS, BadImageError
from imgcls.data.packing.config import PackConfig
from imgcls.data.packing.jpeg import restart_interval
from imgcls.errors import first_line
from imgcls.formats import npy_image

#: interpolation methods beyond OpenCV's 0-4, as MXNet's tools/im2rec.cc has them
BY_DIRECTION = 9
BY_CHANCE = 10
#: the largest level of PNG: im2rec.py has one flag for both formats, with JPEG's 95 as its default
_MAX_PNG_COMPRESSION = 9
#: most characters of an OpenCV error's text: some quote a long expression
_MAX_TEXT = 200


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Give OpenCV one thread a call, since we have our own, and no log: what it says names no file."""
    from imgcls.data.opencv import cv2

    num_threads = cv2.getNumThreads()
    logging = getattr(getattr(cv2, "utils", None), "logging", None)  # not in every build
    level = logging.getLogLevel() if logging else 0
    cv2.setNumThreads(1)  # its own threads would only wait for ours: images are many and small
    if logging:
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.setNumThreads(num_threads)
        if logging:
            logging.setLogLevel(level)


def decode(data: bytes | memoryview, color: int) -> np.ndarray | str:
    """Return the pixels of an encoded image, (H, W) or (H, W, C) in OpenCV's order, or why there are none.

    `color` is 1 for BGR, 0 for grey, -1 for as stored.
    """
    from imgcls.data import opencv

    try:
        return opencv.decode(data, color)
    except BadImageError as error:
        return str(error).removeprefix("is ")


def reencode(data: bytes, config: PackConfig, seed: int) -> bytes | str:
    """Return the image decoded, cropped, resized and encoded by the configuration, or why it could not be.

    `seed` decides the interpolation where that is left to chance.
    """
    image = decode(data, config.color)
    if isinstance(image, str):
        return image
    if image.dtype == np.uint16 and config.encoding != ".png":
        # OpenCV would cut everything above 255 off; this is what it does itself when it reads to 8 bits.
        image = (image >> 8).astype(np.uint8)
    # TIFF may hold floats, whose range is not known.
    elif image.dtype not in (np.uint8, np.uint16):
        return f"pixels of type {image.dtype}, which {config.encoding} does not hold"
    if config.center_crop:
        image = _center_square(image)
    return _resize_and_encode(image, config, seed)


def _resize_and_encode(image: np.ndarray, config: PackConfig, seed: int) -> bytes | str:
    from imgcls.data.opencv import cv2

    # libjpeg takes at most 65,500 pixels a side, and a picture as large may not fit into memory.
    try:
        if config.resize:
            size = short_edge_size(image.shape[1], image.shape[0], config.resize)
            if size[0] * size[1] > MAX_PIXELS:
                return f"would become {size[0]} x {size[1]} pixels when resized"
            method = interpolation(image, size, seed, config.inter_method)
            image = cv2.resize(image, size, interpolation=method)
        if config.encoding == ".npy":
            return npy_image.pack(image if image.ndim == 2 else cv2.cvtColor(
                image, cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGBA))
        is_encoded, encoded = cv2.imencode(config.encoding, image, _encoder_options(image, config))
    except (cv2.error, MemoryError) as error:
        return f"{image.shape[1]}x{image.shape[0]} pixels: {first_line(error)[:_MAX_TEXT]}"
    return encoded.tobytes() if is_encoded else "OpenCV could not encode it"


def _encoder_options(image: np.ndarray, config: PackConfig) -> list[int]:
    """Return OpenCV's list of option, value, option, value ... for the encoder."""
    from imgcls.data.opencv import cv2

    if config.encoding != ".jpg":
        return [cv2.IMWRITE_PNG_COMPRESSION, min(_MAX_PNG_COMPRESSION, config.quality)]
    options = [cv2.IMWRITE_JPEG_QUALITY, config.quality]
    if config.seekable:
        # OpenCV halves the colour of colour images: 16 pixels a unit, 8 in grey ones.
        unit_width = 16 if image.ndim == 3 else 8
        options += [cv2.IMWRITE_JPEG_RST_INTERVAL, restart_interval(-(-image.shape[1] // unit_width))]
    return options


def short_edge_size(width: int, height: int, short_edge: int) -> tuple[int, int]:
    """Return (width, height) scaled so that the short edge is `short_edge`; the long one is rounded down."""
    # As im2rec.py has it, `//` included: a rounded size would be another picture.
    if height > width:
        return short_edge, height * short_edge // width
    return width * short_edge // height, short_edge


def interpolation(image: np.ndarray, size: tuple[int, int], seed: int, method: int) -> int:
    """Return OpenCV's number for MXNet's method; `size` is the (width, height) to come.

    9 is cubic where both edges grow, by area where both shrink, else linear. 10, a random one, depends on the
    seed alone, so that packing again gives the same bytes.
    """
    from imgcls.data.opencv import cv2

    if method == BY_CHANCE:
        return random.Random(seed).randrange(5)  # a generator for each image: threads may come in any order
    if method != BY_DIRECTION:
        return method
    height, width = image.shape[:2]
    if size[0] > width and size[1] > height:
        return cv2.INTER_CUBIC
    return cv2.INTER_AREA if size[0] < width and size[1] < height else cv2.INTER_LINEAR


def _center_square(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    side = min(height, width)
    # The half pixel goes to the top left, as in im2rec.py.
    top = (height - side) // 2
    left = (width - side) // 2
    return image[top:top + side, left:left + side]
