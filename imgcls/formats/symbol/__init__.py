"""MXNet's `prefix-symbol.json`: read every dialect since 0.7, write the very bytes of MXNet 1.9.1.

A `Symbol` is a list of nodes: variables (op "null") and operators, each with attributes as text and inputs
that refer to earlier nodes. The file is one JSON object:

    nodes         [{"op", "name", "attrs": {name: text}, "inputs": [[node, output, version], ...]}, ...]
    arg_nodes     which nodes are variables              node_row_ptr  number of the outputs before each node
    heads         [[node, output, version], ...]         attrs         {"mxnet_version": ["int", 10901], ...}

    nodes         Symbol, Node, NodeOutput, and their order   parse  from JSON to a Symbol
    dialects      what older versions wrote otherwise         write  from a Symbol to MXNet's text
    attributes    a node's attributes, read by type

Nothing here computes an operator: `graph` makes a network of a symbol. Needs neither torch nor numpy.
Files are not trusted: sizes are bounded, references checked, and no attribute is ever evaluated.
"""

# The names that others build on; the files below are free to move them among each other.
from imgcls.formats.symbol.attributes import Attributes
from imgcls.formats.symbol.nodes import (
    INPUTS,
    STATISTICS_INIT,
    VERSION,
    Node,
    NodeOutput,
    Symbol,
    post_order,
)
from imgcls.formats.symbol.parse import MAX_BYTES, load, loads
from imgcls.formats.symbol.write import dumps, num_outputs, save

__all__ = [
    "INPUTS", "MAX_BYTES", "STATISTICS_INIT", "VERSION", "Attributes", "Node", "NodeOutput", "Symbol",
    "dumps", "load", "loads", "num_outputs", "post_order", "save",
]
