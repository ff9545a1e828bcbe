"""Write a network as MXNet's `symbols/*.py` do: a call adds a layer and returns its output.

Nearly all networks of this folder use it (mlp and lenet are small enough to do without). Sizes follow from
the image shape, layers without a name get MXNet's number, and every layer is an attribute of the module under
the very name it has in a symbol.json. An image that is too small for a layer ends here as a UsageError,
before any weight is filled.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from imgcls.config.flags import show
from imgcls.config.sections import NetworkConfig
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
    LeakyReLU,
    MulScalar,
    Pooling,
    Shape,
    Size,
)
from imgcls.layers.base import num_windows
from imgcls.networks._options import check_options, image_shape, too_small
from imgcls.storage import memory

#: of one image, in front of a layer and behind it: fewer are never too many for a machine
_MANY_VALUES = 10**8


@dataclass(frozen=True)
class Value:
    """The output of a layer: its node, and shape without the batch, (channels, height, width) or (units,)."""

    node: fx.Node
    shape: Shape


class NetworkBuilder:
    """Collects the layers of one network; `data` is the image, and each method takes and returns `Value`s.

    `name` is MXNet's name of the layer; without one it is the operator in lower case and a number counted
    from 0 in the order of the calls, as in MXNet. Other keywords are those of the layer's class, and only
    what MXNet's file gives may be given: it is what a symbol.json shows.
    """

    def __init__(self, config: NetworkConfig, works: Shape, options: Iterable[str] = ()) -> None:
        """`works` is an image shape that errors offer; `options` are those of OPTIONAL that it reads."""
        # Before anything is built: a setting that would be ignored is refused.
        check_options(config, options)
        self._config = config
        self._works = works
        self._layers = nn.Module()
        # The trace is written along with the layers, so the network need not be traced later, and two
        # networks that differ in a setting need no class each.
        self._graph = fx.Graph()
        self._num_unnamed: Counter[str] = Counter()
        self.data = Value(self._graph.placeholder("data"), image_shape(config, works))

    def module(self, logits: Value) -> nn.Module:
        """Return the finished network, float (N, *image_shape) -> logits (N, units).

        It is an ordinary `torch.fx.GraphModule`: `print(model.code)` shows its forward pass.
        """
        self._graph.output(logits.node)
        return fx.GraphModule(self._layers, self._graph, self._config.network.title().replace("-", ""))

    def convolution(self, data: Value, num_filter: int, kernel: Size, *, name: str | None = None,
                    **options: Any) -> Value:
        """Add a convolution, (C, H, W) -> (num_filter, H', W')."""
        return self._add(Convolution(data.shape[0], num_filter, kernel, **options), data, name=name)

    def fully_connected(self, data: Value, num_hidden: int, *, name: str | None = None) -> Value:
        """Add a fully connected layer, (units,) -> (num_hidden,)."""
        (units,) = data.shape  # flat: a network says `flatten` itself, as MXNet's files do
        return self._add(FullyConnected(units, num_hidden), data, name=name)

    def batch_norm(self, data: Value, *, name: str | None = None, **options: Any) -> Value:
        """Add a batch normalisation."""
        return self._add(BatchNorm(data.shape[0], **options), data, name=name)

    def relu(self, data: Value, *, name: str | None = None) -> Value:
        """Add a relu."""
        return self._add(Activation("relu"), data, name=name)

    def gelu(self, data: Value, *, name: str | None = None) -> Value:
        """Add a gelu, the exact one, which is a kind of MXNet's LeakyReLU."""
        return self._add(LeakyReLU("gelu"), data, name=name)

    def clip(self, data: Value, a_min: int, a_max: int, *, name: str | None = None) -> Value:
        """Add a clip to [a_min, a_max]."""
        return self._add(Clip(a_min, a_max), data, name=name)

    def pooling(self, data: Value, kernel: Size, pool_type: str, *, name: str | None = None,
                **options: Any) -> Value:
        """Add a pooling, (C, H, W) -> (C, H', W')."""
        return self._add(Pooling(kernel, pool_type, **options), data, name=name)

    def lrn(self, data: Value, nsize: int, *, name: str | None = None, **options: Any) -> Value:
        """Add a local response normalisation over `nsize` channels."""
        return self._add(LRN(nsize, **options), data, name=name)

    def dropout(self, data: Value, p: float, *, name: str | None = None) -> Value:
        """Add a dropout with probability `p`."""
        return self._add(Dropout(p), data, name=name)

    def flatten(self, data: Value, *, name: str | None = None) -> Value:
        """Flatten (C, H, W) to (C * H * W,)."""
        return self._add(Flatten(), data, name=name)

    def identity(self, data: Value, *, name: str | None = None) -> Value:
        """Add an identity, which only names a value."""
        return self._add(Identity(), data, name=name)

    def concat(self, *data: Value, name: str | None = None) -> Value:
        """Join maps of one size along their channels."""
        return self._add(Concat(len(data)), *data, name=name)

    # MXNet numbers these two after their Python operators + and *, not after the operators' names in a
    # symbol.

    def plus(self, left: Value, right: Value, *, name: str | None = None) -> Value:
        """Add two values of one shape."""
        return self._add(ElementwiseAdd(), left, right, name=name, prefix="_plus")

    def scale(self, data: Value, scalar: float, *, name: str | None = None) -> Value:
        """Multiply by a constant."""
        return self._add(MulScalar(scalar), data, name=name, prefix="_mulscalar")

    def _add(self, layer: Layer, *inputs: Value, name: str | None, prefix: str = "") -> Value:
        if name is None:  # MXNet's NameManager counts for each kind of layer, over the whole network
            prefix = prefix or layer.op.lower()
            name = f"{prefix}{self._num_unnamed[prefix]}"
            self._num_unnamed[prefix] += 1
        # The weights of layers have no values yet: `_initializers` draws them once the whole network is known
        # to fit.
        # Maps that are joined or added must be of one size, and odd sizes may be halved in two ways.
        others = {value.shape[1:] for value in inputs}
        if len(others) > 1:
            sizes = " and ".join(sorted(" x ".join(map(str, other)) for other in others))
            raise too_small(self._config, self._works, f"layer {name} joins maps of {sizes} pixels")
        shape = output_shape(layer, *(value.shape for value in inputs))
        if min(shape) < 1:
            _, height, width = inputs[0].shape
            raise too_small(self._config, self._works, f"layer {name} gets only {height} x {width} pixels")
        num_values = sum(math.prod(value.shape) for value in inputs) + math.prod(shape)
        if num_values > _MANY_VALUES:
            memory.require(4 * num_values, f"`image_shape` {show(self._config.image_shape)}: layer "
                                           f"{name} of {self._config.network} for one image")
        # add_module and not setattr: names of some networks contain dashes or stars
        self._layers.add_module(name, layer)
        return Value(self._graph.call_module(name, tuple(value.node for value in inputs)), shape)


def output_shape(layer: Layer, *shapes: Shape) -> Shape:
    """Return the shape that `layer` gives for inputs of these shapes, all without the batch.

    A size of 0 means that it cannot run. `Layer.infer` does the same with tensors and raises an error; here
    the caller raises one that names the image shape.
    """
    data = shapes[0]
    if isinstance(layer, Convolution):
        sides = zip(data[1:], layer.weight.shape[2:], layer.stride, layer.pad, strict=True)
        return (layer.weight.shape[0], *(num_windows(*side) for side in sides))
    # No network of this folder dilates its convolutions, so a kernel spans as many pixels as it has weights.
    if isinstance(layer, Pooling) and layer.global_pool:
        return (data[0], 1, 1)
    if isinstance(layer, Pooling):
        sides = zip(data[1:], layer.kernel, layer.stride, layer.pad, strict=True)
        return (data[0], *(num_windows(*side, layer.ceil) for side in sides))
    if isinstance(layer, FullyConnected):
        return (layer.weight.shape[0],)
    if isinstance(layer, Flatten):
        return (math.prod(data),)
    if isinstance(layer, Concat):  # along the channels
        return (sum(shape[0] for shape in shapes), *data[1:])
    return data  # all others keep the shape
