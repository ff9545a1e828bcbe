"""The larger and the smaller of two values, with MXNet's gradients (src/operator/mshadow_op.h)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from imgcls.layers import OpSpec
from imgcls.layers.op_function import OpFunction


# Where both are equal the gradient is the first one's, where torch halves it.
def _extreme(is_first: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def choose(data: Tensor, other: Tensor | None = None, scalar: float = 0.0) -> Tensor:
        second = torch.full_like(data, scalar) if other is None else other
        return torch.where(is_first(data, second) | data.isnan(), data, second)

    return choose


_FUNCTIONS = {"maximum": _extreme(torch.ge), "minimum": _extreme(torch.le)}


def _read_scalar(spec: OpSpec) -> dict[str, Any]:
    spec.ignore("is_int")
    return {"scalar": spec.real("scalar", 1.0)}


#: operator -> what it computes, of two arrays of one shape or not, and of an array and a number
EXTREMES: dict[str, OpFunction] = {
    name: OpFunction(function, num_inputs=2)
    for op, function in _FUNCTIONS.items() for name in (f"_{op}", f"broadcast_{op}")
} | {f"_{op}_scalar": OpFunction(function, _read_scalar, keeps_shape=True)
     for op, function in _FUNCTIONS.items()}
