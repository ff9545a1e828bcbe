"""Writing a network down as MXNet's `symbols/*.py` do: a call adds a layer and returns what it gives.

The networks of this folder use it (mlp and lenet are small enough to do without). What it saves them: sizes
follow from the image shape, layers without a name get MXNet's number, and every layer is an attribute of the
module under the very name it has in a symbol.json. `module` gives an ordinary `torch.fx` GraphModule:
`print(model.code)` shows its forward pass. An image that is too small for a layer ends here as a UsageError,
before any weight is filled.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from imgcls.config.sections import NetworkConfig
from imgcls.errors import UsageError
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
    Pooling,
    Shape,
    Size,
)

#: settings that only some networks read, and whose they are; a file in this folder names its own in OPTIONS
OPTIONAL = {"add_stn": "lenet", "batch_norm": "vgg", "num_group": "resnext", "multiplier": "mobilenet and mobilenetv2",
            "variant": "overfeat and alexnet-towers", "model_parallel": "alexnet-towers"}


@dataclass(frozen=True)
class Value:
    """What a layer gives: its node, and its shape without the batch, (channels, height, width) or (units,)"""

    node: fx.Node
    shape: Shape


class NetworkBuilder:
    """Collects the layers of one network; `data` is the image, and each method takes and gives `Value`s.

    `name` is MXNet's name of the layer; without one it is the operator in lower case and a number counted
    from 0 in the order of the calls, as in MXNet. Other keywords are those of the layer's class, and only
    what MXNet's file gives may be given: it is what a symbol.json shows.
    """

    def __init__(self, config: NetworkConfig, works: Shape, options: Iterable[str] = ()) -> None:
        """`works` is an image shape it runs at, for errors; `options` are those of OPTIONAL that it reads."""
        check_options(config, options)
        self._config, self._works = config, works
        self._layers = nn.Module()
        self._graph = fx.Graph()
        self._numbers: Counter[str] = Counter()
        self.data = Value(self._graph.placeholder("data"), image_shape(config, works))

    def module(self, logits: Value) -> nn.Module:
        """The finished network, float (N, *image_shape) -> logits (N, units)."""
        self._graph.output(logits.node)
        return fx.GraphModule(self._layers, self._graph, self._config.network.title().replace("-", ""))

    def convolution(self, data: Value, num_filter: int, kernel: Size, *, name: str | None = None,
                    **options: Any) -> Value:
        return self._add(Convolution(data.shape[0], num_filter, kernel, **options), data, name=name)

    def fully_connected(self, data: Value, num_hidden: int, *, name: str | None = None) -> Value:
        (units,) = data.shape
        return self._add(FullyConnected(units, num_hidden), data, name=name)

    def batch_norm(self, data: Value, *, name: str | None = None, **options: Any) -> Value:
        return self._add(BatchNorm(data.shape[0], **options), data, name=name)

    def relu(self, data: Value, *, name: str | None = None) -> Value:
        return self._add(Activation("relu"), data, name=name)

    def clip(self, data: Value, a_min: int, a_max: int, *, name: str | None = None) -> Value:
        return self._add(Clip(a_min, a_max), data, name=name)

    def pooling(self, data: Value, kernel: Size, pool_type: str, *, name: str | None = None,
                **options: Any) -> Value:
        return self._add(Pooling(kernel, pool_type, **options), data, name=name)

    def lrn(self, data: Value, nsize: int, *, name: str | None = None, **options: Any) -> Value:
        return self._add(LRN(nsize, **options), data, name=name)

    def dropout(self, data: Value, p: float, *, name: str | None = None) -> Value:
        return self._add(Dropout(p), data, name=name)

    def flatten(self, data: Value, *, name: str | None = None) -> Value:
        return self._add(Flatten(), data, name=name)

    def identity(self, data: Value, *, name: str | None = None) -> Value:
        return self._add(Identity(), data, name=name)

    def concat(self, *data: Value, name: str | None = None) -> Value:
        return self._add(Concat(len(data)), *data, name=name)

    def plus(self, left: Value, right: Value, *, name: str | None = None) -> Value:
        return self._add(ElementwiseAdd(), left, right, name=name, prefix="_plus")

    def scale(self, data: Value, scalar: float, *, name: str | None = None) -> Value:
        return self._add(MulScalar(scalar), data, name=name, prefix="_mulscalar")

    def _add(self, layer: Layer, *inputs: Value, name: str | None, prefix: str = "") -> Value:
        if name is None:
            prefix = prefix or layer.op.lower()
            name = f"{prefix}{self._numbers[prefix]}"
            self._numbers[prefix] += 1
        shape = output_shape(layer, *(value.shape for value in inputs))
        if min(shape) < 1:
            _, height, width = inputs[0].shape
            raise too_small(self._config, self._works, f"layer {name} gets only {height} x {width} pixels")
        self._layers.add_module(name, layer)
        return Value(self._graph.call_module(name, tuple(value.node for value in inputs)), shape)


def output_shape(layer: Layer, *shapes: Shape) -> Shape:
    """What `layer` makes of inputs of these shapes, all without the batch; a size of 0: it cannot run."""
    data = shapes[0]
    if isinstance(layer, Convolution):
        sides = zip(data[1:], layer.weight.shape[2:], layer.pad, layer.stride, strict=True)
        return (layer.weight.shape[0], *(_windows(*side) for side in sides))
    if isinstance(layer, Pooling) and layer.global_pool:
        return (data[0], 1, 1)
    if isinstance(layer, Pooling):
        sides = zip(data[1:], layer.kernel, layer.pad, layer.stride, strict=True)
        return (data[0], *(_windows(*side, ceil=layer.ceil) for side in sides))
    if isinstance(layer, FullyConnected):
        return (layer.weight.shape[0],)
    if isinstance(layer, Flatten):
        return (math.prod(data),)
    if isinstance(layer, Concat):
        return (sum(shape[0] for shape in shapes), *data[1:])
    return data


def image_shape(config: NetworkConfig, works: Shape) -> tuple[int, int, int]:
    """(channels, height, width) of the configuration; UsageError unless there are three."""
    if len(config.image_shape) != 3:
        raise UsageError(f"`image_shape` {shape_text(config.image_shape)}: {config.network} needs "
                         f"channels,height,width, such as {shape_text(works)}")
    channels, height, width = config.image_shape
    return channels, height, width


def too_small(config: NetworkConfig, works: Shape, reason: str) -> UsageError:
    """The error for an image shape that the network cannot run at; it names one that works."""
    shape = config.image_shape
    return UsageError(f"`image_shape` {shape_text(shape)}: {config.network} cannot run at it: {reason}; "
                      f"{shape_text((shape[0], *works[1:]))} works")


def shape_text(shape: Shape) -> str:
    """(3, 224, 224) -> "3,224,224", as --image-shape has it."""
    return ",".join(map(str, shape))


def depth_of(config: NetworkConfig, default: int, known: Iterable[int]) -> int:
    """--num-layers, or `default` where it was not given; UsageError unless it is one of `known`."""
    known = sorted(known)
    depth = default if config.num_layers is None else config.num_layers
    if depth not in known:
        *others, last = map(str, known)
        raise UsageError(f"`num_layers` {depth}: {config.network} comes with {', '.join(others)} or {last}")
    return depth


def variant_of(config: NetworkConfig, known: Iterable[str]) -> str:
    """--variant, or the first of `known` where it was not given; UsageError unless it is one of them."""
    known = list(known)
    if config.variant and config.variant not in known:
        raise UsageError(f"`variant` {config.variant}: {config.network} comes as {' or '.join(known)}")
    return config.variant or known[0]


def check_options(config: NetworkConfig, options: Iterable[str]) -> None:
    """UsageError for a setting of OPTIONAL that was changed though the network does not read it."""
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name in set(OPTIONAL) - set(options):
        value = getattr(config, name)
        if value != defaults[name]:
            raise UsageError(f"`{name}` {value}: {config.network} has no such option; it is "
                             f"for {OPTIONAL[name]}")


def _windows(size: int, kernel: int, pad: int, stride: int, *, ceil: bool = False) -> int:
    """How many windows of a convolution or pooling fit; 0 or less if not even one."""
    room = size + 2 * pad - kernel
    return (-(-room // stride) if ceil else room // stride) + 1 if room >= 0 else 0
