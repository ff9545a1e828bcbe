"""A flag is a field of a frozen dataclass: how it is declared, spelled, converted and checked.

`flag` and `positional` declare; `sections` and the commands use them. `command_line` reads words by these
fields, `help` prints them, and `resolve` takes them for keys of files and environment variables too. Nothing
here looks at a command line, a file or the environment.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field
from typing import Any

from imgcls.errors import UsageError, unknown, verbatim

#: words that switch something on or off; "none" is how users of MXNet's scripts wrote a switch off
TRUE_WORDS = ("1", "true", "yes", "on")
FALSE_WORDS = ("0", "false", "no", "off", "none", "")
#: ASCII digits, 1_000 for 1000 as in Python, and not many more digits than the largest bound has
_MAX_DIGITS = 40
_INTEGER = re.compile(rf"[+-]?(?=[0-9_]{{1,{_MAX_DIGITS}}}$)[0-9]+(_[0-9]+)*")
#: more numbers than this are not a list of sizes, means or deviations
_MAX_PARTS = 1000
#: more characters of a wrong value are not shown
_MAX_SHOWN = 200


def flag(default: Any, help: str, *, since: str = "new", choices: tuple[Any, ...] = (), metavar: str = "",
         later: str = "", minimum: float | None = None, maximum: float | None = None,
         counts: tuple[int, ...] = (), short: str = "", aliases: tuple[str, ...] = (), negation: str = "",
         takes: str = "value") -> Any:
    """Return a field that is a flag; without a default (`MISSING`) the flag must be given.

    A flag of numbers has both a `minimum` and a `maximum`, of a list those of each number; `counts` says how
    many numbers a list may have. `help` is the text of the help screen, `short` a short flag such as -n, and
    `aliases` are other long flags for the setting.

    `since` is the generation of MXNet's scripts that had it: "g1" before v0.8, "g2" from v0.8, "g3" from
    v1.3, or "new": ours. `later` is for a feature that is not there: a value other than the default is
    refused with this text. `negation` is a flag that means the opposite of a switch. `takes` says which
    words belong to it: "value" (one, which a switch may go without), "none" (a switch that stands alone),
    "each" (one each time it is given, and all count), "extensions" (endings of file names, as many as
    follow), "words" (all up to the next flag) or "topic" (one behind the long flag, which may be left out;
    the flag as it was spelled then takes its place).
    """
    return dataclasses.field(default=default, metadata={
        "is_positional": False, "help": help, "since": since, "choices": choices, "metavar": metavar,
        "later": later, "minimum": minimum, "maximum": maximum, "counts": counts, "short": short,
        "aliases": aliases, "negation": negation, "takes": takes})


def positional(help: str, *, metavar: str, default: Any = MISSING, takes: str = "value") -> Any:
    """Return a field that is a word without a flag; with a default it may be left out.

    `takes` is "value" (one), "several" (at least one) or "rest" (all from the first on, flags among them).
    """
    return dataclasses.field(default=default, metadata={
        "is_positional": True, "help": help, "since": "g2", "choices": (), "metavar": metavar,
        "later": "", "minimum": None, "maximum": None, "counts": (), "short": "", "aliases": (),
        "negation": "", "takes": takes})


def flags_of(section: type) -> dict[str, Field[Any]]:
    """Return setting -> field of a section, without the fields that are no setting of a user."""
    # a field that a rule fills in, such as the decay of a schedule, was not made by `flag`
    return {field.name: field for field in dataclasses.fields(section) if field.metadata}


# Spelling


def long_flag(setting: str) -> str:
    """Return image_shape as --image-shape."""
    return "--" + setting.replace("_", "-")


def spelled(field: Field[Any]) -> str:
    """Return a setting as messages write it: -n where there is a short flag, else --image-shape or IMAGE."""
    if field.metadata["is_positional"]:
        return field.metadata["metavar"]
    return field.metadata["short"] or long_flag(field.name)


class FlagSpelling:
    """How a command spells the settings in its messages; other names stay between backquotes."""

    def __init__(self, flags: Mapping[str, str]) -> None:
        self.flags = flags

    def __call__(self, setting: str) -> str:
        # a file may be called `x`: only the names of settings lose their backquotes
        return self.flags.get(setting, f"`{setting}`")


def flag_spelling(*sections: type) -> FlagSpelling:
    """Return the spelling of a command with these sections; of one name in two, the later section's holds."""
    # a section of the command's own may have a setting that shared ones have too, with other flags
    fields = [field for section in sections for field in flags_of(section).values()]
    return FlagSpelling({field.name: spelled(field) for field in fields})


# Conversion


def convert(field: Field[Any], value: Any) -> Any:
    """Return `value`, text or typed, as the type of the field; UsageError if it does not fit."""
    declared = str(field.type)  # text, since the files that declare have postponed annotations
    kind = declared.removesuffix(" | None")
    name = f"`{field.name}`"
    if value is None or (isinstance(value, str) and value.lower() == "none" and kind != declared):
        if kind != declared:
            return None
        if field.default == "":
            return ""  # `gpus:` with nothing behind it, in YAML
        raise UsageError(f"{name}: needs a value")
    try:
        typed = _CONVERTERS[kind](value)
    except (ValueError, TypeError, OverflowError):
        raise UsageError(f"{name} {verbatim(shortened(value))}: must be {_KINDS[kind]}") from None
    _check(field, name, value, typed)
    return typed


