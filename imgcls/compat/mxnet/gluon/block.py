"""`mx.gluon.SymbolBlock`: a network that was exported, as a function of arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from imgcls.compat.mxnet import symbol
from imgcls.compat.mxnet._checkpoint import save_checkpoint
from imgcls.compat.mxnet._registration import missing
from imgcls.compat.mxnet.executor import Executor
from imgcls.compat.mxnet.gluon.parameter import Parameter, ParameterDict
from imgcls.compat.mxnet.nd import NDArray, zeros
from imgcls.compat.mxnet.symbol import Symbol
from imgcls.errors import UsageError


# No base class: Gluon's blocks are for networks that are written in Python, which are not here.
class SymbolBlock:
    """Outputs of a symbol as a function of its inputs: `block(x)` computes them, as in inference."""

    def __init__(self, outputs: Symbol | Sequence[Symbol], inputs: Symbol | Sequence[Symbol],
                 params: ParameterDict | None = None) -> None:
        self._symbol = outputs if isinstance(outputs, Symbol) else symbol.Group(list(outputs))
        # A Symbol can be iterated too: list() of one would give its outputs.
        variables = [inputs] if isinstance(inputs, Symbol) else list(inputs)
        self._input_names = [str(variable.name) for variable in variables]
        statistics = self._symbol.list_auxiliary_states()
        self._params = ParameterDict()
        for name in self._symbol.list_inputs():
            if name not in self._input_names:
                own = Parameter(name, "null" if name in statistics else "write")
                self._params[name] = own if params is None else params.get(name, own)
        self._executor: Executor | None = None

    @staticmethod
    # What most code for inference begins with.
    def imports(symbol_file: str | os.PathLike[str], input_names: str | Sequence[str],
                param_file: str | os.PathLike[str] | None = None, ctx: Any = None,
                allow_missing: bool = False, ignore_extra: bool = False) -> SymbolBlock:
        """Return the block of `prefix-symbol.json` and `prefix-0000.params`, as `export` and Module write."""
        names = [input_names] if isinstance(input_names, str) else list(input_names)
        block = SymbolBlock(symbol.load(symbol_file), [symbol.var(name) for name in names])
        if param_file is not None:
            block.collect_params().load(param_file, ctx, allow_missing, ignore_extra)
        return block

    @property
    def name(self) -> str:
        """The name of the block, which has none of its own."""
        return ""

    @property
    def params(self) -> ParameterDict:
        """The parameters, by name."""
        return self._params

    def collect_params(self, select: str | None = None) -> ParameterDict:
        """Return the parameters, by name; those whose name begins with a pattern."""
        return self._params if select is None else self._params.select(select)

    def __call__(self, *args: NDArray | Symbol) -> Any:
        """Return the outputs: one array, or a list where there are several."""
        return self.forward(*args)

    # A symbol in place of an array gives the network as a part of another.
    def forward(self, *args: NDArray | Symbol) -> Any:
        """Return the outputs for arrays, or the symbol with other symbols as its inputs."""
        if len(args) != len(self._input_names):
            names = ", ".join(self._input_names)
            raise TypeError(f"the network takes {len(self._input_names)} inputs ({names}), not {len(args)}")
        if isinstance(args[0], Symbol):
            return self._symbol(**dict(zip(self._input_names, args, strict=True)))
        arrays = dict(zip(self._input_names, args, strict=True))
        outputs = self._bound(arrays).forward(is_train=False, **arrays)
        return outputs[0] if len(outputs) == 1 else outputs

    def hybridize(self, active: bool = True, **kwargs: Any) -> None:
        """Do nothing: the network is a graph already."""

    def load_parameters(self, filename: str | os.PathLike[str], ctx: Any = None, allow_missing: bool = False,
                        ignore_extra: bool = False, **kwargs: Any) -> None:
        """Take over the arrays of a file."""
        self._params.load(filename, ctx, allow_missing, ignore_extra)

    load_params = load_parameters

    def save_parameters(self, filename: str | os.PathLike[str]) -> None:
        """Write the arrays to a file."""
        self._params.save(filename)

    # The same two files as a module's checkpoint.
    def export(self, path: str, epoch: int = 0, remove_amp_cast: bool = True) -> tuple[str, str]:
        """Write `path-symbol.json` and `path-0000.params`; return their names."""
        statistics = self._symbol.list_auxiliary_states()
        args = {name: self._params[name].data() for name in self._params if name not in statistics}
        aux = {name: self._params[name].data() for name in self._params if name in statistics}
        save_checkpoint(path, epoch, self._symbol, args, aux, remove_amp_cast)
        return f"{path}-symbol.json", f"{path}-{epoch:04d}.params"

    def reset_ctx(self, ctx: Any) -> None:
        """Compute on another device."""
        self._params.reset_ctx(ctx)
        self._executor = None

    def cast(self, dtype: Any) -> None:
        """Refuse anything but float32, in which networks are computed here."""
        if str(dtype) not in ("float32", "<class 'numpy.float32'>"):
            raise UsageError(f"cast {dtype}: networks are computed in float32 here")

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: a block here has the weights of a file."""
        raise missing("mxnet.gluon.SymbolBlock", "initialize", ())

    def __repr__(self) -> str:
        return (f"SymbolBlock(\n{self._symbol!r} : {len(self._input_names)} -> {len(self._symbol)}\n)")

    # One executor for the shapes of the last call; weights are shared by those of other shapes.
    def _bound(self, arrays: dict[str, Any]) -> Executor:
        """Return an executor for inputs of these shapes, with the block's own arrays."""
        shapes = {name: array.shape for name, array in arrays.items()}
        executor = self._executor
        # Values that were replaced, by others or for another device, need another executor.
        if executor is not None and any(
                parameter._array is not None and parameter._array is not bound
                for name, parameter in self._params.items()
                for bound in [executor.arg_dict.get(name, executor.aux_dict.get(name))]):
            executor = None
        if executor is None:
            # The arrays themselves: what is set later is seen by the next call.
            held = {name: parameter.data() for name, parameter in self._params.items()
                    if parameter._array is not None}
            inferred = self._symbol.infer_shape_partial(**shapes, **{
                name: array.shape for name, array in held.items()})
            names = self._symbol.list_arguments()
            # A loss at the end has a label, which no file has and inference does not look at.
            empty = {name: zeros(shape) for name, shape in zip(names, inferred[0] or [], strict=True)}
            args = {name: held.get(name, empty[name]) for name in names}
            lacking = [name for name in self._symbol.list_inputs()
                       if name not in held and name not in shapes and not name.endswith("label")]
            if lacking:
                raise UsageError(f"parameter {lacking[0]} has no values yet: load them from a file")
            context = next(iter(held.values())).context if held else None
            executor = self._symbol.bind(context, args, grad_req="null", aux_states=held)
        elif any(executor.arg_dict[name].shape != shape for name, shape in shapes.items()):
            # A last batch that is smaller: only the arrays of inputs are new, the weights are not copied.
            executor = executor.reshape(False, False, **shapes)
        self._executor = executor
        return executor
