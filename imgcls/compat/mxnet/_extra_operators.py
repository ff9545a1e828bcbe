"""Operators of `mx.sym` and `mx.nd` beside those of `imgcls.layers`: choosing, comparing, sorting, constants.

They are not in the table of `imgcls.layers` because no network that is scored or fine-tuned needs them to
compute its logits. MXNet's own definitions are in src/operator/tensor/.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from imgcls.compat.mxnet._detection_operators import DETECTION
from imgcls.compat.mxnet._extreme_operators import EXTREMES
from imgcls.compat.mxnet._sequence_operators import SEQUENCE
from imgcls.layers import Layer, OpSpec
from imgcls.layers.op_function import OpFunction


def _rint(data: Tensor) -> Tensor:
    # at halves MXNet takes the lower one
    return torch.where(data - data.floor() <= data.ceil() - data, data.floor(), data.ceil())  # mshadow_op.h


def _round(data: Tensor) -> Tensor:
    # at halves away from zero, as C does
    return data.sign() * (data.abs() + 0.5).floor()


# Elementary functions; those of torch that round otherwise are above.
_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "round": _round, "rint": _rint, "fix": torch.trunc, "tan": torch.tan, "arcsin": torch.arcsin,
    "arccos": torch.arccos, "arctan": torch.arctan, "sinh": torch.sinh, "cosh": torch.cosh,
    "arcsinh": torch.arcsinh, "arccosh": torch.arccosh, "arctanh": torch.arctanh,
    # a power of a negative number is NaN, so the sign is multiplied afterwards
    "cbrt": lambda data: data.sign() * data.abs() ** (1 / 3),
    "rcbrt": lambda data: data.sign() * data.abs() ** (-1 / 3),
    "gamma": lambda data: torch.lgamma(data).exp(), "gammaln": torch.lgamma,
    "degrees": torch.rad2deg, "radians": torch.deg2rad,
    "logical_not": lambda data: (data == 0).to(data.dtype),
}
_COMPARISON: dict[str, Callable[..., Tensor]] = {
    "equal": torch.eq, "not_equal": torch.ne, "greater": torch.gt, "greater_equal": torch.ge,
    "lesser": torch.lt, "lesser_equal": torch.le,
}


# The result has the type of the data, as MXNet has no booleans.
def _compared(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a comparison with a second array or with `scalar`, of 0 and 1 in the type of the data."""
    def compare(data: Tensor, other: Tensor | None = None, scalar: float = 0.0) -> Tensor:
        return function(data, scalar if other is None else other).to(data.dtype)

    return compare


# The sign is that of the divisor, and nothing is divided by 0.
def _mod(data: Tensor, other: Tensor | None = None, scalar: float = 0.0) -> Tensor:
    divisor = torch.full_like(data, scalar) if other is None else other
    # MXNet's rule: anything modulo 0 is 0, where torch.remainder gives NaN, and raises for whole numbers
    zero = divisor == 0
    return torch.where(zero, torch.zeros_like(data), torch.remainder(data, divisor.masked_fill(zero, 1)))


def _rmod(data: Tensor, scalar: float) -> Tensor:
    return _mod(torch.full_like(data, scalar), data)


