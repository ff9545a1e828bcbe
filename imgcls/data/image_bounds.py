"""What decoding an encoded image may cost, read from its header and refused where it is too much.

Decoders take memory for what a header claims before they look for the pixels, and some for what a single
chunk claims: 2.4 kB can ask for 4 GB in every thread. So nothing reaches OpenCV whose claims were not
compared with the bounds below and with the bytes that are there. Formats whose claims cannot be read are
refused.

`image_header.inspect` calls `check_size` for a JPEG, whose segments it walks anyway, and `check_other` for
all else. Nothing is decoded here and OpenCV is not needed.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import NamedTuple

#: larger images are not decoded: no camera makes them (the largest of today have 1.5e8), and OpenCV's own
#: bound is set to the same number for sizes that it finds only while it decodes
MAX_PIXELS = 1 << 28
#: nor those that would cost a thread more memory than this, with what the decoder needs for its own work
MAX_DECODED_BYTES = 1 << 31  # of each thread: 16 of them at the bound are 32 GB
#: above this size (50 MB in colour) the file must be large enough for its pixels to be in it
FREE_PIXELS = 1 << 24
#: pixels that a byte may stand for there: a byte a pixel at the best ratio of deflate
PIXELS_PER_BYTE = 1032  # deflate: 258 bytes for each 2 bits

Bytes = bytes | memoryview

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")
#: numbers a pixel of a PNG's colour types
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
#: headers of text formats end within so many bytes
_TEXT_HEADER_BYTES = 1 << 16
#: the same for entries of a TIFF's directory, and for boxes of JPEG 2000
_MAX_ENTRIES = 4096  # a bound for loops whose length a file decides


class BadImageError(ValueError):
    """Bytes that are no usable image; the text says why, in words that follow the name of the sample."""


class _Claim(NamedTuple):
    """What a header says of its image."""

    width: int
    height: int
    #: of memory, at the worst moment of decoding
    bytes_per_pixel: float = 4
    #: that a byte of the file can stand for
    pixels_per_byte: float = PIXELS_PER_BYTE


def check_size(width: int, height: int, num_bytes: int, bytes_per_pixel: float = 4,
               pixels_per_byte: float = PIXELS_PER_BYTE) -> None:
    """Raise BadImageError for an image that is too large, or that `num_bytes` bytes of file cannot hold."""
    num_pixels = width * height
    if num_pixels > MAX_PIXELS:
        raise BadImageError(f"is {width} x {height} pixels, more than the {MAX_PIXELS:,} that are decoded")
    if num_pixels > FREE_PIXELS and num_pixels > num_bytes * pixels_per_byte:
        raise BadImageError(f"says {width} x {height} pixels, more than its {num_bytes:,} bytes can hold")
    if num_pixels * bytes_per_pixel > MAX_DECODED_BYTES:
        raise BadImageError(f"is {width} x {height} pixels of {bytes_per_pixel:g} bytes each, more than the "
                            f"{MAX_DECODED_BYTES:,} bytes that decoding may take")


def check_other(data: Bytes) -> tuple[int, int]:
    """Check an image that is no JPEG; return the (height, width) of a PNG, (0, 0) of all others.

    Others are decoded before their crop is drawn, so their size is not needed. BadImageError for what is too
    large, cut, or of no format that is known here.
    """
    if bytes(data[:8]) == PNG_SIGNATURE:
        claim = _png(data)
        if not claim.width or not claim.height:
            raise BadImageError("is a PNG that is damaged in its header")
        check_size(claim.width, claim.height, len(data), *claim[2:])
        return claim.height, claim.width
    head = bytes(data[:16])
    for pattern, name, read in _FORMATS:
        if pattern.match(head):
            try:
                claim = read(data)
            except (struct.error, IndexError, OverflowError):  # the header itself is not all there
                raise BadImageError(f"is {name} that is cut in its header") from None
            if not claim.width or not claim.height:
                raise BadImageError(f"is {name} that is damaged in its header")
            check_size(claim.width, claim.height, len(data), *claim[2:])
            return 0, 0
    # A list of what is let through and not of what is kept out: OpenCV reads more formats than have
    # bounds here.
    raise BadImageError("is no image")


def format_name(data: Bytes) -> str:
    """Return "a GIF" and the like by the first bytes, "" for what is no image that is known here."""
    head = bytes(data[:16])
    if head.startswith(b"\xff\xd8\xff"):
        return "a JPEG"
    if head.startswith(PNG_SIGNATURE):
        return "a PNG"
    if head.startswith(b"\x93NUMPY"):
        return "an array of numpy's"
    return next((name for pattern, name, _ in _FORMATS if pattern.match(head)), "")


def _png(data: Bytes) -> _Claim:
    """Walk the chunks up to the end chunk: each must lie inside the file."""
    size = len(data)
    at = 8
    is_animation = False
    while True:
        if at + 8 > size:
            raise BadImageError("is a PNG that is cut: its end chunk is missing")
        length, kind = _CHUNK.unpack_from(data, at)
        if at + 12 + length > size:
            # cut, or a wrong length: then the end chunk is there nevertheless
            if b"IEND" in bytes(data[at + 8:]):
                raise BadImageError(f"is a PNG whose {kind.decode('ascii', 'replace')!a} chunk says {length} "
                                    f"bytes, of which {size - at - 12} are there")
            raise BadImageError("is a PNG that is cut: its end chunk is missing")
        if at == 8:
            if kind != b"IHDR" or length != 13:
                raise BadImageError("is a PNG that does not begin with its header chunk")
        elif kind == b"IEND":
            break
        elif kind == b"acTL":
            is_animation = True
        at += 12 + length
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    bits = depth * _PNG_CHANNELS.get(colour, 4)
    # an animation is composed of several pictures of the same size
    return _Claim(width, height, 20 if is_animation else 8 if depth == 16 else 4,
                  min(PIXELS_PER_BYTE, 8 * PIXELS_PER_BYTE / max(bits, 1)))


def _gif(data: Bytes) -> _Claim:
    return _Claim(*struct.unpack_from("<HH", data, 6), 16)


def _bmp(data: Bytes) -> _Claim:
    (header_size,) = struct.unpack_from("<I", data, 14)
    if header_size == 12:  # OS/2's
        return _Claim(*struct.unpack_from("<HH", data, 18), 4, 8)
    width, height = struct.unpack_from("<ii", data, 18)
    # a run of 255 pixels takes two bytes; a negative height means that the rows go down
    return _Claim(abs(width), abs(height), 6, 128)


def _webp(data: Bytes) -> _Claim:
    kind = bytes(data[12:16])
    if kind == b"VP8X":
        is_animation = data[20] & 2
        return _Claim(1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little"),
                      16 if is_animation else 8)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return _Claim(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), 8)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return _Claim(width & 0x3FFF, height & 0x3FFF, 8)
    raise BadImageError("is a WebP that is damaged in its header")


def _tiff(data: Bytes) -> _Claim:
    """Read the first directory, and check the size of its tiles, for which memory is taken as well."""
    order = "<" if data[0] == 0x49 else ">"
    is_big = data[2 if order == "<" else 3] == 43
    if is_big:
        (at,) = struct.unpack_from(order + "Q", data, 8)
        (num_entries,) = struct.unpack_from(order + "Q", data, at)
        entry, at = struct.Struct(order + "HHQ8s"), at + 8
    else:
        (at,) = struct.unpack_from(order + "I", data, 4)
        (num_entries,) = struct.unpack_from(order + "H", data, at)
        entry, at = struct.Struct(order + "HHI4s"), at + 2
    # width, height, samples a pixel, and a tile's width and height; of repeated ones the largest
    found = {256: 0, 257: 0, 277: 1, 322: 0, 323: 0}
    # BigTIFF counts entries in 64 bits, and a file of 2 GB has room for a hundred million of them.
    for i in range(min(num_entries, _MAX_ENTRIES)):
        tag, kind, _, value = entry.unpack_from(data, at + i * entry.size)
        if tag in found:
            number_bytes = {1: 1, 3: 2, 4: 4, 16: 8}.get(kind, 4)
            number = int.from_bytes(value[:number_bytes], "little" if order == "<" else "big")
            # Decoders differ in which of two equal tags they believe, so the worst one counts.
            found[tag] = max(found[tag], number)
    width, height, num_samples, tile_width, tile_height = found.values()
    bytes_per_pixel = 8 * num_samples  # of float64 at worst: their width may be given in several places
    check_size(tile_width, tile_height, len(data), bytes_per_pixel)
    return _Claim(width, height, bytes_per_pixel)


def _pnm(data: Bytes) -> _Claim:
    head = bytes(data[:_TEXT_HEADER_BYTES])
    if head.startswith(b"P7"):
        numbers = [max(map(int, re.findall(word + rb"\s+(\d{1,9})", head)), default=0)
                   for word in (b"WIDTH", b"HEIGHT", b"DEPTH")]
        return _Claim(numbers[0], numbers[1], 4 * numbers[2] + 4, 8)
    # Digits are bounded: int() of a million of them takes seconds, or is an error of Python's own.
    match = re.match(rb"P[1-6fF]\s+(\d{1,9})\s+(\d{1,9})\s", re.sub(rb"#[^\r\n]*", b"", head))
    # every pixel stands there, at least as one bit
    return _Claim(int(match[1]), int(match[2]), 16, 8) if match else _Claim(0, 0)


def _radiance(data: Bytes) -> _Claim:
    sizes = re.findall(rb"-Y\s+(\d{1,9})\s+\+X\s+(\d{1,9})", bytes(data[:_TEXT_HEADER_BYTES]))
    height, width = max(((int(h), int(w)) for h, w in sizes), key=lambda size: size[0] * size[1],
                        default=(0, 0))
    return _Claim(width, height, 16)


def _sun_raster(data: Bytes) -> _Claim:
    return _Claim(*struct.unpack_from(">II", data, 4))


def _jpeg2000(data: Bytes) -> _Claim:
    """Find the codestream, in the boxes of a JP2 or as it is, and read its size marker."""
    at = 0
    for _ in range(_MAX_ENTRIES):
        if bytes(data[at:at + 2]) == b"\xff\x4f" and bytes(data[at + 2:at + 4]) == b"\xff\x51":
            break
        length, kind = _CHUNK.unpack_from(data, at)
        header_bytes = 16 if length == 1 else 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, at + 8)
        if kind == b"jp2c":
            at += header_bytes
        elif length < header_bytes:
            return _Claim(0, 0)
        else:
            at += length
    else:
        return _Claim(0, 0)
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top, num_components = \
        struct.unpack_from(">8IH", data, at + 8)
    if min(tile_width, tile_height, num_components) < 1 or left >= right or top >= bottom:
        return _Claim(0, 0)
    num_tiles = -(-(right - tile_left) // tile_width) * -(-(bottom - tile_top) // tile_height)
    # Each tile has a head of 14 bytes; memory is taken for all of them, and for their components, at once.
    if num_components > 4 or num_tiles * 14 > len(data):
        raise BadImageError(f"is a JPEG 2000 of {num_tiles} tiles with {num_components} components, more "
                            f"than its {len(data):,} bytes can hold")
    return _Claim(right - left, bottom - top, 4 + 8 * num_components)


def _avif(data: Bytes) -> _Claim:
    """Take the largest of all sizes that its properties name; the decoder also has bounds of its own."""
    # Searched for, not parsed: boxes nest, and a parser for them would be one more that can be fooled.
    sizes = re.findall(rb"ispe\0\0\0\0(.{8})", bytes(data), re.DOTALL)
    width, height = max((struct.unpack(">II", size) for size in sizes), key=lambda size: size[0] * size[1],
                        default=(0, 0))
    return _Claim(width, height, 14)


#: how a file begins, its name with an article, and what reads its header
_FORMATS: list[tuple[re.Pattern[bytes], str, Callable[[Bytes], _Claim]]] = [
    (re.compile(rb"GIF8"), "a GIF", _gif),
    (re.compile(rb"BM"), "a BMP", _bmp),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "a WebP", _webp),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), "a TIFF", _tiff),
    (re.compile(rb"P[1-7fF]\s"), "a PNM", _pnm),
    (re.compile(rb"#\?R(GBE|ADIANCE)"), "a Radiance picture", _radiance),
    (re.compile(rb"\x59\xa6\x6a\x95"), "a Sun raster", _sun_raster),
    (re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"), "a JPEG 2000", _jpeg2000),
    (re.compile(rb"....ftyp(avi[fs]|mif1|msf1)", re.DOTALL), "an AVIF", _avif),
]
