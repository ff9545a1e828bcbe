"""`mx.gluon.data.DataLoader`: batches of a data set; with workers, threads make them ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from imgcls.compat.mxnet import nd
from imgcls.compat.mxnet.gluon.data.sampler import BatchSampler, RandomSampler, SequentialSampler
from imgcls.compat.mxnet.nd import NDArray


# dtypes are kept: Python's integers become int64, its floats float64, as in MXNet.
def default_batchify_fn(data: Sequence[Any]) -> Any:
    """Return samples as a batch: arrays stacked, tuples member by member, numbers as an array."""
    first = data[0]
    if isinstance(first, NDArray):
        return nd.stack(*data)
    if isinstance(first, tuple):
        return [default_batchify_fn(members) for members in zip(*data, strict=True)]
    values = np.asarray(data)
    return nd.array(values, dtype=values.dtype)


default_mp_batchify_fn = default_batchify_fn


# Threads where MXNet has processes: decoding and resizing release Python's global lock.
class DataLoader:
    """An iterable of batches, in the order of the sampler for any number of workers."""

    def __init__(self, dataset: Any, batch_size: int | None = None, shuffle: bool = False,
                 sampler: Any = None, last_batch: str | None = None, batch_sampler: Any = None,
                 batchify_fn: Callable[[Sequence[Any]], Any] | None = None, num_workers: int = 0,
                 **kwargs: Any) -> None:
        # pin_memory, pin_device_id, thread_pool, timeout and try_nopython change no batch
        prefetch = kwargs.pop("prefetch", None)
        unknown = set(kwargs) - {"pin_memory", "pin_device_id", "thread_pool", "timeout", "try_nopython"}
        if unknown:
            raise TypeError(f"DataLoader has no argument {min(unknown)}")
        if batch_sampler is None:
            if batch_size is None:
                raise ValueError("batch_size must be specified unless batch_sampler is specified")
            if sampler is None:
                sampler = RandomSampler(len(dataset)) if shuffle else SequentialSampler(len(dataset))
            elif shuffle:
                raise ValueError("shuffle must not be specified if sampler is specified")
            batch_sampler = BatchSampler(sampler, batch_size, last_batch or "keep")
        elif batch_size is not None or shuffle or sampler is not None or last_batch is not None:
            raise ValueError("batch_size, shuffle, sampler and last_batch must not be specified if "
                             "batch_sampler is specified.")
        self._dataset = dataset
        self._batch_sampler = batch_sampler
        self._batchify_fn = batchify_fn or default_batchify_fn
        self._num_workers = max(0, num_workers)
        self._num_ahead = max(0, 2 * self._num_workers if prefetch is None else prefetch)

    def _batch(self, numbers: Sequence[Any]) -> Any:
        return self._batchify_fn([self._dataset[number] for number in numbers])

    def __iter__(self) -> Iterator[Any]:
        if not self._num_workers:
            for numbers in self._batch_sampler:
                yield self._batch(numbers)
            return
        waiting: deque[Future[Any]] = deque()
        with ThreadPoolExecutor(self._num_workers) as pool:
            try:
                for numbers in self._batch_sampler:
                    waiting.append(pool.submit(self._batch, numbers))
                    if len(waiting) > self._num_ahead:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:  # where the loop is left early, no further batch is made
                    future.cancel()

    def __len__(self) -> int:
        return len(self._batch_sampler)
