"""LARS (You et al. 2017, arXiv 1708.03888), as in MXNet with its correction of the momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from imgcls.optim.rules import Rule, with_decay


class LARS(Rule):
    """SGD for large batches: each layer's rate is `eta` x |weight| / (|gradient| + decay x |weight|).

    Biases, gammas and betas have the plain rate and no decay.
    """

    # MXNet keeps -lr times this and multiplies it by the change of the rate: the same numbers
    STATE = ("momentum_buffer",)
    is_elementwise = False

    def __init__(self, params: Iterable[Any], momentum: float = 0.0, eta: float = 0.001,
                 eps: float = 0.0) -> None:
        super().__init__(params, momentum=momentum, eta=eta, eps=eps)

    def update(self, group: dict[str, Any], params: list[Tensor], gradients: list[Tensor],
               states: list[list[Tensor]], count: int) -> None:
        buffers, = states
        decay = group["weight_decay"]
        # the rate of a layer goes into its buffer, that of the schedule does not: a drop of the
        # rate then acts on the whole momentum at once
        torch._foreach_mul_(buffers, group["momentum"])
        # MXNet goes by the names; the parameters that it leaves out have one dimension
        layers = [index for index, p in enumerate(params) if p.ndim > 1]
        others = [index for index, p in enumerate(params) if p.ndim <= 1]
        if layers:
            weights = [params[index] for index in layers]
            own = [gradients[index] for index in layers]
            weight_norms = torch.stack(torch._foreach_norm(weights))
            gradient_norms = torch.stack(torch._foreach_norm(own))
            rates = group["eta"] * weight_norms / (gradient_norms + decay * weight_norms + group["eps"])
            # a layer of zeros, as a new head may begin, would have a rate of 0 for ever
            rates = torch.where((weight_norms > 0) & (gradient_norms > 0), rates, 1.0)
            change = torch._foreach_mul(with_decay(own, weights, decay), list(rates.unbind()))
            torch._foreach_add_([buffers[index] for index in layers], change)
        if others:
            torch._foreach_add_([buffers[index] for index in others], [gradients[index] for index in others])
        torch._foreach_add_(params, buffers, alpha=-group["lr"])
