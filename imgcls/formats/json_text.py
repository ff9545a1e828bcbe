"""JSON that anybody may have written: every way in which it can be wrong is a DataError of one line.

A checkpoint's meta data, its state, a symbol and a network's settings are read with it. The caller says what
the members must be, and `check` compares.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from imgcls.errors import DataError, verbatim

#: the meta data of 20,000 classes take less than one megabyte; values of JSON take twenty times their text
MAX_BYTES = 16 << 20
#: a double has 309 digits before the point at most; converting a million digits takes minutes
_MAX_DIGITS = 400
#: the largest whole number that every reader of JSON keeps exactly
MAX_COUNT = 1 << 53
_SHOWN_LENGTH = 40


def loads(text: str | bytes, path: object, purpose: str, max_bytes: int = MAX_BYTES, *,
          allows_control: bool = False) -> Any:
    """Return the value in the text; DataError, with the byte where that is known, for text that is not JSON.

    `purpose` says what the file should have been, "a network's symbol". inf and nan may come out of it. With
    `allows_control` the texts in it may hold control characters that are not escaped, against JSON's rules.
    """
    if len(text) > max_bytes:
        raise DataError(path, f"not {purpose}: larger than {max_bytes} bytes")
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        return json.loads(text, parse_int=_integer, strict=not allows_control)
    except UnicodeDecodeError as error:
        raise DataError(path, f"not {purpose}: not UTF-8", error.start) from error
    except json.JSONDecodeError as error:
        # the decoder counts characters, a DataError bytes
        offset = len(error.doc[:error.pos].encode("utf-8", "replace"))
        raise DataError(path, f"not {purpose}: not JSON: {error.msg.lower()}", offset) from error
    # Python's parser goes down one call for each bracket, so a file of brackets ends it
    except RecursionError as error:
        raise DataError(path, f"not {purpose}: nested too deeply") from error
    except ValueError as error:
        raise DataError(path, f"not {purpose}: {verbatim(error)}") from error


def loads_object(text: str | bytes, path: object, purpose: str) -> dict[str, Any]:
    """Return the object in the text, as `loads` does; DataError for any other value."""
    content = loads(text, path, purpose)
    if not isinstance(content, dict):
        raise DataError(path, f"not {purpose}: must be a JSON object")
    return content


def check(value: Any, is_right: Callable[[Any], bool], name: str, what: str, path: object) -> Any:
    """Return `value` if it is right; else raise the DataError that has its `name` and `what` it must be."""
    if not is_right(value):
        refuse(value, name, what, path)
    return value


def refuse(value: Any, name: str, what: str, path: object) -> NoReturn:
    """Raise the DataError for a member that is not `what` it must be."""
    try:
        shown = json.dumps(value)
    except (ValueError, RecursionError, TypeError):
        shown = type(value).__name__
    if len(shown) > _SHOWN_LENGTH:
        shown = shown[:_SHOWN_LENGTH] + "..."
    raise DataError(path, f"{name} is {verbatim(shown)}: must be {what}")


def is_count(value: Any) -> bool:
    """Return whether it is a whole number from 0 to MAX_COUNT (True and 1.0 are none)."""
    return type(value) is int and 0 <= value <= MAX_COUNT


def is_number(value: Any) -> bool:
    """Return whether it is a finite number that a double holds (True is none)."""
    # compared and not converted: an int of 350 digits is an OverflowError as a float; nan is above nothing
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def is_text(value: Any) -> bool:
    """Return whether it is text that can be written to a file (half of a surrogate pair cannot)."""
    if not isinstance(value, str):
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def is_list(value: Any, is_right: Callable[[Any], bool]) -> bool:
    """Return whether it is a list of such values."""
    return isinstance(value, list) and all(map(is_right, value))


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)
