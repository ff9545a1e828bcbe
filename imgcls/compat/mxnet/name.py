"""`mx.name`: the names of operators without a name of their own, `convolution0`, `convolution1`, ..."""

from __future__ import annotations

import threading
from typing import Any

#: the current manager of each thread that has entered one
# By thread: two threads that build a network at once must not share numbers.
_current = threading.local()


# Parameters in files are named after operators, so the counts are MXNet's.
class NameManager:
    """Makes names with a count for each kind of operator; `with NameManager():` counts from 0 again."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._outer: list[NameManager] = []

    def get(self, name: str | None, hint: str) -> str:
        """Return `name` where it is given, else the next name of this kind."""
        # A given name takes no number, so it does not change the other names.
        if name:
            return name
        number = self._counts.get(hint, 0)
        self._counts[hint] = number + 1
        return f"{hint}{number}"

    def __enter__(self) -> NameManager:
        self._outer.append(current())
        _current.value = self
        return self

    def __exit__(self, *exception: Any) -> None:
        _current.value = self._outer.pop()


# Given names get the prefix too: so two copies of a network have different parameters.
class Prefix(NameManager):
    """Puts a prefix in front of all names, given ones included."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix

    def get(self, name: str | None, hint: str) -> str:
        """Return the prefix and the name that NameManager returns."""
        return self._prefix + super().get(name, hint)


# Each thread has its own.
def current() -> NameManager:
    """Return the manager that names operators now, in this thread."""
    if not hasattr(_current, "value"):
        _current.value = NameManager()
    return _current.value
