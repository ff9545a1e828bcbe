"""The residual branches of a network: where a sum joins one with its shortcut, and its last layer."""

from __future__ import annotations

from typing import NamedTuple

from torch import fx, nn

from imgcls.layers.elementwise import ElementwiseAdd


class ResidualBranch(NamedTuple):
    """Layers whose output is added to their input, or to a projection of it."""

    #: the sum that joins them with the shortcut
    addition: ElementwiseAdd
    #: which input of the sum they are, 0 or 1
    index: int
    #: the last of the layers; None where the graph computes their output without a layer
    last: nn.Module | None


def residual_branches(model: nn.Module) -> list[ResidualBranch]:
    """Return the residual branches in their order; none of a network that is not an `fx.GraphModule`.

    Of the two inputs of a sum, the branch is the one that has passed through more layers: a shortcut has none
    at all, or a projection.
    """
    if not isinstance(model, fx.GraphModule):
        return []
    found = []
    # layers between the image and each node, on the longest way
    depths: dict[fx.Node, int] = {}
    for node in model.graph.nodes:
        inputs = node.all_input_nodes
        # the graph lists nodes in the order of computation, so those of all inputs are known
        depths[node] = 1 + max((depths[value] for value in inputs), default=0)
        layer = _layer_of(model, node)
        # inputs of equal depth are two branches of a kind, such as in an inception block: neither
        # is a shortcut
        if isinstance(layer, ElementwiseAdd) and len(inputs) == 2 and depths[inputs[0]] != depths[inputs[1]]:
            index = int(depths[inputs[1]] > depths[inputs[0]])
            found.append(ResidualBranch(layer, index, _layer_of(model, inputs[index])))
    return found


def _layer_of(model: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return model.get_submodule(str(node.target)) if node.op == "call_module" else None
