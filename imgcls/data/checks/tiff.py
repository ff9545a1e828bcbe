"""Damage inside a TIFF, whose decoders warn at most: strips and tiles that are cut, or hold another length.

Of the codings deflate has a checksum, and what LZW and PackBits stand for has to be as long as the strip.
Others (JPEG, fax) are left to their decoders; pixels that stand there as they are: `raw_pixels.py`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from imgcls.data.checks.lzw import decoded_length

# tags of TIFF 6.0 that say how the pixels are stored
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _COLORS, _SAMPLES, _PLANAR = 256, 257, 258, 259, 262, 277, 284
_OFFSETS, _ROWS, _COUNTS = 273, 278, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS = 322, 323, 324, 325
#: brightness and two colours, of which fewer samples may be stored
_YCBCR = 6
_NONE, _LZW, _DEFLATE, _OLD_DEFLATE, _PACKBITS = 1, 5, 8, 32946, 32773
#: formats of the numbers of a tag by its type
_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
#: numbers of a tag, and pieces of an image, that are looked at: no photograph has more
_MAX_NUMBERS = 1 << 16
#: of what is inflated, at once
_PART_BYTES = 1 << 20


class _Layout(NamedTuple):
    """How the pixels of a TIFF's first image are stored."""

    compression: int
    #: where each strip or tile begins, and how many bytes it has
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    #: that each of them has when it is decoded
    lengths: list[int]


def is_tiff(data: bytes) -> bool:
    """Whether the bytes begin as a TIFF."""
    return data[:4] in (b"II*\0", b"II+\0", b"MM\0*", b"MM\0+")


def is_uncompressed(data: bytes) -> bool:
    """Whether the pixels of a TIFF stand there as they are."""
    layout = _layout(data)
    return bool(layout) and layout.compression == _NONE


def damage_of_tiff(data: bytes) -> str:
    """Return what is wrong with the strips or tiles of a TIFF that may decode all the same, or ""."""
    layout = _layout(data)
    if not layout:
        return ""  # of a build that is left to the decoder
    for number, (start, count, length) in enumerate(zip(*layout[1:], strict=True), 1):
        what = f"TIFF: part {number} of {len(layout.lengths)}"
        if not count:  # none is stored: it is empty
            continue
        if start + count > len(data):
            return f"{what} is cut: {max(len(data) - start, 0):,} of {count:,} bytes are there"
        if problem := _problem(layout.compression, data[start:start + count], length):
            return f"{what} {problem}"
    return ""


def _layout(data: bytes) -> _Layout | None:
    """Return how the first image is stored; None where the tags do not say it in a way that is known here."""
    try:
        tags = dict(_tags(data))
        width, height = tags[_WIDTH][0], tags[_HEIGHT][0]
        num_samples = tags.get(_SAMPLES, (1,))[0]
        bits = tags.get(_BITS, (1,))
        compression = tags.get(_COMPRESSION, (_NONE,))[0]
        is_planar = tags.get(_PLANAR, (1,))[0] == 2
        offsets, counts = tags.get(_TILE_OFFSETS), tags.get(_TILE_COUNTS)
        if offsets and counts:
            tile_width, tile_height = tags[_TILE_WIDTH][0], tags[_TILE_HEIGHT][0]
            num_parts = -(-height // tile_height) * -(-width // tile_width)
            rows, height, width = tile_height, num_parts * tile_height, tile_width
        else:
            offsets, counts = tags[_OFFSETS], tags[_COUNTS]
            rows = min(tags.get(_ROWS, (height,))[0], height)
            num_parts = -(-height // rows)
    except (KeyError, IndexError, struct.error, ZeroDivisionError, ValueError):
        return None
    if tags.get(_COLORS) == (_YCBCR,) or len(set(bits)) > 1 or not bits[0] or not num_samples:
        return None
    num_planes = num_samples if is_planar else 1
    # compared before a list is made of them: a header may claim any height, but these entries are there
    if not len(offsets) == len(counts) == num_parts * num_planes:
        return None
    row_bytes = -(-width * bits[0] * (1 if is_planar else num_samples) // 8)
    lengths = [row_bytes * min(rows, height - top) for top in range(0, height, rows)] * num_planes
    return _Layout(compression, offsets, counts, lengths)


def _tags(data: bytes) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield each tag of the first directory with its whole numbers; struct.error where it is cut."""
    order = "<" if data[:2] == b"II" else ">"
    is_big = 43 in data[2:4]
    (at,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, 8 if is_big else 4)
    (count,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, at)
    entry = struct.Struct(order + ("HHQ" if is_big else "HHI"))
    value_bytes = 8 if is_big else 4
    at += 8 if is_big else 2
    for index in range(min(count, _MAX_NUMBERS)):
        place = at + index * (entry.size + value_bytes)
        tag, kind, num_values = entry.unpack_from(data, place)
        if kind not in _NUMBERS or num_values > _MAX_NUMBERS:
            continue
        values = struct.Struct(f"{order}{num_values}{_NUMBERS[kind]}")
        place += entry.size
        if values.size > value_bytes:
            (place,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, place)
        yield tag, values.unpack_from(data, place)


def _problem(compression: int, data: bytes, length: int) -> str:
    """Return what is wrong with a strip or tile that has `length` bytes when it is decoded, or ""."""
    if compression == _NONE:
        return "" if len(data) >= length else f"has {len(data):,} bytes, its pixels are {length:,}"
    if compression in (_DEFLATE, _OLD_DEFLATE):
        return _problem_of_deflate(data, length)
    if compression == _PACKBITS:
        return "" if _is_packbits(data, length) else "has damaged bytes: its runs do not end where it does"
    if compression != _LZW or data[:1] == b"\0":  # an older form of LZW begins with low bits, those of 256
        return ""
    found = decoded_length(data)
    if found is None:
        return "has damaged bytes: an LZW code that cannot be"
    return "" if found == length else f"has damaged bytes: they stand for {found:,} bytes, not for {length:,}"


def _problem_of_deflate(data: bytes, length: int) -> str:
    inflater = zlib.decompressobj()
    found = 0
    try:
        while data and not inflater.eof and found <= length:
            found += len(inflater.decompress(data, _PART_BYTES))
            data = inflater.unconsumed_tail
    except zlib.error as error:
        return f"has damaged bytes: {str(error).rpartition(': ')[2]}"
    # some writers flush and do not finish: then there is no checksum
    return "" if found >= length else f"has damaged bytes: {found:,} are inflated of {length:,}"


def _is_packbits(data: bytes, length: int) -> bool:
    """Whether the runs of PackBits stand for `length` bytes, and are all that is there."""
    at = found = 0
    while at < len(data) and found < length:
        head = data[at]
        if head < 128:  # one byte more than this number, as they are
            at += 2 + head
            found += 1 + head
        else:  # a byte that is repeated; 128 is nothing
            at += 2 if head > 128 else 1
            found += 257 - head if head > 128 else 0
    # parts begin at even places
    return found == length and at <= len(data) <= at + 1
