"""MXNet's `prefix-symbol.json`: reading every dialect since 0.7, writing the very bytes of MXNet 1.9.1.

A `Symbol` is a list of nodes: variables (op "null") and operators, each with attributes as text and inputs
that refer to earlier nodes. What operators compute is not known here: `graph.py` makes a network of a symbol.
Needs neither torch nor numpy. Files are not trusted: sizes are bounded, references checked, and no attribute
is ever evaluated.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from imgcls.errors import DataError
from imgcls.storage.atomic import write_bytes
from imgcls.storage.paths import to_path

MAX_BYTES = 64 << 20
MAX_NODES = 200_000
MAX_LIST = 1000  # characters of an attribute that is a list of numbers
#: MXNet 1.9.1, as it counts: major * 10000 + minor * 100 + patch
VERSION = 10901
OLDEST = 800  # what a file without a version is taken for

#: attributes that 0.x wrote bare and that are now written with underscores around them
HIDDEN = ("ctx_group", "lr_mult", "wd_mult", "force_mirroring", "mirror_stage")
#: inputs by name, of the operators whose missing variables or `weight_lr_mult` an old file may ask us to find
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
#: names that an operator once had -> the one that it has
ALIASES = {f"_{name}Scalar": f"_{name.lower()}_scalar" for name in (
    "Plus", "Minus", "RMinus", "Mul", "Div", "RDiv", "Power", "RPower", "Maximum", "Minimum")} | {
    "_Plus": "elemwise_add", "_plus": "elemwise_add", "_add": "elemwise_add", "_Minus": "elemwise_sub",
    "_minus": "elemwise_sub", "_sub": "elemwise_sub", "_Mul": "elemwise_mul", "_mul": "elemwise_mul",
    "_Div": "elemwise_div", "_div": "elemwise_div", "_Power": "_power", "_Maximum": "_maximum",
    "_Minimum": "_minimum", "broadcast_plus": "broadcast_add", "broadcast_minus": "broadcast_sub",
    "ElementWiseSum": "add_n", "Softmax": "SoftmaxOutput", "identity": "_copy", "stop_gradient": "BlockGrad",
    "concat": "Concat", "flatten": "Flatten", "reshape": "Reshape", "cast": "Cast", "pad": "Pad",
    "split": "SliceChannel", "swapaxes": "SwapAxis", "flip": "reverse", "crop": "slice", "sum_axis": "sum",
    "max_axis": "max", "min_axis": "min", "broadcast_axes": "broadcast_axis"}

#: how MXNet fills the statistics that it makes itself; it writes this on their variables
STATISTICS_INIT = {"moving_mean": '["zero", {}]', "moving_var": '["one", {}]'}


class NodeOutput(NamedTuple):
    """One output of one node; `version` is 1 where an operator writes to it (an auxiliary state)."""

    node: int
    output: int = 0
    version: int = 0


@dataclass
class Node:
    """A variable (op "null") or an operator; `inputs` refer to nodes before it."""

    op: str
    name: str
    attrs: dict[str, str] = field(default_factory=dict)
    inputs: list[NodeOutput] = field(default_factory=list)

    @property
    def is_variable(self) -> bool:
        return self.op == "null"


@dataclass
class Symbol:
    """A graph: nodes in depth-first post-order from the heads (its outputs).

    `attrs` are the graph's own, name -> [type, value] as in the file, but for MXNet's version, which is not
    kept: what is written is always of version `VERSION`. `version` says what the file was.
    """

    nodes: list[Node]
    heads: list[NodeOutput]
    attrs: dict[str, list] = field(default_factory=dict)
    version: int = VERSION

    def variables(self) -> list[str]:
        """Names of all variables, in the file's order."""
        return [node.name for node in self.nodes if node.is_variable]

    def auxiliary(self) -> list[str]:
        """Names of the auxiliary states (running statistics), in order."""
        states = self._auxiliary_nodes()
        return [node.name for i, node in enumerate(self.nodes) if i in states]

    def arguments(self) -> list[str]:
        """Names of the other variables, in order: input, weights and label."""
        states = self._auxiliary_nodes()
        return [node.name for i, node in enumerate(self.nodes) if node.is_variable and i not in states]

    def _auxiliary_nodes(self) -> set[int]:
        found = set()
        for node in self.nodes:
            for position, entry in enumerate(node.inputs):
                names = INPUTS.get(node.op.replace("_contrib_Sync", ""), ())
                if entry.version == 1 or (position < len(names) and names[position] in STATISTICS_INIT):
                    found.add(entry.node)
        return found


