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

import errno
import os
import shutil
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np

from imgcls.errors import DataError, RunError, UsageError, reason, verbatim
from imgcls.storage.atomic import atomic_folder

#: numbers of the fields
CHANNELS, HEIGHT, WIDTH, DATA, LABEL, FLOAT_DATA, ENCODED = 1, 2, 3, 4, 5, 6, 7
#: wire types of protobuf
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
#: a message has seven fields, each once or, of floats, a value at a time
_MAX_FIELDS = 10_000
#: a database grows up to this size; it takes no more of the disk than it fills
_MAX_BYTES = 1 << 44
#: a disk with less room than this is full: LMDB writes pages, many at a time
_FULL_BYTES = 1 << 20
#: a transaction holds its pages in memory: so many images each
_COMMIT_INTERVAL = 1000
DATA_FILE = "data.mdb"
#: open databases by real path
_ENVIRONMENTS: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


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


def decode_datum(message: bytes | memoryview) -> Datum:
    """Return the Datum that a message is; a ValueError for damage, and for one with `float_data`."""
    fields = _fields(message)
    data = fields.get(DATA, b"")
    numbers = [fields.get(number, 0) for number in (CHANNELS, HEIGHT, WIDTH, LABEL, ENCODED)]
    if isinstance(data, int) or not all(isinstance(number, int) for number in numbers):
        raise ValueError("a damaged Datum")
    channels, height, width, label, is_encoded = (int(number) for number in numbers)
    return Datum(channels, height, width, bytes(data), _signed(label), bool(is_encoded))


def datum_label(message: bytes | memoryview) -> int:
    """Return the label of a message without a copy of its image; a ValueError as `decode_datum`."""
    # behind the image: the page that the image ends on is read with it
    label = _fields(message).get(LABEL, 0)
    if not isinstance(label, int):
        raise ValueError("a damaged Datum")
    return _signed(label)


def _signed(label: int) -> int:
    return label - (1 << 64) * (label >> 63)  # negative numbers are 64 bits wide


def _fields(message: bytes | memoryview) -> dict[int, int | bytes | memoryview]:
    """Return field number -> value, bytes as slices of the message; a ValueError for damage."""
    fields: dict[int, int | bytes | memoryview] = {}
    offset = 0
    # a message of a million empty fields would cost minutes in Python
    for _ in range(_MAX_FIELDS):
        if offset == len(message):
            return fields
        tag, offset = _varint(message, offset)
        number, kind = tag >> 3, tag & 7
        # the last one of a field that occurs twice wins, as protobuf has it
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
    raise ValueError("a damaged Datum")


def encode_datum(datum: Datum) -> bytes:
    """Return the message, fields in their order."""
    numbers = [(CHANNELS, datum.channels), (HEIGHT, datum.height), (WIDTH, datum.width)]
    # proto2 writes what is set: sizes of 0 are left out for encoded images, as Caffe does
    head = b"".join(_write_varint(number << 3) + _write_varint(value) for number, value in numbers if value)
    # a tag is the field's number and, in the lowest three bits, its wire type; 0 is a varint
    data = _write_varint(DATA << 3 | _LENGTH) + _write_varint(len(datum.data)) + datum.data
    label = _write_varint(LABEL << 3) + _write_varint(datum.label % (1 << 64))
    return head + data + label + (_write_varint(ENCODED << 3) + b"\x01" if datum.is_encoded else b"")


