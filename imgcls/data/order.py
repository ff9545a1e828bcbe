"""The sample order and all randomness of augmentation: pure functions of (seed, epoch, sample).

Nothing here has a state. Threads, workers and ranks therefore see the same order and the same draws, and a run that
was stopped goes on with exactly what it would have had. The generator is SplitMix64 used as a counter-based hash
(Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"), fixed here for good: numpy's own
generators may change their streams between versions.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
#: from so many samples on the next epoch's order is made while this one is trained on
LARGE = 1_000_000
_ahead: dict[tuple[int, int, int], Future[np.ndarray]] = {}


@dataclass(frozen=True)
class Shard:
    """What one process has to do with: part `index` of the `count` that every batch is cut into.

    With `is_independent`, of the `count` that the epoch is dealt out into, and its batches are its own (dist_async).
    """

    index: int = 0
    count: int = 1
    is_independent: bool = False

    def of_epoch(self, samples: np.ndarray) -> np.ndarray:
        """The samples of an epoch, in their order, that batches are cut from."""
        return samples[self.index::self.count] if self.is_independent else samples

    def bounds(self, size: int) -> tuple[int, int]:
        """First and end of this part of a batch of `size`; all parts together are the batch, in its order."""
        if self.is_independent:
            return 0, size
        return size * self.index // self.count, size * (self.index + 1) // self.count

    @property
    def num_parts(self) -> int:
        """How many parts a batch is cut into."""
        return 1 if self.is_independent else self.count


#: one process does it all
NO_SHARD = Shard()


@dataclass(frozen=True)
class LocalBatch:
    """The samples of one batch that one process has, int64 (n,): n is at least 1, and `num_valid` of them count;
    `global_size` is the size of the batch."""

    indices: np.ndarray
    num_valid: int
    global_size: int


def local_batch(indices: np.ndarray, batch_index: int, batch_size: int, shard: Shard) -> LocalBatch:
    """Return the shard's part of batch `batch_index`; `indices` are the shard's of the epoch (`of_epoch`).

    A process that has nothing of a small last batch gets one sample that does not count, so that all of them take the
    same steps.
    """
    batch = indices[batch_index * batch_size:(batch_index + 1) * batch_size]
    first, end = shard.bounds(len(batch))
    return LocalBatch(batch[first:end] if end > first else batch[:1], end - first, len(batch))


def permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of an epoch: int64 (count,), each of 0 .. count-1 once.

    Fourteen million samples take two seconds to put in order, so for many of them the next epoch's order is begun in a
    thread when this one's is taken.
    """
    if count < LARGE:
        return _permutation(seed, epoch, count)
    begun = _ahead.pop((seed, epoch, count), None)
    order = begun.result() if begun else _permutation(seed, epoch, count)
    _ahead.clear()
    following = _ahead[seed, epoch + 1, count] = Future()
    threading.Thread(target=lambda: _fulfil(following, seed, epoch + 1, count), daemon=True).start()
    return order


def _fulfil(promise: Future[np.ndarray], seed: int, epoch: int, count: int) -> None:
    try:
        promise.set_result(_permutation(seed, epoch, count))
    except BaseException as error:  # such as too little memory: raised where the order is wanted
        promise.set_exception(error)


def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.argsort(_hash(_key(seed, epoch, 0), np.arange(count, dtype=np.uint64)), kind="stable")


def uniform(seed: int, epoch: int, samples: np.ndarray, draw: int) -> np.ndarray:
    """float64 in [0, 1), one per sample: draw number `draw` (from 0) of each sample in this epoch."""
    bits = _hash(_key(seed, epoch, draw + 1), np.asarray(samples).astype(np.uint64))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0 ** -53


def integers(seed: int, epoch: int, samples: np.ndarray, draw: int, high: int | np.ndarray) -> np.ndarray:
    """int64 in [0, high), one per sample; `high` may differ by sample and must be at least 1."""
    return (uniform(seed, epoch, samples, draw) * high).astype(np.int64)


def step_seed(seed: int, update: int) -> int:
    """A 63-bit seed for the device's own generator (dropout) in one update."""
    return int(_hash(_key(seed, update, -1), np.zeros(1, np.uint64))[0] >> np.uint64(1))


@lru_cache(maxsize=1024)
def _key(seed: int, epoch: int, stream: int) -> np.uint64:
    """One number for (seed, epoch, stream), well mixed so that neighbours have nothing in common."""
    with np.errstate(over="ignore"):
        key = np.zeros(1, np.uint64)
        for part in (seed, epoch, stream):
            key = _mix(key * _GOLDEN + np.uint64(part & 0xFFFFFFFFFFFFFFFF) + _GOLDEN)
        return key[0]


def _hash(key: np.uint64, counters: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return _mix(key + (counters + np.uint64(1)) * _GOLDEN)


def _mix(bits: np.ndarray) -> np.ndarray:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
