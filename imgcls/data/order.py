"""The sample order and all randomness of augmentation: pure functions of (seed, epoch, index).

Threads, workers and ranks therefore see the same order and the same draws, and a run that was stopped
continues with exactly the samples and draws that it would have had. The generator is SplitMix64 used as a
counter-based hash (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"), fixed here
for good: numpy's own generators may change their streams between versions. Called by the loaders, by
`crops.py` and `color.py` for their draws, and by the trainer for the seed of dropout; it reads no data.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

# 2^64 divided by the golden ratio: SplitMix64's increment
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

# What each numbered draw of a sample decides; never renumber, or old runs cannot be repeated.
ROW, COLUMN, MIRROR = 0, 1, 2
# those that give several numbers a sample
WARP, CROP_SIZE, METHOD, COLOR, AREA, POLICY, ERASE = range(3, 10)
# MIX is drawn for a batch, by its number in the epoch instead of a sample's index; BALANCE for the order
MIX, BALANCE = 10, 11

#: a sample that comes several times in an epoch gets other draws each time: how many times it came before is
#: stored above these bits of its index
_INDEX_BITS = 36

#: indices that are hashed at a time: all numbers in between stay in the processor's cache
_HASHED_AT_ONCE = 1 << 16
#: from so many samples on the next epoch's order is made while this one is trained on
LARGE = 1_000_000


@dataclass(frozen=True)
class Shard:
    """The part of the data that one process has: part `index` of the `count` parts of every batch.

    An independent shard (dist_async) is one of `count` parts of the epoch instead, every `count`-th sample,
    and no other process has a part of its batches.
    """

    #: which part, from 0: the rank of the process
    index: int = 0
    #: how many parts: the world size
    count: int = 1
    #: whether the part has epochs and batches of its own
    is_independent: bool = False
    #: whether each sample of a part comes with the one before it in the batch, which it is mixed with
    has_partners: bool = False

    def of_epoch(self, indices: np.ndarray) -> np.ndarray:
        """Return the samples of an epoch, in their order, that this shard's batches are cut from."""
        return indices[self.index::self.count] if self.is_independent else indices

    def num_of_epoch(self, count: int) -> int:
        """Return how many of the `count` samples of an epoch `of_epoch` returns."""
        return len(range(self.index, count, self.count)) if self.is_independent else count

    def bounds(self, size: int) -> tuple[int, int]:
        """Return the first row and the end of this part of a batch of `size` rows.

        The parts in their order are the batch.
        """
        if self.is_independent:
            return 0, size
        # Rounding down at both ends gives parts that differ by one at most, and the cut is the same for
        # 4 processes as for 2 processes with 2 micro-batches each.
        return size * self.index // self.count, size * (self.index + 1) // self.count

    @property
    def has_extra_row(self) -> bool:
        """Whether a part may come with one more sample than is its own, from the part before it."""
        return self.has_partners and self.parts_per_batch > 1

    @property
    def parts_per_batch(self) -> int:
        """How many parts a batch is cut into."""
        return 1 if self.is_independent else self.count


#: one process has all the data
NO_SHARD = Shard()


@dataclass(frozen=True)
class LocalBatch:
    """The samples of one batch that one process has.

    `indices` int64 (n,) with n at least 1, of which the first `num_valid` count; `global_size` is the size of
    the batch over all processes.
    """

    indices: np.ndarray
    num_valid: int
    global_size: int
    #: int64 (n,): what augmentation is drawn for, `indices` and how many times each came before in the epoch
    drawn: np.ndarray
    #: int64 (num_valid,): the row of the one that each is mixed with; None where nothing is mixed
    partners: np.ndarray | None = None


def local_batch(indices: np.ndarray, batch_index: int, batch_size: int, shard: Shard) -> LocalBatch:
    """Return the shard's part of batch `batch_index`; `indices` are what `shard.of_epoch` returned.

    A process that has nothing of a small last batch gets one sample that does not count, so that all
    processes take the same steps and none waits for a gradient that never comes. `indices` may be encoded by
    `repeated`.
    """
    batch = indices[batch_index * batch_size:(batch_index + 1) * batch_size]
    first, end = shard.bounds(len(batch))
    rows = batch[first:end] if end > first else batch[:1]
    partners = None
    if shard.has_partners and end > first:
        partners = np.arange(-1, end - first - 1)
        partners[0] = end - first - 1  # the first of a batch is mixed with its last
        if end - first < len(batch):  # another process has the one before: one row more, that does not count
            partners[0] = end - first
            rows = np.append(rows, batch[first - 1])
    return LocalBatch(sample_of(rows), end - first, len(batch), rows, partners)


