"""The graph behind a `Symbol`: nodes that refer to their inputs, and conversion to and from numbered nodes.

`symbol.py` builds them; files and computations work on `imgcls.formats.symbol.Symbol`, a list of numbered
nodes, which `to_graph` makes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from imgcls.formats import symbol as symbols
from imgcls.formats.symbol import Attributes, Node, NodeOutput


# Compared by identity: two nodes may have one name.
class GraphNode:
    """A variable (op "null") or an operator; symbols share them."""

    __slots__ = ("attrs", "inputs", "name", "num_writes", "op")  # a ResNet-152 has some thousand of them

    def __init__(self, op: str, name: str, attrs: dict[str, str], inputs: list[Entry]) -> None:
        self.op = op
        self.name = name
        self.attrs = attrs
        self.inputs = inputs
        # nnvm counts the operators that write to a variable, and files contain that number
        self.num_writes = 0


# The inputs of operators are entries, and a symbol is a list of them.
class Entry(NamedTuple):
    """One output of a node; `version` is 1 where the operator that takes it writes to it."""

    node: GraphNode
    output: int = 0
    version: int = 0


def post_order(entries: Iterable[Entry]) -> list[GraphNode]:
    """Return all nodes that the entries need, depth first, each behind its inputs: MXNet's order."""
    done: dict[GraphNode, None] = {}  # a set that remembers the order
    for entry in entries:
        # A stack of its own: a deep network would exceed Python's limit of recursion.
        stack = [(entry.node, 0)]
        while stack:
            node, slot = stack.pop()
            if node in done:
                continue
            if slot < len(node.inputs):
                stack += [(node, slot + 1), (node.inputs[slot].node, 0)]
            else:
                done[node] = None
    return list(done)


# Numbers are given here and nowhere else, in the order in which MXNet writes nodes.
def to_graph(entries: Sequence[Entry]) -> symbols.Symbol:
    """Return the list of numbered nodes of a symbol with these outputs."""
    nodes = post_order(entries)
    index = {node: number for number, node in enumerate(nodes)}

    def reference(entry: Entry) -> NodeOutput:
        return NodeOutput(index[entry.node], entry.output, entry.version)

    listed = [Node(node.op, node.name, node.attrs, [reference(entry) for entry in node.inputs])
              for node in nodes]
    return symbols.Symbol(listed, [reference(entry) for entry in entries])


# Nodes of a file refer to earlier ones only, which the parser has checked.
def from_graph(graph: symbols.Symbol) -> list[Entry]:
    """Return the outputs of a graph that was read from a file."""
    # Old files do not mark what operators write to.
    auxiliary = set(graph.auxiliary())
    nodes: list[GraphNode] = []

    def entry(source: NodeOutput, is_head: bool = False) -> Entry:
        node = nodes[source.node]
        return Entry(node, source.output, int(not is_head and node.name in auxiliary))

    # Inputs come before the nodes that take them.
    for node in graph.nodes:
        nodes.append(GraphNode(node.op, node.name, dict(node.attrs), [entry(s) for s in node.inputs]))
    return [entry(head, is_head=True) for head in graph.heads]


# Files may name any operator; those that are not known have one output.
def num_visible(node: GraphNode) -> int:
    """Return how many outputs of a node a symbol has: hidden ones (a dropout's mask) are not counted."""
    attributes = Attributes(Node(node.op, node.name, node.attrs))
    # How many outputs these have is in their attributes; a file may claim any number, which num_outputs
    # bounds.
    if node.op in ("SliceChannel", "_split_v2"):
        return symbols.num_outputs(Node(node.op, node.name, node.attrs))
    if node.op == "topk":
        return 2 if attributes.text("ret_typ", "indices") == "both" else 1
    if node.op in ("BatchNorm", "LayerNorm", "GroupNorm") and attributes.flag("output_mean_var"):
        return 3
    return 1


# The names by which layers are looked up.
def output_name(entry: Entry) -> str:
    """Return MXNet's name of an output: `relu1_output`, with its number where there are several."""
    node = entry.node
    if node.op == "null":
        return node.name
    return f"{node.name}_output{entry.output if num_visible(node) > 1 else ''}"


# Symbols may share nodes: one is copied before its nodes are changed.
def copied(entries: Sequence[Entry]) -> list[Entry]:
    """Return the same outputs of a copy of the graph."""
    copies: dict[GraphNode, GraphNode] = {}
    for node in post_order(entries):
        inputs = [entry._replace(node=copies[entry.node]) for entry in node.inputs]
        copies[node] = GraphNode(node.op, node.name, dict(node.attrs), inputs)
    return [entry._replace(node=copies[entry.node]) for entry in entries]
