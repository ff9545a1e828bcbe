"""The sample order and all randomness of augmentation: pure functions of (seed, epoch, sample).

Nothing here has a state. Threads, workers and ranks therefore see the same order and the same draws, and a run that
was stopped goes on with exactly what it would have had. The generator is SplitMix64 used as a counter-based hash
(Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"), fixed here for good: numpy's own
generators may change their streams between versions.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of an epoch: int64 (count,), each of 0 .. count-1 once."""
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
