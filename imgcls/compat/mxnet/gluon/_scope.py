"""The names of blocks and parameters: `dense0_`, `dense1_`, ..., inside of a block behind its prefix."""

from __future__ import annotations

import threading
from typing import Any

from imgcls.compat.mxnet import name as names
from imgcls.compat.mxnet.gluon.parameter_dict import ParameterDict

#: a gluon.Block: its class is in a file that imports this one
Block = Any
_current = threading.local()


class BlockScope:
    """Names what is made inside of `with block.name_scope():`, counted by kind."""

    def __init__(self, block: Any) -> None:
        self._block = block
        self._counts: dict[str, int] = {}
        self._outer: list[BlockScope | None] = []
        self._managers: list[Any] = []

    def next_prefix(self, hint: str) -> str:
        """Return the next prefix of a kind."""
        number = self._counts.get(hint, 0)
        self._counts[hint] = number + 1
        return f"{hint}{number}_"

    # Operators inside get the block's prefix too: so they are named in an exported symbol.
    def __enter__(self) -> BlockScope:
        assert self._block is not None
        if self._block._is_anonymous:
            return self
        self._outer.append(getattr(_current, "value", None))
        _current.value = self
        manager = names.Prefix(self._block.prefix)
        manager.__enter__()
        self._managers.append(manager)
        return self

    def __exit__(self, *exception: Any) -> None:
        assert self._block is not None
        if self._block._is_anonymous:
            return
        self._managers.pop().__exit__(*exception)
        _current.value = self._outer.pop()




# The parameters of a block that is given those of another keep the other's names.
def begin(prefix: str | None, params: ParameterDict | None, hint: str) -> tuple[str, ParameterDict]:
    """Return the prefix and the own parameters of a block that is made at this place."""
    scope: BlockScope | None = getattr(_current, "value", None)
    if scope is None or scope._block is None:
        if prefix is None:
            # Blocks count with operators of the same name, as in MXNet: both ask one manager.
            prefix = names.current().get(None, hint) + "_"
        return prefix, ParameterDict(prefix) if params is None else ParameterDict(params.prefix, params)
    parent = scope._block
    if prefix is None:
        prefix = scope.next_prefix(hint)
    if params is None:
        outer = parent.params
        own = ParameterDict(outer.prefix + prefix, outer._shared)
    else:
        own = ParameterDict(params.prefix, params)
    return parent.prefix + prefix, own
