"""Images in parquet files: labels read at once, images by groups of rows, of which the last used are kept."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from imgcls.data.order import EpochOrders, windowed_order
from imgcls.data.packed.source import PackedSource
from imgcls.errors import DataError, reason, verbatim
from imgcls.formats.parquet import ParquetReader
from imgcls.storage.paths import AnyPath
from imgcls.storage.reading import open_read, version_of
from imgcls.storage.remote import RemotePath

#: a group of rows is read as a whole: one of more bytes is refused
MAX_GROUP_BYTES = 1 << 30
#: images that are in memory, of all files together: as many bytes as of records that are read in chunks
MEMORY_BYTES = 512 << 20


class ParquetImages:
    """The rows of a parquet file; a Container."""

    def __init__(self, path: AnyPath, cache_gb: float | None = None) -> None:
        """Open it, of a URL the copy in the cache. `pyarrow` missing is a UsageError."""
        self.path = path
        try:
            # held open: the copy of a remote file is not removed meanwhile
            stream = open_read(path, cache_gb=cache_gb)
        except OSError as error:
            raise DataError(path, reason(error)) from error
        # a container has no `close`: its file is closed when it is collected
        weakref.finalize(self, stream.close)
        self._reader = ParquetReader(stream.name if isinstance(path, RemotePath) else str(path), path)
        self.class_names: Sequence[str] = self._reader.class_names
        self.labels, names = self._reader.labels()
        self.label_names: Sequence[str] = names
        self.problems: Sequence[DataError] = ()
        #: int64 (G,): memory that the images of each group of rows take, and the first row of each
        self.group_bytes = self._reader.group_bytes()
        # all of these are numbers that the file claims: checked before anything is read by them
        counts = self._reader.group_rows()
        self.group_firsts = np.cumsum(counts) - counts
        if counts.min(initial=0) < 0 or counts.sum() != len(self.labels):
            raise DataError(path, f"its groups of rows are {counts.sum()} rows, and it claims "
                                  f"{len(self.labels)}")
        largest, smallest = self.group_bytes.max(initial=0), self.group_bytes.min(initial=0)
        if largest > MAX_GROUP_BYTES or smallest < 0:
            raise DataError(path, f"a group of its rows has {largest:,} bytes of images, more than the "
                                  f"{MAX_GROUP_BYTES:,} that are read at a time; write it with fewer rows in "
                                  "a group (row_group_size), or pack it with imgcls-convert")
        #: the last used groups; of a source all its files share one
        self.memory = _GroupMemory(MEMORY_BYTES)

    def read(self, number: int) -> memoryview:
        """Return the encoded image of a row."""
        group = int(np.searchsorted(self.group_firsts, number, side="right")) - 1
        images = self.memory.group(self, group)
        row = number - self.group_firsts.item(group)
        # a view: the group lives for as long as it is used
        image = images[row].as_buffer() if row < len(images) else None
        if image is None:
            raise self.problem(number, "holds no image bytes")
        # pyarrow's bytes are signed
        return memoryview(image).cast("B")

    def version(self) -> str:
        """Return a text that changes when the file is changed or replaced."""
        return version_of(self.path)

    def read_group(self, group: int) -> Any:
        """Return the images of a group of rows."""
        return self._reader.read_group(group)

    def problem(self, number: int, reason: str) -> DataError:
        """Return the error that names a row."""
        return DataError(self.path, f"row {number} {reason}")


class _GroupMemory:
    """The groups of rows that were used last, up to a number of bytes but at least one; threads share it."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._groups: OrderedDict[tuple[int, int], tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()
        # a lock for each group that is being read: of two threads that need it one reads and the other waits
        self._reading: dict[tuple[int, int], threading.Lock] = {}
        self._num_bytes = 0

    def group(self, file: ParquetImages, group: int) -> Any:
        """Return the images of a group, which are read if they are not in memory."""
        # the files live as long as the source that has this memory
        key = (id(file), group)
        if (images := self._recall(key)) is not None:
            return images
        with self._lock:
            reading = self._reading.setdefault(key, threading.Lock())
        with reading:
            if (images := self._recall(key)) is not None:
                return images
            images = file.read_group(group)
            self._keep(key, images, file.group_bytes.item(group))
        with self._lock:
            self._reading.pop(key, None)
        return images

    def _recall(self, key: tuple[int, int]) -> Any:
        with self._lock:
            found = self._groups.get(key)
            if found is not None:
                self._groups.move_to_end(key)
        return found and found[0]

    def _keep(self, key: tuple[int, int], images: Any, num_bytes: int) -> None:
        with self._lock:
            # Two threads may have read it, where it was removed again before the second one got it.
            self._num_bytes -= self._groups.pop(key, (None, 0))[1]
            self._groups[key] = (images, num_bytes)
            self._num_bytes += num_bytes
            # a group that a reader is using stays in memory until it is done
            while self._num_bytes > self._limit_bytes and len(self._groups) > 1:
                self._num_bytes -= self._groups.popitem(last=False)[1][1]


