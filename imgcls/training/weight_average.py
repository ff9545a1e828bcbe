"""An exponential moving average of the weights (EMA): what is scored, saved and returned in their place.

Polyak and Juditsky 1992; Tan and Le 2019 for image classification. `run` makes it, the trainer moves it after
every step. `PREFIX-0001.params` holds the average, the `.states` beside it the weights that are trained, so
that a run continues with both, bit for bit.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from imgcls import graph
from imgcls.errors import UsageError
from imgcls.optim.schedule_free import ScheduleFree
from imgcls.training.checkpoint import Saved


class WeightAverage:
    """The average of all weights and running statistics of a model on its device; `model` is the one that has
    them, in evaluation mode."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self._averages = list(self.model.state_dict().values())
        self._current: list[Tensor] = []

    @torch.no_grad()
    def update(self, model: nn.Module, update: int) -> None:
        """Move towards the weights of `model`, after the step that update `update` (from 1) ends with."""
        # here and not before: synchronised normalisations take the place of others when sharing begins
        if not self._current:
            self._current = list(model.state_dict(keep_vars=True).values())
        # Short at first, as TensorFlow's and timm's: the average forgets weights that had learned nothing.
        decay = min(self.decay, (1 + update) / (10 + update))
        floats = [(mean, now) for mean, now in zip(self._averages, self._current, strict=True)
                  if mean.is_floating_point()]
        # one kernel for all: one for each would take longer than a small network's step
        torch._foreach_lerp_([mean for mean, _ in floats], [now.detach() for _, now in floats], 1 - decay)
        for mean, now in zip(self._averages, self._current, strict=True):
            if not mean.is_floating_point():  # a count of batches has no mean
                mean.copy_(now)


class ScheduleFreeAverage(WeightAverage):
    """The average that a schedule-free optimizer keeps, and the running statistics of the model."""

    def __init__(self, model: nn.Module, optimizer: ScheduleFree) -> None:
        super().__init__(model, 0.0)
        self._optimizer = optimizer

    @torch.no_grad()
    def update(self, model: nn.Module, update: int) -> None:
        """Take the optimizer's average after its step; what it does not learn is as in `model`."""
        # copied: an evaluation is to find whole layers, whatever the optimizer does meanwhile
        averages = [*self.model.parameters(), *self.model.buffers()]
        learned = [self._optimizer.state[p]["x"] if p in self._optimizer.state else p.detach()
                   for p in model.parameters()]
        torch._foreach_copy_(averages, [*learned, *model.buffers()])


def begin_average(decay: float, model: nn.Module, saved: Saved | None,
                  optimizer: torch.optim.Optimizer | None = None) -> WeightAverage | None:
    """Return the average of a model on its device, which begins with the weights it has; None with `decay` 0
    and an optimizer that keeps none.

    The model was given what the checkpoint holds as its weights. Where that is an average, it becomes the
    average here, and the model is given the weights that were trained.
    """
    average = WeightAverage(model, decay) if decay else None
    if isinstance(optimizer, ScheduleFree):
        if decay:
            raise UsageError("`model_ema_decay`: does not go with a schedule-free `optimizer`, which "
                             "already scores and saves an average")
        average = ScheduleFreeAverage(model, optimizer)
    if saved and saved.trained:
        graph.load_arrays(model, saved.trained, path=saved.path)
    return average
