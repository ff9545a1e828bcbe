"""The shapes in a graph, from those of some inputs, and the layers that compute it.

`Symbol.infer_shape` uses the shapes, executors both. Layers are made on torch's meta device, where their
parameters take no memory: executors replace them by their own arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from imgcls.compat.mxnet._embedding import Embedding
from imgcls.compat.mxnet._extra_operators import EXTRA, MAX_VALUES, ExtraOperation
from imgcls.compat.mxnet._losses import LOSSES, Loss
from imgcls.compat.mxnet._training_layers import TRAINING
from imgcls.compat.mxnet.base import MXNetError
from imgcls.errors import first_line
from imgcls.formats.symbol import Attributes, Node, NodeOutput, Symbol
from imgcls.layers import Layer, OpSpec, Shape
from imgcls.layers.operation import Operation
from imgcls.layers.operators import OPERATORS

#: operators whose inputs all have the same shape: from one shape the others follow
# MXNet infers these in both directions (ElemwiseShape, src/operator/elemwise_op_common.h).
_SAME_SHAPE = ("elemwise_", "_power", "_maximum", "_minimum", "_mod", "_equal", "_not_equal", "_greater",
               "_lesser", "add_n")


def _num_padded(settings: dict[str, Any], shape: Shape) -> int:
    widths = settings["pad_width"]
    return math.prod(size + before + after
                     for size, before, after in zip(shape, widths[::2], widths[1::2], strict=False))


#: operators whose attributes make the result as large as they say -> number of its values
_NUM_VALUES: dict[str, Callable[[dict[str, Any], Shape], int]] = {
    "repeat": lambda settings, shape: math.prod(shape) * settings["repeats"],
    "one_hot": lambda settings, shape: math.prod(shape) * settings["depth"],
    "tile": lambda settings, shape: math.prod(shape) * math.prod(settings["reps"]),
    "Pad": _num_padded,
    "scatter_nd": lambda settings, shape: math.prod(settings["shape"]),
    "diag": lambda settings, shape: (shape[0] + abs(settings["k"])) ** 2 if len(shape) == 1 else 0,
    "GridGenerator": lambda settings, shape: 2 * shape[0] * math.prod(settings["target"]),
    "_contrib_BilinearResize2D":
        lambda settings, shape: math.prod(shape[:2]) * settings["height"] * settings["width"],
    "_contrib_AdaptiveAvgPooling2D":
        lambda settings, shape: math.prod(shape[:2]) * math.prod(settings["output_size"]),
    # layers with classes of their own
    "UpSampling": lambda settings, shape: math.prod(shape) * settings["scale"] ** 2,
    "SpatialTransformer": lambda settings, shape: math.prod(shape[:2]) * math.prod(settings["target_shape"]),
}


@dataclass
class Inferred:
    """What was inferred of a graph: shapes by variable and by output, layers by index of the node."""

    variables: dict[str, Shape] = field(default_factory=dict)
    outputs: dict[NodeOutput, Shape] = field(default_factory=dict)
    layers: dict[int, Layer] = field(default_factory=dict)


# The classes of this package come first: they train as MXNet's operators do.
def layer_class(op: str) -> type[Layer]:
    """Return the class that computes an operator; MXNetError where there is none."""
    if op in EXTRA:
        return ExtraOperation
    found = {**OPERATORS, **TRAINING, **LOSSES, "Embedding": Embedding}.get(op)  # later ones replace
    if found is None:
        raise MXNetError(f"operator {op} is not there (docs/operators.md and docs/compat.md list those that "
                         "are)")
    return found


# Attributes are read here and checked; those that the layer does not read are refused.
def make_layer(node: Node, data: list[Shape], stored: dict[str, Shape]) -> tuple[Layer, list[Shape]]:
    """Return the layer of a node on the meta device, and the shapes of its outputs.

    `data` are the shapes of its data inputs, `stored` those of its parameters, by slot, as far as they are
    known. MXNetError for shapes or attributes that do not fit.
    """
    spec = OpSpec(node, data[0] if data else None, stored)
    result: Tensor | tuple[Tensor, ...] | None = None
    try:
        # `num_hidden=1000000000` in a hostile file takes no memory here: shapes are compared before values
        # exist.
        with torch.device("meta"), torch.no_grad():
            layer = layer_class(node.op).read(spec).eval()
            if unknown := spec.unknown():
                raise ValueError(f"setting {unknown[0]!r} is not known here")
            if layer.num_inputs is not None and layer.num_inputs != len(data):
                raise ValueError(f"it takes {layer.num_inputs} inputs and is given {len(data)}")
            if layer.keeps_shape or ("infer" in vars(type(layer)) and not isinstance(layer, Operation)):
                result = layer.infer(*(torch.empty(shape) for shape in data))
        if result is None:
            _require_size(node.op, layer, data)
            # Layers without a shape rule of their own run once on zeros that take no memory. Not on the meta
            # device: for that, torch's functions first load its compiler, which takes seconds.
            replace_parameters(layer, {slot: torch.zeros(()).expand(getattr(layer, slot).shape)
                                       for slot in layer.parameter_slots()})
            with torch.no_grad():
                result = layer.infer(*(torch.zeros(()).expand(shape) for shape in data))
    except (ValueError, ArithmeticError, RuntimeError, LookupError, TypeError) as error:
        raise MXNetError(f"error in operator {node.name} ({node.op}): {first_line(error)}") from error
    results = (result,) if isinstance(result, Tensor) else result
    return layer, [tuple(tensor.shape) for tensor in results]


def _require_size(op: str, layer: Layer, data: list[Shape]) -> None:
    """Raise ValueError where the attributes of a file make the result larger than any network needs."""
    if op in _NUM_VALUES and data and data[0]:
        settings = getattr(layer, "settings", vars(layer))
        if _NUM_VALUES[op](settings, data[0]) > MAX_VALUES:
            raise ValueError(f"a result of more than {MAX_VALUES} values is too large")


def replace_parameters(layer: Layer, values: Mapping[str, Tensor]) -> None:
    """Replace parameters of a layer by these tensors, by torch attribute."""
    for slot, tensor in values.items():
        layer._parameters.pop(slot, None)
        layer._buffers.pop(slot, None)
        # not by setattr: torch would require a Parameter
        layer.__dict__[slot] = tensor


def infer(graph: Symbol, known: dict[str, Shape]) -> Inferred:
    """Return all shapes that follow from the `known` shapes of variables, and the layers."""
    inference = _Inference(graph, known)
    operators = [index for index, node in enumerate(graph.nodes) if not node.is_variable]
    # A later operator may determine the shape of a label that an earlier one waits for: so it is repeated.
    num_waiting = len(operators) + 1
    # Ends when a round finds nothing new, so a graph with too few known shapes does not loop for ever.
    while 0 < len(operators) < num_waiting:
        num_waiting = len(operators)
        for index in operators:
            inference.add(index, graph.nodes[index])
        operators = [index for index in operators if index not in inference.found.layers]
    return inference.found


def _has_one_shape(node: Node) -> bool:
    return node.op.startswith(_SAME_SHAPE) and not node.op.endswith("_scalar")


# A known shape is never replaced: a second one for the same output is compared with it.
class _Inference:
    """Infers the shapes of a graph, node by node."""

    def __init__(self, graph: Symbol, known: dict[str, Shape]) -> None:
        self.graph = graph
        self.found = Inferred()
        for index, node in enumerate(graph.nodes):
            if node.is_variable:
                shape = known.get(node.name) or Attributes(node).integers("__shape__", ())
                if shape:  # (10, 0) is only partly known, and is shown as such
                    self.found.variables[node.name] = tuple(shape)
                    # a size of 0 means "not known yet" in MXNet
                    if 0 not in shape:
                        self.found.outputs[NodeOutput(index)] = tuple(shape)

    def shape_of(self, source: NodeOutput) -> Shape | None:
        return self.found.outputs.get(source._replace(version=0))

    # The shape goes to the variable, where `infer_shape` finds it.
    def settle(self, source: NodeOutput, shape: Shape, user: Node) -> None:
        """Set the shape that an operator needs of an input; an MXNetError where another one is known."""
        source = source._replace(version=0)
        # Two operators may share a weight: the second only compares.
        there = self.found.outputs.setdefault(source, shape)
        name = self.graph.nodes[source.node].name
        if there != shape:
            raise MXNetError(f"error in operator {user.name} ({user.op}): {name} is {there} where {shape} is "
                             "needed")
        if self.graph.nodes[source.node].is_variable:
            self.found.variables[name] = shape

    # What is not known yet is left for the next round.
    def add(self, index: int, node: Node) -> None:
        """Infer the shapes of one operator, as far as those of its inputs are known."""
        kind = layer_class(node.op)
        num_data = kind.num_data(OpSpec(node, None, {}))
        data, parameters = node.inputs[:num_data], node.inputs[num_data:]
        # First, as it may find all that this operator still waits for.
        self.spread(node, kind, data)
        shapes = [shape for shape in map(self.shape_of, data) if shape is not None]
        if len(shapes) < len(data):
            if shapes and _has_one_shape(node):
                self.found.outputs[NodeOutput(index)] = shapes[0]
            return
        # strict=False: a layer without bias has one input less than its class has parameters
        slots = dict(zip(kind.PARAMETER_NAMES, parameters, strict=False))
        known = {slot: self.shape_of(source) for slot, source in slots.items()}
        stored = {slot: shape for slot, shape in known.items() if shape is not None}
        layer, results = make_layer(node, shapes, stored)
        needed = layer.parameter_slots()
        if len(needed) != len(parameters):
            raise MXNetError(f"error in operator {node.name} ({node.op}): it has {len(needed)} parameters "
                             f"and is given {len(parameters)}")
        for slot in needed:
            self.settle(slots[slot], tuple(getattr(layer, slot).shape), node)
        self.found.layers[index] = layer
        for output, shape in enumerate(results):
            self.found.outputs[NodeOutput(index, output)] = shape

    # Labels of losses, and inputs of element-wise operators with another input of a known shape.
    def spread(self, node: Node, kind: type[Layer], data: list[NodeOutput]) -> None:
        """Give inputs the shape that follows from other inputs."""
        shapes = [self.shape_of(source) for source in data]
        if issubclass(kind, Loss) and len(data) == 2 and shapes[0] is not None and shapes[1] is None:
            layer, _ = make_layer(node, [shapes[0], shapes[0]], {})
            assert isinstance(layer, Loss)
            self.settle(data[1], layer.label_shape(shapes[0]), node)
        elif _has_one_shape(node):
            first = next((shape for shape in shapes if shape is not None), None)
            for source, shape in zip(data, shapes, strict=True):
                if shape is None and first is not None and self.graph.nodes[source.node].is_variable:
                    self.settle(source, first, node)
