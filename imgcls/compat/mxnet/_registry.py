"""Classes that can be named by text: `optimizer="adam"`, `eval_metric="acc"`, `init="xavier"`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from imgcls.errors import nearest


# MXNet raises an AssertionError for metrics and initializers, and a ValueError for optimizers.
class UnknownNameError(ValueError, AssertionError):
    """A name that no class goes by."""


# One for metrics, one for initializers, one for optimizers, as MXNet keeps them.
class Registry:
    """Names, in lower case, and the classes that they stand for; `kind` says what they are in errors."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.classes: dict[str, Any] = {}

    def register(self, cls: Any) -> Any:
        """Take up a class under its own name, also one of the caller's; use it as a decorator."""
        # The last one wins, so that a script may replace a class of ours, as in MXNet.
        self.classes[cls.__name__.lower()] = cls
        return cls

    # Names beside that of the class, such as acc and ce.
    def alias(self, *names: str) -> Callable[[Any], Any]:
        """Return a decorator that takes up a class under other names."""
        def register(cls: Any) -> Any:
            self.classes |= {name.lower(): cls for name in names}
            return cls

        return register

    # JSON is how a symbol.json keeps the initializer of a variable; it names a class of ours.
    def create(self, name: Any, *args: Any, **kwargs: Any) -> Any:
        """Return an object of a name, or of MXNet's JSON `["xavier", {"magnitude": 2}]`, or it itself."""
        if not isinstance(name, str):
            return name
        # Only names from this table are looked up: a hostile symbol.json can choose a class, never code.
        if name.startswith("["):
            name, kwargs = json.loads(name)
        elif name.startswith("{"):
            kwargs = json.loads(name)
            name = kwargs.pop(self.kind)
        if name.lower() not in self.classes:
            close = ", ".join(nearest(name, self.classes) or sorted(self.classes))
            raise UnknownNameError(f"{self.kind} {name} is not known; there is {close}")
        return self.classes[name.lower()](*args, **kwargs)
