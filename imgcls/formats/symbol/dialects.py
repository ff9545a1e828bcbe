"""What older versions of MXNet wrote otherwise, and how it is spelled today.

`parse.py` calls `upgrade` on the nodes of a file. The rules are those of MXNet's own upgrades when it loads
such a file: src/nnvm/legacy_json_util.cc.
"""

from __future__ import annotations

from imgcls.formats.symbol.nodes import INPUTS, STATISTICS_INIT, Node, NodeOutput

#: the version that a file without one is taken to have: 0.8
OLDEST_VERSION = 800
#: the first version that lists auxiliary states as nodes
STATISTICS_VERSION = 900
#: the first version in which `axis=-1` of argmax is the last axis
ARGMAX_VERSION = 905

#: attributes that 0.x wrote bare and that are now written with underscores around them
HIDDEN = ("ctx_group", "lr_mult", "wd_mult", "force_mirroring", "mirror_stage")

_SCALAR_OPERATIONS = ("Plus", "Minus", "RMinus", "Mul", "Div", "RDiv", "Power", "RPower", "Maximum",
                      "Minimum")
#: names that an operator once had, or has beside its own -> its own, which MXNet 1.9.1 writes
ALIASES = {
    **{f"_{name}Scalar": f"_{name.lower()}_scalar" for name in _SCALAR_OPERATIONS},
    "_Plus": "elemwise_add", "_plus": "elemwise_add", "_add": "elemwise_add",
    "_Minus": "elemwise_sub", "_minus": "elemwise_sub", "_sub": "elemwise_sub",
    "_Mul": "elemwise_mul", "_mul": "elemwise_mul", "_Div": "elemwise_div", "_div": "elemwise_div",
    "_Power": "_power", "_Maximum": "_maximum", "_Minimum": "_minimum",
    "broadcast_plus": "broadcast_add", "broadcast_minus": "broadcast_sub", "broadcast_axes": "broadcast_axis",
    "ElementWiseSum": "add_n", "Softmax": "SoftmaxOutput", "identity": "_copy", "stop_gradient": "BlockGrad",
    "concat": "Concat", "flatten": "Flatten", "reshape": "Reshape", "cast": "Cast", "pad": "Pad",
    "split": "SliceChannel", "swapaxes": "SwapAxis", "flip": "reverse", "crop": "slice",
    "sum_axis": "sum", "max_axis": "max", "min_axis": "min",
}


# `parse.py` looks an operator up in ALIASES itself, when it reads a node.


def is_hidden(name: str) -> bool:
    """Return whether an attribute is for MXNet's own use, such as `__lr_mult__`: no operator reads it."""
    return name.startswith("__") and name.endswith("__")


def upgrade(nodes: list[Node], version: int) -> None:
    """Change nodes of a file of this version, in place, to what today's MXNet would have written."""
    for node in nodes:
        _spell_out_hidden(node, nodes)
    if version < STATISTICS_VERSION:
        _add_statistics(nodes)
    if version < ARGMAX_VERSION:
        _mend_argmax(nodes)


def _spell_out_hidden(node: Node, nodes: list[Node]) -> None:
    """Rename `lr_mult` of 0.x to `__lr_mult__`; `weight_lr_mult` moves to the variable of the weight."""
    for name in list(node.attrs):
        key = next((key for key in HIDDEN if name.endswith(key) and not is_hidden(name)), None)
        if key is None:
            continue
        if name == key:
            node.attrs[f"__{key}__"] = node.attrs.pop(name)
            continue
        # It belongs to the input that its prefix names; without such an input it stays, as in MXNet.
        names = INPUTS.get(node.op, ())
        argument = name[:-len(key) - 1]
        slot = names.index(argument) if argument in names else len(node.inputs)
        if slot < len(node.inputs) and nodes[node.inputs[slot].node].is_variable:
            nodes[node.inputs[slot].node].attrs[f"__{key}__"] = node.attrs.pop(name)


def _add_statistics(nodes: list[Node]) -> None:
    """Add the auxiliary states, which until 0.8 were no nodes, with their operator's attributes."""
    for node in list(nodes):  # a copy: variables are appended meanwhile
        names = INPUTS.get(node.op, ())
        for name in names[len(node.inputs):]:
            if name in STATISTICS_INIT:
                node.inputs.append(NodeOutput(len(nodes)))
                attrs = node.attrs | {"__init__": STATISTICS_INIT[name]}
                nodes.append(Node("null", f"{node.name}_{name}", attrs))


def _mend_argmax(nodes: list[Node]) -> None:
    """Leave out `axis=-1` of argmax, which meant all axes before 0.9.5."""
    for node in nodes:
        if node.op in ("argmax", "argmin") and node.attrs.get("axis") == "-1":
            del node.attrs["axis"]
