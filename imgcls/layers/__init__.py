"""MXNet's operators as torch modules: `Layer`, and the layers that the networks in `networks/` are built from.

A `Layer` is one node of a symbol: `op` is MXNet's operator, `attrs` the operator's attributes as text, only those that
were given (MXNet stores no defaults, so neither do we: that keeps our symbol.json equal to MXNet's own). Parameters
keep torch's layout, which is MXNet's too; `PARAMETER_NAMES` of a class says what MXNet calls each. A network calls its
layers as modules (`self.relu1(self.fc1(x))`), also for an addition or a concatenation, so that a trace of it is its
symbol. `operators.py` has the operators that only other people's networks are made of, and the table of all;
`graph.py` reads a symbol.json into these modules and writes them back to one.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgcls.formats.symbol import Attributes, Node

Size = int | tuple[int, int]
Shape = tuple[int, ...]


def pair(size: Size) -> tuple[int, int]:
    """3 -> (3, 3); a pair stays as it is."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def attribute_text(**given: object) -> dict[str, str]:
    """Attributes as MXNet writes them (Python text), without those left at None."""
    return {name: str(value) for name, value in given.items() if value is not None}


class OpSpec(Attributes):
    """What a layer is made from when a file is read: attributes as text, and the sizes that they do not tell.

    `shape` is that of the first input where it is known, `stored` has those of the parameters in the file, by
    torch attribute. Whatever cannot be made is a ValueError whose text completes "node 'x' (Operator): ...".
    """

    def __init__(self, node: Node, shape: Shape | None, stored: Mapping[str, Shape]) -> None:
        super().__init__(node)
        self.op, self.num_inputs = node.op, len(node.inputs)
        self.shape, self.stored = shape, stored

    def size(self, axis: int, parameter: str, dimension: int = 0) -> int:
        """The size of `axis` of the input or, where that is not known, of a dimension of a stored parameter."""
        if self.shape is not None:
            what, shape, place = "an input", self.shape, axis
        elif parameter in self.stored:
            what, shape, place = parameter, self.stored[parameter], dimension
        else:
            raise ValueError(f"{parameter} is in no file, and without an input shape its own is not known")
        if not -len(shape) <= place < len(shape):
            raise ValueError(f"cannot work with {what} of shape {shape}")
        return shape[place]

    def groups(self, channels: int, num_filter: int) -> int:
        """`num_group`, which must divide both."""
        groups = self.integer("num_group", 1)
        if groups < 1 or channels % groups or num_filter % groups:
            raise ValueError(f"{channels} channels, {num_filter} filters do not divide into {groups} groups")
        return groups

    def pair(self, name: str, default: int) -> tuple[int, int]:
        """Height and width; an empty list is the default, and no size may be below it."""
        sizes = self.integers(name, ()) or (default, default)
        if len(sizes) != 2:
            raise ValueError(f"{name}={self.given[name]}: only two dimensions (height, width) are supported")
        if min(sizes) < default:
            raise ValueError(f"{name}={self.given[name]}: at least {default} is needed")
        return sizes[0], sizes[1]

    def optional(self, name: str) -> bool | None:
        """A flag that may be absent or None."""
        return self.flag(name) if self.is_given(name) else None


