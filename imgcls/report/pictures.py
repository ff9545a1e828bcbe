"""Pictures inside a page, and sheets of them as one PNG.

A picture is uint8 (H, W, C) in RGB or grey, unless a function says that it takes OpenCV's BGR.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from imgcls.data import opencv
from imgcls.errors import printable
from imgcls.report.svg import escape

T = TypeVar("T")

#: characters of all figures of a page together; with more the pictures are JPEG, and if need be fewer
MAX_BYTES = 6 << 20
#: longest side of an original: enough to see what it shows
_RAW_EDGE = 200
_JPEG_QUALITY = 88
#: a picture on a sheet, the space for two lines of text below it, and the gap to the next one, in pixels
_TILE, _TEXT_HEIGHT, _GAP = 160, 34, 10
_INK = (40, 40, 40)


def gallery(items: Sequence[T], figure: Callable[[T, str], str]) -> tuple[str, int]:
    """Return the figures of all items as HTML, and how many were left out to keep the page small.

    `figure(item, extension)` draws one with pictures of that kind: .png, which is exact, while they fit.
    """
    for extension in (".png", ".jpg"):
        figures = [figure(item, extension) for item in items]
        # exact pictures as long as they fit
        if sum(map(len, figures)) <= MAX_BYTES:
            break
    # the first ones, and not the smallest: the items come in an order
    shown, size = [], 0
    for part in figures if items else []:
        size += len(part)
        if size <= MAX_BYTES:
            shown.append(part)
    return f'<div class="images">{"".join(shown)}</div>', len(items) - len(shown)


def img(image: np.ndarray, description: str, extension: str) -> str:
    """Return a picture as an element of a page, its bytes inside it."""
    kind = "png" if extension == ".png" else "jpeg"
    # Inside the page, so that it can be sent to someone as one file; base64 costs a third more.
    data = base64.b64encode(encoded(bgr(image), extension)).decode()
    return (f'<img alt="{escape(description)}" width="{image.shape[1]}" height="{image.shape[0]}" '
            f'src="data:image/{kind};base64,{data}"/>')


def original(image: np.ndarray, description: str, extension: str) -> str:
    """Return an original as an element of a page, shrunk where it is large."""
    scale = _RAW_EDGE / max(image.shape[:2])
    if scale >= 1:
        return img(image, description, extension)
    small = _resized(image, scale, opencv.cv2.INTER_AREA)
    # a picture that was made smaller is not exact anyway
    return img(small[:, :, None] if small.ndim == 2 else small, description, ".jpg")


def contact_sheet(rows: Sequence[tuple[Sequence[np.ndarray | None], Sequence[str]]]) -> bytes:
    """Return a PNG of (two pictures, two lines of text) each; a picture that is None is left white."""
    columns = max(1, round(np.sqrt(len(rows) / 1.6)))  # pairs are wide: this makes the sheet about square
    width, height = 2 * _TILE + 4 + _GAP, _TILE + _TEXT_HEIGHT + _GAP
    num_rows = -(-len(rows) // columns)
    # white, as paper
    sheet = np.full((num_rows * height + _GAP, columns * width + _GAP, 3), 255, np.uint8)
    for number, (images, texts) in enumerate(rows):
        top, left = _GAP + number // columns * height, _GAP + number % columns * width
        for image, x in zip(images, (left, left + _TILE + 4), strict=True):
            if image is not None:
                scale = _TILE / max(image.shape[:2])
                # small pictures keep their pixels visible
                method = opencv.cv2.INTER_NEAREST if scale > 1 else opencv.cv2.INTER_AREA
                tile = _resized(bgr(image), scale, method)
                sheet[top:top + tile.shape[0], x:x + tile.shape[1]] = tile
        for content, y, size in zip(texts, (14, 29), (0.45, 0.36), strict=True):
            write(sheet, content[:round(25 / size)], left, top + _TILE + y, size)
    return encoded(sheet, ".png")


def write(picture: np.ndarray, content: str, x: int, y: int, size: float) -> None:
    """Write a line of text onto a picture in BGR; OpenCV's letters are those of ASCII."""
    shown = printable(content).encode("ascii", "replace").decode()
    opencv.cv2.putText(picture, shown, (x, y), opencv.cv2.FONT_HERSHEY_SIMPLEX, size, _INK, 1,
                       opencv.cv2.LINE_AA)


def bgr(image: np.ndarray) -> np.ndarray:
    """Return a picture in OpenCV's order of colours, three of them."""
    if image.shape[2] == 1:
        # grey
        image = np.repeat(image, 3, axis=2)
    # OpenCV needs contiguous memory; a fourth channel is left out
    return np.ascontiguousarray(image[:, :, 2::-1])


def encoded(picture: np.ndarray, extension: str) -> bytes:
    """Return a picture in BGR as a PNG or JPEG file."""
    quality = [opencv.cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if extension == ".jpg" else []
    _, data = opencv.cv2.imencode(extension, picture, quality)
    return data.tobytes()


def _resized(image: np.ndarray, scale: float, method: int) -> np.ndarray:
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return opencv.cv2.resize(np.ascontiguousarray(image), size, interpolation=method)
