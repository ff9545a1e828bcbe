"""SGD's step on a CPU by torch's fused kernel, called directly.

torch sorts all parameters by device and type before each call of the kernel, and checks them: twice as long
as a small network's step takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def direct_step(optimizer: torch.optim.Optimizer, own_step: Callable[[], Any]) -> Callable[[], Any]:
    """Return what steps `optimizer` as `own_step` does, to the bit; call it under no_grad.

    That is `own_step` itself where there is nothing to gain: for other rules than torch's fused SGD, on other
    devices, with several number types, and with a torch that calls its kernel otherwise.
    """
    # by name: a torch without it is no error
    kernel = getattr(torch, "_fused_sgd_", None)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    is_direct = (type(optimizer) is torch.optim.SGD and optimizer.defaults["fused"]
                 and all(p.device.type == "cpu" and p.dtype == torch.float32 for p in parameters))
    if kernel is None or not is_direct:
        return own_step

    def step() -> None:
        # Asked anew each time: a checkpoint that is read replaces the state, a frozen layer has no gradient.
        calls: list[tuple[dict[str, Any], list[Tensor], list[Tensor]]] = []
        # All groups are looked through before the first is stepped: none must be stepped twice.
        for group in optimizer.param_groups:
            stepped = [p for p in group["params"] if p.grad is not None]
            states = [optimizer.state[p] for p in stepped] if group["momentum"] else []
            momenta = [momentum for state in states
                       if (momentum := state.get("momentum_buffer")) is not None]
            if len(momenta) < len(states):  # the first step of all makes the state: torch does that
                own_step()
                return
            # all of a group may be frozen
            if stepped:
                calls.append((group, stepped, momenta))
        for group, stepped, momenta in calls:
            kernel(stepped, [p.grad for p in stepped], momenta, lr=group["lr"], momentum=group["momentum"],
                   weight_decay=group["weight_decay"], dampening=group["dampening"],
                   nesterov=group["nesterov"], maximize=group["maximize"], is_first_step=False,
                   grad_scale=None, found_inf=None)

    return step