class Layer(nn.Module):
    """One node of a symbol. Subclasses set `op`; `forward` takes the node's inputs in MXNet's order.

    A layer that a file named carries `node_name` where the module's own path cannot be that name, and in
    `variables` the names and attributes of its parameters where they are not MXNet's automatic ones.
    """

    op: str = ""
    #: set by a network that has filled this layer's weights itself: the initializer then leaves them alone
    initialized: bool = False
    attrs: dict[str, str]
    node_name: str = ""
    #: torch attribute -> MXNet's suffix, in the order of the operator's inputs
    PARAMETER_NAMES: ClassVar[dict[str, str]] = {}
    #: those of them that MXNet calls auxiliary states (running statistics)
    AUXILIARY: frozenset[str] = frozenset()
    #: how many inputs it takes beside its parameters; None: any number
    num_inputs: int | None = 1
    #: whether `forward` returns a tuple, one tensor for each output
    has_outputs = False
    #: whether what comes out has the shape of the first input
    keeps_shape = False

    def __init__(self, attrs: dict[str, str] | None = None) -> None:
        super().__init__()
        self.attrs = dict(attrs or {})
        self.variables: dict[str, Node] = {}

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        """The layer that a node of a file describes."""
        return cls()

    @classmethod
    def num_data(cls, spec: OpSpec) -> int:
        """How many of a node's inputs are not parameters."""
        return 1 if cls.PARAMETER_NAMES else spec.num_inputs

    def parameter_slots(self) -> list[str]:
        """Torch attributes of the parameters that this layer has, in the order of the operator's inputs."""
        return [name for name in self.PARAMETER_NAMES if getattr(self, name) is not None]

    def infer(self, *data: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What `forward` would give, for tensors on the meta device, that have shapes and no values.

        Nearly all layers keep the shape, so that is said and not run: many of torch's functions import a
        second's worth of modules when they first see such a tensor. Raises ValueError for shapes that do not
        go together.
        """
        return data[0] if self.keeps_shape else self(*data)

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v}" for k, v in self.attrs.items())


def _four(data: Tensor) -> Shape:
    """The shape of a batch of maps (N, C, H, W)."""
    if data.ndim != 4:
        raise ValueError(f"it works on maps (N, C, H, W), not on shape {tuple(data.shape)}")
    return tuple(data.shape)


def _windows(sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], pad: Sequence[int],
             ceil: bool = False) -> list[int]:
    """How many places a kernel has along each axis; with `ceil` the last one may stand out."""
    counts = []
    for n, k, s, p in zip(sizes, kernel, stride, pad, strict=True):
        if n + 2 * p < k:
            raise ValueError(f"a kernel of {tuple(kernel)} does not fit into a map of {tuple(sizes)}: "
                             "the image is too small")
        counts.append(1 + (-((k - n - 2 * p) // s) if ceil else (n + 2 * p - k) // s))
    return counts


class Convolution(Layer):
    """2-D convolution, float (N, C, H, W) -> (N, num_filter, H', W'); weight (num_filter, C / groups, kh, kw)."""

    op = "Convolution"
    PARAMETER_NAMES: ClassVar[dict[str, str]] = {"weight": "weight", "bias": "bias"}

    def __init__(self, in_channels: int, num_filter: int, kernel: Size, *, stride: Size | None = None,
                 pad: Size | None = None, num_group: int | None = None, no_bias: bool | None = None,
                 dilate: Size | None = None, extra: dict[str, str] | None = None) -> None:
        pairs = {name: None if size is None else pair(size)
                 for name, size in (("stride", stride), ("pad", pad), ("dilate", dilate))}
        super().__init__(attribute_text(kernel=pair(kernel), num_filter=num_filter, num_group=num_group,
                                        no_bias=no_bias, **pairs) | (extra or {}))
        self.stride, self.pad = pairs["stride"] or (1, 1), pairs["pad"] or (0, 0)
        self.dilate, self.groups = pairs["dilate"] or (1, 1), num_group or 1
        self.weight = nn.Parameter(torch.empty(num_filter, in_channels // self.groups, *pair(kernel)))
        self.bias = None if no_bias else nn.Parameter(torch.zeros(num_filter))

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        spec.ignore("workspace", "cudnn_tune", "cudnn_off")
        spec.choice("layout", "None", ("None", "NCHW"))
        channels, num_filter = spec.size(1, "weight", 1), spec.integer("num_filter")
        if spec.shape is None:  # a weight has the channels of one group only
            channels *= spec.integer("num_group", 1)
        groups = spec.groups(channels, num_filter)
        return cls(channels, num_filter, spec.pair("kernel", 1), stride=spec.pair("stride", 1),
                   pad=spec.pair("pad", 0), dilate=spec.pair("dilate", 1), num_group=groups,
                   no_bias=spec.flag("no_bias"))

    def infer(self, *data: Tensor) -> Tensor:
        num, channels, *sizes = _four(data[0])
        if channels != self.weight.shape[1] * self.groups:
            raise ValueError(f"{channels} channels where the weight has {self.weight.shape[1] * self.groups}")
        kernel = [d * (k - 1) + 1 for k, d in zip(self.weight.shape[2:], self.dilate, strict=True)]
        places = _windows(sizes, kernel, self.stride, self.pad)
        return torch.empty(num, self.weight.shape[0], *places, device="meta")

    def forward(self, data: Tensor) -> Tensor:
        return F.conv2d(data, self.weight, self.bias, self.stride, self.pad, self.dilate, self.groups)


class FullyConnected(Layer):
    """Affine layer on the flattened input, float (N, ...) -> (N, num_hidden); weight (num_hidden, in_units)."""

    op = "FullyConnected"
    PARAMETER_NAMES: ClassVar[dict[str, str]] = {"weight": "weight", "bias": "bias"}

    def __init__(self, in_units: int, num_hidden: int, *, no_bias: bool | None = None,
                 flatten: bool | None = None, extra: dict[str, str] | None = None) -> None:
        super().__init__(attribute_text(num_hidden=num_hidden, no_bias=no_bias, flatten=flatten) | (extra or {}))
        self.flatten = flatten is not False
        self.weight = nn.Parameter(torch.empty(num_hidden, in_units))
        self.bias = None if no_bias else nn.Parameter(torch.zeros(num_hidden))

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        flatten = spec.flag("flatten", True)
        if spec.shape is not None and flatten:
            units = math.prod(spec.shape[1:])
        else:
            units = spec.size(-1, "weight", 1)
        return cls(units, spec.integer("num_hidden"), no_bias=spec.flag("no_bias"), flatten=flatten)

    def infer(self, *data: Tensor) -> Tensor:
        shape = data[0].shape[:1] if self.flatten else data[0].shape[:-1]
        return torch.empty(*shape, self.weight.shape[0], device="meta")

    def forward(self, data: Tensor) -> Tensor:
        return F.linear(data.flatten(1) if self.flatten and data.ndim > 2 else data, self.weight, self.bias)


class BatchNorm(Layer):
    """Batch normalisation over axis 1. MXNet's defaults: eps 1e-3, momentum 0.9 of the old value, gamma fixed at 1.

    With `fix_gamma` the gamma in a file is kept but taken as 1, in training and in inference, as MXNet does.
    """

    op = "BatchNorm"
    keeps_shape = True
    PARAMETER_NAMES: ClassVar[dict[str, str]] = {
        "gamma": "gamma", "beta": "beta", "moving_mean": "moving_mean", "moving_var": "moving_var"}
    AUXILIARY = frozenset({"moving_mean", "moving_var"})
    moving_mean: Tensor
    moving_var: Tensor

    def __init__(self, channels: int, *, eps: float | None = None, momentum: float | None = None,
                 fix_gamma: bool | None = None, use_global_stats: bool | None = None,
                 extra: dict[str, str] | None = None) -> None:
        super().__init__(attribute_text(eps=eps, momentum=momentum, fix_gamma=fix_gamma,
                                        use_global_stats=use_global_stats) | (extra or {}))
        self.eps = 1e-3 if eps is None else eps
        self.momentum = 0.9 if momentum is None else momentum
        self.fix_gamma, self.use_global_stats = fix_gamma is not False, bool(use_global_stats)
        gamma = torch.ones(channels)
        if self.fix_gamma:
            self.register_buffer("gamma", gamma)
        else:
            self.gamma = nn.Parameter(gamma)
        self.beta = nn.Parameter(torch.zeros(channels))
        self.register_buffer("moving_mean", torch.zeros(channels))
        self.register_buffer("moving_var", torch.ones(channels))

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        spec.ignore("cudnn_off", "min_calib_range", "max_calib_range", "key", "ndev")
        if spec.integer("axis", 1) != 1 or spec.flag("output_mean_var"):
            raise ValueError("only axis=1 and a single output are supported")
        return cls(spec.size(1, "gamma"), eps=spec.real("eps", 1e-3), momentum=spec.real("momentum", 0.9),
                   fix_gamma=spec.flag("fix_gamma", True), use_global_stats=spec.flag("use_global_stats"))

    def forward(self, data: Tensor) -> Tensor:
        learns = self.training and not self.use_global_stats
        return F.batch_norm(data, self.moving_mean, self.moving_var, None if self.fix_gamma else self.gamma,
                            self.beta, learns, 1 - self.momentum, self.eps)


class Activation(Layer):
    """Element by element: relu, sigmoid, tanh, softrelu (softplus) or softsign."""

    op = "Activation"
    keeps_shape = True
    FUNCTIONS: ClassVar[dict[str, Callable[[Tensor], Tensor]]] = {
        "relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "softrelu": F.softplus,
        "softsign": F.softsign}

    def __init__(self, act_type: str, extra: dict[str, str] | None = None) -> None:
        super().__init__({"act_type": act_type} | (extra or {}))
        self.function = self.FUNCTIONS[act_type]

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        return cls(spec.choice("act_type", "", cls.FUNCTIONS))

    def forward(self, data: Tensor) -> Tensor:
        return self.function(data)


class Pooling(Layer):
    """max, avg, sum or lp pooling. MXNet's defaults: stride 1, sizes rounded down (`valid`), padding counted
    in an average. `full` rounds sizes up; `global_pool` takes the whole map whatever the kernel says.
    """

    op = "Pooling"

    def __init__(self, kernel: Size | None = None, pool_type: str | None = None, *,
                 stride: Size | None = None, pad: Size | None = None, global_pool: bool | None = None,
                 pooling_convention: str | None = None, count_include_pad: bool | None = None,
                 p_value: int | None = None, extra: dict[str, str] | None = None) -> None:
        pairs = {name: None if size is None else pair(size)
                 for name, size in (("kernel", kernel), ("stride", stride), ("pad", pad))}
        super().__init__(attribute_text(pool_type=pool_type, global_pool=global_pool, p_value=p_value,
                                        pooling_convention=pooling_convention, count_include_pad=count_include_pad,
                                        **pairs) | (extra or {}))
        self.kernel, self.stride = pairs["kernel"] or (1, 1), pairs["stride"] or (1, 1)
        self.pad = pairs["pad"] or (0, 0)
        self.pool_type, self.global_pool, self.power = pool_type or "max", bool(global_pool), p_value or 2
        self.ceil = pooling_convention == "full"
        self.count_include_pad = count_include_pad is not False

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        spec.ignore("cudnn_off")
        spec.choice("layout", "None", ("None", "NCHW"))
        global_pool = spec.flag("global_pool")
        if not global_pool and not spec.integers("kernel", ()):
            raise ValueError("kernel is missing")
        power = int(spec.choice("p_value", "2", ("1", "2", "3"))) if spec.is_given("p_value") else None
        return cls(spec.pair("kernel", 1), spec.choice("pool_type", "max", ("max", "avg", "sum", "lp")),
                   stride=spec.pair("stride", 1), pad=spec.pair("pad", 0), global_pool=global_pool,
                   pooling_convention=spec.choice("pooling_convention", "valid", ("valid", "full")),
                   count_include_pad=spec.optional("count_include_pad"), p_value=power)

    def infer(self, *data: Tensor) -> Tensor:
        num, channels, *sizes = _four(data[0])
        out = [1, 1] if self.global_pool else _windows(sizes, self.kernel, self.stride, self.pad, self.ceil)
        return torch.empty(num, channels, *out, device="meta")

    def forward(self, data: Tensor) -> Tensor:
        if self.pool_type == "lp":
            total = self._sums(data**self.power)  # of signed powers: MXNet takes no absolute values
            return total if self.power == 1 else total.sign() * total.abs() ** (1 / self.power)
        if self.global_pool and self.pool_type == "max":
            return data.amax((2, 3), keepdim=True)
        if self.global_pool and self.pool_type == "avg":
            return data.mean((2, 3), keepdim=True)
        if self.pool_type == "sum":
            return self._sums(data)
        if self._is_odd(data.shape[2:]):
            return self._padded(data)
        if self.pool_type == "max":
            return F.max_pool2d(data, self.kernel, self.stride, self.pad, ceil_mode=self.ceil)
        return F.avg_pool2d(data, self.kernel, self.stride, self.pad, self.ceil, self.count_include_pad)

    def _is_odd(self, sizes: Sequence[int]) -> bool:
        """Whether torch would refuse the padding, or leave out a window of `full` that has no pixel in it."""
        return any(2 * p > k or (self.ceil and k < s + p and -((k - n - 2 * p) // s) * s >= n + p)
                   for n, k, s, p in zip(sizes, self.kernel, self.stride, self.pad, strict=True))

    def _padded(self, data: Tensor) -> Tensor:
        """max and avg with the padding spelled out: what no window may miss is added at the right and below."""
        if self.pool_type == "max":
            padded = F.pad(data, self._margins(data), value=torch.finfo(data.dtype).min)
            return F.max_pool2d(padded, self.kernel, self.stride)
        ones = torch.ones_like(data[:1, :1])
        if self.count_include_pad:
            ones = F.pad(ones, (self.pad[1], self.pad[1], self.pad[0], self.pad[0]), value=1.0)
            counts = self._sums(ones, [self._margins(data)[i] - self.pad[1 - i // 2] for i in range(4)])
        else:
            counts = self._sums(ones)
        return self._sums(data) / counts.clamp(min=1)

    def _sums(self, data: Tensor, margins: list[int] | None = None) -> Tensor:
        if self.global_pool:
            return data.sum((2, 3), keepdim=True)
        padded = F.pad(data, self._margins(data) if margins is None else margins)
        return F.avg_pool2d(padded, self.kernel, self.stride, divisor_override=1)

    def _margins(self, data: Tensor) -> list[int]:
        """Padding left, right, above, below: with `full` as much more as the last window stands out."""
        margins = []
        for axis in (1, 0):
            n, k, s, p = data.shape[2 + axis], self.kernel[axis], self.stride[axis], self.pad[axis]
            count = _windows([n], [k], [s], [p], self.ceil)[0]
            margins += [p, max(p, (count - 1) * s + k - n - p)]
        return margins


class Flatten(Layer):
    """(N, C, H, W) -> (N, C * H * W), in that order whatever the memory format."""

    op = "Flatten"

    def forward(self, data: Tensor) -> Tensor:
        return data.flatten(1)


class Dropout(Layer):
    """Drops with probability p while training (MXNet's default p is 0.5)."""

    op = "Dropout"
    keeps_shape = True

    def __init__(self, p: float | None = None, extra: dict[str, str] | None = None) -> None:
        super().__init__(attribute_text(p=p) | (extra or {}))
        self.p = 0.5 if p is None else p

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        spec.ignore("cudnn_off")
        spec.choice("mode", "training", ("training",))
        if spec.integers("axes", ()):
            raise ValueError("axes is not supported")
        return cls(spec.real("p", 0.5))

    def forward(self, data: Tensor) -> Tensor:
        return F.dropout(data, self.p, self.training)


class Concat(Layer):
    """Joins its inputs along `dim` (1: channels)."""

    op = "Concat"
    num_inputs = None

    def __init__(self, num_args: int, dim: int | None = None, extra: dict[str, str] | None = None) -> None:
        super().__init__(attribute_text(num_args=num_args, dim=dim) | (extra or {}))
        self.dim = 1 if dim is None else dim

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        return cls(spec.integer("num_args", spec.num_inputs), spec.integer("dim", 1))

    def infer(self, *data: Tensor) -> Tensor:
        shapes = [list(tensor.shape) for tensor in data]
        rest = [shape[:self.dim] + shape[self.dim:][1:] for shape in shapes]
        if any(other != rest[0] for other in rest):
            raise ValueError(f"cannot join inputs of shapes {', '.join(map(str, shapes))}")
        shapes[0][self.dim] = sum(shape[self.dim] for shape in shapes)
        return torch.empty(shapes[0], device="meta")

    def forward(self, *data: Tensor) -> Tensor:
        return torch.cat(data, self.dim)


class ElementwiseAdd(Layer):
    """a + b of equal shapes; MXNet numbers these `_plus0`, `_plus1`, ..."""

    op = "elemwise_add"
    num_inputs = 2

    def infer(self, *data: Tensor) -> Tensor:
        return equal_shapes(*data)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left + right


class SpatialTransformer(Layer):
    """Samples the image under an affine map, (N, C, H, W) and (N, 6) -> (N, C, *target_shape).

    Jaderberg et al. 2015; borders are zero and corners are aligned, as in MXNet.
    """

    op = "SpatialTransformer"
    num_inputs = 2

    def __init__(self, target_shape: tuple[int, int], extra: dict[str, str] | None = None) -> None:
        super().__init__(attribute_text(target_shape=target_shape, transform_type="affine", sampler_type="bilinear")
                         | (extra or {}))
        self.target_shape = target_shape

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        spec.ignore("cudnn_off")
        spec.choice("transform_type", "", ("affine",))
        spec.choice("sampler_type", "", ("bilinear",))
        return cls(spec.pair("target_shape", 0))

    def forward(self, data: Tensor, loc: Tensor) -> Tensor:
        size = (data.shape[0], data.shape[1], *self.target_shape)
        grid = F.affine_grid(loc.reshape(-1, 2, 3), list(size), align_corners=True)
        return F.grid_sample(data, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


class LRN(Layer):
    """Local response normalisation over channels: x / (knorm + alpha / nsize * sum x^2)^beta (Krizhevsky et
    al. 2012)."""

    op = "LRN"
    keeps_shape = True

    def __init__(self, nsize: int, *, alpha: float | None = None, beta: float | None = None,
                 knorm: float | None = None, extra: dict[str, str] | None = None) -> None:
        super().__init__(attribute_text(nsize=nsize, alpha=alpha, beta=beta, knorm=knorm) | (extra or {}))
        self.nsize = nsize
        self.alpha, self.beta, self.knorm = (1e-4 if alpha is None else alpha, 0.75 if beta is None else beta,
                                             2.0 if knorm is None else knorm)

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        return cls(spec.integer("nsize"), alpha=spec.real("alpha", 1e-4), beta=spec.real("beta", 0.75),
                   knorm=spec.real("knorm", 2.0))

    def forward(self, data: Tensor) -> Tensor:
        # The sum over neighbouring channels is a 1x1 convolution with a band of ones: three to ten times as fast as
        # torch's own, which pools over five dimensions.
        _four(data)
        channel = torch.arange(data.shape[1], device=data.device)
        with contextlib.nullcontext() if data.is_meta else torch.autocast(data.device.type, enabled=False):
            values = data if data.dtype == torch.float64 else data.float()
            band = ((channel - channel[:, None]).abs() <= self.nsize // 2).to(values.dtype)[:, :, None, None]
            total = F.conv2d(values.square(), band * (self.alpha / self.nsize)) + self.knorm
            root = (total * total.sqrt()).rsqrt() if self.beta == 0.75 else total.pow(-self.beta)
            return (values * root).to(data.dtype)


class Clip(Layer):
    """Limits every element to [a_min, a_max]."""

    op = "clip"
    keeps_shape = True

    def __init__(self, a_min: float, a_max: float, extra: dict[str, str] | None = None) -> None:
        super().__init__(attribute_text(a_min=a_min, a_max=a_max) | (extra or {}))
        self.a_min, self.a_max = float(a_min), float(a_max)

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        return cls(spec.real("a_min"), spec.real("a_max"))

    def forward(self, data: Tensor) -> Tensor:
        if not data.requires_grad:
            return data.clamp(self.a_min, self.a_max)
        result = _Clipped.apply(data, self.a_min, self.a_max)
        assert isinstance(result, Tensor)
        return result


class _Clipped(torch.autograd.Function):
    """clamp with the backward of hardtanh, which takes half the time. That one's bounds are exclusive and clip's are
    not, so they are moved by the smallest step."""

    @staticmethod
    def forward(context: Any, data: Tensor, low: float, high: float) -> Tensor:
        context.save_for_backward(data)
        context.bounds = np.nextafter(np.float32(low), -np.inf), np.nextafter(np.float32(high), np.inf)
        return data.clamp(low, high)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        data, = context.saved_tensors
        low, high = context.bounds
        return torch.ops.aten.hardtanh_backward(gradients[0], data, float(low), float(high)), None, None


class MulScalar(Layer):
    """data * scalar; MXNet numbers these `_mulscalar0`, ..."""

    op = "_mul_scalar"
    keeps_shape = True

    def __init__(self, scalar: float, extra: dict[str, str] | None = None) -> None:
        super().__init__(attribute_text(scalar=scalar) | (extra or {}))
        self.scalar = float(scalar)

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        spec.ignore("is_int")
        return cls(spec.real("scalar", 1.0))

    def forward(self, data: Tensor) -> Tensor:
        return data * self.scalar


class Identity(Layer):
    """The input itself (MXNet's `_copy`, written `identity` in Python)."""

    op = "_copy"
    keeps_shape = True

    def forward(self, data: Tensor) -> Tensor:
        return data


def equal_shapes(*data: Tensor) -> Tensor:
    """The first of tensors that must have one shape: MXNet's `elemwise_` operators do not broadcast."""
    if any(tensor.shape != data[0].shape for tensor in data):
        raise ValueError(f"cannot combine shapes {', '.join(str(tuple(tensor.shape)) for tensor in data)}")
    return data[0]
