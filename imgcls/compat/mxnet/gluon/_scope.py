"""The names of blocks and parameters: `dense0_`, `dense1_`, ..., with the prefix of the block around them."""

from __future__ import annotations

import threading
from typing import Any

from imgcls.compat.mxnet import name as names
from imgcls.compat.mxnet.gluon.parameter_dict import ParameterDict

#: a gluon.Block: its class is in a file that imports this one
Block = Any
_current = threading.local()


class BlockScope:
    """Names the blocks made inside of `with block.name_scope():`, with a count for each kind."""

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

    # Operators inside get the block's prefix too, which an exported symbol then has.
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




# A block that is given another's parameters (`params`) keeps their names.
def begin(prefix: str | None, params: ParameterDict | None, hint: str) -> tuple[str, ParameterDict]:
    """Return the prefix and the ParameterDict of a block that is made in the current scope."""
    scope: BlockScope | None = getattr(_current, "value", None)
    if scope is None or scope._block is None:
        if prefix is None:
            # Blocks and operators of the same name share a count, as in MXNet: both use one manager.
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
