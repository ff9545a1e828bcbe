"""Make the lists that im2rec packs from, and inspect a list before it is packed.

`cli/im2rec.py` calls it; it prints nothing and reads no image. The format of a list is `formats/lists.py`.
Lists of any length are written and inspected in little memory: five bytes an image. Four of them are the
shuffled order: MXNet's shuffle swaps each entry with any other one, so that all must be in memory.
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
from imgcls.storage.atomic import atomic_write, write_bytes

#: entries that are written at a time
_ROWS_AT_ONCE = 1024
#: entries in a block of a draft: only where each block begins in the file is kept in memory
_ENTRIES_OF_BLOCK = 16
#: ids in a page of `_IdSet`, a bit each
_IDS_OF_PAGE = 1 << 16


class ListDraft:
    """Entries of a list that is being made, in a temporary file; ids count up from 0."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="imgcls-list-")  # noqa: SIM115
        self._begins = array("Q")  # byte of the file where each block of entries begins
        self._size = 0
        self._count = 0

    def add(self, label: float, path: str) -> None:
        """Append an entry."""
        line = lists.line_of(ListEntry(len(self), (label,), path))
        if not self._count % _ENTRIES_OF_BLOCK:
            self._begins.append(self._size)
        self._file.write(line)
        self._size += len(line)
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def lines(self, order: Sequence[int]) -> Iterator[bytes]:
        """Yield the lines of the entries `order`, in this order, many lines in one piece."""
        self._file.flush()
        for first in range(0, len(order), _ROWS_AT_ONCE):
            yield b"".join(map(self._line, order[first:first + _ROWS_AT_ONCE]))

    def _line(self, index: int) -> bytes:
        # read at its place, since the order may be shuffled: the page cache makes that cheap
        block, row = divmod(index, _ENTRIES_OF_BLOCK)
        begin = self._begins[block]
        end = self._begins[block + 1] if block + 1 < len(self._begins) else self._size
        return os.pread(self._file.fileno(), end - begin, begin).split(b"\n")[row] + b"\n"


def write_lists(prefix: str, draft: ListDraft, *, shuffle: bool, chunks: int = 1, train_ratio: float = 1.0,
                test_ratio: float = 0.0, suffix: str = "") -> list[tuple[Path, int]]:
    """Write PREFIX*.lst, each name ending in `suffix`; return (path, number of images) of each.

    Where the file `unfinished_lists` exists, their names are appended to it first.
    """
    # indices instead of entries: shuffled as a whole and then split, so that each list is a fair sample
    order: Sequence[int] = range(len(draft))
    if shuffle:
        numbers = array("I" if len(draft) <= 1 << 32 else "Q", order)
        lists.shuffle(numbers)
        order = memoryview(numbers)  # its slices are no copies
    parts = {Path(f"{prefix}{part}{suffix}.lst"): chunk for part, chunk in lists.split(
        order, chunks=chunks, train_ratio=train_ratio, test_ratio=test_ratio)}
    mark = unfinished_lists(prefix)
    if mark.exists():
        write_bytes(mark, mark.read_bytes(), b"".join(os.fsencode(path.name) + b"\n" for path in parts))
    written = []
    for path, chunk in parts.items():
        with atomic_write(path) as stream:
            stream.writelines(draft.lines(chunk))
        written.append((path, len(chunk)))
    return written


def unfinished_lists(prefix: str) -> Path:
    """Return the path of the file that exists until all lists PREFIX*.lst are written, and holds their names.

    Without it, a run that is killed between two lists would leave what looks like all of them.
    """
    path = Path(prefix)
    return path.with_name(f".{path.name}.lists.tmp")


def find_lists(prefix: str) -> list[Path]:
    """Return the lists whose paths begin with `prefix`, or all in a folder of that name, sorted."""
    # PREFIX may name a folder: im2rec.py took all lists in it
    folder = Path(prefix if os.path.isdir(prefix) else os.path.dirname(prefix))
    return [path for path in sorted(folder.glob("*.lst")) if str(path).startswith(prefix) and path.is_file()]


class ListSummary:
    """What the entries of a list say before it is packed: number, classes, repeated ids, order."""

    def __init__(self, entries: Iterable[ListEntry | DataError]) -> None:
        #: lines that are no entries
        self.problems: list[DataError] = []
        self._ids = _IdSet()
        self._count = 0
        self._folders: dict[float, str] = {}  # of each label; as long as each has one
        self._has_folders = True
        self._is_sorted = True
        last = float("-inf")
        for entry in entries:
            if isinstance(entry, DataError):
                self.problems.append(entry)
                continue
            self._ids.add(entry.id)
            self._count += 1
            label = entry.labels[0]
            # compared only with the line before
            self._is_sorted &= last <= label
            last = label
            folder = os.path.dirname(entry.path)
            # two folders with one label: the label is no folder's
            self._has_folders &= self._folders.setdefault(label, folder) == folder

    def __len__(self) -> int:
        """Return the number of entries."""
        return self._count

    def class_names(self) -> list[str]:
        """Return class names for a list that has none beside it: the folders, where each label 0, 1, ... has
        exactly one folder of its own; else []."""
        # one folder names no classes, and labels with gaps were not assigned by folder
        if not self._has_folders or len(self._folders) < 2 or sorted(self._folders) != list(
                range(len(self._folders))):
            return []
        names = [self._folders[label] for label in sorted(self._folders)]
        return names if len(set(names)) == len(names) and all(names) else []

    def rarely_meant(self, target: str) -> list[str]:
        """Return warnings: about ids that repeat, and about training images that come class by class.

        `target` is the name in the warnings; with `val` or `test` in it the images are not for training.
        """
        warnings = []
        num_repeated = self._ids.count_repeated()
        if num_repeated:
            warnings.append(f"{target}: {num_repeated} ids occur more than once in the list; a reader "
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


class _IdSet:
    """Counts ids (0 to 2^64 - 1) that repeat, with one bit an id where they lie close together.

    The ids of a list usually count up. Where they are scattered, 8 bytes an id are kept.
    """

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        self._scattered = array("Q")
        self._count = 0
        self._num_repeated = 0

    def add(self, number: int) -> None:
        """Add an id."""
        self._count += 1
        page = self._pages.get(number // _IDS_OF_PAGE)
        if page is None:
            # a page for each of many scattered ids would be far more than their numbers
            if len(self._pages) > 16 + self._count // (_IDS_OF_PAGE // 64):
                self._scattered.append(number)
                return
            page = self._pages[number // _IDS_OF_PAGE] = bytearray(_IDS_OF_PAGE // 8)
        # counted as they are added: a bit does not say how often it was set
        byte, bit = divmod(number % _IDS_OF_PAGE, 8)
        self._num_repeated += page[byte] >> bit & 1
        page[byte] |= 1 << bit

    def count_repeated(self) -> int:
        """Return how many of the added ids had been added before."""
        # an id is in a page or here, and in a page only if that was there when it first came
        ids, counts = np.unique(np.frombuffer(self._scattered, np.uint64), return_counts=True) \
            if self._scattered else (np.empty(0, np.uint64), np.empty(0, np.int64))
        later = sum(1 for number in ids.tolist() if self._has(number))
        return self._num_repeated + int((counts - 1).sum()) + later

    def _has(self, number: int) -> bool:
        page = self._pages.get(number // _IDS_OF_PAGE)
        byte, bit = divmod(number % _IDS_OF_PAGE, 8)
        return page is not None and bool(page[byte] >> bit & 1)
