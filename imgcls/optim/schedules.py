"""The learning rate as a pure function of the update: no state, so nothing to save or to get wrong on resume.

`from_config` makes a `Schedule` of the resolved settings; the trainer calls `lr_at(update)` before each
update. Updates count from 1 over the whole training, as MXNet's optimizer counts them. MXNet's schedulers are
the reference (mxnet/lr_scheduler.py 1.9.1); `docs/differences.md` lists the few places where we differ on
purpose.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

from imgcls.config.sections import ScheduleConfig
from imgcls.errors import UsageError
from imgcls.optim.cycles import OneCycle, Regime, Restarts, Sweep

#: MXNet's FactorScheduler goes no lower than this
LOWEST_LR = 1e-8
#: of one cycle: the part of the updates that it rises for, and what its rate is divided by at the start
_RISE, _BEGIN_DIVISOR = 0.3, 25
#: stretches of a regime that the summary names
_MAX_SHOWN = 8


@dataclass(frozen=True)
class Constant:
    """The same rate for ever."""

    base_lr: float

    # Every kind has the same method and no base class: a schedule needs no more of it than this.
    def lr_at(self, update: int) -> float:
        """Return the learning rate of an update; see `Schedule.lr_at`."""
        return self.base_lr


@dataclass(frozen=True)
class Steps:
    """Times `factor` after each update in `steps` (MXNet's MultiFactorScheduler)."""

    base_lr: float
    factor: float
    #: updates, counted from 1, rising
    steps: tuple[int, ...]

    def lr_at(self, update: int) -> float:
        """Return the learning rate of an update; see `Schedule.lr_at`."""
        # > and not >=: the update that completes an epoch still has that epoch's rate
        return self.base_lr * self.factor ** bisect.bisect_left(self.steps, update)


@dataclass(frozen=True)
class Periodic:
    """Times `factor` every `period` updates for ever, but not below `lowest` (MXNet's FactorScheduler)."""

    base_lr: float
    factor: float
    #: in updates
    period: int
    lowest: float = LOWEST_LR

    def lr_at(self, update: int) -> float:
        """Return the learning rate of an update; see `Schedule.lr_at`."""
        # Computed anew from the start, where MXNet multiplies step by step: the same but for rounding.
        return max(self.base_lr * self.factor ** (max(update - 1, 0) // self.period), self.lowest)


@dataclass(frozen=True)
class Power:
    """From `base_lr` at `start` to `final_lr` at `last_update`, as (1 - progress)^power (PolyScheduler)."""

    base_lr: float
    final_lr: float
    #: the end of the warm-up
    start: int
    last_update: int
    power: float

    def lr_at(self, update: int) -> float:
        """Return the learning rate of an update; see `Schedule.lr_at`."""
        if update >= self.last_update:
            return self.final_lr
        progress = (update - self.start) / (self.last_update - self.start)
        return self.final_lr + (self.base_lr - self.final_lr) * (1 - progress) ** self.power


@dataclass(frozen=True)
class Cosine:
    """From `base_lr` at `start` to `final_lr` at `last_update`, as half a cosine (CosineScheduler)."""

    base_lr: float
    final_lr: float
    start: int
    last_update: int

    def lr_at(self, update: int) -> float:
        """Return the learning rate of an update; see `Schedule.lr_at`."""
        if update >= self.last_update:
            return self.final_lr
        progress = (update - self.start) / (self.last_update - self.start)
        return self.final_lr + (self.base_lr - self.final_lr) * ((1 + math.cos(math.pi * progress)) / 2)


def _risen(strategy: str, progress: float) -> float:
    """Return how much of a warm-up's rise has been made, from 0 to 1."""
    return {"linear": progress, "power2": progress ** 2, "sqrt": math.sqrt(progress)}[strategy]


@dataclass(frozen=True)
class Warmup:
    """The rate of the first `num_updates` updates, which rises from `begin_lr` to where the decay starts."""

    num_updates: int = 0
    begin_lr: float = 0.0
    #: linear, power2, sqrt, or constant: `begin_lr` throughout
    strategy: str = "linear"

    def lr_at(self, update: int, base_lr: float) -> float:
        """Return the learning rate of an update before `num_updates`."""
        if self.strategy == "constant":
            return self.begin_lr
        risen = _risen(self.strategy, update / self.num_updates)
        return self.begin_lr + (base_lr - self.begin_lr) * risen


@dataclass(frozen=True)
class MacroBatch:
    """The multiple of the rate that lbsgd takes a step with, which is made of `num_batches` batches.

    MXNet's LBSGD: from 1 to `num_batches` over the first `num_updates` batches, as `strategy` says; constant
    stays at 1 until then. With lars it is always 1: the optimizer has a rate for each parameter, by the norm
    of the gradients of a batch of `batch_size` samples. Updates count batches, as ever.
    """

    num_batches: int
    num_updates: int = 0
    strategy: str = "linear"
    batch_size: int = 0

    @property
    def lars_batch_size(self) -> int:
        """The samples of a batch where the strategy is lars, else 0."""
        return self.batch_size if self.strategy == "lars" else 0

    def factor_at(self, update: int) -> float:
        """Return the multiple of an update (from 1)."""
        if self.strategy == "lars":
            return 1.0
        if update >= self.num_updates:
            return float(self.num_batches)
        # MXNet's: a warm-up of one update has nothing to rise over
        if self.num_updates <= 1 or self.strategy == "constant":
            return 1.0
        return 1 + (self.num_batches - 1) * _risen(self.strategy, update / self.num_updates)


Decay = Constant | Steps | Periodic | Power | Cosine | OneCycle | Restarts | Regime | Sweep


@dataclass(frozen=True)
class Schedule:
    """The learning rate of a training: a warm-up, then a decay."""

    decay: Decay
    warmup: Warmup = Warmup()
    #: in words, with the rule that chose it, for the start-up summary
    description: str = ""
    #: of lbsgd: in place of a warm-up
    macrobatch: MacroBatch | None = None

    def lr_at(self, update: int) -> float:
        """Return the learning rate of an update: the first is 1, and 0 gives the rate before it."""
        if update < self.warmup.num_updates:
            return self.warmup.lr_at(update, self.decay.base_lr)
        lr = self.decay.lr_at(update)
        return lr * self.macrobatch.factor_at(update) if self.macrobatch else lr

    def wd_at(self, update: int) -> float | None:
        """Return the weight decay of an update where the schedule has one of its own, else None."""
        return self.decay.wd_at(update) if isinstance(self.decay, Regime) else None

    def changes_at(self, update: int) -> bool:
        """Return whether a step falls on this update, for MXNet's `Change learning rate` line.

        Never during the warm-up or on a smooth curve, where MXNet would log a line for each update.
        """
        has_steps = isinstance(self.decay, (Steps, Periodic, Regime))
        num_first = max(self.warmup.num_updates, self.macrobatch.num_updates if self.macrobatch else 0, 1)
        return (has_steps and update > num_first
                and self.lr_at(update) != self.lr_at(update - 1))


def from_config(config: ScheduleConfig, *, updates_per_epoch: int, num_epochs: int,
                num_macrobatch: int = 0, batch_size: int = 0) -> Schedule:
    """Return the schedule of a resolved section, its epochs counted in updates.

    `num_macrobatch` is the number of batches in a step of lbsgd, 0 for other optimizers: its warm-up
    multiplies the rate, from 1 up to that number. `batch_size` is for its strategy lars.
    Raises UsageError where the warm-up leaves no updates for the decay, or would fall.
    """
    warmup = Warmup(round(config.warmup_epochs * updates_per_epoch), config.warmup_begin_lr,
                    config.warmup_strategy)
    macrobatch = None
    if num_macrobatch:
        macrobatch = MacroBatch(num_macrobatch, warmup.num_updates, warmup.strategy, batch_size)
        warmup = Warmup()
    elif warmup.strategy == "lars":
        raise UsageError("`warmup_strategy` lars: is for `optimizer` lbsgd; `optimizer` lars has a rate for "
                         "each layer, and goes with any other strategy")
    last_update = num_epochs * updates_per_epoch
    lr = config.decay.regime[0][1] if config.decay.regime else config.lr
    # MXNet refuses a warm-up that falls; one that does not end would leave the curves without a length.
    if config.warmup_begin_lr > lr and (warmup.num_updates or config.decay.kind == "one-cycle"):
        raise UsageError(f"`warmup_begin_lr` {config.warmup_begin_lr:g}: must not be above `lr` {lr:g}")
    if config.decay.kind in ("power", "cosine", "one-cycle") and 0 < last_update <= warmup.num_updates:
        raise UsageError(f"`warmup_epochs` {config.warmup_epochs:g}: must be below `num_epochs` {num_epochs}")
    decay, text = _make_decay(config, updates_per_epoch, warmup.num_updates, last_update)
    if config.decay.kind == "one-cycle":  # its rise is the warm-up
        warmup = Warmup()
    before = ""
    if warmup.num_updates:
        before = f"warm-up ({config.warmup_strategy}) over {warmup.num_updates} updates, then "
    if macrobatch and macrobatch.lars_batch_size:
        before = f"steps of {macrobatch.num_batches} batches, times a factor for each parameter (lars), "
    elif macrobatch:
        rise = f" from 1 over {macrobatch.num_updates} updates ({macrobatch.strategy})"
        over = rise if macrobatch.num_updates else ""
        before = f"times {macrobatch.num_batches} batches of a step{over}, "
    return Schedule(decay, warmup, f"{before}{text} ({config.decay.reason})", macrobatch)


def _make_decay(config: ScheduleConfig, updates_per_epoch: int, start: int, last_update: int,
                ) -> tuple[Decay, str]:
    """Return the decay from update `start` on, and the same in words."""
    # `resolved` has what the flags come to, in epochs; here epochs become updates.
    lr = config.lr
    resolved = config.decay
    if resolved.kind == "steps":
        steps = tuple(epoch * updates_per_epoch for epoch in resolved.step_epochs)
        epochs = ", ".join(map(str, resolved.step_epochs))
        return Steps(lr, config.lr_factor, steps), f"{lr:g} x {config.lr_factor:g} after epochs {epochs}"
    if resolved.kind == "every":
        # The first scripts' --lr-factor-epoch takes fractions; where one is less than an update, each is a
        # period.
        period = max(int(updates_per_epoch * resolved.every_epochs), 1)
        return (Periodic(lr, config.lr_factor, period),
                f"{lr:g} x {config.lr_factor:g} every {resolved.every_epochs:g} epochs = {period} updates")
    if resolved.kind == "power":
        return (Power(lr, config.final_lr, start, last_update, resolved.power),
                f"{lr:g} x (1 - progress)^{resolved.power:g} over {last_update} updates")
    if resolved.kind == "cosine":
        return (Cosine(lr, config.final_lr, start, last_update),
                f"cosine from {lr:g} to {config.final_lr:g} at the last of {last_update} updates")
    if resolved.kind == "one-cycle":
        # torch's shares: up for 30 % of the updates, from a 25th of the rate
        peak = max(start or round(_RISE * last_update), 1)
        begin = config.warmup_begin_lr or lr / _BEGIN_DIVISOR
        return (OneCycle(lr, begin, config.final_lr, peak, last_update),
                f"one cycle from {begin:g} to {lr:g} at update {peak} and {config.final_lr:g} at the last of "
                f"{last_update}")
    if resolved.kind == "restarts":
        period = config.restart_epochs * updates_per_epoch
        return (Restarts(lr, config.final_lr, start, period, config.restart_factor),
                f"cosine from {lr:g} to {config.final_lr:g}, again after {config.restart_epochs:g} epochs "
                f"and each time x {config.restart_factor:g} as long")
    if resolved.kind == "regime":
        begins = tuple(epoch * updates_per_epoch for epoch, _rate, _wd in resolved.regime)
        words = [f"{rate:g}" + ("" if wd is None else f" with weight decay {wd:g}") + f" from epoch {epoch}"
                 for epoch, rate, wd in resolved.regime]
        shown = words if len(words) <= _MAX_SHOWN else [*words[:_MAX_SHOWN], "..."]
        return (Regime(begins, tuple(rate for _epoch, rate, _wd in resolved.regime),
                       tuple(wd for _epoch, _rate, wd in resolved.regime)), ", ".join(shown))
    return Constant(lr), f"constant {lr:g}"
