"""AdaDelta (Zeiler 2012, arXiv 1212.5701), as MXNet computes it: without a learning rate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from imgcls.optim.rules import Rule


class AdaDelta(Rule):
    """Steps from running means of squared gradients and of squared changes, times the layer's `lr_mult`."""

    STATE = ("acc_g", "acc_delta")

    def __init__(self, params: Iterable[Any], rho: float = 0.9, eps: float = 1e-5) -> None:
        super().__init__(params, rho=rho, eps=eps)

    def moves(self, group: dict[str, Any]) -> bool:
        """Return whether a step of the group does anything: whatever the rate, unless the layer is frozen."""
        return bool(group["lr_mult"])

    def update(self, group: dict[str, Any], params: list[Tensor], gradients: list[Tensor],
               states: list[list[Tensor]], count: int) -> None:
        acc_g, acc_delta = states
        rho, eps = group["rho"], group["eps"]
        torch._foreach_mul_(acc_g, rho)
        torch._foreach_addcmul_(acc_g, gradients, gradients, 1 - rho)
        change = torch._foreach_add(acc_delta, eps)
        torch._foreach_sqrt_(change)
        divisor = torch._foreach_add(acc_g, eps)
        torch._foreach_sqrt_(divisor)
        # RMS of earlier changes over RMS of gradients: the units of the weights, for which no rate
        # is needed
        torch._foreach_div_(change, divisor)
        torch._foreach_mul_(change, gradients)
        torch._foreach_mul_(acc_delta, rho)
        torch._foreach_addcmul_(acc_delta, change, change, 1 - rho)
        # the decay has no rate either, and is that of the weight before the step
        if group["weight_decay"]:
            torch._foreach_add_(change, params, alpha=group["weight_decay"])
        # lr_mult alone: a layer that is frozen by a multiplier of 0 stays so
        torch._foreach_add_(params, change, alpha=-group["lr_mult"])
