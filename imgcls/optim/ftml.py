"""FTML, follow the moving leader in deep learning (Zheng and Kwok 2017), as in MXNet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from imgcls.optim.rules import Rule, with_decay


class FTML(Rule):
    """Between Adam and FTRL: each weight is the minimum of a sum of parabolas in which old ones fade."""

    STATE = ("d", "v", "z")
    COUNTS = True

    def __init__(self, params: Iterable[Any], beta1: float = 0.6, beta2: float = 0.999,
                 eps: float = 1e-8) -> None:
        super().__init__(params, beta1=beta1, beta2=beta2, eps=eps)

    def update(self, group: dict[str, Any], params: list[Tensor], gradients: list[Tensor],
               states: list[list[Tensor]], count: int) -> None:
        d, v, z = states
        beta1, beta2 = group["beta1"], group["beta2"]
        gradients = with_decay(gradients, params, group["weight_decay"])
        torch._foreach_mul_(v, beta2)
        torch._foreach_addcmul_(v, gradients, gradients, 1 - beta2)
        # d is the curvature of the parabolas: Adam's divisor over its rate
        new_d = torch._foreach_div(v, 1 - beta2**count)
        torch._foreach_sqrt_(new_d)
        torch._foreach_add_(new_d, group["eps"])
        torch._foreach_mul_(new_d, (1 - beta1**count) / group["lr"])
        # z = beta1 z + (1 - beta1) g - (d - beta1 d_before) w
        torch._foreach_mul_(d, beta1)
        # `d` was multiplied by beta1 in place, one tensor less for each parameter
        sigma = torch._foreach_sub(new_d, d)
        torch._foreach_mul_(z, beta1)
        torch._foreach_add_(z, gradients, alpha=1 - beta1)
        torch._foreach_addcmul_(z, sigma, params, -1.0)
        torch._foreach_copy_(d, new_d)
        torch._foreach_copy_(params, torch._foreach_div(torch._foreach_neg(z), d))
