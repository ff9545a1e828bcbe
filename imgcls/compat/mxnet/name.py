"""`mx.name`: the names that operators get where no one gives one, `convolution0`, `convolution1`, ..."""

from __future__ import annotations

import threading
from typing import Any

#: the manager of each thread that has entered one
# By thread: two threads that build a network at once must not share numbers.
_current = threading.local()


# Names decide what parameters are called in a file, so the counts are MXNet's.
class NameManager:
    """Counts the names that it makes, by operator; `with NameManager():` begins to count anew."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._outer: list[NameManager] = []

    def get(self, name: str | None, hint: str) -> str:
        """Return the name that was given, or the next one of this kind."""
        # A name that was given takes no number, so adding one shifts no other.
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


# Given names too: two copies of a network have different parameters.
class Prefix(NameManager):
    """Puts a prefix before all names, those that were given included."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix

    def get(self, name: str | None, hint: str) -> str:
        """Return what the plain manager does, behind the prefix."""
        return self._prefix + super().get(name, hint)


# For each thread its own.
def current() -> NameManager:
    """Return the manager that names operators at this place."""
    if not hasattr(_current, "value"):
        _current.value = NameManager()
    return _current.value