def load(path: str | os.PathLike[str]) -> Symbol:
    """Read a symbol.json of any version; a damaged one is a DataError."""
    file = to_path(path)
    try:
        if file.stat().st_size > MAX_BYTES:
            raise DataError(path, f"larger than {MAX_BYTES} bytes: not a network's symbol")
        data = file.read_bytes()
    except OSError as error:
        raise DataError(path, (error.strerror or str(error)).lower()) from error
    return loads(data, path)


def loads(text: str | bytes, path: object = "symbol") -> Symbol:
    """`load` of JSON in memory; `path` is what errors call it."""
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        document = json.loads(text)
    except UnicodeDecodeError as error:
        raise DataError(path, "not UTF-8", error.start) from error
    except json.JSONDecodeError as error:
        offset = len(error.doc[:error.pos].encode("utf-8", "replace"))
        raise DataError(path, f"not JSON: {error.msg.lower()}", offset) from error
    except RecursionError as error:
        raise DataError(path, "nested too deeply for a symbol") from error
    except ValueError as error:  # an integer of thousands of digits
        raise DataError(path, "not a symbol: a number is too long") from error
    return _Parser(path).symbol(document)


def save(path: str | os.PathLike[str], symbol: Symbol) -> None:
    """Write `dumps(symbol)`, atomically."""
    write_bytes(path, dumps(symbol).encode("utf-8"))


def dumps(symbol: Symbol) -> str:
    """The text that MXNet 1.9.1's `tojson` gives for this graph."""
    variables = [i for i, node in enumerate(symbol.nodes) if node.is_variable]
    ends = [0]
    for node in symbol.nodes:
        ends.append(ends[-1] + num_outputs(node))
    attrs = {"mxnet_version": ["int", VERSION], **symbol.attrs}
    members = {
        "nodes": _lines("[", [_node_text(node, "    ") for node in symbol.nodes], "]", "  "),
        "arg_nodes": _array([str(i) for i in variables], "  "),
        "node_row_ptr": _array([str(end) for end in ends], "  "),
        "heads": _array([_entry_text(entry) for entry in symbol.heads], "  "),
        "attrs": _object({k: json.dumps(value, ensure_ascii=False) for k, value in attrs.items()}, "  "),
    }
    return _lines("{", [f'"{name}": {text}' for name, text in members.items()], "}", "")


def num_outputs(node: Node) -> int:
    """How many outputs MXNet 1.9.1 counts for the node, hidden ones (such as dropout's mask) included."""
    if node.op == "Pooling":  # oneDNN keeps the places of the maxima, for kernels and layouts that it has
        kernel, layout = node.attrs.get("kernel", "()"), node.attrs.get("layout", "None")
        maxima = node.attrs.get("pool_type", "max") == "max" and re.search(r"\d", kernel)
        return 2 if maxima and layout in ("None", "NCW", "NCHW", "NCDHW") else 1
    if node.op == "SliceChannel":
        return Attributes(node).integer("num_outputs", 1)
    if node.op == "_split_v2":
        attributes = Attributes(node)
        return attributes.integer("sections", 0) or len(attributes.integers("indices", ())) or 1
    if node.op == "LeakyReLU":
        return 2 if node.attrs.get("act_type") == "rrelu" else 1
    return HIDDEN_OUTPUTS.get(node.op, 1)


HIDDEN_OUTPUTS = {"BatchNorm": 3, "BatchNorm_v1": 3, "CuDNNBatchNorm": 3, "_contrib_SyncBatchNorm": 3,
                  "_contrib_BatchNormWithReLU": 4, "LRN": 2,
                  "Dropout": 2, "L2Normalization": 2, "SpatialTransformer": 3, "GridGenerator": 2,
                  "BilinearSampler": 2, "InstanceNorm": 3, "LayerNorm": 3, "GroupNorm": 3, "moments": 2}


def post_order(nodes: list[Node], heads: list[NodeOutput]) -> tuple[list[Node], list[NodeOutput]]:
    """Nodes that the heads need, depth first, each behind its inputs: the order in which MXNet lists them."""
    place: dict[int, int] = {}
    for head in heads:
        stack = [(head.node, 0)]
        while stack:
            node, position = stack.pop()
            if node in place:
                continue
            inputs = nodes[node].inputs
            if position < len(inputs):
                stack += [(node, position + 1), (inputs[position].node, 0)]
            else:
                place[node] = len(place)
    moved = [Node(nodes[old].op, nodes[old].name, nodes[old].attrs,
                  [entry._replace(node=place[entry.node]) for entry in nodes[old].inputs]) for old in place]
    return moved, [head._replace(node=place[head.node]) for head in heads]


