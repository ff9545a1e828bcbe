"""SGLD, stochastic gradient Langevin dynamics (Welling and Teh 2011), as in MXNet.

The weights wander through the posterior instead of settling: half a step of SGD, and noise whose variance is
the learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from imgcls.data import order
from imgcls.optim.rules import Rule, with_decay


class SGLD(Rule):
    """Noise is a function of `seed`, the update and the parameter: a resumed run has the same."""

    COUNTS = True
    is_elementwise = False  # each part of a parameter would have the same noise

    def __init__(self, params: Iterable[Any], seed: int = 0) -> None:
        super().__init__(params, seed=seed)

    def update(self, group: dict[str, Any], params: list[Tensor], gradients: list[Tensor],
               states: list[list[Tensor]], count: int) -> None:
        lr = group["lr"]
        # lr / 2 and noise of variance lr: equation 4 of the paper, without which the weights would
        # not be samples of the posterior
        torch._foreach_add_(params, with_decay(gradients, params, group["weight_decay"]), alpha=-lr / 2)
        # a generator of its own: dropout and the order of the images draw what they would draw
        # without this rule
        generator = torch.Generator(params[0].device)
        # groups differ by their index: two of them begin with the same count
        place = next(index for index, other in enumerate(self.param_groups) if other is group)
        generator.manual_seed(order.step_seed(group["seed"], count) + place)
        for p in params:
            noise = torch.randn(p.shape, generator=generator, device=p.device, dtype=p.dtype)
            p.add_(noise, alpha=math.sqrt(lr))
