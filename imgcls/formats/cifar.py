"""CIFAR-10 and CIFAR-100: batches as loose files, in their folder, or inside the archive.

    binary  per picture: u8 label (CIFAR-10) or u8 coarse label, u8 label (CIFAR-100), then 3072 bytes;
            no header
    pickle  a dict of `data`, uint8 (N, 3072), and `labels` (CIFAR-10) or `fine_labels` and `coarse_labels`
            (CIFAR-100), see `cifar_pickle.py`

The 3072 bytes are the planes R, G, B of 32 x 32 pixels. `datasets/cifar10.py` reads them. Nothing is unpacked
to the disk, and no size in a file is believed before it is compared with what such a file may have.
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

from imgcls.errors import DataError, reason, verbatim
from imgcls.formats.cifar_pickle import unpickle_batch
from imgcls.storage.paths import AnyPath, to_path
from imgcls.storage.reading import open_read

#: bytes of a picture
PIXELS = 3 * 32 * 32
#: groups of classes in CIFAR-100
_NUM_COARSE = 20
#: the largest real file, the training pictures of CIFAR-100, has 155 million bytes
_LARGEST_FILE = 192 << 20
#: unpacked; the real ones have about 185 million bytes
_LARGEST_ARCHIVE = 320 << 20
#: the real archives have about ten members
_MOST_MEMBERS = 1000
_GZIP_MAGIC = b"\x1f\x8b"


class CifarBatch(NamedTuple):
    """Pictures with their labels: `images` uint8 (N, 3, 32, 32) RGB, `labels` int64 (N,) from 0 up.

    `coarse_labels` int64 (N,) are the 20 groups of CIFAR-100; None for CIFAR-10.
    """

    images: np.ndarray
    labels: np.ndarray
    coarse_labels: np.ndarray | None = None


class CifarSplits(NamedTuple):
    """What `read_splits` read, and from which folder or archive."""

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

    @property
    def names(self) -> list[str]:
        """All files, the test's last."""
        return [*self.train, self.test]


# The binary form first: it needs no pickle.
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


def read(path: str | os.PathLike[str], num_classes: int = 10) -> CifarBatch:
    """Read one batch file, binary or pickled (seen from its content). `num_classes` is 10 or 100.

    Raises DataError for a file that is not a whole batch, and for a pickle of anything but plain data.
    """
    file = to_path(path)
    try:
        with open_read(file) as stream:
            # Before it is read: a file of any size may have this name.
            size = os.fstat(stream.fileno()).st_size
            if size > _LARGEST_FILE:
                raise DataError(file, f"has {size} bytes, more than any CIFAR batch")
            content = stream.read(size)
    except OSError as error:
        raise DataError(file, f"cannot be read: {reason(error)}") from error
    return _parse(content, str(file), num_classes)


def read_splits(folder: str | os.PathLike[str], num_classes: int = 10) -> CifarSplits | None:
    """Read the training and test pictures in `folder`: loose, in the archive's folder, or in the archive
    itself.

    None when no form of the data set is there with all its files; a damaged file is a DataError.
    """
    root = to_path(folder)
    # Files that someone unpacked before any archive: an archive takes seconds to read through.
    for layout in _LAYOUTS[num_classes]:
        for parent in (root, root / layout.folder):
            if all((parent / name).is_file() for name in layout.names):
                return _join([read(parent / name, num_classes) for name in layout.names], parent)
    for layout in _LAYOUTS[num_classes]:
        archive = root / layout.archive
        if archive.is_file():
            members = _read_archive(archive, layout.names)
            # pop: a member's bytes are freed as soon as its pictures are made.
            batches = [_parse(members.pop(name), f"{archive}:{name}", num_classes) for name in layout.names]
            return _join(batches, archive)
    return None


def read_test(folder: str | os.PathLike[str], num_classes: int = 10) -> tuple[CifarBatch, AnyPath] | None:
    """Read the test pictures in `folder` and return them with where they were, or None.

    The files of the training pictures need not be there, and are not read where they are.
    """
    root = to_path(folder)
    for layout in _LAYOUTS[num_classes]:
        for parent in (root, root / layout.folder):
            if (parent / layout.test).is_file():
                return read(parent / layout.test, num_classes), parent
    for layout in _LAYOUTS[num_classes]:
        archive = root / layout.archive
        if archive.is_file():
            content = _read_archive(archive, [layout.test])[layout.test]
            return _parse(content, f"{archive}:{layout.test}", num_classes), archive
    return None


def _join(batches: list[CifarBatch], path: AnyPath) -> CifarSplits:
    """Return all batches but the last, one after the other, as training data, and the last as test data."""
    *train, test = batches
    # CIFAR-10 has none; np.concatenate refuses an empty list.
    coarse = [batch.coarse_labels for batch in train if batch.coarse_labels is not None]
    joined = CifarBatch(np.concatenate([batch.images for batch in train]),
                        np.concatenate([batch.labels for batch in train]),
                        np.concatenate(coarse) if coarse else None)
    return CifarSplits(joined, test, path)


