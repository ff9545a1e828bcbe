"""What there is to train on: a `Source` gives the number of its samples, their labels, and any one sample.

Arrays, record files, a folder of class folders, a list of files, shards and databases (`packed/`):
`open_source` finds out which of these a path means. Called by the data sets. No torch here: sources are read
in threads and before any device exists.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Protocol, runtime_checkable

import numpy as np

from imgcls.config.sections import DataConfig
from imgcls.data.file_source import FolderSource, ListSource
from imgcls.data.packed import kinds as packed
from imgcls.data.packed.source import PackedSource
from imgcls.data.record_source import ChunkedSource, RecordSource
from imgcls.errors import DataError, UsageError, reason, verbatim
from imgcls.formats import csv_lists, lists, recordio
from imgcls.storage.cache import default_gb
from imgcls.storage.paths import AnyPath, to_path
from imgcls.storage.remote import RemotePath


class Source(Protocol):
    """Samples 0 .. len-1 that can be read in any order, from any thread."""

    @property
    def labels(self) -> np.ndarray:
        """int64 (N,), or float32 (N, width) where a sample has several labels."""
        ...

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the classes in label order; empty where none are recorded."""
        ...

    @property
    def description(self) -> str:
        """Where it came from, for messages."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes | memoryview | np.ndarray:
        """Return sample `index`: an encoded image (bytes, or a view of them) or its pixels.

        Pixels are uint8 (H, W, C), RGB or grey. DataError where the sample cannot be read.
        """
        ...

    def problem(self, index: int, reason: str) -> DataError:
        """Return the error "sample `index` REASON" that names the file and the position in it."""
        ...


# Checked with isinstance: a source that has these methods determines the order of an epoch itself.
@runtime_checkable
class Ordered(Protocol):
    """A Source that is read well in some orders only."""

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Return int64 (N,): all samples in the random order of an epoch, by (seed, epoch) alone."""
        ...

    def prefetch(self, indices: np.ndarray) -> None:
        """Prepare for these samples to be read, each once and about in this order."""
        ...


@runtime_checkable
class Copied(Protocol):
    """A Source of remote files that may be read while they are copied."""

    @property
    def is_copied(self) -> bool:
        """Whether all samples are on this machine, so that `expect` need not be called."""
        ...

    def expect(self, indices: np.ndarray) -> None:
        """Fetch these samples first, in this order: they will be read next."""
        ...


@runtime_checkable
class Fingerprinted(Protocol):
    """A Source of files that can tell whether they have changed between two runs."""

    def fingerprint(self) -> str | None:
        """Return a text that changes when a file, its size or time, or the choice of samples changes.

        None where that cannot be found out.
        """
        ...


