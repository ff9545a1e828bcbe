"""`mx.lr_scheduler`: the learning rate as a function of the number of updates, with MXNet's warm-up.

As in MXNet a scheduler keeps its current rate in `base_lr`, and must be called with growing update numbers.
The same curves as pure functions are in `imgcls.optim.schedules`, which training uses.
"""

from __future__ import annotations

import logging
import math


# Rates are plain floats, computed in double as MXNet does.
class LRScheduler:
    """The base class: a rate `base_lr`, and before it a warm-up of `warmup_steps` updates."""

    def __init__(self, base_lr: float = 0.01, warmup_steps: int = 0, warmup_begin_lr: float = 0.0,
                 warmup_mode: str = "linear") -> None:
        # MXNet's checks, in its order: the first error is the same.
        if warmup_begin_lr > base_lr:
            raise ValueError(f"warmup_begin_lr {warmup_begin_lr}: must not be above base_lr {base_lr}")
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps {warmup_steps}: must not be negative")
        if warmup_mode not in ("linear", "constant"):
            raise ValueError(f"warmup_mode {warmup_mode}: must be linear or constant")
        self.base_lr = base_lr
        self.warmup_steps = warmup_steps
        self.warmup_begin_lr = warmup_begin_lr
        self.warmup_final_lr = base_lr
        self.warmup_mode = warmup_mode

    # The first update is number 1, so a linear warm-up never has `warmup_begin_lr` itself.
    def get_warmup_lr(self, num_update: int) -> float:
        """Return the rate of an update of the warm-up."""
        if self.warmup_mode == "constant":
            return self.warmup_begin_lr
        share = num_update / self.warmup_steps
        return self.warmup_begin_lr + (self.warmup_final_lr - self.warmup_begin_lr) * share

    def __call__(self, num_update: int) -> float:
        raise NotImplementedError("a scheduler of your own must say its rate")


# MXNet refuses it as well.
def _check_factor(factor: float) -> None:
    if factor > 1:
        raise ValueError(f"factor {factor}: must not be above 1, or the rate would grow")


# Called once for each parameter and update, always with the same number or a larger one.
class FactorScheduler(LRScheduler):
    """Multiply the rate by `factor` every `step` updates, but not below `stop_factor_lr`."""

    def __init__(self, step: int, factor: float = 1, stop_factor_lr: float = 1e-8, base_lr: float = 0.01,
                 warmup_steps: int = 0, warmup_begin_lr: float = 0.0, warmup_mode: str = "linear") -> None:
        super().__init__(base_lr, warmup_steps, warmup_begin_lr, warmup_mode)
        if step < 1:
            raise ValueError(f"step {step}: must be at least 1")
        _check_factor(factor)
        self.step = step
        self.factor = factor
        self.stop_factor_lr = stop_factor_lr
        self.count = 0

    def __call__(self, num_update: int) -> float:
        if num_update < self.warmup_steps:
            return self.get_warmup_lr(num_update)
        # several at once where a training resumes from a later epoch
        while num_update > self.count + self.step:  # > and not >=: the update that is named has the old rate
            self.count += self.step
            self.base_lr *= self.factor
            if self.base_lr < self.stop_factor_lr:
                self.base_lr = self.stop_factor_lr
                logging.info("Update[%d]: now learning rate arrived at %0.5e, will not change in the future",
                             num_update, self.base_lr)
            else:
                logging.info("Update[%d]: Change learning rate to %0.5e", num_update, self.base_lr)
        return self.base_lr


# The updates in `step` themselves still have the old rate.
class MultiFactorScheduler(LRScheduler):
    """Multiply the rate by `factor` after each of the updates in `step`."""

    def __init__(self, step: list[int], factor: float = 1, base_lr: float = 0.01, warmup_steps: int = 0,
                 warmup_begin_lr: float = 0.0, warmup_mode: str = "linear") -> None:
        super().__init__(base_lr, warmup_steps, warmup_begin_lr, warmup_mode)
        if not isinstance(step, list) or not step or step[0] < 1 or sorted(set(step)) != step:
            raise ValueError(f"step {step}: must be a list of updates that grow, from 1 on")
        _check_factor(factor)
        self.step = step
        self.factor = factor
        self.cur_step_ind = 0
        self.count = 0

    def __call__(self, num_update: int) -> float:
        if num_update < self.warmup_steps:
            return self.get_warmup_lr(num_update)
        while self.cur_step_ind < len(self.step) and num_update > self.step[self.cur_step_ind]:
            self.count = self.step[self.cur_step_ind]
            self.cur_step_ind += 1
            self.base_lr *= self.factor
            logging.info("Update[%d]: Change learning rate to %0.5e", num_update, self.base_lr)
        return self.base_lr


# After the end the rate stays the same.
class _Curve(LRScheduler):
    """Lower the rate after the warm-up from `base_lr` to `final_lr` at `max_update`, along a curve."""

    def __init__(self, max_update: int, base_lr: float, final_lr: float, warmup_steps: int,
                 warmup_begin_lr: float, warmup_mode: str) -> None:
        super().__init__(base_lr, warmup_steps, warmup_begin_lr, warmup_mode)
        if max_update < 1:
            raise ValueError(f"max_update {max_update}: must be at least 1")
        self.base_lr_orig = base_lr
        self.max_update = max_update
        self.final_lr = final_lr
        self.max_steps = max_update - warmup_steps

    def _curve(self, progress: float) -> float:
        raise NotImplementedError

    def __call__(self, num_update: int) -> float:
        if num_update < self.warmup_steps:
            return self.get_warmup_lr(num_update)
        if num_update <= self.max_update:
            height = self._curve((num_update - self.warmup_steps) / self.max_steps)  # 0 to 1
            self.base_lr = self.final_lr + (self.base_lr_orig - self.final_lr) * height
        return self.base_lr


# With `pwr` 1 the curve is a line.
class PolyScheduler(_Curve):
    """Lower the rate along (1 - progress) to the power `pwr`."""

    def __init__(self, max_update: int, base_lr: float = 0.01, pwr: float = 2, final_lr: float = 0.0,
                 warmup_steps: int = 0, warmup_begin_lr: float = 0.0, warmup_mode: str = "linear") -> None:
        super().__init__(max_update, base_lr, final_lr, warmup_steps, warmup_begin_lr, warmup_mode)
        self.power = pwr

    def _curve(self, progress: float) -> float:
        return (1 - progress) ** self.power


# Slow, fast, slow.
class CosineScheduler(_Curve):
    """Lower the rate along half a cosine."""

    def __init__(self, max_update: int, base_lr: float = 0.01, final_lr: float = 0.0, warmup_steps: int = 0,
                 warmup_begin_lr: float = 0.0, warmup_mode: str = "linear") -> None:
        super().__init__(max_update, base_lr, final_lr, warmup_steps, warmup_begin_lr, warmup_mode)

    def _curve(self, progress: float) -> float:
        return (1 + math.cos(math.pi * progress)) / 2
