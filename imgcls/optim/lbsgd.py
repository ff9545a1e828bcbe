"""MXNet's LBSGD where its strategy is `lars`: SGD with a rate of its own for each parameter at every step.

Its other strategies are plain SGD at a rate that rises: see `schedules.MacroBatch`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from imgcls.optim.rules import Rule, with_decay

#: the rate of a parameter is at least and at most so many times that of the schedule
_LEAST, _MOST = 0.01, 100.0


class LBSGD(Rule):
    """SGD whose rate is multiplied by |weight| / sqrt(|gradient|^2 + decay x |weight|^2), from 0.01 to 100.

    The gradient in that norm is summed over the `batch_size` samples of a batch and not averaged, as in
    MXNet: a step is about `lr` / `batch_size` of the weight's norm. The momentum includes the rate.
    """

    STATE = ("momentum",)
    is_elementwise = False

    def __init__(self, params: Iterable[Any], batch_size: int, momentum: float = 0.0) -> None:
        super().__init__(params, batch_size=batch_size, momentum=momentum)

    def update(self, group: dict[str, Any], params: list[Tensor], gradients: list[Tensor],
               states: list[list[Tensor]], count: int) -> None:
        momenta, = states
        decay = group["weight_decay"]
        weight_squares = torch.stack(torch._foreach_norm(params)).square()
        sum_squares = torch.stack(torch._foreach_norm(gradients)).square() * group["batch_size"] ** 2
        # MXNet's: the decay is no square, and what keeps the division finite is this small
        factors = (weight_squares / (sum_squares + decay * weight_squares + 1e-18)).sqrt()
        # biases begin at 0, and learn at the least rate until they are not
        factors = factors.clamp(_LEAST, _MOST) * group["lr"]
        change = torch._foreach_mul(with_decay(gradients, params, decay), list(factors.unbind()))
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_sub_(momenta, change)
        torch._foreach_add_(params, momenta)
