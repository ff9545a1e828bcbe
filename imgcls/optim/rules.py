"""What the optimizers of this package have in common: one method a rule, for all parameters of a group.

torch has sgd, nag, adam, adamw, adamax and nadam; every other name of MXNet's is a file here with its rule,
as `mxnet/optimizer/optimizer.py` 1.9.1 and its kernels compute it. States are tensors by name, so that a
checkpoint holds them like torch's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor


class Rule(torch.optim.Optimizer):
    """An optimizer that is one function of weights, gradients and states; a subclass says which.

    Every group has `lr`, `lr_mult` and `weight_decay` besides the constants of the rule. Weights whose
    gradient is None are left as they are.
    """

    #: names of the tensors that are kept of each parameter, in the order of MXNet's `.states`
    STATE: ClassVar[tuple[str, ...]] = ()
    #: whether MXNet has the rule, so that its `.states` may be of it: they do not say
    is_mxnets: ClassVar[bool] = True
    #: whether the updates are counted for each parameter, as `step`
    COUNTS: ClassVar[bool] = False
    #: whether each number changes by itself: the servers of dist_async hold parts of a parameter
    is_elementwise: ClassVar[bool] = True

    def __init__(self, params: Iterable[Any], **constants: Any) -> None:
        # 0 until the schedule sets it before the first step: a rate that was never set moves
        # nothing
        super().__init__(params, {"lr": 0.0, "lr_mult": 1.0, "weight_decay": 0.0, **constants})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Change the weights by their gradients, and the states with them."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params or not self.moves(group):
                continue
            for p in params:
                # at the first step and not at the start: a checkpoint that is read in between fills the
                # states itself
                if not self.state[p]:
                    self.state[p].update(self.initial_state(p))
            count = 0
            if self.COUNTS:
                for p in params:
                    self.state[p]["step"] += 1
                # parameters of a group are updated together, so one count holds for all
                count = int(self.state[params[0]]["step"])
            states = [[self.state[p][name] for p in params] for name in self.STATE]
            gradients = [p.grad for p in params]
            self.update(group, params, gradients, states, count)  # type: ignore[arg-type]

    def moves(self, group: dict[str, Any]) -> bool:
        """Return whether a step of the group does anything."""
        # a rate of 0, where a schedule ends, changes nothing; some rules would divide by it
        return bool(group["lr"])

    def kinds(self, p: Tensor) -> set[str]:
        """Return the names of what is kept of a parameter, as a checkpoint must have it."""
        return {*self.STATE, *(("step",) if self.COUNTS else ())}

    def initial_state(self, p: Tensor) -> dict[str, Tensor]:
        """Return what is remembered of a parameter before its first update: zeros, unless a rule differs."""
        state = {name: torch.zeros_like(p, memory_format=torch.preserve_format) for name in self.STATE}
        return state | ({"step": torch.zeros(())} if self.COUNTS else {})

    def update(self, group: dict[str, Any], params: list[Tensor], gradients: list[Tensor],
               states: list[list[Tensor]], count: int) -> None:
        """Take the step of one group in place; `states` are lists in the order of `STATE`.

        `count` is the number of this update from 1, or 0 where the rule does not count. The gradients are
        not to be changed.
        """
        raise NotImplementedError("an optimizer says its update")


def with_decay(gradients: list[Tensor], params: list[Tensor], decay: float) -> list[Tensor]:
    """Return gradient + decay x weight of each parameter, in new tensors where there is a decay."""
    return list(torch._foreach_add(gradients, params, alpha=decay)) if decay else gradients
