"""`+ - * / % **` and comparisons of arrays, by numpy or, where `mx.autograd` records, by operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np


def _modulo(left: Any, right: Any) -> Any:
    # MXNet gives 0 for anything modulo 0, numpy nan for floats
    return np.where(np.asarray(right) == 0, 0, np.mod(left, right))


#: numpy's function -> MXNet's name of the operator that is recorded in its place
RECORDED: dict[Any, str] = {
    np.add: "add", np.subtract: "sub", np.multiply: "mul", np.true_divide: "div", np.power: "power",
    _modulo: "mod", np.equal: "equal", np.not_equal: "not_equal", np.less: "lesser",
    np.less_equal: "lesser_equal", np.greater: "greater", np.greater_equal: "greater_equal",
    np.maximum: "maximum", np.minimum: "minimum",
}


# The derived class has `_apply`, `_assign` and `_operator`, which work on the array's memory.
class Arithmetic:
    """The operators of an NDArray, which derives from this and defines how one is computed."""

    # `==` compares elements, so the hash is that of the object
    __hash__ = object.__hash__

    if TYPE_CHECKING:
        def _apply(self, function: Callable[..., Any], other: Any, swapped: bool = False) -> Any: ...
        def _assign(self, result: Any) -> Any: ...
        def _operator(self, name: str) -> Callable[..., Any]: ...

    def __add__(self, other: Any) -> Any:
        return self._apply(np.add, other)

    def __sub__(self, other: Any) -> Any:
        return self._apply(np.subtract, other)

    def __mul__(self, other: Any) -> Any:
        return self._apply(np.multiply, other)

    def __truediv__(self, other: Any) -> Any:
        return self._apply(np.true_divide, other)

    def __mod__(self, other: Any) -> Any:
        return self._apply(_modulo, other)

    def __pow__(self, other: Any) -> Any:
        return self._apply(np.power, other)

    def __rsub__(self, other: Any) -> Any:
        return self._apply(np.subtract, other, swapped=True)

    def __rtruediv__(self, other: Any) -> Any:
        return self._apply(np.true_divide, other, swapped=True)

    def __rmod__(self, other: Any) -> Any:
        return self._apply(_modulo, other, swapped=True)

    def __rpow__(self, other: Any) -> Any:
        return self._apply(np.power, other, swapped=True)

    def __abs__(self) -> Any:
        return self._operator("abs")(self)

    __radd__ = __add__
    __rmul__ = __mul__

    # In place: other names of the array, and views, see the change.
    def __iadd__(self, other: Any) -> Any:
        return self._assign(self + other)

    def __isub__(self, other: Any) -> Any:
        return self._assign(self - other)

    def __imul__(self, other: Any) -> Any:
        return self._assign(self * other)

    def __itruediv__(self, other: Any) -> Any:
        return self._assign(self / other)

    def __neg__(self) -> Any:
        return self._apply(np.multiply, -1)

    def _goes_with(self, other: object) -> bool:
        return isinstance(other, (type(self), int, float, np.number, np.bool_))

    # Ordinary code compares arrays with None and other objects: False, and no error.
    def __eq__(self, other: object) -> Any:
        return self._apply(np.equal, other) if self._goes_with(other) else False

    def __ne__(self, other: object) -> Any:
        return self._apply(np.not_equal, other) if self._goes_with(other) else True

    def __lt__(self, other: Any) -> Any:
        return self._apply(np.less, other)

    def __le__(self, other: Any) -> Any:
        return self._apply(np.less_equal, other)

    def __gt__(self, other: Any) -> Any:
        return self._apply(np.greater, other)

    def __ge__(self, other: Any) -> Any:
        return self._apply(np.greater_equal, other)
