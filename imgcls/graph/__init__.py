"""Networks and MXNet's files: a module becomes a symbol and named arrays, a foreign symbol becomes a module.

Used by `checkpoint`, fine-tuning and scoring. Names follow one rule: a layer's path with dots as underscores
is the node's name, and MXNet's suffix names a parameter (`stage1.conv` -> `stage1_conv_weight`). Modules that
MXNet cannot express keep torch's own names, and have arrays but no symbol.
"""

from __future__ import annotations

import keyword
import math
import operator
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, fx, nn

from imgcls.errors import DataError, UsageError
from imgcls.formats import params
from imgcls.formats import symbol as symbols
from imgcls.formats.symbol import STATISTICS_INIT, Node, NodeOutput, Symbol
from imgcls.layers import Layer, OpSpec, Shape
from imgcls.layers.operation import Variable
from imgcls.layers.operators import OPERATORS
from imgcls.storage.paths import to_path

#: heads that are a loss or a link function: the network proper is what goes in
SOFTMAX_HEADS = ("SoftmaxOutput", "SoftmaxActivation", "softmax", "log_softmax")
OTHER_HEADS = ("LinearRegressionOutput", "LogisticRegressionOutput", "MAERegressionOutput", "SVMOutput")
#: heads that hand on what goes in
TRANSPARENT = ("BlockGrad", "MakeLoss", "make_loss", "_copy")
#: how many values the parameters of a symbol may have that come from no file (8 GiB)
MAX_NEW_VALUES = 1 << 31


@dataclass(frozen=True)
class ParameterMatch:
    """What `load_arrays` did, by MXNet's names without prefix.

    `missing` are parameters that the file does not have, `mismatched` those that have another shape there
    (name, shape in the file, shape in the network), `unexpected` arrays that belong to no parameter.
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, Shape, Shape]] = field(default_factory=list)


@dataclass(frozen=True)
class GraphHead:
    """What a foreign symbol has around the network: the input's node, and the nodes behind the logits.

    In `nodes` an input entry of node -1 is the logits, others count within `nodes`; `head` likewise.
    """

    data: Node
    nodes: list[Node]
    head: NodeOutput


# --------------------------------------------------------------------------------------- module -> symbol


def to_symbol(model: nn.Module, *, output: str = "softmax") -> Symbol:
    """The symbol of a module made of `Layer`s: its layers in the order of calls, behind them a SoftmaxOutput.

    `output` names that last node ("": none, the logits are the head). A module that `from_symbol` made ends
    as the symbol it came from did. A module with anything that is not a Layer, or with a layer called twice,
    is a UsageError.
    """
    graph = _trace(model)
    ending = getattr(model, "meta", {}).get("head") if isinstance(model, fx.GraphModule) else None
    writer = _Writer(model, ending.data if ending else Node("null", "data"))
    logits = writer.body(graph)
    nodes = writer.nodes
    if ending is None:
        ending = _default_ending(output)
    start = len(nodes)
    for node in ending.nodes:
        inputs = [_shifted(entry, logits, start) for entry in node.inputs]
        nodes.append(Node(node.op, node.name, dict(node.attrs), inputs))
    ordered, heads = symbols.post_order(nodes, [_shifted(ending.head, logits, start)])
    return Symbol(ordered, heads)


def _shifted(entry: NodeOutput, logits: NodeOutput, start: int) -> NodeOutput:
    return logits if entry.node < 0 else entry._replace(node=entry.node + start)


def _default_ending(output: str) -> GraphHead:
    if not output:
        return GraphHead(Node("null", "data"), [], NodeOutput(-1))
    nodes = [Node("null", f"{output}_label"), Node("SoftmaxOutput", output, {}, [NodeOutput(-1), NodeOutput(0)])]
    return GraphHead(Node("null", "data"), nodes, NodeOutput(1))


def end_with_softmax(model: fx.GraphModule) -> None:
    """Let the symbol of a network that `from_symbol` made end in a softmax, whatever it ended in before."""
    head = _default_ending("softmax")
    model.meta["head"] = GraphHead(model.meta["head"].data, head.nodes, head.head)


class _Tracer(fx.Tracer):
    """Stops at layers, and at modules without layers, so that those can be named in an error."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Layer) or not any(isinstance(part, Layer) for part in m.modules())


