"""Many paths in little memory: their bytes in one piece, and where each path begins and ends.

A list of a million strings takes 100 MB; this takes 16 bytes a path beside its characters, and is written to
and read from a file as it is.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np


class PathTable(Sequence[str]):
    """Paths by number; names that are not UTF-8 come back as `os.fsdecode` gives them (surrogate escapes)."""

    def __init__(self, text: bytes | memoryview, ends: np.ndarray) -> None:
        """`text` is the bytes of all paths, `ends` int64 (N,) where each ends and the next begins."""
        self.text = text
        #: int64 (N,)
        self.begins = np.concatenate([np.zeros(1, np.int64), ends[:-1]]) if len(ends) else ends
        self.ends = ends

    @classmethod
    def of(cls, paths: Iterable[str]) -> PathTable:
        """Return the table of these paths."""
        builder = PathTableBuilder()
        for path in paths:
            builder.append(path)
        return builder.build()

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...

    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        # for messages and tests; loaders read one at a time
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return os.fsdecode(bytes(self.text[self.begins.item(index):self.ends.item(index)]))

    def take(self, indices: np.ndarray) -> PathTable:
        """Return the table of these paths alone, in this order, on the same bytes."""
        # the bytes of those that are left out stay: they are shared with the whole table
        part = PathTable(self.text, self.ends[:0])
        part.begins, part.ends = self.begins[indices], self.ends[indices]
        return part


class PathTableBuilder:
    """Takes paths one by one."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._ends = array("q")

    def append(self, path: str) -> None:
        """Add a path."""
        self._text += os.fsencode(path)
        self._ends.append(len(self._text))

    def append_all(self, folder: str, names: Sequence[str]) -> None:
        """Add all files of a folder."""
        prefix = os.path.join(folder, "") if folder else ""
        # in one go: a million calls of `append` would take as long as the listing
        encoded = [os.fsencode(prefix + name) for name in names]
        ends = np.cumsum([len(self._text), *map(len, encoded)])[1:]
        self._text += b"".join(encoded)
        self._ends.frombytes(ends.astype(np.int64).tobytes())

    def build(self) -> PathTable:
        """Return the table."""
        ends = np.frombuffer(self._ends, np.int64).copy() if self._ends else np.zeros(0, np.int64)
        return PathTable(bytes(self._text), ends)
