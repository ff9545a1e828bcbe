"""module -> symbol: a trace of the module's layers, written as MXNet's nodes."""

from __future__ import annotations

import operator
from collections.abc import Mapping

from torch import fx, nn

from imgcls.errors import UsageError, first_line
from imgcls.formats import symbol as symbols
from imgcls.formats.symbol import Node, NodeOutput, Symbol
from imgcls.graph.head import default_head, head_of
from imgcls.graph.names import node_name, variable_node
from imgcls.layers import Layer


def to_symbol(model: nn.Module, *, output: str = "softmax") -> Symbol:
    """Return the symbol of a module made of `Layer`s: its layers in the order of calls, then a SoftmaxOutput.

    `output` names that last node ("": none, the logits are the output). A module that `from_symbol` made ends
    as the symbol it came from did. A module with anything that is not a Layer, or with a layer called twice,
    is a UsageError.
    """
    graph = _trace(model)
    # A network that was read ends as its file did, whatever `output` says: other programs get its outputs by
    # name.
    head = head_of(model) or default_head(output)
    writer = _Writer(model, head.data)
    logits = writer.add_body(graph)
    nodes = writer.nodes
    start = len(nodes)
    for node in head.nodes:
        inputs = [_in_symbol(source, logits, start) for source in node.inputs]
        nodes.append(Node(node.op, node.name, dict(node.attrs), inputs))
    # MXNet lists nodes depth first from the outputs; a trace lists them as they were called.
    ordered, heads = symbols.post_order(nodes, [_in_symbol(head.output, logits, start)])
    return Symbol(ordered, heads)


def _in_symbol(source: NodeOutput, logits: NodeOutput, start: int) -> NodeOutput:
    """Return an output of the head as the symbol counts it; the head's nodes begin at `start`."""
    return logits if source.node < 0 else source._replace(node=source.node + start)


class _Tracer(fx.Tracer):
    """Stops at layers, and at modules without layers, so that those can be named in an error."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Layer) or not any(isinstance(child, Layer) for child in m.modules())


def _trace(model: nn.Module) -> fx.Graph:
    if isinstance(model, fx.GraphModule):  # written by NetworkBuilder or by `read`
        return model.graph
    if isinstance(model, Layer):
        raise UsageError(f"a single {type(model).__name__} is no network: put it into a module")
    try:
        return _Tracer().trace(model)
    except Exception as error:  # the module's own code runs here
        raise _cannot_write(model, first_line(error)) from error


class _Writer:
    """Collects the nodes of a symbol from a trace of `model`, whose image is the variable `data`."""

    def __init__(self, model: nn.Module, data: Node) -> None:
        self.model = model
        self.nodes: list[Node] = [Node("null", data.name, dict(data.attrs))]
        self.index_of: dict[str, int] = {data.name: 0}
        #: paths of the layers that were added
        self.called: set[str] = set()

    def add_body(self, graph: fx.Graph) -> NodeOutput:
        """Add every call of the trace; returns where the result is."""
        values: dict[fx.Node, NodeOutput] = {}
        for node in graph.nodes:
            if node.op == "output":
                if not isinstance(node.args[0], fx.Node):
                    raise self._error("it must return one tensor")
                return values[node.args[0]]
            if node.op == "placeholder":
                if values:
                    raise self._error(f"it takes a second input ({node.target})")
                values[node] = NodeOutput(0)
            elif node.op == "call_module":
                values[node] = self._add_layer(str(node.target), node, values)
            elif node.op == "call_function" and node.target is operator.getitem:  # one of several outputs
                source, index = node.args
                values[node] = values[source]._replace(output=index)  # type: ignore[index,arg-type]
            else:
                raise self._error(f"{_described(node)} is not a Layer")
        raise self._error("it returns nothing")

    def _add_layer(self, path: str, call: fx.Node, values: Mapping[fx.Node, NodeOutput]) -> NodeOutput:
        """Add the layer at `path` behind the variables of its parameters."""
        layer = self.model.get_submodule(path)
        if not isinstance(layer, Layer):
            raise self._error(f"{path} is a {type(layer).__name__}, not a Layer")
        if path in self.called:  # a second node would need a second name and the same weights
            raise self._error(f"layer {path} is called twice")
        self.called.add(path)
        name = node_name(path, layer)
        if call.kwargs or not all(isinstance(arg, fx.Node) for arg in call.args):
            raise self._error(f"layer {path} must be called with tensors only, in MXNet's order")
        inputs = [values[arg] for arg in call.args if isinstance(arg, fx.Node)]
        if layer.op == "null":  # a `Variable`: it is no operator, only its values
            return NodeOutput(self._add_variable(variable_node(name, layer, "value")))
        for slot in layer.parameter_slots():
            version = int(slot in layer.AUXILIARY)  # MXNet marks what its operators write to
            inputs.append(NodeOutput(self._add_variable(variable_node(name, layer, slot)), 0, version))
        if name in self.index_of:
            raise self._error(f"two nodes would be called {name}")
        return NodeOutput(self._add(Node(layer.op, name, dict(layer.attrs), inputs)))

    def _add_variable(self, variable: Node) -> int:
        """Add a variable if it is not there (two layers may share one); return its index."""
        index = self.index_of.get(variable.name)
        if index is None:
            return self._add(variable)
        if not self.nodes[index].is_variable or index == 0:  # 0 is the image
            raise self._error(f"two nodes would be called {variable.name}")
        return index

    def _add(self, node: Node) -> int:
        self.index_of[node.name] = len(self.nodes)
        self.nodes.append(node)
        return len(self.nodes) - 1

    def _error(self, reason: str) -> UsageError:
        return _cannot_write(self.model, reason)


def _cannot_write(model: nn.Module, reason: str) -> UsageError:
    return UsageError(f"{type(model).__name__} cannot be written as a symbol: {reason}")


def _described(node: fx.Node) -> str:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return f"{name} ({node.op.replace('_', ' ')} {node.name})"
