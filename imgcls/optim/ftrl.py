"""FTRL-Proximal (McMahan et al. 2013, "Ad Click Prediction: a View from the Trenches"), as in MXNet.

A weight is computed anew from its states at every step; one whose sum stays within `lamda1` is exactly 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from imgcls.optim.rules import Rule


class Ftrl(Rule):
    """Follow the regularised leader: `lamda1` is the L1 penalty (MXNet's spelling), the decay the L2 one."""

    STATE = ("z", "n")

    def __init__(self, params: Iterable[Any], lamda1: float = 0.01, beta: float = 1.0) -> None:
        super().__init__(params, lamda1=lamda1, beta=beta)

    def update(self, group: dict[str, Any], params: list[Tensor], gradients: list[Tensor],
               states: list[list[Tensor]], count: int) -> None:
        z, n = states
        lr = group["lr"]
        # before n grows: the difference of the roots is what the rate falls by in this step
        root_before = torch._foreach_sqrt(n)
        torch._foreach_addcmul_(n, gradients, gradients, 1.0)
        root = torch._foreach_sqrt(n)
        torch._foreach_add_(z, gradients)
        torch._foreach_addcmul_(z, torch._foreach_sub(root, root_before), params, -1 / lr)
        # sign(z) max(|z| - lamda1, 0) / -((beta + sqrt(n)) / lr + wd)
        torch._foreach_add_(root, group["beta"])
        torch._foreach_div_(root, lr)
        torch._foreach_add_(root, group["weight_decay"])
        for p, sums, divisor in zip(params, z, root, strict=True):
            # softshrink(z, l) is sign(z) max(|z| - l, 0): zeros are exact, and weights sparse
            p.copy_(torch.nn.functional.softshrink(sums, group["lamda1"]).div_(divisor).neg_())
