"""What an encoded image says of itself in its header: its size, and how little of it can be decoded.

Read before anything is decoded, so that the crop can be drawn (`crops.py`) and no memory is taken for a size
that is only claimed. No file is trusted, and nothing is decoded here.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

#: larger images are not decoded: no camera makes them, and a file of a few bytes can claim to be one
MAX_PIXELS = 1 << 28

Bytes = bytes | memoryview

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
#: the marker and the chunk that end a file
JPEG_END, _PNG_END = b"\xff\xd9", b"IEND"
_FORMATS = {_JPEG: "a JPEG", _PNG: "a PNG", b"GIF8": "a GIF", b"BM": "a BMP", b"RIFF": "a WebP"}

# JPEG markers (ITU-T T.81, table B.1): SOF0 to SOF15 are frames but for three; SOF0 and SOF1 are sequential
_FRAMES, _NOT_FRAMES, _LAST_SEQUENTIAL = range(0xC0, 0xD0), (0xC4, 0xC8, 0xCC), 0xC1
_RESTART_INTERVAL, _SCAN, _EXIF = 0xDD, 0xDA, 0xE1
# TIFF's tag for the orientation, and how many entries of the block are looked at
_ORIENTATION_TAG, _MAX_ENTRIES = 0x112, 100


class BadImageError(ValueError):
    """Bytes that are no usable image; the text says why, in words that follow the name of the sample."""


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
    """Return size and build of an encoded image; BadImageError for one that is empty, cut or too large."""
    if not len(data):
        raise BadImageError("is empty")
    head = bytes(data[:8])
    if head.startswith(_JPEG):
        _check_end(data, JPEG_END, "a JPEG that is cut: its end marker is missing")
        info = _inspect_jpeg(data)
    elif head == _PNG:
        _check_end(data, _PNG_END, "a PNG that is cut: its end chunk is missing")
        # the IHDR chunk is always the first: 8 bytes of signature, 8 of its own head, width, height
        info = ImageInfo(int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big"))
    else:
        return ImageInfo()
    if info.height * info.width > MAX_PIXELS:
        raise BadImageError(f"is {info.width} x {info.height} pixels, "
                            f"more than the {MAX_PIXELS:,} that are decoded")
    return info


def format_name(data: Bytes) -> str:
    """Return "a JPEG" and the like by the first bytes, "" for what is no image that we know."""
    return next((name for start, name in _FORMATS.items() if bytes(data[:len(start)]) == start), "")


def upper_rows(data: Bytes, info: ImageInfo, num_rows: int) -> bytearray:
    """Return a JPEG with only its upper rows, a multiple of the block height.

    A JPEG is coded from top to bottom: told that the image is less high, the decoder gives the same pixels.
    """
    part = bytearray(data)
    part[info.height_offset:info.height_offset + 2] = num_rows.to_bytes(2, "big")
    # Without an end marker the decoder stops where the bytes do. With one it would warn, on stderr, of the
    # rows that stand before it.
    end = part.rfind(JPEG_END)
    del part[end if end > info.height_offset else len(part):]
    return part


def _check_end(data: Bytes, end: bytes, reason: str) -> None:
    """Refuse an image without its end: the decoder would fill it up with grey and say nothing."""
    # nearly always it is at the very end; some cameras write more behind it
    if end not in bytes(data[-16:]) and end not in bytes(data):
        raise BadImageError(f"is {reason}")


def _inspect_jpeg(data: Bytes) -> ImageInfo:
    """Walk the segments up to the first scan; for what is unusual return no size: the decoder will tell."""
    at = 2
    height = width = num_components = height_offset = block_height = 0
    is_turned = has_restarts = False
    while at + 10 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        length = data[at + 2] << 8 | data[at + 3]
        if marker in _FRAMES and marker not in _NOT_FRAMES:
            height = data[at + 5] << 8 | data[at + 6]
            width = data[at + 7] << 8 | data[at + 8]
            num_components = data[at + 9]
            # A progressive JPEG is coded in several passes over all of it: it has no upper rows to take.
            if marker <= _LAST_SEQUENTIAL and at + 10 + 3 * num_components < len(data):
                height_offset = at + 5
                block_height = 8 * max(data[at + 11 + 3 * i] & 15 for i in range(num_components))
        elif marker == _RESTART_INTERVAL:
            has_restarts = bool(data[at + 4] or data[at + 5])
        elif marker == _EXIF and bytes(data[at + 4:at + 10]) == b"Exif\0\0":
            orientation = _orientation(bytes(data[at + 10:at + 2 + length]))
            is_turned = orientation != 1
            if orientation >= 5:
                return ImageInfo()  # lying on its side: rare, and not worth two sizes
        elif marker == _SCAN:
            if not height or not width or not num_components:
                return ImageInfo()
            # all components in one scan, from top to bottom as they are shown
            is_plain = data[at + 4] == num_components and block_height > 0 and not is_turned
            # one with restart markers is left to `seekable.py`, which cuts it on all four sides
            return ImageInfo(height, width, height_offset if is_plain and not has_restarts else 0,
                             block_height, True, is_plain and has_restarts)
        elif marker < 0xC0 or 0xD0 <= marker <= 0xD9 or length < 2:
            return ImageInfo()
        at += 2 + length
    return ImageInfo()


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
