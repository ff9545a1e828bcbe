"""Whatever is typed behind a flag: a value within its bounds, or one line that names the flag, and never a traceback.

`scripts/hostile_flags.py` does the same with whole commands, for as long as one likes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import Field
from types import ModuleType
from typing import Any

import pytest

from imgcls.cli import _key_values
from imgcls.config import lookup, sections
from imgcls.config.flags import convert, flags_of
from imgcls.errors import UsageError


def sections_of(module: ModuleType) -> list[type]:
    """Return the sections of settings that a file of the package declares or uses."""
    return [value for value in vars(module).values()
            if isinstance(value, type) and dataclasses.is_dataclass(value) and flags_of(value)]


#: every section of settings that any command has
COMMANDS = [lookup.module("cli", name, "command") for name in lookup.names("cli")]
ALL = list(dict.fromkeys(section for module in (sections, _key_values, *COMMANDS) for section in sections_of(module)))
SETTINGS = [(section, name) for section in ALL for name in flags_of(section)]

#: text that no number of ours is, however a library might read it
NO_NUMBERS = ("nan", "inf", "-inf", "Infinity", "1e400", "-1e400", "²", "٣", "１", "½", "1,", "x", "0x10", "1e", "--",
              "1 2", "1__0", "_1", "1\n2", "9" * 100_000, "1e" + "9" * 1000, "\x1b[31m", "\udcff")
#: numbers beyond every bound
TOO_LARGE = ("1" + 35 * "0", "-1" + 35 * "0", "1e300", "-1e300")
#: what YAML and Python may bring in their place
NO_TEXT: tuple[Any, ...] = (float("nan"), float("inf"), 10**5000, -10**5000, object(), [], {}, {"a": 1}, [[1]],
                            [10**5000], [None], b"\xff", "a\0b", ["a\0b"])


def is_number(field: Field[Any]) -> bool:
    return any(kind in str(field.type) for kind in ("int", "float"))


def values_of(section: type, name: str) -> Iterator[tuple[Any, str]]:
    field = flags_of(section)[name]
    for value in (*NO_NUMBERS, *TOO_LARGE, *NO_TEXT, "", " ", "0", "-1", "1", "True"):
        try:
            yield convert(field, value), repr(value)[:50]
        except UsageError as error:
            message = str(error)
            assert name in message
            assert len(message) < 700, "a value without end is not repeated"


def test_all_sections_are_found() -> None:
    assert {"TrainConfig", "LaunchConfig", "FinetuneConfig", "PackFlags", "VerifyConfig", "KeyValues"} <= {
        section.__name__ for section in ALL}


@pytest.mark.parametrize("section", ALL, ids=lambda section: section.__name__)
def test_a_setting_of_numbers_has_bounds(section: type) -> None:
    for name, field in flags_of(section).items():
        bounds = field.metadata["minimum"], field.metadata["maximum"]
        assert is_number(field) == (None not in bounds), f"{name}: {bounds}"
        if field.default is not None and isinstance(field.default, (int, float)) and is_number(field):
            assert bounds[0] <= field.default <= bounds[1]


@pytest.mark.parametrize(("section", "name"), SETTINGS, ids=lambda part: getattr(part, "__name__", part))
def test_a_value_is_typed_and_within_bounds_or_refused_in_a_line(section: type, name: str) -> None:
    field = flags_of(section)[name]
    low, high = field.metadata["minimum"], field.metadata["maximum"]
    for typed, value in values_of(section, name):
        if is_number(field) and typed is not None:
            numbers = typed if isinstance(typed, tuple) else (typed,)
            assert all(low <= number <= high for number in numbers), value
            assert not field.metadata["counts"] or len(numbers) in field.metadata["counts"], value


@pytest.mark.parametrize("text", [*NO_NUMBERS, *TOO_LARGE])
def test_no_number_is_none_for_any_setting(text: str) -> None:
    for section, name in SETTINGS:
        field = flags_of(section)[name]
        # a comma may end a list
        if is_number(field) and not (text == "1," and "tuple" in str(field.type)):
            with pytest.raises(UsageError):
                convert(field, text)


def test_no_choice_in_a_message_is_empty() -> None:
    from imgcls.cli.convert import ConvertConfig

    with pytest.raises(UsageError, match="xyz is not known") as found:
        convert(flags_of(ConvertConfig)["to"], "xyz")
    assert all(choice.strip() for choice in str(found.value).partition("there is ")[2].split(","))
