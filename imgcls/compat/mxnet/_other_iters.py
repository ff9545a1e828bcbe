"""`mx.io.CSVIter` and `mx.io.PrefetchingIter`; `io.py` exports them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from imgcls.compat.mxnet._data_iter import DataBatch, DataDesc, DataIter
from imgcls.compat.mxnet.base import MXNetError
from imgcls.compat.mxnet.nd import NDArray, array
from imgcls.errors import verbatim
from imgcls.storage.paths import to_path


class CSVIter(DataIter):
    """Batches of the rows of a CSV file, of `data_shape` and `dtype` (float32), and of a file of labels.

    Without `label_csv` labels are 0. With `round_batch` the last batch is filled up from the beginning, and
    the next epoch begins behind these rows; without it the rest of the batch has rows of the batch before.
    """

    def __init__(self, data_csv: str | os.PathLike[str], data_shape: Sequence[int], batch_size: int,
                 label_csv: str | os.PathLike[str] | None = None, label_shape: Sequence[int] = (1,),
                 round_batch: bool = True, dtype: Any = None, ctx: Any = None,
                 prefetch_buffer: int = 4) -> None:
        super().__init__(batch_size)
        if batch_size < 1:
            raise MXNetError(f"batch_size {batch_size}: must be at least 1")
        self._rows = _read(data_csv, data_shape)
        has_labels = label_csv not in (None, "", "NULL")  # NULL is MXNet's default
        labels = _read(label_csv, label_shape) if has_labels else np.zeros((len(self._rows), 1), np.float32)
        if len(labels) != len(self._rows):
            raise MXNetError(f"label_csv: has {len(labels)} rows, data_csv has {len(self._rows)}")
        # with one label a row the axis of labels is dropped, as everywhere in mx.io
        self._labels = labels.reshape(len(labels)) if labels[0].size == 1 else labels
        self._dtype = np.dtype(np.float32 if dtype is None else dtype)
        self._is_round = round_batch
        self.provide_data = [DataDesc("data", (batch_size, *self._rows.shape[1:]))]
        self.provide_label = [DataDesc("softmax_label", (batch_size, *self._labels.shape[1:]))]
        #: the first row of the next batch
        self._cursor = 0
        #: int64 rows of the current batch
        self._batch = np.zeros(batch_size, np.int64)
        #: how many rows of the current batch fill it up
        self._pad = 0

    def reset(self) -> None:
        """Begin the next epoch, with `round_batch` behind the rows that filled up the last one."""
        self._cursor = self._pad if self._is_round else 0
        self._pad = 0

    def iter_next(self) -> bool:
        """Go to the next batch, if there is one."""
        rows = np.arange(self._cursor, min(self._cursor + self.batch_size, len(self._rows)))
        if not len(rows):
            return False
        self._pad = self.batch_size - len(rows)
        rest = np.arange(self._pad) % len(self._rows) if self._is_round else self._batch[len(rows):]
        self._batch = np.concatenate([rows, rest])
        self._cursor += self.batch_size
        return True

    def getdata(self) -> list[NDArray]:
        """Return the batch's data."""
        return [array(self._rows[self._batch], dtype=self._dtype)]

    def getlabel(self) -> list[NDArray]:
        """Return the batch's labels."""
        return [array(self._labels[self._batch])]

    def getindex(self) -> np.ndarray:
        """Return the numbers of the batch's rows."""
        return self._batch.astype(np.uint64)

    def getpad(self) -> int:
        """Return how many rows fill the batch up."""
        return self._pad


# numpy parses numbers only: nothing in the file is run.
def _read(path: Any, shape: Sequence[int]) -> np.ndarray:
    """Return the rows of a file, float32 (rows, *shape)."""
    sizes = tuple(shape)
    try:
        rows = np.loadtxt(to_path(path), np.float32, delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
        raise MXNetError(f"{verbatim(path)}: is no file of numbers between commas "
                         f"({verbatim(error)})") from error
    if not rows.size:
        raise MXNetError(f"{verbatim(path)}: holds no row")
    if rows.shape[1] != np.prod(sizes):
        raise MXNetError(f"{verbatim(path)}: rows have {rows.shape[1]} numbers, shape {sizes} needs "
                         f"{np.prod(sizes)}")
    return rows.reshape(len(rows), *sizes)


# The iterators here read ahead themselves where that pays, so no thread is needed.
class PrefetchingIter(DataIter):
    """One iterator, or several together: their data and labels in one batch, under other names."""

    def __init__(self, iters: DataIter | Sequence[DataIter],
                 rename_data: Sequence[Mapping[str, str]] | None = None,
                 rename_label: Sequence[Mapping[str, str]] | None = None) -> None:
        self.iters: list[DataIter] = [iters] if isinstance(iters, DataIter) else list(iters)
        if not self.iters:
            raise AssertionError("iters: at least one iterator is needed")
        self.provide_data = _renamed([one.provide_data for one in self.iters], rename_data)
        self.provide_label = _renamed([one.provide_label for one in self.iters], rename_label)
        super().__init__(self.provide_data[0].shape[0])
        self.current_batch: DataBatch | None = None

    def reset(self) -> None:
        """Begin the next epoch of all."""
        for one in self.iters:
            one.reset()

    def iter_next(self) -> bool:
        """Go to the next batch; all iterators must end together."""
        batches = [next(one, None) for one in self.iters]
        found = [batch for batch in batches if batch is not None]
        if len(found) not in (0, len(batches)):
            raise AssertionError("Number of entry mismatches between iterators")
        if not found:
            return False
        if len({batch.pad for batch in found}) > 1:
            raise AssertionError("Different pad between iterators")
        self.current_batch = DataBatch([one for batch in found for one in batch.data],
                                       [one for batch in found for one in batch.label or []], found[0].pad,
                                       found[0].index, provide_data=self.provide_data,
                                       provide_label=self.provide_label)
        return True

    def next(self) -> DataBatch:
        """Return the next batch; StopIteration at the end of the epoch."""
        if not self.iter_next() or self.current_batch is None:
            raise StopIteration
        return self.current_batch


def _renamed(described: Sequence[Sequence[Any]], names: Sequence[Mapping[str, str]] | None) -> list[DataDesc]:
    """Return the descriptions of all iterators, renamed by the table of each iterator in `names`."""
    found = []
    for number, descriptions in enumerate(described):
        table = names[number] if names else {}
        for one in descriptions:
            full = one if isinstance(one, DataDesc) else DataDesc(*one)
            found.append(DataDesc(table.get(full.name, full.name), full.shape, full.dtype, full.layout))
    return found
