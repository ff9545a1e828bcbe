"""Operators along an axis: running sums, diagonals, scattering, masks of sequences, moments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from imgcls.layers import OpSpec
from imgcls.layers.op_function import OpFunction, read_axes

_DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "int32", "int64", "uint8")}


# Without an axis the array is flattened.
def _cumsum(data: Tensor, axis: int | None, dtype: torch.dtype | None) -> Tensor:
    rows, along = (data.flatten(), 0) if axis is None else (data, axis)
    return rows.cumsum(along).to(data.dtype if dtype is None else dtype)


def _read_cumsum(spec: OpSpec) -> dict[str, Any]:
    return {"axis": spec.integer("axis") if spec.is_given("axis") else None,
            "dtype": _DTYPES[spec.choice("dtype", "float32", _DTYPES)] if spec.is_given("dtype") else None}


def _diag(data: Tensor, k: int, axis1: int, axis2: int) -> Tensor:
    # a vector becomes a diagonal matrix, of a matrix the diagonal is returned
    return data.diag(k) if data.ndim == 1 else data.diagonal(k, axis1, axis2)


def _read_diag(spec: OpSpec) -> dict[str, Any]:
    return {"k": spec.integer("k", 0), "axis1": spec.integer("axis1", 0), "axis2": spec.integer("axis2", 1)}


# Of two values for one index the later one counts.
def _scatter_nd(data: Tensor, indices: Tensor, shape: tuple[int, ...]) -> Tensor:
    places = tuple(indices.long())
    return torch.zeros(shape, dtype=data.dtype).index_put(places, data)


def _read_shape(spec: OpSpec) -> dict[str, Any]:
    return {"shape": spec.integers("shape")}


def _nansum(data: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    total = data.nansum(axes or list(range(data.ndim)), keepdims)
    # MXNet has no arrays without dimensions
    return total.reshape(1) if total.ndim == 0 else total


def _read_reduction(spec: OpSpec) -> dict[str, Any]:
    return {"axes": read_axes(spec), "keepdims": spec.flag("keepdims")}


def _xor(left: Tensor, right: Tensor) -> Tensor:
    return torch.logical_xor(left, right).to(left.dtype)


# Mean and variance over the same axes, the variance without Bessel's correction.
def _moments(data: Tensor, axes: tuple[int, ...], keepdims: bool) -> tuple[Tensor, Tensor]:
    over = axes or tuple(range(data.ndim))
    # with all axes kept, so that the mean can be subtracted
    mean = data.mean(over, keepdim=True)
    variance = (data - mean).square().mean(over, keepdim=True)
    return tuple(part if keepdims else part.reshape(  # type: ignore[return-value]
        [size for axis, size in enumerate(part.shape) if axis not in [a % data.ndim for a in over]] or [1])
        for part in (mean, variance))


def _read_moments(spec: OpSpec) -> dict[str, Any]:
    return {"axes": spec.integers("axes", ()) if spec.is_given("axes") else (),
            "keepdims": spec.flag("keepdims")}


# (length, batch, ...), or (batch, length, ...) with axis 1.
def _sequence_mask(data: Tensor, lengths: Tensor | None = None, *, value: float, axis: int) -> Tensor:
    if lengths is None:
        return data
    # compared with all lengths at once: a loop over the batch would take a call for each
    steps = torch.arange(data.shape[axis])
    outside = steps[:, None] >= lengths[None] if axis == 0 else steps[None] >= lengths[:, None]
    return data.masked_fill(outside.reshape(*outside.shape, *[1] * (data.ndim - 2)), value)


def _read_mask(spec: OpSpec) -> dict[str, Any]:
    spec.ignore("use_sequence_length")
    return {"value": spec.real("value", 0.0), "axis": spec.integer("axis", 0)}


def _gemm2(left: Tensor, right: Tensor, transpose_a: bool, transpose_b: bool, alpha: float) -> Tensor:
    a = left.transpose(-1, -2) if transpose_a else left
    b = right.transpose(-1, -2) if transpose_b else right
    return alpha * (a @ b)


def _read_gemm2(spec: OpSpec) -> dict[str, Any]:
    spec.ignore("axis")
    return {"transpose_a": spec.flag("transpose_a"), "transpose_b": spec.flag("transpose_b"),
            "alpha": spec.real("alpha", 1.0)}


def _arange_like(data: Tensor, start: float, step: float, axis: int | None) -> Tensor:
    count = data.numel() if axis is None else data.shape[axis]
    numbers = start + step * torch.arange(count, dtype=torch.float32)
    return numbers.reshape(data.shape) if axis is None else numbers


def _read_arange(spec: OpSpec) -> dict[str, Any]:
    spec.choice("repeat", "1", ("1",))
    return {"start": spec.real("start", 0.0), "step": spec.real("step", 1.0),
            "axis": spec.integer("axis") if spec.is_given("axis") else None}


#: operator -> what it computes
SEQUENCE: dict[str, OpFunction] = {
    "cumsum": OpFunction(_cumsum, _read_cumsum), "diag": OpFunction(_diag, _read_diag),
    "scatter_nd": OpFunction(_scatter_nd, _read_shape, num_inputs=2),
    "nansum": OpFunction(_nansum, _read_reduction),
    "broadcast_logical_xor": OpFunction(_xor, num_inputs=2),
    "broadcast_hypot": OpFunction(torch.hypot, num_inputs=2),
    "moments": OpFunction(_moments, _read_moments, has_outputs=True),
    "SequenceMask": OpFunction(_sequence_mask, _read_mask, num_inputs=None),
    "linalg_gemm2": OpFunction(_gemm2, _read_gemm2, num_inputs=2),
    "_contrib_arange_like": OpFunction(_arange_like, _read_arange),
}
