"""CIFAR-10 and CIFAR-100 batches: binary or pickled, as loose files, in their folder, or inside the archive.

    binary  per picture: u8 label (CIFAR-10) or u8 coarse label, u8 label (CIFAR-100), then 3072 bytes;
            no header
    pickle  a dict of `data`, uint8 (N, 3072), and `labels` (CIFAR-10) or `fine_labels` and `coarse_labels`
            (CIFAR-100)

The 3072 bytes are the planes R, G, B of 32 x 32 pixels. `datasets/cifar10.py` reads them.

A pickle is a program, so it is never handed to Python's `pickle`: `_PickleReader` understands the few
instructions that write dicts, lists, numbers, strings and byte arrays, and can neither import nor call
anything else.
"""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imgcls.errors import DataError
from imgcls.storage import local

PIXELS = 3 * 32 * 32
#: the largest real file, the training pictures of CIFAR-100, has 155 million bytes
_LARGEST_FILE = 256 << 20
_LARGEST_ARCHIVE = 1 << 30
_MOST_MEMBERS = 1000
#: CIFAR-100 written by Python 3 takes about 1.5 million
_MOST_INSTRUCTIONS = 8_000_000


class Batch(NamedTuple):
    """Pictures with their labels: `images` uint8 (N, 3, 32, 32) RGB, `labels` int64 (N,) from 0 up.
    `coarse_labels` int64 (N,) are the 20 groups of CIFAR-100; None for CIFAR-10."""

    images: np.ndarray
    labels: np.ndarray
    coarse_labels: np.ndarray | None = None


class Splits(NamedTuple):
    """What `read_splits` found, and where."""

    train: Batch
    test: Batch
    place: Path


@dataclass(frozen=True)
class _Layout:
    """One of the published forms: the files, the folder they unpack to, and the archive they come in."""

    train: Sequence[str]
    test: str
    folder: str
    archive: str


_LAYOUTS = {
    10: (
        _Layout([f"data_batch_{i}.bin" for i in range(1, 6)], "test_batch.bin",
                "cifar-10-batches-bin", "cifar-10-binary.tar.gz"),
        _Layout([f"data_batch_{i}" for i in range(1, 6)], "test_batch",
                "cifar-10-batches-py", "cifar-10-python.tar.gz"),
    ),
    100: (
        _Layout(["train.bin"], "test.bin", "cifar-100-binary", "cifar-100-binary.tar.gz"),
        _Layout(["train"], "test", "cifar-100-python", "cifar-100-python.tar.gz"),
    ),
}


