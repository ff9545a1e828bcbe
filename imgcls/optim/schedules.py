"""The learning rate as a pure function of the update: no state, so nothing to save and nothing to get wrong on resume.

Updates count from 1 over the whole training, as MXNet's optimizer counts them. MXNet's schedulers are the
reference (mxnet/lr_scheduler.py 1.9.1); `docs/differences.md` lists the few places where we differ on
purpose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from imgcls.config.sections import ScheduleConfig
from imgcls.errors import UsageError

#: MXNet's FactorScheduler goes no lower than this
LOWEST_LR = 1e-8


@dataclass(frozen=True)
class Schedule:
    """lr_at(update) for update >= 1 (0 is allowed and gives the rate before the first update).

    `kind` is constant, steps (times `factor` after each update in `steps`), every (times `factor` each
    `period` updates, not below `lowest`), power ((1 - progress)^power) or cosine; the latter two end in
    `final_lr` at update `last_update`. During the first `warmup` updates the rate goes from `warmup_begin_lr`
    to `base_lr`.
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
        if self.kind in ("power", "cosine"):
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
        shape = (1 - progress) ** self.power if self.kind == "power" else (1 + math.cos(math.pi * progress)) / 2
        return self.final_lr + (self.base_lr - self.final_lr) * shape


def from_config(config: ScheduleConfig, *, updates_per_epoch: int, num_epochs: int) -> Schedule:
    """Return the schedule of a resolved section, its epochs counted in updates."""
    warmup = round(config.warmup_epochs * updates_per_epoch)
    last_update = num_epochs * updates_per_epoch
    decay, lr = config.decay, f"{config.lr:g}"
    if warmup and config.warmup_begin_lr > config.lr:
        raise UsageError(f"`warmup_begin_lr` {config.warmup_begin_lr:g}: must not be above `lr` {lr}")
    if decay.kind in ("power", "cosine") and 0 < last_update <= warmup:
        raise UsageError(f"`warmup_epochs` {config.warmup_epochs:g}: must be below `num_epochs` {num_epochs}")
    kind, shape = decay.kind, f"constant {lr}"
    settings: dict[str, Any] = {}
    if kind == "steps":
        steps = tuple(epoch * updates_per_epoch for epoch in decay.step_epochs)
        settings = {"factor": config.lr_factor, "steps": steps}
        shape = f"{lr} x {config.lr_factor:g} after epochs {', '.join(map(str, decay.step_epochs))}"
    elif kind == "every":
        period = max(int(updates_per_epoch * decay.every_epochs), 1)
        settings = {"factor": config.lr_factor, "period": period}
        shape = f"{lr} x {config.lr_factor:g} every {decay.every_epochs:g} epochs = {period} updates"
    elif kind == "power":
        settings = {"power": decay.power, "last_update": last_update, "final_lr": config.final_lr}
        shape = f"{lr} x (1 - progress)^{decay.power:g} over {last_update} updates"
    elif kind == "cosine":
        settings = {"last_update": last_update, "final_lr": config.final_lr}
        shape = f"cosine from {lr} to {config.final_lr:g} at the last of {last_update} updates"
    prefix = f"warm-up ({config.warmup_strategy}) over {warmup} updates, then " if warmup else ""
    return Schedule(base_lr=config.lr, kind=kind, warmup=warmup, warmup_begin_lr=config.warmup_begin_lr,
                    warmup_strategy=config.warmup_strategy, description=f"{prefix}{shape} ({decay.reason})", **settings)
