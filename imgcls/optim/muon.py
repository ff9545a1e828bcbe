"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon): momentum whose matrix is made orthogonal.

For the weights of hidden layers, those of convolutions as one row for each filter. The last layer, biases and
gammas take AdamW's step, as its author advises. The steps of both are about as long (Liu et al. 2025, arXiv
2502.16982), so that one learning rate holds for both: AdamW's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from imgcls.optim.rules import Rule

#: of the polynomial that moves all singular values towards 1, and how often it is applied
# the author's: chosen for a steep slope at 0, so that small singular values grow within five
# steps; they swing around 1 instead of converging to it, which costs no accuracy
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_NUM_ITERATIONS = 5


class Muon(Rule):
    """Groups with `is_hidden` take Muon's step, the others AdamW's; the weight decay is decoupled in both."""

    is_elementwise = False  # it looks at whole matrices
    is_mxnets = False

    def __init__(self, params: Iterable[Any], momentum: float = 0.95, beta1: float = 0.9,
                 beta2: float = 0.999, eps: float = 1e-8) -> None:
        super().__init__(params, momentum=momentum, beta1=beta1, beta2=beta2, eps=eps, is_hidden=False)
        # by parameter, as torch asks for states by parameter and not by group
        self._hidden = {p for group in self.param_groups if group["is_hidden"] for p in group["params"]}

    def kinds(self, p: Tensor) -> set[str]:
        """Return the names of what is kept of a parameter: one tensor for Muon, two and a count for AdamW."""
        return {"momentum_buffer"} if p in self._hidden else {"exp_avg", "exp_avg_sq", "step"}

    def initial_state(self, p: Tensor) -> dict[str, Tensor]:
        """Return zeros for each of `kinds`."""
        return {kind: torch.zeros(()) if kind == "step"
                else torch.zeros_like(p, memory_format=torch.preserve_format) for kind in self.kinds(p)}

    def update(self, group: dict[str, Any], params: list[Tensor], gradients: list[Tensor],
               states: list[list[Tensor]], count: int) -> None:
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        # both have the decay of AdamW, decoupled from the gradient, so that one value holds for both
        (self._orthogonal_step if group["is_hidden"] else self._adam_step)(group, params, gradients)

    def _orthogonal_step(self, group: dict[str, Any], params: list[Tensor], gradients: list[Tensor]) -> None:
        momentum = group["momentum"]
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        # Nesterov's: as if the next gradient were this one
        ahead = torch._foreach_lerp(gradients, buffers, momentum)
        for p, change in zip(params, ahead, strict=True):
            # (out, in x height x width): a filter is a row, as the author treats convolutions
            matrix = orthogonal(change.flatten(1))
            # the mean square of AdamW's step, whatever the shape
            scale = 0.2 * math.sqrt(max(matrix.shape))
            p.add_(matrix.view(p.shape), alpha=-group["lr"] * scale)

    def _adam_step(self, group: dict[str, Any], params: list[Tensor], gradients: list[Tensor]) -> None:
        mean, square = ([self.state[p][kind] for p in params] for kind in ("exp_avg", "exp_avg_sq"))
        for p in params:
            self.state[p]["step"] += 1
        # the same for all: they are updated together
        count = int(self.state[params[0]]["step"])
        torch._foreach_lerp_(mean, gradients, 1 - group["beta1"])
        torch._foreach_mul_(square, group["beta2"])
        torch._foreach_addcmul_(square, gradients, gradients, 1 - group["beta2"])
        divisor = torch._foreach_div(square, 1 - group["beta2"]**count)
        torch._foreach_sqrt_(divisor)
        torch._foreach_add_(divisor, group["eps"])
        torch._foreach_addcdiv_(params, mean, divisor, -group["lr"] / (1 - group["beta1"]**count))


def orthogonal(matrix: Tensor) -> Tensor:
    """Return float (m, n) with the same singular vectors and singular values of about 1 (0.7 to 1.2).

    By Newton-Schulz iterations: products of matrices alone, in bfloat16 on a GPU.
    """
    x = matrix.bfloat16() if matrix.is_cuda else matrix.float()
    is_tall = x.shape[0] > x.shape[1]
    # the product with its transpose is then of the shorter side
    x = x.T if is_tall else x
    # all singular values below 1, or the iterations diverge
    x = x / x.norm().clamp(min=1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_NUM_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if is_tall else x).to(matrix.dtype)


def split_groups(groups: list[dict[str, Any]], parameters: Iterable[Tensor]) -> list[dict[str, Any]]:
    """Return the groups with hidden weights separate: all of two or more dimensions but the last layer's."""
    # in the order of the network, whose last matrix is the classifier's
    matrices = [p for p in parameters if p.ndim >= 2]
    hidden = set(matrices[:-1])
    parts = []
    for group in groups:
        for is_hidden in (True, False):
            chosen = [p for p in group["params"] if (p in hidden) == is_hidden]
            if chosen:
                parts.append({**group, "params": chosen, "is_hidden": is_hidden})
    return parts
