"""From a Symbol to the text that MXNet 1.9.1's `tojson` writes, byte for byte.

The checkpoint and the tools save with it. MXNet's writer is dmlc-core's json.h, whose line breaks and escapes
are its own: no JSON library writes them so.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping

from imgcls.formats.symbol.attributes import Attributes
from imgcls.formats.symbol.nodes import VERSION, Node, NodeOutput, Symbol
from imgcls.storage.atomic import write_bytes

#: operators of more than one output, hidden ones included: they count in `node_row_ptr`
HIDDEN_OUTPUTS = {
    "BatchNorm": 3, "BatchNorm_v1": 3, "CuDNNBatchNorm": 3, "_contrib_SyncBatchNorm": 3,
    "_contrib_BatchNormWithReLU": 4, "LRN": 2, "Dropout": 2, "L2Normalization": 2, "SpatialTransformer": 3,
    "GridGenerator": 2, "BilinearSampler": 2, "InstanceNorm": 3, "LayerNorm": 3, "GroupNorm": 3, "moments": 2,
}
#: a longer list stands on several lines
_ONE_LINE_ITEMS = 10
_ESCAPES = str.maketrans({'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def save(path: str | os.PathLike[str], symbol: Symbol) -> None:
    """Write `dumps(symbol)`, atomically."""
    write_bytes(path, dumps(symbol).encode("utf-8"))


def dumps(symbol: Symbol) -> str:
    """Return the text that MXNet 1.9.1's `tojson` gives for this graph."""
    variables = [i for i, node in enumerate(symbol.nodes) if node.is_variable]
    # node_row_ptr has one number more than there are nodes: the last is the count of all outputs.
    output_counts = [0]
    for node in symbol.nodes:
        output_counts.append(output_counts[-1] + num_outputs(node))
    # MXNet's version stands first, then the graph's other attributes.
    attrs = {"mxnet_version": ["int", VERSION], **symbol.attrs}
    members = {
        "nodes": _lines("[", [_format_node(node, "    ") for node in symbol.nodes], "]", "  "),
        "arg_nodes": _array([str(i) for i in variables], "  "),
        "node_row_ptr": _array([str(count) for count in output_counts], "  "),
        "heads": _array([_format_output(head) for head in symbol.heads], "  "),
        "attrs": _object({k: json.dumps(value, ensure_ascii=False) for k, value in attrs.items()}, "  "),
    }
    return _lines("{", [f'"{name}": {text}' for name, text in members.items()], "}", "")


def num_outputs(node: Node) -> int:
    """Return how many outputs MXNet 1.9.1 counts, hidden ones (such as dropout's mask) included."""
    if node.op == "Pooling":
        # oneDNN keeps the positions of the maxima, for the kernels and layouts that it supports.
        kernel = node.attrs.get("kernel", "()")
        layout = node.attrs.get("layout", "None")
        has_maxima = node.attrs.get("pool_type", "max") == "max" and re.search(r"\d", kernel)
        return 2 if has_maxima and layout in ("None", "NCW", "NCHW", "NCDHW") else 1
    # For these two an attribute gives the number.
    if node.op == "SliceChannel":
        return Attributes(node).integer("num_outputs", 1)
    if node.op == "_split_v2":
        attributes = Attributes(node)
        return attributes.integer("sections", 0) or len(attributes.integers("indices", ())) or 1
    if node.op == "LeakyReLU":
        return 2 if node.attrs.get("act_type") == "rrelu" else 1
    return HIDDEN_OUTPUTS.get(node.op, 1)


def _format_node(node: Node, indent: str) -> str:
    members = [f'"op": {_quote(node.op)}', f'"name": {_quote(node.name)}']
    if node.attrs:
        # nnvm's saveload_json.cc puts them into a std::map, so they come sorted.
        attrs = {name: _quote(node.attrs[name]) for name in sorted(node.attrs)}
        members.append(f'"attrs": {_object(attrs, indent + "  ")}')
    inputs = [_format_output(source) for source in node.inputs]
    members.append(f'"inputs": {_array(inputs, indent + "  ")}')
    return _lines("{", members, "}", indent)


def _format_output(output: NodeOutput) -> str:
    return f"[{output.node}, {output.output}, {output.version}]"


def _object(members: Mapping[str, str], indent: str) -> str:
    # json.h breaks the lines of an object of more than one member, and of a list of more than ten.
    texts = [f"{_quote(name)}: {text}" for name, text in members.items()]
    return "{" + texts[0] + "}" if len(texts) == 1 else _lines("{", texts, "}", indent)


def _array(items: list[str], indent: str) -> str:
    return "[" + ", ".join(items) + "]" if len(items) <= _ONE_LINE_ITEMS else _lines("[", items, "]", indent)


def _lines(opening: str, items: list[str], closing: str, indent: str) -> str:
    """Return one item a line. MXNet puts a space behind the comma."""
    return opening + "\n" + ", \n".join(f"{indent}  {item}" for item in items) + f"\n{indent}{closing}"


def _quote(text: str) -> str:
    # MXNet's reader knows these five escapes and no others; everything else stands as UTF-8.
    return f'"{text.translate(_ESCAPES)}"'
