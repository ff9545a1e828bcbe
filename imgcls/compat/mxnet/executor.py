"""`mx.executor.Executor`: a symbol bound to arrays, which computes it forward and backward.

The arrays in `arg_dict`, `grad_dict` and `aux_dict` are the executor's own: change them in place, and the
next `forward` sees it. Outputs are new arrays at every `forward`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imgcls.compat.mxnet import _shapes
from imgcls.compat.mxnet._network import Network
from imgcls.compat.mxnet.base import MXNetError
from imgcls.compat.mxnet.context import Context, device, to_context
from imgcls.compat.mxnet.nd import NDArray, zeros
from imgcls.layers import Shape

#: values of `grad_req`: the gradient of an argument is written, added or not computed
_GRAD_REQS = ("write", "add", "null")
#: operators (or ends of their names) whose outputs need no gradient for a backward pass
_NEEDS_NO_GRADIENT = ("Output", "MakeLoss", "make_loss", "BlockGrad", "null")


# `bind` uses the caller's own arrays; nothing is copied before `forward` is given values.
class Executor:
    """A symbol with an array for each argument and auxiliary state, all of them by name."""

    def __init__(self, symbol: Any, ctx: Context, args: dict[str, NDArray], grads: dict[str, NDArray],
                 grad_req: dict[str, str], aux: dict[str, NDArray]) -> None:
        self._symbol = symbol
        self._ctx = ctx
        self._device = device(ctx)
        self._grad_req = grad_req
        self.arg_dict = args
        self.grad_dict: dict[str, NDArray | None] = {name: grads.get(name) for name in args}
        self.aux_dict = aux
        graph = symbol._graph()
        # All shapes are compared here, so that a wrong array is an error of `bind` and not of a batch.
        inferred = _shapes.infer(graph, {name: array.shape for name, array in {**args, **aux}.items()})
        self._network = Network(graph, inferred)
        self._output_names = symbol.list_outputs()
        # As in MXNet there are outputs before anything is computed; they are zeros.
        self._results: list[Tensor] = []
        self.outputs = [zeros(inferred.outputs[head]) for head in self._network.heads]
        #: the tensors that the last forward pass computed with
        self._values: dict[str, Tensor] = {}

    @property
    def arg_arrays(self) -> list[NDArray]:
        """The arguments in the symbol's order."""
        return list(self.arg_dict.values())

    @property
    def grad_arrays(self) -> list[NDArray | None]:
        """Their gradients, None for those that have none."""
        return list(self.grad_dict.values())

    @property
    def aux_arrays(self) -> list[NDArray]:
        """The auxiliary states in the symbol's order."""
        return list(self.aux_dict.values())

    # By the names that `list_outputs` gives.
    @property
    def output_dict(self) -> dict[str, NDArray]:
        """The outputs by name."""
        return dict(zip(self._output_names, self.outputs, strict=True))

    # The graph of gradients is kept until the next forward pass.
    def forward(self, is_train: bool = False, **kwargs: Any) -> list[NDArray]:
        """Compute the outputs; values given by name are copied into the executor's arrays first."""
        for name, value in kwargs.items():
            if name not in self.arg_dict:
                raise TypeError(f"the symbol has no argument {name}")
            _assign(self.arg_dict[name], value, name)
        if is_train:  # MXNet writes the 1 into the array
            for name in self._network.fixed_gammas():
                self.arg_dict[name][:] = 1.0
        arrays = {**self.arg_dict, **self.aux_dict}
        self._values = {name: self._tensor(array) for name, array in arrays.items()}
        if is_train:
            for name, request in self._grad_req.items():
                if request != "null" and self._values[name].is_floating_point():
                    self._values[name].requires_grad_()
        # In inference no graph of gradients is kept: that is most of the memory of a forward pass.
        with torch.set_grad_enabled(is_train):
            self._results = self._network.run(self._values, is_train)
        # An operator that returns a view of its input would otherwise return the argument's own memory.
        arguments = {tensor.untyped_storage().data_ptr() for tensor in self._values.values()}
        self.outputs = [NDArray(_to_numpy(result.clone() if result.untyped_storage().data_ptr() in arguments
                                          else result), self._ctx) for result in self._results]
        return self.outputs

    def backward(self, out_grads: Any = None, is_train: bool = True) -> None:
        """Compute the gradients of the last `forward(is_train=True)`, from those of the outputs.

        `out_grads` are the gradients of the outputs, not needed for a symbol that ends in a loss. The results
        are written or added (`grad_req`) to the arrays of `grad_dict`.
        """
        # A loss ignores the gradient of its output.
        gradients = self._output_gradients(out_grads)
        wanted = {name: self._values[name] for name, request in self._grad_req.items()
                  if request != "null" and self._values and self._values[name].requires_grad}
        heads = [(result, gradient) for result, gradient in zip(self._results, gradients, strict=False)
                 if result.requires_grad]
        found: Sequence[Tensor | None] = [None] * len(wanted)
        if heads and wanted:
            # One number with the same gradients: where torch is given gradients itself, it loads sympy.
            total = torch.stack([(result * gradient).sum() for result, gradient in heads]).sum()
            # kept, as a second backward pass over the same outputs is allowed
            # grad, not backward: `.grad` would be a second copy of each gradient, added up from batch to
            # batch.
            found = torch.autograd.grad(total, list(wanted.values()), retain_graph=True, allow_unused=True)
        for name, gradient in zip(wanted, found, strict=True):
            target = self.grad_dict[name]
            if target is not None:
                values = 0.0 if gradient is None else _to_numpy(gradient)
                target._data[...] = target._data + values if self._grad_req[name] == "add" else values
        for name, tensor in self._network.moved_statistics(
                {name: self._tensor(array) for name, array in self.aux_dict.items()}).items():
            self.aux_dict[name]._data[...] = _to_numpy(tensor)

    # A checkpoint may have more parameters than this symbol.
    def copy_params_from(self, arg_params: Mapping[str, NDArray],
                         aux_params: Mapping[str, NDArray] | None = None,
                         allow_extra_params: bool = False) -> None:
        """Copy values into the arrays of these names; an unknown name is a ValueError unless
        `allow_extra_params`."""
        for given, own in ((arg_params, self.arg_dict), (aux_params or {}, self.aux_dict)):
            for name, value in given.items():
                if name in own:
                    _assign(own[name], value, name)
                elif not allow_extra_params:
                    what = "arguments" if own is self.arg_dict else "auxiliary states"
                    raise ValueError(f'Find name "{name}" that is not in the {what}')

    # Arrays of the same shape are shared with this one, so parameters are the same.
    def reshape(self, partial_shaping: bool = False, allow_up_sizing: bool = False,
                **kwargs: Any) -> Executor:
        """Return an executor for inputs of other shapes, with the same parameters."""
        arg_shapes, _, _ = self._symbol.infer_shape(**kwargs)
        if arg_shapes is None:
            raise ValueError("insufficient argument shapes provided")
        args, grads = {}, {}
        for (name, array), shape in zip(self.arg_dict.items(), arg_shapes, strict=True):
            may_change = name in kwargs or partial_shaping or _is_label(name)
            if array.shape != tuple(shape) and not may_change:
                raise MXNetError(f"the shape of {name} would change from {array.shape} to {tuple(shape)}; "
                                 "with partial_shaping=True it may")
            if prod(shape) > array.size and not allow_up_sizing:
                raise MXNetError(f"New shape of arg: {name} is larger than original; allow_up_sizing=True "
                                 "lets it grow")
            args[name] = array if array.shape == tuple(shape) else zeros(shape, dtype=array.dtype)
            gradient = self.grad_dict[name]
            if gradient is not None:
                grads[name] = gradient if gradient.shape == tuple(shape) else zeros(shape)
        return Executor(self._symbol, self._ctx, args, grads, self._grad_req, self.aux_dict)

    def share_arrays(self, other: Executor, names: Sequence[str]) -> None:
        """Use another executor's arrays for these arguments, their gradients and all auxiliary states."""
        for name in [*names, *self.aux_dict]:
            is_statistic = name in self.aux_dict
            own, theirs = ((executor.aux_dict if is_statistic else executor.arg_dict)
                           for executor in (self, other))
            if name not in theirs or theirs[name].shape != own[name].shape:
                raise MXNetError(f"{name}: the module to share with has no array of shape {own[name].shape}")
            own[name] = theirs[name]
            if not is_statistic:
                self.grad_dict[name] = other.grad_dict[name]

    # torch takes no read-only memory without a warning, and no negative strides.
    def _tensor(self, array: NDArray) -> Tensor:
        # On the CPU the tensor shares the array's memory, which nothing here writes to.
        values = array._data
        if not values.flags.writeable or any(stride < 0 for stride in values.strides):
            values = values.copy()
        tensor = torch.from_numpy(values)
        return tensor if self._device == "cpu" else tensor.to(self._device)

    # Losses need no gradient; all other outputs do.
    def _output_gradients(self, out_grads: Any) -> list[Tensor]:
        if isinstance(out_grads, NDArray):
            out_grads = [out_grads]
        elif isinstance(out_grads, Mapping):
            out_grads = [out_grads[name] for name in self._output_names]
        if out_grads is not None:
            return [self._tensor(gradient).reshape(result.shape)
                    for gradient, result in zip(out_grads, self._results, strict=True)]
        for head, result in zip(self._network.heads, self._results, strict=False):
            node = self._network.graph.nodes[head.node]
            if result.requires_grad and not node.op.endswith(_NEEDS_NO_GRADIENT):
                raise MXNetError(f"backward: {node.name} ({node.op}) is no loss, so the gradients of the "
                                 "outputs must be given")
        return [torch.ones_like(result) for result in self._results]


