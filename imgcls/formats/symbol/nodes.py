"""The graph of a symbol in memory: nodes, their outputs, and the order in which MXNet lists them.

Parser, writer and `graph` share these types. They hold what a file says and nothing that follows from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

#: MXNet 1.9.1, as it counts: major * 10000 + minor * 100 + patch
VERSION = 10901

#: names of the inputs, of operators for which an old file may lack variables or have a `weight_lr_mult`
INPUTS = {
    "Convolution": ("data", "weight", "bias"),
    "Deconvolution": ("data", "weight", "bias"),
    "FullyConnected": ("data", "weight", "bias"),
    "BatchNorm": ("data", "gamma", "beta", "moving_mean", "moving_var"),
    "CuDNNBatchNorm": ("data", "gamma", "beta", "moving_mean", "moving_var"),
    "LeakyReLU": ("data", "gamma"),
    "InstanceNorm": ("data", "gamma", "beta"),
    "Embedding": ("data", "weight"),
}
#: how MXNet fills the statistics that it makes itself; it writes this on their variables
STATISTICS_INIT = {"moving_mean": '["zero", {}]', "moving_var": '["one", {}]'}


class NodeOutput(NamedTuple):
    """One output of one node; `version` is 1 where an operator writes to it (an auxiliary state)."""

    #: index of the node in the symbol
    node: int
    #: which of its outputs; hidden ones count
    output: int = 0
    version: int = 0


@dataclass
class Node:
    """A variable (op "null") or an operator; `inputs` refer to nodes before it."""

    #: the operator's name in MXNet, "null" for a variable
    op: str
    name: str
    #: text as MXNet writes it, see `Attributes`; those with underscores around them are for its own use
    attrs: dict[str, str] = field(default_factory=dict)
    inputs: list[NodeOutput] = field(default_factory=list)

    @property
    def is_variable(self) -> bool:
        """Whether it is an input, weight or statistic, and no operator."""
        return self.op == "null"


@dataclass
class Symbol:
    """A graph: nodes in depth-first post-order from the heads (its outputs).

    `attrs` are the graph's own, name -> [type, value] as in the file, but for MXNet's version: what is
    written is always of version `VERSION`. `version` says what the file was.
    """

    nodes: list[Node]
    heads: list[NodeOutput]
    attrs: dict[str, list] = field(default_factory=dict)
    version: int = VERSION

    def variables(self) -> list[str]:
        """Return the names of all variables, in the file's order."""
        return [node.name for node in self.nodes if node.is_variable]

    def auxiliary(self) -> list[str]:
        """Return the names of the auxiliary states (running statistics), in order."""
        states = self._auxiliary_nodes()
        return [node.name for i, node in enumerate(self.nodes) if i in states]

    def arguments(self) -> list[str]:
        """Return the names of the other variables, in order: input, weights and label."""
        states = self._auxiliary_nodes()
        return [node.name for i, node in enumerate(self.nodes) if node.is_variable and i not in states]

    def _auxiliary_nodes(self) -> set[int]:
        states = set()
        for node in self.nodes:
            # A cross-process batch normalisation has the inputs of the plain one.
            names = INPUTS.get(node.op.replace("_contrib_Sync", ""), ())
            for slot, source in enumerate(node.inputs):
                # References of 0.8 have no version: there the input's name decides.
                if source.version == 1 or (slot < len(names) and names[slot] in STATISTICS_INIT):
                    states.add(source.node)
        return states


def post_order(nodes: list[Node], heads: list[NodeOutput]) -> tuple[list[Node], list[NodeOutput]]:
    """Return (nodes, heads): all that the heads need, depth first, each node behind its inputs."""
    new_index: dict[int, int] = {}
    for head in heads:
        # A stack of its own: a deep network would exceed Python's limit of recursion.
        stack = [(head.node, 0)]
        while stack:
            index, slot = stack.pop()
            if index in new_index:
                continue
            inputs = nodes[index].inputs
            # Come back for the next input when all behind this one is listed.
            if slot < len(inputs):
                stack += [(index, slot + 1), (inputs[slot].node, 0)]
            else:
                new_index[index] = len(new_index)
    # A dict keeps the order in which nodes were finished, which is the post-order.
    ordered = []
    for index in new_index:
        node = nodes[index]
        inputs = [source._replace(node=new_index[source.node]) for source in node.inputs]
        ordered.append(Node(node.op, node.name, node.attrs, inputs))
    return ordered, [head._replace(node=new_index[head.node]) for head in heads]
