"""`mx.sym`: symbols, that is networks as graphs: built from operators, read from and written to symbol.json.

`mx.sym.Convolution(data=x, kernel=(3, 3), num_filter=8)` adds a node; variables for weights that are not
given are made, with MXNet's names. `tojson` returns MXNet 1.9.1's text. To compute, bind a symbol:
`sym.bind`, `sym.simple_bind`, or `mx.mod.Module`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from imgcls.compat.mxnet import _compose, attribute
from imgcls.compat.mxnet._nodes import Entry, GraphNode, copied, from_graph, num_visible, output_name
from imgcls.compat.mxnet._nodes import post_order as _post_order
from imgcls.compat.mxnet._nodes import to_graph as _to_graph
from imgcls.compat.mxnet._operators import signatures
from imgcls.compat.mxnet._registration import missing
from imgcls.compat.mxnet._symbol_arithmetic import Arithmetic
from imgcls.compat.mxnet.base import translated
from imgcls.formats import symbol as symbols
from imgcls.formats.params import CODES
from imgcls.formats.symbol.dialects import HIDDEN

if TYPE_CHECKING:
    from imgcls.compat.mxnet.executor import Executor
    from imgcls.compat.mxnet.nd import NDArray

#: what `infer_shape` returns: shapes of the arguments, the outputs and the auxiliary states
Shapes = tuple[list[Any] | None, list[Any] | None, list[Any] | None]


class Symbol(Arithmetic):
    """One or several outputs of a graph."""

    # Symbols share nodes: composing does not copy them, so only `_set_attr` changes a node.

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = list(entries)

    def _node(self, function: str, *inputs: Any, **settings: Any) -> Symbol:
        return _call(function, *inputs, **settings)

    @property
    def name(self) -> str | None:
        """The name of the node; None for outputs of several nodes."""
        names = {entry.node.name for entry in self._entries}  # all outputs of a SliceChannel have one name
        return names.pop() if len(names) == 1 else None

    def __repr__(self) -> str:
        if self.name is not None:
            return f"<Symbol {self.name}>"
        return f"<Symbol group [{', '.join(entry.node.name for entry in self._entries)}]>"

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Symbol]:
        return (Symbol([entry]) for entry in self._entries)

    def __getitem__(self, index: int | str | slice) -> Symbol:
        if isinstance(index, slice):
            return Symbol(self._entries[index])
        if isinstance(index, str):
            found = [i for i, name in enumerate(self.list_outputs()) if name == index]
            if len(found) != 1:
                reason = "several outputs are called" if found else "Cannot find output that matches name"
                raise ValueError(f'{reason} "{index}"')
            index = found[0]
        if not isinstance(index, int):
            raise TypeError("outputs are chosen by number or by name")
        return Symbol([self._entries[index]])

    def __copy__(self) -> Symbol:
        return Symbol(copied(self._entries))

    def __deepcopy__(self, memo: Any) -> Symbol:
        return Symbol(copied(self._entries))

    def __getstate__(self) -> dict[str, str]:
        # As text: a pickle of the nodes would be as deep as the network, beyond Python's limit.
        return {"json": self.tojson(remove_amp_cast=False)}

    def __setstate__(self, state: dict[str, str]) -> None:
        self._entries = from_graph(symbols.loads(state["json"]))

    def __call__(self, *args: Symbol, **kwargs: Any) -> Symbol:
        """Return a copy with other symbols in place of variables, by MXNet's order or by name."""
        return Symbol(_compose.replaced(self._entries, args, kwargs))

    # Operators as methods: x.softmax(axis=1) is mx.sym.softmax(x, axis=1).
    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or (name not in signatures() and name not in _compose.WRITTEN):
            raise missing("mxnet.symbol.Symbol", name, [*signatures(), *dir(type(self))])
        return lambda *args, **kwargs: _call(name, self, *args, **kwargs)

    # Used to cut a network: symbol.get_internals()["fc1_output"].
    def get_internals(self) -> Symbol:
        """Return the outputs of all nodes, variables included."""
        return Symbol([Entry(node, output) for node in _post_order(self._entries)
                       for output in range(num_visible(node))])

    def get_children(self) -> Symbol | None:
        """Return the inputs of the node, None for a variable."""
        inputs = [entry for source in self._entries for entry in source.node.inputs]
        return Symbol(inputs) if inputs else None

    def list_outputs(self) -> list[str]:
        """Return the names of the outputs."""
        return [output_name(entry) for entry in self._entries]

    # The arguments of `bind`, in this order.
    def list_arguments(self) -> list[str]:
        """Return the names of inputs, weights and labels, in the graph's order."""
        return self._graph().arguments()

    def list_auxiliary_states(self) -> list[str]:
        """Return the names of the running statistics, in the graph's order."""
        return self._graph().auxiliary()

    def list_inputs(self) -> list[str]:
        """Return the names of all variables, in the graph's order."""
        return self._graph().variables()

    # Hidden attributes are also found without their underscores.
    def attr(self, key: str) -> str | None:
        """Return an attribute of the node, None where there is none."""
        return self.list_attr().get(key)

    def list_attr(self, recursive: bool = False) -> dict[str, str]:
        """Return the attributes of the node."""
        if recursive:
            raise DeprecationWarning("list_attr(recursive=True): attr_dict() lists those of all nodes")
        return _shown(self._entries[0].node.attrs) if self.name is not None else {}

    def attr_dict(self) -> dict[str, dict[str, str]]:
        """Return node -> attributes, of all nodes that have any."""
        return {node.name: _shown(node.attrs) for node in _post_order(self._entries) if node.attrs}

    def _set_attr(self, **kwargs: str) -> None:
        for entry in self._entries:
            entry.node.attrs.update(kwargs)

    def _graph(self) -> symbols.Symbol:
        return _to_graph(self._entries)

    # Imports torch: the layers compute their output shapes.
    def infer_shape(self, *args: Any, **kwargs: Any) -> Shapes:
        """Return the shapes of (arguments, outputs, auxiliary states), from those of some arguments.

        These are given by name, or in the order of `list_arguments`. All three are None, with a warning,
        where a shape cannot be inferred; shapes that contradict each other are an MXNetError.
        """
        found = self.infer_shape_partial(*args, **kwargs)
        unknown = [f"{name}: {shape}" for name, shape in zip(self.list_arguments(), found[0] or [],
                                                             strict=True) if 0 in shape or not shape]
        if not unknown and all(found[1] or []):
            return found
        warnings.warn("Cannot decide shape for the following arguments (0s in shape means unknown "
                      "dimensions). Consider providing them as input:\n\t" + "\n\t".join(unknown),
                      stacklevel=2)
        return None, None, None

    def infer_shape_partial(self, *args: Any, **kwargs: Any) -> Shapes:
        """Return what `infer_shape` does, with () for a shape that cannot be inferred."""
        from imgcls.compat.mxnet import _shapes

        known = {name: tuple(shape) for name, shape in zip(self.list_arguments(), args, strict=False)
                 if shape is not None}
        known |= {name: tuple(shape) for name, shape in kwargs.items()}
        graph = self._graph()
        found = _shapes.infer(graph, known)
        return ([found.variables.get(name, ()) for name in graph.arguments()],
                [found.outputs.get(head._replace(version=0), ()) for head in graph.heads],
                [found.variables.get(name, ()) for name in graph.auxiliary()])

    # There is little to infer: networks compute in float32 here.
    def infer_type(self, *args: Any, **kwargs: Any) -> Shapes:
        """Return the types of (arguments, outputs, auxiliary states): float32, or an input's given type."""
        given = dict(zip(self.list_arguments(), args, strict=False)) | kwargs
        types = {name: np.dtype(kind).type for name, kind in given.items() if kind is not None}
        graph = self._graph()
        return ([types.get(name, np.float32) for name in graph.arguments()],
                [np.float32 for _ in graph.heads], [np.float32 for _ in graph.auxiliary()])

    # The same bytes that MXNet would write.
    def tojson(self, remove_amp_cast: bool = True) -> str:
        """Return the text of the symbol.json; with `remove_amp_cast` without the casts of mixed precision."""
        entries = _compose.without_casts(self._entries) if remove_amp_cast else self._entries
        return symbols.dumps(_to_graph(entries))

    def save(self, fname: str | os.PathLike[str], remove_amp_cast: bool = True) -> None:
        """Write `tojson` to a file, atomically."""
        entries = _compose.without_casts(self._entries) if remove_amp_cast else self._entries
        symbols.save(fname, _to_graph(entries))

    def debug_str(self) -> str:
        """Return the nodes as text, for people."""
        return _compose.debug_text(self._entries)

    # Imported here and not above: symbols are read and built without torch.
    def simple_bind(self, ctx: Any = None, grad_req: Any = "write", type_dict: Any = None,
                    **kwargs: Any) -> Executor:
        """Return an executor with new arrays, their shapes inferred from those of the inputs by name."""
        from imgcls.compat.mxnet import executor

        return executor.simple_bind(self, ctx, grad_req, type_dict, kwargs)

    def bind(self, ctx: Any, args: Any, args_grad: Any = None, grad_req: Any = "write",
             aux_states: Any = None, group2ctx: Any = None, shared_exec: Any = None) -> Executor:
        """Return an executor that computes with these arrays, given as lists in MXNet's order or by name."""
        from imgcls.compat.mxnet import executor

        return executor.bind(self, ctx, args, args_grad, grad_req, aux_states)

    # For experiments; a loop should bind once.
    def eval(self, ctx: Any = None, **kwargs: NDArray) -> list[NDArray]:
        """Return the outputs for these arguments."""
        return self.bind(ctx, kwargs, grad_req="null").forward()


