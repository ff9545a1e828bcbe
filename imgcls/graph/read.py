"""symbol + arrays -> module: any MXNet network as a torch module made of our layers.

Files are not trusted: shapes are worked out on the meta device, which takes no memory, and compared with the
file's before a parameter is made. The names of nodes become part of the source code that fx writes: all go
through `_Reader._add_module`.
"""

from __future__ import annotations

import keyword
import math
import operator
import os
import re
from collections import Counter
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, fx, nn

from imgcls.errors import DataError, first_line, verbatim
from imgcls.formats import params
from imgcls.formats import symbol as symbols
from imgcls.formats.symbol import Node, NodeOutput, Symbol
from imgcls.graph.head import LOGITS, GraphHead, find_logits
from imgcls.graph.names import without_prefix
from imgcls.graph.parameters import ParameterMatch, load_arrays
from imgcls.layers import Layer, OpSpec, Shape
from imgcls.layers.operation import Variable
from imgcls.layers.operators import OPERATORS
from imgcls.storage.paths import to_path

#: how many values the parameters of a symbol may have that come from no file (8 GiB)
MAX_NEW_VALUES = 1 << 31


def load(symbol_path: str | os.PathLike[str], params_path: str | os.PathLike[str] | None = None,
         input_shape: tuple[int, ...] | None = None) -> fx.GraphModule:
    """Read files with `from_symbol`: `prefix-symbol.json` (or the prefix alone) and a `.params`."""
    path = to_path(symbol_path)
    if not path.is_file() and not path.name.endswith(".json"):  # a prefix, as MXNet's load_checkpoint takes
        path = path.with_name(f"{path.name}-symbol.json")
    arrays = None if params_path is None else params.load(params_path)
    return from_symbol(symbols.load(path), arrays, input_shape=input_shape, path=params_path or path,
                       symbol_path=path)


def from_symbol(symbol: Symbol, arrays: Mapping[str, np.ndarray] | None = None, *,
                input_shape: tuple[int, ...] | None = None, path: object = "symbol",
                symbol_path: object = None) -> fx.GraphModule:
    """Return a module that computes the symbol's logits, float (N, *input_shape) -> (N, classes).

    Its submodules are `Layer`s under the nodes' names, so it can be trained, copied, compiled and written
    back. Shapes of parameters come from `input_shape` (one sample, without the batch) or, without it, from
    `arrays`, which are loaded if given; without them the weights are as the layers make them, not
    initialised. `path` is what errors call the file: a DataError for an operator that is not known, a shape
    that does not fit, a missing array; `symbol_path` what they call that of the symbol, where it is another.
    """
    model = _Reader(symbol, arrays, input_shape, path, symbol_path or path).module()
    if arrays is not None:
        load_arrays(model, arrays, path=path)
    return model


