"""`mx.nd`: NDArray as far as code that reads data needs it: a numpy array with MXNet's rules, and its files.

The rules that differ from numpy's: what `array` makes is float32 unless it is told otherwise, a number does not change
the type of an array (`uint8 - 20` wraps around, `uint8 * 0.5` is 0), two arrays must be of one type, comparisons give 0
and 1, and an element is an array of shape (1,). Arrays live in main memory.
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
    """Main memory, whatever the number."""
    return Context("cpu", device_id)


class NDArray:
    """An array as MXNet has them, around a numpy array that `asnumpy` gives a copy of."""

    #: numpy leaves `ndarray - NDArray` to us
    __array_priority__ = 1000.0
    __hash__ = object.__hash__

    def __init__(self, data: np.ndarray) -> None:
        self._data = data

    @property
    def shape(self) -> tuple[int, ...]:
        return self._data.shape

    @property
    def dtype(self) -> type[np.generic]:
        return self._data.dtype.type

    @property
    def size(self) -> int:
        return self._data.size

    @property
    def ndim(self) -> int:
        return self._data.ndim

    @property
    def context(self) -> Context:
        return Context()

    ctx = context

    @property
    def T(self) -> NDArray:  # noqa: N802
        return NDArray(self._data.T)

    def asnumpy(self) -> np.ndarray:
        """A copy as numpy array."""
        return self._data.copy()

    def asscalar(self) -> Any:
        """The only element."""
        if self._data.size != 1:
            raise ValueError(f"an array of shape {self.shape} is no single number")
        return self._data.reshape(-1)[0]

    def astype(self, dtype: Any, copy: bool = True) -> NDArray:
        return NDArray(self._data.astype(dtype, copy=copy))

    def copy(self) -> NDArray:
        return NDArray(self._data.copy())

    def reshape(self, *shape: Any, **kwargs: Any) -> NDArray:
        """The same elements in another shape, in which -1 is what is left and 0 the old size of that dimension."""
        wanted = kwargs.pop("shape", shape)
        if kwargs:
            raise TypeError(f"reshape has no argument {next(iter(kwargs))}")
        if len(wanted) == 1 and isinstance(wanted[0], (tuple, list)):
            wanted = wanted[0]
        if any(size < -1 for size in wanted):
            raise UsageError(f"reshape to {tuple(wanted)}: of MXNet's special sizes only 0 and -1 are known here")
        return NDArray(self._data.reshape([self.shape[i] if size == 0 and self.size else size
                                           for i, size in enumerate(wanted)]))

    def transpose(self, *axes: Any) -> NDArray:
        return NDArray(self._data.transpose(*axes))

    def expand_dims(self, axis: int) -> NDArray:
        return NDArray(np.expand_dims(self._data, axis))

    def as_in_context(self, context: Any) -> NDArray:
        _check_context(context)
        return self

    def wait_to_read(self) -> None:
        """Nothing is ever under way here."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        # As asnumpy: who gets a numpy array may write to it, unless that is asked for otherwise.
        return np.array(self._data, dtype) if copy is not False else np.asarray(self._data, dtype)

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[NDArray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> NDArray:
        """A slice shares memory with the array."""
        part = self._data[_plain(key)]
        return NDArray(part if isinstance(part, np.ndarray) and part.ndim else np.asarray(part).reshape(1))

    def __setitem__(self, key: Any, value: Any) -> None:
        self._data[_plain(key)] = _plain(value)

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

    def _with(self, function: Callable[..., Any], other: Any, swapped: bool = False) -> NDArray:
        """`function` of the two, in the type of this one."""
        if isinstance(other, NDArray):
            if other.dtype != self.dtype:
                raise TypeError(f"arrays of {self.dtype.__name__} and {other.dtype.__name__}: MXNet's operators want "
                                "one type, use astype")
            other = other._data
        elif not isinstance(other, (int, float, np.number, np.bool_)):
            raise TypeError(f"{type(other).__name__} is neither an NDArray nor a number")
        else:
            whole = np.issubdtype(self.dtype, np.integer)
            other = np.asarray(int(other) if whole else other).astype(self.dtype)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            result = function(other, self._data) if swapped else function(self._data, other)
            return NDArray(np.asarray(result).astype(self.dtype))

    def _set(self, result: NDArray) -> NDArray:
        self._data[...] = result._data
        return self

    def __add__(self, other: Any) -> NDArray:
        return self._with(np.add, other)

    def __sub__(self, other: Any) -> NDArray:
        return self._with(np.subtract, other)

    def __mul__(self, other: Any) -> NDArray:
        return self._with(np.multiply, other)

    def __truediv__(self, other: Any) -> NDArray:
        return self._with(np.true_divide, other)

    def __mod__(self, other: Any) -> NDArray:
        return self._with(np.mod, other)

    def __pow__(self, other: Any) -> NDArray:
        return self._with(np.power, other)

    def __rsub__(self, other: Any) -> NDArray:
        return self._with(np.subtract, other, swapped=True)

    def __rtruediv__(self, other: Any) -> NDArray:
        return self._with(np.true_divide, other, swapped=True)

    __radd__, __rmul__ = __add__, __mul__

    def __iadd__(self, other: Any) -> NDArray:
        return self._set(self + other)

    def __isub__(self, other: Any) -> NDArray:
        return self._set(self - other)

    def __imul__(self, other: Any) -> NDArray:
        return self._set(self * other)

    def __itruediv__(self, other: Any) -> NDArray:
        return self._set(self / other)

    def __neg__(self) -> NDArray:
        return NDArray(-self._data)

    def __eq__(self, other: object) -> Any:
        return self._with(np.equal, other) if _comparable(other) else False

    def __ne__(self, other: object) -> Any:
        return self._with(np.not_equal, other) if _comparable(other) else True

    def __lt__(self, other: Any) -> NDArray:
        return self._with(np.less, other)

    def __le__(self, other: Any) -> NDArray:
        return self._with(np.less_equal, other)

    def __gt__(self, other: Any) -> NDArray:
        return self._with(np.greater, other)

    def __ge__(self, other: Any) -> NDArray:
        return self._with(np.greater_equal, other)


def array(source_array: Any, ctx: Any = None, dtype: Any = None) -> NDArray:
    """A copy; float32 unless `dtype` says otherwise or the source is an NDArray."""
    _check_context(ctx)
    if dtype is None:
        dtype = source_array.dtype if isinstance(source_array, NDArray) else np.float32
    return NDArray(np.atleast_1d(np.array(_plain(source_array), dtype)))


def zeros(shape: int | Sequence[int], ctx: Any = None, dtype: Any = np.float32) -> NDArray:
    _check_context(ctx)
    return NDArray(np.zeros(shape, dtype or np.float32))


def ones(shape: int | Sequence[int], ctx: Any = None, dtype: Any = np.float32) -> NDArray:
    _check_context(ctx)
    return NDArray(np.ones(shape, dtype or np.float32))


def concat(*arrays: NDArray, dim: int = 1) -> NDArray:
    """Joined along an axis that they have."""
    return NDArray(np.concatenate([a._data for a in arrays], axis=dim))


def stack(*arrays: NDArray, axis: int = 0) -> NDArray:
    """Joined along a new axis."""
    return NDArray(np.stack([a._data for a in arrays], axis=axis))


def load(fname: str | os.PathLike[str]) -> list[NDArray] | dict[str, NDArray]:
    """What a file of MXNet's holds (`.params`, a mean image, anything `save` wrote): a dict where the arrays have
    names, otherwise a list. What is damaged is a DataError."""
    arrays = {name: NDArray(values) for name, values in params.load(fname).items()}
    return arrays if _has_names(fname, list(arrays)) else list(arrays.values())


def save(fname: str | os.PathLike[str], data: NDArray | np.ndarray | Sequence[Any] | Mapping[str, Any]) -> None:
    """Write an array, a list or a dict of arrays, the same bytes as MXNet."""
    if isinstance(data, Mapping):
        params.save(fname, {name: _plain(value) for name, value in data.items()})
    else:
        params.save(fname, [_plain(value) for value in (data if isinstance(data, (list, tuple)) else [data])])


def waitall() -> None:
    """Nothing is ever under way here."""


def _has_names(fname: str | os.PathLike[str], names: list[str]) -> bool:
    """Whether the file names its arrays; one without names and one that names them 0, 1, ... read the same."""
    if names != [str(i) for i in range(len(names))]:
        return True
    if not names:
        return False
    # the file ends with the number of names, none or as many as there are arrays, and then the names
    tail = len(names).to_bytes(8, "little") + b"".join(len(n).to_bytes(8, "little") + n.encode() for n in names)
    with open(to_local_path(fname), "rb") as stream:
        stream.seek(-len(tail), os.SEEK_END)  # an array takes more than a name
        return stream.read() == tail


def _plain(value: Any) -> Any:
    """What numpy understands, also inside of a key."""
    if isinstance(value, NDArray):
        return value._data
    if isinstance(value, (tuple, list)) and any(isinstance(v, NDArray) for v in value):
        return type(value)(_plain(v) for v in value)
    return value


def _comparable(other: object) -> bool:
    return isinstance(other, (NDArray, int, float, np.number, np.bool_))


def _check_context(context: Any) -> None:
    if context is not None and not str(context).startswith("cpu"):
        raise UsageError(f"ctx {context}: arrays live in main memory here; leave it out, or write mx.cpu()")