def _check(field: Field[Any], name: str, value: Any, typed: Any) -> None:
    """UsageError for a value of the right type that is not among the choices or out of bounds."""
    choices = field.metadata["choices"]
    # compared after the conversion: 01 is 1
    if choices and typed not in choices:
        if isinstance(typed, str):
            # guesses what was meant; "" is the choice of those who do not give the flag
            raise unknown(name, shortened(value), [choice for choice in choices if choice])
        raise UsageError(f"{name} {shortened(typed)}: must be one of {', '.join(map(show, choices))}")
    counts = field.metadata["counts"]
    if counts and len(typed) not in counts:
        form = f" ({field.metadata['metavar']})" if field.metadata["metavar"] else ""
        raise UsageError(f"{name} {shortened(typed)}: has {len(typed)} numbers, must have "
                         f"{' or '.join(map(show, sorted(counts, reverse=True)))}{form}")
    # a list is within the bounds when all its numbers are
    for number in typed if isinstance(typed, tuple) else (typed,):
        _check_bounds(field, f"{name} {shortened(typed)}", number)


def _check_bounds(field: Field[Any], what: str, number: Any) -> None:
    minimum, maximum = field.metadata["minimum"], field.metadata["maximum"]
    # only the bound that was passed is reported: the other one is often far away
    if minimum is not None and number < minimum:
        raise UsageError(f"{what}: must be at least {_bound(minimum)}")
    if maximum is not None and number > maximum:
        raise UsageError(f"{what}: must be at most {_bound(maximum)}")


def _bound(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


def show(value: Any) -> str:
    """Return a value as it is written on the command line, without loss of digits."""
    if isinstance(value, (tuple, list)):
        return ",".join(map(show, value))
    if isinstance(value, float):
        # the short form where it reads back as the same number: 1 and not 1.0, 1e-08 and not 0.00000001
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)


def shortened(value: Any) -> str:
    """Return a wrong value for a message; of a long one, such as a file's content, only the beginning."""
    if isinstance(value, int) and value.bit_length() > _MAX_DIGITS:
        return f"with {value.bit_length()} bits"  # Python refuses to print thousands of digits
    try:
        text = show(value)
    except ValueError:  # such a number inside a list of YAML
        return f"({type(value).__name__})"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}... ({len(text)} characters)"


def to_boolean(value: Any) -> bool:
    """Return what a word of a switch means; ValueError for one that means neither."""
    word = str(value).strip().lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise ValueError(value)


def to_integer(value: Any) -> int:
    """Return a whole number that a user wrote, or YAML read; ValueError for anything else."""
    # True is 1 for Python: who writes `batch_size: yes` did not mean one image
    if isinstance(value, bool) or (isinstance(value, float) and value != int(value)):
        raise ValueError(value)
    # Python takes digits of every script, and has a message of its own for thousands of digits
    if isinstance(value, str) and not _INTEGER.fullmatch(value.strip()):
        raise ValueError(value)
    return int(value)


def to_number(value: Any) -> float:
    """Return a number that a user wrote, or YAML read; ValueError for anything else, nan and inf too."""
    # Python takes digits of every script, and 1_0 as ten
    if isinstance(value, str) and (not value.isascii() or "_" in value):
        raise ValueError(value)
    number = float(value)
    # nan passes every bound, and no setting means anything at infinity
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError(value)
    return number


def to_integers(value: Any) -> tuple[int, ...]:
    """Return whole numbers above 0; ValueError for anything else."""
    # all such settings are sizes or counts
    numbers = tuple(map(to_integer, _parts(value)))
    if not numbers or min(numbers) < 1:
        raise ValueError(value)
    return numbers


def _to_numbers(value: Any) -> tuple[float, ...]:
    numbers = tuple(map(to_number, _parts(value)))
    if not numbers:
        raise ValueError(value)
    return numbers


def _parts(value: Any) -> Sequence[Any]:
    """Return the parts of a list: text with commas, in brackets or not, one number, or a list already."""
    if isinstance(value, str):
        value = value.strip(" ()[]").split(",")  # (3,224,224) is how Python and MXNet's logs print it
    parts = [value] if isinstance(value, (int, float)) else value
    if len(parts) > _MAX_PARTS:
        raise ValueError(f"{len(parts)} numbers")
    return [part for part in parts if str(part).strip()]


def _to_text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(_to_text, value))  # `gpus: [0, 1]` is natural in YAML
    # a zero byte, which YAML can write, is in no name of a file
    if isinstance(value, Mapping) or "\0" in str(value):
        raise TypeError(value)
    return str(value)


def _to_texts(value: Any) -> tuple[str, ...]:
    return tuple(map(_to_text, (value,) if isinstance(value, str) else value))


_CONVERTERS = {
    # a type that is missing here is our own mistake: a KeyError at its first use, in any test
    "int": to_integer, "float": to_number, "str": _to_text, "bool": to_boolean,
    "tuple[int, ...]": to_integers, "tuple[float, ...]": _to_numbers, "tuple[str, ...]": _to_texts}
_KINDS = {
    "int": "a whole number", "float": "a number", "str": "text", "bool": "1 or 0 (true or false)",
    "tuple[int, ...]": "whole numbers above 0, such as 3,224,224",
    "tuple[float, ...]": "numbers, such as 123.68,116.779,103.939", "tuple[str, ...]": "text"}
