"""What the header of an encoded image says: its size, and whether a part of it can be decoded alone.

Read before anything is decoded, so that the crop can be drawn (`crops.py`) and no memory is taken for a size
that is only claimed. No file is trusted, and nothing is decoded here.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from imgcls.data.image_bounds import MAX_PIXELS, BadImageError, Bytes, check_other, check_size, format_name
from imgcls.formats import npy_image

__all__ = ["JPEG_END", "MAX_PIXELS", "BadImageError", "Bytes", "ImageInfo", "format_name", "inspect",
           "stored_pixels", "upper_rows"]

_JPEG = b"\xff\xd8\xff"
#: the marker that ends a file
JPEG_END = b"\xff\xd9"

# JPEG markers (ITU-T T.81, table B.1): SOF0 to SOF15 are frames but for three; SOF0 and SOF1 are sequential
_FRAMES, _NOT_FRAMES, _LAST_SEQUENTIAL = range(0xC0, 0xD0), (0xC4, 0xC8, 0xCC), 0xC1
_RESTART_INTERVAL, _SCAN, _EXIF = 0xDD, 0xDA, 0xE1
#: from here on frames are coded arithmetically: a bit may stand for any number of blocks
_FIRST_ARITHMETIC = 0xC9
# markers without a length that a decoder skips: TEM, and the restarts
_BARE_MARKERS = (0x01, *range(0xD0, 0xD8))
#: with Huffman codes each block of 8 x 8 pixels takes at least a bit
_JPEG_PIXELS_PER_BYTE = 8 * 64
#: every further scan goes through the whole image again, however few bytes it has; encoders write up to 20
_MAX_SCANS = 100
#: bytes that are searched for a marker at a time
_SEARCHED_BYTES = 256
# TIFF's tag for the orientation, and how many entries of the EXIF block are read
_ORIENTATION_TAG, _MAX_ENTRIES = 0x112, 100


class ImageInfo(NamedTuple):
    """What the header of an encoded image says."""

    #: as decoded, that is turned as EXIF says; 0, 0 where the header was not understood
    height: int = 0
    width: int = 0
    #: where the height stands in a JPEG whose upper rows can be decoded alone, otherwise 0
    height_offset: int = 0
    #: height in pixels of a row of coded blocks in such a JPEG
    block_height: int = 0
    is_jpeg: bool = False
    #: a JPEG with restart markers, of which a part may be decoded without the rest
    has_restarts: bool = False


def inspect(data: Bytes) -> ImageInfo:
    """Return size and structure of an encoded image; BadImageError for one that is empty, cut or too large.

    What it passes costs a decoder no more than `image_bounds` allows, whatever its format is.
    """
    if not len(data):
        raise BadImageError("is empty")
    if bytes(data[:3]) == _JPEG:
        return _inspect_jpeg(data)
    if npy_image.is_npy(data):
        return ImageInfo(*stored_pixels(data).shape[:2])
    return ImageInfo(*check_other(data))


def stored_pixels(data: Bytes) -> np.ndarray:
    """Return the pixels of an image that is stored decoded, RGB; BadImageError where it is damaged."""
    try:
        return npy_image.view(data)
    except ValueError as error:
        raise BadImageError(str(error)) from error


def upper_rows(data: Bytes, info: ImageInfo, num_rows: int) -> bytearray:
    """Return a JPEG with only its upper rows, a multiple of the block height.

    A JPEG is coded from top to bottom: with a smaller height in its header these rows decode to the same
    pixels.
    """
    part = bytearray(data)
    part[info.height_offset:info.height_offset + 2] = num_rows.to_bytes(2, "big")
    # Without an end marker the decoder stops where the bytes do. With one it would warn, on stderr, of the
    # rows that stand before it.
    end = part.rfind(JPEG_END)
    del part[end if end > info.height_offset else len(part):]
    return part


def _check_end(data: Bytes, scan_offset: int) -> None:
    """Raise BadImageError for a JPEG without its end: the decoder would silently fill it up with grey."""
    # Nearly always it is at the very end; some cameras write more behind it. One that stands before the scan
    # is that of a small picture inside the header.
    if JPEG_END not in bytes(data[-16:]) and bytes(data).rfind(JPEG_END) < scan_offset:
        raise BadImageError("is a JPEG that is cut: its end marker is missing")


def _inspect_jpeg(data: Bytes) -> ImageInfo:
    """Walk the segments up to the first scan, and check what they claim; BadImageError as `inspect`."""
    at, size = 2, len(data)
    frame = height_offset = block_height = 0
    height = width = num_components = 0
    orientation = 1
    has_restarts = False
    while at + 10 < size:
        if data[at] != 0xFF:  # as the decoder does: on to the next marker
            at = _next_marker(data, at)
            continue
        marker = data[at + 1]
        if marker in (0xFF, 0):  # a fill byte, or none at all
            at += 1
            continue
        if marker in _BARE_MARKERS:
            at += 2
            continue
        length = data[at + 2] << 8 | data[at + 3]
        if marker in _FRAMES and marker not in _NOT_FRAMES:
            frame = marker
            height = data[at + 5] << 8 | data[at + 6]
            width = data[at + 7] << 8 | data[at + 8]
            num_components = data[at + 9]
            height_offset = 0
            # A progressive JPEG is coded in several passes over all of it: it has no upper rows to take.
            if marker <= _LAST_SEQUENTIAL and at + 10 + 3 * num_components < size:
                height_offset = at + 5
                block_height = 8 * max((data[at + 11 + 3 * i] & 15 for i in range(num_components)), default=0)
        elif marker == _RESTART_INTERVAL:
            has_restarts = bool(data[at + 4] or data[at + 5])
        elif marker == _EXIF and bytes(data[at + 4:at + 10]) == b"Exif\0\0":
            orientation = _orientation(bytes(data[at + 10:at + 2 + length]))
        elif marker == _SCAN:
            if not height or not width or not num_components:
                break
            _check_end(data, at)
            is_whole = data[at + 4] == num_components and frame <= _LAST_SEQUENTIAL
            _check_jpeg(data, width, height, num_components, frame, is_whole)
            if orientation >= 5:
                return ImageInfo()  # turned by a quarter: rare, and not worth keeping two sizes
            # all components in one scan, from top to bottom as they are shown
            is_plain = is_whole and block_height > 0 and orientation == 1
            # one with restart markers is left to `seekable.py`, which cuts it on all four sides
            return ImageInfo(height, width, height_offset if is_plain and not has_restarts else 0,
                             block_height, True, is_plain and has_restarts)
        elif marker < 0xC0 or (marker <= 0xD9 and marker >= 0xD0) or length < 2:
            break
        at += 2 + length
    _check_end(data, 2)
    raise BadImageError("is a JPEG that is damaged in its header")


def _next_marker(data: Bytes, at: int) -> int:
    # in pieces: with a copy of all that follows, a file of many markers would take time by its size squared
    for begin in range(at, len(data), _SEARCHED_BYTES):
        found = bytes(data[begin:begin + _SEARCHED_BYTES]).find(b"\xff")
        if found >= 0:
            return begin + found
    return len(data)


def _check_jpeg(data: Bytes, width: int, height: int, num_components: int, frame: int,
                is_whole: bool) -> None:
    """Raise BadImageError for a JPEG that would cost too much memory, or too much time in empty scans."""
    # Pixels in colour; where they come in several scans, the coefficients of all of it as well.
    bytes_per_pixel = 3 if is_whole else 3 + 2 * num_components
    if frame < _FIRST_ARITHMETIC:
        check_size(width, height, len(data), bytes_per_pixel, _JPEG_PIXELS_PER_BYTE)
    else:
        check_size(width, height, len(data), bytes_per_pixel)
    if not is_whole and (num_scans := bytes(data).count(b"\xff\xda")) > _MAX_SCANS:
        raise BadImageError(f"is a JPEG of {num_scans} scans, more than the {_MAX_SCANS} that are decoded")


def _orientation(tiff: bytes) -> int:
    """Return 1 to 8 from the EXIF block, 1 where it says nothing."""
    if tiff[:2] not in (b"II", b"MM"):
        return 1
    byte_order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"
    first = int.from_bytes(tiff[4:8], byte_order)
    num_entries = int.from_bytes(tiff[first:first + 2], byte_order)
    for entry in range(min(num_entries, _MAX_ENTRIES)):
        at = first + 2 + 12 * entry
        if int.from_bytes(tiff[at:at + 2], byte_order) == _ORIENTATION_TAG:
            value = int.from_bytes(tiff[at + 8:at + 10], byte_order)
            return value if 1 <= value <= 8 else 1
    return 1