def remaining_partners(partners: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Return the partners of the rows that are `good`, bool (n,), as row numbers once the others are removed.

    A row whose partner is damaged is its own partner: it stays unmixed, whichever process has it.
    """
    own = np.flatnonzero(good[:len(partners)])
    chosen = np.where(good[partners[own]], partners[own], own)
    return (np.cumsum(good) - 1)[chosen]


def sample_of(drawn: np.ndarray) -> np.ndarray:
    """Return the sample indices int64 (n,) of entries of an epoch's order, encoded by `repeated` or not."""
    return drawn & ((1 << _INDEX_BITS) - 1)


def repeated(indices: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the entries of an epoch's order for samples `indices` that came `times` times before in it."""
    return indices + (times << _INDEX_BITS)


def repeated_again(indices: np.ndarray, times: np.ndarray, repeats: int) -> np.ndarray:
    """Return the same for entries that `repeated` made, where each comes `repeats` times instead of once."""
    return repeated(sample_of(indices), (indices >> _INDEX_BITS) * repeats + times)


def permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return the order of an epoch: int64 (count,), each of 0 .. count-1 once, by rising hash.

    Beside the order itself it takes no memory that grows with `count`.
    """
    key = _key(seed, epoch, 0)
    # An index takes the place of the lowest bits of its hash: sorting such numbers needs no second array, and
    # is several times as fast as numpy.argsort.
    index_mask = (np.uint64(1) << np.uint64(max(count - 1, 1).bit_length())) - np.uint64(1)
    ranked = np.empty(count, np.uint64)
    for first in range(0, count, _HASHED_AT_ONCE):
        indices = np.arange(first, min(first + _HASHED_AT_ONCE, count), dtype=np.uint64)
        ranked[first:first + _HASHED_AT_ONCE] = _hash(key, indices) & ~index_mask | indices
    ranked.sort()
    # Neighbours that differ in no more than these bits (some tens of 14 million) are sorted by their full
    # hashes, no two of which are equal.
    ties = np.concatenate([np.zeros(0, np.int64), *(
        first + np.flatnonzero(np.bitwise_xor(*_neighbours(ranked, first)) <= index_mask)
        for first in range(0, count, _HASHED_AT_ONCE))])
    ranked &= index_mask
    begins = ties[np.diff(ties, prepend=-2) > 1]
    ends = ties[np.diff(ties, append=count + 1) > 1] + 2
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        tied = ranked[begin:end]
        ranked[begin:end] = tied[np.argsort(_hash(key, tied))]
    return ranked.view(np.int64)


def _neighbours(ranked: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers from `first` on, at most `_HASHED_AT_ONCE`, and the one that follows each."""
    behind = ranked[first + 1:first + 1 + _HASHED_AT_ONCE]
    return ranked[first:first + len(behind)], behind


class EpochOrders:
    """Permutations; the one of the next epoch is made in a thread while the current epoch is trained on.

    Fourteen million samples take a second to put in order. Below `LARGE` samples no thread is started. Each
    loader owns one.
    """

    def __init__(self) -> None:
        self._ahead_key = (0, -1, 0)  # (seed, epoch, count) of `_ahead`; no epoch is -1
        self._ahead: Future[np.ndarray] = Future()

    def permutation(self, seed: int, epoch: int, count: int) -> np.ndarray:
        """Return what the function `permutation` returns, and begin with the next epoch's."""
        if count < LARGE:
            return permutation(seed, epoch, count)
        if self._ahead_key == (seed, epoch, count):
            order = self._ahead.result()
        else:
            order = permutation(seed, epoch, count)
        following: Future[np.ndarray] = Future()

        def make() -> None:
            try:
                following.set_result(permutation(seed, epoch + 1, count))
            except BaseException as error:  # such as too little memory: raised where the order is requested
                following.set_exception(error)

        self._ahead_key = (seed, epoch + 1, count)
        self._ahead = following
        # A daemon: a program that ends does not wait for an order that no one will read.
        threading.Thread(target=make, daemon=True).start()
        return order


def windowed_order(orders: EpochOrders, seed: int, epoch: int, chunk_of_sample: np.ndarray, num_chunks: int,
                   window_chunks: int) -> np.ndarray:
    """Return int64 (N,): the samples of an epoch, each once, for data that are read a chunk at a time.

    The chunks come in random order, and the samples of `window_chunks` neighbours in random order.
    `chunk_of_sample` int64 (N,).
    """
    # rank of each chunk in a random order of the chunks, then the window that it falls into
    rank = np.empty(num_chunks, np.int64)
    rank[orders.permutation(seed, epoch, num_chunks)] = np.arange(num_chunks)
    window = rank[chunk_of_sample] // window_chunks
    # a stable sort by window leaves the samples of each window in the random order of all
    shuffled = orders.permutation(seed, epoch, len(chunk_of_sample))
    return shuffled[np.argsort(window[shuffled], kind="stable")]


def uniform(seed: int, epoch: int, indices: np.ndarray, draw: int) -> np.ndarray:
    """Return float64 in [0, 1), one per sample: draw number `draw` (from 0) of each sample in this epoch."""
    # stream 0 of an epoch is its permutation, so draws begin at 1
    bits = _hash(_key(seed, epoch, draw + 1), np.asarray(indices).astype(np.uint64))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0 ** -53  # 53 bits: all that a float64 holds


def integers(seed: int, epoch: int, indices: np.ndarray, draw: int, high: int | np.ndarray) -> np.ndarray:
    """Return int64 in [0, high), one per sample; `high` may differ by sample and must be at least 1."""
    return (uniform(seed, epoch, indices, draw) * high).astype(np.int64)


@dataclass(frozen=True)
class Draws:
    """The random numbers of some samples in one epoch; each kind of draw has a number (`ROW` and so on)."""

    seed: int
    epoch: int
    indices: np.ndarray

    def uniform(self, draw: int, count: int = 1) -> np.ndarray:
        """Return float64 in [0, 1): (n,), or (count, n) for several numbers of each sample."""
        if count == 1:
            return uniform(self.seed, self.epoch, self.indices, draw)
        # One call for all: what a call costs hardly depends on how many numbers it gives.
        counters = self.indices * count + np.arange(count)[:, None]
        return uniform(self.seed, self.epoch, counters, draw)

    def integers(self, draw: int, high: int | np.ndarray) -> np.ndarray:
        """Return int64 (n,) in [0, high), as the function `integers` does."""
        return integers(self.seed, self.epoch, self.indices, draw, high)


def step_seed(seed: int, update: int) -> int:
    """Return a 63-bit seed for the device's own generator (dropout) in one update."""
    # stream -1: no epoch has it, so dropout never repeats what an augmentation drew
    return int(_hash(_key(seed, update, -1), np.zeros(1, np.uint64))[0] >> np.uint64(1))


# The same few keys are needed for every job of 16 images, and mixing one takes longer than the hashes.
@lru_cache(maxsize=1024)
def _key(seed: int, epoch: int, stream: int) -> np.uint64:
    """Return one number for (seed, epoch, stream), mixed so well that neighbours have nothing in common."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is the algorithm
        key = np.zeros(1, np.uint64)
        for number in (seed, epoch, stream):
            key = _mix(key * _GOLDEN + np.uint64(number & 0xFFFFFFFFFFFFFFFF) + _GOLDEN)
        return key[0]


def _hash(key: np.uint64, counters: np.ndarray) -> np.ndarray:
    """Return the outputs of the SplitMix64 that was seeded with `key`, at these places of its stream."""
    with np.errstate(over="ignore"):
        return _mix(key + (counters + np.uint64(1)) * _GOLDEN)


def _mix(bits: np.ndarray) -> np.ndarray:
    """Return SplitMix64's finalizer (its variant 13 of Stafford's) of each uint64."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
