"""Make the lists that im2rec packs from, and look at a list before it is packed.

`cli/im2rec.py` calls it; it prints nothing and reads no image. The format of a list is `formats/lists.py`.
Lists of any length are written and looked through in little memory: 16 bytes an image.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from imgcls.errors import DataError
from imgcls.formats import lists
from imgcls.formats.lists import ListEntry
from imgcls.storage.atomic import atomic_write

#: entries that are passed to the disk at a time
_ROWS_AT_ONCE = 1024


class ListDraft:
    """Entries of a list to be, in a temporary file; ids count up."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="imgcls-list-")  # noqa: SIM115
        self._ends = array("Q", [0])  # bytes of the file up to each entry's end

    def add(self, label: float, path: str) -> None:
        """Append an entry."""
        line = lists.line_of(ListEntry(len(self), (label,), path))
        self._file.write(line)
        self._ends.append(self._ends[-1] + len(line))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def lines(self, order: Sequence[int]) -> Iterator[bytes]:
        """Yield the lines of the entries in an order, many in a piece."""
        self._file.flush()
        handle = self._file.fileno()
        # read where they stand, as a shuffled order asks for: the page cache makes that cheap
        for first in range(0, len(order), _ROWS_AT_ONCE):
            yield b"".join(os.pread(handle, self._ends[i + 1] - self._ends[i], self._ends[i])
                           for i in order[first:first + _ROWS_AT_ONCE])


def write_lists(prefix: str, draft: ListDraft, *, shuffle: bool, chunks: int = 1, train_ratio: float = 1.0,
                test_ratio: float = 0.0, suffix: str = "") -> list[tuple[Path, int]]:
    """Write PREFIX*.lst, each name ending in `suffix`; return (path, number of images) of each."""
    # indices in place of entries: shuffled as a whole and then split, so that each list is a fair sample
    order: Sequence[int] = range(len(draft))
    if shuffle:
        order = array("Q", order)
        lists.shuffle(order)
    written = []
    for part, chunk in lists.split(order, chunks=chunks, train_ratio=train_ratio, test_ratio=test_ratio):
        path = Path(f"{prefix}{part}{suffix}.lst")
        with atomic_write(path) as stream:
            stream.writelines(draft.lines(chunk))
        written.append((path, len(chunk)))
    return written


def find_lists(prefix: str) -> list[Path]:
    """Return the lists that begin with a prefix, or all in a folder of that name, sorted."""
    # PREFIX may name a folder: im2rec.py took all lists in it
    folder = Path(prefix if os.path.isdir(prefix) else os.path.dirname(prefix))
    return [path for path in sorted(folder.glob("*.lst")) if str(path).startswith(prefix) and path.is_file()]


class ListSummary:
    """What is known of a list before it is packed."""

    def __init__(self, entries: Iterable[ListEntry | DataError]) -> None:
        #: lines that are none
        self.problems: list[DataError] = []
        self._ids = array("Q")
        self._folders: dict[float, str] = {}  # of each label; as long as each has one
        self._has_folders = True
        self._is_sorted = True
        last = float("-inf")
        for entry in entries:
            if isinstance(entry, DataError):
                self.problems.append(entry)
                continue
            self._ids.append(entry.id)
            label = entry.labels[0]
            # compared with the line before alone
            self._is_sorted &= last <= label
            last = label
            folder = os.path.dirname(entry.path)
            # two folders with one label: the label is no folder's
            self._has_folders &= self._folders.setdefault(label, folder) == folder

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._ids)

    def class_names(self) -> list[str]:
        """Return class names for a list that came without: the folders, where each label 0, 1, ... has just
        one of its own; else none."""
        # one folder names no classes, and labels with gaps were not dealt out by folder
        if not self._has_folders or len(self._folders) < 2 or sorted(self._folders) != list(
                range(len(self._folders))):
            return []
        names = [self._folders[label] for label in sorted(self._folders)]
        return names if len(set(names)) == len(names) and all(names) else []

    def rarely_meant(self, target: str) -> list[str]:
        """Return what to warn of: ids that repeat, and training images that come class by class."""
        warnings = []
        ids = np.sort(np.frombuffer(self._ids, np.uint64)) if self._ids else np.empty(0, np.uint64)
        num_repeated = int((ids[1:] == ids[:-1]).sum())
        if num_repeated:
            warnings.append(f"{target}: {num_repeated} ids of the list stand there more than once; a reader "
                            "that looks records up by id finds only one of each")
        # only the order of training data matters
        is_training = not any(word in Path(target).name for word in ("val", "test"))
        # four images of a class and more: shorter lists may be in the order of their labels by chance
        if is_training and 1 < len(self._folders) <= len(self) // 4 and self._is_sorted:
            warnings.append(f"{target}: the list is in the order of its labels; readers that shuffle only "
                            "nearby ones, as MXNet without an index, learn nothing from that: make the "
                            "list with "
                            "`shuffle`")
        return warnings
