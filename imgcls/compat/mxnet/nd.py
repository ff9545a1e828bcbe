"""`mx.nd`: NDArray as far as code that reads data needs it: a numpy array with MXNet's rules, and its files.

The rules that differ from numpy's: what `array` makes is float32 unless it is told otherwise, a number does
not change the type of an array (`uint8 - 20` wraps around, `uint8 * 0.5` is 0), two arrays must be of one
type, comparisons give 0 and 1, and an element is an array of shape (1,). Arrays live in main memory, and
everything is done when a call returns.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from imgcls.errors import UsageError
from imgcls.formats import params
from imgcls.storage.paths import to_local_path


class Context(NamedTuple):
    """Where an array lives: main memory."""

    device_type: str = "cpu"
    device_id: int = 0

    def __str__(self) -> str:
        return f"{self.device_type}({self.device_id})"

    __repr__ = __str__


def cpu(device_id: int = 0) -> Context:
    """Return main memory, whatever the number."""
    return Context("cpu", device_id)


class NDArray:
    """An array as MXNet has them, around a numpy array that `asnumpy` gives a copy of."""

    #: numpy leaves `ndarray - NDArray` to us
    __array_priority__ = 1000.0
    # `__eq__` below compares elements; two arrays are one dict key only if they are the same object.
    __hash__ = object.__hash__

    def __init__(self, data: np.ndarray) -> None:
        self._data = data

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each dimension."""
        return self._data.shape

    @property
    def dtype(self) -> type[np.generic]:
        """The type of the elements, a numpy scalar type as in MXNet."""
        return self._data.dtype.type

    @property
    def size(self) -> int:
        """The number of elements."""
        return self._data.size

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return self._data.ndim

    @property
    def context(self) -> Context:
        """Where the array lives."""
        return Context()

    ctx = context

    @property
    def T(self) -> NDArray:  # noqa: N802
        """The array with its dimensions in reverse."""
        return NDArray(self._data.T)

    def asnumpy(self) -> np.ndarray:
        """Return a copy as numpy array."""
        return self._data.copy()

    def asscalar(self) -> Any:
        """Return the only element."""
        if self._data.size != 1:
            raise ValueError(f"an array of shape {self.shape} is no single number")
        return self._data.reshape(-1)[0]

    def astype(self, dtype: Any, copy: bool = True) -> NDArray:
        """Return the array in another type; without `copy` it may be this one."""
        return NDArray(self._data.astype(dtype, copy=copy))

    def copy(self) -> NDArray:
        """Return a copy."""
        return NDArray(self._data.copy())

    def reshape(self, *shape: Any, **kwargs: Any) -> NDArray:
        """Return the same elements in another shape: -1 is what is left, 0 the old size of that dimension."""
        # MXNet takes reshape(2, 3), reshape((2, 3)) and reshape(shape=(2, 3)).
        sizes = kwargs.pop("shape", shape)
        if kwargs:
            raise TypeError(f"reshape has no argument {next(iter(kwargs))}")
        if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
            sizes = sizes[0]
        if any(size < -1 for size in sizes):
            raise UsageError(f"reshape to {tuple(sizes)}: of MXNet's special sizes only 0 and -1 are known "
                             "here")
        # An array without elements has sizes of 0 that are meant.
        return NDArray(self._data.reshape([self.shape[i] if size == 0 and self.size else size
                                           for i, size in enumerate(sizes)]))

    def transpose(self, *axes: Any) -> NDArray:
        """Return the array with its dimensions in another order, or in reverse."""
        return NDArray(self._data.transpose(*axes))

    def expand_dims(self, axis: int) -> NDArray:
        """Return the array with a dimension of size 1 more."""
        return NDArray(np.expand_dims(self._data, axis))

    def as_in_context(self, context: Any) -> NDArray:
        """Return the array itself: it is in main memory, and can be nowhere else."""
        _check_context(context)
        return self

    def wait_to_read(self) -> None:
        """Return at once: nothing is ever under way here."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        # As asnumpy: who gets a numpy array may write to it, unless that is asked for otherwise.
        return np.array(self._data, dtype) if copy is not False else np.asarray(self._data, dtype)

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[NDArray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> NDArray:
        """Return a slice, which shares memory with the array, or an element as array of shape (1,)."""
        # numpy returns a scalar for an element; MXNet has none.
        selected = self._data[_to_numpy(key)]
        is_array = isinstance(selected, np.ndarray) and selected.ndim
        return NDArray(selected if is_array else np.asarray(selected).reshape(1))

    def __setitem__(self, key: Any, value: Any) -> None:
        self._data[_to_numpy(key)] = _to_numpy(value)

    def __bool__(self) -> bool:
        return bool(self.asscalar())

    def __int__(self) -> int:
        return int(self.asscalar())

    def __float__(self) -> float:
        return float(self.asscalar())

    def __index__(self) -> int:
        return self.asscalar().__index__()

    def __repr__(self) -> str:
        return f"\n{self._data}\n<NDArray {'x'.join(map(str, self.shape))} @{self.context}>"

    # All operators go through here: one rule for types.
    def _apply(self, function: Callable[..., Any], other: Any, swapped: bool = False) -> NDArray:
        """Return `function` of the two, or `swapped` of the other and this, in the type of this one."""
        if isinstance(other, NDArray):
            if other.dtype != self.dtype:
                raise TypeError(f"arrays of {self.dtype.__name__} and {other.dtype.__name__}: MXNet's "
                                "operators want one type, use astype")
            operand: Any = other._data
        elif not isinstance(other, (int, float, np.number, np.bool_)):
            raise TypeError(f"{type(other).__name__} is neither an NDArray nor a number")
        else:
            # MXNet casts the number first: 0.5 is 0 to an array of integers.
            is_integer = np.issubdtype(self.dtype, np.integer)
            operand = np.asarray(int(other) if is_integer else other).astype(self.dtype)
        # MXNet's operators wrap around and divide by 0 without a word.
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            result = function(operand, self._data) if swapped else function(self._data, operand)
            return NDArray(np.asarray(result).astype(self.dtype))

    def _assign(self, result: NDArray) -> NDArray:
        self._data[...] = result._data
        return self

    def __add__(self, other: Any) -> NDArray:
        return self._apply(np.add, other)

    def __sub__(self, other: Any) -> NDArray:
        return self._apply(np.subtract, other)

    def __mul__(self, other: Any) -> NDArray:
        return self._apply(np.multiply, other)

    def __truediv__(self, other: Any) -> NDArray:
        return self._apply(np.true_divide, other)

    def __mod__(self, other: Any) -> NDArray:
        return self._apply(np.mod, other)

    def __pow__(self, other: Any) -> NDArray:
        return self._apply(np.power, other)

    def __rsub__(self, other: Any) -> NDArray:
        return self._apply(np.subtract, other, swapped=True)

    def __rtruediv__(self, other: Any) -> NDArray:
        return self._apply(np.true_divide, other, swapped=True)

    __radd__ = __add__
    __rmul__ = __mul__

    # In place: other names of the array, and views, see the change.
    def __iadd__(self, other: Any) -> NDArray:
        return self._assign(self + other)

    def __isub__(self, other: Any) -> NDArray:
        return self._assign(self - other)

    def __imul__(self, other: Any) -> NDArray:
        return self._assign(self * other)

    def __itruediv__(self, other: Any) -> NDArray:
        return self._assign(self / other)

    def __neg__(self) -> NDArray:
        return NDArray(-self._data)

    # `array == None` and the like are asked by ordinary code: False, and no error.
    def __eq__(self, other: object) -> Any:
        return self._apply(np.equal, other) if _is_comparable(other) else False

    def __ne__(self, other: object) -> Any:
        return self._apply(np.not_equal, other) if _is_comparable(other) else True

    def __lt__(self, other: Any) -> NDArray:
        return self._apply(np.less, other)

    def __le__(self, other: Any) -> NDArray:
        return self._apply(np.less_equal, other)

    def __gt__(self, other: Any) -> NDArray:
        return self._apply(np.greater, other)

    def __ge__(self, other: Any) -> NDArray:
        return self._apply(np.greater_equal, other)


def array(source_array: Any, ctx: Any = None, dtype: Any = None) -> NDArray:
    """Return a copy; float32 unless `dtype` says otherwise or the source is an NDArray."""
    _check_context(ctx)
    if dtype is None:
        dtype = source_array.dtype if isinstance(source_array, NDArray) else np.float32
    # MXNet has no arrays without dimensions: a number becomes one element.
    return NDArray(np.atleast_1d(np.array(_to_numpy(source_array), dtype)))


def zeros(shape: int | Sequence[int], ctx: Any = None, dtype: Any = np.float32) -> NDArray:
    """Return an array of zeros."""
    _check_context(ctx)
    return NDArray(np.zeros(shape, dtype or np.float32))


def ones(shape: int | Sequence[int], ctx: Any = None, dtype: Any = np.float32) -> NDArray:
    """Return an array of ones."""
    _check_context(ctx)
    return NDArray(np.ones(shape, dtype or np.float32))


def concat(*arrays: NDArray, dim: int = 1) -> NDArray:
    """Join along an axis that they have."""
    return NDArray(np.concatenate([a._data for a in arrays], axis=dim))


def stack(*arrays: NDArray, axis: int = 0) -> NDArray:
    """Join along a new axis."""
    return NDArray(np.stack([a._data for a in arrays], axis=axis))


def load(fname: str | os.PathLike[str]) -> list[NDArray] | dict[str, NDArray]:
    """Return what a file of MXNet's holds (`.params`, a mean image, anything `save` wrote).

    A dict where the arrays have names, otherwise a list. What is damaged is a DataError.
    """
    arrays = {name: NDArray(values) for name, values in params.load(fname).items()}
    return arrays if _has_names(fname, list(arrays)) else list(arrays.values())


def save(fname: str | os.PathLike[str],
         data: NDArray | np.ndarray | Sequence[Any] | Mapping[str, Any]) -> None:
    """Write an array, a list or a dict of arrays, the same bytes as MXNet."""
    if isinstance(data, Mapping):
        params.save(fname, {name: _to_numpy(value) for name, value in data.items()})
    else:
        # MXNet writes a single array as a list of one.
        values = data if isinstance(data, (list, tuple)) else [data]
        params.save(fname, [_to_numpy(value) for value in values])


def waitall() -> None:
    """Return at once: nothing is ever under way here."""


def _has_names(fname: str | os.PathLike[str], names: list[str]) -> bool:
    """Return whether the file names its arrays: `params.load` calls those of a list 0, 1, ... as well."""
    if names != [str(i) for i in range(len(names))]:
        return True
    if not names:
        return False
    # The file ends with the number of names, none or as many as there are arrays, and then the names.
    texts = [name.encode() for name in names]
    tail = len(names).to_bytes(8, "little") + b"".join(len(t).to_bytes(8, "little") + t for t in texts)
    with open(to_local_path(fname), "rb") as stream:
        stream.seek(-len(tail), os.SEEK_END)  # an array takes more than a name
        return stream.read() == tail


def _to_numpy(value: Any) -> Any:
    """Return what numpy understands, also inside of a key."""
    if isinstance(value, NDArray):
        return value._data
    if isinstance(value, (tuple, list)) and any(isinstance(v, NDArray) for v in value):
        return type(value)(_to_numpy(v) for v in value)
    return value


def _is_comparable(other: object) -> bool:
    return isinstance(other, (NDArray, int, float, np.number, np.bool_))


def _check_context(context: Any) -> None:
    # Text, so that mxnet's own context objects do as well.
    if context is not None and not str(context).startswith("cpu"):
        raise UsageError(f"ctx {context}: arrays live in main memory here; leave it out, or write mx.cpu()")
