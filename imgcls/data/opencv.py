"""OpenCV as the decoder uses it: loaded here, with its limits and its threads set.

Import it as `from imgcls.data.opencv import cv2`, and only where images are decoded: it takes a tenth of a
second to load, and arrays do without.
"""

from __future__ import annotations

import os

from imgcls.data.image_header import MAX_PIXELS

# OpenCV's own bound, for formats whose header `image_header` does not read. OpenCV asks for it when it is
# loaded, so this stands above the import.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))

import cv2

__all__ = ["cv2", "prepare"]


def prepare() -> None:
    """Give each call one thread, since we have our own, and silence OpenCV, whose messages name no file."""
    cv2.setNumThreads(1)
    logging = getattr(getattr(cv2, "utils", None), "logging", None)  # some builds lack it
    if logging:
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)
