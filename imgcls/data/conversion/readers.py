"""Open labelled images of any kind as samples: records, folders, archives, tar shards, LMDB, parquet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from imgcls.data.image_trees import ImageTree, open_tree
from imgcls.errors import DataError, UsageError, reason, verbatim
from imgcls.formats import image_folders, lists
from imgcls.formats.archives import MemberReader
from imgcls.formats.datum import Datum, LmdbReader, is_lmdb
from imgcls.formats.lmdb_index import index_lmdb
from imgcls.formats.parquet import ParquetReader
from imgcls.formats.recordio import RecordReader, names_cache, unpack
from imgcls.formats.shards import is_shard, iter_shard, read_image, read_label


class Sample(NamedTuple):
    """An encoded image with its label; of records all that stands in front of the image as well."""

    id: int
    label: float
    image: bytes
    #: header and labels of a record as they stand in its file, else b""
    head: bytes = b""
    #: what messages call it
    name: str = ""


class SampleReader(Protocol):
    """Samples in order. `class_names` is () where nothing names the classes."""

    path: str
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        """Return how many samples there are."""
        ...

    def __iter__(self) -> Iterator[Sample]:
        """Yield the samples; a DataError where one cannot be read."""
        ...


def open_samples(path: str) -> SampleReader:
    """Return a reader for what `path` is; a UsageError for what is none of the kinds."""
    # an LMDB is a folder, so this comes before the folders
    if is_lmdb(path):
        return _Lmdb(path)
    # by the ending of the name; the readers check the content
    if os.path.isfile(path):
        name = path.lower()
        if name.endswith(".rec"):
            return _Records(path)
        if name.endswith(".parquet"):
            return _Parquet(path)
        # a .tar may be a WebDataset shard, whose labels are members, or an archive of class folders
        if name.endswith(".tar") and is_shard(path):
            return _Shard(path)
        if not name.endswith((".tar", ".zip")):
            raise UsageError(f"{verbatim(path)}: must be a .rec, .tar, .zip or .parquet, a folder of class "
                             "folders, or the folder of an LMDB")
    if not os.path.lexists(path):
        raise UsageError(f"{verbatim(path)}: no such file or folder")
    return _Tree(open_tree(path))


class _Records:
    def __init__(self, path: str) -> None:
        self.path = path
        self._reader = RecordReader(path)
        if self._reader.problems:
            raise self._reader.problems[0]  # a part of the records would be taken for all of them
        self.class_names = tuple(lists.class_names(path) or names_cache.recall(self._reader))

    def __len__(self) -> int:
        return len(self._reader)

    def __iter__(self) -> Iterator[Sample]:
        for index in range(len(self._reader)):
            payload = bytes(self._reader.payload(index))
            name = f"record {index} of {self.path}"
            try:
                header, labels, image = unpack(payload)
            except ValueError as error:
                raise DataError(self.path, f"record {index} "
                                           f"{error}", self._reader.offsets.item(index)) from error
            # several labels have no single one
            label = float(labels[0]) if len(labels) == 1 else float("nan")
            yield Sample(header.id, label, bytes(image), payload[:len(payload) - len(image)], name)


class _Image(NamedTuple):
    label: int
    path: str


class _Tree:
    def __init__(self, tree: ImageTree) -> None:
        self.path = tree.root
        self._tree = tree
        problems: list[DataError] = []
        folders = [(folder, len(names)) for folder, names in tree.folders(
            recursive=True, extensions=image_folders.SUFFIXES, problems=problems)]
        # a class more or less would change the labels of all that follow
        if problems:
            raise problems[0]
        if not folders:
            raise DataError(tree.root, f"holds no image ({' '.join(image_folders.SUFFIXES)})")
        self.class_names = tuple(folder or os.curdir for folder, _ in folders)
        self._num_images = sum(count for _, count in folders)

    def __len__(self) -> int:
        return self._num_images

    def __iter__(self) -> Iterator[Sample]:
        reader = self._tree.reader()
        for index, (label, path) in enumerate(reader.read_ahead(self._images())):
            try:
                image = reader.read(path)
            except (OSError, ValueError) as error:
                raise DataError(os.path.join(self.path, path), reason(error)) from error
            yield Sample(index, float(label), image, name=os.path.join(self.path, path))

    def _images(self) -> Iterator[_Image]:
        folders = self._tree.folders(recursive=True, extensions=image_folders.SUFFIXES, problems=[])
        for label, (folder, names) in enumerate(folders):
            for name in names:
                yield _Image(label, os.path.join(folder, name))


class _Shard:
    class_names: tuple[str, ...] = ()

    def __init__(self, path: str) -> None:
        self.path = path
        # as of records: a shard x_0.tar finds x.classes.txt
        self.class_names = tuple(lists.class_names(os.path.splitext(path)[0] + ".rec"))
        self._num_images = sum(1 for _ in iter_shard(path))

    def __len__(self) -> int:
        return self._num_images

    def __iter__(self) -> Iterator[Sample]:
        with MemberReader(self.path) as reader:
            for index, sample in enumerate(iter_shard(self.path)):
                try:
                    image = read_image(reader, sample)
                except (OSError, ValueError) as error:
                    raise DataError(self.path, f"{verbatim(sample.key)}: {reason(error)}") from error
                yield Sample(_id_of(sample.key, index), float(read_label(reader, sample)), image,
                             name=f"{sample.key} of {self.path}")


class _Lmdb:
    # values without an encoded image become PNGs

    def __init__(self, path: str) -> None:
        self.path = path
        # a damaged one ends the process that reads it: not this one, which may be writing
        index_lmdb(path, path)
        self._reader = LmdbReader(path)
        self.class_names = tuple(lists.class_names(path))

    def __len__(self) -> int:
        return len(self._reader)

    def __iter__(self) -> Iterator[Sample]:
        for index, (key, datum) in enumerate(self._reader):
            name = f"key {key.decode('ascii', 'backslashreplace')} of {self.path}"
            try:
                image = datum.data if datum.is_encoded else _png(datum)
            except ValueError as error:
                raise DataError(self.path, f"{verbatim(name)}: {error}") from error
            yield Sample(_id_of(key.decode("ascii", "replace"), index), float(datum.label), image, name=name)


class _Parquet:
    def __init__(self, path: str) -> None:
        self.path = path
        self._reader = ParquetReader(path)
        self.class_names = self._reader.class_names

    def __len__(self) -> int:
        return len(self._reader)

    def __iter__(self) -> Iterator[Sample]:
        for index, (image, label) in enumerate(self._reader):
            yield Sample(index, float(label), image, name=f"row {index} of {self.path}")


def _id_of(key: str, index: int) -> int:
    """Return the id that our writers put behind the running number of a key, `00000012_7`; else the index."""
    number, _, rest = key.rpartition("/")[2].partition("_")
    # not `isdigit`: it is true of superscripts, which are no number to `int`
    is_ours = number.isdecimal() and len(number) < 19 and int(number) == index
    return int(rest) if is_ours and rest.isdecimal() and len(rest) < 20 and int(rest) < 1 << 64 else index


def _png(datum: Datum) -> bytes:
    """Return raw pixels as a PNG, which loses nothing."""
    from imgcls.data.opencv import cv2

    pixels = datum.pixels()
    if pixels.shape[2] not in (1, 3):
        raise ValueError(f"{pixels.shape[2]} channels, 1 or 3 are images")
    return cv2.imencode(".png", pixels)[1].tobytes()
