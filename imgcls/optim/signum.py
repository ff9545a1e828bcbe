"""signSGD and Signum (Bernstein et al. 2018, arXiv 1802.04434), as MXNet's kernels compute them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from imgcls.optim.rules import Rule


class SignSGD(Rule):
    """Every weight moves by the learning rate, against the sign of its gradient; the decay is decoupled."""

    def update(self, group: dict[str, Any], params: list[Tensor], gradients: list[Tensor],
               states: list[list[Tensor]], count: int) -> None:
        # before the step: signsgd_update of MXNet computes (1 - lr wd) w - lr sign(g)
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, torch._foreach_sign(gradients), alpha=-group["lr"])


class Signum(Rule):
    """Every weight moves by the learning rate, in the direction of its momentum's sign.

    The decay is part of the gradient here, unlike in SignSGD.
    """

    STATE = ("momentum",)

    def __init__(self, params: Iterable[Any], momentum: float = 0.9) -> None:
        super().__init__(params, momentum=momentum)

    def update(self, group: dict[str, Any], params: list[Tensor], gradients: list[Tensor],
               states: list[list[Tensor]], count: int) -> None:
        # the momentum has the sign of the step, against the gradient, as MXNet's `.states` hold it
        momenta, = states
        new = 1 - group["momentum"]
        torch._foreach_mul_(momenta, group["momentum"])
        if group["weight_decay"]:
            torch._foreach_add_(momenta, params, alpha=-new * group["weight_decay"])
        torch._foreach_add_(momenta, gradients, alpha=-new)
        # plus: the minus is in the momentum already
        torch._foreach_add_(params, torch._foreach_sign(momenta), alpha=group["lr"])
