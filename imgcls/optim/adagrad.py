"""AdaGrad (Duchi et al. 2011), as MXNet computes it: epsilon inside the root, the decay outside of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from imgcls.optim.rules import Rule


class AdaGrad(Rule):
    """Rates that fall with the sum of squared gradients."""

    STATE = ("history",)

    def __init__(self, params: Iterable[Any], eps: float = 1e-7) -> None:
        super().__init__(params, eps=eps)

    def update(self, group: dict[str, Any], params: list[Tensor], gradients: list[Tensor],
               states: list[list[Tensor]], count: int) -> None:
        history, = states
        # without the decay: MXNet adds it to the step and not to the gradient
        self.add_squares(history, gradients)
        divisor = torch._foreach_add(history, group["eps"])
        torch._foreach_sqrt_(divisor)
        change = torch._foreach_div(gradients, divisor)
        if group["weight_decay"]:
            torch._foreach_add_(change, params, alpha=group["weight_decay"])
        torch._foreach_add_(params, change, alpha=-group["lr"])

    def add_squares(self, history: list[Tensor], gradients: list[Tensor]) -> None:
        """Add the squares of the gradients of an update to the sums."""
        torch._foreach_addcmul_(history, gradients, gradients, 1.0)