@dataclass(frozen=True)
class ArraySource:
    """Samples that are already in memory: `images` uint8 or float32 (N, ...), usually (N, C, H, W).

    UsageError where there are more or fewer labels than images.
    """

    images: np.ndarray
    #: int64 (N,)
    labels: np.ndarray
    class_names: Sequence[str] = ()
    #: for messages: where the arrays came from
    description: str = "arrays"

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise UsageError(f"{self.description}: {len(self.images)} images but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> np.ndarray:
        """Return the pixels of sample `index`, (H, W, C) where they are (C, H, W) in the array."""
        # a view: loaders copy what they cut
        image = self.images[index]
        return image.transpose(1, 2, 0) if image.ndim == 3 else image

    def problem(self, index: int, reason: str) -> DataError:
        """Return the error that names sample `index` by its number."""
        return DataError(self.description, f"image {index} {reason}")


@dataclass(frozen=True)
class Splits:
    """What a data set's `load` returns: training data, perhaps validation data, and what to tell the user."""

    train: Source
    val: Source | None = None
    #: printed once at the start of a run, with settings between backquotes
    notes: Sequence[str] = field(default_factory=tuple)
    #: what the meta data of the run record of held out images (`holdout.Division.note`), {} where none are
    held_out: Mapping[str, Any] = field(default_factory=dict)
    #: whether Python code passed the data: then no setting names them, and `dataset` does not describe them
    is_given: bool = False


def open_source(path: str, flag: str, *, index: str = "", index_flag: str = "", root: str = "",
                on_bad: str = "skip", class_names: Sequence[str] = (), cache_gb: float | None = None,
                outside_root: bool = False) -> Source:
    """Return the source that `path`, the value of the setting `flag`, means.

    Record files (one, `a;b`, a pattern, a folder of them), a folder of class folders, a `.lst` or CSV file
    with paths from `root` (its own folder if empty; outside of it only with `outside_root`), tar shards,
    parquet files, LMDBs. `index`, the value of the setting `index_flag`, is the `.idx` of a single record
    file. `on_bad` decides about damaged samples (`bad_samples`). `class_names` are those of the training
    data: where this source has names as well they must agree. `cache_gb` is how much of remote files may be
    copied. Nothing there is a UsageError; a file of another kind, or one that is damaged beyond use, a
    DataError.
    """
    # the first path of `a;b` decides which kind it is, and the others must be of the same kind
    first_path = to_path(path.partition(";")[0], flag)
    try:
        index_flag = index_flag or ("`data_val_idx`" if "val" in flag else "`data_train_idx`")
        source = _open_any(first_path, path, flag, index, index_flag, root, on_bad, class_names, cache_gb,
                           outside_root)
    except OSError as error:  # such as a folder above it that may not be read
        raise DataError(error.filename or path, f"cannot be read: {reason(error)}") from error
    if not len(source):
        # where all there was is damaged, the damage is what to report
        if source.problems:
            raise source.problems[0]
        raise UsageError(f"{flag} {verbatim(path)}: holds no images")
    # the labels of a source without names cannot be compared: they are taken as they are
    if class_names and source.class_names:
        _check_class_names(source.class_names, class_names, source.description)
    return source


def _open_any(first_path: AnyPath, path: str, flag: str, index: str, index_flag: str, root: str,
              on_bad: str, class_names: Sequence[str], cache_gb: float | None,
              outside_root: bool) -> RecordSource | FolderSource | ListSource | PackedSource:
    """Return the source of the kind that the first path is."""
    is_list = first_path.suffix.lower() in (".lst", *csv_lists.ENDINGS) and ";" not in path
    if is_list:
        folder = to_path(root, "`data_root`") if root else first_path.parent
        return ListSource(first_path, folder, class_names=class_names, on_bad=on_bad,
                          outside_root=outside_root)
    kind = packed.kind_of(first_path)
    is_folder = ";" not in path and kind is None and first_path.is_dir() and not any(first_path.glob("*.rec"))
    if index and (kind or is_folder):
        raise UsageError(f"{index_flag} {verbatim(index)}: is for a .rec, which {verbatim(path)} is not")
    if kind:
        return packed.open_packed(kind, path, flag, class_names=class_names, on_bad=on_bad, cache_gb=cache_gb)
    if is_folder:
        return _open_folder(first_path, path, flag, class_names, on_bad)
    # a remote folder that was listed is not listed again
    is_listed = isinstance(first_path, RemotePath) and ";" not in path
    return _open_records(recordio.expand(first_path if is_listed else path, flag), index, on_bad, cache_gb)


def is_packed(path: str) -> bool:
    """Return whether a path means a file of images that `open_source` opens, and not a single image: records,
    a list, shards, a database."""
    first_path = to_path(path.partition(";")[0])
    # the endings that `_open_any` decides by
    endings = (".rec", ".lst", *csv_lists.ENDINGS, *(kind.ending for kind in packed.KINDS))
    if first_path.name.lower().endswith(endings):
        return True
    # of a URL only the name counts: to look at what is there would be a request for each image
    return not isinstance(first_path, RemotePath) and packed.kind_of(first_path) is not None


def open_splits(config: DataConfig, train: str, val: str) -> Splits:
    """Return sources for the paths `train` and, unless it is empty, `val`; their classes must agree."""
    # errors name the setting that the path came from
    source = open_source(train, "`data_train`" if config.data_train else "`data_dir`",
                         index=config.data_train_idx, root=config.data_root, on_bad=config.on_bad,
                         cache_gb=config.cache_gb, outside_root=config.outside_root)
    # Both must fit into the cache together, or each epoch would fetch them again.
    left_gb = max(config.cache_gb - getattr(source, "copied_bytes", 0) / 1e9, 0.0)
    val_source = open_val(dataclasses.replace(config, cache_gb=left_gb), val, source.class_names)
    return Splits(source, val_source, [*notes(source), *notes(val_source)])


def open_val(config: DataConfig, val: str, class_names: Sequence[str] = ()) -> Source | None:
    """Return the source for the path `val`, None where it is empty."""
    if not val:
        return None
    return open_source(val, "`data_val`" if config.data_val else "`data_dir`", index=config.data_val_idx,
                       index_flag="`data_val_idx`", root=config.data_root, on_bad=config.on_bad,
                       class_names=class_names, cache_gb=config.cache_gb, outside_root=config.outside_root)


def notes(source: Source | None) -> list[str]:
    """Return the lines to print about a source: samples that were left out, an unusual way of reading."""
    if source is None:
        return []
    # of one that is read in an unusual way, or of a folder that also holds files that are not taken
    lines: list[str] = list(getattr(source, "notes", ()))
    problems: list[DataError] = getattr(source, "problems", [])
    if len(problems) == 1:
        lines.append(f"a damaged sample was left out: {problems[0].message}")
    elif problems:
        lines.append(f"{len(problems)} damaged samples of {verbatim(source.description)} were left out, the "
                     f"first: {problems[0].message}")
    return lines


def names_note(source: Source) -> list[str]:
    """Return a note that there are no class names, or that folders lie inside class folders; or []."""
    if isinstance(source, FolderSource):
        return _inside_classes(source)
    if source.class_names or not isinstance(source, (RecordSource, ListSource,
                                                                    PackedSource)):
        return []
    return [f"{verbatim(source.description)}: without class names, classes are shown as numbers; "
            f"{verbatim(lists.classes_path(source.path).name)} beside it names them, one a line"]


def _inside_classes(source: FolderSource) -> list[str]:
    names = set(source.class_names)
    inside = [name for name in source.class_names
              if names & {str(parent) for parent in PurePath(name).parents if parent != PurePath()}]
    if not inside:
        return []
    more = f" and {len(inside) - 1} more" if len(inside) > 1 else ""
    return [f"{verbatim(source.description)}: the folder {verbatim(inside[0])}{more} lies in a class folder "
            "and is a separate class, as im2rec numbers them; move its images up where it is none"]


def num_classes(train: Source, val: Source | None = None) -> int | None:
    """Return the number of classes that the data names, None where no names are recorded."""
    # the larger one: validation data may name a class that no training image has
    return max((len(source.class_names) for source in (train, val) if source is not None), default=0) or None


def _open_folder(folder: AnyPath, path: str, flag: str, class_names: Sequence[str],
                 on_bad: str) -> FolderSource:
    """Return the source of a folder without record files; UsageError where it is none of class folders."""
    try:
        has_folders = any(entry.is_dir() for entry in folder.iterdir())
        has_splits = (folder / "train").is_dir() and (folder / "val").is_dir()
    except OSError as error:
        raise DataError(error.filename or folder, f"cannot be read: {reason(error)}") from error
    if not has_folders:
        raise UsageError(f"{flag} {verbatim(path)}: the folder holds neither .rec files nor "
                         "a folder of images per class")
    # read as two classes, a network would learn to tell train from val
    if has_splits:
        raise UsageError(f"{flag} {verbatim(path)}: the folder holds train and val: give it to `data_dir`")
    if isinstance(folder, RemotePath):
        # one request for each image: training would wait for the store most of the time
        raise UsageError(f"{flag} {verbatim(path)}: a remote folder of single images is not read; pack it "
                         "with imgcls-im2rec into a .rec, or list it in a .lst")
    return FolderSource(folder, class_names=class_names, on_bad=on_bad)


def _open_records(files: Sequence[AnyPath], index: str, on_bad: str, cache_gb: float | None) -> RecordSource:
    """Return a source of record files, by chunks where they are remote and more than the cache may hold."""
    # all or none: some files from copies and others in chunks would be two orders in one epoch
    limit_gb = default_gb() if cache_gb is None else cache_gb
    remote = [file for file in files if isinstance(file, RemotePath)]
    if sum(file.stat().size for file in remote) <= limit_gb * 1e9:
        return RecordSource(files, index=index, on_bad=on_bad, cache_gb=cache_gb)
    if len(remote) < len(files):
        raise UsageError(f"{verbatim(remote[0])}: is larger than `cache_gb` {limit_gb:g} allows to copy, "
                         "and local and "
                         "remote files are not read together then; raise it, or name remote files only")
    return ChunkedSource(remote, on_bad=on_bad, cache_gb=limit_gb)


def _check_class_names(names: Sequence[str], train_names: Sequence[str], description: str) -> None:
    """Raise UsageError where the classes differ from those of the training data, in name or number."""
    # fewer are allowed: a validation set may lack the last classes
    for label, (name, train_name) in enumerate(zip(names, train_names, strict=False)):
        if name != train_name:
            raise UsageError(f"{verbatim(description)}: class {label} is {verbatim(repr(name))} here and "
                             f"{verbatim(repr(train_name))} in the training data")
    if len(names) > len(train_names):
        raise UsageError(f"{verbatim(description)}: has {len(names)} classes, the training data "
                         f"{len(train_names)}")
