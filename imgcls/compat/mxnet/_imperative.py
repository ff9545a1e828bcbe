"""Operators on arrays: `mx.nd.softmax(x)` makes a layer of `imgcls.layers` and calls it once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from imgcls.compat.mxnet._ndarray import NDArray
from imgcls.compat.mxnet._operators import Signature, signatures
from imgcls.compat.mxnet._registration import bind_arguments, find, missing
from imgcls.errors import UsageError, first_line
from imgcls.formats.symbol import Node, NodeOutput


# Like `_compose.function`, and with the same table of names.
def function(name: str, prefix: str = "") -> Callable[..., Any] | None:
    """Return the function of `mx.nd` that has this name; None where there is none."""
    found = find(name, prefix)
    if found is None:
        return None
    signature, hint = found

    def operator(*args: Any, name: str | None = None, out: NDArray | None = None, ctx: Any = None,
                 **kwargs: Any) -> Any:
        inputs, attrs = bind_arguments(hint, signature, args, kwargs,
                                       lambda value: isinstance(value, NDArray))
        if isinstance(inputs, dict):
            inputs = [inputs[key] for key in signature.inputs if key in inputs]
        result = _call(signature, inputs, attrs)
        if out is None:
            return result
        if not isinstance(result, NDArray):
            raise UsageError(f"{hint}: out holds one array, and there are {len(result)} results")
        return result.copyto(out)

    operator.__name__ = hint
    return operator


def _call(signature: Signature, inputs: list[NDArray], attrs: dict[str, str]) -> NDArray | list[NDArray]:
    """Compute one operator, as in inference."""
    # Here, so that code which only reads data does not load torch.
    import torch

    from imgcls.compat.mxnet._shapes import layer_class, make_layer, replace_parameters
    from imgcls.layers import OpSpec

    node = Node(signature.op, signature.op, attrs, [NodeOutput(i) for i in range(len(inputs))])
    kind = layer_class(signature.op)
    num_data = kind.num_data(OpSpec(node, None, {}))
    tensors = [torch.from_numpy(_writable(array._data)) for array in inputs]
    names = dict(zip(kind.PARAMETER_NAMES, tensors[num_data:], strict=False))
    layer, _ = make_layer(node, [tuple(tensor.shape) for tensor in tensors[:num_data]],
                          {slot: tuple(tensor.shape) for slot, tensor in names.items()})
    for slot in layer.parameter_slots():
        if slot not in names:
            raise UsageError(f"{signature.op}: {slot} is missing")
        replace_parameters(layer, {slot: names[slot]})
    try:
        # Nothing is recorded: there is no autograd on arrays here, and the graph would keep its inputs alive.
        with torch.no_grad():
            result = layer.forward(*tensors[:num_data])
    except (RuntimeError, ValueError, IndexError) as error:
        raise UsageError(f"{signature.op}: {first_line(error)}") from error
    context = inputs[0]._context if inputs else None  # results stay where the first input says it is
    if isinstance(result, torch.Tensor):
        return NDArray(_values(result), context)
    return [NDArray(_values(tensor), context) for tensor in result]


def _writable(values: np.ndarray) -> np.ndarray:
    """Return memory that torch can use: it takes no negative strides, and warns of what is read only."""
    is_usable = values.flags.writeable and all(stride >= 0 for stride in values.strides)
    return values if is_usable else values.copy()


# What comes out is the caller's to change.
def _values(tensor: Any) -> np.ndarray:
    values = np.array(tensor.numpy())  # a copy: some operators return a view of their input
    return values if values.ndim else values.reshape(1)  # MXNet has no arrays without dimensions


class Namespace:
    """Functions under a prefix, such as `mx.nd.contrib`."""

    def __init__(self, path: str, prefix: str) -> None:
        self._path = path
        self._prefix = prefix

    def __getattr__(self, name: str) -> Any:
        found = None if name.startswith("__") else function(name, self._prefix)
        if found is None:
            cut = len(self._prefix)
            raise missing(f"mxnet.{self._path}", name,
                          [op[cut:] for op in signatures() if op.startswith(self._prefix)])
        return found


# From here on arrays have operators as methods.
# Set from here, as _ndarray.py must not import this file: the two would import each other.
NDArray._find_operator = staticmethod(function)
