"""How operators become nodes of a symbol, and other changes to graphs; called by `symbol.py`."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from imgcls.compat.mxnet import attribute
from imgcls.compat.mxnet import name as names
from imgcls.compat.mxnet._nodes import Entry, GraphNode, copied, num_visible, post_order
from imgcls.compat.mxnet._operators import AUXILIARY, INITIAL, Signature, signatures
from imgcls.compat.mxnet._registration import bind_arguments, find, missing
from imgcls.compat.mxnet.base import MXNetError


# Made at every call: a name costs one look-up, and nothing has to be registered.
def function(name: str, symbol_class: Any, prefix: str) -> Callable[..., Any] | None:
    """Return the function of `mx.sym` that has this name; None where there is none."""
    if not prefix and name in WRITTEN:
        return lambda *args, **kwargs: WRITTEN[name](symbol_class, *args, **kwargs)
    found = find(name, prefix)
    if found is None:
        return None
    signature, hint = found

    def operator(*args: Any, name: str | None = None, attr: Mapping[str, str] | None = None,
                 out: Any = None, **kwargs: Any) -> Any:
        # Attributes of a scope go to the operator, and from there to its variables.
        scope = attribute.in_force(attr)
        inputs, attrs = bind_arguments(hint, signature, args, {**kwargs, **scope},
                                       lambda value: isinstance(value, symbol_class))
        if isinstance(inputs, dict):
            by_name: dict[str, Any] = inputs
            # None for each input for which a variable has to be made.
            given = [by_name.get(key) for key in signature.inputs_with(attrs)]
            extra = next((key for key in by_name if key not in signature.inputs_with(attrs)), None)
            if extra is not None:
                raise MXNetError(f"{hint}: takes no {extra} with these settings")
        else:
            given = list(inputs)
            if signature.op == "UpSampling" and attrs.get("sample_type") == "bilinear":
                given += [None] * (2 - len(given))
        return symbol_class(_outputs(signature, names.current().get(name, hint), given, attrs))

    operator.__name__ = hint  # what tracebacks and help() show
    return operator


# Variables are nodes like any other, so a weight may be given by another operator.
def _outputs(signature: Signature, name: str, inputs: Sequence[Any], attrs: dict[str, str]) -> list[Entry]:
    """Return the outputs of a new node; inputs that are None become variables of their own."""
    slots = signature.inputs_with(attrs)
    node = GraphNode(signature.op, name, attrs, [])
    for i, symbol in enumerate(inputs):
        slot = slots[i] if i < len(slots) else f"arg{i}"
        # nnvm marks the inputs that an operator changes with version 1, and symbol.json stores it.
        is_written = slot in AUXILIARY
        if symbol is None:
            # MXNet copies the operator's attributes onto variables that it makes itself.
            initial = INITIAL.get((signature.op, slot), INITIAL.get(slot))
            extra = {} if initial is None else {"__init__": initial}
            made = GraphNode("null", f"{name}_{slot}", attrs | extra, [])
            made.num_writes = int(is_written)
            node.inputs.append(Entry(made, 0, made.num_writes))
        else:
            # Taking the first output silently would drop the rest of a SliceChannel.
            if len(symbol) != 1:
                raise MXNetError(f"{name}: input {slot} is a symbol of {len(symbol)} outputs; choose one, "
                                 "symbol[0]")
            entry = symbol._entries[0]
            entry.node.num_writes += is_written
            node.inputs.append(entry._replace(version=entry.node.num_writes))
    return [Entry(node, output) for output in range(num_visible(node))]


# A class and no module, so that the names under a prefix need no file.
class Namespace:
    """Functions under a prefix, such as `mx.sym.contrib`."""

    def __init__(self, path: str, prefix: str, symbol_class: Callable[[], Any]) -> None:
        self._path = path
        self._prefix = prefix
        self._symbol_class = symbol_class

    def __getattr__(self, name: str) -> Any:
        # copy, pickle and doctest look for dunder names, and expect an AttributeError without a search.
        found = None if name.startswith("__") else function(name, self._symbol_class(), self._prefix)
        if found is None:
            cut = len(self._prefix)
            raise missing(f"mxnet.{self._path}", name, [op[cut:] for op in signatures()
                                                        if op.startswith(self._prefix)])
        return found


# MXNet has these under hand-written names; the nodes are those of the operators + and *.
def _of_two(plain: str, with_number: str, swapped: str) -> Callable[..., Any]:
    """Return a function of two symbols, or of a symbol and a number on either side."""
    def call(symbol_class: Any, left: Any, right: Any) -> Any:
        if not isinstance(left, numbers.Number):
            other = with_number if isinstance(right, numbers.Number) else plain
            arguments = {"scalar": right} if isinstance(right, numbers.Number) else {"rhs": right}
            made = function(other, symbol_class, "")
            return made(left, **arguments) if made else None
        # The number is on the left: `_RPowerScalar` swaps back; for max and min the order does not matter.
        made = function(swapped, symbol_class, "")
        return made(right, scalar=left) if made else None

    return call


# The dtype is always written, which the plain operator does not do.
def _filled(op: str) -> Callable[..., Any]:
    """Return a function that makes an array of a constant."""
    def call(symbol_class: Any, shape: Any, *value: Any, dtype: Any = None, **kwargs: Any) -> Any:
        made = function(op, symbol_class, "")
        extra = {"value": float(value[0])} if value else {}
        return made(shape=shape, dtype=dtype or "float32", **extra, **kwargs) if made else None

    return call


#: functions that MXNet has written by hand, beside those made from its list of operators
WRITTEN: dict[str, Callable[..., Any]] = {
    "pow": _of_two("_Power", "_PowerScalar", "_RPowerScalar"),
    "power": _of_two("_Power", "_PowerScalar", "_RPowerScalar"),
    "maximum": _of_two("_Maximum", "_MaximumScalar", "_MaximumScalar"),
    "minimum": _of_two("_Minimum", "_MinimumScalar", "_MinimumScalar"),
    "zeros": _filled("_zeros"), "ones": _filled("_ones"), "full": _filled("_full"),
}


# On a copy: the caller's symbol is not changed.
def replaced(entries: Sequence[Entry], args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Entry]:
    """Return a copy of the graph with symbols in place of variables, by the order of arguments or by name."""
    new_name = kwargs.get("name")
    by_name = {key: symbol for key, symbol in kwargs.items() if key != "name"}
    if args and by_name:
        raise TypeError("symbols come by position or by name, not both")
    entries = copied(entries)
    nodes = post_order(entries)
    # Statistics as well: MXNet replaces them by name in the same way.
    variables = [node for node in nodes if node.op == "null"]
    by_name |= dict(zip([node.name for node in variables], args, strict=False))
    given = [*args, *by_name.values()]
    if len(args) > len(variables) or any(not hasattr(symbol, "_entries") for symbol in given):
        raise TypeError("a symbol is called with symbols, at most as many as it has arguments")
    for node in nodes:
        node.inputs[:] = [by_name[entry.node.name]._entries[0]._replace(version=entry.version)
                          if entry.node.op == "null" and entry.node.name in by_name else entry
                          for entry in node.inputs]
    if new_name:
        entries[0].node.name = new_name
    return entries


# These nodes only say how MXNet computes, and no other program reads them.
def without_casts(entries: Sequence[Entry]) -> Sequence[Entry]:
    """Return the graph without `amp_cast`, which automatic mixed precision puts in."""
    if not any(node.op == "amp_cast" for node in post_order(entries)):  # nearly always: no copy
        return entries

    def past(entry: Entry) -> Entry:
        while entry.node.op == "amp_cast":
            entry = entry.node.inputs[0]
        return entry

    entries = copied(entries)
    for node in post_order(entries):
        node.inputs[:] = [past(entry) for entry in node.inputs]
    return [past(entry) for entry in entries]


# For people; nothing here parses it.
def debug_text(entries: Sequence[Entry]) -> str:
    """Return the nodes as text: operators with inputs and attributes."""
    lines = ["Symbol Outputs:"]
    lines += [f"\toutput[{i}]={entry.node.name}({entry.output})" for i, entry in enumerate(entries)]
    for node in post_order(entries):
        if node.op == "null":
            lines.append(f"Variable:{node.name}")
            continue
        lines += ["--------------------", f"Op:{node.op}, Name={node.name}", "Inputs:"]
        for i, entry in enumerate(node.inputs):
            version = f" version={entry.version}" if entry.node.op == "null" else ""
            lines.append(f"\targ[{i}]={entry.node.name}({entry.output}){version}")
        if node.attrs:
            lines += ["Attrs:", *(f"\t{key}={value}" for key, value in sorted(node.attrs.items()))]
    return "\n".join(lines) + "\n"
