"""Operators of foreign symbols that work element by element, and the softmaxes.

MXNet's own definitions are in src/operator/tensor/ (elemwise_*, broadcast_*) and src/operator/nn/softmax*.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from imgcls.layers.base import OpSpec
from imgcls.layers.op_function import OpFunction, ignoring

#: one input, no settings; names are MXNet's
UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    # these four exist as Activation(act_type=...), too
    "relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "softsign": F.softsign,
    # elementary functions
    "exp": torch.exp, "log": torch.log, "log2": torch.log2, "log10": torch.log10, "log1p": torch.log1p,
    "expm1": torch.expm1, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt, "square": torch.square,
    "reciprocal": torch.reciprocal, "abs": torch.abs, "negative": torch.neg, "sign": torch.sign,
    # without round and rint, which differ from torch's at halves
    "floor": torch.floor, "ceil": torch.ceil, "trunc": torch.trunc, "erf": torch.erf, "sin": torch.sin,
    "cos": torch.cos, "zeros_like": torch.zeros_like, "ones_like": torch.ones_like,
    # In MXNet gradients begin at the two losses; inside a network they pass their input on.
    "BlockGrad": Tensor.detach, "make_loss": Tensor.clone, "MakeLoss": Tensor.clone,
}
#: in MXNet each exists three times: broadcast_add, elemwise_add (equal shapes), and the older _plus
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "power": torch.pow,
    "maximum": torch.maximum, "minimum": torch.minimum,
}
#: an R in the name: the scalar is on the left
SCALAR: dict[str, Callable[..., Tensor]] = {
    "_plus_scalar": lambda data, scalar: data + scalar, "_minus_scalar": lambda data, scalar: data - scalar,
    "_rminus_scalar": lambda data, scalar: scalar - data, "_div_scalar": lambda data, scalar: data / scalar,
    "_rdiv_scalar": lambda data, scalar: scalar / data, "_power_scalar": lambda data, scalar: data**scalar,
    "_rpower_scalar": lambda data, scalar: scalar**data,
    "_maximum_scalar": lambda data, scalar: data.clamp(min=scalar),
    "_minimum_scalar": lambda data, scalar: data.clamp(max=scalar),
}


def _read_scalar(spec: OpSpec) -> dict[str, Any]:
    spec.ignore("is_int")  # says how the scalar was written, not what it is
    return {"scalar": spec.real("scalar", 1.0)}


def _add_n(*data: Tensor) -> Tensor:
    # sum's own start, 0, would cost one more addition
    return sum(data[1:], start=data[0])


def _hard_sigmoid(data: Tensor, alpha: float, beta: float) -> Tensor:
    # torch's own hardsigmoid has fixed constants, which differ from MXNet's
    return (data * alpha + beta).clamp(0, 1)


def _read_hard_sigmoid(spec: OpSpec) -> dict[str, Any]:
    return {"alpha": spec.real("alpha", 0.2), "beta": spec.real("beta", 0.5)}


def _softmax(data: Tensor, axis: int, temperature: float) -> Tensor:
    return (data / temperature).softmax(axis)


def _log_softmax(data: Tensor, axis: int, temperature: float) -> Tensor:
    return (data / temperature).log_softmax(axis)


def _read_softmax(spec: OpSpec) -> dict[str, Any]:
    spec.choice("dtype", "None", ("None", "float32"))
    # a second input with the length of each row, as for padded sentences
    if spec.is_given("use_length") and spec.flag("use_length"):
        raise ValueError("use_length=True is not supported")
    temperature = spec.real("temperature") if spec.is_given("temperature") else 1.0
    return {"axis": spec.integer("axis", -1), "temperature": temperature}


def _softmax_activation(data: Tensor, mode: str) -> Tensor:
    """`channel`: over axis 1; `instance`: over the last axis, whatever MXNet's documentation says."""
    return data.softmax(1 if mode == "channel" else -1)


def _read_softmax_activation(spec: OpSpec) -> dict[str, Any]:
    return {"mode": spec.choice("mode", "instance", ("instance", "channel"))}


def _cast(data: Tensor, dtype: torch.dtype) -> Tensor:
    # Between floating types nothing is done: the precision that a network computes in is the run's to choose.
    return data if data.is_floating_point() and dtype.is_floating_point else data.to(dtype)


def _read_cast(spec: OpSpec) -> dict[str, Any]:
    names = ("float16", "float32", "float64", "bfloat16", "uint8", "int8", "int32", "int64", "bool")
    return {"dtype": getattr(torch, spec.choice("dtype", "", names))}


ELEMENTWISE: dict[str, OpFunction] = {
    **{op: OpFunction(function, keeps_shape=True) for op, function in UNARY.items()},
    **{op: OpFunction(function, _read_scalar, keeps_shape=True) for op, function in SCALAR.items()},
    **{f"broadcast_{op}": OpFunction(function, num_inputs=2) for op, function in BINARY.items()},
    **{f"elemwise_{op}": OpFunction(BINARY[op], num_inputs=2) for op in ("sub", "mul", "div")},
    **{f"_{op}": OpFunction(BINARY[op], num_inputs=2) for op in ("power", "maximum", "minimum")},
    "add_n": OpFunction(_add_n, ignoring("num_args"), num_inputs=None),  # the inputs are counted
    "hard_sigmoid": OpFunction(_hard_sigmoid, _read_hard_sigmoid, keeps_shape=True),
    "softmax": OpFunction(_softmax, _read_softmax, keeps_shape=True),
    "log_softmax": OpFunction(_log_softmax, _read_softmax, keeps_shape=True),
    "SoftmaxActivation": OpFunction(_softmax_activation, _read_softmax_activation, keeps_shape=True),
    "Cast": OpFunction(_cast, _read_cast, keeps_shape=True),
    "amp_cast": OpFunction(_cast, _read_cast, keeps_shape=True),
}
