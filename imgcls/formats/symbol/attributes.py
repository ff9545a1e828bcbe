"""A node's attributes, which MXNet keeps as text, read by type.

`layers` builds modules from them and `write.py` counts outputs by them. Nothing is ever evaluated: every
value is matched against the few forms that MXNet writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from imgcls.formats.symbol.dialects import is_hidden
from imgcls.formats.symbol.nodes import Node

#: characters of an attribute that is a list of numbers, at most
MAX_LIST_LENGTH = 1000
#: of a wrong value an error shows so many characters
_SHOWN_LENGTH = 40
_TRUE = ("True", "true", "1")
_FALSE = ("False", "false", "0")
#: an integer, also of Python 2, which wrote long ones as 3L
_INTEGER = r"[+-]?\d+L?"


class Attributes:
    """A node's attributes, read by type. Remembers which were read, so that unknown ones can be refused.

    Values are text as Python prints it: `(3, 3)`, `True`, `2e-05`, `None`. A value of the wrong kind is a
    ValueError that names the attribute.
    """

    def __init__(self, node: Node) -> None:
        self.attrs = node.attrs
        #: names of those that were read
        self._read: set[str] = set()

    def text(self, name: str, default: str) -> str:
        """Return the value as it stands in the file."""
        self._read.add(name)
        return self.attrs.get(name, default)

    def choice(self, name: str, default: str, choices: Iterable[str]) -> str:
        """Return the value; a ValueError where it is none of `choices`."""
        value = self.text(name, default)
        if value not in choices:
            raise ValueError(f"{name}={value} is not supported (there is {', '.join(choices)})")
        return value

    def integer(self, name: str, default: int | None = None) -> int:
        """Return an integer; without a default the attribute must be there."""
        return int(self._number(name, default, is_integer=True))

    def real(self, name: str, default: float | None = None) -> float:
        """Return a number; without a default the attribute must be there."""
        return self._number(name, default, is_integer=False)

    def flag(self, name: str, default: bool = False) -> bool:
        """Return True or False, which MXNet also writes as 1 and 0."""
        value = self.text(name, str(default))
        if value not in _TRUE + _FALSE:
            raise ValueError(f"{name}={value} is neither True nor False")
        return value in _TRUE

    def is_given(self, name: str) -> bool:
        """Return whether the attribute is there and not "None"."""
        return self.text(name, "None") != "None"

    def integers(self, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Return the numbers of `(1, 2)`, `[1,2]`, `(3,)`, `(3L, 3L)` of Python 2, or of one number."""
        return tuple(int(number) for number in self._list(name, default, _INTEGER))

    def slices(self, name: str) -> tuple[int | None, ...]:
        """Return what `integers` does, where None is allowed in the list; () without the attribute."""
        numbers = self._list(name, (), rf"None|{_INTEGER}")
        return tuple(None if number == "None" else int(number) for number in numbers)

    def ignore(self, *names: str) -> None:
        """Count these as read: they change how MXNet computes, not the result."""
        self._read.update(names)

    def unknown(self) -> list[str]:
        """Return the names of the attributes that were not read and are not hidden ones (`__lr_mult__`)."""
        return sorted(name for name in self.attrs if name not in self._read and not is_hidden(name))

    def _number(self, name: str, default: float | None, is_integer: bool) -> float:
        # A default is parsed like a value of the file, as text.
        value = self.text(name, "" if default is None else str(default))
        if not value:
            raise ValueError(f"{name} is missing")
        try:
            return int(value.rstrip("L")) if is_integer else float(value)
        except ValueError as error:
            kind = "an integer" if is_integer else "a number"
            raise ValueError(f"{name}={value[:_SHOWN_LENGTH]} is not {kind}") from error

    def _list(self, name: str, default: tuple[int, ...] | None, item: str) -> list[str]:
        value = self.text(name, "" if default is None else str(default))
        if not value:
            raise ValueError(f"{name} is missing")
        # The bound comes first: matching is fast, but a file may hold megabytes of brackets.
        compact = value.replace(" ", "") if len(value) <= MAX_LIST_LENGTH else ""
        if not re.fullmatch(rf"[(\[](?:(?:{item})(?:,(?:{item}))*,?)?[)\]]|{item}", compact):
            raise ValueError(f"{name}={value[:_SHOWN_LENGTH]} is not a list of integers")
        return [number.rstrip("L") for number in re.findall(item, value)]