# Arrays for labels are made as well; inference does not read them.
def simple_bind(symbol: Any, ctx: Any, grad_req: Any, type_dict: Mapping[str, Any] | None,
                shapes: Mapping[str, Shape]) -> Executor:
    """Return an executor with new arrays of zeros."""
    arg_shapes, _, aux_shapes = symbol.infer_shape(**shapes)
    if arg_shapes is None or aux_shapes is None:
        given = ", ".join(shapes) or "no input"
        raise ValueError(f"the shapes of {given} do not determine those of all arguments")
    names = symbol.list_arguments()
    types = type_dict or {}
    requests = grad_requests(names, grad_req)
    args = {name: zeros(shape, dtype=types.get(name)) for name, shape in zip(names, arg_shapes, strict=True)}
    grads = {name: zeros(array.shape) for name, array in args.items() if requests[name] != "null"}
    aux = {name: zeros(shape) for name, shape in zip(symbol.list_auxiliary_states(), aux_shapes, strict=True)}
    return Executor(symbol, to_context(ctx), args, grads, requests, aux)


# A gradient is computed only where there is an array for it.
def bind(symbol: Any, ctx: Any, args: Any, args_grad: Any, grad_req: Any, aux_states: Any) -> Executor:
    """Return an executor with these arrays, lists in the symbol's order or dicts by name."""
    names = symbol.list_arguments()
    given = _by_name(names, args, "args")
    missing = [name for name in names if name not in given]
    if missing:
        raise ValueError(f"key `{missing[0]}` is missing in `args`")
    aux_names = symbol.list_auxiliary_states()
    aux = _by_name(aux_names, aux_states, "aux_states")
    missing = [name for name in aux_names if name not in aux]
    if missing:
        raise ValueError(f"key `{missing[0]}` is missing in `aux_states`")
    grads = _by_name(names, args_grad, "args_grad")
    requests = {name: request if name in grads else "null"
                for name, request in grad_requests(names, grad_req).items()}
    return Executor(symbol, to_context(ctx), {name: given[name] for name in names}, grads, requests,
                    {name: aux[name] for name in aux_names})


