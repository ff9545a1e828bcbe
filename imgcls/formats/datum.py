"""Caffe's LMDB of images: a database whose values are `Datum` messages of caffe.proto.

    1 channels, 2 height, 3 width    int32
    4 data                           bytes: u8 planes B, G, R of the image, or an encoded file
    5 label                          int32
    6 float_data                     not read
    7 encoded                        bool: `data` is a JPEG or PNG

Values are never trusted: lengths are compared with what is there. The database itself is read by the package
`lmdb` (the extra lmdb), which believes its pages: open only databases that you trust to be whole.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from imgcls.errors import DataError, RunError, UsageError, reason, verbatim

#: numbers of the fields
CHANNELS, HEIGHT, WIDTH, DATA, LABEL, FLOAT_DATA, ENCODED = 1, 2, 3, 4, 5, 6, 7
#: wire types of protobuf
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
#: a message has seven fields, each once or, of floats, a value at a time
_MAX_FIELDS = 10_000
#: a database grows up to this size; it takes no more of the disk than it fills
_MAX_BYTES = 1 << 44
#: a transaction holds its pages in memory: so many images each
_COMMIT_INTERVAL = 1000
DATA_FILE = "data.mdb"


class Datum(NamedTuple):
    """A message. `data` is an encoded image where `is_encoded`, else planes of uint8 (C, H, W), B first."""

    channels: int
    height: int
    width: int
    data: bytes
    label: int
    is_encoded: bool

    def pixels(self) -> np.ndarray:
        """Return the pixels, uint8 (H, W, C) in the order B, G, R; a ValueError where they do not fit."""
        shape = (self.channels, self.height, self.width)
        # the sizes are the message's own claim: compared before numpy is asked for a view of them
        if self.is_encoded or min(shape) < 1 or len(self.data) != self.channels * self.height * self.width:
            raise ValueError(f"{len(self.data)} bytes are no image of {'x'.join(map(str, shape))}")
        # Caffe keeps planes, OpenCV pixels; both have blue first
        return np.ascontiguousarray(np.frombuffer(self.data, np.uint8).reshape(shape).transpose(1, 2, 0))


def decode_datum(message: bytes) -> Datum:
    """Return the Datum that a message is; a ValueError for damage, and for one with `float_data`."""
    fields: dict[int, int | bytes] = {}
    offset = 0
    # a message of a million empty fields would cost minutes in Python
    for _ in range(_MAX_FIELDS):
        if offset == len(message):
            break
        tag, offset = _varint(message, offset)
        number, kind = tag >> 3, tag & 7
        # the last one of a field that stands there twice wins, as protobuf has it
        if kind == _VARINT:
            fields[number], offset = _varint(message, offset)
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(kind, -1)
        if kind == _LENGTH:
            size, offset = _varint(message, offset)
        if not 0 <= size <= len(message) - offset:
            raise ValueError("a damaged Datum")
        # arrays of features are stored so, and no pixels
        if number == FLOAT_DATA:
            raise ValueError("a Datum of floats is no image")
        fields[number] = message[offset:offset + size]
        offset += size
    data = fields.get(DATA, b"")
    numbers = [fields.get(number, 0) for number in (CHANNELS, HEIGHT, WIDTH, LABEL, ENCODED)]
    if offset != len(message) or not isinstance(data, bytes) or any(isinstance(n, bytes) for n in numbers):
        raise ValueError("a damaged Datum")
    channels, height, width, label, is_encoded = (int(number) for number in numbers)
    label -= (1 << 64) * (label >> 63)  # negative numbers are 64 bits wide
    return Datum(channels, height, width, data, label, bool(is_encoded))


def encode_datum(datum: Datum) -> bytes:
    """Return the message, fields in their order."""
    numbers = [(CHANNELS, datum.channels), (HEIGHT, datum.height), (WIDTH, datum.width)]
    # proto2 writes what is set: sizes of 0 are left out for encoded images, as Caffe does
    head = b"".join(_write_varint(number << 3) + _write_varint(value) for number, value in numbers if value)
    data = _write_varint(DATA << 3 | _LENGTH) + _write_varint(len(datum.data)) + datum.data
    label = _write_varint(LABEL << 3) + _write_varint(datum.label % (1 << 64))
    return head + data + label + (_write_varint(ENCODED << 3) + b"\x01" if datum.is_encoded else b"")


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    """Return (value, offset behind it)."""
    value = 0
    # ten bytes hold 64 bits; more is damage
    for i, byte in enumerate(data[offset:offset + 10]):
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, offset + i + 1
    raise ValueError("a damaged Datum")


def _write_varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def is_lmdb(path: str | os.PathLike[str]) -> bool:
    """Return whether a folder holds an LMDB."""
    return os.path.isfile(os.path.join(path, DATA_FILE))


class LmdbReader:
    """The (key, Datum) pairs of a database, by key."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        lmdb = _package()
        try:
            # without a lock: the folder may be read-only
            self._environment = lmdb.open(self.path, readonly=True, lock=False, readahead=False)
        except lmdb.Error as error:
            raise DataError(self.path, f"is no LMDB: {verbatim(error)}") from error

    def __len__(self) -> int:
        return self._environment.stat()["entries"]

    def __iter__(self) -> Iterator[tuple[bytes, Datum]]:
        """Yield the pairs; DataError at one that is no Datum."""
        with self._environment.begin() as transaction:
            for key, value in transaction.cursor():
                try:
                    yield key, decode_datum(value)
                except ValueError as error:
                    raise DataError(self.path, f"key {verbatim(key)}: {error}") from error

    def close(self) -> None:
        """Close the database."""
        self._environment.close()


