"""The help screens of every command: how to call it, examples, and its flags with their defaults.

`-h` shows the most used flags, which the command lists, `--help` all in groups, `--help WORD` those about a
word. All of it is made from the fields themselves; nothing about a flag is written a second time.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field
from typing import Any

from imgcls.config.flags import flag, long_flag, show
from imgcls.errors import UsageError, verbatim

#: the title of a section, and its flags by setting
Group = tuple[str | None, Mapping[str, Field[Any]]]

#: the column where the texts begin; a longer flag is on a line of its own
_COLUMN = 34
#: examples that -h shows
_NUM_EXAMPLES = 3
#: where the text about an example begins, on a line of its own
_TEXT_INDENT = 6
_METAVARS = {"int": "N", "float": "X", "bool": "[1]"}


def help_flag() -> Any:
    """Return the field `help` of every command: its value is the `request` of `help_screen`."""
    return flag("", "every flag (-h: the most used), or those with WORD in their name or text", short="-h",
                metavar="[WORD]", takes="topic")


def help_screen(request: str, usage: str, examples: str, groups: Sequence[Group], *,
                common: Sequence[str] = (), notes: str = "",
                defaults: Mapping[str, Any] | None = None) -> str:
    """Return the screen for `request`: -h, --help, or a word to look flags up by.

    `common` are the settings that -h shows; where there are none it shows all, as --help does. `defaults`
    are shown in place of those of the flags. UsageError for a word that no flag has.
    """
    defaults = defaults or {}
    fields = {name: field for _, flags in groups for name, field in flags.items()}
    total = sum(not field.metadata["is_positional"] for field in fields.values())
    if request == "-h" and common:
        shown = {name: field for name, field in fields.items() if field.metadata["is_positional"]}
        shown |= {name: fields[name] for name in common}
        lines = [f"usage: {usage}", "", *map(_example, _first_examples(examples)), "", "most used flags:",
                 *_flag_lines(shown, defaults, _narrow_column(shown)), "",
                 f"--help shows all {total} flags, --help WORD those with WORD in name or text"]
    elif word := "" if request in ("-h", "--help") else request.strip("- "):
        found = [(title, about) for title, flags in groups if (about := _flags_about(word, title, flags))]
        if not found:
            raise UsageError(f"no flag has '{verbatim(word)}' in its name or text; --help alone shows all "
                             f"{total}")
        num_found = sum(len(flags) for _, flags in found)
        lines = [*_group_lines(found, defaults), f"{num_found} of {total} flags; --help shows all"]
    else:
        lines = [f"usage: {usage}", "", *map(_example, examples.strip().splitlines()), "",
                 *_group_lines(groups, defaults), *map(_note, notes.splitlines())]
    return "\n".join(lines).rstrip("\n") + "\n"


def _first_examples(examples: str) -> list[str]:
    """Return the lines of the title and of the first examples."""
    lines = examples.strip().splitlines()
    begins = [number for number, line in enumerate(lines) if not line.startswith(" " * _TEXT_INDENT)]
    return lines[:begins[_NUM_EXAMPLES + 1]] if len(begins) > _NUM_EXAMPLES + 1 else lines


def _flags_about(word: str, title: str | None, flags: Mapping[str, Field[Any]]) -> dict[str, Field[Any]]:
    """Return the flags with a word in name or text; all flags of the group where its title has the word."""
    parts = [re.escape(part) for part in re.split("[-_ ]+", word)]
    # in a text only at the beginning of a word: else lr would be found in "already"
    begins = re.compile(r"(?<!\w)" + "[-_ ]".join(parts), re.IGNORECASE)
    within = re.compile("[-_ ]".join(parts), re.IGNORECASE)
    if begins.search(title or ""):
        return dict(flags)
    return {name: field for name, field in flags.items()
            if within.search(_usage(field)) or begins.search(field.metadata["help"])}


def _group_lines(groups: Sequence[Group], defaults: Mapping[str, Any]) -> list[str]:
    """Return the lines of the groups, an empty one after each."""
    lines = []
    for title, flags in groups:
        lines += [_note(f"{title}:"), *_flag_lines(flags, defaults), ""]
    return lines


def _flag_lines(flags: Mapping[str, Field[Any]], defaults: Mapping[str, Any],
                column: int = _COLUMN) -> list[str]:
    return [line for name, field in flags.items()
            for line in _help_lines(field, defaults.get(name, field.default), column)]


def _narrow_column(flags: Mapping[str, Field[Any]]) -> int:
    """Return the column where the texts of a few flags begin: as far left as the flags allow."""
    widths = [len(_usage(field)) + 4 for field in flags.values()]
    return max((width for width in widths if width <= _COLUMN), default=_COLUMN)


def _room() -> int:
    """Return the width of the screen in characters."""
    # lines of 114 characters are still easy to read; below 80 the columns would be too narrow
    return min(max(shutil.get_terminal_size((114, 24)).columns, 80), 114)


def _example(line: str) -> str:
    """Return an example as it is where it fits, else with the text about the command on the next line."""
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


def _help_lines(field: Field[Any], default: Any, column: int) -> list[str]:
    """Return the lines of one flag: how it is written, what it does, and its default unless that is empty or
    off."""
    # such a default tells a reader nothing
    text = field.metadata["help"]
    if field.metadata["later"]:
        text += " (not yet)"
    elif not (default in ("", None, MISSING, ()) or default is False or field.metadata["negation"]):
        text += f" ({show(default)})"
    return _columns(_usage(field), text, column)


def _usage(field: Field[Any]) -> str:
    metadata = field.metadata
    # {a,b} as argparse writes it: nothing else is accepted
    named = tuple(choice for choice in metadata["choices"] if choice != "")
    choices = "{" + show(named) + "}" if named else ""
    kind = str(field.type).removesuffix(" | None")
    metavar = choices or metadata["metavar"] or _METAVARS.get(kind, "TEXT")
    if metadata["is_positional"]:
        return metavar
    # a switch that is on already is switched off by its negation, so that is the flag to show
    name = metadata["negation"] or long_flag(field.name)
    spellings = ", ".join(filter(None, [metadata["short"], name, *metadata["aliases"]]))
    return spellings if metadata["takes"] == "none" else f"{spellings} {metavar}"


def _columns(left: str, right: str, column: int) -> list[str]:
    wrapped = textwrap.wrap(right, _room() - column)
    # at least two blanks between the columns
    first = [f"  {left}"] if len(left) > column - 4 else []
    lines = [f"{'' if first else '  ' + left:<{column}}{wrapped[0]}"]
    return first + lines + [" " * column + line for line in wrapped[1:]]
