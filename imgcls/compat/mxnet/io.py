"""`mx.io`: iterators that give batches: `NDArrayIter` over arrays, `ImageRecordIter` over image records.

`for batch in iterator` goes through an epoch; `reset` begins the next one. `batch.pad` says how many samples
at the end of a batch only fill it up. It is 0 but for the last batch of an epoch; MXNet leaves old values of
`pad` in others.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from imgcls.compat.mxnet._data_iter import DataBatch as DataBatch
from imgcls.compat.mxnet._data_iter import DataDesc, DataIter
from imgcls.compat.mxnet._registration import missing
from imgcls.compat.mxnet.base import MXNetError
from imgcls.compat.mxnet.nd import NDArray, array


class NDArrayIter(DataIter):
    """Batches of arrays, lists or dicts of arrays, which become float32 unless they are NDArrays.

    `last_batch_handle`: "pad" fills the last batch up from the beginning, "discard" drops it, "roll_over"
    moves its samples to the beginning of the next epoch. `shuffle` draws from `numpy.random`, as MXNet does.
    """

    def __init__(self, data: Any, label: Any = None, batch_size: int = 1, shuffle: bool = False,
                 last_batch_handle: str = "pad", data_name: str = "data", label_name: str = "softmax_label",
                 layout: str = "NCHW") -> None:
        super().__init__(batch_size)
        if last_batch_handle not in ("pad", "discard", "roll_over"):
            raise MXNetError(f"last_batch_handle {last_batch_handle}: must be pad, discard or roll_over")
        if batch_size < 1:
            raise MXNetError(f"batch_size {batch_size}: must be at least 1")
        self.data = _named(data, data_name)
        self.label = _named(label, label_name)
        if not self.data:
            raise MXNetError("data: holds no array")
        self.shuffle = shuffle
        self.last_batch_handle = last_batch_handle
        self.layout = layout
        #: the axis of the samples
        self._axis = layout.find("N")
        self.num_data = self.data[0][1].shape[0]
        self._check_counts()
        #: the permutation, under MXNet's name, as scripts read it
        self.idx = np.arange(self.num_data)
        #: int64 samples: of this epoch, and of the last epoch's incomplete batch
        self._order = np.arange(self.num_data)
        self._left_over = np.zeros(0, np.int64)
        #: int64 samples of the current batch
        self._batch: np.ndarray = self._left_over
        self._begin_epoch()

    @property
    def provide_data(self) -> list[DataDesc]:
        """Names and shapes of the data in a batch."""
        return self._describe(self.data)

    @property
    def provide_label(self) -> list[DataDesc]:
        """Names and shapes of the labels in a batch."""
        return self._describe(self.label)

    def reset(self) -> None:
        """Begin the next epoch; with "roll_over" the samples left of this one come first."""
        # Also where the caller left the epoch in the middle of its last batch.
        is_incomplete = len(self._samples) - self._cursor < self.batch_size
        if self.last_batch_handle == "roll_over" and is_incomplete:
            self._left_over = self._samples[self._cursor:]
        else:
            self._left_over = self._left_over[:0]
        self._begin_epoch()

    def hard_reset(self) -> None:
        """Begin an epoch without what was left over."""
        self._left_over = self._left_over[:0]
        self._begin_epoch()

    def iter_next(self) -> bool:
        """Go to the next batch, if there is one."""
        samples = self._samples[self._cursor:self._cursor + self.batch_size]
        # Only "pad" gives a batch that is not full; "roll_over" keeps its samples for the next epoch.
        if not len(samples) or (len(samples) < self.batch_size and self.last_batch_handle != "pad"):
            return False
        self._pad = self.batch_size - len(samples)  # 0 but for the last batch
        # resize repeats the epoch where it is smaller than the batch.
        self._batch = np.concatenate([samples, np.resize(self._samples, self._pad)])
        self._cursor += self.batch_size
        return True

    def getdata(self) -> list[NDArray]:
        """Return the batch's data."""
        return self._take(self.data)

    def getlabel(self) -> list[NDArray]:
        """Return the batch's labels."""
        return self._take(self.label)

    def getpad(self) -> int:
        """Return how many samples fill the batch up.

        With "roll_over" the first batch counts what it has from the epoch before, as in MXNet.
        """
        if self._cursor == self.batch_size and len(self._left_over):  # the epoch's first batch
            return len(self._left_over)
        return self._pad

    def _check_counts(self) -> None:
        # Before the first batch: numpy would fail somewhere in the middle of an epoch.
        for name, values in self.data + self.label:
            if values.shape[self._axis] != self.num_data:
                raise MXNetError(f"{name}: has {values.shape[self._axis]} samples, {self.data[0][0]} has "
                                 f"{self.num_data}")
        if not self.num_data:
            raise MXNetError(f"{self.data[0][0]}: holds no sample")

    def _begin_epoch(self) -> None:
        if self.shuffle:
            np.random.shuffle(self.idx)
            self._order = self._order[self.idx]  # MXNet shuffles the shuffled order again
        self._samples = np.concatenate([self._left_over, self._order])
        self._cursor = 0
        self._pad = 0

    def _take(self, arrays: list[tuple[str, NDArray]]) -> list[NDArray]:
        return [NDArray(values._data.take(self._batch, axis=self._axis)) for _, values in arrays]

    def _describe(self, arrays: list[tuple[str, NDArray]]) -> list[DataDesc]:
        descriptions = []
        for name, values in arrays:
            # The array's own shape with the batch size in place of the number of samples.
            shape = (*values.shape[:self._axis], self.batch_size, *values.shape[self._axis + 1:])
            descriptions.append(DataDesc(name, shape, values.dtype, layout=self.layout))
        return descriptions


