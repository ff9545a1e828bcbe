"""`NDArray`, an array as MXNet has them: a numpy array with MXNet's rules. `nd.py` passes it on.

The rules that differ from numpy's: what `array` makes is float32 unless it is told otherwise, a number does
not change the type of an array (`uint8 - 20` wraps around, `uint8 * 0.5` is 0), two arrays must be of one
type, comparisons give 0 and 1, and an element is an array of shape (1,). Arrays live in main memory, and
everything is done when a call returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np

from imgcls.compat.mxnet._operators import signatures
from imgcls.compat.mxnet._registration import missing
from imgcls.compat.mxnet.context import Context, to_context
from imgcls.errors import UsageError


def _modulo(left: Any, right: Any) -> Any:
    # MXNet gives 0 for anything modulo 0, numpy nan for floats
    return np.where(np.asarray(right) == 0, 0, np.mod(left, right))


class NDArray:
    """An array as MXNet has them, around a numpy array that `asnumpy` gives a copy of."""

    #: numpy leaves `ndarray - NDArray` to us
    __array_priority__ = 1000.0  # MXNet's number
    # `__eq__` below compares elements; two arrays are one dict key only if they are the same object.
    __hash__ = object.__hash__  # Python drops it from a class with __eq__

    #: `_imperative.function`, which needs this class and sets this
    _find_operator: ClassVar[Callable[[str], Callable[..., Any] | None]]

    def __init__(self, data: np.ndarray, context: Context | None = None) -> None:
        self._data = data
        # kept as it was asked for; the values are in main memory all the same
        self._context = context

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
        """The context that the array was made for."""
        return self._context or Context("cpu")

    ctx = context

    @property
    def stype(self) -> str:
        """How the array is stored: there are no sparse ones here."""
        return "default"

    @property
    def grad(self) -> None:
        """None: gradients are those of an executor or a module here."""
        return None

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
        is_reversed = kwargs.pop("reverse", False)
        if kwargs:
            raise TypeError(f"reshape has no argument {next(iter(kwargs))}")
        if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
            sizes = sizes[0]
        # -2 to -4, which copy, join and split sizes, are the operator's
        if is_reversed or any(size < -1 for size in sizes):
            operator = type(self)._find_operator("reshape")
            assert operator is not None
            return operator(self, shape=tuple(sizes), reverse=is_reversed)
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
        """Return the array for another context, or itself where it is made for that."""
        found = to_context(context)
        return self if found == self.context else NDArray(self._data.copy(), found)

    as_in_ctx = as_in_context

    def copyto(self, other: Any) -> NDArray:
        """Copy the values into an array of the same shape, or into a new one for a context."""
        if not isinstance(other, NDArray):
            return NDArray(self._data.copy(), to_context(other))
        if other.shape != self.shape:
            raise UsageError(f"copyto: an array of shape {self.shape} into one of {other.shape}")
        np.copyto(other._data, self._data, casting="unsafe")  # MXNet converts between any two types
        return other

    def tostype(self, stype: str) -> NDArray:
        """Return the array itself: "default" is the one way in which arrays are stored here."""
        if stype != "default":
            raise UsageError(f"stype {stype}: there are no sparse arrays here, only default")
        return self

    # Operators as methods: x.softmax(axis=1) is mx.nd.softmax(x, axis=1).
    def __getattr__(self, name: str) -> Any:
        found = None if name.startswith("_") else type(self)._find_operator(name)
        if found is None:
            raise missing("mxnet.nd.NDArray", name, [*signatures(), *dir(type(self))])
        return lambda *args, **kwargs: found(self, *args, **kwargs)

    def wait_to_read(self) -> None:
        """Return at once: nothing is ever under way here."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        # As asnumpy: who gets a numpy array may write to it, unless that is asked for otherwise.
        return np.array(self._data, dtype) if copy is not False else np.asarray(self._data, dtype)

    def __len__(self) -> int:
        return len(self._data)

    # Python could also iterate through __getitem__, but then isinstance(x, Iterable) would be False.
    def __iter__(self) -> Iterator[NDArray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> NDArray:
        """Return a slice, which shares memory with the array, or an element as array of shape (1,)."""
        # numpy returns a scalar for an element; MXNet has none.
        selected = self._data[to_index(key)]
        is_array = isinstance(selected, np.ndarray) and selected.ndim
        return NDArray(selected if is_array else np.asarray(selected).reshape(1))

    def __setitem__(self, key: Any, value: Any) -> None:
        values = to_numpy(value)
        # An element is an array of shape (1,) here, which numpy does not put into a place of no dimensions.
        if isinstance(values, np.ndarray) and values.size == 1:
            values = values.reshape(())
        self._data[to_index(key)] = values

    def __bool__(self) -> bool:
        return bool(self.asscalar())  # a ValueError for more than one element, as in numpy

    def __int__(self) -> int:
        return int(self.asscalar())

    def __float__(self) -> float:
        return float(self.asscalar())

    def __index__(self) -> int:
        return self.asscalar().__index__()  # floats have none, so range(array) stays a TypeError

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
            return NDArray(np.asarray(result).astype(self.dtype))  # comparisons too: 0 and 1 in this type

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
        return self._apply(_modulo, other)

    def __pow__(self, other: Any) -> NDArray:
        return self._apply(np.power, other)

    def __rsub__(self, other: Any) -> NDArray:
        return self._apply(np.subtract, other, swapped=True)

    def __rtruediv__(self, other: Any) -> NDArray:
        return self._apply(np.true_divide, other, swapped=True)

    def __rmod__(self, other: Any) -> NDArray:
        return self._apply(_modulo, other, swapped=True)

    def __rpow__(self, other: Any) -> NDArray:
        return self._apply(np.power, other, swapped=True)

    def __abs__(self) -> NDArray:
        return NDArray(np.abs(self._data), self._context)

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


def to_numpy(value: Any) -> Any:
    """Return what numpy understands, also inside of a key."""
    if isinstance(value, NDArray):
        return value._data
    if isinstance(value, (tuple, list)) and any(isinstance(v, NDArray) for v in value):
        return type(value)(to_numpy(v) for v in value)
    return value


def _is_comparable(other: object) -> bool:
    return isinstance(other, (NDArray, int, float, np.number, np.bool_))


def to_index(key: Any) -> Any:
    """Return a key as numpy understands it: arrays of numbers, float32 in MXNet, choose by whole numbers."""
    if isinstance(key, tuple):
        return tuple(to_index(part) for part in key)
    if isinstance(key, NDArray):
        return key._data.astype(np.int64)  # no masks: [1, 0, 1] takes row 1, row 0 and row 1
    return to_numpy(key)
