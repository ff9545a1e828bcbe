"""MXNet's random numbers on the CPU, the same numbers: so that a seeded script begins with the same weights.

MXNet keeps 1024 Mersenne Twisters with consecutive seeds; a call divides its numbers into runs of at least 64
and takes each run from a twister of its own (include/mxnet/random_generator.h). The conversion of the raw
numbers is libstdc++'s: 32 bits are a float in [0, 1); a normal number is made by Marsaglia's polar method,
whose second number is not used. Without a call of `seed` MXNet's seed is always 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

NUM_TWISTERS = 1024
#: the least numbers that a call takes from one twister, if it needs that many
MIN_RUN = 64
#: the seed of the first twister is the user's times this
_SEED_FACTOR = 127  # kRandMagic in src/resource.cc
#: pairs drawn for a normal number: 4 / pi on average, a square's area over its circle's, and some more
_PAIRS_FOR_ONE = 1.4


# Twisters are made when they are first needed: all 1024 take a hundredth of a second.
class Generator:
    """The state of all random numbers of `mx.nd.random`, the initializers and dropout."""

    def __init__(self, seed: int = 0) -> None:
        self._first_seed = (seed * _SEED_FACTOR) & 0xFFFFFFFF  # C++'s unsigned 32 bits wrap around
        self._twisters: dict[int, np.random.RandomState] = {}

    # How many runs there are follows from the count alone, not from threads.
    def _runs(self, count: int) -> Iterator[tuple[np.random.RandomState, int]]:
        """Yield (twister, how many numbers it gives) for a call of `count` numbers."""
        num_runs = min(-(-count // MIN_RUN), NUM_TWISTERS)  # rounded up
        length = -(-count // num_runs) if num_runs else 0
        for number in range(num_runs):
            size = min(length, count - number * length)
            if size > 0:
                if number not in self._twisters:
                    seed = (self._first_seed + number) & 0xFFFFFFFF
                    self._twisters[number] = np.random.RandomState(seed)
                yield self._twisters[number], size

    # The runs one after the other, as in MXNet.
    def uniform(self, count: int) -> np.ndarray:
        """Return float32 (count,), uniform in [0, 1)."""
        parts = [_floats(twister, size) for twister, size in self._runs(count)]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    # Pairs outside of the circle are rejected, so twisters advance by different amounts.
    def normal(self, count: int) -> np.ndarray:
        """Return float32 (count,), normal with mean 0 and standard deviation 1."""
        parts = [_normals(twister, size) for twister, size in self._runs(count)]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def integers(self, count: int) -> np.ndarray:
        """Return int32 (count,): raw numbers of 32 bits, read as signed, as in MXNet."""
        parts = [_raw(twister, size) for twister, size in self._runs(count)]
        return np.concatenate(parts).view(np.int32) if parts else np.zeros(0, np.int32)


# The same sequence as C++'s std::mt19937 of this seed.
def _raw(twister: np.random.RandomState, count: int) -> np.ndarray:
    # the whole range of uint32: numpy returns each word unchanged, and rejects none
    return twister.randint(0, 1 << 32, size=count, dtype=np.uint32)


def _floats(twister: np.random.RandomState, count: int) -> np.ndarray:
    values = _raw(twister, count).astype(np.float32) / np.float32(1 << 32)
    # a float has fewer bits: the largest numbers are rounded to 1, which libstdc++ never returns
    return np.minimum(values, np.nextafter(np.float32(1), np.float32(0)))


# More pairs than needed are drawn at once, then the state is set back: single draws take a microsecond each.
def _normals(twister: np.random.RandomState, count: int) -> np.ndarray:
    before = twister.get_state()
    num_pairs = int(count * _PAIRS_FOR_ONE) + 16
    while True:
        pairs = _floats(twister, 2 * num_pairs).reshape(-1, 2) * np.float32(2) - np.float32(1)
        square = pairs[:, 0] * pairs[:, 0] + pairs[:, 1] * pairs[:, 1]
        accepted = np.flatnonzero((square <= 1) & (square > 0))[:count]
        # The twister continues behind the last pair that is used, as if pairs were drawn one by one.
        twister.set_state(before)
        if len(accepted) == count:
            break
        num_pairs *= 2
    _raw(twister, 2 * (int(accepted[-1]) + 1) if count else 0)
    square = square[accepted]
    # The second of the pair: libstdc++ returns y * mult and keeps x for the next call, which MXNet never
    # makes
    return pairs[accepted, 1] * np.sqrt(np.float32(-2) * np.log(square) / square)


#: the one generator, which `mx.random.seed` replaces
_generators = [Generator()]


def generator() -> Generator:
    """Return the generator that is in use."""
    return _generators[0]


def seed(value: int) -> None:
    """Restart all random numbers from this seed."""
    _generators[0] = Generator(value)