def _trace(model: nn.Module) -> fx.Graph:
    if isinstance(model, fx.GraphModule):
        return model.graph
    if isinstance(model, Layer):
        raise UsageError(f"a single {type(model).__name__} is no network: put it into a module")
    try:
        return _Tracer().trace(model)
    except Exception as error:
        what = type(model).__name__
        raise UsageError(f"{what} cannot be written as a symbol: {_first_line(error)}") from error


class _Writer:
    """Collects the nodes of a symbol from a trace."""

    def __init__(self, model: nn.Module, data: Node) -> None:
        self.model, self.what = model, type(model).__name__
        self.nodes: list[Node] = [Node("null", data.name, dict(data.attrs))]
        self.by_name: dict[str, int] = {data.name: 0}
        self.seen: set[str] = set()

    def body(self, graph: fx.Graph) -> NodeOutput:
        """Add every call of the trace; returns where the result is."""
        entries: dict[fx.Node, NodeOutput] = {}
        for node in graph.nodes:
            if node.op == "output":
                if not isinstance(node.args[0], fx.Node):
                    raise self.error("it must return one tensor")
                return entries[node.args[0]]
            if node.op == "placeholder":
                if entries:
                    raise self.error(f"it takes a second input ({node.target})")
                entries[node] = NodeOutput(0)
            elif node.op == "call_module":
                entries[node] = self.layer(str(node.target), node, entries)
            elif node.op == "call_function" and node.target is operator.getitem:
                source, index = node.args
                entries[node] = entries[source]._replace(output=index)  # type: ignore[index,arg-type]
            else:
                raise self.error(f"{_described(node)} is not a Layer")
        raise self.error("it returns nothing")

    def layer(self, path: str, call: fx.Node, entries: Mapping[fx.Node, NodeOutput]) -> NodeOutput:
        """Add the layer at `path` and its variables."""
        layer = self.model.get_submodule(path)
        if not isinstance(layer, Layer):
            raise self.error(f"{path} is a {type(layer).__name__}, not a Layer")
        if path in self.seen:
            raise self.error(f"layer {path} is called twice")
        self.seen.add(path)
        name = node_name(path, layer)
        if call.kwargs or not all(isinstance(arg, fx.Node) for arg in call.args):
            raise self.error(f"layer {path} must be called with tensors only, in MXNet's order")
        inputs = [entries[arg] for arg in call.args if isinstance(arg, fx.Node)]
        if layer.op == "null":
            return NodeOutput(self.variable(variable_of(name, layer, "value")))
        for slot in layer.parameter_slots():
            version = int(slot in layer.AUXILIARY)
            inputs.append(NodeOutput(self.variable(variable_of(name, layer, slot)), 0, version))
        if name in self.by_name:
            raise self.error(f"two nodes would be called {name}")
        return NodeOutput(self.add(Node(layer.op, name, dict(layer.attrs), inputs)))

    def variable(self, node: Node) -> int:
        """Where the variable is; one that two layers share is written once."""
        known = self.by_name.get(node.name)
        if known is None:
            return self.add(node)
        if not self.nodes[known].is_variable or known == 0:
            raise self.error(f"two nodes would be called {node.name}")
        return known

    def add(self, node: Node) -> int:
        self.by_name[node.name] = len(self.nodes)
        self.nodes.append(node)
        return len(self.nodes) - 1

    def error(self, reason: str) -> UsageError:
        return UsageError(f"{self.what} cannot be written as a symbol: {reason}")


def _described(node: fx.Node) -> str:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return f"{name} ({node.op.replace('_', ' ')} {node.name})"


def node_name(path: str, layer: Layer) -> str:
    """What MXNet calls the layer at `path` ("stage1.conv" -> "stage1_conv")."""
    return layer.node_name or path.replace(".", "_")


def variable_of(name: str, layer: Layer, slot: str) -> Node:
    """The variable of one parameter: MXNet copies an operator's attributes onto those that it makes itself."""
    if slot in layer.variables:
        given = layer.variables[slot]
        return Node("null", given.name, dict(given.attrs))
    suffix = layer.PARAMETER_NAMES[slot]
    initial = {"__init__": STATISTICS_INIT[suffix]} if suffix in STATISTICS_INIT else {}
    return Node("null", f"{name}_{suffix}" if suffix else name, layer.attrs | initial)


# --------------------------------------------------------------------------------------- symbol -> module


