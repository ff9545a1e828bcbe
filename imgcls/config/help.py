"""The help screen of every command: how to call it, examples, and its flags in groups with their defaults."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field
from typing import Any

from imgcls.config.flags import long_flag, show

#: where the texts begin; a flag that is longer stands on a line of its own
_COLUMN = 34
#: where the text about an example begins, on a line of its own
_TEXT_INDENT = 6
_METAVARS = {"int": "N", "float": "X", "bool": "[1]"}


def help_screen(usage: str, examples: str, groups: Iterable[tuple[str | None, Mapping[str, Field[Any]]]],
                notes: str = "", defaults: Mapping[str, Any] | None = None) -> str:
    """Return the screen; `groups` are (title, flags), and `defaults` stand above those of the flags."""
    lines = [f"usage: {usage}", "", *map(_example, examples.strip().splitlines()), ""]
    for title, fields in groups:
        lines.append(_note(f"{title}:"))
        for name, field in fields.items():
            lines += _help_lines(field, (defaults or {}).get(name, field.default))
        lines.append("")
    return "\n".join([*lines, *map(_note, notes.splitlines()), *([""] if notes else [])])


def _room() -> int:
    """Return the width of the screen in characters."""
    # lines of 114 are still read with ease; below 80 the columns would be too narrow
    return min(max(shutil.get_terminal_size((114, 24)).columns, 80), 114)


def _example(line: str) -> str:
    """Return an example as it is where it fits, else with what it says about the command on the next line."""
    if len(line) <= _room():
        return line
    if line.startswith(" " * _TEXT_INDENT):  # about the command on the line before
        return " " * _TEXT_INDENT + line.strip()
    # the command in one piece, whatever its length: it is there to be copied
    command, *text = re.split(r"  +", line.strip(), maxsplit=1)
    return "\n".join([f"  {command}", *(" " * _TEXT_INDENT + part for part in text)])


def _note(line: str) -> str:
    """Return a line of the notes, wrapped where it is wider than the screen."""
    if len(line) <= _room():
        return line
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.fill(line, _room(), initial_indent="", subsequent_indent=indent)


def _help_lines(field: Field[Any], default: Any) -> list[str]:
    """Return the lines of one flag: how it is written, what it does, and its default where that is worth a
    word."""
    # a default that is nothing, or off, tells nobody anything
    text = field.metadata["help"]
    if field.metadata["later"]:
        text += " (not yet)"
    elif not (default in ("", None, MISSING, ()) or default is False or field.metadata["negation"]):
        text += f" ({show(default)})"
    return _columns(_usage(field), text)


def _usage(field: Field[Any]) -> str:
    metadata = field.metadata
    # {a,b} as argparse writes it: nothing else is accepted
    choices = "{" + show(metadata["choices"]) + "}" if metadata["choices"] else ""
    kind = str(field.type).removesuffix(" | None")
    metavar = choices or metadata["metavar"] or _METAVARS.get(kind, "TEXT")
    if metadata["is_positional"]:
        return metavar
    # a switch that is on already is switched off by its negation, so that is the flag to show
    name = metadata["negation"] or long_flag(field.name)
    spellings = ", ".join(filter(None, [metadata["short"], name, *metadata["aliases"]]))
    return spellings if metadata["takes"] == "none" else f"{spellings} {metavar}"


def _columns(left: str, right: str) -> list[str]:
    wrapped = textwrap.wrap(right, _room() - _COLUMN)
    # at least two blanks between the columns
    first = [f"  {left}"] if len(left) > _COLUMN - 4 else []
    lines = [f"{'' if first else '  ' + left:<{_COLUMN}}{wrapped[0]}"]
    return first + lines + [" " * _COLUMN + line for line in wrapped[1:]]
