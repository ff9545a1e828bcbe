"""Write samples as records, class folders, a tar shard, an LMDB or a parquet file, each atomically."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

from imgcls.data.conversion.readers import Sample
from imgcls.errors import DataError, UsageError, verbatim
from imgcls.formats import lists
from imgcls.formats.datum import Datum, LmdbWriter
from imgcls.formats.parquet import ParquetWriter
from imgcls.formats.recordio import ImageHeader, RecordWriter, pack
from imgcls.formats.shards import ShardWriter
from imgcls.storage.atomic import atomic_folder, atomic_write

#: what OUT may be, and the ending of its name that says so; all others are folders
KINDS = {"rec": ".rec", "tar": ".tar", "parquet": ".parquet", "lmdb": "lmdb", "folder": ""}
#: an ending of letters and digits is a kind of file (.h5, .7z), unless it is a version: data.v2, data-1.0
_FILE_ENDING = re.compile(r"\.(?!v?\d+$)[A-Za-z0-9]+")
#: a label of Caffe's is of 32 bits, and no class has a higher number
_MAX_LABEL = (1 << 31) - 1
#: what a folder of a class may not be called
_UNSAFE_NAME = re.compile(r"[\0-\x1f]|(^|/)\.\.?(/|$)|^/|//")


class SampleWriter(Protocol):
    """Writes samples; what it writes takes its name when the context ends without an error."""

    @property
    def note(self) -> str:
        """A note for the user when all is written, or ""."""
        ...

    def __enter__(self) -> SampleWriter: ...

    def __exit__(self, *exc_info: Any) -> None: ...

    def write(self, sample: Sample, image: bytes) -> None:
        """Append a sample with an image that may have been encoded anew."""
        ...


def kind_of(path: str, *, is_folder: bool = False) -> str:
    """Return the kind that the name of OUT says.

    A name without an ending is a folder's, and one with a version for an ending (data.v2). Any other ending
    is a UsageError that names those there are, unless `is_folder` says what is meant.
    """
    name = path.rstrip("/")
    # the empty ending of folders stands last and fits every name
    kind = next(kind for kind, ending in KINDS.items() if name.lower().endswith(ending))
    ending = os.path.splitext(name)[1]
    if kind == "folder" and not is_folder and _FILE_ENDING.fullmatch(ending):
        known = ", ".join(known for known in KINDS.values() if known.startswith("."))
        raise UsageError(f"OUT {verbatim(path)}: {verbatim(ending)} is no kind of file that is written; take "
                         f"{known}, a name that ends in {KINDS['lmdb']}, or {verbatim(name)}/ (`to` folder) "
                         "for a folder of class folders")
    return kind


def open_writer(path: str, kind: str, class_names: Sequence[str]) -> SampleWriter:
    """Return the writer of a kind. A UsageError for a folder that is there already and not empty."""
    if kind in ("folder", "lmdb") and os.path.lexists(path) and not (os.path.isdir(path)
                                                                   and not os.listdir(path)):
        raise UsageError(f"OUT {verbatim(path)} is there already: it is not written over")
    if kind == "rec":
        return _Records(path)
    if kind == "folder":
        return _Folder(path, class_names)
    if kind == "lmdb":
        return _Lmdb(path)
    return _Shard(path) if kind == "tar" else _Parquet(path, class_names)


def suffix_of(image: bytes) -> str:
    """Return jpg, png and so on by the first bytes of an image."""
    # by content: records have no names, and a name may lie
    for magic, suffix in ((b"\x89PNG", "png"), (b"BM", "bmp"), (b"P6", "ppm")):
        if image.startswith(magic):
            return suffix
    return "webp" if image[:4] == b"RIFF" and image[8:12] == b"WEBP" else "jpg"


def _class_number(sample: Sample) -> int:
    # nan stands for several labels, and is not below any number
    if not (abs(sample.label) <= _MAX_LABEL and sample.label == int(sample.label)):
        raise DataError(sample.name, "several labels, or one that is no whole number of 32 bits: only "
                                     "records hold such")
    return int(sample.label)


def _closing(writer: ShardWriter | ParquetWriter) -> Callable[..., None]:
    """Return what closes the writer of a file where all went well, before the file takes its name."""
    # on the stack, so that the error of a disk that is full by then names the file
    def close(kind: object, *_rest: object) -> None:
        if kind is None:
            writer.close()

    return close


# The running number keeps the order, which LMDB takes from its keys; the id behind it comes back as it was.
def _key(sample: Sample, index: int) -> str:
    return f"{index:08d}" if sample.id == index else f"{index:08d}_{sample.id}"


class _Records:
    note = ""

    def __init__(self, path: str) -> None:
        self._writer = RecordWriter(path)

    def __enter__(self) -> _Records:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._writer.__exit__(*exc_info)

    def write(self, sample: Sample, image: bytes) -> None:
        # the head of a record keeps its bytes
        head = sample.head or pack(ImageHeader(0, sample.label, sample.id), b"")
        self._writer.write(head + image, sample.id)


class _Shard:
    note = ""

    def __init__(self, path: str) -> None:
        self._stack = ExitStack()
        self._writer = ShardWriter(self._stack.enter_context(atomic_write(path)))
        self._stack.push(_closing(self._writer))
        self._count = 0

    def __enter__(self) -> _Shard:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._stack.__exit__(*exc_info)

    def write(self, sample: Sample, image: bytes) -> None:
        self._writer.write(_key(sample, self._count), suffix_of(image), image, _class_number(sample))
        self._count += 1


class _Parquet:
    note = ""

    def __init__(self, path: str, class_names: Sequence[str]) -> None:
        self._stack = ExitStack()
        self._writer = ParquetWriter(self._stack.enter_context(atomic_write(path)), class_names)
        self._stack.callback(self._writer.discard)  # called after the next one
        self._stack.push(_closing(self._writer))

    def __enter__(self) -> _Parquet:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._stack.__exit__(*exc_info)

    def write(self, sample: Sample, image: bytes) -> None:
        self._writer.write(f"{sample.id}.{suffix_of(image)}", image, _class_number(sample))


class _Lmdb:
    note = ""

    def __init__(self, path: str) -> None:
        if os.path.isdir(path):
            os.rmdir(path)  # an empty one: `open_writer` checked that
        self._writer = LmdbWriter(path)
        self._count = 0

    def __enter__(self) -> _Lmdb:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._writer.__exit__(*exc_info)

    def write(self, sample: Sample, image: bytes) -> None:
        # an encoded image has its sizes in its own header, as Caffe's convert_imageset leaves it
        datum = Datum(0, 0, 0, image, _class_number(sample), True)
        self._writer.write(_key(sample, self._count).encode(), datum)
        self._count += 1


class _Folder:
    def __init__(self, path: str, class_names: Sequence[str]) -> None:
        self._path = os.path.abspath(path)
        self._class_names = class_names
        self._count = 0
        #: folder of each class that has images -> its label
        self._labels: dict[str, int] = {}
        if unsafe := next((name for name in class_names if _UNSAFE_NAME.search(name)), None):
            raise UsageError(f"the class {verbatim(unsafe)} cannot be a folder's name")
        if repeated := next((name for name, count in Counter(class_names).items() if count > 1), None):
            raise UsageError(f"several classes are called {verbatim(repeated)}: a folder for each name would "
                             "make one of them")
        self._stack = ExitStack()
        self._folder = self._stack.enter_context(atomic_folder(self._path))

    def __enter__(self) -> _Folder:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._stack.__exit__(*exc_info)

    @property
    def note(self) -> str:
        """A note where labels differ when the folder is read, as folders are numbered by name; else ""."""
        # as a walk visits folders: a folder first, then those inside it
        names = sorted(self._labels, key=lambda name: name.split("/"))
        moved = [(number, name) for number, name in enumerate(names) if self._labels[name] != number]
        if not moved:
            return ""
        number, name = moved[0]
        return (f"{verbatim(self._path)}: folders are numbered in the order of their names, those without "
                f"images not at all: label {self._labels[name]}, {verbatim(name)}, is read as {number} from "
                f"there{f', and {len(moved) - 1} more are others' if len(moved) > 1 else ''}; imgcls-im2rec "
                "--synsets numbers them as a file says")

    def write(self, sample: Sample, image: bytes) -> None:
        label = _class_number(sample)
        # a walk numbers folders in sorted order: numbers are as wide as the largest
        name = self._class_names[label] if 0 <= label < len(self._class_names) else f"{label:05d}"
        if (other := self._labels.setdefault(name, label)) != label:
            raise DataError(sample.name, f"the labels {other} and {label} would have the same folder "
                                         f"{verbatim(name)}: name all classes, or convert to another kind")
        folder = os.path.join(self._folder, name)
        os.makedirs(folder, exist_ok=True)
        name = f"{_key(sample, self._count)}.{suffix_of(image)}"
        with open(os.path.join(folder, name), "wb") as stream:
            stream.write(image)
        self._count += 1


def write_class_names(path: str, names: Sequence[str]) -> None:
    """Write the names of the classes beside OUT, for kinds that do not hold them."""
    if names:
        # train.classes.txt of train.tar, train_lmdb.classes.txt of the folder train_lmdb
        stem = os.path.splitext(path)[0] if path.endswith((".rec", ".tar")) else path.rstrip("/")
        lists.write_class_names(lists.classes_path(stem), names)