def load(symbol_path: str | os.PathLike[str], params_path: str | os.PathLike[str] | None = None,
         input_shape: tuple[int, ...] | None = None) -> fx.GraphModule:
    """`from_symbol` of files: `prefix-symbol.json` (or the prefix alone) and a `.params`."""
    path = to_path(symbol_path)
    if not path.is_file() and not path.name.endswith(".json"):
        path = path.with_name(f"{path.name}-symbol.json")
    arrays = None if params_path is None else params.load(params_path)
    return from_symbol(symbols.load(path), arrays, input_shape=input_shape, path=params_path or path, symbol_path=path)


def from_symbol(symbol: Symbol, arrays: Mapping[str, np.ndarray] | None = None, *,
                input_shape: tuple[int, ...] | None = None, path: object = "symbol",
                symbol_path: object = None) -> fx.GraphModule:
    """A module that computes the symbol's logits: float (N, *input_shape) -> what goes into the final softmax.

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


def find_logits(symbol: Symbol, path: object = "symbol") -> tuple[NodeOutput, NodeOutput]:
    """The head that classifies and the logits behind it (the same where the head is no softmax)."""
    found = []
    heads = {head.node: head for head in reversed(symbol.heads)}  # of one node's outputs the first counts
    for head in reversed(heads.values()):
        entry = head
        while symbol.nodes[entry.node].op in TRANSPARENT and symbol.nodes[entry.node].inputs:
            entry = symbol.nodes[entry.node].inputs[0]
        node = symbol.nodes[entry.node]
        if node.op in SOFTMAX_HEADS + OTHER_HEADS and node.inputs:
            found.append((head, node.inputs[0], node.op in SOFTMAX_HEADS))
        else:
            found.append((head, entry, False))
    softmaxes = [(head, logits) for head, logits, is_softmax in found if is_softmax]
    if len(softmaxes) == 1:
        return softmaxes[0]
    if len(found) == 1:
        return found[0][:2]
    names = ", ".join(symbol.nodes[head.node].name for head in symbol.heads)
    raise DataError(path, f"the symbol has several outputs ({names}): it is not clear which one classifies")


class _Reader:
    """Builds the module of one symbol, node by node, with shapes worked out on the meta device as it goes."""

    def __init__(self, symbol: Symbol, arrays: Mapping[str, np.ndarray] | None,
                 input_shape: tuple[int, ...] | None, path: object, symbol_path: object) -> None:
        self.symbol, self.path, self.symbol_path = symbol, path, symbol_path
        self.head, self.logits = find_logits(symbol, symbol_path)
        self.stored = {name: array.shape for name, array in _bare(arrays or {}).items()}
        self.auxiliary = set(symbol.auxiliary()) | {
            name[4:] for name in arrays or {} if name.startswith("aux:")}
        self.body = _ancestors(symbol.nodes, self.logits.node)
        self.root, self.graph = nn.Module(), fx.Graph()
        self.values: dict[NodeOutput, fx.Node] = {}
        self.results: dict[int, fx.Node] = {}
        self.shapes: dict[NodeOutput, Tensor] = {}
        self.owners: dict[int, tuple[Layer, str]] = {}
        self.input_shape, self.new_values = input_shape, 0

    def module(self) -> fx.GraphModule:
        data = self.find_input()
        for index in self.body:
            node = self.symbol.nodes[index]
            if index == data:
                self.values[NodeOutput(index)] = self.graph.placeholder("data")
                if self.input_shape is not None:
                    self.shapes[NodeOutput(index)] = torch.empty((2, *self.input_shape), device="meta")
            elif not node.is_variable:
                self.operator(index, node)
        self.graph.output(self.value(self.logits))
        model = fx.GraphModule(self.root, self.graph, "ImportedNetwork")
        model.meta["head"] = self.ending(data)
        return model

    def find_input(self) -> int:
        """The variable that images go into: the one that is neither a parameter nor in the file."""
        used = [entry.node for index in self.body for entry in self.data_entries(self.symbol.nodes[index])
                if self.symbol.nodes[entry.node].is_variable]
        free = [index for index in dict.fromkeys(used) if self.symbol.nodes[index].name not in self.stored]
        named = [index for index in free if self.symbol.nodes[index].name == "data"]
        if not free:
            raise DataError(self.symbol_path, "no variable is left for the image to go into")
        return named[0] if named else free[0]

    def data_entries(self, node: Node) -> list[NodeOutput]:
        """The inputs of an operator that are not its parameters."""
        if node.is_variable:
            return []
        return node.inputs[:self.layer_class(node).num_data(OpSpec(node, None, {}))]

    def layer_class(self, node: Node) -> type[Layer]:
        if node.op not in OPERATORS:
            raise DataError(self.symbol_path, f"operator {node.op} of node {node.name!r} is not supported "
                            "(docs/operators.md lists those that are)")
        return OPERATORS[node.op]

    def operator(self, index: int, node: Node) -> None:
        """Add one operator: its layer, its call, and the shapes of its results."""
        layer_class = self.layer_class(node)
        entries = self.data_entries(node)
        slots = dict(zip(layer_class.PARAMETER_NAMES, node.inputs[len(entries):], strict=False))
        stored = {slot: self.stored[self.symbol.nodes[entry.node].name] for slot, entry in slots.items()
                  if self.symbol.nodes[entry.node].name in self.stored}
        arguments = [self.value(entry) for entry in entries]
        known = [self.shapes.get(entry) for entry in entries]
        first = known[0] if known else None
        spec = OpSpec(node, None if first is None else tuple(first.shape), stored)
        try:
            with torch.device("meta"), torch.no_grad():
                outline = layer_class.read(spec).eval()  # has shapes and no values, so it takes no memory
                if unknown := spec.unknown():
                    raise ValueError(f"parameter {unknown[0]!r} is not known")
                self.check_inputs(outline, len(entries), len(node.inputs))
                self.check_shapes(outline, slots, stored)
                if all(shape is not None for shape in known):
                    self.infer(index, outline, known)
            layer = layer_class.read(spec)
        except (ValueError, ArithmeticError, RuntimeError, LookupError, TypeError) as error:
            path = self.path if slots else self.symbol_path  # what has parameters may not fit those of the file
            raise DataError(path, f"node {node.name!r} ({node.op}): {_first_line(error)}") from error
        layer.op, layer.attrs = node.op, dict(node.attrs)
        key = self.add_module(node.name, layer)
        self.parameters(layer, slots)
        self.results[index] = self.graph.call_module(key, tuple(arguments))

    def check_inputs(self, layer: Layer, num_data: int, num_inputs: int) -> None:
        slots = layer.parameter_slots()
        wanted = None if layer.num_inputs is None else layer.num_inputs + len(slots)
        if wanted is not None and num_inputs != wanted:
            raise ValueError(f"it takes {wanted} inputs and is given {num_inputs}")
        if num_data < 1:
            raise ValueError("it has no inputs")

    def check_shapes(self, outline: Layer, slots: Mapping[str, NodeOutput], stored: Mapping[str, Shape]) -> None:
        """Compare with the file's shapes, before memory is taken for parameters of sizes that a symbol made up."""
        for slot in outline.parameter_slots():
            wanted, name = tuple(getattr(outline, slot).shape), self.symbol.nodes[slots[slot].node].name
            if slot not in stored:
                self.new_values += math.prod(wanted)
            elif stored[slot] != wanted:
                report = ParameterMatch(mismatched=[(name, stored[slot], wanted)])
                raise DataError(self.path, _complaint(report))
        if self.new_values > MAX_NEW_VALUES:
            raise ValueError(f"the network would have more than {MAX_NEW_VALUES} parameters")

    def infer(self, index: int, outline: Layer, known: list[Tensor | None]) -> None:
        """The shapes of the results, worked out without values."""
        result = outline.infer(*(value for value in known if value is not None))
        results = result if isinstance(result, (tuple, list)) else [result]
        self.shapes |= {NodeOutput(index, output): value for output, value in enumerate(results)}

    def parameters(self, layer: Layer, slots: Mapping[str, NodeOutput]) -> None:
        """Remember how the file names the layer's parameters, and share those that another layer has, too."""
        for slot in layer.parameter_slots():
            index = slots[slot].node
            variable = self.symbol.nodes[index]
            if not variable.is_variable:
                reason = f"the {slot} of a {layer.op} is computed by node {variable.name!r}"
                raise DataError(self.symbol_path, f"{reason}, which is not supported")
            layer.variables[slot] = Node("null", variable.name, dict(variable.attrs))
            if index in self.owners:
                owner, name = self.owners[index]
                setattr(layer, slot, getattr(owner, name))
            else:
                self.owners[index] = (layer, slot)

    def add_module(self, name: str, layer: Layer) -> str:
        """Put the layer under its node's name, or under one like it that a module may have.

        The names of modules become part of the source code that fx writes and runs, and a file may call a
        node anything: only characters that cannot leave a string or a word of Python are let through.
        """
        key = re.sub(r"[^\w*+:/@-]", "_", name, flags=re.ASCII) or "node"
        taken = ("data", "graph", "meta")
        while keyword.iskeyword(key) or key in taken or any(
                hasattr(owner, key) for owner in (self.root, fx.GraphModule)):
            key += "_"
        layer.node_name = "" if key == name else name
        self.root.add_module(key, layer)
        return key

    def value(self, entry: NodeOutput) -> fx.Node:
        """The traced value of an entry; a variable that is no parameter gets a layer of its own."""
        if entry in self.values:
            return self.values[entry]
        node = self.symbol.nodes[entry.node]
        if node.is_variable:
            self.results[entry.node] = self.free_variable(entry.node, node)
            self.values[entry] = self.results[entry.node]
            return self.values[entry]
        call = self.results[entry.node]
        layer = self.root.get_submodule(str(call.target))
        if isinstance(layer, Layer) and layer.has_outputs:
            self.values[entry] = self.graph.call_function(operator.getitem, (call, entry.output))
        elif entry.output:
            raise DataError(self.symbol_path, f"output {entry.output} of node {node.name!r} ({node.op}) is used, "
                            "which is not supported")
        else:
            self.values[entry] = call
        return self.values[entry]

    def free_variable(self, index: int, node: Node) -> fx.Node:
        shape = self.stored.get(node.name)
        if shape is None:
            try:
                shape = symbols.Attributes(Node("null", node.name, node.attrs)).integers("__shape__")
            except ValueError:
                shape = (0,)
            self.new_values += math.prod(shape)
            if not 0 < math.prod(shape) <= self.new_values <= MAX_NEW_VALUES:
                raise DataError(self.path,
                                f"variable {node.name!r} is neither the image nor among the parameters")
        layer = Variable(shape, node.name in self.auxiliary, node.attrs)
        layer.variables["value"] = Node("null", node.name, dict(node.attrs))
        self.shapes[NodeOutput(index)] = torch.empty(shape, device="meta")
        return self.graph.call_module(self.add_module(node.name, layer), ())

    def ending(self, data: int) -> GraphHead:
        """What the symbol has behind the logits, to be written back with it."""
        inside = set(self.body)
        behind = [i for i in _ancestors(self.symbol.nodes, self.head.node) if i not in inside]
        place = {index: number for number, index in enumerate(behind)}
        nodes = []
        for index in behind:
            node = self.symbol.nodes[index]
            inputs = [self.placed(entry, place) for entry in node.inputs]
            nodes.append(Node(node.op, node.name, dict(node.attrs), inputs))
        given = self.symbol.nodes[data]
        return GraphHead(Node("null", given.name, dict(given.attrs)), nodes, self.placed(self.head, place))

    def placed(self, entry: NodeOutput, place: Mapping[int, int]) -> NodeOutput:
        """An entry among the nodes behind the logits; of the network before it they may use the logits only."""
        if entry.node in place:
            return entry._replace(node=place[entry.node])
        if (entry.node, entry.output) != (self.logits.node, self.logits.output):
            name = self.symbol.nodes[entry.node].name
            raise DataError(self.symbol_path, f"the output uses {name!r} beside the logits, which is not supported")
        return entry._replace(node=-1)


