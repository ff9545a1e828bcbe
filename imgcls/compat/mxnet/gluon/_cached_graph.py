"""A hybridized block as a graph: its symbol, and one computation of it for each set of input shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from imgcls.compat.mxnet import _shapes, _tape
from imgcls.compat.mxnet._network import Network
from imgcls.compat.mxnet.context import device
from imgcls.compat.mxnet.nd import NDArray
from imgcls.compat.mxnet.symbol import Symbol

#: input shapes whose networks are kept, so that a smaller last batch does not build two an epoch
_MAX_SHAPES = 8


class CachedGraph:
    """The outputs of a symbol as a function of arrays by name, recorded where `mx.autograd` records."""

    def __init__(self, symbol: Symbol, input_names: Sequence[str]) -> None:
        self.symbol = symbol
        self.input_names = list(input_names)
        self.variables = symbol.list_inputs()
        self.statistics = symbol.list_auxiliary_states()
        self._graph = symbol._graph()
        self._networks: dict[tuple[Any, ...], Network] = {}

    def _network(self, arrays: dict[str, NDArray]) -> Network:
        key = tuple((name, array.shape) for name, array in arrays.items())
        if key not in self._networks:
            # the one that was made first is dropped
            if len(self._networks) >= _MAX_SHAPES:
                del self._networks[next(iter(self._networks))]
            inferred = _shapes.infer(self._graph, {name: array.shape for name, array in arrays.items()})
            self._networks[key] = Network(self._graph, inferred)
        return self._networks[key]

    # An operator may return its input's memory, so outputs that share memory with inputs are copied.
    def __call__(self, arrays: dict[str, NDArray]) -> list[NDArray]:
        """Return the outputs for the arrays of all variables."""
        network = self._network(arrays)
        is_training = _tape.state.is_training
        if is_training:
            for name in network.fixed_gammas():  # MXNet writes the 1 into the array
                arrays[name]._data[...] = 1.0
        context = arrays[self.input_names[0]]._context if self.input_names else None
        where = device(context) if context is not None else "cpu"
        tensors = {name: _tape.tensor(array) for name, array in arrays.items()}
        memory = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
        if where != "cpu":
            tensors = {name: tensor.to(where) for name, tensor in tensors.items()}
        with torch.set_grad_enabled(_tape.any_tracked(list(arrays.values()))):
            results = [result.cpu() for result in network.run(tensors, is_training)]
            results = [result.clone() if result.untyped_storage().data_ptr() in memory
                       else result.contiguous() for result in results]
        if is_training and _tape.state.is_recording:
            self._follow(network, tensors, arrays, results)
        return [_tape.wrap(result, context) for result in results]

    # The statistics change when the gradients are computed and not before, as in MXNet.
    def _follow(self, network: Network, tensors: dict[str, Any], arrays: dict[str, NDArray],
                results: Sequence[Any]) -> None:
        moved = network.moved_statistics(tensors)
        first = next((result for result in results if result.requires_grad), None)
        if not moved or first is None:
            return

        def write(gradient: Any) -> None:
            for name, values in moved.items():
                arrays[name]._data[...] = values.cpu().numpy()

        first.register_hook(write)
