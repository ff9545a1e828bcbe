"""What there is to train on: a Source knows how many samples it has, their labels, and how to read one.

Arrays, record files, a folder of class folders, a list of files: `open_source` finds out which of these a path means.
No torch here: sources are read in threads and before any device exists.
"""

from __future__ import annotations

import bisect
import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from imgcls.config.sections import DataConfig
from imgcls.data import chunks
from imgcls.errors import DataError, UsageError
from imgcls.formats import lists, recordio
from imgcls.formats.ranges import RangedReader
from imgcls.storage.cache import default_gb
from imgcls.storage.paths import AnyPath, to_path
from imgcls.storage.reading import open_read
from imgcls.storage.remote import RemotePath
from imgcls.storage.thread_pool import DaemonPool

#: of the samples this part may be damaged before a run is stopped, but at least this number
BAD_PART, BAD_LEAST = 0.01, 10
#: remote files that are fetched at a time
FETCHED_AHEAD = 2


class Source(Protocol):
    """Samples 0 .. len-1 that can be read in any order, from any thread."""

    @property
    def labels(self) -> np.ndarray:
        """int64 (N,), or float32 (N, width) where a sample has several labels."""
        ...

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the classes in label order; empty where nobody recorded them."""
        ...

    @property
    def description(self) -> str:
        """Where it came from, for messages."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes | memoryview | np.ndarray:
        """Sample `index`: an encoded image (bytes, or a view of them) or its pixels, uint8 (H, W, C) RGB or grey.
        What cannot be read is a DataError."""
        ...

    def problem(self, index: int, reason: str) -> DataError:
        """The error that names sample `index`, its file, and where it stands in it."""
        ...


@runtime_checkable
class Ordered(Protocol):
    """A Source that is read well in some orders only."""

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """int64 (N,): all samples in the random order of an epoch, a pure function of (seed, epoch)."""
        ...

    def prefetch(self, samples: np.ndarray) -> None:
        """These will be read, each once and about in this order."""
        ...


