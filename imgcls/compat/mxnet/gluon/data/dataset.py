"""`mx.gluon.data.dataset`: samples by number, and data sets of arrays and of records."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from imgcls.compat.mxnet import recordio
from imgcls.compat.mxnet.nd import NDArray


class Dataset:
    """The base class: samples by number, with a length."""

    def __getitem__(self, idx: int) -> Any:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def transform(self, fn: Callable[..., Any], lazy: bool = True) -> Dataset:
        """Return the samples changed by `fn`, which gets a tuple's members; without `lazy` at once."""
        changed = _Transformed(self, fn)
        # By number, not `for sample in changed`: user-defined data sets need not raise IndexError at their
        # end.
        return changed if lazy else SimpleDataset([changed[i] for i in range(len(changed))])

    def transform_first(self, fn: Callable[[Any], Any], lazy: bool = True) -> Dataset:
        """Return the samples with their first member, mostly the image, changed by `fn`."""
        return self.transform(_First(fn), lazy)


    def filter(self, fn: Callable[[Any], bool]) -> Dataset:
        """Return the samples for which `fn` is true."""
        return _Chosen(self, [i for i in range(len(self)) if fn(self[i])])

    def take(self, count: int | None) -> Dataset:
        """Return the first `count` samples; all for None."""
        return _Chosen(self, range(len(self) if count is None else min(count, len(self))))

    # Sizes differ by one at most; the first parts are the larger ones.
    def shard(self, num_shards: int, index: int) -> Dataset:
        """Return part `index` of `num_shards` consecutive parts."""
        if not 0 <= index < num_shards:
            raise AssertionError(f"Shard index of out bound: {index} out of {num_shards}")
        size, larger = divmod(len(self), num_shards)
        begin = size * index + min(index, larger)
        return _Chosen(self, range(begin, begin + size + (index < larger)))

    def sample(self, sampler: Any) -> Dataset:
        """Return the samples in the order of a sampler."""
        return _Chosen(self, list(sampler))


class SimpleDataset(Dataset):
    """The members of a list or an array."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __getitem__(self, idx: int) -> Any:
        return self._data[idx]

    def __len__(self) -> int:
        return len(self._data)


class ArrayDataset(Dataset):
    """Rows of several arrays or lists of the same length, as tuples; of a single one the rows themselves."""

    def __init__(self, *args: Any) -> None:
        if not args:
            raise AssertionError("Needs at least 1 arrays")
        for number, data in enumerate(args):
            if len(data) != len(args[0]):
                raise AssertionError("All arrays must have the same length; array[0] has length "
                                     f"{len(args[0])} while array[{number}] has {len(data)}.")
        # A vector, such as labels, becomes numpy: its items are numbers, batched like those of a list.
        self._data = [data.asnumpy() if isinstance(data, NDArray) and data.ndim == 1 else data
                      for data in args]

    def __getitem__(self, idx: int) -> Any:
        return self._data[0][idx] if len(self._data) == 1 else tuple(data[idx] for data in self._data)

    def __len__(self) -> int:
        return len(self._data[0])


class RecordFileDataset(Dataset):
    """The records of `X.rec`, as bytes, in the order of `X.idx`."""

    def __init__(self, filename: str | os.PathLike[str]) -> None:
        self.filename = os.fspath(filename)
        self.idx_file = os.path.splitext(self.filename)[0] + ".idx"
        # In another process it is pickled and opens the file again: readers share no position.
        self._record = recordio.MXIndexedRecordIO(self.idx_file, self.filename, "r")

    def __getitem__(self, idx: int) -> Any:
        return self._record.read_idx(self._record.keys[idx])

    def __len__(self) -> int:
        return len(self._record.keys)


class _Transformed(Dataset):
    """Another data set's samples, changed when they are requested."""

    def __init__(self, source: Dataset, fn: Callable[..., Any]) -> None:
        self._source = source
        self._fn = fn

    def __getitem__(self, idx: int) -> Any:
        sample = self._source[idx]
        # A list is one argument: only tuples are unpacked, as in MXNet.
        return self._fn(*sample) if isinstance(sample, tuple) else self._fn(sample)

    def __len__(self) -> int:
        return len(self._source)


class _Chosen(Dataset):
    """Some samples of another data set."""

    def __init__(self, source: Dataset, numbers: Sequence[int]) -> None:
        self._source = source
        self._numbers = numbers

    def __getitem__(self, idx: int) -> Any:
        return self._source[self._numbers[idx]]

    def __len__(self) -> int:
        return len(self._numbers)


class _First:
    """Changes the first of its arguments."""

    # A class and no closure, so that it can be pickled for worker processes.
    def __init__(self, fn: Callable[[Any], Any]) -> None:
        self._fn = fn

    def __call__(self, first: Any, *others: Any) -> Any:
        return (self._fn(first), *others) if others else self._fn(first)
