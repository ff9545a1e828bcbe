"""Schedules that rise again, or are written out epoch by epoch; pure functions of the update like the others.

`schedules.from_config` makes them. One cycle is Smith and Topin 2017 (arXiv 1708.07120), warm restarts are
SGDR (Loshchilov and Hutter 2016, arXiv 1608.03983).
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class OneCycle:
    """From `begin_lr` to `base_lr` at update `peak`, and to `final_lr` at the last: half a cosine each.

    torch's OneCycleLR with two phases; the momentum stays as it is.
    """

    base_lr: float
    begin_lr: float
    final_lr: float
    peak: int
    last_update: int

    def lr_at(self, update: int) -> float:
        """Return the learning rate of an update; see `Schedule.lr_at`."""
        if update <= self.peak:
            # the first update has the rate that the rise begins at
            progress = max(update - 1, 0) / max(self.peak - 1, 1)
            return _cosine(self.begin_lr, self.base_lr, progress)
        # beyond the last update the rate stays: a run that is prolonged does not swing up again
        progress = min((update - self.peak) / max(self.last_update - self.peak, 1), 1.0)
        return _cosine(self.base_lr, self.final_lr, progress)


@dataclass(frozen=True)
class Restarts:
    """Half a cosine from `base_lr` down to `final_lr`, again and again, each `factor` times as long.

    `start` is the end of the warm-up, `period` the length of the first cycle, both in updates.
    """

    base_lr: float
    final_lr: float
    start: int
    period: float
    factor: float

    def lr_at(self, update: int) -> float:
        """Return the learning rate of an update; see `Schedule.lr_at`."""
        # updates count from 1, the phase of a cycle from 0: its first update has the highest rate
        begin, length = self._cycle(max(update - 1 - self.start, 0))
        return _cosine(self.base_lr, self.final_lr, (max(update - 1 - self.start, 0) - begin) / length)

    def _cycle(self, done: int) -> tuple[float, float]:
        """Return where the cycle begins that holds the update after `done` of them, and how long it is."""
        if self.factor == 1:
            return done // self.period * self.period, self.period
        # the cycles before the n-th have period (factor^n - 1) / (factor - 1) updates
        # 1e-9: at the very border the logarithm may come out a hair below the whole number
        number = int(math.log(done / self.period * (self.factor - 1) + 1, self.factor) + 1e-9)
        begin = self.period * (self.factor**number - 1) / (self.factor - 1)
        return begin, self.period * self.factor**number


@dataclass(frozen=True)
class Regime:
    """A rate, and a weight decay where one is given, for each stretch of epochs, as in Torch's scripts."""

    #: updates after which the stretches begin, rising; the first is 0
    begins: tuple[int, ...]
    rates: tuple[float, ...]
    #: None: the decay of the settings
    decays: tuple[float | None, ...]

    @property
    def base_lr(self) -> float:
        """The rate that a warm-up rises to: that of the first stretch."""
        return self.rates[0]

    def lr_at(self, update: int) -> float:
        """Return the learning rate of an update; see `Schedule.lr_at`."""
        return self.rates[self._stretch(update)]

    def wd_at(self, update: int) -> float | None:
        """Return the weight decay of an update, None for that of the settings."""
        return self.decays[self._stretch(update)]

    def _stretch(self, update: int) -> int:
        # the update that completes an epoch still has that epoch's rate
        return max(bisect.bisect_left(self.begins, update) - 1, 0)


def _cosine(begin: float, end: float, progress: float) -> float:
    return end + (begin - end) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Sweep:
    """From `base_lr` to `highest` in `num_updates` updates, each the same factor above the one before."""

    base_lr: float
    highest: float
    num_updates: int

    def lr_at(self, update: int) -> float:
        """Return the learning rate of an update; see `Schedule.lr_at`."""
        return self.base_lr * (self.highest / self.base_lr) ** ((update - 1) / (self.num_updates - 1))