class Attributes:
    """A node's attributes, read by type. Remembers which were asked for, so that unknown ones can be refused.

    Values are text as Python prints it: `(3, 3)`, `True`, `2e-05`, `None`. A value of the wrong kind is a
    ValueError that names the attribute.
    """

    def __init__(self, node: Node) -> None:
        self.given = node.attrs
        self.asked: set[str] = set()

    def text(self, name: str, default: str) -> str:
        self.asked.add(name)
        return self.given.get(name, default)

    def choice(self, name: str, default: str, choices: Iterable[str]) -> str:
        value = self.text(name, default)
        if value not in choices:
            raise ValueError(f"{name}={value} is not supported (there is {', '.join(choices)})")
        return value

    def integer(self, name: str, default: int | None = None) -> int:
        return int(self._number(name, default, integer=True))

    def real(self, name: str, default: float | None = None) -> float:
        return self._number(name, default, integer=False)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.text(name, str(default))
        if value not in ("True", "true", "1", "False", "false", "0"):
            raise ValueError(f"{name}={value} is neither True nor False")
        return value in ("True", "true", "1")

    def is_given(self, name: str) -> bool:
        """Whether the attribute is there and says something (not None)."""
        return self.text(name, "None") != "None"

    def integers(self, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """`(1, 2)`, `[1,2]`, `(3,)`, `(3L, 3L)` of Python 2, or one number."""
        return tuple(int(number) for number in self._list(name, default, r"[+-]?\d+L?"))

    def slices(self, name: str) -> tuple[int | None, ...]:
        """Like `integers`, but a None in the list stays."""
        return tuple(None if n == "None" else int(n) for n in self._list(name, (), r"None|[+-]?\d+L?"))

    def ignore(self, *names: str) -> None:
        """Attributes that change how MXNet computes, not what."""
        self.asked.update(names)

    def unknown(self) -> list[str]:
        """Attributes that nobody asked for and that are not hidden ones (`__lr_mult__`)."""
        return sorted(name for name in self.given if name not in self.asked and not _is_hidden(name))

    def _number(self, name: str, default: float | None, integer: bool) -> float:
        value = self.text(name, "" if default is None else str(default))
        if not value:
            raise ValueError(f"{name} is missing")
        try:
            return int(value.rstrip("L")) if integer else float(value)
        except ValueError as error:
            kind = "an integer" if integer else "a number"
            raise ValueError(f"{name}={value[:40]} is not {kind}") from error

    def _list(self, name: str, default: tuple[int, ...] | None, item: str) -> list[str]:
        value = self.text(name, "" if default is None else str(default))
        if not value:
            raise ValueError(f"{name} is missing")
        compact = value.replace(" ", "") if len(value) <= MAX_LIST else ""
        if not re.fullmatch(rf"[(\[](?:(?:{item})(?:,(?:{item}))*,?)?[)\]]|{item}", compact):
            raise ValueError(f"{name}={value[:40]} is not a list of integers")
        return [number.rstrip("L") for number in re.findall(item, value)]


def _is_hidden(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


class _Parser:
    """From the JSON document to a Symbol of today's dialect."""

    def __init__(self, path: object) -> None:
        self.path = path

    def fail(self, reason: str) -> DataError:
        return DataError(self.path, reason)

    def symbol(self, document: object) -> Symbol:
        if not isinstance(document, dict) or not isinstance(document.get("nodes"), list):
            raise self.fail("not a symbol: there is no list of nodes")
        if not 1 <= len(document["nodes"]) <= MAX_NODES:
            raise self.fail(f"{len(document['nodes'])} nodes (there may be 1 to {MAX_NODES})")
        attrs = self.graph_attrs(document.get("attrs", {}))
        version = self.version(attrs.pop("mxnet_version", ["int", OLDEST]))
        nodes = [self.node(index, node) for index, node in enumerate(document["nodes"])]
        heads = self.entries(document.get("heads"), len(nodes), "heads")
        if not heads:
            raise self.fail("the symbol has no heads, so no output")
        for node in nodes:
            _spell_out_hidden(node, nodes)
        if version < 900:
            _add_statistics(nodes)
        if version < 905:
            _mend_argmax(nodes)
        nodes, heads = post_order(nodes, heads)
        return Symbol(nodes, heads, attrs, version)

    def graph_attrs(self, attrs: object) -> dict[str, list]:
        if not isinstance(attrs, dict) or any(not isinstance(v, list) or len(v) != 2 for v in attrs.values()):
            raise self.fail('the graph\'s attributes are not of the form {"name": ["type", value]}')
        return dict(attrs)

    def version(self, value: list) -> int:
        if not isinstance(value[1], int):
            raise self.fail(f"mxnet_version is {str(value[1])[:40]!r}, not a number")
        return value[1]

    def node(self, index: int, given: object) -> Node:
        if not isinstance(given, dict):
            raise self.fail(f"node {index} is not an object")
        op, name = given.get("op"), given.get("name")
        if not isinstance(op, str) or not isinstance(name, str) or not op or not name:
            raise self.fail(f"node {index} has no op or no name")
        what = f"node {index} ({name!r})"
        if given.get("subgraphs"):
            raise self.fail(f"{what} holds a subgraph (control flow), which is not supported")
        attrs: dict[str, str] = {}
        for key in ("param", "attr", "attrs"):
            part = given.get(key, {})
            if not isinstance(part, dict) or not all(isinstance(value, str) for value in part.values()):
                raise self.fail(f"the attributes of {what} are not text")
            attrs |= part
        if op == "Pooling" and "pad" in given.get("param", {}):
            # Until 0.8 every parameter was written, so this file is from a time before there was this one,
            # when sizes were rounded up.
            attrs.setdefault("pooling_convention", "full")
        inputs = self.entries(given.get("inputs", []), index, f"the inputs of {what}")
        return Node(ALIASES.get(op, op), name, attrs, inputs)

    def entries(self, given: object, limit: int, what: str) -> list[NodeOutput]:
        """[[node, output, version], ...] with every node before `limit`."""
        if not isinstance(given, list):
            raise self.fail(f"{what} are not a list")
        entries = []
        for item in given:
            if not isinstance(item, list) or len(item) not in (2, 3) or not all(
                    type(number) is int and number >= 0 for number in item):
                raise self.fail(f"{what}: {str(item)[:40]} is not [node, output, version]")
            entry = NodeOutput(*item)
            if entry.node >= limit:
                raise self.fail(f"{what} refer to node {entry.node}, which does not come before")
            entries.append(entry)
        return entries


def _spell_out_hidden(node: Node, nodes: list[Node]) -> None:
    """`lr_mult` of 0.x is `__lr_mult__` now, and `weight_lr_mult` belongs to the weight's variable."""
    for name in list(node.attrs):
        key = next((key for key in HIDDEN if name.endswith(key) and not _is_hidden(name)), None)
        if key is None:
            continue
        if name == key:
            node.attrs[f"__{key}__"] = node.attrs.pop(name)
            continue
        names = INPUTS.get(node.op, ())
        argument = name[:-len(key) - 1]
        position = names.index(argument) if argument in names else len(node.inputs)
        if position < len(node.inputs) and nodes[node.inputs[position].node].is_variable:
            nodes[node.inputs[position].node].attrs[f"__{key}__"] = node.attrs.pop(name)


def _add_statistics(nodes: list[Node]) -> None:
    """Until 0.8 auxiliary states were not nodes: add them with their operator's attributes, as MXNet does."""
    for node in list(nodes):
        names = INPUTS.get(node.op, ())
        for name in names[len(node.inputs):]:
            if name in STATISTICS_INIT:
                node.inputs.append(NodeOutput(len(nodes)))
                attrs = node.attrs | {"__init__": STATISTICS_INIT[name]}
                nodes.append(Node("null", f"{node.name}_{name}", attrs))


def _mend_argmax(nodes: list[Node]) -> None:
    """Before 0.9.5 `axis=-1` of argmax meant all axes."""
    for node in nodes:
        if node.op in ("argmax", "argmin") and node.attrs.get("axis") == "-1":
            del node.attrs["axis"]


def _node_text(node: Node, indent: str) -> str:
    members = [f'"op": {_quoted(node.op)}', f'"name": {_quoted(node.name)}']
    if node.attrs:
        attrs = {name: _quoted(node.attrs[name]) for name in sorted(node.attrs)}
        members.append(f'"attrs": {_object(attrs, indent + "  ")}')
    members.append(f'"inputs": {_array([_entry_text(entry) for entry in node.inputs], indent + "  ")}')
    return _lines("{", members, "}", indent)


def _entry_text(entry: NodeOutput) -> str:
    return f"[{entry.node}, {entry.output}, {entry.version}]"


def _object(members: Mapping[str, str], indent: str) -> str:
    texts = [f"{_quoted(name)}: {text}" for name, text in members.items()]
    return "{" + texts[0] + "}" if len(texts) == 1 else _lines("{", texts, "}", indent)


def _array(items: list[str], indent: str) -> str:
    return "[" + ", ".join(items) + "]" if len(items) <= 10 else _lines("[", items, "]", indent)


def _lines(opening: str, items: list[str], closing: str, indent: str) -> str:
    """One item a line. MXNet puts a space behind the comma."""
    return opening + "\n" + ", \n".join(f"{indent}  {item}" for item in items) + f"\n{indent}{closing}"


ESCAPES = str.maketrans({'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def _quoted(text: str) -> str:
    """MXNet's reader knows these five escapes and no others; everything else stands as UTF-8."""
    return f'"{text.translate(ESCAPES)}"'
