"""`mx.gluon.SymbolBlock`: an exported network as a block."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from imgcls.compat.mxnet import symbol
from imgcls.compat.mxnet._shapes import layer_class
from imgcls.compat.mxnet.gluon._cached_graph import CachedGraph
from imgcls.compat.mxnet.gluon.hybrid_block import HybridBlock
from imgcls.compat.mxnet.gluon.parameter import DeferredInitializationError
from imgcls.compat.mxnet.gluon.parameter_dict import ParameterDict
from imgcls.compat.mxnet.nd import NDArray, zeros
from imgcls.compat.mxnet.symbol import Symbol


class SymbolBlock(HybridBlock):
    """Outputs of a symbol as a function of its inputs."""

    def __init__(self, outputs: Symbol | Sequence[Symbol], inputs: Symbol | Sequence[Symbol],
                 params: ParameterDict | None = None) -> None:
        super().__init__(prefix="")
        heads = [outputs] if isinstance(outputs, Symbol) else list(outputs)
        # A Symbol is iterable too: list() of one would be its outputs.
        variables = [inputs] if isinstance(inputs, Symbol) else list(inputs)
        joined = heads[0] if len(heads) == 1 else symbol.Group(heads)
        names = [str(variable.name) for variable in variables]
        self._graph: CachedGraph | None = None
        self._symbol_graph = CachedGraph(joined, names)
        self._graph, self._is_graph = self._symbol_graph, True
        self._returns_list = len(joined) > 1
        self._params = ParameterDict("", params)
        graph = self._symbol_graph
        for name in [*joined.list_arguments(), *graph.statistics]:
            if name in names:
                continue
            is_statistic = name in graph.statistics
            parameter = self._params.get(name, allow_deferred_init=True,
                                         **({"grad_req": "null"} if is_statistic else {}))
            self._reg_params[name] = parameter

    @staticmethod
    # Most code for inference begins with this.
    def imports(symbol_file: str | os.PathLike[str], input_names: str | Sequence[str],
                param_file: str | os.PathLike[str] | None = None, ctx: Any = None,
                allow_missing: bool = False, ignore_extra: bool = False) -> SymbolBlock:
        """Return the block of `prefix-symbol.json` and `prefix-0000.params`, as `export` and Module write."""
        names = [input_names] if isinstance(input_names, str) else list(input_names)
        block = SymbolBlock(symbol.load(symbol_file), [symbol.var(name) for name in names])
        if param_file is not None:
            # A loss at the end has a label, which no file has.
            wanted, labels = ParameterDict(), block._labels()
            wanted.update({name: one for name, one in block.params.items() if name not in labels})
            wanted.load(param_file, ctx, allow_missing, ignore_extra)
        elif ctx is not None:
            block.collect_params().reset_ctx(ctx)
        return block

    def _labels(self) -> list[str]:
        """Return the inputs that only losses read, which no file has."""
        nodes = self._symbol_graph._graph.nodes
        losses = [node for node in nodes if not node.is_variable and node.op.endswith("Output")
                  and len(node.inputs) == 2 and layer_class(node.op).num_inputs == 2]
        labels = [nodes[node.inputs[1].node] for node in losses]
        return [label.name for label in labels if label.is_variable]

    def _clear(self) -> None:
        self._graph = getattr(self, "_symbol_graph", None)

    def _symbol_of(self, args: Sequence[Any]) -> CachedGraph:
        return self._symbol_graph

    # With symbols in place of arrays the network becomes a part of another.
    def forward(self, x: Any, *args: Any) -> Any:
        """Return the outputs for arrays, or the symbol with other symbols as its inputs."""
        graph = self._symbol_graph
        given = [value for arg in (x, *args) for value in (arg if isinstance(arg, (list, tuple)) else [arg])]
        if len(given) != len(graph.input_names):
            names = ", ".join(graph.input_names)
            raise ValueError(f"the network takes {len(graph.input_names)} inputs ({names}), not {len(given)}")
        if isinstance(given[0], Symbol):
            return graph.symbol(**dict(zip(graph.input_names, given, strict=True)))
        inputs: dict[str, NDArray] = dict(zip(graph.input_names, given, strict=True))
        arrays = {**self._held(given), **inputs}
        outputs = graph({name: arrays[name] for name in graph.variables})
        return outputs if self._returns_list else outputs[0]

    def _held(self, given: Sequence[NDArray]) -> dict[str, NDArray]:
        # labels without values are not needed: they are made below
        labels = set(self._labels())
        values = {name: parameter for name, parameter in self._params.items()
                  if not (name in labels and parameter._array is None)}
        try:
            arrays = {name: parameter.data() for name, parameter in values.items()}
        except DeferredInitializationError:
            self._infer_and_fill(*given)
            arrays = {name: parameter.data() for name, parameter in values.items()}
        missing = [name for name in labels if name not in arrays and name not in
                   self._symbol_graph.input_names]
        if missing:
            # A loss at the end has a label, which inference does not use: zeros.
            graph = self._symbol_graph
            shapes = {name: array.shape for name, array in zip(graph.input_names, given, strict=True)}
            found = graph.symbol.infer_shape_partial(**shapes, **{k: v.shape for k, v in arrays.items()})
            by_name = dict(zip(graph.symbol.list_arguments(), found[0] or [], strict=True))
            arrays.update({name: zeros(by_name[name]) for name in missing})
        return arrays

    def __repr__(self) -> str:
        graph = self._symbol_graph
        return f"SymbolBlock(\n{graph.symbol!r} : {len(graph.input_names)} -> {len(graph.symbol)}\n)"
