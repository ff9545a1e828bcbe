"""`+ - * / % **` and comparisons of symbols: each makes a node, under the name that MXNet gives it."""

from __future__ import annotations

import numbers
from typing import Any


# Each operator has two names: with a symbol, and with a number on its right or left.
class Arithmetic:
    """The operators of a Symbol, which derives from this and defines how a node is made."""

    # `==` makes a node, so the hash is that of the object.
    __hash__ = object.__hash__

    def _node(self, function: str, *inputs: Any, **settings: Any) -> Any:
        raise NotImplementedError

    def _binary(self, function: str, scalar_function: str, other: Any) -> Any:
        """Return the node of this and another symbol, or of this and a number."""
        if isinstance(other, Arithmetic):
            return self._node(function, self, other)
        if isinstance(other, numbers.Number):
            return self._node(scalar_function, self, scalar=other)
        raise TypeError(f"a symbol and {type(other).__name__} do not go together: it is neither a symbol nor "
                        "a number")

    def __add__(self, other: Any) -> Any:
        return self._binary("_Plus", "_PlusScalar", other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return self._binary("_Minus", "_MinusScalar", other)

    def __rsub__(self, other: Any) -> Any:
        return self._binary("_Minus", "_RMinusScalar", other)

    def __mul__(self, other: Any) -> Any:
        return self._binary("_Mul", "_MulScalar", other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        return self._binary("_Div", "_DivScalar", other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._binary("_Div", "_RDivScalar", other)

    def __mod__(self, other: Any) -> Any:
        return self._binary("_Mod", "_ModScalar", other)

    def __rmod__(self, other: Any) -> Any:
        return self._binary("_Mod", "_RModScalar", other)

    def __pow__(self, other: Any) -> Any:
        return self._binary("_Power", "_PowerScalar", other)

    def __rpow__(self, other: Any) -> Any:
        return self._binary("_Power", "_rpower_scalar", other)  # MXNet's python/mxnet/symbol.py names it so

    # A float, which MXNet writes as -1.0.
    def __neg__(self) -> Any:
        return self._node("_MulScalar", self, scalar=-1.0)

    def __abs__(self) -> Any:
        return self._node("abs", self)

    # This makes a node too: use `is` to compare two symbols.
    def __eq__(self, other: Any) -> Any:
        return self._binary("_equal", "_equal_scalar", other)

    def __ne__(self, other: Any) -> Any:
        return self._binary("_not_equal", "_not_equal_scalar", other)

    def __gt__(self, other: Any) -> Any:
        return self._binary("_greater", "_greater_scalar", other)

    def __ge__(self, other: Any) -> Any:
        return self._binary("_greater_equal", "_greater_equal_scalar", other)

    def __lt__(self, other: Any) -> Any:
        return self._binary("_lesser", "_lesser_scalar", other)

    def __le__(self, other: Any) -> Any:
        return self._binary("_lesser_equal", "_lesser_equal_scalar", other)

    def __bool__(self) -> bool:
        # `if symbol == other:` would otherwise always be true, as for any object.
        raise TypeError("a symbol has no values yet, so it is neither true nor false; bind it first")
