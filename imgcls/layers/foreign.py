"""MXNet's operators that our own networks do not use, as torch modules: a foreign symbol.json may be made of them.

Those with parameters are classes like the ones of `layers.py`; those without are rows of `OPERATIONS`, a function and
how its settings are read, and become an `Operation`. `OPERATORS` is the whole table, the layers of our networks
included: `graph.py`, which reads symbols, looks an operator up in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgcls.formats.symbol import Node
from imgcls.layers import (
    LRN,
    Activation,
    BatchNorm,
    Clip,
    Concat,
    Convolution,
    Dropout,
    ElementwiseAdd,
    Flatten,
    FullyConnected,
    Identity,
    Layer,
    MulScalar,
    OpSpec,
    Pooling,
    Shape,
    Size,
    SpatialTransformer,
    attribute_text,
    equal_shapes,
    pair,
)


class Deconvolution(Layer):
    """Transposed convolution, float (N, C, H, W) -> (N, num_filter, H', W'); weight (C, num_filter / groups, kh, kw).

    No bias by default, unlike Convolution. `target_shape` in place of `pad` and `adj` says the size that is
    wanted.
    """

    op = "Deconvolution"
    PARAMETER_NAMES: ClassVar[dict[str, str]] = {"weight": "weight", "bias": "bias"}

    def __init__(self, in_channels: int, num_filter: int, kernel: Size, *, stride: Size | None = None,
                 pad: Size | None = None, adj: Size | None = None, target_shape: Size | None = None,
                 num_group: int | None = None, no_bias: bool | None = None, dilate: Size | None = None,
                 extra: dict[str, str] | None = None) -> None:
        pairs = {name: None if size is None else pair(size) for name, size in (
            ("stride", stride), ("pad", pad), ("adj", adj), ("target_shape", target_shape),
            ("dilate", dilate))}
        super().__init__(attribute_text(kernel=pair(kernel), num_filter=num_filter, num_group=num_group,
                                        no_bias=no_bias, **pairs) | (extra or {}))
        self.kernel, self.stride = pair(kernel), pairs["stride"] or (1, 1)
        self.dilate, self.groups = pairs["dilate"] or (1, 1), num_group or 1
        self.pad, self.adj = pairs["pad"] or (0, 0), pairs["adj"] or (0, 0)
        self.target_shape = pairs["target_shape"]
        self.weight = nn.Parameter(torch.empty(in_channels, num_filter // self.groups, *pair(kernel)))
        self.bias = nn.Parameter(torch.zeros(num_filter)) if no_bias is False else None

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        spec.ignore("workspace", "cudnn_tune", "cudnn_off")
        spec.choice("layout", "None", ("None", "NCHW"))
        channels, num_filter = spec.size(1, "weight"), spec.integer("num_filter")
        target = spec.pair("target_shape", 0)
        return cls(channels, num_filter, spec.pair("kernel", 1), stride=spec.pair("stride", 1),
                   pad=spec.pair("pad", 0), adj=spec.pair("adj", 0), dilate=spec.pair("dilate", 1),
                   target_shape=target if any(target) else None, num_group=spec.groups(channels, num_filter),
                   no_bias=spec.flag("no_bias", True))

    def forward(self, data: Tensor) -> Tensor:
        pad, adj = list(self.pad), list(self.adj)
        for axis, target in enumerate(self.target_shape or ()):
            full = (self.stride[axis] * (data.shape[2 + axis] - 1)
                    + self.dilate[axis] * (self.kernel[axis] - 1) + 1)
            pad[axis], adj[axis] = (full - target + 1) // 2, (full - target) % 2
        return F.conv_transpose2d(data, self.weight, self.bias, self.stride, pad, adj, self.groups,
                                  self.dilate)


class BatchNormReLU(BatchNorm):
    """BatchNorm and a relu in one operator."""

    op = "_contrib_BatchNormWithReLU"

    def forward(self, data: Tensor) -> Tensor:
        return super().forward(data).relu()


class LeakyReLU(Layer):
    """leaky, elu, selu, gelu, rrelu, or prelu with one learned slope a channel (or one in all)."""

    op = "LeakyReLU"
    keeps_shape = True
    PARAMETER_NAMES: ClassVar[dict[str, str]] = {"gamma": "gamma"}

    def __init__(self, act_type: str | None = None, *, slope: float | None = None,
                 channels: int | None = None, lower_bound: float | None = None,
                 upper_bound: float | None = None, extra: dict[str, str] | None = None) -> None:
        super().__init__(attribute_text(act_type=act_type, slope=slope, lower_bound=lower_bound,
                                        upper_bound=upper_bound) | (extra or {}))
        self.act_type, self.slope = act_type or "leaky", 0.25 if slope is None else slope
        self.bounds = (0.125 if lower_bound is None else lower_bound,
                       0.334 if upper_bound is None else upper_bound)
        self.gamma = nn.Parameter(torch.full((channels or 1,), 0.25)) if self.act_type == "prelu" else None

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        kind = spec.choice("act_type", "leaky", ("leaky", "elu", "selu", "gelu", "rrelu", "prelu"))
        channels = None
        if kind == "prelu":
            channels = 1 if spec.stored.get("gamma") == (1,) else spec.size(1, "gamma")
        return cls(kind, slope=spec.real("slope", 0.25), channels=channels,
                   lower_bound=spec.real("lower_bound", 0.125), upper_bound=spec.real("upper_bound", 0.334))

    def forward(self, data: Tensor) -> Tensor:
        if self.gamma is not None:
            return F.prelu(data, self.gamma)
        if self.act_type == "elu":
            return F.elu(data, self.slope)
        if self.act_type == "rrelu":
            return F.rrelu(data, *self.bounds, training=self.training)
        if self.act_type == "leaky":
            return F.leaky_relu(data, self.slope)
        return F.selu(data) if self.act_type == "selu" else F.gelu(data)


class _Normalisation(Layer):
    """Normalises over some axes, then scales and shifts; subclasses say over which."""

    keeps_shape = True
    PARAMETER_NAMES: ClassVar[dict[str, str]] = {"gamma": "gamma", "beta": "beta"}

    def __init__(self, channels: int, eps: float, settings: dict[str, object],
                 extra: dict[str, str] | None) -> None:
        super().__init__(attribute_text(**settings) | (extra or {}))
        self.eps = eps
        self.gamma, self.beta = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))


class InstanceNorm(_Normalisation):
    """Normalises every channel of every sample, float (N, C, ...)."""

    op = "InstanceNorm"

    def __init__(self, channels: int, *, eps: float | None = None,
                 extra: dict[str, str] | None = None) -> None:
        super().__init__(channels, 1e-3 if eps is None else eps, {"eps": eps}, extra)

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        return cls(spec.size(1, "gamma"), eps=spec.real("eps", 1e-3))

    def forward(self, data: Tensor) -> Tensor:
        return F.group_norm(data, data.shape[1], self.gamma, self.beta, self.eps)


class LayerNorm(_Normalisation):
    """Normalises along one axis, the last if none is given."""

    op = "LayerNorm"

    def __init__(self, channels: int, *, axis: int | None = None, eps: float | None = None,
                 extra: dict[str, str] | None = None) -> None:
        super().__init__(channels, 1e-5 if eps is None else eps, {"axis": axis, "eps": eps}, extra)
        self.axis = -1 if axis is None else axis

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        _single_output(spec)
        axis = spec.integer("axis", -1)
        return cls(spec.size(axis, "gamma", 0), axis=axis, eps=spec.real("eps", 1e-5))

    def forward(self, data: Tensor) -> Tensor:
        moved = data.movedim(self.axis, -1)
        return F.layer_norm(moved, moved.shape[-1:], self.gamma, self.beta, self.eps).movedim(-1, self.axis)


class GroupNorm(_Normalisation):
    """Normalises groups of channels of every sample, float (N, C, ...); scale and shift are one for a group."""

    op = "GroupNorm"

    def __init__(self, num_groups: int = 1, *, eps: float | None = None,
                 extra: dict[str, str] | None = None) -> None:
        settings: dict[str, object] = {"num_groups": num_groups, "eps": eps}
        super().__init__(num_groups, 1e-5 if eps is None else eps, settings, extra)
        self.num_groups = num_groups

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        _single_output(spec)
        return cls(spec.integer("num_groups", 1), eps=spec.real("eps", 1e-5))

    def forward(self, data: Tensor) -> Tensor:
        size = data.shape[1] // self.num_groups
        gamma, beta = self.gamma.repeat_interleave(size), self.beta.repeat_interleave(size)
        return F.group_norm(data, self.num_groups, gamma, beta, self.eps)


def _single_output(spec: OpSpec) -> None:
    if spec.flag("output_mean_var"):
        raise ValueError("output_mean_var=True is not supported")


class UpSampling(Layer):
    """Enlarges by a whole factor: `nearest` repeats pixels (and joins several inputs at the size of the
    first), `bilinear` is a transposed convolution, one weight (1, kernel, kernel) a channel."""

    op = "UpSampling"
    num_inputs = None
    PARAMETER_NAMES: ClassVar[dict[str, str]] = {"weight": "weight"}

    def __init__(self, scale: int, sample_type: str, *, num_args: int = 1, num_filter: int | None = None,
                 multi_input_mode: str | None = None, extra: dict[str, str] | None = None) -> None:
        super().__init__(attribute_text(scale=scale, sample_type=sample_type, num_args=num_args, num_filter=num_filter,
                                        multi_input_mode=multi_input_mode) | (extra or {}))
        self.scale, self.sums, self.num_filter = scale, multi_input_mode == "sum", num_filter or 0
        kernel = 2 * scale - scale % 2
        bilinear = sample_type == "bilinear"
        self.weight = nn.Parameter(torch.empty(self.num_filter, 1, kernel, kernel)) if bilinear else None

    @classmethod
    def num_data(cls, spec: OpSpec) -> int:
        return 1 if spec.text("sample_type", "") == "bilinear" else spec.num_inputs

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        spec.ignore("workspace")
        kind = spec.choice("sample_type", "", ("nearest", "bilinear"))
        mode = spec.choice("multi_input_mode", "concat", ("concat", "sum"))
        return cls(spec.integer("scale"), kind, num_args=spec.integer("num_args", 1), multi_input_mode=mode,
                   num_filter=spec.integer("num_filter", 0))

    def forward(self, *data: Tensor) -> Tensor:
        if self.weight is not None:
            pad = self.scale // 2
            return F.conv_transpose2d(data[0], self.weight, None, self.scale, pad, groups=self.num_filter)
        height = data[0].shape[2] * self.scale
        factors = [height // tensor.shape[2] for tensor in data]
        large = [tensor.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
                 for factor, tensor in zip(factors, data, strict=True)]
        if len(large) == 1:
            return large[0]
        return torch.stack(large).sum(0) if self.sums else torch.cat(large, 1)


class Operation(Layer):
    """An operator without parameters: a function of its inputs and of settings, as `OPERATIONS` has it.

    `Operation("slice_axis", axis=1, begin=0, end=3)` is a node with these attributes.
    """

    def __init__(self, op: str, extra: dict[str, str] | None = None, /, **settings: object) -> None:
        super().__init__({name: str(value) for name, value in settings.items()} | (extra or {}))
        kind = OPERATIONS[op]
        self.op, self.num_inputs, self.keeps_shape = op, kind.num_inputs, kind.keeps_shape
        self.has_outputs = kind.has_outputs
        spec = OpSpec(Node(op, op, self.attrs), None, {})
        self.settings = kind.read(spec)

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        OPERATIONS[spec.op].read(spec)  # so that the spec knows which attributes there are
        return cls(spec.op, spec.given)

    def infer(self, *data: Tensor) -> Tensor | tuple[Tensor, ...]:
        if self.op.startswith("elemwise_") or self.op == "add_n":
            return equal_shapes(*data)
        return super().infer(*data)

    def forward(self, *data: Tensor) -> Tensor | tuple[Tensor, ...]:
        return OPERATIONS[self.op].function(*data, **self.settings)


class Variable(Layer):
    """A parameter that is an operator's input like any other: no input -> the values."""

    op = "null"
    PARAMETER_NAMES: ClassVar[dict[str, str]] = {"value": ""}
    num_inputs = 0

    def __init__(self, shape: Shape, auxiliary: bool = False, extra: dict[str, str] | None = None) -> None:
        super().__init__(extra)
        if auxiliary:
            self.AUXILIARY = frozenset({"value"})
            self.register_buffer("value", torch.zeros(shape))
        else:
            self.value = nn.Parameter(torch.zeros(shape))

    def forward(self) -> Tensor:
        return self.value