@dataclass(frozen=True)
class ArraySource:
    """Samples that are already in memory: `images` uint8 or float32 (N, ...), usually (N, C, H, W)."""

    images: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str] = ()
    description: str = "arrays"

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise UsageError(f"{self.description}: {len(self.images)} images but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> np.ndarray:
        image = self.images[index]
        return image.transpose(1, 2, 0) if image.ndim == 3 else image

    def problem(self, index: int, reason: str) -> DataError:
        return DataError(self.description, f"image {index} {reason}")


@dataclass(frozen=True)
class Splits:
    """What a data set's `load` returns."""

    train: Source
    val: Source | None = None
    notes: Sequence[str] = field(default_factory=tuple)


class RecordSource:
    """The image records of one or several `.rec` files, one label each.

    With `on_bad` "skip" what is damaged is left out, as long as it is little: `problems` tells what; with "stop" it is
    raised. Damage inside an image shows only when it is decoded. The class names are those that were packed with the
    first file.

    Remote files are copied into the cache (`copied_bytes` of it); where they are more than it holds they become a
    `ChunkedSource` instead: `open_source` decides.
    """

    #: how much of the cache the copies of remote files take
    copied_bytes = 0

    def __init__(self, files: Sequence[AnyPath], *, index: str = "", on_bad: str = "skip",
                 cache_gb: float | None = None) -> None:
        """`index` names the `.idx` of a single file; `cache_gb` is the limit of the cache."""
        if index and len(files) > 1:
            raise UsageError(f"{index}: an .idx belongs to one .rec file, here are {len(files)}")
        self.readers: list[Any] = self._open(files, index, on_bad == "skip", cache_gb)
        self.description = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
        self.class_names = lists.class_names(files[0])
        self.problems: list[DataError] = []
        found = [self._readable(reader) for reader in self.readers]
        total = sum(map(len, self.readers))
        check_bad(self.problems, total, self.description, on_bad)
        #: record number in its file of each sample, and the byte in the record where its image begins
        self._numbers = np.concatenate([numbers for numbers, _, _ in found])
        self._begins = np.concatenate([begins for _, begins, _ in found])
        self.labels = np.concatenate([labels for _, _, labels in found])
        self._firsts = np.cumsum([0, *(len(numbers) for numbers, _, _ in found)]).tolist()

    def _open(self, files: Sequence[AnyPath], index: str, resync: bool, cache_gb: float | None) -> list[Any]:
        """A reader of each file. Remote ones are fetched ahead, while those before them are searched."""
        fetched = [file for file in files if isinstance(file, RemotePath)]
        self.copied_bytes = sum(file.stat().size for file in fetched)
        with DaemonPool(min(FETCHED_AHEAD, len(fetched)), "imgcls-shards") as pool:
            copies = {file: pool.submit(open_read, file, cache_gb=cache_gb) for file in fetched}
            readers = []
            for file in files:
                if isinstance(file, RemotePath):
                    copies.pop(file).result().close()  # raises what went wrong
                readers.append(recordio.RecordReader(file, resync=resync, index=index or None, cache_gb=cache_gb))
        return readers

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes | memoryview:
        reader, number = self._place(index)
        return reader.payload(number)[self._begins.item(index):]

    def problem(self, index: int, reason: str) -> DataError:
        reader, number = self._place(index)
        return DataError(reader.path, f"record {number} (id {reader.headers()['id'][number]}) {reason}",
                         reader.offsets.item(number))

    def _place(self, index: int) -> tuple[Any, int]:
        file = bisect.bisect_right(self._firsts, index) - 1 if len(self.readers) > 1 else 0
        return self.readers[file], self._numbers.item(index)

    def _readable(self, reader: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(numbers, where the image begins, labels) of the records that are whole and have one label."""
        self.problems += reader.problems
        labels = reader.labels(strict=False)
        good = np.isfinite(labels) & (labels == np.floor(labels))
        for number in np.flatnonzero(~good).tolist():
            value = labels[number]
            self.problems.append(reader.label_problem(number, 1) if np.isnan(value) else DataError(
                reader.path, f"record {number} has the label {value:g}, which is no class number",
                reader.offsets.item(number)))
        numbers = np.flatnonzero(good)
        begins = 24 + 4 * reader.headers()["flag"][numbers].astype(np.int64)
        return numbers, begins, labels[numbers].astype(np.int64)


class ChunkedSource(RecordSource):
    """A RecordSource of remote files that are not copied: read in chunks, in an order that suits that (`chunks.py`)."""

    def __init__(self, files: Sequence[RemotePath], *, on_bad: str = "skip", cache_gb: float) -> None:
        super().__init__(files, on_bad=on_bad, cache_gb=cache_gb)
        counts = np.diff(self._firsts)
        self._chunks = chunks.Chunks(self.readers, np.repeat(np.arange(len(counts)), counts), self._numbers)
        total = sum(reader.size for reader in self.readers)
        self.note = (f"{self.description}: {total / 1e9:.3g} GB are more than `cache_gb` {cache_gb:g} leaves room for; "
                     f"read in chunks of {chunks.CHUNK_BYTES / 2**20:g} MB, for training {chunks.WINDOW_CHUNKS} "
                     "shuffled together")

    def _open(self, files: Sequence[AnyPath], index: str, resync: bool, cache_gb: float | None) -> list[Any]:
        return [RangedReader(file, resync=resync, cache_gb=cache_gb) for file in files if isinstance(file, RemotePath)]

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """See `Ordered`."""
        return self._chunks.order(seed, epoch)

    def prefetch(self, samples: np.ndarray) -> None:
        """See `Ordered`."""
        self._chunks.prefetch(samples)

    def read(self, index: int) -> bytes | memoryview:
        return self._chunks.read(index)[self._begins.item(index):]


class _FileSource:
    """Image files under `root`, one sample each."""

    root: AnyPath
    _paths: Sequence[str]

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> bytes:
        return _read_file(self.root / self._paths[index])

    def problem(self, index: int, reason: str) -> DataError:
        return DataError(self.root / self._paths[index], reason)


class FolderSource(_FileSource):
    """Images in class folders.

    Classes are numbered as im2rec numbers them, so that a folder and the records packed from it agree: every folder
    that itself holds an image (.jpg, .jpeg or .png) is a class, in the order of a sorted walk; a folder inside a class
    folder is a class of its own. With `class_names`, those of the training data, folders are numbered by name.
    """

    def __init__(self, root: Path, *, class_names: Sequence[str] = ()) -> None:
        found = lists.walk(str(root), recursive=True)
        if not found.entries:
            raise UsageError(f"{root}: holds no .jpg, .jpeg or .png, and neither do its folders")
        self.root, self.description, self.problems = root, str(root), list(found.problems)
        self.class_names = tuple(class_names or found.class_names)
        self._paths = [entry.path for entry in found.entries]
        labels = np.array([entry.labels[0] for entry in found.entries], np.int64)
        if class_names:
            number = {name: i for i, name in enumerate(class_names)}
            for name in found.class_names:
                if name not in number:
                    raise UsageError(f"{root / name}: the training data has no class of this name")
            labels = np.array([number[name] for name in found.class_names])[labels]
        self.labels = labels


class ListSource(_FileSource):
    """The images that a `.lst` names, relative to `root`, with their first label: what im2rec would pack."""

    def __init__(self, path: AnyPath, root: AnyPath, *, on_bad: str = "skip") -> None:
        found = lists.read(path)
        self.path, self.root, self.description = path, root, str(path)
        self.problems = list(found.problems)
        good = []
        for entry in found.entries:
            if entry.labels[0] == np.floor(entry.labels[0]):
                good.append(entry)
            else:
                self.problems.append(DataError(path, f"image {entry.id} ({entry.path}) has the label "
                                                     f"{entry.labels[0]:g}, which is no class number"))
        check_bad(self.problems, len(good) + len(self.problems), self.description, on_bad)
        self.class_names = lists.class_names(path)
        self._paths = [entry.path for entry in good]
        self.labels = np.array([entry.labels[0] for entry in good], np.int64)


def open_source(path: str, flag: str, *, index: str = "", root: str = "", on_bad: str = "skip",
                class_names: Sequence[str] = (), cache_gb: float | None = None) -> Source:
    """The source that `path`, the value of `flag`, means: record files (one, `a;b`, a pattern, a folder of them), a
    folder of class folders, or a `.lst` with paths from `root` (its own folder if empty).

    `class_names` are those of the training data: where this one has names as well they must agree. Nothing there is a
    UsageError; a file of another kind, or one that is damaged beyond use, a DataError. `cache_gb` is how much of remote
    files may be copied.
    """
    found = to_path(path.partition(";")[0], flag)
    source: RecordSource | FolderSource | ListSource
    if found.suffix == ".lst" and ";" not in path:
        source = ListSource(found, to_path(root, "`data_root`") if root else found.parent, on_bad=on_bad)
    elif ";" not in path and found.is_dir() and not any(found.glob("*.rec")):
        if not any(entry.is_dir() for entry in found.iterdir()):
            raise UsageError(f"{flag} {path}: the folder holds neither .rec files nor a folder of images per class")
        if (found / "train").is_dir() and (found / "val").is_dir():
            raise UsageError(f"{flag} {path}: the folder holds train and val: give it to `data_dir`")
        if isinstance(found, RemotePath):
            raise UsageError(f"{flag} {path}: a remote folder of single images is not read; pack it with imgcls-im2rec "
                             "into a .rec, or list it in a .lst")
        source = FolderSource(found, class_names=class_names)
    else:
        source = _open_records(recordio.expand(path, flag), index, on_bad, cache_gb)
    if not len(source):
        raise source.problems[0] if source.problems else UsageError(f"{flag} {path}: holds no images")
    if class_names and source.class_names:
        _check_same(source.class_names, class_names, source.description)
    return source


def open_splits(config: DataConfig, train: str, val: str) -> Splits:
    """Sources for the paths `train` and, unless it is empty, `val`, which has to agree about the classes."""
    source = open_source(train, "`data_train`" if config.data_train else "`data_dir`", index=config.data_train_idx,
                         root=config.data_root, on_bad=config.on_bad, cache_gb=config.cache_gb)
    left = max(config.cache_gb - getattr(source, "copied_bytes", 0) / 1e9, 0.0)
    val_source = open_val(dataclasses.replace(config, cache_gb=left), val, source.class_names)
    return Splits(source, val_source, [*notes(source), *notes(val_source)])


def open_val(config: DataConfig, val: str, class_names: Sequence[str] = ()) -> Source | None:
    """The source for the path `val`, None where it is empty."""
    if not val:
        return None
    return open_source(val, "`data_val`" if config.data_val else "`data_dir`", index=config.data_val_idx,
                       root=config.data_root, on_bad=config.on_bad, class_names=class_names, cache_gb=config.cache_gb)


def notes(source: Source | None) -> list[str]:
    """What to tell about a source: what of it was left out, and how it is read where that is unusual."""
    problems: list[DataError] = getattr(source, "problems", [])
    said: list[str] = [source.note] if isinstance(source, ChunkedSource) else []
    if not problems or source is None:
        return said
    if len(problems) == 1:
        return [*said, f"a damaged sample was left out: {problems[0]}"]
    return [*said, f"{len(problems)} damaged samples of {source.description} were left out, the first: {problems[0]}"]


def allowed_bad(count: int) -> int:
    """How many of `count` samples may be damaged before a run is stopped."""
    return max(BAD_LEAST, int(BAD_PART * count))


def check_bad(problems: Sequence[DataError], count: int, description: str, on_bad: str) -> None:
    """Raise the first problem where the policy does not allow any, or not so many."""
    if problems and on_bad == "stop":
        raise problems[0]
    if len(problems) > allowed_bad(count):
        raise too_many_bad(problems, count, description)


def too_many_bad(problems: Sequence[DataError], count: int, description: str) -> DataError:
    """The end of `--on-bad skip`."""
    return DataError(description, f"{len(problems)} of {count} samples are damaged, too many to go on without them; "
                                  f"the first: {problems[0]}")


def num_classes(train: Source, val: Source | None = None) -> int | None:
    """The number of classes that the data itself tells, or None where nobody recorded their names."""
    return max((len(source.class_names) for source in (train, val) if source is not None), default=0) or None


def _open_records(files: Sequence[AnyPath], index: str, on_bad: str, cache_gb: float | None) -> RecordSource:
    """A source of these record files, by chunks where they are remote and more than the cache may hold."""
    limit = default_gb() if cache_gb is None else cache_gb
    away = [file for file in files if isinstance(file, RemotePath)]
    if sum(file.stat().size for file in away) <= limit * 1e9:
        return RecordSource(files, index=index, on_bad=on_bad, cache_gb=cache_gb)
    if len(away) < len(files):
        raise UsageError(f"{away[0]}: is larger than `cache_gb` {limit:g} allows to copy, and local and remote files "
                         "are not read together then; raise it, or name remote files only")
    return ChunkedSource(away, on_bad=on_bad, cache_gb=limit)


def _check_same(names: Sequence[str], wanted: Sequence[str], description: str) -> None:
    for number, (name, expected) in enumerate(zip(names, wanted, strict=False)):
        if name != expected:
            raise UsageError(f"{description}: class {number} is {name!r} here and {expected!r} in the training data")
    if len(names) > len(wanted):
        raise UsageError(f"{description}: has {len(names)} classes, the training data {len(wanted)}")


def _read_file(path: AnyPath) -> bytes:
    """The whole file; what is larger than a record could be is refused before memory is taken."""
    try:
        if isinstance(path, RemotePath):
            return path.read_bytes(recordio.MAX_PAYLOAD_BYTES)
        with open(path, "rb", buffering=0) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > recordio.MAX_PAYLOAD_BYTES:
                raise DataError(path, f"has {size} bytes: that is no image")
            return stream.readall()
    except OSError as error:
        raise DataError(path, (error.strerror or str(error)).lower()) from error
