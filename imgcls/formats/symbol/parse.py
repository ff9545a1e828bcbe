"""From a symbol.json of any version to a `Symbol` of today's dialect.

Whatever loads a network or a checkpoint calls `load`. The JSON is checked member by member before it is used;
a member that does not fit is a DataError that names its node.
"""

from __future__ import annotations

import json
import os

from imgcls.errors import DataError, reason
from imgcls.formats import json_text
from imgcls.formats.symbol.dialects import ALIASES, OLDEST_VERSION, upgrade
from imgcls.formats.symbol.nodes import Node, NodeOutput, Symbol, post_order
from imgcls.storage.paths import to_path
from imgcls.storage.reading import read_all

#: a node takes about 200 bytes, so both bounds allow a hundred times the largest network of MXNet's zoo
MAX_BYTES = 64 << 20
MAX_NODES = 200_000
#: of a wrong value an error shows so many characters
_SHOWN_LENGTH = 40


def load(path: str | os.PathLike[str]) -> Symbol:
    """Read a symbol.json of any version; a damaged one is a DataError."""
    file = to_path(path)
    try:
        if file.stat().st_size > MAX_BYTES:
            raise DataError(path, f"larger than {MAX_BYTES} bytes: not a network's symbol")
        data = read_all(file)
    except OSError as error:
        raise DataError(path, reason(error)) from error
    return loads(data, path)


def loads(text: str | bytes, path: object = "symbol") -> Symbol:
    """Read what `load` does from JSON in memory; `path` is what errors call it."""
    # MXNet writes control characters as they are (see `write._quote`), and reads them.
    return _Parser(path).parse(json_text.loads(text, path, "a symbol", MAX_BYTES, allows_control=True))


class _Parser:
    """Reads one JSON document; `path` is what errors call it."""

    def __init__(self, path: object) -> None:
        self.path = path

    def parse(self, document: object) -> Symbol:
        """Return the symbol that the document describes."""
        if not isinstance(document, dict) or not isinstance(document.get("nodes"), list):
            raise self.fail("not a symbol: there is no list of nodes")
        if not 1 <= len(document["nodes"]) <= MAX_NODES:
            raise self.fail(f"{len(document['nodes'])} nodes (there may be 1 to {MAX_NODES})")
        attrs = self.read_graph_attrs(document.get("attrs", {}))
        version = self.read_version(attrs.pop("mxnet_version", ["int", OLDEST_VERSION]))
        nodes = [self.read_node(index, node) for index, node in enumerate(document["nodes"])]
        heads = self.read_outputs(document.get("heads"), len(nodes), "heads")
        if not heads:
            raise self.fail("the symbol has no heads, so no output")
        upgrade(nodes, version)
        # Also drops nodes that no head needs, as MXNet does when it loads a file.
        nodes, heads = post_order(nodes, heads)
        return Symbol(nodes, heads, attrs, version)

    def fail(self, reason: str) -> DataError:
        """Return the DataError with this reason, for the caller to raise."""
        return DataError(self.path, reason)

    def read_graph_attrs(self, attrs: object) -> dict[str, list]:
        """Return the graph's own attributes, name -> [type, value]."""
        if not isinstance(attrs, dict) or any(not isinstance(v, list) or len(v) != 2 for v in attrs.values()):
            raise self.fail('the graph\'s attributes are not of the form {"name": ["type", value]}')
        try:
            self.require_text("the graph's attributes", json.dumps(attrs, ensure_ascii=False))
        except RecursionError as error:
            raise self.fail("the graph's attributes are nested too deeply") from error
        return dict(attrs)

    def require_text(self, what: str, *texts: str) -> None:
        """Raise DataError for half of a surrogate pair, which JSON can hold and no file that we write."""
        if not all(map(json_text.is_text, texts)):
            raise self.fail(f"{what}: a text holds half of a surrogate pair, which is no character")

    def read_version(self, value: list) -> int:
        """Return the version of a [type, version]."""
        if not isinstance(value[1], int):
            raise self.fail(f"mxnet_version is {str(value[1])[:_SHOWN_LENGTH]!r}, not a number")
        return value[1]

    def read_node(self, index: int, member: object) -> Node:
        """Return a node as it is written, under its operator's name of today."""
        if not isinstance(member, dict):
            raise self.fail(f"node {index} is not an object")
        op = member.get("op")
        name = member.get("name")
        # Parameters are found by the name of their node, so there is none without.
        if not isinstance(op, str) or not isinstance(name, str) or not op or not name:
            raise self.fail(f"node {index} has no op or no name")
        shown = f"node {index} ({name!r})"
        if member.get("subgraphs"):
            raise self.fail(f"{shown} holds a subgraph (control flow), which is not supported")
        attrs: dict[str, str] = {}
        # Until 0.8 the operator's stood in "param", the user's in "attr"; then all in "attr", now in "attrs".
        for key in ("param", "attr", "attrs"):
            values = member.get(key, {})
            if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
                raise self.fail(f"the attributes of {shown} are not text")
            attrs |= values
        self.require_text(shown, op, name, *attrs, *attrs.values())
        if op == "Pooling" and "pad" in member.get("param", {}):
            # Until 0.8 every parameter was written, so this file is from a version without this one, which
            # rounded sizes up.
            attrs.setdefault("pooling_convention", "full")
        inputs = self.read_outputs(member.get("inputs", []), index, f"the inputs of {shown}")
        return Node(ALIASES.get(op, op), name, attrs, inputs)

    def read_outputs(self, members: object, limit: int, what: str) -> list[NodeOutput]:
        """Return the references of [[node, output, version], ...], every node before `limit`."""
        if not isinstance(members, list):
            raise self.fail(f"{what} are not a list")
        outputs = []
        for member in members:
            # Not isinstance: True and False are integers too.
            if not isinstance(member, list) or len(member) not in (2, 3) or not all(
                    type(number) is int and number >= 0 for number in member):
                raise self.fail(f"{what}: {str(member)[:_SHOWN_LENGTH]} is not [node, output, version]")
            output = NodeOutput(*member)
            # Nodes before it only: so the graph has no cycle, whatever the file says.
            if output.node >= limit:
                raise self.fail(f"{what} refer to node {output.node}, which does not come before")
            outputs.append(output)
        return outputs
