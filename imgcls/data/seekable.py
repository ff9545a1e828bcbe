"""A part of a JPEG cut out of its compressed bytes: less to decode where only a crop is needed.

A JPEG is coded in units (of 8 x 8 to 32 x 32 pixels), row by row. Restart markers divide the code into
intervals that do not depend on each other: where they stand at the same columns in every row, as
`im2rec --seekable` puts them, the intervals form tiles, and where one comes after every so many rows, they
form bands. Some of the tiles behind the header, with another size in it and the markers numbered anew, are a
JPEG of the rectangle that they cover. (Markers and fields: ITU-T T.81, annex B.)

Called by `decode.py`. It decodes nothing and trusts nothing: whatever is not exactly as expected is left to
the decoder, which then decodes the whole image.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from imgcls.data.image_header import Bytes

#: of a larger part than this, in tiles, cutting costs more than decoding the rest (0.85 to 1 differ little)
MAX_PART = 0.9
#: where colour is coded at half the size, a pixel is made with colour from as far as this
_REACH = 2

_FRAMES, _NOT_FRAMES, _SEQUENTIAL = range(0xC0, 0xD0), (0xC4, 0xC8, 0xCC), (0xC0, 0xC1)
_RESTART, _END, _SCAN, _INTERVAL = 0xD0, 0xD9, 0xDA, 0xDD
#: restart markers are numbered 0 to 7 and from 0 again
_NUM_RESTARTS = 8


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
    scan_offset: int
    size_offset: int
    height: int
    width: int
    #: tiles of this many pixels; the last of a row or column may be smaller
    tile_height: int
    tile_width: int
    num_tile_rows: int
    num_tile_columns: int


def cut(data: Bytes, top: int, left: int, height: int, width: int, *, reduction: int = 1) -> Cut | None:
    """Return the smallest part of a JPEG that holds the window, None where nearly all of it is needed.

    It decodes to the same pixels there as the whole image, also at 2, 4 or 8 times (`reduction`) less than
    full size. The window is in pixels as they are stored, before they are turned as EXIF says. Also None
    where the JPEG has no fitting restart markers, or is damaged.
    """
    layout = _layout(data)
    if layout is None:
        return None
    reach = _REACH * reduction
    first_row = max(top - reach, 0) // layout.tile_height
    first_column = max(left - reach, 0) // layout.tile_width
    end_row = min(-(-(top + height + reach) // layout.tile_height), layout.num_tile_rows)
    end_column = min(-(-(left + width + reach) // layout.tile_width), layout.num_tile_columns)
    num_tiles = max(end_row - first_row, 0) * max(end_column - first_column, 0)
    if not 0 < num_tiles <= MAX_PART * layout.num_tile_rows * layout.num_tile_columns:
        return None
    borders = _borders(data, layout)
    if borders is None:
        return None
    tiles = (layout.num_tile_columns * np.arange(first_row, end_row)[:, None]
             + np.arange(first_column, end_column))
    top, left = first_row * layout.tile_height, first_column * layout.tile_width
    height = min(end_row * layout.tile_height, layout.height) - top
    width = min(end_column * layout.tile_width, layout.width) - left
    part = _join(data, layout, borders[tiles], borders[tiles + 1], (height, width))
    return Cut(part, top, left, height, width)


def _join(data: Bytes, layout: _Layout, begins: np.ndarray, ends: np.ndarray,
          size: tuple[int, int]) -> bytearray:
    """Return a JPEG of `size` from the tiles between `begins` and `ends`, both int64 (rows, columns)."""
    head = bytearray(data[:layout.scan_offset])
    head[layout.size_offset:layout.size_offset + 4] = size[0].to_bytes(2, "big") + size[1].to_bytes(2, "big")
    view = memoryview(data)  # the tiles of a row follow each other: one slice a row, copied once
    rows = [view[begin:end] for begin, end in zip(begins[:, 0].tolist(), ends[:, -1].tolist(), strict=True)]
    part = bytearray().join([head, *rows])
    # Each tile ends with a marker: they are numbered anew, and the last one becomes the end of the image.
    markers = layout.scan_offset - 1 + np.cumsum(ends - begins)
    codes = np.frombuffer(part, np.uint8)
    codes[markers] = _RESTART + np.arange(len(markers)) % _NUM_RESTARTS
    codes[markers[-1]] = _END
    return part


def _borders(data: Bytes, layout: _Layout) -> np.ndarray | None:
    """Return int64 (tiles + 1,): where the code of each tile begins, right behind a marker.

    None where the markers are not those that the layout requires.
    """
    count = layout.num_tile_rows * layout.num_tile_columns
    # one search over all bytes in numpy: a loop over markers would cost more than it saves
    codes = np.frombuffer(data, np.uint8)
    # in the code, a byte of 255 is followed by 0
    at = layout.scan_offset + 1 + np.flatnonzero(codes[layout.scan_offset:-1] == 0xFF)
    at = at[codes[at] != 0][:count]
    if len(at) < count or codes[at[-1]] != _END:
        return None
    if (codes[at[:-1]] != _RESTART + np.arange(count - 1) % _NUM_RESTARTS).any():
        return None
    return np.append(layout.scan_offset, at + 1)


def _layout(data: Bytes) -> _Layout | None:
    """Return the layout by the header; None where its intervals are no tiles, or for an unusual header."""
    at, size_offset, interval = 2, 0, 0
    while at + 10 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], data[at + 2] << 8 | data[at + 3]
        if marker in _FRAMES and marker not in _NOT_FRAMES:
            # 8 bits a sample, and no second frame
            if marker not in _SEQUENTIAL or data[at + 4] != 8 or size_offset or length < 8 + 3 * data[at + 9]:
                return None
            size_offset = at + 5
        elif marker == _INTERVAL:
            interval = data[at + 4] << 8 | data[at + 5]
        elif marker == _SCAN:
            # all components in this scan
            if not size_offset or not interval or data[at + 4] != data[size_offset + 4]:
                return None
            return _tiles(data, at + 2 + length, size_offset, interval)
        if marker < 0xC0 or 0xD0 <= marker < _SCAN or length < 2:
            return None
        at += 2 + length
    return None


def _tiles(data: Bytes, scan_offset: int, size_offset: int, interval: int) -> _Layout | None:
    """Return the layout where there is a restart marker every `interval` units."""
    height = data[size_offset] << 8 | data[size_offset + 1]
    width = data[size_offset + 2] << 8 | data[size_offset + 3]
    # sampling factors of each component: width in the upper four bits, height in the lower
    factors = [data[size_offset + 6 + 3 * i] for i in range(data[size_offset + 4])]
    # a single component is coded block by block, whatever its factors say
    unit_height = 8 * max((f & 15 for f in factors), default=0) if len(factors) > 1 else 8
    unit_width = 8 * max((f >> 4 for f in factors), default=0) if len(factors) > 1 else 8
    if not height or not width or not factors or not unit_height or not unit_width:
        return None
    down, across = -(-height // unit_height), -(-width // unit_width)
    if across % interval == 0:  # several tiles side by side
        return _Layout(scan_offset, size_offset, height, width, unit_height, unit_width * interval, down,
                       across // interval)
    if interval % across == 0:  # bands of full width
        num_rows = interval // across
        return _Layout(scan_offset, size_offset, height, width, unit_height * num_rows, unit_width * across,
                       -(-down // num_rows), 1)
    return None