def read(path: str | os.PathLike[str], classes: int = 10) -> Batch:
    """Read one batch file, binary or pickled (seen from its content). `classes` is 10 or 100.

    Raises DataError for a file that is not a whole batch, and for a pickle of anything but plain data.
    """
    file = local(path)
    try:
        with open(file, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > _LARGEST_FILE:
                raise DataError(file, f"has {size} bytes, more than any CIFAR batch")
            content = stream.read(size)
    except OSError as error:
        raise DataError(file, f"cannot be read: {(error.strerror or str(error)).lower()}") from error
    return _parse(content, str(file), classes)


def read_splits(folder: str | os.PathLike[str], classes: int = 10) -> Splits | None:
    """The training and test pictures in `folder`: loose, in the archive's folder, or in the archive itself.

    None when no form of the data set is there with all its files; a damaged file is a DataError.
    """
    root = local(folder)
    for layout in _LAYOUTS[classes]:
        names = [*layout.train, layout.test]
        for place in (root, root / layout.folder):
            if all((place / name).is_file() for name in names):
                return _joined([read(place / name, classes) for name in names], place)
    for layout in _LAYOUTS[classes]:
        names = [*layout.train, layout.test]
        archive = root / layout.archive
        if archive.is_file():
            members = _read_archive(archive, names)
            batches = [_parse(members.pop(name), f"{archive}:{name}", classes) for name in names]
            return _joined(batches, archive)
    return None


def _joined(batches: list[Batch], place: Path) -> Splits:
    """All batches but the last, one after the other, are for training; the last is the test."""
    *train, test = batches
    coarse = [batch.coarse_labels for batch in train if batch.coarse_labels is not None]
    return Splits(Batch(np.concatenate([batch.images for batch in train]),
                        np.concatenate([batch.labels for batch in train]),
                        np.concatenate(coarse) if coarse else None), test, place)


def _parse(content: bytes, name: str, classes: int) -> Batch:
    # Protocol 2 and later start with 0x80, which is no label of CIFAR-10 and no coarse label of CIFAR-100.
    batch = (_parse_pickle if content[:1] == b"\x80" else _parse_binary)(content, name, classes)
    if not len(batch.labels):
        raise DataError(name, "holds no pictures")
    for labels, limit in ((batch.labels, classes), (batch.coarse_labels, 20)):
        if labels is not None and not 0 <= labels.min() <= labels.max() < limit:
            worst = int(np.argmax((labels < 0) | (labels >= limit)))
            raise DataError(name, f"picture {worst} has label {labels[worst]}, not 0 to {limit - 1}")
    return batch


def _parse_binary(content: bytes, name: str, classes: int) -> Batch:
    label_bytes = 1 if classes == 10 else 2
    row = label_bytes + PIXELS
    if not content or len(content) % row:
        raise DataError(name, f"not a CIFAR-{classes} batch: {len(content)} bytes are no multiple of {row}; "
                              "the file is truncated or of another kind", len(content) // row * row)
    rows = np.frombuffer(content, np.uint8).reshape(-1, row)
    images = np.array(rows[:, label_bytes:]).reshape(-1, 3, 32, 32)
    return Batch(images, rows[:, label_bytes - 1].astype(np.int64),
                 rows[:, 0].astype(np.int64) if classes == 100 else None)


def _parse_pickle(content: bytes, name: str, classes: int) -> Batch:
    found = _PickleReader(content, name).load()
    if not isinstance(found, dict):
        raise DataError(name, f"not a CIFAR-{classes} batch: the pickle holds no dict")
    # Python 2 wrote the keys as byte strings, Python 3 writes text.
    batch = {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in found.items()}
    data = batch.get("data")
    if not isinstance(data, _Array) or data.shape[1:] != (PIXELS,):
        raise DataError(name, f"not a CIFAR-{classes} batch: no uint8 array `data` of (N, {PIXELS})")
    images = data.to_numpy().reshape(-1, 3, 32, 32)
    keys = ("labels",) if classes == 10 else ("fine_labels", "coarse_labels")
    return Batch(images, *(_label_array(batch.get(key), key, len(images), name) for key in keys))


def _label_array(values: object, key: str, count: int, name: str) -> np.ndarray:
    if not isinstance(values, list) or any(type(value) is not int for value in values):
        raise DataError(name, f"no list of numbers `{key}` in the pickle")
    if len(values) != count:
        raise DataError(name, f"{count} pictures but {len(values)} {key}")
    return np.array(values, np.int64)


# Archives


def _read_archive(archive: Path, names: Sequence[str]) -> dict[str, bytes]:
    """The members called `names`, in whatever folder of the .tar or .tar.gz; nothing is unpacked to disk."""
    found: dict[str, bytes] = {}
    try:
        with open(archive, "rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream = _BoundedStream(gzip.GzipFile(fileobj=raw) if zipped else raw, archive)
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for number, member in enumerate(tar):
                    name = member.name.rpartition("/")[2]
                    # Plain files only: a sparse one can be far larger than what stands in the archive.
                    if name in names and name not in found and member.isreg() and not member.issparse():
                        found[name] = _read_member(tar, member, archive)
                    if len(found) == len(names) or number >= _MOST_MEMBERS:
                        break
            while stream.read(1 << 20):
                pass  # gzip's checksum stands at the end
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(archive, f"the archive is damaged or cut short ({str(error).lower()})") from error
    except OSError as error:
        raise DataError(archive, f"cannot be read: {(error.strerror or str(error)).lower()}") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(archive, f"the archive has no {', '.join(missing)}")
    return found


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo, archive: Path) -> bytes:
    if member.size > _LARGEST_FILE:
        raise DataError(archive, f"member {member.name} has {member.size} bytes, more than any CIFAR batch")
    stream = tar.extractfile(member)
    assert stream is not None
    content = stream.read()
    if len(content) != member.size:
        raise DataError(archive, f"member {member.name} is cut short: {len(content)} of {member.size} bytes")
    return content


class _BoundedStream(io.RawIOBase):
    """A stream that refuses to be read too far or in too large pieces: a small archive can announce a huge
    header, which tarfile would read whole."""

    def __init__(self, stream: Any, archive: Path) -> None:
        self._stream = stream
        self._archive = archive

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LARGEST_FILE or self._stream.tell() + size > _LARGEST_ARCHIVE:
            raise DataError(self._archive, "larger than any CIFAR archive", self._stream.tell())
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_SET and offset > _LARGEST_ARCHIVE:
            raise DataError(self._archive, "larger than any CIFAR archive", self._stream.tell())
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


# Pickles


class _Array:
    """Stands for a numpy.ndarray of uint8 while a pickle is read: its shape and its bytes, no more."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.is_fortran = False
        self.content = b""

    def set(self, state: Any) -> None:
        """Take what numpy's `__setstate__` takes: (version, shape, dtype, is_fortran, bytes)."""
        _version, shape, dtype, is_fortran, content = state
        if not isinstance(dtype, _DType) or not isinstance(content, bytes):
            raise ValueError("an array that is not of bytes")
        if type(shape) is not tuple or [type(side) for side in shape] != [int, int] or min(shape) < 0:
            raise ValueError("an array that is not of two dimensions")
        if shape[0] * shape[1] != len(content):
            raise ValueError(f"an array of {shape} with {len(content)} bytes")
        self.shape, self.is_fortran, self.content = shape, bool(is_fortran), content

    def to_numpy(self) -> np.ndarray:
        """uint8 of the pickled shape, contiguous and writable."""
        flat = np.frombuffer(self.content, np.uint8)
        return np.array(flat.reshape(self.shape, order="F" if self.is_fortran else "C"), order="C")


class _DType:
    """Stands for numpy.dtype; only uint8 is allowed, above all no objects."""

    def __init__(self, name: str | bytes, *_flags: object) -> None:
        if name not in ("u1", b"u1", "uint8", b"uint8"):
            what = repr(name) if isinstance(name, str | bytes) else "of unknown kind"
            raise ValueError(f"an array of dtype {what}, only uint8 is read")

    def set(self, state: Any) -> None:
        """Byte order and the like mean nothing for bytes."""


def _reconstruct(kind: object, *_rest: object) -> _Array:
    if kind is not _Array:
        raise ValueError("an array of unknown kind")
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in protocol 2: as text that is to be encoded."""
    if type(text) is not str or encoding != "latin1":
        raise ValueError("bytes in an encoding other than latin1")
    return text.encode("latin-1")


#: every name that a pickle may mention, and what it means here; nothing is looked up anywhere else
_NAMES: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): _encode,
}


class _PickleReader:
    """Runs the data part of the pickle language (protocols 2 to 4) on a stack of its own.

    What comes out is made of dict, list, tuple, int, bytes, str, bool, None and `_Array`. Everything else
    - other names, other calls, persistent ids, extensions - is a DataError with the instruction's offset.
    """

    def __init__(self, content: bytes, name: str) -> None:
        self.content = content
        self.name = name
        self.at = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.encoded_bytes = 0

    def load(self) -> object:
        """The object that the pickle describes."""
        start = 0
        try:
            for _ in range(_MOST_INSTRUCTIONS):
                start = self.at
                code = self.content[start]
                self.at += 1
                if code == 0x2E:  # "." ends the pickle
                    return self.stack.pop()
                instruction = _INSTRUCTIONS.get(code)
                if instruction is None:
                    raise ValueError(f"instruction {bytes([code])!r}, which is not one of plain data")
                instruction(self)
        except (IndexError, struct.error) as error:
            reason = "truncated" if self.at >= len(self.content) else "damaged"
            raise DataError(self.name, f"the pickle is {reason}", start) from error
        except (ValueError, TypeError, KeyError) as error:
            what = str(error) if isinstance(error, ValueError) else "damaged data"
            raise DataError(self.name, f"the pickle is refused: it has {what}", start) from error
        raise DataError(self.name, "the pickle is refused: it has too many instructions", start)

    def number(self, layout: str) -> int:
        """The little-endian number that follows, in struct's notation."""
        (value,) = struct.unpack_from(layout, self.content, self.at)
        self.at += struct.calcsize(layout)
        return value

    def piece(self, layout: str) -> bytes:
        """The bytes that follow a number which says how many there are."""
        size = self.number(layout)
        if not 0 <= size <= len(self.content) - self.at:
            self.at = len(self.content)
            raise IndexError
        self.at += size
        return self.content[self.at - size:self.at]

    def line(self) -> str:
        end = self.content.index(b"\n", self.at)
        text = self.content[self.at:end].decode()
        self.at = end + 1
        return text

    def since_mark(self) -> list[Any]:
        """Take off the stack what lies above the last mark."""
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise TypeError
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise TypeError
        # Hashing a tuple of tuples of tuples ... overflows the stack of the interpreter.
        if any(type(key) not in (bytes, str) for key in items[::2]):
            raise ValueError("a dict key that is no string")
        target.update(zip(items[::2], items[1::2], strict=True))

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(items)

    def named(self, module: object, name: object) -> None:
        if type(module) is not str or type(name) is not str:
            raise TypeError
        if (module, name) not in _NAMES:
            raise ValueError(f"the name {module}.{name}, which no CIFAR batch needs")
        self.stack.append(_NAMES[module, name])

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(arguments) is not tuple or not any(function is known for known in _NAMES.values()):
            raise ValueError("a call of something that is no function")
        result = function(*arguments)
        if isinstance(result, bytes):
            # A text that is written once and encoded a thousand times would be a bomb.
            self.encoded_bytes += len(result)
            if self.encoded_bytes > len(self.content):
                raise ValueError("more encoded text than it holds")
        self.stack.append(result)

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, _Array | _DType):
            raise ValueError("a state for something that has none")
        target.set(state)

    def skip(self, count: int) -> None:
        self.at += count


_INSTRUCTIONS: dict[int, Callable[[_PickleReader], object]] = {
    0x80: lambda r: r.skip(1),                                     # PROTO
    0x95: lambda r: r.skip(8),                                     # FRAME
    ord("("): lambda r: r.marks.append(len(r.stack)),
    ord("}"): lambda r: r.stack.append({}),
    ord("]"): lambda r: r.stack.append([]),
    ord(")"): lambda r: r.stack.append(()),
    ord("N"): lambda r: r.stack.append(None),
    0x88: lambda r: r.stack.append(True),
    0x89: lambda r: r.stack.append(False),
    ord("K"): lambda r: r.stack.append(r.number("<B")),
    ord("M"): lambda r: r.stack.append(r.number("<H")),
    ord("J"): lambda r: r.stack.append(r.number("<i")),
    ord("U"): lambda r: r.stack.append(r.piece("<B")),             # byte strings of Python 2
    ord("T"): lambda r: r.stack.append(r.piece("<i")),
    ord("C"): lambda r: r.stack.append(r.piece("<B")),             # bytes of Python 3
    ord("B"): lambda r: r.stack.append(r.piece("<I")),
    0x8E: lambda r: r.stack.append(r.piece("<Q")),
    ord("X"): lambda r: r.stack.append(r.piece("<I").decode()),    # text
    0x8C: lambda r: r.stack.append(r.piece("<B").decode()),
    ord("q"): lambda r: r.memo.__setitem__(r.number("<B"), r.stack[-1]),
    ord("r"): lambda r: r.memo.__setitem__(r.number("<I"), r.stack[-1]),
    0x94: lambda r: r.memo.__setitem__(len(r.memo), r.stack[-1]),
    ord("h"): lambda r: r.stack.append(r.memo[r.number("<B")]),
    ord("j"): lambda r: r.stack.append(r.memo[r.number("<I")]),
    0x85: lambda r: r.tuple_of(1),
    0x86: lambda r: r.tuple_of(2),
    0x87: lambda r: r.tuple_of(3),
    ord("t"): lambda r: r.stack.append(tuple(r.since_mark())),
    ord("a"): lambda r: r.append([r.stack.pop()]),
    ord("e"): lambda r: r.append(r.since_mark()),
    ord("s"): lambda r: r.set_items([r.stack.pop(-2), r.stack.pop()]),
    ord("u"): lambda r: r.set_items(r.since_mark()),
    ord("c"): lambda r: r.named(r.line(), r.line()),               # a name, never imported: see _NAMES
    0x93: lambda r: r.named(r.stack.pop(-2), r.stack.pop()),
    ord("R"): lambda r: r.call(),
    ord("b"): lambda r: r.build(),
}
