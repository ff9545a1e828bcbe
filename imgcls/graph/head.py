"""The end of a symbol, behind the logits: a softmax or loss, which our networks do not compute.

Reading takes the head off and keeps it in `model.meta["head"]`; writing puts it back.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn

from imgcls.errors import DataError
from imgcls.formats.symbol import Node, NodeOutput, Symbol

# None of these has weights, and losses are computed from logits here, so reading leaves them off.

#: heads that are a softmax: the network proper is what goes in
SOFTMAX_HEADS = ("SoftmaxOutput", "SoftmaxActivation", "softmax", "log_softmax")
#: other heads that are a loss or a link function
OTHER_HEADS = ("LinearRegressionOutput", "LogisticRegressionOutput", "MAERegressionOutput", "SVMOutput")
#: operators that pass their input on unchanged
TRANSPARENT = ("BlockGrad", "MakeLoss", "make_loss", "_copy")
#: the node of an input that is the logits, in `GraphHead.nodes`
LOGITS = -1


@dataclass(frozen=True)
class GraphHead:
    """What a symbol has around the network: the node of its input, and the nodes behind the logits.

    In `nodes` an input of node `LOGITS` is the logits, others count within `nodes`; `output`, which is the
    output of the whole symbol, likewise.
    """

    #: the variable that the image goes into; foreign networks call it anything
    data: Node
    #: in the order of a symbol, each behind its inputs
    nodes: list[Node]
    output: NodeOutput


def default_head(output: str) -> GraphHead:
    """Return the head of MXNet's own networks: a SoftmaxOutput of this name and its label; none for ""."""
    data = Node("null", "data")
    if not output:
        return GraphHead(data, [], NodeOutput(LOGITS))
    # MXNet's data iterators offer labels under the name softmax_label, so its Module finds this one.
    label = Node("null", f"{output}_label")
    softmax = Node("SoftmaxOutput", output, {}, [NodeOutput(LOGITS), NodeOutput(0)])
    return GraphHead(data, [label, softmax], NodeOutput(1))


def head_of(model: nn.Module) -> GraphHead | None:
    """Return the head of the symbol that a module was read from; None for a module of another origin."""
    return model.meta.get("head") if isinstance(model, fx.GraphModule) else None


def end_with_softmax(model: fx.GraphModule) -> None:
    """Let the symbol of a network that `from_symbol` made end in a softmax, whatever it ended in before."""
    head = default_head("softmax")
    model.meta["head"] = GraphHead(model.meta["head"].data, head.nodes, head.output)


def find_logits(symbol: Symbol, path: object = "symbol") -> tuple[NodeOutput, NodeOutput]:
    """Return the output that classifies, and the logits that go into it (or that output itself where it is no
    softmax or loss).

    Of several outputs it is the only softmax; a DataError about the file `path` where that is not clear.
    """
    candidates = []
    # Of one node's outputs the first counts, so they are put into the dict from the last to the first.
    outputs = {output.node: output for output in reversed(symbol.heads)}
    for output in reversed(outputs.values()):
        source = output
        # Symbols for training wrap outputs in MakeLoss or BlockGrad.
        while symbol.nodes[source.node].op in TRANSPARENT and symbol.nodes[source.node].inputs:
            source = symbol.nodes[source.node].inputs[0]
        node = symbol.nodes[source.node]
        if node.op in SOFTMAX_HEADS + OTHER_HEADS and node.inputs:
            candidates.append((output, node.inputs[0], node.op in SOFTMAX_HEADS))
        else:
            candidates.append((output, source, False))
    # Detectors and multi-task networks have other losses beside the one softmax.
    softmaxes = [(output, logits) for output, logits, is_softmax in candidates if is_softmax]
    if len(softmaxes) == 1:
        return softmaxes[0]
    if len(candidates) == 1:
        return candidates[0][:2]
    names = ", ".join(symbol.nodes[output.node].name for output in symbol.heads)
    raise DataError(path, f"the symbol has several outputs ({names}): it is not clear which one classifies")
