"""Inspect encoded images without decoding them: their format, their end, the restart markers of a JPEG.

`pack` and `images` check every image with it, at the cost of microseconds. Nothing here needs OpenCV.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
# Beginnings of files: as far as they tell the format; RIFF may be other things, but none that is an image.
_FORMATS = {_JPEG: "JPEG", _PNG: "PNG", b"GIF8": "GIF", b"BM": "BMP", b"RIFF": "WebP", b"II*\0": "TIFF",
            b"MM\0*": "TIFF"}
# Markers of a JPEG (ITU-T T.81, table B.1), each after an 0xFF: the start of a scan, the end of the image,
# and the frames, C0 to CF but for three tables (Huffman, an extension, arithmetic coding).
_SCAN = 0xDA
_END = 0xD9
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_END_OF_IMAGE = b"\xff\xd9"
#: where the end marker mostly is: only few files have something behind it
_TAIL_BYTES = 16
#: the same for a PNG's end chunk, which text chunks may follow
_PNG_TAIL_BYTES = 4096


def format_name(data: bytes | memoryview) -> str:
    """Return the name of an encoded image's format with its article; empty where it is none of the usual."""
    head = bytes(data[:8])
    return next((f"a {name}" for signature, name in _FORMATS.items() if head.startswith(signature)), "")


def find_damage(data: bytes | memoryview) -> str:
    """Return what is wrong with an encoded image as far as its framing tells: empty or cut. "" if nothing.

    OpenCV's versions differ in what they make of a JPEG that ends too early: a half grey picture, or none. So
    it is looked for here: the end marker must stand behind the beginning of the picture. Costs microseconds.
    """
    if not len(data):
        return "it is empty"
    head = bytes(data[:8])
    if head.startswith(_JPEG):
        begin = _scan_start(data)
        if begin < 0:
            return "a JPEG that ends or breaks off in its header"
        # Inside the picture's data an 0xFF is always followed by something else, so any end marker is the
        # end. Mostly the file ends with it: then there is no need to copy all of it.
        has_end = (_END_OF_IMAGE in bytes(data[max(begin, len(data) - _TAIL_BYTES):])
                   or bytes(data).rfind(_END_OF_IMAGE) >= begin)
        return "" if has_end else "a JPEG that is cut: its end marker is missing"
    if head == _PNG and b"IEND" not in bytes(data[-_PNG_TAIL_BYTES:]) and b"IEND" not in bytes(data):
        return "a PNG that is cut: its end chunk is missing"
    return ""


def restart_interval(units_per_row: int) -> int:
    """Return how many coding units (MCUs) to put between restart markers.

    A divisor of the units of a row, so that the pieces form columns, the nearest to 4. Trials on photographs:
    fewer cost bytes, more gain less when a crop is cut out.
    """
    # Columns: a crop that is cut out in width too needs only some of them in each row.
    divisors = [d for d in range(1, units_per_row + 1) if units_per_row % d == 0]
    return min(divisors, key=lambda d: max(d / 4, 4 / d))


def with_restarts(data: bytes) -> bytes:
    """Insert restart markers into a JPEG, coefficients unchanged; return what is none as it is."""
    frame = _frame_widths(data) if data.startswith(_JPEG) else None
    if frame is None:
        return data
    width, unit_width = frame
    interval = restart_interval(-(-width // unit_width))
    command = ["jpegtran", "-copy", "all", "-restart", f"{interval}B"]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    # What it cannot convert (12 bits, arithmetic coding, damage) stays what it was: no image is lost.
    return done.stdout if done.returncode == 0 and done.stdout.startswith(_JPEG) else data


def _segments(data: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """Yield (marker, offset of its content) of a JPEG's segments up to the first scan, or to damage."""
    offset = 2
    while offset + 4 <= len(data) and data[offset] == 0xFF:
        marker = data[offset + 1]
        if marker == 0xFF:  # a fill byte: any number may stand before a marker
            offset += 1
            continue
        # Markers without a length stand here in damaged files alone.
        length = int.from_bytes(data[offset + 2:offset + 4], "big")
        if length < 2 or marker == _END:
            return
        yield marker, offset + 4
        if marker == _SCAN:
            return
        offset += 2 + length  # the length counts itself


def _scan_start(data: bytes | memoryview) -> int:
    """Return where the first scan of a JPEG begins; -1 if the segments before it do not lead there."""
    return next((offset for marker, offset in _segments(data) if marker == _SCAN), -1)


def _frame_widths(data: bytes) -> tuple[int, int] | None:
    """Return (width, width of a coding unit) of a JPEG in pixels; None where its header does not say them."""
    for marker, offset in _segments(data):
        # A frame: precision (1 byte), height (2), width (2), number of components, then 3 bytes a component
        # of which the second holds its sampling factors, across in the upper half.
        if marker in _FRAMES and offset + 6 <= len(data):
            width = int.from_bytes(data[offset + 3:offset + 5], "big")
            num_components = data[offset + 5]
            factor_offsets = range(offset + 7, min(offset + 7 + 3 * num_components, len(data)), 3)
            factors = [data[factor_offset] >> 4 for factor_offset in factor_offsets]
            # A single component is coded block by block, whatever its factor says.
            unit_width = 8 * (max(factors, default=1) if num_components > 1 else 1)
            return (width, unit_width) if width and unit_width else None
    return None