def _ancestors(nodes: list[Node], last: int) -> list[int]:
    """Indices of the node and of everything it needs, in order."""
    needed = {last}
    for index in range(last, -1, -1):
        if index in needed:
            needed.update(entry.node for entry in nodes[index].inputs)
    return sorted(needed)


# ---------------------------------------------------------------------------------------------- parameters


def parameter_names(model: nn.Module) -> dict[str, str]:
    """Key of the state_dict -> MXNet's name, without prefix; a key outside of `Layer`s is its own name."""
    layers = {path: module for path, module in model.named_modules() if isinstance(module, Layer)}
    names = {}
    for key in model.state_dict(keep_vars=True):
        path, _, slot = key.rpartition(".")
        layer = layers.get(path)
        names[key] = variable_of(node_name(path, layer), layer, slot).name if layer is not None else key
    return names


def arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """All parameters as MXNet saves them: "arg:fc1_weight", ..., then "aux:bn_moving_mean", ..., in the
    symbol's order (in the module's own where there is no symbol). On the CPU they share memory with the
    model; what numpy has no dtype for (bfloat16) comes as float32."""
    names, auxiliary = parameter_names(model), _auxiliary_keys(model)
    state = model.state_dict(keep_vars=True)
    found: dict[str, str] = {}
    for key in state:
        found.setdefault(names[key], key)
    ordered = [name for name in _symbol_order(model) if name in found]
    ordered += [name for name in found if name not in set(ordered)]
    args = {f"arg:{n}": _numpy(state[found[n]]) for n in ordered if found[n] not in auxiliary}
    return args | {f"aux:{n}": _numpy(state[found[n]]) for n in ordered if found[n] in auxiliary}