def _varint(data: bytes | memoryview, offset: int) -> tuple[int, int]:
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
        """Open the folder of a database, or its file."""
        self.path = os.fspath(path)
        self._lmdb = _package()
        self._environment = _open_environment(self.path)

    def __len__(self) -> int:
        return self._environment.stat()["entries"]

    def __iter__(self) -> Iterator[tuple[bytes, Datum]]:
        """Yield the pairs; DataError at one that is no Datum, and where the database is damaged."""
        with self._environment.begin() as transaction:
            cursor = iter(transaction.cursor())
            while True:
                try:
                    key, value = next(cursor)
                except StopIteration:
                    return
                except self._lmdb.Error as error:
                    raise DataError(self.path, f"the LMDB is damaged: {verbatim(error)}") from error
                try:
                    datum = decode_datum(value)
                except ValueError as error:
                    raise DataError(self.path, f"key {verbatim(key)}: {error}") from error
                yield key, datum

    def labels(self) -> Iterator[tuple[bytes, float]]:
        """Yield (key, label) of all pairs, nan for a value that is no Datum; no image is copied."""
        with self._environment.begin(buffers=True) as transaction:
            for key, value in transaction.cursor():
                try:
                    yield bytes(key), float(datum_label(value))
                except ValueError:
                    yield bytes(key), float("nan")

    def read(self, key: bytes) -> Datum:
        """Return the Datum of a key, from any thread; a ValueError where there is none."""
        try:
            with self._environment.begin(buffers=True) as transaction:
                value = transaction.get(key)
                if value is None:
                    raise ValueError("is there no longer")
                return decode_datum(value)
        except self._lmdb.Error as error:
            raise ValueError(f"cannot be read: {verbatim(error)}") from error

    @staticmethod
    def check_package() -> None:
        """Raise a UsageError where the package lmdb is missing."""
        _package()

    def close(self) -> None:
        """Release the database; it is closed when no other reader has it open."""
        del self._environment


def _open_environment(path: str) -> Any:
    """Return the open database, the same for all readers: a process may open it only once."""
    # the file itself, however it was named
    file = os.path.realpath(os.path.join(path, DATA_FILE) if os.path.isdir(path) else path)
    environment = _ENVIRONMENTS.get(file)
    if environment is None:
        lmdb = _package()
        try:
            # without a lock: the folder may be read-only
            environment = lmdb.open(file, readonly=True, lock=False, readahead=False, subdir=False)
        except (lmdb.Error, OSError) as error:
            raise DataError(path, f"is no LMDB: {verbatim(error)}") from error
        _ENVIRONMENTS[file] = environment
    return environment


class LmdbWriter:
    """Writes a database, in a `with` block; the folder gets its name when the block ends without an error."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(path)
        self._lmdb = _package()
        self._count = 0
        self._stack = ExitStack()
        try:
            self._folder = self._stack.enter_context(atomic_folder(self.path))
            self._environment = self._lmdb.open(self._folder, map_size=_MAX_BYTES)
        except (OSError, self._lmdb.Error) as error:
            self._stack.__exit__(type(error), error, None)
            raise RunError(f"cannot write {verbatim(self.path)}: {verbatim(error)}") from error
        self._stack.push(self._complete)
        self._transaction = self._environment.begin(write=True)

    def __enter__(self) -> LmdbWriter:
        return self

    def write(self, key: bytes, datum: Datum) -> None:
        """Append a pair. Keys must come in ascending order: another one is a RunError."""
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
            raise self._failed(error) from error

    def __exit__(self, *exc_info: Any) -> None:
        self._stack.__exit__(*exc_info)

    def _complete(self, kind: object, *_rest: object) -> None:
        """Close the database, before its folder takes its name where all went well."""
        try:
            if kind is None:
                self._transaction.commit()
                self._environment.sync(True)
        except self._lmdb.Error as error:
            raise self._failed(error) from error
        finally:
            self._environment.close()
        if kind is None:
            os.unlink(os.path.join(self._folder, "lock.mdb"))

    def _failed(self, error: Exception) -> RunError:
        # LMDB says EIO where a disk took a part of what was written
        is_full = shutil.disk_usage(self._folder).free < _FULL_BYTES
        why = reason(OSError(errno.ENOSPC, "")) if is_full else verbatim(error)
        return RunError(f"cannot write {verbatim(self.path)}: {why}")


def _package() -> Any:
    try:
        import lmdb
    except ImportError:
        raise UsageError("LMDB needs the package lmdb: pip install 'imgcls[lmdb]'") from None
    return lmdb