@dataclass(frozen=True)
class Kind:
    """What an `Operation` computes: `function(*inputs, **read(spec))`."""

    function: Callable[..., Any]
    read: Callable[[OpSpec], dict[str, Any]] = lambda spec: {}
    num_inputs: int | None = 1
    keeps_shape: bool = False
    has_outputs: bool = False


def _scalar(spec: OpSpec) -> dict[str, Any]:
    spec.ignore("is_int")
    return {"scalar": spec.real("scalar", 1.0)}


def _many(spec: OpSpec) -> dict[str, Any]:
    spec.ignore("num_args")  # the inputs are counted
    return {}


def _axes(spec: OpSpec) -> tuple[int, ...]:
    """`axis`, one or several; empty: not given."""
    return spec.integers("axis", ()) if spec.is_given("axis") else ()


def _integers(*names: str) -> Callable[[OpSpec], dict[str, Any]]:
    """Reads lists of integers, empty ones where nothing is given."""
    return lambda spec: {name: spec.integers(name, ()) for name in names}


def _reduction(function: Callable[..., Tensor]) -> Kind:
    """mean, sum, max and so on: over `axis` (all if none), or over all others with `exclude`."""

    def reduce(data: Tensor, axis: tuple[int, ...], keepdims: bool, exclude: bool, **settings: Any) -> Tensor:
        axes = {a % data.ndim for a in axis} if axis else set(range(data.ndim))
        if exclude and axis:
            axes = set(range(data.ndim)) - axes
        result = function(data, sorted(axes), keepdims, **settings) if axes else data
        return result.reshape(1) if result.ndim == 0 else result  # MXNet has no scalars

    def read(spec: OpSpec) -> dict[str, Any]:
        return {"axis": _axes(spec), "keepdims": spec.flag("keepdims"), "exclude": spec.flag("exclude")}

    return Kind(reduce, read)


