"""`NDArray`, MXNet's array: a numpy array with MXNet's rules. `nd.py` exports it.

The rules that differ from numpy's: `array` makes float32 unless a dtype is given, a number does not change
the dtype of an array (`uint8 - 20` wraps around, `uint8 * 0.5` is 0), two arrays must have the same dtype,
comparisons give 0 and 1, and an element is an array of shape (1,). Arrays are in main memory, and every
operation is complete when its call returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np

from imgcls.compat.mxnet import _tape
from imgcls.compat.mxnet._array_arithmetic import RECORDED, Arithmetic
from imgcls.compat.mxnet._operators import signatures
from imgcls.compat.mxnet._registration import missing
from imgcls.compat.mxnet.base import MXNetError
from imgcls.compat.mxnet.context import Context, to_context


class NDArray(Arithmetic):
    """An MXNet array, around a numpy array of which `asnumpy` returns a copy."""

    #: so that numpy leaves `ndarray - NDArray` to this class
    __array_priority__ = 1000.0  # MXNet's number

    #: `_imperative.function`: set by that module, which imports this one
    _find_operator: ClassVar[Callable[[str], Callable[..., Any] | None]]

    def __init__(self, data: np.ndarray, context: Context | None = None) -> None:
        self._data = data
        # kept as it was requested; the values are in main memory in any case
        self._context = context

    #: the gradient, once there is an array for it, and `grad_req`: write, add or null
    _grad: NDArray | None = None
    _grad_req = "null"
    #: the torch tensor of a recorded result; for an array with a gradient the tensor that shares its memory
    _tensor: Any = None
    _leaf: Any = None
    #: whether a backward pass has written the gradient since a Trainer last took it
    _is_fresh = False

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
        """The storage type, always "default": there are no sparse arrays here."""
        return "default"

    @property
    def grad(self) -> NDArray | None:
        """The gradient, None before `attach_grad`."""
        return self._grad

    # The array becomes a leaf: how it was computed is dropped.
    def attach_grad(self, grad_req: str = "write", stype: str | None = None) -> None:
        """Make an array of zeros for the gradient."""
        self._mark(NDArray(np.zeros_like(self._data), self._context), grad_req)

    def _mark(self, gradient: NDArray | None, grad_req: str) -> None:
        self._grad, self._grad_req = gradient, grad_req
        self._tensor = self._leaf = None

    def detach(self) -> NDArray:
        """Return an array on the same memory that is not part of a recorded graph."""
        return NDArray(self._data, self._context)

    def backward(self, out_grad: NDArray | None = None, retain_graph: bool = False,
                 train_mode: bool = True) -> None:
        """Compute the gradients of everything that this was computed from while recording."""
        _tape.backward([self], [out_grad], retain_graph)

    @property
    def T(self) -> NDArray:  # noqa: N802
        """The array with its dimensions in reverse."""
        return self.transpose()

    def asnumpy(self) -> np.ndarray:
        """Return a copy as numpy array."""
        return self._data.copy()

    def asscalar(self) -> Any:
        """Return the only element."""
        if self._data.size != 1:
            raise ValueError("The current array is not a scalar")
        # MXNet returns a number for an array of one axis or none, for more axes the array.
        return self._data.reshape(-1)[0] if self.ndim <= 1 else self.asnumpy()

    def _element(self) -> Any:
        if self.size != 1:
            raise ValueError("The current array is not a scalar")
        return self._data.reshape(-1)[0]

    def astype(self, dtype: Any, copy: bool = True) -> NDArray:
        """Return the array in another type; without `copy` it may be this one."""
        if not copy and np.dtype(dtype) == self._data.dtype:
            return self
        if _tape.is_tracked(self):
            return self._operator("cast")(self, dtype=dtype)
        return NDArray(self._data.astype(to_dtype(dtype)), self._context)

    def copy(self) -> NDArray:
        """Return a copy."""
        return self.copyto(self.context)

    def reshape(self, *shape: Any, **kwargs: Any) -> NDArray:
        """Return the same elements in another shape: -1 is inferred, 0 keeps the size of that dimension."""
        # MXNet takes reshape(2, 3), reshape((2, 3)) and reshape(shape=(2, 3)).
        sizes = kwargs.pop("shape", shape)
        is_reversed = kwargs.pop("reverse", False)
        if kwargs:
            raise TypeError(f"reshape has no argument {next(iter(kwargs))}")
        if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
            sizes = sizes[0]
        # the operator handles -2 to -4, which copy, join and split sizes
        if is_reversed or any(size < -1 for size in sizes):
            return self._operator("reshape")(self, shape=tuple(sizes), reverse=is_reversed)
        # In an array without elements a size of 0 means 0.
        wanted = [self.shape[i] if size == 0 and self.size and i < self.ndim else size
                  for i, size in enumerate(sizes)]
        if _tape.is_tracked(self):
            return _tape.apply(lambda tensor: tensor.reshape(wanted), self)
        try:
            return NDArray(self._data.reshape(wanted), self._context)
        except ValueError as error:
            raise ShapeError(f"reshape: {self.shape} cannot become {tuple(sizes)}") from error

    def transpose(self, *axes: Any, **kwargs: Any) -> NDArray:
        """Return the array with its dimensions in another order, or in reverse."""
        order = axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes
        order = [axis % self.ndim for axis in order or kwargs.get("axes") or range(self.ndim)[::-1]]
        if sorted(order) != list(range(self.ndim)):
            raise MXNetError(f"transpose: {tuple(order)} does not name each axis of {self.shape} once")
        if _tape.is_tracked(self):
            return _tape.apply(lambda tensor: tensor.permute(order), self)
        # A copy, where numpy has a view: changing it does not change the array.
        return NDArray(np.ascontiguousarray(self._data.transpose(order)), self._context)

    def expand_dims(self, axis: int, inplace: bool = False) -> NDArray:
        """Return the array with one more dimension, of size 1, at `axis`."""
        if _tape.is_tracked(self):
            return _tape.apply(lambda tensor: tensor.unsqueeze(axis), self)
        values = np.expand_dims(self._data, axis)
        return NDArray(values if inplace else values.copy(), self._context)

    def as_in_context(self, context: Any) -> NDArray:
        """Return a copy for another context, or the array itself where that is its own."""
        found = to_context(context)
        return self if found == self.context else self.copyto(found)

    as_in_ctx = as_in_context

    def copyto(self, other: Any) -> NDArray:
        """Copy the values into an array of the same shape, or into a new one for a context."""
        if not isinstance(other, NDArray):
            if _tape.is_tracked(self):
                return _tape.apply(lambda tensor: tensor.clone(), self)
            return NDArray(self._data.copy(), to_context(other))
        if other.shape != self.shape:
            raise MXNetError(f"copyto: an array of shape {self.shape} into one of {other.shape}")
        np.copyto(other._data, self._data, casting="unsafe")  # MXNet converts between any two types
        return other

    def tostype(self, stype: str) -> NDArray:
        """Return the array itself: "default" is the only storage type here, another one is an MXNetError."""
        if stype != "default":
            raise MXNetError(f"stype {stype}: there are no sparse arrays here, only default")
        return self

    # Operators as methods: x.softmax(axis=1) is mx.nd.softmax(x, axis=1).
    def __getattr__(self, name: str) -> Any:
        found = None if name.startswith("_") else type(self)._find_operator(name)
        if found is None:
            raise missing("mxnet.nd.NDArray", name, [*signatures(), *dir(type(self))])
        return lambda *args, **kwargs: found(self, *args, **kwargs)

    def _operator(self, name: str) -> Callable[..., Any]:
        operator = type(self)._find_operator(name)
        assert operator is not None, name
        return operator

    def wait_to_read(self) -> None:
        """Return at once: every operation is complete when its call returns."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        # As asnumpy: a copy, which the caller may write to, unless `copy` is False.
        return np.array(self._data, dtype) if copy is not False else np.asarray(self._data, dtype)

    def __len__(self) -> int:
        # MXNet looks at shape[0], so the length of a single number is an IndexError and no TypeError.
        return self.shape[0]

    # Python could also iterate through __getitem__, but then isinstance(x, Iterable) would be False.
    def __iter__(self) -> Iterator[NDArray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> NDArray:
        """Return a slice, which shares memory with the array, or an element as an array of shape (1,)."""
        index = to_index(key)
        if _tape.is_tracked(self):
            return _tape.apply(lambda tensor: tensor[_tape_index(index)], self)
        # numpy returns a scalar for an element; MXNet has none.
        selected = self._selected(index)
        is_array = isinstance(selected, np.ndarray) and selected.ndim
        return NDArray(selected if is_array else np.asarray(selected).reshape(1), self._context)

    def _selected(self, index: Any) -> Any:
        # The text of MXNet's own check of a single number.
        if isinstance(index, (int, np.integer)) and not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of bounds for axis 0 with size {len(self)}")
        return self._data[index]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._check_in_place()
        values = to_numpy(value)
        # An element is an array of shape (1,) here, which numpy does not assign to a single element.
        if isinstance(values, np.ndarray) and values.size == 1:
            values = values.reshape(())
        self._data[to_index(key)] = values

    def __bool__(self) -> bool:
        if self.size > 1:
            raise ValueError("The truth value of an NDArray with multiple elements is ambiguous.")
        return self.size == 1 and bool(self._element())

    def __int__(self) -> int:
        return int(self._element())

    def __float__(self) -> float:
        return float(self._element())

    def __index__(self) -> int:
        return self._element().__index__()  # floats have none, so range(array) stays a TypeError

    def __repr__(self) -> str:
        return f"\n{self._data}\n<NDArray {'x'.join(map(str, self.shape))} @{self.context}>"

    # All operators go through here: one rule for types.
    def _apply(self, function: Callable[..., Any], other: Any, swapped: bool = False) -> NDArray:
        """Return `function(self, other)`, if `swapped` `function(other, self)`, in this array's dtype."""
        if isinstance(other, NDArray):
            if other.dtype != self.dtype:
                raise MXNetError(f"arrays of {self.dtype.__name__} and {other.dtype.__name__}: MXNet's "
                                "operators want one type, use astype")
            operand: Any = other._data
        elif not isinstance(other, (int, float, np.number, np.bool_)):
            raise TypeError(f"{type(other).__name__} is neither an NDArray nor a number")
        else:
            # MXNet casts the number first: 0.5 is 0 to an array of integers.
            is_integer = np.issubdtype(self.dtype, np.integer)
            operand = np.asarray(int(other) if is_integer else other).astype(self.dtype)
        if _tape.is_tracked(self) or (isinstance(other, NDArray) and _tape.is_tracked(other)):
            return self._recorded(function, other, swapped)
        # MXNet's operators wrap around and divide by 0 without a warning.
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            try:
                result = function(operand, self._data) if swapped else function(self._data, operand)
            except ValueError as error:
                shapes = f"{self.shape} and {np.shape(operand)}"
                raise MXNetError(f"arrays of shapes {shapes} do not go together") from error
            # comparisons too: 0 and 1 in this dtype
            return NDArray(np.asarray(result).astype(self.dtype), self._context)

    def _recorded(self, function: Callable[..., Any], other: Any, swapped: bool) -> NDArray:
        """Return what `_apply` does, by the operator of that name, which is recorded."""
        name = RECORDED[function]
        if isinstance(other, NDArray):
            return self._operator(f"broadcast_{name}")(self, other)
        reverse = "r" if swapped and name in ("sub", "div", "power", "mod") else ""
        kind = {"add": "plus", "sub": "minus"}.get(name, name)
        return self._operator(f"_{reverse}{kind}_scalar")(self, scalar=float(other))

    def _check_in_place(self) -> None:
        if _tape.is_tracked(self):
            raise MXNetError("Inplace operations (+=, -=, x[:]=, etc) are not supported when recording with "
                             "autograd.")

    def _assign(self, result: NDArray) -> NDArray:
        self._check_in_place()
        self._data[...] = result._data
        return self


#: mshadow's types; numpy has more
_DTYPES = frozenset(np.dtype(name) for name in (
    "float16", "float32", "float64", "uint8", "int8", "int32", "int64", "bool"))


# Both errors: some versions of MXNet raise a ValueError in Python, others an MXNetError in the operator.
class ShapeError(MXNetError, ValueError):
    """A shape that an array cannot have."""


# Both errors: MXNet raises a KeyError in some functions and an MXNetError in others.
class UnknownTypeError(MXNetError, KeyError):
    """A type of elements that MXNet does not have, such as uint16."""


def to_dtype(dtype: Any) -> np.dtype:
    """Return the type of elements, float32 for None; one that MXNet lacks is an `UnknownTypeError`."""
    found = np.dtype(np.float32 if dtype is None else dtype)
    if found not in _DTYPES:
        names = ", ".join(sorted(known.name for known in _DTYPES))
        raise UnknownTypeError(f"dtype {found.name}: MXNet's arrays are {names}")
    return found


def to_numpy(value: Any) -> Any:
    """Return the numpy array of an NDArray, also inside of a tuple or list; other values as they are."""
    if isinstance(value, NDArray):
        return value._data
    if isinstance(value, (tuple, list)) and any(isinstance(v, NDArray) for v in value):
        return type(value)(to_numpy(v) for v in value)
    return value


def _tape_index(index: Any) -> Any:
    """Return a numpy key as torch takes it: arrays of indices as lists."""
    if isinstance(index, tuple):
        return tuple(_tape_index(part) for part in index)
    return index.tolist() if isinstance(index, np.ndarray) else index


def to_index(key: Any) -> Any:
    """Return a key for numpy: index arrays, which are float32 in MXNet, become int64."""
    if isinstance(key, tuple):
        return tuple(to_index(part) for part in key)
    if isinstance(key, NDArray):
        return key._data.astype(np.int64)  # no masks: [1, 0, 1] takes row 1, row 0 and row 1
    return to_numpy(key)


_tape.set_array_class(NDArray)
