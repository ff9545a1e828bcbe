"""`mx.gluon.nn`: containers of blocks, and functions as blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from imgcls.compat.mxnet import nd, symbol
from imgcls.compat.mxnet.gluon.block import Block
from imgcls.compat.mxnet.gluon.hybrid_block import HybridBlock
from imgcls.compat.mxnet.gluon.parameter_dict import ParameterDict


# Both kinds of containers are lists of their children.
class _Row:
    """The interface of a list, over the children of a block."""

    _is_row = True
    _children: dict[str, Block]
    register_child: Callable[..., None]
    _prefix: str

    def add(self, *blocks: Block) -> None:
        """Append blocks."""
        for block in blocks:
            self.register_child(block)

    def __getitem__(self, key: int | slice) -> Any:
        chosen = list(self._children.values())[key]
        if not isinstance(chosen, list):
            return chosen
        part = type(self)(prefix=self._prefix)  # type: ignore[call-arg]
        with part.name_scope():  # type: ignore[attr-defined]
            part.add(*chosen)
        return part

    def __len__(self) -> int:
        return len(self._children)

    def __iter__(self) -> Iterator[Block]:
        return iter(self._children.values())

    def __repr__(self) -> str:
        lines = "\n".join(f"  ({key}): " + repr(block).replace("\n", "\n  ")
                          for key, block in self._children.items())
        return f"{type(self).__name__}(\n{lines}\n)"


class Sequential(_Row, Block):
    """Blocks of any kind, one after the other."""

    def __init__(self, prefix: str | None = None, params: ParameterDict | None = None) -> None:
        Block.__init__(self, prefix, params)

    def forward(self, x: Any, *args: Any) -> Any:
        for block in self._children.values():
            x = block(x, *args)
            args = ()
            # several results are the arguments of the next block
            if isinstance(x, (tuple, list)):
                x, args = x[0], tuple(x[1:])
        return (x, *args) if args else x


class HybridSequential(_Row, HybridBlock):
    """HybridBlocks, one after the other."""

    def __init__(self, prefix: str | None = None, params: ParameterDict | None = None) -> None:
        HybridBlock.__init__(self, prefix, params)

    def hybrid_forward(self, F: Any, x: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N803
        for block in self._children.values():
            x = block(x, *args)
            args = ()
            if isinstance(x, (tuple, list)):
                x, args = x[0], tuple(x[1:])
        return (x, *args) if args else x


class Lambda(Block):
    """A function of arrays, or the name of one of `mx.nd`, as a block."""

    def __init__(self, function: str | Callable[..., Any], prefix: str | None = None) -> None:
        super().__init__(prefix=prefix)
        if not isinstance(function, str) and not callable(function):
            raise ValueError(f"Unrecognized function in lambda: {function} of type {type(function)}")
        self._function: Callable[..., Any] = getattr(nd, function) if isinstance(function, str) else function

    def forward(self, *args: Any) -> Any:
        return self._function(*args)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._function.__name__})"


class HybridLambda(HybridBlock):
    """A function of (F, x, ...), or the name of an operator, as a HybridBlock."""

    def __init__(self, function: str | Callable[..., Any], prefix: str | None = None) -> None:
        super().__init__(prefix=prefix)
        if isinstance(function, str):
            name = function
            for functions in (nd, symbol):
                getattr(functions, name)  # a name that is not there is an error here
            self._function: Callable[..., Any] = lambda F, *args: getattr(F, name)(*args)  # noqa: N803
            self._function_name = name
        elif callable(function):
            self._function, self._function_name = function, function.__name__
        else:
            raise ValueError(f"Unrecognized function in lambda: {function} of type {type(function)}")

    def hybrid_forward(self, F: Any, x: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N803
        return self._function(F, x, *args)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._function_name})"


class Concurrent(Sequential):
    """Children that all get the same input; their results are joined along `axis`."""

    def __init__(self, axis: int = -1, prefix: str | None = None,
                 params: ParameterDict | None = None) -> None:
        super().__init__(prefix, params)
        self.axis = axis

    def forward(self, x: Any, *args: Any) -> Any:
        return nd.concat(*[block(x) for block in self._children.values()], dim=self.axis)


class HybridConcurrent(HybridSequential):
    """`Concurrent` for HybridBlocks."""

    def __init__(self, axis: int = -1, prefix: str | None = None,
                 params: ParameterDict | None = None) -> None:
        super().__init__(prefix, params)
        self.axis = axis

    def hybrid_forward(self, F: Any, x: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N803
        return F.concat(*[block(x) for block in self._children.values()], dim=self.axis)


class Identity(HybridBlock):
    """The input as it is."""

    def hybrid_forward(self, F: Any, x: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N803
        return x
