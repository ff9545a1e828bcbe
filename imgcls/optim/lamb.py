"""LAMB (You et al. 2019, arXiv 1904.00962), as in MXNet.

Adam, whose step is as long as the weights of its layer are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from imgcls.optim.rules import Rule


class LAMB(Rule):
    """For large batches: each parameter's step is scaled by the norm of its weights over that of the step."""

    STATE = ("mean", "var")
    COUNTS = True
    is_elementwise = False

    def __init__(self, params: Iterable[Any], beta1: float = 0.9, beta2: float = 0.999,
                 eps: float = 1e-6) -> None:
        super().__init__(params, beta1=beta1, beta2=beta2, eps=eps)

    def update(self, group: dict[str, Any], params: list[Tensor], gradients: list[Tensor],
               states: list[list[Tensor]], count: int) -> None:
        mean, var = states
        beta1, beta2 = group["beta1"], group["beta2"]
        # gradients without the decay, which joins the step below: AdamW's way, in MXNet as in the
        # paper
        torch._foreach_lerp_(mean, gradients, 1 - beta1)
        torch._foreach_mul_(var, beta2)
        torch._foreach_addcmul_(var, gradients, gradients, 1 - beta2)
        divisor = torch._foreach_div(var, 1 - beta2**count)
        torch._foreach_sqrt_(divisor)
        torch._foreach_add_(divisor, group["eps"])
        change = torch._foreach_div(mean, 1 - beta1**count)
        torch._foreach_div_(change, divisor)
        if group["weight_decay"]:
            torch._foreach_add_(change, params, alpha=group["weight_decay"])
        # of a parameter and not of the network: layers differ in the scale of their weights by
        # orders of magnitude
        weight_norms = torch.stack(torch._foreach_norm(params))
        change_norms = torch.stack(torch._foreach_norm(change))
        # a parameter that is 0, such as a bias at the start, takes Adam's own step
        ratios = torch.where((weight_norms == 0) | (change_norms == 0), 1.0, weight_norms / change_norms)
        torch._foreach_mul_(change, list(ratios.unbind()))
        torch._foreach_add_(params, change, alpha=-group["lr"])
