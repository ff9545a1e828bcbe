"""`mx.gluon.data.dataset`: samples by number, and the records of a file as such."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from imgcls.compat.mxnet import recordio


class Dataset:
    """Samples that are asked for by number."""

    def __getitem__(self, idx: int) -> Any:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def transform(self, fn: Callable[..., Any], lazy: bool = True) -> Dataset:
        """Return the samples as `fn` makes them, all now if not `lazy`; it is given a tuple's members."""
        changed = _Transformed(self, fn)
        # By number, not `for sample in changed`: data sets of people's own need not raise IndexError at their
        # end.
        return changed if lazy else _InMemory([changed[i] for i in range(len(changed))])

    def transform_first(self, fn: Callable[[Any], Any], lazy: bool = True) -> Dataset:
        """Return the samples with their first member, mostly the image, as `fn` makes it."""
        return self.transform(_First(fn), lazy)


class RecordFileDataset(Dataset):
    """The records of `X.rec`, as bytes, in the order of `X.idx`."""

    def __init__(self, filename: str | os.PathLike[str]) -> None:
        self.filename = os.fspath(filename)
        self.idx_file = os.path.splitext(self.filename)[0] + ".idx"
        # Worker processes are given it pickled, and open the file again: readers share no position.
        self._record = recordio.MXIndexedRecordIO(self.idx_file, self.filename, "r")

    def __getitem__(self, idx: int) -> Any:
        return self._record.read_idx(self._record.keys[idx])

    def __len__(self) -> int:
        return len(self._record.keys)


class _Transformed(Dataset):
    """Another data set's samples, changed when they are asked for."""

    def __init__(self, source: Dataset, fn: Callable[..., Any]) -> None:
        self._source = source
        self._fn = fn

    def __getitem__(self, idx: int) -> Any:
        sample = self._source[idx]
        # A list is one argument: only tuples are taken apart, as in MXNet.
        return self._fn(*sample) if isinstance(sample, tuple) else self._fn(sample)

    def __len__(self) -> int:
        return len(self._source)


class _InMemory(Dataset):
    """Samples in a list."""

    def __init__(self, samples: list[Any]) -> None:
        self._samples = samples

    def __getitem__(self, idx: int) -> Any:
        return self._samples[idx]

    def __len__(self) -> int:
        return len(self._samples)


class _First:
    """Changes the first of its arguments."""

    # A class and no closure, so that it can be pickled for worker processes.
    def __init__(self, fn: Callable[[Any], Any]) -> None:
        self._fn = fn

    def __call__(self, first: Any, *others: Any) -> Any:
        return (self._fn(first), *others) if others else self._fn(first)