class ParquetSource(PackedSource):
    """Rows of parquet files whose images fit into memory together: they are read well in any order."""

    def __init__(self, containers: Sequence[ParquetImages], *, class_names: Sequence[str] = (),
                 on_bad: str = "skip") -> None:
        super().__init__(containers, class_names=class_names, on_bad=on_bad)
        # one limit for all files: a set may have thousands
        memory = _GroupMemory(MEMORY_BYTES)
        for container in containers:
            container.memory = memory


class WindowedParquetSource(ParquetSource):
    """Rows of parquet files that are more than may be in memory: an order by groups of rows, as with chunks
    of records."""

    def __init__(self, containers: Sequence[ParquetImages], *, class_names: Sequence[str] = (),
                 on_bad: str = "skip") -> None:
        super().__init__(containers, class_names=class_names, on_bad=on_bad)
        firsts = [container.group_firsts + first for container, first in
                  zip(containers, self.firsts, strict=False)]
        group_of_row = np.searchsorted(np.concatenate(firsts), self._numbers, side="right") - 1
        #: int64 (N,): number of the group of each sample, through all files
        self._group_of_sample = group_of_row
        largest = max(int(container.group_bytes.max(initial=1)) for container in containers)
        # two windows are in memory where one ends and the next begins
        self._window = max(MEMORY_BYTES // 2 // max(largest, 1), 1)
        self._orders = EpochOrders()
        total = sum(int(container.group_bytes.sum()) for container in containers)
        self.notes = (f"{verbatim(self.description)}: {total / 1e9:.3g} GB of images are more than the "
                      f"{MEMORY_BYTES / 1e9:.2g} that are kept in memory; for training {self._window} groups "
                      "of rows are shuffled together (records, which imgcls-convert makes, in any order)",)

    def subset(self, indices: np.ndarray) -> WindowedParquetSource:
        """Return a source of these samples only."""
        part = super().subset(indices)
        part._group_of_sample = self._group_of_sample[indices]
        return part

    def fingerprint(self) -> None:
        """Return None: what is read in windows is not kept."""

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Return int64 (N,): the samples in the order of the epoch, by windows of groups."""
        # numbered anew: `subset` may leave out whole groups
        groups, chunk_of_sample = np.unique(self._group_of_sample, return_inverse=True)
        return windowed_order(self._orders, seed, epoch, chunk_of_sample, len(groups), self._window)

    def prefetch(self, indices: np.ndarray) -> None:
        """Do nothing: the first sample of a group reads the others too, and threads read several groups."""


def parquet_source(containers: Sequence[ParquetImages], *, class_names: Sequence[str] = (),
                   on_bad: str = "skip") -> ParquetSource:
    """Return the source that suits the size of the files."""
    total = sum(int(container.group_bytes.sum()) for container in containers)
    kind = WindowedParquetSource if total > MEMORY_BYTES else ParquetSource
    return kind(containers, class_names=class_names, on_bad=on_bad)
