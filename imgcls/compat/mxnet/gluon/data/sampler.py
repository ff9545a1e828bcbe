"""`mx.gluon.data`: samplers, the order of samples, and which of them are a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


class Sampler:
    """The base class: an iterable over numbers of samples, with a length."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError


class SequentialSampler(Sampler):
    """0, 1, 2, ..."""

    def __init__(self, length: int, start: int = 0) -> None:
        self._numbers = range(start, start + length)

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


# Shuffled by numpy's generator as in MXNet: `numpy.random.seed` decides the order.
class RandomSampler(Sampler):
    """All numbers in random order."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __iter__(self) -> Iterator[int]:
        numbers = np.arange(self._length)
        np.random.shuffle(numbers)
        return iter(numbers)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return self._length


class FilterSampler(Sampler):
    """The numbers of the samples for which `fn` is true."""

    def __init__(self, fn: Callable[[Any], bool], dataset: Any) -> None:
        # each sample is read once, here: the length must be known
        self._numbers = [i for i in range(len(dataset)) if fn(dataset[i])]

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


class BatchSampler(Sampler):
    """Lists of numbers; a last, smaller one is kept, discarded, or moved to the next epoch's beginning."""

    def __init__(self, sampler: Any, batch_size: int, last_batch: str = "keep") -> None:
        self._sampler = sampler
        self._batch_size = batch_size
        self._last_batch = last_batch
        self._left: list[Any] = []

    def __iter__(self) -> Iterator[list[Any]]:
        # for rollover: samples that did not fill a batch begin the next epoch
        batch, self._left = self._left, []
        for number in self._sampler:
            batch.append(number)
            if len(batch) == self._batch_size:
                yield batch
                batch = []
        if batch:
            if self._last_batch == "keep":
                yield batch
            elif self._last_batch == "rollover":
                self._left = batch
            elif self._last_batch != "discard":
                raise ValueError("last_batch must be one of 'keep', 'discard', or 'rollover', but got "
                                 f"{self._last_batch}")

    def __len__(self) -> int:
        size = self._batch_size
        if self._last_batch == "keep":
            return (len(self._sampler) + size - 1) // size
        if self._last_batch == "discard":
            return len(self._sampler) // size
        if self._last_batch == "rollover":
            # the number of batches of the next epoch, with the samples left over from this one
            return (len(self._left) + len(self._sampler)) // size
        raise ValueError("last_batch must be one of 'keep', 'discard', or 'rollover', but got "
                         f"{self._last_batch}")
