"""`mx.gluon.Parameter` and `ParameterDict`: the weights of a block, by name."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from imgcls.compat.mxnet import nd
from imgcls.compat.mxnet.context import Context, to_context
from imgcls.compat.mxnet.nd import NDArray
from imgcls.errors import DataError, UsageError


# The values may be missing until a file is read.
class Parameter:
    """One weight: its name, its values once there are any, and whether it is a statistic ("null")."""

    def __init__(self, name: str, grad_req: str = "write", shape: Sequence[int] | None = None) -> None:
        self.name = name
        self.grad_req = grad_req
        self._shape = None if shape is None else tuple(shape)
        self._array: NDArray | None = None

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape; None where it is not known yet."""
        return self._shape if self._array is None else self._array.shape

    @property
    def dtype(self) -> Any:
        """The type of the values."""
        return self.data().dtype

    def data(self, ctx: Any = None) -> NDArray:
        """Return the values."""
        if self._array is None:
            raise UsageError(f"parameter {self.name} has no values yet: load them from a file")
        return self._array

    def list_data(self) -> list[NDArray]:
        """Return the values, as the list of one context."""
        return [self.data()]

    def list_ctx(self) -> list[Context]:
        """Return the context of the values."""
        return [self.data().context]

    # A copy: the caller may go on changing the array.
    def set_data(self, data: NDArray) -> None:
        """Take over values; another shape than the present one is an error."""
        if self.shape is not None and data.shape != self.shape:
            raise UsageError(f"parameter {self.name} is {self.shape}, not {data.shape}")
        self._array = data.copy()

    def __repr__(self) -> str:
        return f"Parameter {self.name} (shape={self.shape}, dtype=float32)"


# A dict, as code loops over items and keys; names stay in the network's order.
class ParameterDict(dict[str, Parameter]):
    """Parameters by name, in the order of the network."""

    # Prefixes arg: and aux: are of checkpoints; Gluon's own files have none.
    def load(self, filename: str | os.PathLike[str], ctx: Any = None, allow_missing: bool = False,
             ignore_extra: bool = False) -> None:
        """Take over the arrays of a file, a checkpoint's or Gluon's; all names must agree."""
        arrays = nd.load(filename)
        if not isinstance(arrays, dict):
            raise DataError(filename, "its arrays have no names")
        given = {name[4:] if name.startswith(("arg:", "aux:")) else name: array
                 for name, array in arrays.items()}
        missing = [name for name in self if name not in given]
        # All names are compared before the first value is taken: a wrong file leaves the block as it was.
        if missing and not allow_missing:
            raise DataError(filename, f"parameter {missing[0]} is missing; it has {_some(list(given))}")
        extra = [name for name in given if name not in self]
        if extra and not ignore_extra:
            raise DataError(filename, f"parameter {extra[0]} is none of this network, which has "
                            f"{_some(list(self))}; ignore_extra=True leaves it out")
        context = to_context(ctx[0] if isinstance(ctx, (list, tuple)) else ctx)
        for name in self:
            if name in given:
                self[name].set_data(given[name].as_in_context(context))

    def save(self, filename: str | os.PathLike[str], strip_prefix: str = "") -> None:
        """Write the arrays to a file, names without the prefix."""
        nd.save(filename, {name.removeprefix(strip_prefix): self[name].data() for name in self})

    def reset_ctx(self, ctx: Any) -> None:
        """Keep the values for another context."""
        context = to_context(ctx[0] if isinstance(ctx, (list, tuple)) else ctx)
        for parameter in self.values():
            parameter.set_data(parameter.data().as_in_context(context))

    # A regular expression, matched from the start of the name.
    def select(self, pattern: str) -> ParameterDict:
        """Return those whose name begins with a pattern."""
        matcher = re.compile(pattern)  # the caller's own, never from a file
        return ParameterDict({name: self[name] for name in self if matcher.match(name)})


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
