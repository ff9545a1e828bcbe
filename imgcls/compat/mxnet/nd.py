"""`mx.nd`: arrays, their files, and MXNet's operators on them.

`NDArray` is in `_ndarray.py`. Every operator of `mx.sym` is a function here as well: `mx.nd.softmax(x)`. Only
those need torch, which is loaded when the first one is called.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from imgcls.compat.mxnet import _imperative, _tape, random
from imgcls.compat.mxnet._ndarray import NDArray, to_dtype, to_numpy
from imgcls.compat.mxnet._operators import signatures
from imgcls.compat.mxnet._registration import missing
from imgcls.compat.mxnet.base import MXNetError, translated
from imgcls.compat.mxnet.context import to_context
from imgcls.errors import first_line
from imgcls.formats import params
from imgcls.storage.paths import to_path
from imgcls.storage.reading import open_read


# Always a copy: changing it does not change the source.
def array(source_array: Any, ctx: Any = None, dtype: Any = None) -> NDArray:
    """Return a copy as an NDArray, of `dtype`; without that of an NDArray's own dtype, else float32."""
    if dtype is None:
        dtype = source_array.dtype if isinstance(source_array, NDArray) else np.float32
    element = to_dtype(dtype)
    try:
        # A number becomes an array of shape (), with which MXNet's operators do nothing; these compute.
        return NDArray(np.array(to_numpy(source_array), element), to_context(ctx))
    # numpy raises one or the other, for text, a dict, rows of different lengths
    except (TypeError, ValueError) as error:
        raise TypeError("source_array must be array like object") from error


def zeros(shape: int | Sequence[int], ctx: Any = None, dtype: Any = None, **kwargs: Any) -> NDArray:
    """Return an array of zeros."""
    return full(shape, 0, ctx, dtype)


def ones(shape: int | Sequence[int], ctx: Any = None, dtype: Any = None, **kwargs: Any) -> NDArray:
    """Return an array of ones."""
    return full(shape, 1, ctx, dtype)


def empty(shape: int | Sequence[int], ctx: Any = None, dtype: Any = None) -> NDArray:
    """Return an array whose values are not defined in MXNet; here they are zeros."""
    return full(shape, 0, ctx, dtype)


# float32 by default, for any type of the value.
def full(shape: int | Sequence[int], val: float, ctx: Any = None, dtype: Any = None) -> NDArray:
    """Return an array of one value, float32 unless `dtype` says otherwise."""
    sizes = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    if any(size < 0 for size in sizes):  # -1 is "not known yet" in a symbol only
        raise MXNetError(f"shape {sizes}: sizes must not be negative")
    # Values are cast as in C: 3.7 becomes 3 in an integer dtype, and 300 wraps around in uint8.
    return NDArray(np.full(sizes, val).astype(to_dtype(dtype)), to_context(ctx))


# A single number is the end.
def arange(start: float, stop: float | None = None, step: float = 1.0, repeat: int = 1,
           infer_range: bool = False, ctx: Any = None, dtype: Any = None) -> NDArray:
    """Return numbers from `start` to `stop` (excluded), or from 0 to `start`, each of them `repeat` times."""
    numbers = np.arange(start, stop, step) if stop is not None else np.arange(0, start, step)
    return NDArray(np.repeat(numbers, repeat).astype(to_dtype(dtype)), to_context(ctx))


# Computed in double and rounded once.
def linspace(start: float, stop: float, num: int, endpoint: bool = True, ctx: Any = None,
             dtype: Any = None) -> NDArray:
    """Return `num` evenly spaced numbers."""
    return NDArray(np.linspace(start, stop, num, endpoint).astype(to_dtype(dtype)), to_context(ctx))


def eye(N: int, M: int = 0, k: int = 0, ctx: Any = None, dtype: Any = None) -> NDArray:  # noqa: N803
    """Return a matrix with ones on a diagonal."""
    return NDArray(np.eye(N, M or N, k, to_dtype(dtype)), to_context(ctx))


def from_numpy(ndarray: np.ndarray, zero_copy: bool = True) -> NDArray:
    """Return an array on the same memory, or on a copy."""
    return NDArray(ndarray if zero_copy else ndarray.copy())  # written to through both


# The default axis is 0 here and 1 in `concat`, as in MXNet.
def concatenate(arrays: Sequence[NDArray], axis: int = 0, always_copy: bool = True) -> NDArray:
    """Join a list of arrays along an existing axis."""
    return concat(*arrays, dim=axis)


def moveaxis(tensor: NDArray, source: Any, destination: Any) -> NDArray:
    """Return the array with axes in other places."""
    sources, targets = ([axis] if isinstance(axis, int) else list(axis) for axis in (source, destination))
    if len(sources) != len(targets):
        raise ValueError("`source` and `destination` arguments must have the same number of elements")
    # the axes that do not move keep their order; the others are inserted, the lowest target first
    order = [axis for axis in range(tensor.ndim) if axis not in [place % tensor.ndim for place in sources]]
    for target, place in sorted(zip([axis % tensor.ndim for axis in targets], sources, strict=True)):
        order.insert(target, place % tensor.ndim)
    return tensor.transpose(order)