class _Reader:
    """Builds the module of one symbol, node by node, with shapes worked out on the meta device as it goes."""

    # Inside, `index` is a node's place in the symbol and `source` an output that something takes as its
    # input.

    def __init__(self, symbol: Symbol, arrays: Mapping[str, np.ndarray] | None,
                 input_shape: tuple[int, ...] | None, path: object, symbol_path: object) -> None:
        self.symbol = symbol
        self.path = path
        self.symbol_path = symbol_path
        self.input_shape = input_shape
        self.output, self.logits = find_logits(symbol, symbol_path)
        # Without the head: its label is in no file and would be taken for a second image.
        self.body = _ancestors(symbol.nodes, self.logits.node)
        self.stored_shapes = {without_prefix(name): array.shape for name, array in (arrays or {}).items()}
        # Old symbols do not mark what their operators write to; a file's "aux:" does.
        self.auxiliary = set(symbol.auxiliary()) | {
            without_prefix(name) for name in arrays or {} if name.startswith("aux:")}
        # What is built: `root` holds the layers, `graph` calls them.
        self.root = nn.Module()
        self.graph = fx.Graph()
        #: traced value of each output that is used
        self.values: dict[NodeOutput, fx.Node] = {}
        #: call of each operator, by the index of its node
        self.calls: dict[int, fx.Node] = {}
        #: meta tensors, of the outputs whose shape is known
        self.shapes: dict[NodeOutput, Tensor] = {}
        #: layer and slot that hold a variable's values, by the index of its node
        self.owners: dict[int, tuple[Layer, str]] = {}
        #: how many values there are that come from no file
        self.num_new_values = 0
        #: how many other names were tried for each name that was taken
        self.num_alike: Counter[str] = Counter()

    def module(self) -> fx.GraphModule:
        data = self._find_input()
        for index in self.body:
            node = self.symbol.nodes[index]
            if index == data:
                self.values[NodeOutput(index)] = self.graph.placeholder("data")
                if self.input_shape is not None:  # a batch of 2: an axis of 1 would broadcast against any
                    self.shapes[NodeOutput(index)] = torch.empty((2, *self.input_shape), device="meta")
            elif not node.is_variable:
                self._add_operator(index, node)
        self.graph.output(self._value(self.logits))
        model = fx.GraphModule(self.root, self.graph, "ImportedNetwork")
        model.meta["head"] = self._head(data)
        return model

    def _find_input(self) -> int:
        """Return the variable that images go into: the one that is neither a parameter nor in the file."""
        used = [source.node for index in self.body for source in self._data_inputs(self.symbol.nodes[index])
                if self.symbol.nodes[source.node].is_variable]
        free = [index for index in dict.fromkeys(used)
                if self.symbol.nodes[index].name not in self.stored_shapes]
        if not free:
            raise DataError(self.symbol_path, "no variable is left for the image to go into")
        # Several are left where a file lacks weights; then the usual name decides, or the first use.
        named_data = [index for index in free if self.symbol.nodes[index].name == "data"]
        return named_data[0] if named_data else free[0]

    def _data_inputs(self, node: Node) -> list[NodeOutput]:
        """Return the inputs of an operator that are not its parameters."""
        if node.is_variable:
            return []
        return node.inputs[:self._layer_class(node).num_data(OpSpec(node, None, {}))]

    def _layer_class(self, node: Node) -> type[Layer]:
        if node.op not in OPERATORS:
            raise DataError(self.symbol_path, f"operator {verbatim(node.op)} of node "
                                              f"{verbatim(repr(node.name))} is not supported "
                                              "(docs/operators.md lists those that are)")
        return OPERATORS[node.op]

    def _add_operator(self, index: int, node: Node) -> None:
        """Add one operator: its layer, its call, and the shapes of its results."""
        layer_class = self._layer_class(node)
        inputs = self._data_inputs(node)
        # strict=False: a layer without bias has one input less than its class has parameters
        slots = dict(zip(layer_class.PARAMETER_NAMES, node.inputs[len(inputs):], strict=False))
        names = {slot: self.symbol.nodes[source.node].name for slot, source in slots.items()}
        stored = {slot: self.stored_shapes[name] for slot, name in names.items()
                  if name in self.stored_shapes}
        arguments = [self._value(source) for source in inputs]
        shapes = [self.shapes.get(source) for source in inputs]
        first = shapes[0] if shapes else None
        spec = OpSpec(node, None if first is None else tuple(first.shape), stored)
        try:
            self._check_outline(index, node, spec, names, shapes)
            layer = layer_class.read(spec)
        except (ValueError, ArithmeticError, RuntimeError, LookupError, TypeError) as error:
            # An operator with parameters may contradict those of the file; any other error is in the symbol
            # itself.
            path = self.path if slots else self.symbol_path
            raise DataError(path, f"node {verbatim(repr(node.name))} ({verbatim(node.op)}): "
                                  f"{first_line(error)}") from error
        # A class may serve several operators, and the file's own text is what is written back.
        layer.op = node.op
        layer.attrs = dict(node.attrs)
        key = self._add_module(node.name, layer)
        self._name_parameters(layer, slots)
        self.calls[index] = self.graph.call_module(key, tuple(arguments))

    def _check_outline(self, index: int, node: Node, spec: OpSpec, names: Mapping[str, str],
                       shapes: list[Tensor | None]) -> None:
        """Make the layer on the meta device, compare it with the file, infer the shapes of its results."""
        with torch.device("meta"), torch.no_grad():
            outline = self._layer_class(node).read(spec).eval()  # shapes without values: it takes no memory
            # An attribute that no reader has read could change the result: better refused than ignored.
            if unknown := spec.unknown():
                raise ValueError(f"parameter {unknown[0]!r} is not known")
            num_parameters = len(outline.parameter_slots())
            if outline.num_inputs is not None and len(node.inputs) != outline.num_inputs + num_parameters:
                raise ValueError(f"it takes {outline.num_inputs + num_parameters} inputs and is given "
                                 f"{len(node.inputs)}")
            if not shapes:
                raise ValueError("it has no inputs")
            self._check_parameters(outline, names, spec.stored)
            if all(shape is not None for shape in shapes):
                result = outline.infer(*(shape for shape in shapes if shape is not None))
                results = result if isinstance(result, (tuple, list)) else [result]
                self.shapes |= {NodeOutput(index, output): value for output, value in enumerate(results)}

    def _check_parameters(self, outline: Layer, names: Mapping[str, str],
                          stored: Mapping[str, Shape]) -> None:
        """Compare with the file's shapes, before memory is taken for sizes that a symbol made up."""
        for slot in outline.parameter_slots():
            name = names[slot]
            shape = tuple(getattr(outline, slot).shape)
            if slot not in stored:
                self.num_new_values += math.prod(shape)
            elif stored[slot] != shape:
                match = ParameterMatch(mismatched=[(name, stored[slot], shape)])
                raise DataError(self.path, match.complaint())
        if self.num_new_values > MAX_NEW_VALUES:
            raise ValueError(f"the network would have more than {MAX_NEW_VALUES} parameters")

    def _name_parameters(self, layer: Layer, slots: Mapping[str, NodeOutput]) -> None:
        """Note how the file names the layer's parameters, and share those that another layer has as well."""
        for slot in layer.parameter_slots():
            index = slots[slot].node
            variable = self.symbol.nodes[index]
            if not variable.is_variable:
                reason = f"the {slot} of a {layer.op} is computed by node {variable.name!r}"
                raise DataError(self.symbol_path, f"{reason}, which is not supported")
            layer.variables[slot] = Node("null", variable.name, dict(variable.attrs))
            if index in self.owners:  # two layers of one weight: trained as one, and saved once
                owner, owner_slot = self.owners[index]
                shared = getattr(owner, owner_slot)
                # learned by both, or kept by both: torch takes the first for the second in silence
                if isinstance(shared, nn.Parameter) != isinstance(getattr(layer, slot), nn.Parameter):
                    reason = f"{variable.name!r} is trained in one layer and a running statistic in another"
                    raise DataError(self.symbol_path, f"{reason}, which is not supported")
                setattr(layer, slot, shared)
            else:
                self.owners[index] = (layer, slot)

    def _add_module(self, name: str, layer: Layer) -> str:
        """Put the layer under its node's name, or one like it that a module may have; return that name.

        The names of modules become part of the source code that fx writes and runs, and a file may call a
        node anything: only characters that cannot leave a string or a word of Python are let through.
        """
        key = stem = re.sub(r"[^\w*+:/@-]", "_", name, flags=re.ASCII) or "node"
        # Names that a GraphModule uses itself, or that fx gives the image in its source.
        taken = ("data", "graph", "meta")
        while keyword.iskeyword(key) or key in taken or any(
                hasattr(owner, key) for owner in (self.root, fx.GraphModule)):
            # numbers and not more underscores: a file may have any number of names that become one, each of
            # which would be compared with all before it
            self.num_alike[stem] += 1
            key = f"{stem}_" if self.num_alike[stem] == 1 else f"{stem}_{self.num_alike[stem]}"
        layer.node_name = "" if key == name else name
        self.root.add_module(key, layer)
        return key

    def _value(self, source: NodeOutput) -> fx.Node:
        """Return the traced value of an output; a variable that is no parameter gets a layer of its own."""
        if source in self.values:
            return self.values[source]
        node = self.symbol.nodes[source.node]
        if node.is_variable:
            self.calls[source.node] = self._add_free_variable(source.node, node)
            self.values[source] = self.calls[source.node]
            return self.values[source]
        call = self.calls[source.node]
        layer = self.root.get_submodule(str(call.target))
        # Other operators have hidden outputs (a dropout's mask); no network may use them here.
        if isinstance(layer, Layer) and layer.has_outputs:
            self.values[source] = self.graph.call_function(operator.getitem, (call, source.output))
        elif source.output:
            raise DataError(self.symbol_path, f"output {source.output} of node {verbatim(repr(node.name))} "
                                              f"({verbatim(node.op)}) is used, which is not supported")
        else:
            self.values[source] = call
        return self.values[source]

    def _add_free_variable(self, index: int, node: Node) -> fx.Node:
        """Add a variable that is an input like any other, with the file's shape or its own `__shape__`."""
        shape = self.stored_shapes.get(node.name)
        if shape is None:
            try:
                shape = symbols.Attributes(Node("null", node.name, node.attrs)).integers("__shape__")
            except ValueError:  # no shape, or no list of numbers: refused below
                shape = (0,)
            self.num_new_values += math.prod(shape)
            if not 0 < math.prod(shape) <= self.num_new_values <= MAX_NEW_VALUES:
                raise DataError(self.path, f"variable {verbatim(repr(node.name))} is neither the image nor "
                                           "among the parameters")
        layer = Variable(shape, node.name in self.auxiliary, node.attrs)
        layer.variables["value"] = Node("null", node.name, dict(node.attrs))
        self.shapes[NodeOutput(index)] = torch.empty(shape, device="meta")
        return self.graph.call_module(self._add_module(node.name, layer), ())

    def _head(self, data: int) -> GraphHead:
        """Return what the symbol has behind the logits, to be written back with it."""
        # What the head needs and the network does not: its own nodes, labels included.
        inside = set(self.body)
        behind = [index for index in _ancestors(self.symbol.nodes, self.output.node) if index not in inside]
        head_index = {index: number for number, index in enumerate(behind)}
        nodes = []
        for index in behind:
            node = self.symbol.nodes[index]
            inputs = [self._in_head(source, head_index) for source in node.inputs]
            nodes.append(Node(node.op, node.name, dict(node.attrs), inputs))
        # Under the name that the file gives it: MXNet's programs bind it by name.
        image = self.symbol.nodes[data]
        return GraphHead(Node("null", image.name, dict(image.attrs)), nodes,
                         self._in_head(self.output, head_index))

    def _in_head(self, source: NodeOutput, head_index: Mapping[int, int]) -> NodeOutput:
        """Return an output as the head counts it; of the network it may use the logits only."""
        if source.node in head_index:
            return source._replace(node=head_index[source.node])
        if (source.node, source.output) != (self.logits.node, self.logits.output):
            name = self.symbol.nodes[source.node].name
            raise DataError(self.symbol_path,
                            f"the output uses {name!r} beside the logits, which is not supported")
        return source._replace(node=LOGITS)


def _ancestors(nodes: list[Node], last: int) -> list[int]:
    """Return the indices of the node and of everything it needs, in order."""
    # Inputs come before their node, so one pass from the end finds all; recursion would run out of stack.
    needed = {last}
    for index in range(last, -1, -1):
        if index in needed:
            needed.update(source.node for source in nodes[index].inputs)
    return sorted(needed)
