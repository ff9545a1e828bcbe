"""Damage inside an encoded image that a decoder may pass over: checksums of PNG, holes of JPEG, cut BMPs.

WebP and TIFF have files of their own.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

from imgcls.data.checks.raw_pixels import overwritten
from imgcls.data.checks.tiff import damage_of_tiff, is_tiff, is_uncompressed
from imgcls.data.checks.webp import damage_of_webp, is_webp
from imgcls.data.image_header import JPEG_END

_PNG = b"\x89PNG\r\n\x1a\n"
_BMP = b"BM"
#: codings of a BMP's pixels: as they are, with masks for the colours or without
_BMP_UNCOMPRESSED = (0, 3, 6)
#: zero bytes in one piece, as a hole of a file leaves them; photographs have none but for flat areas
_HOLE_BYTES = 16
# JPEG markers (ITU-T T.81, table B.1)
_SEQUENTIAL_FRAMES, _HUFFMAN_TABLES, _SCAN, _END = (0xC0, 0xC1), 0xC4, 0xDA, 0xD9
_BARE_MARKERS = (0x01, *range(0xD0, 0xD9))
#: symbol of a Huffman table: the rest of a block is 0
_END_OF_BLOCK = 0


def find_damage(data: bytes) -> str:
    """Return what is wrong with the bytes of an image whose header was checked, or ""."""
    if data.startswith(_PNG):
        return _damage_of_png(data)
    if is_webp(data):
        return damage_of_webp(data)
    if is_tiff(data):
        return damage_of_tiff(data)
    if data.startswith(_BMP):
        return _damage_of_bmp(data)
    return _damage_of_jpeg(data) if is_jpeg(data) else ""


def damage_of_pixels(data: bytes, pixels: np.ndarray) -> str:
    """Return what is wrong with the decoded pixels, uint8 (H, W, 3), of an image, or "".

    "" for formats that do not store the pixels as they are: only those show overwritten bytes in them.
    """
    if data.startswith(_BMP) and _pixels_of_bmp(data):
        is_upwards = int.from_bytes(data[22:26], "little", signed=True) > 0
        damage = overwritten(pixels[::-1] if is_upwards else pixels)
        return f"BMP: {damage}" if damage else ""
    if is_tiff(data) and is_uncompressed(data):
        damage = overwritten(pixels)
        return f"TIFF: {damage}" if damage else ""
    return ""


def is_jpeg(data: bytes) -> bool:
    """Whether the bytes begin as a JPEG."""
    return data.startswith(b"\xff\xd8\xff")


def is_sequential(data: bytes) -> bool:
    """Whether the header of a JPEG says that it is coded in one go, and not progressive."""
    return any(marker in _SEQUENTIAL_FRAMES for marker, _, _ in _segments(data))


def _damage_of_png(data: bytes) -> str:
    """Compare the checksum of each chunk: some decoders only warn, and some compare none."""
    at = len(_PNG)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            return "PNG: cut inside a chunk"
        if zlib.crc32(data[at + 4:end]) != int.from_bytes(data[end:end + 4], "big"):
            return f"PNG: wrong checksum of the chunk {kind.decode('ascii', 'replace')}"
        if kind == b"IEND":
            break
        at = end + 4
    return ""


def _damage_of_bmp(data: bytes) -> str:
    """Compare how many bytes the pixels have with how many are there."""
    place = _pixels_of_bmp(data)
    if not place:
        return ""
    start, length = place
    there = max(len(data) - start, 0)
    # up to three bytes that fill the last row up are left out by some writers
    if there + 3 >= length:
        return ""
    return f"BMP: cut: {there:,} of the {length:,} bytes of its pixels are there"


def _pixels_of_bmp(data: bytes) -> tuple[int, int] | None:
    """Return where the pixels of a BMP begin, and how many bytes they have; None for a coded one."""
    start, header_bytes = struct.unpack_from("<II", data, 10)
    if header_bytes < 40 or len(data) < 34:  # OS/2's
        return None
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    if compression not in _BMP_UNCOMPRESSED:
        return None
    return start, -(-width * bits // 32) * 4 * abs(height)


def _damage_of_jpeg(data: bytes) -> str:
    """Look for a hole of zeros in the coefficients, which a decoder takes for codes."""
    if bytes(_HOLE_BYTES) not in data:  # nearly all images: no more work for them
        return ""
    if not is_sequential(data):  # corrections of a progressive JPEG may be zeros as they are
        return ""
    num_components, symbols = 0, dict[int, int]()
    for marker, start, end in _segments(data):
        if marker in _SEQUENTIAL_FRAMES:
            num_components = data[start + 5]
        elif marker == _HUFFMAN_TABLES:
            symbols.update(_zero_symbols(data[start:end]))
        elif marker == _SCAN:
            # Zeros are a flat area where the code of nothing but zeros says that a block is over. Where it
            # is a coefficient, dozens of equal ones follow each other, which no picture has. Brightness
            # decides, the first component: blocks of the colours stand between its own.
            symbol = symbols.get(data[start + 2] & 15, _END_OF_BLOCK)
            if data[start] != num_components or symbol == _END_OF_BLOCK:
                return ""
            hole = data.find(bytes(_HOLE_BYTES), end, data.find(JPEG_END, end))
            if hole < 0:
                return ""
            length = len(data) - hole - len(data[hole:].lstrip(b"\0"))
            return f"JPEG: {length:,} zero bytes inside the image"
    return ""


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of what each segment of the header holds, to the first scan."""
    at = 2
    while at + 4 <= len(data):
        marker = data[at + 1]
        if data[at] != 0xFF or marker == 0xFF:
            at += 1
        elif marker in _BARE_MARKERS or marker == 0:
            at += 2
        elif marker == _END:
            return
        else:
            length = data[at + 2] << 8 | data[at + 3]
            if at + 2 + length > len(data):
                return
            yield marker, at + 4, at + 2 + length
            if marker == _SCAN:
                return
            at += 2 + max(length, 2)


def _zero_symbols(tables: bytes) -> Iterator[tuple[int, int]]:
    """Yield number and symbol of the code of nothing but zeros, of each table for AC coefficients."""
    at = 0
    while at + 17 < len(tables):
        if tables[at] >> 4:  # class 1: AC
            yield tables[at] & 15, tables[at + 17]
        at += 17 + sum(tables[at + 1:at + 17])