def load_arrays(model: nn.Module, arrays: Mapping[str, np.ndarray], *, path: object,
                strict: bool = True) -> ParameterMatch:
    """Copy arrays into the parameters of the same names (prefixes "arg:" and "aux:" or none), in place.

    With `strict` a parameter that is missing or has another shape is a DataError that names up to three, and
    nothing is copied; arrays that belong to no parameter are never an error.
    """
    given = _bare(arrays)
    state, names = model.state_dict(keep_vars=True), parameter_names(model)
    report = ParameterMatch(unexpected=[name for name in given if name not in set(names.values())])
    fitting = {}
    for key, name in names.items():
        if name not in given:
            report.missing.append(name)
        elif given[name].shape != tuple(state[key].shape):
            report.mismatched.append((name, given[name].shape, tuple(state[key].shape)))
        else:
            fitting[key] = given[name]
            report.loaded.append(name)
    if strict and (report.missing or report.mismatched):
        raise DataError(path, _complaint(report))
    with torch.no_grad():
        for key, array in fitting.items():
            state[key].copy_(_tensor(array))
    return report


def multipliers(model: nn.Module) -> dict[str, tuple[float, float]]:
    """Key of the state_dict -> (learning rate, weight decay) multipliers, for those that have one
    (`__lr_mult__`, `__wd_mult__` on a layer or on its parameter)."""
    found = {}
    for path, layer in model.named_modules():
        if not isinstance(layer, Layer):
            continue
        for slot in layer.parameter_slots():
            attrs = variable_of(node_name(path, layer), layer, slot).attrs
            try:
                pair = float(attrs.get("__lr_mult__", "1")), float(attrs.get("__wd_mult__", "1"))
            except ValueError as error:
                raise UsageError(f"layer {path}: {_first_line(error)} as a multiplier") from error
            if pair != (1.0, 1.0):
                found[f"{path}.{slot}"] = pair
    return found