def concat(*arrays: NDArray, dim: int = 1) -> NDArray:
    """Join arrays along an existing axis."""
    if _tape.any_tracked(arrays):
        return _operator("Concat")(*arrays, dim=dim)
    return _joined(np.concatenate, arrays, dim)


def stack(*arrays: NDArray, axis: int = 0) -> NDArray:
    """Join arrays along a new axis."""
    if _tape.any_tracked(arrays):
        return _operator("stack")(*arrays, axis=axis)
    return _joined(np.stack, arrays, axis)


def _operator(name: str) -> Callable[..., Any]:
    found = _imperative.function(name)
    assert found is not None, name
    return found


def _joined(function: Callable[..., np.ndarray], arrays: Sequence[NDArray], axis: int) -> NDArray:
    try:
        return NDArray(function([array._data for array in arrays], axis=axis), arrays[0]._context)
    except ValueError as error:  # numpy's AxisError is one as well
        raise MXNetError(f"{function.__name__}: {first_line(error)}") from error


# Read whole and checked, never unpickled.
@translated
def load(fname: str | os.PathLike[str]) -> list[NDArray] | dict[str, NDArray]:
    """Return the arrays of MXNet's file (`.params`, a mean image, anything `save` wrote).

    A dict where the arrays have names, otherwise a list. A damaged file is an MXNetError.
    """
    arrays = {name: NDArray(values) for name, values in params.load(fname).items()}
    return arrays if _has_names(fname, list(arrays)) else list(arrays.values())


# Atomic, where MXNet may leave half a file.
@translated
def save(fname: str | os.PathLike[str],
         data: NDArray | np.ndarray | Sequence[Any] | Mapping[str, Any]) -> None:
    """Write an array, a list or a dict of arrays, the same bytes as MXNet."""
    values = list(data.values()) if isinstance(data, Mapping) else data
    for value in values if isinstance(values, (list, tuple)) else [values]:
        if not isinstance(value, (NDArray, np.ndarray)):
            raise TypeError("save takes an NDArray, or a list or dict of them, not a "
                            f"{type(value).__name__}")
    if isinstance(data, Mapping):
        params.save(fname, {name: to_numpy(value) for name, value in data.items()})
    else:
        # MXNet writes a single array as a list of one.
        values = data if isinstance(data, (list, tuple)) else [data]
        params.save(fname, [to_numpy(value) for value in values])


def waitall() -> None:
    """Return at once: every operation is complete when its call returns."""


def _has_names(fname: str | os.PathLike[str], names: list[str]) -> bool:
    """Return whether the file names its arrays: `params.load` calls those of a list 0, 1, ... as well."""
    if names != [str(i) for i in range(len(names))]:
        return True
    if not names:
        return False
    # The file ends with the number of names, none or as many as there are arrays, and then the names.
    texts = [name.encode() for name in names]
    tail = len(names).to_bytes(8, "little") + b"".join(len(t).to_bytes(8, "little") + t for t in texts)
    with open_read(to_path(fname)) as stream:
        # "none" arrays of old files take less than their names would
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - len(tail)))
        return stream.read() == tail


def _of_two(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], NDArray]:
    """Return a function of two arrays, or of an array and a number on either side."""
    return lambda lhs, rhs: function(lhs, rhs)


# A number may stand on either side.
def _extreme(function: Callable[..., Any]) -> Callable[[Any, Any], NDArray]:
    def call(lhs: Any, rhs: Any) -> NDArray:
        if isinstance(lhs, NDArray):
            return lhs._apply(function, rhs)
        return rhs._apply(function, lhs, swapped=True)

    return call


#: functions of two arrays or numbers, which MXNet has written by hand
add = _of_two(lambda lhs, rhs: lhs + rhs)
subtract = _of_two(lambda lhs, rhs: lhs - rhs)
multiply = _of_two(lambda lhs, rhs: lhs * rhs)
divide = _of_two(lambda lhs, rhs: lhs / rhs)
true_divide = divide
modulo = _of_two(lambda lhs, rhs: lhs % rhs)
power = _extreme(np.power)
pow = power
maximum = _extreme(np.maximum)
minimum = _extreme(np.minimum)
equal = _extreme(np.equal)
not_equal = _extreme(np.not_equal)
greater = _extreme(np.greater)
greater_equal = _extreme(np.greater_equal)
lesser = _extreme(np.less)
lesser_equal = _extreme(np.less_equal)

logical_and = _of_two(lambda lhs, rhs: _operator("broadcast_logical_and")(lhs, rhs))
logical_or = _of_two(lambda lhs, rhs: _operator("broadcast_logical_or")(lhs, rhs))
logical_xor = _of_two(lambda lhs, rhs: _operator("broadcast_logical_xor")(lhs, rhs))

random_uniform = uniform = random.uniform
random_normal = normal = random.normal

#: `mx.nd.contrib.AdaptiveAvgPooling2D` and its like
contrib = _imperative.Namespace("nd.contrib", "_contrib_")


# All operators: functions are made when they are requested.
def __getattr__(name: str) -> Any:
    if name == "image":
        return importlib.import_module("imgcls.compat.mxnet.nd_image")
    found = None if name.startswith("__") else _imperative.function(name)
    if found is None:
        raise missing("mxnet.nd", name, [*signatures(), *globals()])
    return found