# Attributes with underscores are for initializers and optimizers, and operators ignore them.
def var(name: str, attr: Mapping[str, str] | None = None, shape: Sequence[int] | None = None,
        lr_mult: float | None = None, wd_mult: float | None = None, dtype: Any = None, init: Any = None,
        stype: str | None = None, **kwargs: Any) -> Symbol:
    """Return a variable: an input, a label, or a weight with an initializer or multipliers of its own."""
    if not isinstance(name, str):
        raise TypeError("the name of a variable must be text")
    if stype not in (None, "default"):
        raise missing("mxnet.symbol", "sparse", ())
    attrs = attribute.in_force(attr)
    code = None if dtype is None else CODES[np.dtype(dtype)]  # mshadow's number, as in .params files
    for key, value in {"shape": shape, "lr_mult": lr_mult, "wd_mult": wd_mult, "dtype": code}.items():
        if value is not None:
            attrs[f"__{key}__"] = str(value)
    if init is not None:
        attrs["__init__"] = init if isinstance(init, str) else init.dumps()
    for key, value in kwargs.items():
        if not (key.startswith("__") and key.endswith("__")):
            raise ValueError(f"variable {name}: attribute {key} must start and end with two underscores")
        attrs[key] = str(value)
    attrs = {f"__{key}__" if key in HIDDEN else key: value for key, value in attrs.items()}
    return Symbol([Entry(GraphNode("null", name, attrs, []))])


