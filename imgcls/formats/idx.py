"""MNIST's idx files: one file of images, one of labels, both big-endian, usually gzip-ed.

    images  u32 2051, u32 count, u32 rows, u32 columns, then count * rows * columns pixels, u8
    labels  u32 2049, u32 count, then count labels, u8

`datasets/mnist.py` reads them, the tests write them. Whether a file is gzip-ed is seen from its content, not
from its name. A header that announces more than the file can hold is refused before memory is taken.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import re
import struct
import zlib
from typing import BinaryIO

import numpy as np

from imgcls.errors import DataError, reason
from imgcls.storage.atomic import write_bytes
from imgcls.storage.paths import AnyPath, to_path
from imgcls.storage.reading import open_read

# The magic's third byte is the type (8: u8), its fourth the number of dimensions.
IMAGES_MAGIC = 2051
LABELS_MAGIC = 2049
_NUM_DIMENSIONS = {IMAGES_MAGIC: 3, LABELS_MAGIC: 1}
_CONTENT = {IMAGES_MAGIC: "images", LABELS_MAGIC: "labels"}
_GZIP_MAGIC = b"\x1f\x8b"
#: zlib's number for a gzip header and checksum around the data
_GZIP_BITS = 31
#: gzip shrinks pictures of digits to a tenth, and a bomb to a thousandth: a header may announce this many
#: times the file's size, and of a small file, which may be of blank images, this many bytes
_LARGEST_RATIO = 100
_LARGEST_UNCHECKED = 256 << 20
#: deflate cannot make a file smaller than this
_DEFLATE_RATIO = 1032
#: bytes unzipped at a time: few calls, as each takes the interpreter's lock, and no second copy of the whole
_PIECE_BYTES = 16 << 20
#: compressed bytes that zlib is given of a member at first; then twice as many each time, up to _PIECE_BYTES
_FIRST_BYTES = 1 << 12
_ZEROS = re.compile(rb"\0*")

#: what `_read_array` reads from: the file itself, or its unzipped content
_Stream = io.RawIOBase | io.BufferedIOBase | BinaryIO


def read_images(path: str | os.PathLike[str]) -> np.ndarray:
    """Return uint8 (N, rows, columns), writable; DataError for anything but one whole file of images."""
    return _read(to_path(path), IMAGES_MAGIC)


def read_labels(path: str | os.PathLike[str]) -> np.ndarray:
    """Return uint8 (N,), writable; DataError for anything but one whole file of labels."""
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
            size = os.fstat(stream.fileno()).st_size  # of what was opened: the name may lead elsewhere by now
            is_gzip = stream.read(2) == _GZIP_MAGIC
            stream.seek(0)
            # A plain file is read straight into the array, a gzip-ed one is in memory first: it is small.
            if not is_gzip:
                return _read_array(stream, path, magic, size)
            largest = min(size * _DEFLATE_RATIO, max(size * _LARGEST_RATIO, _LARGEST_UNCHECKED))
            return _read_array(_GzipStream(stream.read()), path, magic, largest)
    except (EOFError, zlib.error) as error:
        damage = str(error).lower().rstrip(".")
        raise DataError(path, f"the gzip stream is damaged or cut short ({damage})") from error
    except OSError as error:
        raise DataError(path, f"cannot be read: {reason(error)}") from error


class _GzipStream(io.RawIOBase):
    """A gzip file as a stream, checksums and several members included.

    gzip.GzipFile reads in small pieces: a thread that reads beside another that computes would wait a
    thousand times for the interpreter's lock. Here each read is one call of zlib, which releases that lock
    meanwhile.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        #: where the bytes begin that zlib has not taken yet
        self._position = 0
        self._begin_member()

    def _begin_member(self) -> None:
        self._member = zlib.decompressobj(wbits=_GZIP_BITS)
        # zlib copies what it is given and does not use: of a file of tiny members that would be nearly all of
        # it each time
        self._num_given = _FIRST_BYTES

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` (at least 1) bytes, b"" at the end; zlib.error or EOFError where damaged."""
        pieces = []
        num_missing = size
        while num_missing:
            if self._member.eof:
                # Another member may follow; zeros may pad the file.
                zeros = _ZEROS.match(self._content, self._position)
                self._position = zeros.end() if zeros else self._position
                if self._position == len(self._content):
                    break
                self._begin_member()
            given = self._content[self._position:self._position + self._num_given]
            piece = self._member.decompress(given, num_missing)
            rest = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            self._position += len(given) - len(rest)
            self._num_given = min(2 * self._num_given, _PIECE_BYTES)
            if piece:
                pieces.append(piece)
                num_missing -= len(piece)
            elif not given and not self._member.eof:
                raise EOFError("it ends before its end marker")
        return b"".join(pieces)

    def readinto(self, target: memoryview) -> int:  # type: ignore[override]
        """Fill `target` with what is read next; return the number of bytes."""
        piece = self.read(min(len(target), _PIECE_BYTES))
        target[:len(piece)] = piece
        return len(piece)


def _read_array(stream: _Stream, path: AnyPath, magic: int, largest: int) -> np.ndarray:
    """Return the content of the (unzipped) stream, which cannot be longer than `largest` bytes."""
    shape = _read_header(stream, path, magic)
    start = 4 + 4 * len(shape)
    count = math.prod(shape)
    if start + count > largest:
        raise DataError(path, f"truncated: the header announces {count} bytes of {_CONTENT[magic]} "
                              f"({' x '.join(map(str, shape))}), more than the file can hold", start)
    # Filled in place: no second copy of a large file.
    array = np.empty(count, np.uint8)
    num_filled = _fill(stream, array.data)
    if num_filled < count:
        raise DataError(path, f"truncated: {num_filled} of {count} bytes of {_CONTENT[magic]}",
                        start + num_filled)
    # One byte more: with gzip this also makes zlib check its checksum at the end.
    if stream.read(1):
        raise DataError(path, f"unknown bytes follow the {shape[0]} {_CONTENT[magic]} that the header "
                              "announces", start + count)
    return array.reshape(shape)


def _read_header(stream: _Stream, path: AnyPath, magic: int) -> tuple[int, ...]:
    size = 4 + 4 * _NUM_DIMENSIONS[magic]
    header = stream.read(size)
    stored = int.from_bytes(header[:4], "big")
    # The commonest mistake, the two files exchanged, has a message of its own.
    if len(header) >= 4 and stored in _CONTENT and stored != magic:
        raise DataError(path, f"holds {_CONTENT[stored]}, not {_CONTENT[magic]} "
                              f"(magic {stored}, not {magic})", 0)
    if len(header) >= 4 and stored != magic:
        raise DataError(path, f"not an idx file of {_CONTENT[magic]}: magic {stored}, not {magic}", 0)
    if len(header) < size:
        raise DataError(path, f"truncated: the header has {len(header)} of {size} bytes", len(header))
    return struct.unpack(f">{_NUM_DIMENSIONS[magic]}I", header[4:])


def _fill(stream: _Stream, target: memoryview) -> int:
    """Read into `target` until it is full or the stream ends; return the number of bytes read."""
    num_filled = 0
    # A raw stream may give less than is requested.
    while num_filled < len(target):
        count = stream.readinto(target[num_filled:])  # type: ignore[union-attr]
        if not count:
            break
        num_filled += count
    return num_filled


def _write(path: str | os.PathLike[str], magic: int, array: np.ndarray) -> None:
    assert array.dtype == np.uint8
    assert array.ndim == _NUM_DIMENSIONS[magic]
    header = struct.pack(f">{1 + array.ndim}I", magic, *array.shape)
    content = header + array.tobytes()
    # mtime 0: the same arrays give the same file.
    write_bytes(path, gzip.compress(content, mtime=0) if str(path).endswith(".gz") else content)
