"""The learning rate as a pure function of the update: no state, so nothing to save and nothing to get wrong on resume.

Updates count from 1 over the whole training, as MXNet's optimizer counts them. MXNet's schedulers are the reference
(mxnet/lr_scheduler.py 1.9.1); `docs/differences.md` lists the few places where we differ on purpose.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass

from imgcls.config.sections import ScheduleConfig
from imgcls.errors import UsageError

#: MXNet's FactorScheduler goes no lower than this
LOWEST_LR = 1e-8


@dataclass(frozen=True)
class Schedule:
    """lr_at(update) for update >= 1 (0 is allowed and gives the rate before the first update).

    `kind` is constant, steps (times `factor` after each update in `steps`), every (times `factor` each `period`
    updates, not below `lowest`), pow ((1 - progress)^power) or cosine; the latter two end in `final_lr` at update
    `last_update`. During the first `warmup` updates the rate goes from `warmup_begin_lr` to `base_lr`.
    """

    base_lr: float
    kind: str = "constant"
    factor: float = 1.0
    steps: tuple[int, ...] = ()
    period: int = 0
    lowest: float = LOWEST_LR
    power: float = 2.0
    last_update: int = 0
    final_lr: float = 0.0
    warmup: int = 0
    warmup_begin_lr: float = 0.0
    warmup_strategy: str = "linear"
    #: which rule chose it, for the start-up summary
    description: str = "constant"

    def lr_at(self, update: int) -> float:
        """The learning rate of update number `update` (the first is 1)."""
        if update < self.warmup:
            return self._warming_up(update / self.warmup)
        if self.kind == "steps":
            return self.base_lr * self.factor ** sum(update > step for step in self.steps)
        if self.kind == "every":
            return max(self.base_lr * self.factor ** (max(update - 1, 0) // self.period), self.lowest)
        if self.kind in ("pow", "cosine"):
            return self._falling(update)
        return self.base_lr

    def changes_at(self, update: int) -> bool:
        """Whether a step falls on this update, for MXNet's `Change learning rate` line; false for smooth curves."""
        return (self.kind in ("steps", "every") and update > max(self.warmup, 1)
                and self.lr_at(update) != self.lr_at(update - 1))

    def _warming_up(self, progress: float) -> float:
        if self.warmup_strategy == "constant":
            return self.warmup_begin_lr
        shape = {"linear": progress, "power2": progress ** 2, "sqrt": math.sqrt(progress)}[self.warmup_strategy]
        return self.warmup_begin_lr + (self.base_lr - self.warmup_begin_lr) * shape

    def _falling(self, update: int) -> float:
        if update >= self.last_update:
            return self.final_lr
        progress = (update - self.warmup) / (self.last_update - self.warmup)
        shape = (1 - progress) ** self.power if self.kind == "pow" else (1 + math.cos(math.pi * progress)) / 2
        return self.final_lr + (self.base_lr - self.final_lr) * shape