def _parse(content: bytes, name: str, num_classes: int) -> CifarBatch:
    # Protocol 2 and later start with 0x80, which is no label of CIFAR-10 and no coarse label of CIFAR-100.
    is_pickle = content[:1] == b"\x80"
    batch = (_parse_pickle if is_pickle else _parse_binary)(content, name, num_classes)
    if not len(batch.labels):
        raise DataError(name, "holds no pictures")
    for labels, limit in ((batch.labels, num_classes), (batch.coarse_labels, _NUM_COARSE)):
        if labels is not None and not 0 <= labels.min() <= labels.max() < limit:
            worst = int(np.argmax((labels < 0) | (labels >= limit)))
            raise DataError(name, f"picture {worst} has label {labels[worst]}, not 0 to {limit - 1}")
    return batch


def _parse_binary(content: bytes, name: str, num_classes: int) -> CifarBatch:
    num_label_bytes = 1 if num_classes == 10 else 2
    row_bytes = num_label_bytes + PIXELS
    # A file without a header can only be recognised by its size.
    if not content or len(content) % row_bytes:
        raise DataError(name, f"not a CIFAR-{num_classes} batch: {len(content)} bytes are no multiple of "
                              f"{row_bytes}; the file is truncated or of another kind",
                        len(content) // row_bytes * row_bytes)
    rows = np.frombuffer(content, np.uint8).reshape(-1, row_bytes)
    # A copy: the view's rows are not contiguous, and the file's bytes cannot be written to.
    images = np.array(rows[:, num_label_bytes:]).reshape(-1, 3, 32, 32)
    return CifarBatch(images, rows[:, num_label_bytes - 1].astype(np.int64),
                      rows[:, 0].astype(np.int64) if num_classes == 100 else None)


def _parse_pickle(content: bytes, name: str, num_classes: int) -> CifarBatch:
    keys = ("labels",) if num_classes == 10 else ("fine_labels", "coarse_labels")
    pixels, *labels = unpickle_batch(content, name, keys, PIXELS, f"CIFAR-{num_classes}")
    return CifarBatch(pixels.reshape(-1, 3, 32, 32), *labels)


def _read_archive(archive: AnyPath, names: Sequence[str]) -> dict[str, bytes]:
    """Return the members called `names`, in whatever folder of the .tar or .tar.gz."""
    members: dict[str, bytes] = {}
    try:
        with open_read(archive) as raw:
            is_gzip = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            # gzip outside of tarfile, so that the bound is on unpacked bytes.
            stream = _BoundedStream(gzip.GzipFile(fileobj=raw) if is_gzip else raw, archive)
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for number, member in enumerate(tar):
                    name = member.name.rpartition("/")[2]
                    # Plain files only: a sparse one can be far larger than what stands in the archive.
                    if name in names and name not in members and member.isreg() and not member.issparse():
                        members[name] = _read_member(tar, member, archive)
                    if len(members) == len(names) or number >= _MOST_MEMBERS:
                        break
            while stream.read(1 << 20):
                pass  # gzip's checksum stands at the end
    # ValueError: tarfile's own of a pax header's sparse map, and of a negative size's position
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, OverflowError) as error:
        raise DataError(archive, f"the archive is damaged or cut short ({str(error).lower()})") from error
    except OSError as error:
        raise DataError(archive, f"cannot be read: {reason(error)}") from error
    missing = [name for name in names if name not in members]
    if missing:
        raise DataError(archive, f"the archive has no {', '.join(missing)}")
    return members


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo, archive: AnyPath) -> bytes:
    if member.size > _LARGEST_FILE:
        raise DataError(archive, f"member {verbatim(member.name)} has {member.size} bytes, more than any "
                                 "CIFAR batch")
    stream = tar.extractfile(member)
    assert stream is not None  # None is for what is no regular file
    content = stream.read()
    if len(content) != member.size:
        raise DataError(archive, f"member {verbatim(member.name)} is cut short: {len(content)} of "
                                 f"{member.size} bytes")
    return content


class _BoundedStream(io.RawIOBase):
    """A stream that refuses to be read too far or in too large pieces.

    A small archive can announce a huge header, which tarfile would read whole.
    """

    def __init__(self, stream: Any, archive: AnyPath) -> None:
        self._stream = stream
        self._archive = archive

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes, which must be given; a DataError beyond the bounds."""
        if not 0 <= size <= _LARGEST_FILE or self._stream.tell() + size > _LARGEST_ARCHIVE:
            raise DataError(self._archive, "larger than any CIFAR archive", self._stream.tell())
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte; within gzip that means to unpack all up to there, so it is bounded too."""
        if whence == os.SEEK_SET and offset > _LARGEST_ARCHIVE:
            raise DataError(self._archive, "larger than any CIFAR archive", self._stream.tell())
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Return the byte that is read next, counted in the unpacked archive."""
        return self._stream.tell()
