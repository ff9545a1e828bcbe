"""Samples in image files of their own: a folder of class folders, or the files that a list names.

`sources.open_source` makes these. Files are read, never decoded.
"""

from __future__ import annotations

import copy
import hashlib
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from imgcls import errors
from imgcls.data.bad_samples import check_bad_samples, is_class
from imgcls.data.folder_listing import list_folder
from imgcls.data.path_table import PathTable, PathTableBuilder
from imgcls.errors import DataError, UsageError, verbatim
from imgcls.formats import csv_lists, lists, recordio
from imgcls.formats.csv_lists import CsvList
from imgcls.formats.image_folders import SUFFIXES, about_passed_over
from imgcls.storage.paths import AnyPath
from imgcls.storage.reading import read_bounded, version_of
from imgcls.storage.remote import RemotePath

T = TypeVar("T", bound="_FileSource")


class _FileSource:
    """Image files under `root`, one sample each."""

    root: AnyPath
    labels: np.ndarray
    _paths: PathTable

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> bytes:
        """Return the file of sample `index`; a DataError where it cannot be read."""
        return _read_file(self.path_of(index))

    def path_of(self, index: int) -> AnyPath:
        """Return the path of sample `index`."""
        return self.root / self._paths[index]

    def fingerprint(self) -> str | None:
        """Return a digest of the paths, sizes and times of all files; None for remote ones."""
        if isinstance(self.root, RemotePath):
            return None  # a request for each
        digest = hashlib.blake2b()
        for index, path in enumerate(self._paths):
            try:
                version = version_of(self.path_of(index))
            except OSError as error:  # such as one that was removed: reported when it is read
                version = errors.reason(error)
            digest.update(f"{path}\0{version}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def subset(self: T, indices: np.ndarray) -> T:
        """Return a source of these samples only, in this order; of the same classes."""
        # shallow: problems and names are shared, and never changed
        part = copy.copy(self)
        # new arrays: the source itself stays whole
        part._paths = self._paths.take(indices)
        part.labels = self.labels[indices]
        return part

    def problem(self, index: int, reason: str) -> DataError:
        """Return the error that names sample `index` by its file."""
        return DataError(self.path_of(index), reason)


class FolderSource(_FileSource):
    """Images in class folders.

    Classes are numbered as im2rec numbers them, so that a folder and the records packed from it agree: every
    folder that itself holds an image (`image_folders.SUFFIXES`, not hidden) is a class, in the order of a
    sorted walk; a folder inside a class folder is a separate class. With `class_names`, those of the
    training data, folders are numbered by name. The list of a large folder is kept (`folder_listing`).
    UsageError for a folder without images, or with a class that is not among `class_names`.
    """

    def __init__(self, root: Path, *, class_names: Sequence[str] = (), on_bad: str = "skip") -> None:
        listed = list_folder(root)
        if not len(listed.paths):
            raise UsageError(f"{verbatim(root)}: holds no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, and "
                             f"neither do its folders{_about_records(root)}")
        self.root = root
        self.description = str(root)
        self.problems = list(listed.problems)
        #: notes for the user about images that were not taken, and about a list that was kept
        self.notes = tuple(filter(None, (
            about_passed_over(root, listed.passed_over, SUFFIXES),
            f"{verbatim(root)}: the list of its {len(listed.paths):,} images is that of an earlier run; none "
            f"of its {listed.num_folders:,} folders has changed since" if listed.was_kept else "")))
        check_bad_samples(self.problems, len(listed.paths) + len(self.problems), self.description, on_bad)
        self.class_names = tuple(class_names or listed.class_names)
        self._paths = listed.paths
        # from the walk's numbers to those of the training data: a class that has no validation image has no
        # folder there
        self.labels = listed.labels if not class_names else label_of_names(
            listed.class_names, class_names, lambda name: root / name)[listed.labels]


def label_of_names(names: Sequence[str], class_names: Sequence[str],
                   where: Callable[[str], object]) -> np.ndarray:
    """Return int64 (len(names),): the label that each name has among the classes of the training data.

    UsageError for a name that is not among them; `where` returns where a name is from, for the message.
    """
    # by name and never by position: folders may be missing here
    label_of = {name: label for label, name in enumerate(class_names)}
    for name in names:
        if name not in label_of:
            raise UsageError(f"{verbatim(where(name))}: the training data has no class of this name")
    return np.array([label_of[name] for name in names], np.int64)


def _about_records(root: Path) -> str:
    """Return the end of a message: which folder one level below `root` holds record files, or ""."""
    found = sorted({path.parent for path in root.glob("*/*.rec")})
    return f"; {verbatim(found[0])} holds .rec files: name that folder" if found else ""


class ListSource(_FileSource):
    """The images that a `.lst` or CSV file names, relative to `root`, with their first label.

    Of a `.lst` that is what im2rec would pack. Names of classes in a CSV file are numbered in sorted order,
    as folders are, or by `class_names`, those of the training data.
    """

    def __init__(self, path: AnyPath, root: AnyPath, *, class_names: Sequence[str] = (),
                 on_bad: str = "skip", outside_root: bool = False) -> None:
        """With `outside_root` the list may name files outside of `root`."""
        self.path = path
        self.root = root
        self.description = str(path)
        self.problems = []
        csv = CsvList(path) if path.suffix.lower() in csv_lists.ENDINGS else None
        # a list may come from someone else, and name any file of this machine
        inside = lists.inside_of(root)
        # One by one into arrays: fourteen million entries as objects would take gigabytes.
        table, labels = PathTableBuilder(), array("d")
        for entry in csv or lists.iterate(path):
            # lines that are no entry at all
            if isinstance(entry, DataError):
                self.problems.append(entry)
                continue
            if not outside_root:
                lists.check_entry_inside(path, entry, root, inside)
            label = entry.labels[0]
            # lists for regression have fractions for labels; nothing is trained on half a class
            if is_class(label):
                table.append(entry.path)
                labels.append(label)
            else:
                self.problems.append(DataError(path, f"image {entry.id} ({verbatim(entry.path)}) has the "
                                                     f"label {label:g}, which is no class number"))
        check_bad_samples(self.problems, len(labels) + len(self.problems), self.description, on_bad)
        self._paths = table.build()
        self.labels = np.array(labels, np.float64).astype(np.int64)
        self.class_names = tuple(lists.class_names(path))
        if csv and csv.names:
            # they were numbered in the order in which they first occur: now in the order of their names
            self.class_names = tuple(class_names or sorted(csv.names))
            self.labels = label_of_names(list(csv.names), self.class_names,
                                         lambda name: f"{path}: {name}")[self.labels]


def _read_file(path: AnyPath) -> bytes:
    """Return the bytes of a file; what is larger than a record could be is refused before memory is taken."""
    try:
        if isinstance(path, RemotePath):
            return path.read_bytes(recordio.MAX_PAYLOAD_BYTES)
        return read_bounded(path, recordio.MAX_PAYLOAD_BYTES)
    except OSError as error:
        raise DataError(path, errors.reason(error)) from error