def _norm(data: Tensor, axis: tuple[int, ...], keepdims: bool, ord: int) -> Tensor:
    if not axis:
        return torch.linalg.vector_norm(data, ord).reshape((1,) * data.ndim if keepdims else (1,))
    return torch.linalg.vector_norm(data, ord, axis, keepdims)


def _read_norm(spec: OpSpec) -> dict[str, Any]:
    spec.choice("out_dtype", "None", ("None",))
    order = spec.choice("ord", "2", ("1", "2"))
    return {"axis": _axes(spec), "keepdims": spec.flag("keepdims"), "ord": int(order)}


def _read_softmax(spec: OpSpec) -> dict[str, Any]:
    spec.choice("dtype", "None", ("None", "float32"))
    if spec.is_given("use_length") and spec.flag("use_length"):
        raise ValueError("use_length=True is not supported")
    temperature = spec.real("temperature") if spec.is_given("temperature") else 1.0
    return {"axis": spec.integer("axis", -1), "temperature": temperature}


def _softmax(data: Tensor, axis: int, temperature: float) -> Tensor:
    return (data / temperature).softmax(axis)


def _log_softmax(data: Tensor, axis: int, temperature: float) -> Tensor:
    return (data / temperature).log_softmax(axis)


def _softmax_activation(data: Tensor, mode: str) -> Tensor:
    """`channel`: over axis 1; `instance`: over the last axis, whatever MXNet's documentation says."""
    return data.softmax(1 if mode == "channel" else -1)