def ImageRecordIter(**kwargs: Any) -> DataIter:  # noqa: N802
    """Return an iterator over the image records of `path_imgrec`, with the arguments of MXNet's.

    `data_shape` and `batch_size` must be given; an unknown name is a TypeError, a value that is not supported
    an MXNetError. Data are float32 (batch, C, H, W), red first, (x - mean) * scale / std, or with `dtype`
    uint8 the pixels; labels float32 (batch,), or (batch, label_width) above 1. The last batch is filled up,
    and its `pad` says with how many samples; with `round_batch` (the default) the next epoch begins behind
    these, as in MXNet, without it every epoch has every record. With `shuffle` the order is a full shuffle, a
    function of `seed` and the epoch; a damaged record is an MXNetError.
    """
    # Imported here and not above: this loads torch, which the rest of this module does not need.
    from imgcls.compat.mxnet._image_record_iter import ImageRecords

    return ImageRecords(**kwargs)


def MNISTIter(**kwargs: Any) -> DataIter:  # noqa: N802
    """Return an iterator over MNIST's idx files, `image` and `label`, with the arguments of MXNet's.

    Data are float32 (batch, 1, 28, 28), or (batch, 784) with `flat`, pixels divided by 256. With `shuffle`
    (the default) the order is the one that `seed` gives in MXNet; an incomplete last batch is left out.
    """
    from imgcls.compat.mxnet import _mnist_iter

    return _mnist_iter.read(kwargs)


# For epochs of another length than the data.
class ResizeIter(DataIter):
    """Another iterator with `size` batches an epoch; it is reset whenever it ends before that."""

    def __init__(self, data_iter: DataIter, size: int, reset_internal: bool = True) -> None:
        super().__init__(data_iter.batch_size)
        self.data_iter = data_iter
        self.size = size
        self.reset_internal = reset_internal
        self.cur = 0
        self.current_batch: DataBatch | None = None
        self.provide_data = data_iter.provide_data
        self.provide_label = data_iter.provide_label

    def reset(self) -> None:
        """Begin the next epoch, with `reset_internal` from the first sample."""
        self.cur = 0
        if self.reset_internal:
            self.data_iter.reset()

    def iter_next(self) -> bool:
        """Go to the next batch, if there is one."""
        if self.cur == self.size:
            return False
        try:
            self.current_batch = self.data_iter.next()
        # An iterator of the caller's own may have no iter_next, only next.
        except StopIteration:
            self.data_iter.reset()
            self.current_batch = self.data_iter.next()
        self.cur += 1
        return True

    def next(self) -> DataBatch:
        """Return the next batch; StopIteration at the end of the epoch."""
        if not self.iter_next() or self.current_batch is None:
            raise StopIteration
        return self.current_batch

    def getdata(self) -> Any:
        """Return the batch's data."""
        return self.current_batch.data if self.current_batch else None

    def getlabel(self) -> Any:
        """Return the batch's labels."""
        return self.current_batch.label if self.current_batch else None

    def getindex(self) -> Any:
        """Return the samples' numbers; None where the iterator has none."""
        return self.current_batch.index if self.current_batch else None

    def getpad(self) -> int | None:
        """Return how many samples fill the batch up."""
        return self.current_batch.pad if self.current_batch else None


def ImageRecordUInt8Iter(**kwargs: Any) -> DataIter:  # noqa: N802
    """Return `ImageRecordIter` with `dtype` uint8."""
    return ImageRecordIter(**{**kwargs, "dtype": "uint8"})


def _named(data: Any, name: str) -> list[tuple[str, NDArray]]:
    """Return (name, array) of each, sorted by name; several arrays without names are called `_0_name`, ..."""
    if data is None:
        data = []
    if isinstance(data, (np.ndarray, NDArray)):
        data = [data]
    # The names that MXNet makes.
    if isinstance(data, (list, tuple)):
        data = {name if len(data) == 1 else f"_{i}_{name}": values for i, values in enumerate(data)}
    if not isinstance(data, Mapping):
        raise TypeError(f"{name}: is an array, or a list or dict of arrays, not {type(data).__name__}")
    # An NDArray keeps its type, so that uint8 images stay a quarter of the size.
    arrays = [(key, values if isinstance(values, NDArray) else array(values)) for key, values in data.items()]
    return sorted(arrays, key=lambda pair: pair[0])  # MXNet sorts, so the order is not the caller's dict's


def __getattr__(name: str) -> Any:
    if name in ("CSVIter", "PrefetchingIter"):
        return getattr(importlib.import_module("imgcls.compat.mxnet._other_iters"), name)
    raise missing("mxnet.io", name, [*globals(), "ImageRecordIter"])
