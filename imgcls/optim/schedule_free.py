"""Schedule-free SGD and AdamW (Defazio et al. 2024, arXiv 2405.15682): an average in place of a schedule.

Three sequences: z takes the steps, x is a running mean of z and what is scored and saved, and gradients are
computed at y between the two, which are the weights of the network while it trains. The rate is constant, but
for a warm-up.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from imgcls.optim.rules import Rule, with_decay


class ScheduleFree(Rule):
    """SGD without a schedule; `momentum` is where between z (0) and x (1) the gradients are computed."""

    STATE: Any = ("z", "x")
    # counted for the correction of AdamW's second moment; SGD uses the sums of the rates alone
    COUNTS = True
    is_mxnets = False
    is_elementwise = False  # x would have to be fetched from the servers for every evaluation

    def __init__(self, params: Iterable[Any], momentum: float = 0.9) -> None:
        super().__init__(params, momentum=momentum)

    def kinds(self, p: Tensor) -> set[str]:
        """Return the names of what is kept of a parameter."""
        # of each parameter, though equal for all of a group: a checkpoint has no place for what is
        # of the group
        return super().kinds(p) | {"highest_lr", "weight_sum"}

    def initial_state(self, p: Tensor) -> dict[str, Tensor]:
        """Return z and x at the weights, and sums of 0."""
        copies = {name: p.detach().clone() for name in ("z", "x")}
        sums = {name: torch.zeros(()) for name in ("highest_lr", "weight_sum")}
        return super().initial_state(p) | copies | sums

    def update(self, group: dict[str, Any], params: list[Tensor], gradients: list[Tensor],
               states: list[list[Tensor]], count: int) -> None:
        # AdamW keeps a third, its squares
        z, x = states[:2]
        momentum = group["momentum"]
        change = self.direction(group, params, gradients, states, count)
        # z <- z - lr g(y)
        torch._foreach_add_(z, change, alpha=-group["lr"])
        # x <- (1 - c) x + c z: the running mean, of which c is the weight of the newest z
        torch._foreach_lerp_(x, z, self._weight(group, params))
        # y = (1 - momentum) z + momentum x, where the next gradient is computed
        torch._foreach_copy_(params, z)
        torch._foreach_lerp_(params, x, momentum)

    def direction(self, group: dict[str, Any], params: list[Tensor], gradients: list[Tensor],
                  states: list[list[Tensor]], count: int) -> list[Tensor]:
        """Return what z moves against: the gradient at y, and the decay of y."""
        return with_decay(gradients, params, group["weight_decay"])

    def _weight(self, group: dict[str, Any], params: list[Tensor]) -> float:
        """Return how much z counts in x: steps of a warm-up, by the square of their rate, count less."""
        weight = 0.0
        for p in params:
            state = self.state[p]
            # the highest so far, as in the authors' code: without a schedule it is the rate once the
            # warm-up ends
            state["highest_lr"].clamp_(min=group["lr"])
            square = state["highest_lr"].square()
            state["weight_sum"] += square
            weight = float(square / state["weight_sum"])
        return weight


class ScheduleFreeAdamW(ScheduleFree):
    """AdamW without a schedule; `beta1` is the momentum of the other."""

    STATE: Any = ("z", "x", "exp_avg_sq")

    def __init__(self, params: Iterable[Any], beta1: float = 0.9, beta2: float = 0.999,
                 eps: float = 1e-8) -> None:
        Rule.__init__(self, params, momentum=beta1, beta2=beta2, eps=eps)

    def direction(self, group: dict[str, Any], params: list[Tensor], gradients: list[Tensor],
                  states: list[list[Tensor]], count: int) -> list[Tensor]:
        """Return Adam's step without its mean, whose place the average takes, and the decay of y."""
        square = states[2]
        torch._foreach_mul_(square, group["beta2"])
        torch._foreach_addcmul_(square, gradients, gradients, 1 - group["beta2"])
        # corrected as Adam's, or the first steps would be thirty times too long at beta2 0.999
        divisor = torch._foreach_div(square, 1 - group["beta2"]**count)
        torch._foreach_sqrt_(divisor)
        torch._foreach_add_(divisor, group["eps"])
        return with_decay(list(torch._foreach_div(gradients, divisor)), params, group["weight_decay"])