def _logical(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda left, right: function(left, right).to(left.dtype)


def _read_scalar(spec: OpSpec) -> dict[str, Any]:
    spec.ignore("is_int")
    return {"scalar": spec.real("scalar", 1.0)}


# `axis=None` is not the same as no axis: it means all of them.
def _optional_axis(spec: OpSpec, default: int | None) -> int | None:
    if "axis" not in spec.attrs:
        spec.ignore("axis")
        return default
    return spec.integer("axis") if spec.is_given("axis") else None


def _choice_of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return argmax or argmin, whose result is float in MXNet, over everything where there is no axis."""
    def choose(data: Tensor, axis: int | None, keepdims: bool) -> Tensor:
        if axis is None:
            shape = (1,) * (data.ndim if keepdims else 1)
            return function(data.flatten(), 0).reshape(shape).float()
        return function(data, axis, keepdims).float()

    return choose


def _read_choice(spec: OpSpec) -> dict[str, Any]:
    return {"axis": _optional_axis(spec, None), "keepdims": spec.flag("keepdims")}


# Positions are float32 in MXNet, as all arrays are.
def _argmax_channel(data: Tensor) -> Tensor:
    return data.argmax(1).float()


# Without an axis the array is flattened.
def _ordered(data: Tensor, axis: int | None, is_ascend: bool) -> tuple[Tensor, Tensor, int]:
    # stable: of equal values the first comes first
    flat = data.flatten() if axis is None else data
    values, indices = flat.sort(dim=0 if axis is None else axis, descending=not is_ascend, stable=True)
    return values, indices, 0 if axis is None else axis


def _sort(data: Tensor, axis: int | None, is_ascend: bool) -> Tensor:
    return _ordered(data, axis, is_ascend)[0]


def _argsort(data: Tensor, axis: int | None, is_ascend: bool, dtype: torch.dtype) -> Tensor:
    return _ordered(data, axis, is_ascend)[1].to(dtype)


# The whole axis is sorted: for the few thousand scores of a classifier that costs little.
def _topk(data: Tensor, axis: int | None, k: int, ret_typ: str, is_ascend: bool,
          dtype: torch.dtype) -> Tensor | tuple[Tensor, ...]:
    values, indices, along = _ordered(data, axis, is_ascend)
    count = min(k, values.shape[along]) if k > 0 else values.shape[along]  # k < 1 asks for all of them
    values, indices = values.narrow(along, 0, count), indices.narrow(along, 0, count)
    if ret_typ == "mask":
        mask = torch.zeros_like(data.flatten() if axis is None else data)
        return mask.scatter(along, indices, 1.0).reshape(data.shape)
    if ret_typ == "value":
        return values
    return (values, indices.to(dtype)) if ret_typ == "both" else indices.to(dtype)


_DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "float16", "uint8", "int32", "int64",
                                                   "int8")}


# The dtype of indices, float32 by default.
def _read_dtype(spec: OpSpec) -> torch.dtype:
    return _DTYPES[spec.choice("dtype", "float32", _DTYPES)]


def _read_sort(spec: OpSpec) -> dict[str, Any]:
    return {"axis": _optional_axis(spec, -1), "is_ascend": spec.flag("is_ascend", True)}


def _read_argsort(spec: OpSpec) -> dict[str, Any]:
    return {**_read_sort(spec), "dtype": _read_dtype(spec)}


def _read_topk(spec: OpSpec) -> dict[str, Any]:
    return {"axis": _optional_axis(spec, -1), "k": spec.integer("k", 1),
            "ret_typ": spec.choice("ret_typ", "indices", ("value", "indices", "mask", "both")),
            "is_ascend": spec.flag("is_ascend"), "dtype": _read_dtype(spec)}


# Indices are float32 in MXNet's arrays, so they are truncated to whole numbers first.
def clipped(index: Tensor, size: int, mode: str) -> Tensor:
    """Return int64 indices from 0 to size - 1: others wrap around (`mode` "wrap") or become 0 or size - 1."""
    index = index.long()
    return index % size if mode == "wrap" else index.clamp(0, size - 1)


# One value a row, at the row's index, which is brought into the range first.
def _pick(data: Tensor, index: Tensor, axis: int | None, keepdims: bool, mode: str) -> Tensor:
    along = -1 if axis is None else axis
    shape = list(data.shape)
    shape[along] = 1
    # MXNet clips; gather would raise beyond the row, and on a GPU leave the context unusable
    chosen = data.gather(along, clipped(index.reshape(shape), data.shape[along], mode))
    return chosen if keepdims else chosen.squeeze(along)


def _read_pick(spec: OpSpec) -> dict[str, Any]:
    return {"axis": _optional_axis(spec, -1), "keepdims": spec.flag("keepdims"),
            "mode": spec.choice("mode", "clip", ("clip", "wrap"))}


# Compared, not scattered: an index that is no class gives a row of `off_value`.
def _one_hot(indices: Tensor, depth: int, on: float, off: float, dtype: torch.dtype) -> Tensor:
    hot = indices.long().unsqueeze(-1) == torch.arange(depth, device=indices.device)
    return torch.where(hot, on, off).to(dtype)


def _read_one_hot(spec: OpSpec) -> dict[str, Any]:
    return {"depth": spec.integer("depth"), "on": spec.real("on_value", 1.0),
            "off": spec.real("off_value", 0.0), "dtype": _read_dtype(spec)}


# The indices keep their own shape, in place of the axis.
def _take(data: Tensor, indices: Tensor, axis: int, mode: str) -> Tensor:
    along = axis % data.ndim
    chosen = data.index_select(along, clipped(indices, data.shape[along], mode).flatten())
    return chosen.reshape(*data.shape[:along], *indices.shape, *data.shape[along + 1:])


def _read_take(spec: OpSpec) -> dict[str, Any]:
    return {"axis": spec.integer("axis", 0), "mode": spec.choice("mode", "clip", ("clip", "wrap"))}


def _batch_take(data: Tensor, indices: Tensor) -> Tensor:
    return data.gather(1, clipped(indices.reshape(-1, 1), data.shape[1], "clip")).reshape(indices.shape)


def _gather_nd(data: Tensor, indices: Tensor) -> Tensor:
    return data[tuple(indices.long())]  # the first axis of `indices` counts the axes of `data`


# Not torch.matmul, which works on stacks of matrices where there are more axes.
def _dot(left: Tensor, right: Tensor, transpose_a: bool, transpose_b: bool) -> Tensor:
    if left.ndim == 1 and right.ndim == 1:
        return left.dot(right).reshape(1)  # MXNet has no arrays without dimensions
    # the last axis of `left` with the first axis of `right`; the other axes stay
    a = left.permute(*range(1, left.ndim), 0) if transpose_a else left
    b = right.permute(right.ndim - 1, *range(right.ndim - 1)) if transpose_b else right
    return torch.tensordot(a, b, 1)


def _read_dot(spec: OpSpec) -> dict[str, Any]:
    spec.choice("forward_stype", "None", ("None", "default"))
    return {"transpose_a": spec.flag("transpose_a"), "transpose_b": spec.flag("transpose_b")}


# A condition is true where it is not 0, for any dtype.
def _where(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    # a condition for each row
    chosen = condition if condition.ndim == x.ndim else condition.reshape(-1, *[1] * (x.ndim - 1))
    return torch.where(chosen != 0, x, y)


# torch multiplies along one axis at a time.
def _prod(data: Tensor, axis: tuple[int, ...], keepdims: bool) -> Tensor:
    for along in sorted((a % data.ndim for a in axis or range(data.ndim)), reverse=True):
        data = data.prod(along, keepdims)  # from the last axis on, so that the others keep their numbers
    return data.reshape(1) if data.ndim == 0 else data


def _read_prod(spec: OpSpec) -> dict[str, Any]:
    axes = spec.integers("axis", ()) if spec.is_given("axis") else ()
    return {"axis": axes, "keepdims": spec.flag("keepdims")}


def _softmin(data: Tensor, axis: int) -> Tensor:
    return (-data).softmax(axis)


def _read_softmin(spec: OpSpec) -> dict[str, Any]:
    return {"axis": spec.integer("axis", -1)}


# The parabola ends at 1 / scalar^2.
def _smooth_l1(data: Tensor, scalar: float) -> Tensor:
    square = scalar**2
    return torch.where(data.abs() < 1 / square, 0.5 * square * data.square(), data.abs() - 0.5 / square)


def _softmax_cross_entropy(data: Tensor, label: Tensor) -> Tensor:
    return -data.log_softmax(1).gather(1, label.long().reshape(-1, 1)).sum().reshape(1)


# With a second input the size is that of its map.
def _crop(data: Tensor, like: Tensor | None = None, *, offset: tuple[int, ...], size: tuple[int, ...],
          center: bool) -> Tensor:
    height, width = size if like is None else like.shape[2:]
    top, left = offset
    if center:
        top, left = (data.shape[2] - height) // 2, (data.shape[3] - width) // 2
    if top + height > data.shape[2] or left + width > data.shape[3]:
        raise ValueError(f"a crop of {height} x {width} does not fit into {tuple(data.shape[2:])}")
    return data[:, :, top:top + height, left:left + width]


def _read_crop(spec: OpSpec) -> dict[str, Any]:
    spec.ignore("num_args")
    return {"offset": spec.integers("offset", (0, 0)), "size": spec.integers("h_w", (0, 0)),
            "center": spec.flag("center_crop")}


def _repeat(data: Tensor, repeats: int, axis: int | None) -> Tensor:
    return data.repeat_interleave(repeats, axis)


def _read_repeat(spec: OpSpec) -> dict[str, Any]:
    return {"repeats": spec.integer("repeats"), "axis": _optional_axis(spec, None)}


def _reshape_like(data: Tensor, like: Tensor) -> Tensor:
    return data.reshape(like.shape)


def _shape_array(data: Tensor) -> Tensor:
    return torch.tensor(data.shape)


def _size_array(data: Tensor) -> Tensor:
    return torch.tensor([data.numel()])


# Either `indices` are given, where the parts begin, or `sections`, the number of equal parts.
def _split(data: Tensor, indices: tuple[int, ...], axis: int, squeeze: bool,
           sections: int) -> tuple[Tensor, ...]:
    # The indices are where each part begins, the first one included.
    parts = (data.tensor_split(sections, axis) if sections
             else data.tensor_split(list(indices[1:] if indices[:1] == (0,) else indices), axis))
    return tuple(part.squeeze(axis) for part in parts) if squeeze else parts


def _read_split(spec: OpSpec) -> dict[str, Any]:
    return {"indices": spec.integers("indices", ()), "axis": spec.integer("axis", 1),
            "squeeze": spec.flag("squeeze_axis"), "sections": spec.integer("sections", 0)}


#: values of a result whose size an operator's attributes say, at most: they may come from any file
MAX_VALUES = 1 << 31


def _filled(shape: tuple[int, ...], dtype: torch.dtype, value: float) -> Tensor:
    if math.prod(shape) > MAX_VALUES:  # of the product: each size alone may look harmless
        raise ValueError(f"shape={shape} is too large")
    return torch.full(shape, value, dtype=dtype)


def _read_filled(value: float | None) -> Callable[[OpSpec], dict[str, Any]]:
    def read(spec: OpSpec) -> dict[str, Any]:
        spec.ignore("ctx")
        return {"shape": spec.integers("shape"), "dtype": _read_dtype(spec),
                "value": spec.real("value") if value is None else value}

    return read


# The comparisons exist three times, as in MXNet: for equal shapes, for others, and with a number.
#: operator -> what it computes
EXTRA: dict[str, OpFunction] = {
    **DETECTION, **SEQUENCE,
    **EXTREMES,
    **{op: OpFunction(function, keeps_shape=True) for op, function in _UNARY.items()},
    **{f"_{op}": OpFunction(_compared(function), num_inputs=2) for op, function in _COMPARISON.items()},
    **{f"broadcast_{op}": OpFunction(_compared(function), num_inputs=2)
       for op, function in _COMPARISON.items()},
    **{f"_{op}_scalar": OpFunction(_compared(function), _read_scalar, keeps_shape=True)
       for op, function in _COMPARISON.items()},
    "_mod": OpFunction(_mod, num_inputs=2), "broadcast_mod": OpFunction(_mod, num_inputs=2),
    "_mod_scalar": OpFunction(_mod, _read_scalar, keeps_shape=True),
    "_rmod_scalar": OpFunction(_rmod, _read_scalar, keeps_shape=True),
    "broadcast_logical_and": OpFunction(_logical(torch.logical_and), num_inputs=2),
    "broadcast_logical_or": OpFunction(_logical(torch.logical_or), num_inputs=2),
    "argmax": OpFunction(_choice_of(torch.argmax), _read_choice),
    "argmin": OpFunction(_choice_of(torch.argmin), _read_choice),
    "argmax_channel": OpFunction(_argmax_channel),
    "sort": OpFunction(_sort, _read_sort), "argsort": OpFunction(_argsort, _read_argsort),
    "topk": OpFunction(_topk, _read_topk),
    "pick": OpFunction(_pick, _read_pick, num_inputs=2), "one_hot": OpFunction(_one_hot, _read_one_hot),
    "take": OpFunction(_take, _read_take, num_inputs=2), "batch_take": OpFunction(_batch_take, num_inputs=2),
    "gather_nd": OpFunction(_gather_nd, num_inputs=2), "dot": OpFunction(_dot, _read_dot, num_inputs=2),
    "where": OpFunction(_where, num_inputs=3), "prod": OpFunction(_prod, _read_prod),
    "softmin": OpFunction(_softmin, _read_softmin, keeps_shape=True),
    "smooth_l1": OpFunction(_smooth_l1, _read_scalar, keeps_shape=True),
    "softmax_cross_entropy": OpFunction(_softmax_cross_entropy, num_inputs=2),
    "Crop": OpFunction(_crop, _read_crop, num_inputs=None),
    "repeat": OpFunction(_repeat, _read_repeat), "reshape_like": OpFunction(_reshape_like, num_inputs=2),
    "shape_array": OpFunction(_shape_array), "size_array": OpFunction(_size_array),
    "_split_v2": OpFunction(_split, _read_split, has_outputs=True),
    "_zeros": OpFunction(_filled, _read_filled(0.0), num_inputs=0),
    "_ones": OpFunction(_filled, _read_filled(1.0), num_inputs=0),
    "_full": OpFunction(_filled, _read_filled(None), num_inputs=0),
}


class ExtraOperation(Layer):
    """One of the operators above as a layer: a function of its inputs and of settings."""

    def __init__(self, spec: OpSpec) -> None:
        super().__init__()
        row = EXTRA[spec.op]
        self.op = spec.op
        self.num_inputs = row.num_inputs
        self.keeps_shape = row.keeps_shape
        self.function = row.function
        self.settings = row.read(spec)  # read once: wrong attributes are an error here, not in a batch

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        return cls(spec)

    def forward(self, *data: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.function(*data, **self.settings)
