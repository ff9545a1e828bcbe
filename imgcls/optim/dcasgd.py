"""DCASGD, delay-compensated SGD (Zheng et al. 2016, arXiv 1609.08326), as in MXNet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from imgcls.optim.rules import Rule


class DCASGD(Rule):
    """SGD for gradients that come late: `lamda` (MXNet's spelling) times the gradient's square estimates how
    the gradient has changed since the weights before."""

    STATE = ("momentum", "previous_weight")

    def __init__(self, params: Iterable[Any], momentum: float = 0.0, lamda: float = 0.04) -> None:
        super().__init__(params, momentum=momentum, lamda=lamda)

    def initial_state(self, p: Tensor) -> dict[str, Tensor]:
        """Return a momentum of 0 and a copy of the current weight."""
        return super().initial_state(p) | {"previous_weight": p.detach().clone()}

    def update(self, group: dict[str, Any], params: list[Tensor], gradients: list[Tensor],
               states: list[list[Tensor]], count: int) -> None:
        momenta, previous = states
        # g + lamda g^2 (w - w_before): the square of the gradient stands for the Hessian's diagonal
        change = torch._foreach_sub(params, previous)
        torch._foreach_mul_(change, gradients)
        torch._foreach_mul_(change, gradients)
        torch._foreach_mul_(change, group["lamda"])
        torch._foreach_add_(change, gradients)
        if group["weight_decay"]:
            torch._foreach_add_(change, params, alpha=group["weight_decay"])
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, change, alpha=-group["lr"])
        # the weights before the step: the next gradient is late by this one
        torch._foreach_copy_(previous, params)
        torch._foreach_add_(params, momenta)