def _complaint(report: ParameterMatch) -> str:
    """One line about what does not fit, with up to three names."""
    parts = [f"{name} is {shape} where the network needs {need}" for name, shape, need in report.mismatched]
    parts += [f"{name} is missing" for name in report.missing]
    rest = len(parts) - 3
    more = f"; and {rest} more" if rest > 0 else ""
    return f"not the parameters of this network: {'; '.join(parts[:3])}{more}"


def without_prefix(name: str) -> str:
    """Return the name of an array without its "arg:" or "aux:"."""
    return name[4:] if name.startswith(("arg:", "aux:")) else name


def _bare(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {without_prefix(name): array for name, array in arrays.items()}


def _auxiliary_keys(model: nn.Module) -> set[str]:
    """Keys of the state_dict that are auxiliary states: of a layer those it says, elsewhere every buffer."""
    keys = set()
    for path, module in model.named_modules():
        buffers = {name for name, _ in module.named_buffers(recurse=False)}
        names = module.AUXILIARY if isinstance(module, Layer) else buffers
        keys.update(f"{path}.{name}" if path else name for name in names)
    return keys


def _symbol_order(model: nn.Module) -> list[str]:
    """Names of the variables as the symbol lists them; nothing where the module is no symbol."""
    if not any(isinstance(module, Layer) for module in model.modules()):
        return []
    try:
        return to_symbol(model).variables()
    except UsageError:
        return []


def _numpy(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _tensor(array: np.ndarray) -> Tensor:
    """A tensor of the array's values; copied only where torch could not use the memory."""
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    if not native.flags.writeable or any(stride < 0 for stride in native.strides):
        native = native.copy()
    return torch.from_numpy(native)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
