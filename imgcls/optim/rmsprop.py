"""RMSProp (Tieleman and Hinton 2012), as MXNet computes it: epsilon inside the root."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from imgcls.optim.rules import Rule, with_decay


class RMSProp(Rule):
    """Rates from a running mean of squared gradients; `gamma1` is how much of it stays."""

    STATE = ("n",)

    def __init__(self, params: Iterable[Any], gamma1: float = 0.9, eps: float = 1e-8) -> None:
        super().__init__(params, gamma1=gamma1, eps=eps)

    def update(self, group: dict[str, Any], params: list[Tensor], gradients: list[Tensor],
               states: list[list[Tensor]], count: int) -> None:
        n, = states
        gradients = with_decay(gradients, params, group["weight_decay"])
        torch._foreach_mul_(n, group["gamma1"])
        torch._foreach_addcmul_(n, gradients, gradients, 1 - group["gamma1"])
        divisor = torch._foreach_add(n, group["eps"])
        torch._foreach_sqrt_(divisor)
        torch._foreach_addcdiv_(params, gradients, divisor, -group["lr"])
