"""Damage inside a WebP, which has no checksum: sizes that do not fit, and data that a decoder does not need.

Both codings of WebP (VP8, RFC 6386, and VP8L, RFC 9649) are read from front to back, bit by bit. Where bytes
were changed a decoder continues with other pixels and another length: it ends early, or needs more than there
is. An encoder writes no byte more than is needed.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator

from imgcls.data.image_header import BadImageError
from imgcls.data.opencv import cv2, decode

_CHUNK = struct.Struct("<4sI")
_HEADER_BYTES = 12
#: bytes that are cut off the end of a chunk's content, to see whether it still decodes. Of 495 images, lossy
#: and lossless, none decodes with 7 bytes less, and one each with 5 and 6, by chance: so two are tried
_SPARE_BYTES = (8, 9)
_MIN_BYTES = 64
_STILL_IMAGES = (b"VP8 ", b"VP8L")


def is_webp(data: bytes) -> bool:
    """Whether the bytes begin as a WebP."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def damage_of_webp(data: bytes) -> str:
    """Return what is wrong with a WebP that may decode all the same, or "".

    Sizes are compared for all; what the image needs is looked at in those of one still image, alpha left out.
    """
    size = 8 + int.from_bytes(data[4:8], "little")
    if size > len(data):
        return f"WebP: cut: {len(data):,} of {size:,} bytes are there"
    for kind, start, length in _chunks(data[:size]):
        if start + length > size:
            return (f"WebP: the chunk {kind.decode('ascii', 'replace').strip()!a} says {length:,} bytes, of "
                    f"which {max(size - start, 0):,} are there")
        if kind in _STILL_IMAGES:
            payload = data[start:start + length]
            # one that cannot be decoded at all is reported when it is decoded
            is_whole = len(payload) > _MIN_BYTES and _decodes(kind, payload)
            if is_whole and all(_decodes(kind, payload[:-spare]) for spare in _SPARE_BYTES):
                return "WebP: the image is complete before its data end: bytes inside it are not its own"
    return ""


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each chunk, where what it holds begins, and how many bytes it says."""
    at = _HEADER_BYTES
    while at + _CHUNK.size <= len(data):
        kind, length = _CHUNK.unpack_from(data, at)
        yield kind, at + _CHUNK.size, length
        at += _CHUNK.size + length + length % 2  # chunks begin at even places


def _decodes(kind: bytes, payload: bytes) -> bool:
    """Whether a decoder finds all it needs in the coded image alone, in a file made for it."""
    body = b"WEBP" + _CHUNK.pack(kind, len(payload)) + payload + b"\0" * (len(payload) % 2)
    file = b"RIFF" + struct.pack("<I", len(body)) + body
    # its size may be another than that of the whole file, which was checked
    with contextlib.suppress(BadImageError, MemoryError):
        decode(file, cv2.IMREAD_COLOR)
        return True
    return False
