"""Inspect encoded images without decoding them: their format, their end, the restart markers of a JPEG.

`pack` and `images` check every image with it, at the cost of microseconds. Nothing here needs OpenCV.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

from imgcls.data.image_header import BadImageError, inspect

_JPEG = b"\xff\xd8\xff"
# Markers of a JPEG (ITU-T T.81, table B.1), each after an 0xFF: the start of a scan, the end of the image,
# and the frames, C0 to CF but for three tables (Huffman, an extension, arithmetic coding).
_SCAN = 0xDA
_END = 0xD9
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def find_damage(data: bytes | memoryview) -> str:
    """Return what is wrong with an encoded image as far as its header and framing show; "" if nothing.

    OpenCV's versions differ in what they make of a JPEG that ends too early: a half grey picture, or none. So
    the end is checked here. Bytes that are no image at all count as damage: no reader could use them.
    """
    try:
        inspect(data)
    except BadImageError as error:
        return str(error).removeprefix("is ")
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
    """Return a JPEG with restart markers, coefficients unchanged; other data unchanged. Needs `jpegtran`."""
    frame = _frame_widths(data) if data.startswith(_JPEG) else None
    if frame is None:
        return data
    width, unit_width = frame
    interval = restart_interval(-(-width // unit_width))
    command = ["jpegtran", "-copy", "all", "-restart", f"{interval}B"]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    # What it cannot convert (12 bits, arithmetic coding, damage) stays as it was: no image is lost.
    return done.stdout if done.returncode == 0 and done.stdout.startswith(_JPEG) else data


def _segments(data: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """Yield (marker, offset of its content) of a JPEG's segments up to the first scan, or to damage."""
    offset = 2
    while offset + 4 <= len(data) and data[offset] == 0xFF:
        marker = data[offset + 1]
        if marker == 0xFF:  # a fill byte: any number may stand before a marker
            offset += 1
            continue
        # Markers without a length occur here only in damaged files.
        length = int.from_bytes(data[offset + 2:offset + 4], "big")
        if length < 2 or marker == _END:
            return
        yield marker, offset + 4
        if marker == _SCAN:
            return
        offset += 2 + length  # the length counts itself


def _frame_widths(data: bytes) -> tuple[int, int] | None:
    """Return (width, width of a coding unit) of a JPEG in pixels; None where its header lacks them."""
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
