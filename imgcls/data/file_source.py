"""Samples in image files of their own: a folder of class folders, or the files that a `.lst` names.

`sources.open_source` makes these. Files are read, never decoded.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from imgcls import errors
from imgcls.data.bad_samples import check_bad_samples, is_class_number
from imgcls.errors import DataError, UsageError, verbatim
from imgcls.formats import lists, recordio
from imgcls.storage.paths import AnyPath
from imgcls.storage.reading import read_bounded, version_of
from imgcls.storage.remote import RemotePath

T = TypeVar("T", bound="_FileSource")


class _FileSource:
    """Image files under `root`, one sample each."""

    root: AnyPath
    labels: np.ndarray
    _paths: Sequence[str]

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
            except OSError as error:  # such as one that was removed: met again when it is read
                version = errors.reason(error)
            digest.update(f"{path}\0{version}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def subset(self: T, indices: np.ndarray) -> T:
        """Return a source of these samples only, in this order; of the same classes."""
        # shallow: problems and names are shared, and never changed
        part = copy.copy(self)
        # another list: the source itself stays whole
        part._paths = tuple(self._paths[int(index)] for index in indices)
        part.labels = self.labels[indices]
        return part

    def problem(self, index: int, reason: str) -> DataError:
        """Return the error that names sample `index` by its file."""
        return DataError(self.path_of(index), reason)


class FolderSource(_FileSource):
    """Images in class folders.

    Classes are numbered as im2rec numbers them, so that a folder and the records packed from it agree: every
    folder that itself holds an image (.jpg, .jpeg or .png, not hidden) is a class, in the order of a sorted
    walk; a folder inside a class folder is a class of its own. With `class_names`, those of the training
    data, folders are numbered by name.
    """

    def __init__(self, root: Path, *, class_names: Sequence[str] = (), on_bad: str = "skip") -> None:
        # the walk of im2rec --list --recursive, so that both number the classes alike
        # hidden files are what other systems keep beside images: ._photo.jpg
        walked = lists.walk(str(root), recursive=True, takes_any_name=True, with_hidden=False)
        if not walked.entries:
            raise UsageError(f"{verbatim(root)}: holds no .jpg, .jpeg or .png, and neither do its folders"
                             f"{_about_records(root)}")
        self.root = root
        self.description = str(root)
        self.problems = list(walked.problems)
        #: what to say of images that were not taken, "" where all were
        self.note = lists.about_passed_over(root, walked.passed_over, lists.EXTENSIONS)
        if self.note:
            self.note += " (imgcls-im2rec --exts packs others)"
        check_bad_samples(self.problems, len(walked.entries) + len(self.problems), self.description, on_bad)
        self.class_names = tuple(class_names or walked.class_names)
        self._paths = [entry.path for entry in walked.entries]
        labels = np.array([entry.labels[0] for entry in walked.entries], np.int64)
        if class_names:
            # A class that has no validation image has no folder there: the walk's own numbers would be off.
            label_of = {name: label for label, name in enumerate(class_names)}
            for name in walked.class_names:
                if name not in label_of:
                    raise UsageError(f"{verbatim(root / name)}: the training data has no class of this name")
            # from the walk's numbers to those of the training data
            labels = np.array([label_of[name] for name in walked.class_names])[labels]
        self.labels = labels


def _about_records(root: Path) -> str:
    """Return where the record files are of which a folder has some one level down, for a message."""
    found = sorted({path.parent for path in root.glob("*/*.rec")})
    return f"; {verbatim(found[0])} holds .rec files: name that folder" if found else ""


class ListSource(_FileSource):
    """The images that a `.lst` names, relative to `root`, with their first label: what im2rec would pack."""

    def __init__(self, path: AnyPath, root: AnyPath, *, on_bad: str = "skip",
                 outside_root: bool = False) -> None:
        """With `outside_root` the list may name files outside of `root`."""
        listed = lists.read(path)
        # a list may come from a stranger, and name any file of this machine
        if not outside_root:
            lists.check_inside(path, listed.entries, root)
        self.path = path
        self.root = root
        self.description = str(path)
        self.problems = list(listed.problems)
        usable = []
        # lists for regression have fractions for labels; nothing is trained on half a class
        is_class = is_class_number(np.array([entry.labels[0] for entry in listed.entries]))
        for entry, is_usable in zip(listed.entries, is_class.tolist(), strict=True):
            if is_usable:
                usable.append(entry)
            else:
                self.problems.append(DataError(path, f"image {entry.id} ({verbatim(entry.path)}) has the "
                                                     f"label {entry.labels[0]:g}, which is no class number"))
        # lines that are no entry at all are among the problems of the list itself
        check_bad_samples(self.problems, len(usable) + len(self.problems), self.description, on_bad)
        self.class_names = lists.class_names(path)
        self._paths = [entry.path for entry in usable]
        self.labels = np.array([entry.labels[0] for entry in usable], np.int64)


def _read_file(path: AnyPath) -> bytes:
    """Return the bytes of a file; what is larger than a record could be is refused before memory is taken."""
    try:
        if isinstance(path, RemotePath):
            return path.read_bytes(recordio.MAX_PAYLOAD_BYTES)
        return read_bounded(path, recordio.MAX_PAYLOAD_BYTES)
    except OSError as error:
        raise DataError(path, errors.reason(error)) from error
