"""CIFAR-10 and CIFAR-100 batches: binary or pickled, as loose files, in their folder, or inside the archive.

    binary  per picture: u8 label (CIFAR-10) or u8 coarse label, u8 label (CIFAR-100), then 3072 bytes;
            no header
    pickle  a dict of `data`, uint8 (N, 3072), and `labels` (CIFAR-10) or `fine_labels` and `coarse_labels`
            (CIFAR-100)

The 3072 bytes are the planes R, G, B of 32 x 32 pixels. `datasets/cifar10.py` reads them.

A pickle is a program, so `formats/pickles` reads it, which runs nothing but what makes plain data and, here,
arrays of bytes.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from imgcls.errors import DataError
from imgcls.formats import pickles
from imgcls.storage.paths import AnyPath, to_path
from imgcls.storage.reading import open_read

PIXELS = 3 * 32 * 32
#: the largest real file, the training pictures of CIFAR-100, has 155 million bytes
_LARGEST_FILE = 256 << 20
_LARGEST_ARCHIVE = 1 << 30
_MOST_MEMBERS = 1000


class CifarBatch(NamedTuple):
    """Pictures with their labels: `images` uint8 (N, 3, 32, 32) RGB, `labels` int64 (N,) from 0 up.
    `coarse_labels` int64 (N,) are the 20 groups of CIFAR-100; None for CIFAR-10."""

    images: np.ndarray
    labels: np.ndarray
    coarse_labels: np.ndarray | None = None


class CifarSplits(NamedTuple):
    """What `read_splits` found, and where."""

    train: CifarBatch
    test: CifarBatch
    path: AnyPath


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


def read(path: str | os.PathLike[str], classes: int = 10) -> CifarBatch:
    """Read one batch file, binary or pickled (seen from its content). `classes` is 10 or 100.

    Raises DataError for a file that is not a whole batch, and for a pickle of anything but plain data.
    """
    file = to_path(path)
    try:
        with open_read(file) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > _LARGEST_FILE:
                raise DataError(file, f"has {size} bytes, more than any CIFAR batch")
            content = stream.read(size)
    except OSError as error:
        raise DataError(file, f"cannot be read: {(error.strerror or str(error)).lower()}") from error
    return _parse(content, str(file), classes)


def read_splits(folder: str | os.PathLike[str], classes: int = 10) -> CifarSplits | None:
    """The training and test pictures in `folder`: loose, in the archive's folder, or in the archive itself.

    None when no form of the data set is there with all its files; a damaged file is a DataError.
    """
    root = to_path(folder)
    for layout in _LAYOUTS[classes]:
        names = [*layout.train, layout.test]
        for where in (root, root / layout.folder):
            if all((where / name).is_file() for name in names):
                return _joined([read(where / name, classes) for name in names], where)
    for layout in _LAYOUTS[classes]:
        names = [*layout.train, layout.test]
        archive = root / layout.archive
        if archive.is_file():
            members = _read_archive(archive, names)
            batches = [_parse(members.pop(name), f"{archive}:{name}", classes) for name in names]
            return _joined(batches, archive)
    return None


def _joined(batches: list[CifarBatch], where: AnyPath) -> CifarSplits:
    """All batches but the last, one after the other, are for training; the last is the test."""
    *train, test = batches
    coarse = [batch.coarse_labels for batch in train if batch.coarse_labels is not None]
    return CifarSplits(CifarBatch(np.concatenate([batch.images for batch in train]),
                        np.concatenate([batch.labels for batch in train]),
                        np.concatenate(coarse) if coarse else None), test, where)


def _parse(content: bytes, name: str, classes: int) -> CifarBatch:
    # Protocol 2 and later start with 0x80, which is no label of CIFAR-10 and no coarse label of CIFAR-100.
    batch = (_parse_pickle if content[:1] == b"\x80" else _parse_binary)(content, name, classes)
    if not len(batch.labels):
        raise DataError(name, "holds no pictures")
    for labels, limit in ((batch.labels, classes), (batch.coarse_labels, 20)):
        if labels is not None and not 0 <= labels.min() <= labels.max() < limit:
            worst = int(np.argmax((labels < 0) | (labels >= limit)))
            raise DataError(name, f"picture {worst} has label {labels[worst]}, not 0 to {limit - 1}")
    return batch


def _parse_binary(content: bytes, name: str, classes: int) -> CifarBatch:
    label_bytes = 1 if classes == 10 else 2
    row = label_bytes + PIXELS
    if not content or len(content) % row:
        raise DataError(name, f"not a CIFAR-{classes} batch: {len(content)} bytes are no multiple of {row}; "
                              "the file is truncated or of another kind", len(content) // row * row)
    rows = np.frombuffer(content, np.uint8).reshape(-1, row)
    images = np.array(rows[:, label_bytes:]).reshape(-1, 3, 32, 32)
    return CifarBatch(images, rows[:, label_bytes - 1].astype(np.int64),
                 rows[:, 0].astype(np.int64) if classes == 100 else None)


def _parse_pickle(content: bytes, name: str, classes: int) -> CifarBatch:
    names = {**_NAMES, ("_codecs", "encode"): pickles.encoder(len(content))}
    found = pickles.load(content, names, name, encoding="bytes")
    if not isinstance(found, dict):
        raise DataError(name, f"not a CIFAR-{classes} batch: the pickle holds no dict")
    # Python 2 wrote the keys as byte strings, Python 3 writes text.
    batch = {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in found.items()}
    data = batch.get("data")
    if not isinstance(data, _Array) or data.shape[1:] != (PIXELS,):
        raise DataError(name, f"not a CIFAR-{classes} batch: no uint8 array 'data' of (N, {PIXELS})")
    images = data.to_numpy().reshape(-1, 3, 32, 32)
    keys = ("labels",) if classes == 10 else ("fine_labels", "coarse_labels")
    return CifarBatch(images, *(_label_array(batch.get(key), key, len(images), name) for key in keys))


def _label_array(values: object, key: str, count: int, name: str) -> np.ndarray:
    if not isinstance(values, list) or any(type(value) is not int for value in values):
        raise DataError(name, f"no list of numbers '{key}' in the pickle")
    if len(values) != count:
        raise DataError(name, f"{count} pictures but {len(values)} {key}")
    return np.array(values, np.int64)


# Archives


def _read_archive(archive: AnyPath, names: Sequence[str]) -> dict[str, bytes]:
    """The members called `names`, in whatever folder of the .tar or .tar.gz; nothing is unpacked to disk."""
    found: dict[str, bytes] = {}
    try:
        with open_read(archive) as raw:
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


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo, archive: AnyPath) -> bytes:
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

    def __init__(self, stream: Any, archive: AnyPath) -> None:
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

    __slots__ = ("content", "is_fortran", "shape")

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.is_fortran = False
        self.content = b""

    def __setstate__(self, state: Any) -> None:
        """Take what numpy's own takes: (version, shape, dtype, is_fortran, bytes)."""
        _version, shape, dtype, is_fortran, content = state
        if not isinstance(dtype, _DType) or not isinstance(content, bytes):
            raise ValueError("it has an array that is not of bytes")
        if type(shape) is not tuple or [type(side) for side in shape] != [int, int] or min(shape) < 0:
            raise ValueError("it has an array that is not of two dimensions")
        if shape[0] * shape[1] != len(content):
            raise ValueError(f"it has an array of {shape} with {len(content)} bytes")
        self.shape, self.is_fortran, self.content = shape, bool(is_fortran), content

    def to_numpy(self) -> np.ndarray:
        """uint8 of the pickled shape, contiguous and writable."""
        flat = np.frombuffer(self.content, np.uint8)
        return np.array(flat.reshape(self.shape, order="F" if self.is_fortran else "C"), order="C")


class _DType:
    """Stands for numpy.dtype; only uint8 is allowed, above all no objects."""

    __slots__ = ()

    def __init__(self, name: str | bytes, *_flags: object) -> None:
        if name not in ("u1", b"u1", "uint8", b"uint8"):
            what = repr(name[:20]) if isinstance(name, str | bytes) else "of unknown kind"
            raise ValueError(f"it has an array of dtype {what}, only uint8 is read")

    def __setstate__(self, state: object) -> None:
        """Byte order and the like mean nothing for bytes."""


def _reconstruct(kind: object, *_rest: object) -> _Array:
    if kind is not _Array:
        raise ValueError("it has an array of unknown kind")
    return _Array()


#: the names that a batch may mention, and what stands for them
_NAMES = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
}
