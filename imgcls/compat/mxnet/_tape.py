"""What `mx.autograd` records: torch's graph of the operators on arrays, kept beside their values.

An array that was given a gradient (`attach_grad`) is a leaf of that graph; an array computed from it while
recording has its torch tensor in `_tensor`. Values stay in the arrays' own memory, which leaves share, so an
optimizer may change them in place. Without recording this does not load torch.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from imgcls.compat.mxnet.base import MXNetError
from imgcls.errors import first_line

#: an NDArray: its class is in a file that imports this one
NDArray = Any
#: that class, once it is set
# a list and not a variable, so that modules which have imported the list see the class too
_classes: list[Any] = []


def set_array_class(cls: Any) -> None:
    """Set the class of arrays."""
    _classes[:] = [cls]


# Each thread records for itself, as in MXNet.
class _State(threading.local):
    is_recording = False
    is_training = False


state = _State()


def is_tracked(array: NDArray) -> bool:
    """Return whether an operator on this array is to be recorded now."""
    return state.is_recording and (array._tensor is not None or array._grad is not None)


def any_tracked(arrays: Sequence[Any]) -> bool:
    """Return whether an operator on these is to be recorded now; objects other than arrays are ignored."""
    return state.is_recording and any(getattr(array, "_tensor", None) is not None
                                      or getattr(array, "_grad", None) is not None for array in arrays)


def writable(values: np.ndarray) -> np.ndarray:
    """Return memory that torch can use: it takes no negative strides, and warns of read-only memory."""
    # changes of a copy do not reach the array; results of operators are new memory anyway
    is_usable = values.flags.writeable and all(stride >= 0 for stride in values.strides)
    return values if is_usable else values.copy()


def tensor(array: NDArray) -> Any:
    """Return the torch tensor of an array in the graph; a leaf shares the array's memory."""
    import torch

    if state.is_recording and array._tensor is not None:
        return array._tensor
    # not recorded: no part of the graph, and as fast as in numpy
    if not state.is_recording or array._grad is None or array._grad_req == "null":
        return torch.from_numpy(writable(array._data))
    leaf = array._leaf
    # Made again where the array has got other memory since.
    if leaf is None or leaf.data_ptr() != array._data.ctypes.data or leaf.shape != array.shape:
        leaf = torch.from_numpy(writable(array._data))
        # torch has gradients of floating-point numbers alone
        if not leaf.is_floating_point():
            return leaf
        leaf.requires_grad_()
        # weak: the array holds the leaf, and a cycle would keep both until the collector runs
        leaf._owner = weakref.ref(array)  # type: ignore[attr-defined]
        array._leaf = leaf
    return leaf


def wrap(result: Any, context: Any) -> NDArray:
    """Return the array of a torch tensor; with its graph where that has one."""
    # shares memory with the result, so nothing is copied
    values = result.detach()
    if values.ndim == 0:  # MXNet has no arrays without dimensions
        result, values = result.reshape(1), values.reshape(1)
    # a negation that torch has only marked is not in the memory that numpy reads
    array = _classes[0](values.resolve_neg().numpy(), context)
    if result.requires_grad:
        array._tensor = result
    return array


def apply(function: Callable[..., Any], *operands: Any) -> NDArray:
    """Return `function` of the operands' torch tensors, recorded; other operands are passed as they are."""
    import torch

    context = next(operand._context for operand in operands if hasattr(operand, "_grad_req"))
    tensors = [tensor(operand) if hasattr(operand, "_grad_req") else operand for operand in operands]
    try:
        with torch.enable_grad():
            return wrap(function(*tensors), context)
    except (RuntimeError, ValueError, IndexError) as error:
        raise MXNetError(first_line(error)) from error


def _leaves(heads: Sequence[Any]) -> list[Any]:
    """Return the leaves of the graph behind these tensors, each once."""
    found, seen = [], set()
    waiting = [head.grad_fn for head in heads if head.grad_fn is not None]
    found += [head for head in heads if head.grad_fn is None and head.requires_grad]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        # a node is reached by each path to it: in a residual network these are 2^blocks
        seen.add(node)
        # AccumulateGrad, where torch's graph ends in a leaf
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [following for following, _ in node.next_functions if following is not None]
    return found


def _output_gradients(heads: Sequence[Any], gradients: Sequence[Any] | None) -> list[Any]:
    import torch

    if gradients is None:
        return [torch.ones_like(head) for head in heads]
    return [torch.ones_like(head) if gradient is None
            else torch.from_numpy(writable(gradient._data)).reshape(head.shape)
            for head, gradient in zip(heads, gradients, strict=True)]


def _recorded(heads: Sequence[NDArray]) -> list[Any]:
    """Return the tensors of arrays that were computed while recording; an MXNetError for any other array."""
    tensors = [head._tensor if head._tensor is not None else head._leaf for head in heads]
    if any(found is None for found in tensors):
        raise MXNetError("Cannot differentiate node because it is not in a computational graph. You need to "
                         "set is_recording to true or use autograd.record() to save computational graphs for "
                         "backward. If you want to differentiate the same graph twice, you need to pass "
                         "retain_graph=True to backward.")
    return tensors


def _gradients(heads: Sequence[Any], wanted: Sequence[Any], gradients: Sequence[Any] | None,
               retain_graph: bool, create_graph: bool = False) -> Sequence[Any]:
    import torch

    try:
        with torch.enable_grad():  # hooks and the caller's own functions compute inside
            return torch.autograd.grad(heads, wanted, _output_gradients(heads, gradients), allow_unused=True,
                                       retain_graph=retain_graph or create_graph, create_graph=create_graph)
    except RuntimeError as error:
        raise MXNetError(f"backward: {first_line(error)}") from error


def backward(heads: Sequence[NDArray], gradients: Sequence[Any] | None, retain_graph: bool) -> None:
    """Write or add (`grad_req`) the gradients to the `grad` of all leaves behind the heads."""
    tensors = _recorded(heads)
    leaves = _leaves(tensors)
    # torch.autograd.grad and not backward(): `grad_req` decides whether it is added, and torch
    # would always add
    found = _gradients(tensors, leaves, gradients, retain_graph) if leaves else []
    written: set[int] = set()
    for leaf, gradient in zip(leaves, found, strict=True):
        owner = leaf._owner() if hasattr(leaf, "_owner") else None
        if owner is None or owner._grad is None or gradient is None:
            continue
        # An array may have two leaves, where it has got other memory between two operators.
        adds = owner._grad_req == "add" or id(owner) in written
        values = gradient.detach().numpy()
        owner._grad._data[...] = owner._grad._data + values if adds else values
        owner._is_fresh = True
        written.add(id(owner))
    if not retain_graph:
        for head in heads:
            # so a second backward raises MXNet's error, and not torch's about freed buffers
            head._tensor = None


def gradients_of(heads: Sequence[NDArray], variables: Sequence[NDArray], gradients: Sequence[Any] | None,
                 retain_graph: bool, create_graph: bool) -> list[NDArray]:
    """Return the gradients of the heads by these arrays, whose own `grad` is not changed."""
    import torch

    tensors = _recorded(heads)
    wanted = [variable._tensor if variable._tensor is not None else variable._leaf for variable in variables]
    if any(one is None for one in wanted):
        raise MXNetError("grad: a variable is not part of the recorded graph; call attach_grad() on it first")
    found = _gradients(tensors, wanted, gradients, retain_graph, create_graph)
    return [wrap(torch.zeros_like(one) if gradient is None else gradient, None)
            for one, gradient in zip(wanted, found, strict=True)]
