"""Operators on arrays: `mx.nd.softmax(x)` makes a layer of `imgcls.layers` and calls it once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from imgcls.compat.mxnet import _tape
from imgcls.compat.mxnet._ndarray import NDArray
from imgcls.compat.mxnet._operators import Signature, signatures
from imgcls.compat.mxnet._registration import bind_arguments, find, missing
from imgcls.compat.mxnet.base import MXNetError
from imgcls.errors import first_line
from imgcls.formats.symbol import Node, NodeOutput

#: layers that are kept for a later call, one for each operator, settings and shapes
_MAX_LAYERS = 512
_layers = threading.local()
#: operators whose result has the type of the data, where torch adds up whole numbers as int64
_KEEPS_TYPE = ("sum", "prod", "nansum")


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
            raise MXNetError(f"{hint}: out holds one array, and there are {len(result)} results")
        return result.copyto(out)

    operator.__name__ = hint
    return operator


def _call(signature: Signature, inputs: list[NDArray], attrs: dict[str, str]) -> NDArray | list[NDArray]:
    """Compute one operator, recorded where `mx.autograd` records."""
    # Imported here, so that code which only reads data does not load torch.
    import torch

    from imgcls.compat.mxnet._shapes import replace_parameters
    from imgcls.compat.mxnet._training_layers import follow_statistics

    is_recorded = _tape.any_tracked(inputs)
    # In a network a cast changes nothing, as all of it is float32; an array is converted to that dtype.
    if signature.op == "Cast" and not is_recorded:
        return inputs[0].astype(attrs.get("dtype", "float32"))
    tensors = [_tape.tensor(array) for array in inputs]
    layer, num_data = _layer(signature.op, attrs, [tuple(tensor.shape) for tensor in tensors])
    slots = dict(zip(layer.PARAMETER_NAMES, tensors[num_data:], strict=False))
    for slot in layer.parameter_slots():
        if slot not in slots:
            raise MXNetError(f"{signature.op}: {slot} is missing")
        replace_parameters(layer, {slot: slots[slot]})
    layer.training = _tape.state.is_training
    try:
        with torch.set_grad_enabled(is_recorded):
            result = layer.forward(*tensors[:num_data])
    except (RuntimeError, ValueError, IndexError) as error:
        raise MXNetError(f"{signature.op}: {first_line(error)}") from error
    if signature.op in _KEEPS_TYPE and isinstance(result, torch.Tensor):
        result = result.to(tensors[0].dtype)
    if is_recorded and layer.training:
        follow_statistics(layer, result, inputs[num_data:])
    # The layer stays in the table, and would keep the weights in memory: so they are replaced.
    replace_parameters(layer, dict.fromkeys(slots, torch.empty(0)))
    context = inputs[0]._context if inputs else None  # results have the context of the first input
    memory = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    if isinstance(result, torch.Tensor):
        return _owned(result, memory, context)
    return [_owned(tensor, memory, context) for tensor in result]


# A network in a loop calls the same operators with the same shapes again and again.
def _layer(op: str, attrs: dict[str, str], shapes: list[tuple[int, ...]]) -> tuple[Any, int]:
    """Return the layer of an operator for inputs of these shapes, and how many of them are data."""
    from imgcls.compat.mxnet._shapes import layer_class, make_layer
    from imgcls.layers import OpSpec

    layers = _layers.__dict__.setdefault("made", OrderedDict())  # one table a thread: layers hold tensors
    key = (op, tuple(attrs.items()), tuple(shapes))
    if key not in layers:
        node = Node(op, op, attrs, [NodeOutput(i) for i in range(len(shapes))])
        kind = layer_class(op)
        num_data = kind.num_data(OpSpec(node, None, {}))
        names = dict(zip(kind.PARAMETER_NAMES, shapes[num_data:], strict=False))
        layers[key] = make_layer(node, shapes[:num_data], names)[0], num_data
        if len(layers) > _MAX_LAYERS:
            layers.popitem(last=False)
    layers.move_to_end(key)
    return layers[key]


# The caller may change a result in place.
def _owned(tensor: Any, memory: set[int], context: Any) -> NDArray:
    """Return the array of a result, copied where an operator returned a view of its input."""
    shares = tensor.untyped_storage().data_ptr() in memory
    return _tape.wrap(tensor.clone() if shares or not tensor.is_contiguous() else tensor, context)


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


# With this, arrays have operators as methods.
# Set here, as _ndarray.py must not import this file: the two would import each other.
NDArray._find_operator = staticmethod(function)
