"""OpenCV as the decoder uses it: loaded here, with its limits and its threads set.

Import it as `from imgcls.data.opencv import cv2`, and only where images are decoded: it takes a tenth of a
second to load, and data in arrays do not need it.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from imgcls.data.image_header import MAX_PIXELS, BadImageError, Bytes, format_name, inspect, stored_pixels
from imgcls.errors import first_line
from imgcls.formats import npy_image

# OpenCV's own bound, for formats whose header `image_header` does not read. OpenCV reads it when it is
# loaded, so this line is above the import.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))

import cv2

__all__ = ["cv2", "damaged", "decode", "prepare"]

#: of the text of an OpenCV error: some quote a long expression
_MAX_MESSAGE = 200


def prepare() -> None:
    """Give each call one thread, since we have our own, and silence OpenCV, whose messages name no file.

    For the whole process, and for good; `packing.images.quiet_opencv` does the same for a while.
    """
    cv2.setNumThreads(1)
    logging = getattr(getattr(cv2, "utils", None), "logging", None)  # some builds lack it
    if logging:
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)


def decode(data: Bytes, flags: int) -> np.ndarray[Any, Any]:
    """Return the pixels of an encoded image as `cv2.imdecode` gives them, once its header was checked.

    Whole images are decoded here; only `decode.py` and `checks/decoder_warnings.py`, whose images had their
    headers checked before, call OpenCV themselves. What cannot be decoded is a BadImageError.
    """
    inspect(data)
    if npy_image.is_npy(data):
        return _as_decoded(stored_pixels(data), flags)
    # What is no image gives None, and so does most damage; a size beyond OpenCV's limits raises.
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except (cv2.error, MemoryError) as error:
        raise BadImageError(f"cannot be decoded: {first_line(error)[:_MAX_MESSAGE]}") from error
    if image is None:
        raise BadImageError(damaged(data))
    return image


def _as_decoded(pixels: np.ndarray, flags: int) -> np.ndarray[Any, Any]:
    """Return RGB, RGBA or grey pixels as `cv2.imdecode` gives those of a file."""
    num_channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if num_channels not in (1, 3, 4):
        raise BadImageError(f"is an array of {num_channels} channels")
    if flags == cv2.IMREAD_GRAYSCALE:
        return pixels.reshape(pixels.shape[:2]).copy() if num_channels == 1 else cv2.cvtColor(
            pixels, cv2.COLOR_RGB2GRAY if num_channels == 3 else cv2.COLOR_RGBA2GRAY)
    if flags == cv2.IMREAD_UNCHANGED:
        return pixels.copy() if num_channels == 1 else cv2.cvtColor(
            pixels, cv2.COLOR_RGB2BGR if num_channels == 3 else cv2.COLOR_RGBA2BGRA)
    to_bgr = {1: cv2.COLOR_GRAY2BGR, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGR}
    image = cv2.cvtColor(pixels, to_bgr[num_channels])
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if flags == getattr(cv2, "IMREAD_COLOR_RGB", -2) else image


def damaged(data: Bytes) -> str:
    """Return the reason for an error: OpenCV gave no pixels for this image."""
    return f"is {format_name(data)} that is damaged, or that OpenCV {cv2.__version__} cannot read"
