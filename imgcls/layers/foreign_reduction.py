"""Operators of foreign symbols that sum along axes: reductions, norms, products of matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from imgcls.layers.base import OpSpec
from imgcls.layers.op_function import OpFunction, read_axes


def _reduction(function: Callable[..., Tensor]) -> OpFunction:
    """Return the operator that reduces over `axis` (over all if none), or over all others with `exclude`."""

    def reduce(data: Tensor, axis: tuple[int, ...], keepdims: bool, exclude: bool) -> Tensor:
        axes = {a % data.ndim for a in axis} if axis else set(range(data.ndim))
        if exclude and axis:  # over all the axes that are not named
            axes = set(range(data.ndim)) - axes
        # With all axes excluded nothing is left to reduce over; torch would take an empty list for "all".
        result = function(data, sorted(axes), keepdims) if axes else data
        return result.reshape(1) if result.ndim == 0 else result  # MXNet has no scalars

    def read(spec: OpSpec) -> dict[str, Any]:
        return {"axis": read_axes(spec), "keepdims": spec.flag("keepdims"), "exclude": spec.flag("exclude")}

    return OpFunction(reduce, read)


def _norm(data: Tensor, axis: tuple[int, ...], keepdims: bool, ord: int) -> Tensor:
    if not axis:  # over everything: one number, which MXNet gives an axis
        return torch.linalg.vector_norm(data, ord).reshape((1,) * data.ndim if keepdims else (1,))
    return torch.linalg.vector_norm(data, ord, axis, keepdims)


def _read_norm(spec: OpSpec) -> dict[str, Any]:
    spec.choice("out_dtype", "None", ("None",))
    # 1.9.1 has no other orders either
    order = spec.choice("ord", "2", ("1", "2"))
    return {"axis": read_axes(spec), "keepdims": spec.flag("keepdims"), "ord": int(order)}


def _l2_normalize(data: Tensor, mode: str, eps: float) -> Tensor:
    # over the channels of a pixel, over a whole sample, or over the pixels of a channel
    if mode == "channel":
        axes: tuple[int, ...] = (1,)
    else:
        axes = tuple(range(1 if mode == "instance" else 2, data.ndim))
    return data / (data.square().sum(axes, keepdim=True) + eps).sqrt()


def _read_l2_normalization(spec: OpSpec) -> dict[str, Any]:
    return {"mode": spec.choice("mode", "instance", ("instance", "channel", "spatial")),
            "eps": spec.real("eps", 1e-10)}


def _batch_dot(left: Tensor, right: Tensor, transpose_a: bool, transpose_b: bool) -> Tensor:
    return torch.bmm(left.mT if transpose_a else left, right.mT if transpose_b else right)


def _read_dot(spec: OpSpec) -> dict[str, Any]:
    spec.choice("forward_stype", "None", ("None", "default"))  # sparse matrices are not supported
    return {"transpose_a": spec.flag("transpose_a"), "transpose_b": spec.flag("transpose_b")}


REDUCTION: dict[str, OpFunction] = {
    "mean": _reduction(torch.mean), "sum": _reduction(torch.sum), "max": _reduction(torch.amax),
    "min": _reduction(torch.amin), "norm": OpFunction(_norm, _read_norm),
    "L2Normalization": OpFunction(_l2_normalize, _read_l2_normalization, keeps_shape=True),
    "batch_dot": OpFunction(_batch_dot, _read_dot, num_inputs=2),
}
