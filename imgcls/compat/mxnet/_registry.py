"""Classes that can be named by text: `optimizer="adam"`, `eval_metric="acc"`, `init="xavier"`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from imgcls.errors import nearest


# MXNet raises an AssertionError for metrics and initializers, and a ValueError for optimizers.
class UnknownNameError(ValueError, AssertionError):
    """A name under which no class is registered."""


# One for metrics, one for initializers, one for optimizers, as in MXNet.
class Registry:
    """Classes by name, in lower case; `kind` is what errors call them."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.classes: dict[str, Any] = {}

    def register(self, cls: Any) -> Any:
        """Register a class under its own name, and return it; use it as a decorator."""
        # The last one counts, so that a script may replace a class of ours, as in MXNet.
        self.classes[cls.__name__.lower()] = cls
        return cls

    # Names beside that of the class, such as acc and ce.
    def alias(self, *names: str) -> Callable[[Any], Any]:
        """Return a decorator that registers a class under these names."""
        def register(cls: Any) -> Any:
            self.classes |= {name.lower(): cls for name in names}
            return cls

        return register

    # A symbol.json has the initializer of a variable as JSON.
    def create(self, name: Any, *args: Any, **kwargs: Any) -> Any:
        """Return an object of the class of this name; anything but text is returned as it is.

        The text may also be MXNet's JSON `["xavier", {"magnitude": 2}]`. A name that is not registered is an
        UnknownNameError.
        """
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
