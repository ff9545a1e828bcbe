"""`mx.attribute`: `with AttrScope(ctx_group="dev1"):` gives attributes to every symbol made inside."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

#: the attributes in force, in each thread that has entered a scope
# By thread, so that a thread that makes a symbol gets no attributes of a scope that it never entered.
_current = threading.local()


# Used for ctx_group and lr_mult.
class AttrScope:
    """Attributes, as text, for all symbols made inside of `with`; scopes inside of others add to them."""

    def __init__(self, **kwargs: str) -> None:
        # symbol.json holds text only; a number would come back as text and compare unequal.
        if not all(isinstance(value, str) for value in kwargs.values()):
            raise ValueError("attributes of a scope must be text")
        self._attributes = kwargs
        self._outer: list[dict[str, str]] = []  # a stack: one scope may be entered again inside of itself

    # The outer attributes stay in force, under those of this scope.
    def __enter__(self) -> AttrScope:
        self._outer.append(in_force(None))
        _current.value = {**self._outer[-1], **self._attributes}
        return self

    def __exit__(self, *exception: Any) -> None:
        _current.value = self._outer.pop()


# A copy: scopes are shared by all that is made inside of them.
def in_force(attributes: Mapping[str, str] | None) -> dict[str, str]:
    """Return the attributes of the current scope, replaced by those given for the symbol itself."""
    return {**getattr(_current, "value", {}), **(attributes or {})}