Variable = var


# Several outputs of one network, bound and computed together.
def Group(symbols: Sequence[Symbol]) -> Symbol:  # noqa: N802
    """Return one symbol with all outputs of several."""
    if not symbols or not all(isinstance(symbol, Symbol) for symbol in symbols):
        raise TypeError("a group is made of a list of symbols")
    return Symbol([entry for symbol in symbols for entry in symbol._entries])


# Old dialects are converted to today's.
@translated
def load(fname: str | os.PathLike[str]) -> Symbol:
    """Read a symbol.json of any version of MXNet; a damaged one is an MXNetError."""
    return Symbol(from_graph(symbols.load(fname)))


@translated
def load_json(json_str: str) -> Symbol:
    """Return the symbol of a symbol.json's text."""
    if not isinstance(json_str, str):
        raise TypeError("load_json takes text")
    return Symbol(from_graph(symbols.loads(json_str)))


def fromjson(json_str: str) -> Symbol:
    """Return `load_json`, under its other name."""
    return load_json(json_str)


def _shown(attrs: Mapping[str, str]) -> dict[str, str]:
    """Return attributes as MXNet lists them: `__lr_mult__` also under its old name."""
    return dict(attrs) | {key: attrs[f"__{key}__"] for key in HIDDEN if f"__{key}__" in attrs}


def _call(name: str, *args: Any, **kwargs: Any) -> Symbol:
    found = _compose.function(name, Symbol, "")
    assert found is not None, name
    return found(*args, **kwargs)


#: `mx.sym.contrib.BilinearResize2D` and its like
contrib = _compose.Namespace("symbol.contrib", "_contrib_", lambda: Symbol)


# All operators: functions are made when they are requested.
def __getattr__(name: str) -> Any:
    if name == "_internal":
        return _compose.Namespace("symbol._internal", "", lambda: Symbol)
    found = None if name.startswith("__") else _compose.function(name, Symbol, "")
    if found is None:
        raise missing("mxnet.symbol", name,
                      [*signatures(), "Variable", "Group", "load", "load_json", "contrib"])
    return found
