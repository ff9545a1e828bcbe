"""A part of a JPEG cut out of its compressed bytes: less to decode where only a crop is needed.

A JPEG is coded in units (of 8 x 8 to 32 x 32 pixels), row by row. Restart markers divide the code into pieces that do
not depend on each other: where they stand at the same columns in every row, as `im2rec --seekable` puts them, the
pieces form tiles, and where one comes after every so many rows, they form bands. Some of the tiles behind the header,
with another size in it and the markers numbered anew, are a JPEG of the rectangle that they cover.

Used by `decode.py`. It decodes nothing and trusts nothing: whatever is not just as expected is left to the decoder,
which then decodes the whole image.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Bytes = bytes | memoryview

#: of a larger part than this, in tiles, cutting costs more than decoding the rest (measured: 0.85 to 1 differ little)
WORTHWHILE = 0.9
#: where colour is coded at half the size, a pixel is made with colour from as far as this
_REACH = 2

_FRAMES, _NOT_FRAMES, _SEQUENTIAL = range(0xC0, 0xD0), (0xC4, 0xC8, 0xCC), (0xC0, 0xC1)
_RESTART, _END, _SCAN, _INTERVAL = 0xD0, 0xD9, 0xDA, 0xDD


class Cut(NamedTuple):
    """A JPEG of a part of an image."""

    data: Bytes | bytearray
    #: where in the image it begins, and its size, in pixels
    top: int
    left: int
    height: int
    width: int


class _Layout(NamedTuple):
    """How the code of a JPEG is arranged."""

    #: where the code begins, and where height and width (u16 each, big-endian) stand
    scan: int
    size_at: int
    height: int
    width: int
    #: tiles of this many pixels; the last of a row or column may be smaller
    tile_height: int
    tile_width: int
    down: int
    across: int


def cut(data: Bytes, top: int, left: int, height: int, width: int, *, reduced: int = 1) -> Cut | None:
    """The smallest part of a JPEG that holds the window, decoded to the same pixels there as the whole image, also when
    it is decoded at 2, 4 or 8 times (`reduced`) less than full size. The window is in pixels as they are stored, before
    they are turned as EXIF says. None where the JPEG has no fitting restart markers, is damaged, or where nearly all of
    it is needed."""
    layout = _layout(data)
    if layout is None:
        return None
    reach = _REACH * reduced
    first_row, first_column = max(top - reach, 0) // layout.tile_height, max(left - reach, 0) // layout.tile_width
    last_row = min(-(-(top + height + reach) // layout.tile_height), layout.down)
    last_column = min(-(-(left + width + reach) // layout.tile_width), layout.across)
    rows, columns = last_row - first_row, last_column - first_column
    if rows <= 0 or columns <= 0 or rows * columns > WORTHWHILE * layout.down * layout.across:
        return None
    borders = _borders(data, layout)
    if borders is None:
        return None
    top, left = first_row * layout.tile_height, first_column * layout.tile_width
    height = min(rows * layout.tile_height, layout.height - top)
    width = min(columns * layout.tile_width, layout.width - left)
    head = bytearray(data[:layout.scan])
    head[layout.size_at:layout.size_at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    tiles = first_column + layout.across * np.arange(first_row, last_row)[:, None] + np.arange(columns)
    begins, ends = borders[tiles], borders[tiles + 1]
    view = memoryview(data)
    pieces = [view[begin:end] for begin, end in zip(begins[:, 0].tolist(), ends[:, -1].tolist(), strict=True)]
    part = bytearray().join([head, *pieces])
    # each tile ends with a marker: these count from 0 to 7 and from 0 again, and the last one is the end of the image
    markers = layout.scan - 1 + np.cumsum(ends - begins)
    codes = np.frombuffer(part, np.uint8)
    codes[markers] = _RESTART + np.arange(len(markers)) % 8
    codes[markers[-1]] = _END
    return Cut(part, top, left, height, width)


def _borders(data: Bytes, layout: _Layout) -> np.ndarray | None:
    """int64 (tiles + 1,): where the code of each tile begins, right behind a marker; None where the markers are not
    those that the layout asks for."""
    count = layout.down * layout.across
    codes = np.frombuffer(data, np.uint8)
    # in the code, a byte of 255 is followed by 0
    at = layout.scan + 1 + np.flatnonzero(codes[layout.scan:-1] == 0xFF)
    at = at[codes[at] != 0][:count]
    if len(at) < count or codes[at[-1]] != _END or (codes[at[:-1]] != _RESTART + np.arange(count - 1) % 8).any():
        return None
    return np.append(layout.scan, at + 1)


def _layout(data: Bytes) -> _Layout | None:
    """From the header; None where its pieces are no tiles, or anything in it is not as usual."""
    at, size_at, interval = 2, 0, 0
    while at + 10 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], data[at + 2] << 8 | data[at + 3]
        if marker in _FRAMES and marker not in _NOT_FRAMES:
            # 8 bits, and no second frame
            if marker not in _SEQUENTIAL or data[at + 4] != 8 or size_at or length < 8 + 3 * data[at + 9]:
                return None
            size_at = at + 5
        elif marker == _INTERVAL:
            interval = data[at + 4] << 8 | data[at + 5]
        elif marker == _SCAN:
            # all components in this scan
            if not size_at or not interval or data[at + 4] != data[size_at + 4]:
                return None
            return _tiles(data, at + 2 + length, size_at, interval)
        if marker < 0xC0 or 0xD0 <= marker < _SCAN or length < 2:
            return None
        at += 2 + length
    return None


def _tiles(data: Bytes, scan: int, size_at: int, interval: int) -> _Layout | None:
    """The layout where there is a restart marker every `interval` units."""
    height, width = data[size_at] << 8 | data[size_at + 1], data[size_at + 2] << 8 | data[size_at + 3]
    factors = [data[size_at + 6 + 3 * i] for i in range(data[size_at + 4])]
    # a single component is coded block by block, whatever its factors say
    unit_height = 8 * max((f & 15 for f in factors), default=0) if len(factors) > 1 else 8
    unit_width = 8 * max((f >> 4 for f in factors), default=0) if len(factors) > 1 else 8
    if not height or not width or not factors or not unit_height or not unit_width:
        return None
    down, across = -(-height // unit_height), -(-width // unit_width)
    if across % interval == 0:
        return _Layout(scan, size_at, height, width, unit_height, unit_width * interval, down, across // interval)
    if interval % across == 0:
        rows = interval // across
        return _Layout(scan, size_at, height, width, unit_height * rows, unit_width * across, -(-down // rows), 1)
    return None
