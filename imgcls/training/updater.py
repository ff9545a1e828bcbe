"""One update of the weights: its learning rate, the loss scale, limits of the gradient, the optimizer's step.

`run` makes it, with the state of a checkpoint; the trainer calls it at every step, in the order of its
methods.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imgcls.config.resolve import Config
from imgcls.distributed.process_group import Worker
from imgcls.errors import UsageError, verbatim
from imgcls.optim import optimizers
from imgcls.optim.schedules import Schedule
from imgcls.training.accumulation import Window, num_accumulated
from imgcls.training.checkpoint import Position, Saved
from imgcls.training.checkpoint.mxnet_states import translate_states
from imgcls.training.checkpoint.optimizer_state import in_words_of_today, restore_optimizer
from imgcls.training.precision import Precision
from imgcls.training.reporter import Reporter


class Updater:
    """Takes the steps of `optimizer` at the learning rates of `schedule`.

    `clip_gradient` limits each element of the gradient, `clip_norm` the norm of all together; 0 is off. A
    step is made of the gradients of `num_accumulated` batches.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: Schedule, precision: Precision,
                 clip_gradient: float = 0.0, clip_norm: float = 0.0,
                 num_accumulated: int = 1) -> None:
        self.optimizer = optimizer
        self.schedule = schedule
        self.precision = precision
        self._clip_gradient = clip_gradient
        self._clip_norm = clip_norm
        self.num_accumulated = num_accumulated
        self._window = Window()
        # without torch's wrappers around it: see `stepper`
        self._step = optimizers.stepper(optimizer)
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def begin(self, update: int, window: Window) -> float:
        """Set the learning rate of an update (counted from 1) and return it; clear the gradients where the
        batch is the first of a step."""
        self._window = window
        # computed anew at every step and never from the one before: a resumed run has the same rate,
        # whatever it did before
        lr = self.schedule.lr_at(update)
        optimizers.set_lr(self.optimizer, lr, self.schedule.wd_at(update))
        # None: the next backward pass then writes, and need not add. Not by the optimizer's own zero_grad,
        # whose wrappers take a small network several per cent of its step.
        for parameter in self._parameters if window.is_first else ():
            parameter.grad = None
        return lr

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` to those that are there, scaled where float16 needs it."""
        scaler = self.precision.scaler
        if self._window.share != 1:  # of the mean over all batches of the step
            loss = loss * self._window.share
        (scaler.scale(loss) if scaler else loss).backward()

    def clip_gradients(self) -> None:
        """Take the loss scale out of the gradients; limit each element to +-clip_gradient, the norm to
        clip_norm."""
        # MXNet's limit is for the gradient itself: the scale goes first
        if self.precision.scaler:
            self.precision.scaler.unscale_(self.optimizer)
        # elements first, then the norm of what is left: with both given the norm is the limit that
        # holds
        if self._clip_gradient:
            optimizers.clip_elements(self._parameters, self._clip_gradient)
        if self._clip_norm:
            optimizers.clip_norm(self._parameters, self._clip_norm)

    def step(self) -> None:
        """Change the weights; with a loss scale, only if no gradient has overflowed."""
        scaler = self.precision.scaler
        if scaler:
            scaler.step(self.optimizer)
            # after a step whose gradients overflowed, and which was left out, the scale is halved
            scaler.update()
        else:
            with torch.no_grad():
                self._step()


def make_updater(config: Config, model: nn.Module, schedule: Schedule, saved: Saved | None,
                 position: Position, worker: Worker, reporter: Reporter) -> Updater:
    """Return the updater of a model on its device, in the state of the checkpoint where there is one.

    States that MXNet saved hold no learning rate: they are read as left at that of `position`. `dtype` must
    be resolved (`precision.decide`). UsageError for an optimizer that does not go with dist_async.
    """
    macrobatch = schedule.macrobatch
    optimizer = optimizers.build(config.optimizer, model, worker.device, config.train.seed,
                                 lars_batch_size=macrobatch.lars_batch_size if macrobatch else 0)
    if worker.is_async and any(wd is not None for _epoch, _lr, wd in config.schedule.decay.regime):
        raise UsageError("`lr_regime`: weight decays do not go with `kv_store` dist_async, whose servers are "
                         "sent the rate alone; give `wd` and rates, or take dist_sync")
    if worker.is_async and not optimizers.is_elementwise(optimizer):
        raise UsageError(f"`optimizer` {config.optimizer.name}: does not run on the servers of dist_async, "
                         "each of which holds a part of every layer; take sgd there, or `kv_store` dist_sync")
    if worker.is_async and config.optimizer.name == "lbsgd":
        raise UsageError("`optimizer` lbsgd: its steps are of several batches, and servers of dist_async "
                         "take one for each; take sgd there, or `kv_store` dist_sync")
    precision = Precision(config.device.dtype, worker.device)
    if saved:
        _restore(optimizer, precision, config, model, schedule, saved, position, reporter)
    return Updater(optimizer, schedule, precision, config.optimizer.clip_gradient, config.optimizer.clip_norm,
                   num_accumulated(config.optimizer, schedule))


def _restore(optimizer: torch.optim.Optimizer, precision: Precision, config: Config, model: nn.Module,
             schedule: Schedule, saved: Saved, position: Position, reporter: Reporter) -> None:
    """Put the state of the checkpoint into the optimizer and the loss scale; say where it cannot be used."""
    name = config.optimizer.optimizer
    saved = in_words_of_today(saved)
    if saved.mxnet_states is not None:
        lr = schedule.lr_at(position.update)
        saved = translate_states(model, optimizer, saved, lr, position.update)
        if saved.optimizer:
            reporter.info(f"note: MXNet's optimizer states are loaded, as left at learning rate {lr:g} "
                          f"after {position.update} updates")
        else:
            reporter.info(f"note: MXNet's optimizer states hold nothing that {name} can use; the optimizer "
                          "starts afresh")
    # "" is a checkpoint of weights alone: there is nothing to restore, and nothing to warn about
    if saved.optimizer_class in ("", type(optimizer).__name__):
        restore_optimizer(model, optimizer, saved)
        precision.restore(saved.scaler)
    else:
        reporter.warn(f"`optimizer` {name}: the checkpoint was trained with "
                      f"{verbatim(saved.optimizer_class)}, whose state cannot be used here; the "
                      "optimizer starts afresh")