def reshaped(shape: Sequence[int], codes: Sequence[int], reverse: bool = False) -> list[int]:
    """The shape that MXNet's Reshape gives, with at most one -1 left in it.

    0 keeps a size, -1 is worked out, -2 keeps all that remain, -3 joins two, -4 splits one into the next two
    codes. With `reverse` sizes and codes are matched from the right.
    """
    sizes, codes = (list(shape)[::-1], list(codes)[::-1]) if reverse else (list(shape), list(codes))
    result: list[int] = []
    at = position = 0
    while position < len(codes):
        code = codes[position]
        if code == -2:
            result += sizes[at:]
            at = len(sizes)
        elif code == -3:
            result.append(sizes[at] * sizes[at + 1])
            at += 2
        elif code == -4:
            left, right = codes[position + 1:position + 3]
            whole = sizes[at]
            result += [whole // right if left == -1 else left, whole // left if right == -1 else right]
            at, position = at + 1, position + 2
        else:
            result.append(sizes[at] if code == 0 else code)
            at += 1
        position += 1
    return result[::-1] if reverse else result


def _reshape(data: Tensor, shape: tuple[int, ...], reverse: bool, target: tuple[int, ...],
             highest: bool) -> Tensor:
    if shape:
        return data.reshape(reshaped(data.shape, shape, reverse))
    sizes = [-1 if size == 0 else size for size in target]  # the form of 0.7, where 0 meant "what is left"
    return data.reshape([data.shape[0], *sizes[1:]] if highest else sizes)


def _read_reshape(spec: OpSpec) -> dict[str, Any]:
    settings = {"shape": spec.integers("shape", ()), "reverse": spec.flag("reverse"),
                "target": spec.integers("target_shape", ()), "highest": spec.flag("keep_highest")}
    if not settings["shape"] and not settings["target"]:
        raise ValueError("shape is missing")
    if sum(size == -1 for size in settings["shape"]) > 2 or any(size < -4 for size in settings["shape"]):
        raise ValueError(f"shape={settings['shape']} is not possible")
    return settings


def _transpose(data: Tensor, axes: tuple[int, ...]) -> Tensor:
    return data.permute(axes or tuple(reversed(range(data.ndim))))


def _slice_axis(data: Tensor, axis: int, begin: int, end: int | None) -> Tensor:
    return data[(slice(None),) * (axis % data.ndim) + (slice(begin, end),)]


def _read_slice_axis(spec: OpSpec) -> dict[str, Any]:
    end = spec.integer("end") if spec.is_given("end") else None
    return {"axis": spec.integer("axis"), "begin": spec.integer("begin"), "end": end}


def _slice(data: Tensor, begin: Sequence[int | None], end: Sequence[int | None],
           step: Sequence[int | None]) -> Tensor:
    steps = [*step, *([None] * (len(begin) - len(step)))]
    return data[tuple(slice(*bounds) for bounds in zip(begin, end, steps, strict=True))]


def _slice_like(data: Tensor, like: Tensor, axes: tuple[int, ...]) -> Tensor:
    for axis in axes or range(data.ndim):
        data = data.narrow(axis, 0, like.shape[axis])
    return data


def _split(data: Tensor, num_outputs: int, axis: int, squeeze: bool) -> tuple[Tensor, ...]:
    if data.shape[axis] % num_outputs:
        raise ValueError(f"axis {axis} of {tuple(data.shape)} does not divide into {num_outputs} outputs")
    parts = data.split(data.shape[axis] // num_outputs, axis)
    return tuple(part.squeeze(axis) for part in parts) if squeeze else tuple(parts)


def _squeeze(data: Tensor, axis: tuple[int, ...]) -> Tensor:
    return data.squeeze(axis) if axis else data.squeeze()


def _pad(data: Tensor, mode: str, pad_width: tuple[int, ...], value: float) -> Tensor:
    """MXNet lists before and after from the first axis on, torch from the last."""
    axes = reversed(range(len(pad_width) // 2))
    widths = [width for axis in axes for width in pad_width[2 * axis:2 * axis + 2]]
    if mode == "constant":
        return F.pad(data, widths, value=value)
    return F.pad(data, widths[:2 * (data.ndim - 2)], "replicate" if mode == "edge" else "reflect")


def _read_pad(spec: OpSpec) -> dict[str, Any]:
    settings = {"mode": spec.choice("mode", "", ("constant", "edge", "reflect")),
                "pad_width": spec.integers("pad_width"), "value": spec.real("constant_value", 0.0)}
    if len(settings["pad_width"]) % 2 or min(settings["pad_width"], default=-1) < 0:
        raise ValueError(f"pad_width={settings['pad_width']} is not a pair for every axis")
    if settings["mode"] != "constant" and any(settings["pad_width"][:4]):
        raise ValueError("only height and width can be padded with edge or reflect")
    return settings


def _l2_normalise(data: Tensor, mode: str, eps: float) -> Tensor:
    axes = (1,) if mode == "channel" else tuple(range(1 if mode == "instance" else 2, data.ndim))
    return data / (data.square().sum(axes, keepdim=True) + eps).sqrt()


def _cast(data: Tensor, dtype: torch.dtype) -> Tensor:
    """Between floating types nothing is done: the precision that a network computes in is the run's to choose."""
    return data if data.is_floating_point() and dtype.is_floating_point else data.to(dtype)


def _read_cast(spec: OpSpec) -> dict[str, Any]:
    names = ("float16", "float32", "float64", "bfloat16", "uint8", "int8", "int32", "int64", "bool")
    return {"dtype": getattr(torch, spec.choice("dtype", "", names))}


def _grid(data: Tensor, kind: str, target: tuple[int, int]) -> Tensor:
    """Sampling positions (N, 2, H, W), x then y in [-1, 1], of an affine map (N, 6) or a flow in pixels."""
    if kind == "affine":
        size = [data.shape[0], 1, *target]
        return F.affine_grid(data.reshape(-1, 2, 3), size, align_corners=True).permute(0, 3, 1, 2)
    height, width = data.shape[2:]
    rows = torch.arange(height, device=data.device, dtype=data.dtype).reshape(-1, 1)
    columns = torch.arange(width, device=data.device, dtype=data.dtype)
    x = (data[:, 0] + columns) * (2 / max(width - 1, 1)) - 1
    y = (data[:, 1] + rows) * (2 / max(height - 1, 1)) - 1
    return torch.stack([x, y], 1)


def _sample(data: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(data, grid.permute(0, 2, 3, 1), mode="bilinear", padding_mode="zeros",
                         align_corners=True)


def _read_sampler(spec: OpSpec) -> dict[str, Any]:
    spec.ignore("cudnn_off")
    return {}


def _resize(data: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    return F.interpolate(data, (height, width), mode="bilinear", align_corners=align_corners)


def _read_resize(spec: OpSpec) -> dict[str, Any]:
    spec.choice("mode", "size", ("size",))
    if spec.is_given("scale_height") or spec.is_given("scale_width"):
        raise ValueError("scale_height and scale_width are not supported")
    return {"height": spec.integer("height", 1), "width": spec.integer("width", 1),
            "align_corners": spec.flag("align_corners", True)}


def _read_adaptive(spec: OpSpec) -> dict[str, Any]:
    sizes = spec.integers("output_size", ()) or (1,)
    return {"output_size": sizes * 2 if len(sizes) == 1 else sizes[:2]}


def _depth_to_space(data: Tensor, block: int) -> Tensor:
    n, c, h, w = data.shape
    parts = data.reshape(n, block, block, c // block**2, h, w)
    return parts.permute(0, 3, 4, 1, 5, 2).reshape(n, c // block**2, h * block, w * block)


def _space_to_depth(data: Tensor, block: int) -> Tensor:
    n, c, h, w = data.shape
    parts = data.reshape(n, c, h // block, block, w // block, block)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(n, c * block**2, h // block, w // block)


def _broadcast_like(data: Tensor, like: Tensor) -> Tensor:
    return data.expand_as(like)


def _broadcast_to(data: Tensor, shape: tuple[int, ...]) -> Tensor:
    return data.expand([-1 if size == 0 else size for size in shape])


def _broadcast_axis(data: Tensor, axis: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    sizes = dict(zip((a % data.ndim for a in axis), size, strict=True))
    return data.expand([sizes.get(a, -1) for a in range(data.ndim)])


def _batch_dot(left: Tensor, right: Tensor, transpose_a: bool, transpose_b: bool) -> Tensor:
    return torch.bmm(left.mT if transpose_a else left, right.mT if transpose_b else right)


def _read_dot(spec: OpSpec) -> dict[str, Any]:
    spec.choice("forward_stype", "None", ("None", "default"))
    return {"transpose_a": spec.flag("transpose_a"), "transpose_b": spec.flag("transpose_b")}


UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "softsign": F.softsign,
    "exp": torch.exp, "log": torch.log, "log2": torch.log2, "log10": torch.log10, "log1p": torch.log1p,
    "expm1": torch.expm1, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt, "square": torch.square,
    "reciprocal": torch.reciprocal, "abs": torch.abs, "negative": torch.neg, "sign": torch.sign,
    "floor": torch.floor, "ceil": torch.ceil, "trunc": torch.trunc, "erf": torch.erf, "sin": torch.sin,
    "cos": torch.cos, "zeros_like": torch.zeros_like, "ones_like": torch.ones_like,
    "BlockGrad": Tensor.detach, "make_loss": Tensor.clone, "MakeLoss": Tensor.clone,
}
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "power": torch.pow,
    "maximum": torch.maximum, "minimum": torch.minimum,
}
SCALAR: dict[str, Callable[..., Tensor]] = {
    "_plus_scalar": lambda data, scalar: data + scalar, "_minus_scalar": lambda data, scalar: data - scalar,
    "_rminus_scalar": lambda data, scalar: scalar - data, "_div_scalar": lambda data, scalar: data / scalar,
    "_rdiv_scalar": lambda data, scalar: scalar / data, "_power_scalar": lambda data, scalar: data**scalar,
    "_rpower_scalar": lambda data, scalar: scalar**data,
    "_maximum_scalar": lambda data, scalar: data.clamp(min=scalar),
    "_minimum_scalar": lambda data, scalar: data.clamp(max=scalar),
}

OPERATIONS: dict[str, Kind] = {
    **{op: Kind(function, keeps_shape=True) for op, function in UNARY.items()},
    **{op: Kind(function, _scalar, keeps_shape=True) for op, function in SCALAR.items()},
    **{f"broadcast_{op}": Kind(function, num_inputs=2) for op, function in BINARY.items()},
    **{f"elemwise_{op}": Kind(BINARY[op], num_inputs=2) for op in ("sub", "mul", "div")},
    **{f"_{op}": Kind(BINARY[op], num_inputs=2) for op in ("power", "maximum", "minimum")},
    "add_n": Kind(lambda *data: sum(data[1:], start=data[0]), _many, num_inputs=None),
    "stack": Kind(lambda *data, axis: torch.stack(data, axis),
                  lambda spec: _many(spec) | {"axis": spec.integer("axis", 0)}, num_inputs=None),
    "hard_sigmoid": Kind(lambda data, alpha, beta: (data * alpha + beta).clamp(0, 1),
                         lambda spec: {"alpha": spec.real("alpha", 0.2), "beta": spec.real("beta", 0.5)},
                         keeps_shape=True),
    "softmax": Kind(_softmax, _read_softmax, keeps_shape=True),
    "log_softmax": Kind(_log_softmax, _read_softmax, keeps_shape=True),
    "SoftmaxActivation": Kind(_softmax_activation, lambda spec: {
        "mode": spec.choice("mode", "instance", ("instance", "channel"))}, keeps_shape=True),
    "mean": _reduction(torch.mean), "sum": _reduction(torch.sum), "max": _reduction(torch.amax),
    "min": _reduction(torch.amin), "norm": Kind(_norm, _read_norm),
    "Reshape": Kind(_reshape, _read_reshape),
    "transpose": Kind(_transpose, _integers("axes")),
    "SwapAxis": Kind(torch.transpose, lambda spec: {"dim0": spec.integer("dim1", 0),
                                                    "dim1": spec.integer("dim2", 0)}),
    "expand_dims": Kind(lambda data, axis: data.unsqueeze(axis), lambda spec: {"axis": spec.integer("axis")}),
    "squeeze": Kind(_squeeze, lambda spec: {"axis": _axes(spec)}),
    "slice_axis": Kind(_slice_axis, _read_slice_axis),
    "slice": Kind(_slice, lambda spec: {name: spec.slices(name) for name in ("begin", "end", "step")}),
    "slice_like": Kind(_slice_like, _integers("axes"), num_inputs=2),
    "SliceChannel": Kind(_split, lambda spec: {
        "num_outputs": spec.integer("num_outputs"), "axis": spec.integer("axis", 1),
        "squeeze": spec.flag("squeeze_axis")}, has_outputs=True),
    "reverse": Kind(lambda data, axis: data.flip(axis), _integers("axis")),
    "tile": Kind(lambda data, reps: data.tile(reps), _integers("reps")),
    "broadcast_like": Kind(_broadcast_like, num_inputs=2),
    "broadcast_to": Kind(_broadcast_to, _integers("shape")),
    "broadcast_axis": Kind(_broadcast_axis, _integers("axis", "size")),
    "batch_dot": Kind(_batch_dot, _read_dot, num_inputs=2),
    "Pad": Kind(_pad, _read_pad),
    "L2Normalization": Kind(_l2_normalise, lambda spec: {
        "mode": spec.choice("mode", "instance", ("instance", "channel", "spatial")),
        "eps": spec.real("eps", 1e-10)}, keeps_shape=True),
    "Cast": Kind(_cast, _read_cast, keeps_shape=True), "amp_cast": Kind(_cast, _read_cast, keeps_shape=True),
    "GridGenerator": Kind(_grid, lambda spec: {
        "kind": spec.choice("transform_type", "", ("affine", "warp")),
        "target": spec.pair("target_shape", 0)}),
    "BilinearSampler": Kind(_sample, _read_sampler, num_inputs=2),
    "_contrib_BilinearResize2D": Kind(_resize, _read_resize),
    "_contrib_AdaptiveAvgPooling2D": Kind(F.adaptive_avg_pool2d, _read_adaptive),
    "depth_to_space": Kind(_depth_to_space, lambda spec: {"block": spec.integer("block_size")}),
    "space_to_depth": Kind(_space_to_depth, lambda spec: {"block": spec.integer("block_size")}),
}

#: what a symbol may be made of: operator -> class, whose `read` makes one
OPERATORS: dict[str, type[Layer]] = {
    **dict.fromkeys(OPERATIONS, Operation),
    **{cls.op: cls for cls in (
        Convolution, Deconvolution, FullyConnected, BatchNorm, BatchNormReLU, InstanceNorm, LayerNorm,
        GroupNorm, LRN, Activation, LeakyReLU, Pooling, Flatten, Dropout, Concat, ElementwiseAdd,
        SpatialTransformer, UpSampling, Clip, MulScalar, Identity)},
    "_contrib_SyncBatchNorm": BatchNorm, "CuDNNBatchNorm": BatchNorm, "Convolution_v1": Convolution,
    "Pooling_v1": Pooling,
}