class LmdbWriter:
    """Writes a database; the folder takes its name when `close` (or `with`) ends well."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(path)
        self._lmdb = _package()
        self._count = 0
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            self._folder = tempfile.mkdtemp(prefix=f".{os.path.basename(self.path)}.",
                                            dir=os.path.dirname(self.path))
            self._environment = self._lmdb.open(self._folder, map_size=_MAX_BYTES)
        except (OSError, self._lmdb.Error) as error:
            raise RunError(f"cannot write {verbatim(self.path)}: {verbatim(error)}") from error
        self._transaction = self._environment.begin(write=True)

    def __enter__(self) -> LmdbWriter:
        return self

    def write(self, key: bytes, datum: Datum) -> None:
        """Append a pair; keys come in their order."""
        try:
            # append: keys in order fill pages one after the other; of any other LMDB returns False
            if not self._transaction.put(key, encode_datum(datum), append=True):
                raise RunError(f"cannot write {verbatim(self.path)}: the key {verbatim(key)} is not behind "
                               "the one before")
            self._count += 1
            if self._count % _COMMIT_INTERVAL == 0:
                self._transaction.commit()
                self._transaction = self._environment.begin(write=True)
        except self._lmdb.Error as error:
            raise RunError(f"cannot write {verbatim(self.path)}: {verbatim(error)}") from error

    def __exit__(self, *exc_info: Any) -> None:
        try:
            if exc_info[0] is None:
                self._transaction.commit()
                self._environment.sync(True)
                self._environment.close()
                os.unlink(os.path.join(self._folder, "lock.mdb"))
                os.chmod(self._folder, 0o755)
                os.rename(self._folder, self.path)
        except (OSError, self._lmdb.Error) as error:
            why = reason(error) if isinstance(error, OSError) else verbatim(error)
            raise RunError(f"cannot write {verbatim(self.path)}: {why}") from error
        finally:
            self._environment.close()
            shutil.rmtree(self._folder, ignore_errors=True)


def _package() -> Any:
    try:
        import lmdb
    except ImportError:
        raise UsageError("LMDB needs the package lmdb: pip install 'imgcls[lmdb]'") from None
    return lmdb
