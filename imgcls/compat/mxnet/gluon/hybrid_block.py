"""`mx.gluon.HybridBlock`: a block that is written once for arrays and for symbols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from imgcls.compat.mxnet import nd, symbol
from imgcls.compat.mxnet.gluon._cached_graph import CachedGraph
from imgcls.compat.mxnet.gluon.block import Block
from imgcls.compat.mxnet.gluon.parameter import DeferredInitializationError, Parameter
from imgcls.compat.mxnet.gluon.parameter_dict import ParameterDict
from imgcls.compat.mxnet.nd import NDArray
from imgcls.compat.mxnet.symbol import Symbol


class HybridBlock(Block):
    """A block with `hybrid_forward(F, x, **params)`, where `F` is `mx.nd` or, for a graph, `mx.sym`."""

    def __init__(self, prefix: str | None = None, params: ParameterDict | None = None) -> None:
        super().__init__(prefix, params)
        self._is_active = False
        self._graph: CachedGraph | None = None
        #: whether it is a graph from the start (SymbolBlock), and so can be exported at any time
        self._is_graph = False
        #: how the arguments and results of a forward pass are nested: the graph has flat lists
        # as in MXNet a list of arrays is one argument of a block, and several inputs of a graph
        self._in_format: Any = None
        self._out_format: Any = None

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if isinstance(value, HybridBlock):
            self._clear()

    def register_child(self, block: Block, name: str | None = None) -> None:
        """Add a child, which must be a HybridBlock as well."""
        if not isinstance(block, HybridBlock):
            raise ValueError(
                "Children of HybridBlock must also be HybridBlock, but "
                f"{block} has type {type(block)}. If you are using Sequential, please try HybridSequential "
                "instead.")
        super().register_child(block, name)
        self._clear()

    # Settings such as static_alloc concern MXNet's memory, and change no result.
    def hybridize(self, active: bool = True, **kwargs: Any) -> None:
        """Compute as a graph from the next call on."""
        self._is_active = active
        self._clear()
        super().hybridize(active, **kwargs)

    def cast(self, dtype: Any) -> None:
        """Convert the parameters to another dtype."""
        self._clear()
        super().cast(dtype)

    def _clear(self) -> None:
        self._graph = None

    # Names of inputs are MXNet's, as exported files contain them.
    def _symbol_of(self, args: Sequence[Any]) -> CachedGraph:
        """Return the graph of this block for arguments of this structure."""
        if self._graph is None:
            flat, self._in_format = flatten(args)
            real = [arg for arg in flat if arg is not None]
            names = ["data"] if len(real) == 1 else [f"data{i}" for i in range(len(real))]
            variables = iter([symbol.var(name) for name in names])
            inputs, _ = regroup([None if arg is None else next(variables) for arg in flat], self._in_format)
            given = {name: parameter.var() for name, parameter in self._reg_params.items()}
            with self.name_scope():
                result = self.hybrid_forward(symbol, *inputs, **given)
            heads, self._out_format = flatten(result)
            self._graph = CachedGraph(heads[0] if len(heads) == 1 else symbol.Group(heads), names)
        return self._graph

    def infer_shape(self, *args: NDArray) -> None:
        """Set the shapes of the parameters from those of the inputs."""
        graph = self._symbol_of(args)
        flat = [arg for arg in flatten(args)[0] if arg is not None]
        shapes = {name: arg.shape for name, arg in zip(graph.input_names, flat, strict=True)}
        given = self._parameters()
        known = {name: parameter.known_shape() for name, parameter in given.items()
                 if parameter.known_shape() and name in graph.variables}
        arg_shapes, _, aux_shapes = graph.symbol.infer_shape_partial(**shapes, **known)
        names = [*graph.symbol.list_arguments(), *graph.statistics]
        shape: Any
        for name, shape in zip(names, [*(arg_shapes or []), *(aux_shapes or [])], strict=True):
            if name in given and shape and all(shape):
                given[name].shape = tuple(shape)

    def _parameters(self) -> dict[str, Parameter]:
        return dict(self.collect_params().items())

    def _infer_and_fill(self, *args: Any) -> None:
        try:
            self.infer_shape(*args)
        except Exception as error:
            raise ValueError("Deferred initialization failed because shape cannot be inferred. "
                             f"{error}") from error
        for parameter in self.collect_params().values():
            parameter.finish()

    def __call_graph(self, args: Sequence[Any]) -> Any:
        graph = self._symbol_of(args)
        flat, structure = flatten(args)
        if structure != self._in_format:
            raise ValueError("Invalid input. One HybridBlock expects inputs of the structure that it was "
                             "first called with")
        flat = [arg for arg in flat if arg is not None]
        parameters = self._parameters()
        held = [parameters[name] for name in graph.variables if name in parameters]
        try:
            arrays = {parameter.name: parameter.data() for parameter in held}
        # shapes that the layers left open follow from the first batch
        except DeferredInitializationError:
            self._infer_and_fill(*args)
            arrays = {parameter.name: parameter.data() for parameter in held}
        arrays.update(zip(graph.input_names, flat, strict=True))
        outputs = graph({name: arrays[name] for name in graph.variables if name in arrays})
        return regroup(outputs, self._out_format)[0]

    def forward(self, x: Any, *args: Any) -> Any:
        """Return the result for arrays, or the symbol for symbols."""
        if isinstance(x, Symbol) or _has_symbol(x):
            given = {name: parameter.var() for name, parameter in self._reg_params.items()}
            with self.name_scope():
                return self.hybrid_forward(symbol, x, *args, **given)
        if self._is_active:
            return self.__call_graph((x, *args))
        try:
            given = {name: parameter.data() for name, parameter in self._reg_params.items()}
        except DeferredInitializationError:
            self._infer_and_fill(x, *args)
            given = {name: parameter.data() for name, parameter in self._reg_params.items()}
        return self.hybrid_forward(nd, x, *args, **given)

    def hybrid_forward(self, F: Any, x: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N803
        """Return the block's result, computed with the functions of `F` (`mx.nd` or `mx.sym`)."""
        raise NotImplementedError("a block of your own must say what it computes in hybrid_forward")

    # The same two files as a module's checkpoint.
    def export(self, path: str, epoch: int = 0, remove_amp_cast: bool = True) -> tuple[str, str]:
        """Write `path-symbol.json` and `path-0000.params`; return their names."""
        if self._graph is None or not (self._is_active or self._is_graph):
            raise RuntimeError("Please first call block.hybridize() and then run forward with this block at "
                               "least once before calling export.")
        names = f"{path}-symbol.json", f"{path}-{epoch:04d}.params"
        self._graph.symbol.save(names[0], remove_amp_cast)
        # In the order of the graph, statistics between weights: the file is MXNet's byte for byte.
        parameters = self._parameters()
        nd.save(names[1], {("aux:" if name in self._graph.statistics else "arg:") + name:
                           parameters[name].data() for name in self._graph.variables if name in parameters})
        return names

    def optimize_for(self, x: Any, *args: Any, backend: str | None = None, **kwargs: Any) -> None:
        """Build the graph with a first call; there are no backends to choose from."""
        self.hybridize(True)
        self(x, *args)


def flatten(values: Any) -> tuple[list[Any], Any]:
    """Return the leaves of nested lists, and how they were nested."""
    if not isinstance(values, (list, tuple)):
        return [values], 0
    leaves, formats = [], []
    for value in values:
        inner, structure = flatten(value)
        leaves += inner
        formats.append(structure)
    return leaves, formats


def regroup(leaves: Sequence[Any], structure: Any) -> tuple[Any, Sequence[Any]]:
    """Return (leaves nested by the structure that `flatten` returned, the remaining leaves)."""
    if structure == 0:
        return leaves[0], leaves[1:]
    values = []
    for inner in structure:
        value, leaves = regroup(leaves, inner)
        values.append(value)
    return values, leaves


def _has_symbol(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(isinstance(leaf, Symbol) for leaf in flatten(value)[0])