# The three forms that MXNet takes.
def grad_requests(names: Sequence[str], grad_req: Any) -> dict[str, str]:
    """Return name -> write, add or null, from one text for all, a list or a dict; ValueError for others."""
    if isinstance(grad_req, str):
        requests = dict.fromkeys(names, grad_req)
    elif isinstance(grad_req, Mapping):
        requests = {name: grad_req.get(name, "null") for name in names}
    else:
        requests = dict(zip(names, grad_req, strict=True))
    for name, request in requests.items():
        if request not in _GRAD_REQS:
            raise ValueError(f"grad_req {request!r} of {name}: must be one of {', '.join(_GRAD_REQS)}")
    return requests


# MXNet takes both forms everywhere.
def _by_name(names: Sequence[str], values: Any, what: str) -> dict[str, NDArray]:
    if values is None:
        return {}
    if isinstance(values, Mapping):
        return {name: values[name] for name in names if name in values}
    if len(values) != len(names):
        raise ValueError(f"{what}: {len(values)} arrays for {len(names)} names")
    return {name: value for name, value in zip(names, values, strict=True) if value is not None}


# The target keeps its dtype, so uint8 pixels become float32.
def _assign(target: NDArray, value: Any, name: str) -> None:
    values = value._data if isinstance(value, NDArray) else np.asarray(value)
    if values.shape != target.shape:
        raise ValueError(f"Shape not match! Argument {name}, need: {target.shape}, received: {values.shape}")
    np.copyto(target._data, values, casting="unsafe")


def _is_label(name: str) -> bool:
    return name.endswith("label")


def _to_numpy(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().numpy())
