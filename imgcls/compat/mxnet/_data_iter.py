"""The base classes of `mx.io`: `DataIter`, `DataBatch`, `DataDesc`, which `io.py` exports.

A separate file because `io.py` and the iterator behind its `ImageRecordIter` both import them.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np

from imgcls.compat.mxnet.nd import NDArray


class DataDesc(namedtuple("DataDesc", ["name", "shape"])):
    """The description of an array of a batch: (name, shape), with `dtype` and `layout` as attributes."""

    dtype: Any
    layout: str | None

    # As in MXNet a tuple of two, which old code unpacks, with two attributes beside it.
    def __new__(cls, name: str, shape: tuple[int, ...], dtype: Any = np.float32,
                layout: str | None = "NCHW") -> DataDesc:
        description = super().__new__(cls, name, shape)
        description.dtype = dtype
        description.layout = layout
        return description

    def __repr__(self) -> str:
        return f"DataDesc[{self.name},{self.shape},{self.dtype},{self.layout}]"

    @staticmethod
    def get_batch_axis(layout: str | None) -> int:
        """Return the number of the axis of the samples: 0 without a layout, -1 if the layout has no N."""
        return 0 if layout is None else layout.find("N")  # -1 where there is no N, as in MXNet


# User-defined iterators derive from DataIter and return DataBatch: both take the arguments of MXNet's.
class DataBatch:
    """Lists of arrays `data` and `label`, whose last `pad` samples fill the batch up."""

    def __init__(self, data: list[NDArray], label: list[NDArray] | None = None, pad: int | None = None,
                 index: np.ndarray | None = None, bucket_key: Any = None,
                 provide_data: list[Any] | None = None, provide_label: list[Any] | None = None) -> None:
        # The commonest mistake is an array without the list around it.
        for name, value in (("data", data), ("label", label)):
            if value is not None and not isinstance(value, (list, tuple)):
                raise AssertionError(f"{name} is a list of NDArrays, not {type(value).__name__}")
        self.data = data
        self.label = label
        self.pad = pad
        self.index = index
        self.bucket_key = bucket_key
        self.provide_data = provide_data
        self.provide_label = provide_label

    def __str__(self) -> str:
        data = [array.shape for array in self.data] if self.data else None
        label = [array.shape for array in self.label] if self.label else None
        return f"{type(self).__name__}: data shapes: {data} label shapes: {label}"


class DataIter:
    """The base class of iterators, which define `iter_next`, `getdata`, `getlabel`, `getpad`, or `next`, and
    `reset`."""

    def __init__(self, batch_size: int = 0) -> None:
        self.batch_size = batch_size

    def __iter__(self) -> DataIter:
        return self

    def __next__(self) -> DataBatch:
        return self.next()

    # User-defined iterators set these, or have properties of these names.
    provide_data: Any
    provide_label: Any

    # MXNet 1.x code, and Python 2's, calls it by this name.
    def next(self) -> DataBatch:
        """Return the next batch; StopIteration at the end of the epoch."""
        if not self.iter_next():
            raise StopIteration
        return DataBatch(data=self.getdata(), label=self.getlabel(), pad=self.getpad(), index=self.getindex())

    def reset(self) -> None:
        """Begin the next epoch."""

    def iter_next(self) -> bool:
        """Go to the next batch, if there is one."""
        raise NotImplementedError

    def getdata(self) -> Any:
        """Return the batch's data, a list of NDArrays."""
        raise NotImplementedError

    def getlabel(self) -> Any:
        """Return the batch's labels, a list of NDArrays."""
        raise NotImplementedError

    # Not every iterator has these two: None is what MXNet's own base class returns.
    def getindex(self) -> np.ndarray | None:
        """Return the samples' numbers; None where the iterator has none."""
        return None

    def getpad(self) -> int | None:
        """Return how many samples fill the batch up."""
        return None
