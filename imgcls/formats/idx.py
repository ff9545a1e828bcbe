"""MNIST's idx files: one file of images, one of labels, both big-endian, usually gzip-ed.

    images  u32 2051, u32 count, u32 rows, u32 columns, then count * rows * columns pixels, u8
    labels  u32 2049, u32 count, then count labels, u8

`datasets/mnist.py` reads them. Whether a file is gzip-ed is seen from its content, not from its name. A
header that announces more than the file can hold is refused before memory is taken.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import struct
import zlib
from typing import BinaryIO

import numpy as np

from imgcls.errors import DataError
from imgcls.storage.atomic import write_bytes
from imgcls.storage.paths import AnyPath, to_path
from imgcls.storage.reading import open_read

IMAGES_MAGIC = 2051
LABELS_MAGIC = 2049
_DIMENSIONS = {IMAGES_MAGIC: 3, LABELS_MAGIC: 1}
_KIND = {IMAGES_MAGIC: "images", LABELS_MAGIC: "labels"}
_GZIP = b"\x1f\x8b"
#: deflate cannot make a file smaller than this, so it bounds what a gzip-ed file may announce
_LARGEST_RATIO = 1032

_Stream = io.RawIOBase | io.BufferedIOBase | BinaryIO


def read_images(path: str | os.PathLike[str]) -> np.ndarray:
    """uint8 (N, rows, columns), writable. Raises DataError for anything but one whole file of images."""
    return _read(to_path(path), IMAGES_MAGIC)


def read_labels(path: str | os.PathLike[str]) -> np.ndarray:
    """uint8 (N,), writable. Raises DataError for anything but one whole file of labels."""
    return _read(to_path(path), LABELS_MAGIC)


def write_images(path: str | os.PathLike[str], images: np.ndarray) -> None:
    """Write uint8 (N, rows, columns); gzip-ed when the name ends in `.gz`."""
    _write(path, IMAGES_MAGIC, images)


def write_labels(path: str | os.PathLike[str], labels: np.ndarray) -> None:
    """Write (N,) labels 0-255; gzip-ed when the name ends in `.gz`."""
    _write(path, LABELS_MAGIC, labels.astype(np.uint8))


def _read(path: AnyPath, magic: int) -> np.ndarray:
    try:
        with open_read(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            zipped = stream.read(2) == _GZIP
            stream.seek(0)
            if not zipped:
                return _read_array(stream, path, magic, size)
            return _read_array(_Unzipped(stream.read()), path, magic, size * _LARGEST_RATIO)
    except (EOFError, zlib.error) as error:
        reason = str(error).lower().rstrip(".")
        raise DataError(path, f"the gzip stream is damaged or cut short ({reason})") from error
    except OSError as error:
        raise DataError(path, f"cannot be read: {(error.strerror or str(error)).lower()}") from error


class _Unzipped(io.RawIOBase):
    """A gzip file as a stream, checksums and several members included. Each read is one call of zlib, which lets go
    of the interpreter meanwhile: with the small pieces of gzip.GzipFile, a thread that reads beside another that
    computes would wait for its turn a thousand times."""

    def __init__(self, content: bytes) -> None:
        self._rest = content
        self._member = zlib.decompressobj(wbits=31)

    def read(self, size: int = -1) -> bytes:
        """Up to `size` (at least 1) bytes, b"" at the end. Raises zlib.error or EOFError for a damaged file."""
        pieces, missing = [], size
        while missing:
            piece = self._member.decompress(self._rest, missing)
            pieces.append(piece)
            missing -= len(piece)
            self._rest = self._member.unconsumed_tail
            if self._member.eof:
                self._rest = self._member.unused_data.lstrip(b"\0")
                if not self._rest:
                    break
                self._member = zlib.decompressobj(wbits=31)
            elif not piece:
                raise EOFError("it ends before its end marker")
        return b"".join(pieces)

    def readinto(self, target: memoryview) -> int:  # type: ignore[override]
        piece = self.read(len(target))
        target[:len(piece)] = piece
        return len(piece)


def _read_array(stream: _Stream, path: AnyPath, magic: int, largest: int) -> np.ndarray:
    """Header and content of the (unzipped) stream, which cannot be longer than `largest` bytes."""
    shape = _read_header(stream, path, magic)
    start = 4 + 4 * len(shape)
    count = math.prod(shape)
    if start + count > largest:
        raise DataError(path, f"truncated: the header announces {count} bytes of {_KIND[magic]} "
                              f"({' x '.join(map(str, shape))}), more than the file can hold", start)
    array = np.empty(count, np.uint8)
    filled = _fill(stream, array.data)
    if filled < count:
        raise DataError(path, f"truncated: {filled} of {count} bytes of {_KIND[magic]}", start + filled)
    if stream.read(1):
        raise DataError(path, f"unknown bytes follow the {shape[0]} {_KIND[magic]} that the header announces",
                        start + count)
    return array.reshape(shape)


def _read_header(stream: _Stream, path: AnyPath, magic: int) -> tuple[int, ...]:
    length = 4 + 4 * _DIMENSIONS[magic]
    header = stream.read(length)
    found = int.from_bytes(header[:4], "big")
    if len(header) >= 4 and found in _KIND and found != magic:
        raise DataError(path, f"holds {_KIND[found]}, not {_KIND[magic]} (magic {found}, not {magic})", 0)
    if len(header) >= 4 and found != magic:
        raise DataError(path, f"not an idx file of {_KIND[magic]}: magic {found}, not {magic}", 0)
    if len(header) < length:
        raise DataError(path, f"truncated: the header has {len(header)} of {length} bytes", len(header))
    return struct.unpack(f">{_DIMENSIONS[magic]}I", header[4:])


def _fill(stream: _Stream, target: memoryview) -> int:
    """Read into `target` until it is full or the stream ends; the number of bytes read."""
    filled = 0
    while filled < len(target):
        got = stream.readinto(target[filled:])  # type: ignore[union-attr]
        if not got:
            break
        filled += got
    return filled


def _write(path: str | os.PathLike[str], magic: int, array: np.ndarray) -> None:
    assert array.dtype == np.uint8
    assert array.ndim == _DIMENSIONS[magic]
    header = struct.pack(f">{1 + array.ndim}I", magic, *array.shape)
    content = header + array.tobytes()
    # mtime 0: the same arrays give the same file
    write_bytes(path, gzip.compress(content, mtime=0) if str(path).endswith(".gz") else content)