def from_config(config: ScheduleConfig, *, updates_per_epoch: int, num_epochs: int,
                given: Collection[str] = (), first_generation: bool = False) -> Schedule:
    """The schedule that the flags mean.

    `given` names the flags that the user set (not the data set's defaults); `first_generation` says that a flag only
    MXNet before v0.8 had is among them, which is how its `--lr-factor` (a step every epoch) is told from the later one.
    """
    warmup = round(config.warmup_epochs * updates_per_epoch)
    common = {"base_lr": config.lr, "warmup": warmup, "warmup_begin_lr": config.warmup_begin_lr,
              "warmup_strategy": config.warmup_strategy}
    if warmup and config.warmup_begin_lr > config.lr:
        raise UsageError(f"`warmup_begin_lr` {config.warmup_begin_lr:g}: must not be above `lr` {config.lr:g}")
    prefix = f"warm-up ({config.warmup_strategy}) over {warmup} updates, then " if warmup else ""
    last_update = num_epochs * updates_per_epoch
    falling = {"last_update": last_update, "final_lr": config.final_lr}
    if (config.lr_schedule == "cosine" or _is_power(config)) and 0 < last_update <= warmup:
        raise UsageError(f"`warmup_epochs` {config.warmup_epochs:g}: must be below `num_epochs` {num_epochs}")
    if config.lr_schedule == "cosine":
        return Schedule(kind="cosine", description=f"{prefix}cosine from {config.lr:g} to {config.final_lr:g} at the "
                        f"last of {last_update} updates (`lr_schedule`)", **common, **falling)
    if config.lr_factor >= 1:
        return Schedule(description=f"{prefix}constant {config.lr:g} (`lr_factor` {config.lr_factor:g})", **common)
    every = every_epochs(config, given, num_epochs, first_generation)
    if _is_power(config) and not every:
        power = _power(config.lr_step_epochs)
        return Schedule(kind="pow", power=power, description=f"{prefix}{config.lr:g} x (1 - progress)^{power:g} over "
                        f"{last_update} updates (`lr_step_epochs` {config.lr_step_epochs})", **common, **falling)
    if every:
        period, why = max(int(updates_per_epoch * every[0]), 1), every[1]
        return Schedule(kind="every", factor=config.lr_factor, period=period, description=f"{prefix}{config.lr:g} "
                        f"x {config.lr_factor:g} every {every[0]:g} epochs = {period} updates ({why})", **common)
    epochs = _step_epochs(config.lr_step_epochs)
    why = "`lr_step_epochs`" if "lr_step_epochs" in given else "the data set's default steps"
    if not epochs:
        return Schedule(description=f"{prefix}constant {config.lr:g} ({why}: none)", **common)
    return Schedule(kind="steps", factor=config.lr_factor, steps=tuple(e * updates_per_epoch for e in epochs),
                    description=f"{prefix}{config.lr:g} x {config.lr_factor:g} after epochs "
                    f"{', '.join(map(str, epochs))} ({why})", **common)


def every_epochs(config: ScheduleConfig, given: Collection[str], num_epochs: int,
                  first_generation: bool) -> tuple[float, str] | None:
    """(epochs between two decays, why), where the flags mean a decay that repeats for ever; else None."""
    if "lr_factor_epoch" in given and config.lr_factor_epoch > 0:
        if "lr_step_epochs" in given:
            raise UsageError("`lr_factor_epoch` and `lr_step_epochs` contradict each other: give one of them")
        return config.lr_factor_epoch, "`lr_factor_epoch`"
    if "lr_step_epochs" in given or "lr_factor" not in given:
        return None
    if first_generation:
        return 1.0, "`lr_factor` beside a flag of MXNet's first scripts, which decayed every epoch"
    if _is_power(config) or any(0 < e < num_epochs for e in _step_epochs(config.lr_step_epochs)):
        return None
    return 1.0, f"`lr_factor`, and no default step ({config.lr_step_epochs}) before the end"


def _is_power(config: ScheduleConfig) -> bool:
    return config.lr_step_epochs.strip().lower().startswith("pow")


def _power(text: str) -> float:
    """pow2, pow-2 and pow 2 are all MXNet's spellings."""
    match = re.fullmatch(r"pow[- ]?(\d+(?:\.\d*)?|\.\d+)", text.strip().lower())
    if not match or float(match[1]) <= 0:
        raise UsageError(f"`lr_step_epochs` {text!r}: after pow comes a number above 0, such as pow2")
    return float(match[1])


def _step_epochs(text: str) -> list[int]:
    try:
        epochs = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"`lr_step_epochs` {text!r}: must be epochs such as 30,60 or a power such as pow2") from None
    if any(e <= 0 for e in epochs) or epochs != sorted(set(epochs)):
        raise UsageError(f"`lr_step_epochs` {text!r}: epochs must be above 0 and rising, such as 30,60")
    return epochs
