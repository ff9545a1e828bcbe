"""`mx.viz`: a network as a table of layers, or as a drawing by graphviz."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from imgcls.compat.mxnet.base import MXNetError
from imgcls.compat.mxnet.symbol import Symbol
from imgcls.errors import printable
from imgcls.formats.symbol import Node

#: fills of the boxes in a drawing, by kind of operator
_COLORS = {
    "null": "#8dd3c7", "Convolution": "#fb8072", "FullyConnected": "#fb8072", "Activation": "#ffffb3",
    "LeakyReLU": "#ffffb3", "BatchNorm": "#bebada", "Pooling": "#80b1d3", "Concat": "#fdb462",
    "Flatten": "#fdb462", "Reshape": "#fdb462",
}
_OTHER_COLOR = "#fccde5"
#: ends of names that are weights, which a drawing leaves out
_WEIGHT_ENDS = ("_weight", "_bias", "_beta", "_gamma", "_moving_var", "_moving_mean", "_running_var",
                "_running_mean")


# Shared weights are counted at each use, as in MXNet.
def print_summary(symbol: Symbol, shape: Mapping[str, Any] | None = None, line_length: int = 120,
                  positions: Sequence[float] = (0.44, 0.64, 0.74, 1.0)) -> None:
    """Print a table of layers: output shape, number of parameters, previous layers; sizes need `shape`.

    The numbers are those of MXNet's own table, which counts by the layers' attributes.
    """
    if not isinstance(symbol, Symbol):
        raise TypeError("symbol must be Symbol")
    shapes = _shapes(symbol, shape)
    nodes = symbol._graph().nodes
    columns = [int(line_length * position) if positions[-1] <= 1 else int(position) for position in positions]
    print("_" * line_length)
    _print_row(["Layer (type)", "Output Shape", "Param #", "Previous Layer"], columns)
    print("=" * line_length)
    total = 0
    for index, node in enumerate(nodes):
        if node.is_variable and index > 0:
            continue
        sources = [nodes[source.node] for source in node.inputs
                   if not nodes[source.node].is_variable or source.node == 0]
        # Of the inputs only operators and the image count, not weights.
        channels = sum(_size_of(shapes, source)[0] for source in sources if _size_of(shapes, source))
        count = _count(node, channels, shapes)
        total += count
        names = [source.name for source in sources] or [""]
        shown = "x".join(map(str, _size_of(shapes, node)))
        _print_row([f"{node.name}({node.op})", shown, count, names[0]], columns)
        for name in names[1:]:
            _print_row(["", "", "", name], columns)
        print(("=" if index == len(nodes) - 1 else "_") * line_length)
    print(f"Total params: {total}")
    print("_" * line_length)


# Drawn by the package graphviz, which needs the program of the same name to make a picture.
def plot_network(symbol: Symbol, title: str = "plot", save_format: str = "pdf",
                 shape: Mapping[str, Any] | None = None, dtype: Mapping[str, Any] | None = None,
                 node_attrs: Mapping[str, str] | None = None, hide_weights: bool = True) -> Any:
    """Return a graphviz Digraph of the network; `shape` writes sizes on the arrows."""
    try:
        from graphviz import Digraph  # type: ignore[import-not-found]
    except ImportError as error:
        raise ImportError("plot_network draws with graphviz, which is not there: pip install graphviz"
                          ) from error
    if not isinstance(symbol, Symbol):
        raise TypeError("symbol must be a Symbol")
    shapes = _shapes(symbol, shape)
    nodes = symbol._graph().nodes
    box = {"shape": "box", "fixedsize": "true", "width": "1.3", "height": "0.8034", "style": "filled",
           **(node_attrs or {})}
    dot = Digraph(name=title, format=save_format)
    hidden = {node.name for node in nodes if node.is_variable and node.name.endswith(_WEIGHT_ENDS)}
    for node in nodes:
        if node.name not in hidden:
            look = {**box, "fillcolor": _COLORS.get(node.op, _OTHER_COLOR)}
            if node.is_variable:
                look["shape"] = "oval"
            dot.node(name=node.name, label=_label(node), **look)
    for node in nodes:
        for reference in node.inputs:
            source = nodes[reference.node]
            if source.name not in hidden or not hide_weights:
                label = "x".join(map(str, _size_of(shapes, source)))
                dot.edge(tail_name=node.name, head_name=source.name, dir="back", arrowtail="open",
                         label=label)
    return dot


def _shapes(symbol: Symbol, shape: Mapping[str, Any] | None) -> dict[str, tuple[int, ...]]:
    """Return output -> shape of all nodes; {} without `shape`."""
    if shape is None:
        return {}
    internals = symbol.get_internals()
    found = internals.infer_shape(**shape)[1]
    if found is None:
        raise MXNetError("shape: the shapes of these inputs do not determine those of all outputs")
    return dict(zip(internals.list_outputs(), found, strict=True))


# By MXNet's names of outputs, so operators of several outputs have none.
def _size_of(shapes: Mapping[str, tuple[int, ...]], node: Node) -> tuple[int, ...]:
    """Return the shape of a node's output, without the batch; () where it is not known."""
    return shapes.get(node.name if node.is_variable else f"{node.name}_output", ())[1:]


# The layers that MXNet's table counts; others count 0 there.
def _count(node: Node, channels: int, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return how many parameters a layer has, from its attributes and the channels before it."""
    attrs = node.attrs
    has_bias = attrs.get("no_bias") != "True"
    if node.op == "Convolution":
        # each filter sees the channels of its own group only
        num_filter = int(attrs["num_filter"])
        count = channels * num_filter // int(attrs.get("num_group", "1"))
        for size in re.findall(r"\d+", attrs["kernel"]):
            count *= int(size)
        return count + num_filter * has_bias
    if node.op == "FullyConnected":
        return (channels + has_bias) * int(attrs["num_hidden"])
    if node.op == "BatchNorm" and shapes:
        return 2 * _size_of(shapes, node)[0]
    if node.op == "Embedding":
        return int(attrs["input_dim"]) * int(attrs["output_dim"])
    return 0


# A longer text is cut at the end of its column.
def _print_row(fields: Sequence[object], columns: Sequence[int]) -> None:
    line = ""
    for text, end in zip(fields, columns, strict=True):
        line = (line + printable(text))[:end].ljust(end)  # a file may call a layer anything
    print(line)


# Sizes as 3x3/2x2: kernel and stride.
def _label(node: Node) -> str:
    """Return the text in a node's box."""
    def sizes(name: str, default: str) -> str:
        return "x".join(re.findall(r"\d+", node.attrs[name])) if name in node.attrs else default

    if node.op == "Convolution":
        return f"Convolution\n{sizes('kernel', '')}/{sizes('stride', '1')}, {node.attrs['num_filter']}"
    if node.op == "FullyConnected":
        return f"FullyConnected\n{node.attrs['num_hidden']}"
    if node.op == "Activation":
        return f"Activation\n{node.attrs['act_type']}"
    if node.op == "LeakyReLU":
        return f"LeakyReLU\n{node.attrs.get('act_type', 'Leaky')}"
    if node.op == "Pooling":
        kind = node.attrs.get("pool_type", "max")
        return f"Pooling\n{kind}, {sizes('kernel', '[]')}/{sizes('stride', '1')}"
    return node.name
