"""Errors that are shown to a user: every failure that is not our own bug ends as one of these, in one line.

`cli` turns `UsageError` into exit status 2, `DataError` and `RunError` into 1. Other code catches one only to
add to its message, or where it can do without what failed.

A message names a setting between backquotes, `image_shape`, and never as a flag: below `cli/` it is not known
whether the setting came from a command line, a Python argument or a file. The code that shows the message
spells it: `spelled(...)` with a command's flags gives --image-shape, `str(error)` gives image_shape.

Text from outside (a path, a class name, what a library says of a file) is shown with its control characters
escaped, and is never taken for a setting: `printable`, `tell` and `verbatim`.
"""

from __future__ import annotations

import difflib
import errno
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable
from typing import TextIO

# Lower case with underscores: what else stands between backquotes in a message, a path for example, stays.
_SETTING = re.compile(r"`([a-z][a-z0-9_]*)`")
#: stands for the backquote of a text from outside until the settings are spelled; no text has this character
_VERBATIM_BACKQUOTE = "\ufdd0"
#: joiners that Persian, Indian scripts and emoji need inside a word are shown; so are blanks of every width
_SHOWN = frozenset("\u200c\u200d")
_BLANK = "Zs"
#: a file may have a name or a number of a million characters: a message is cut after so many
_MAX_CHARACTERS = 4000


def printable(text: object, keep: str = "") -> str:
    r"""Return `text` as one line that is safe to show: what no screen shows as a character is escaped.

    Control characters, line breaks of every kind, marks that turn the direction of writing, and bytes of
    names that are no text become \x1b, \n, \u2028, \x80. `keep` are characters to leave, such as a tab.
    """
    text = str(text)
    if text.isprintable():  # nearly always, and quick
        return text
    text = text.replace(_VERBATIM_BACKQUOTE, "`")
    return "".join(char if _is_shown(char) or char in keep else _escape(char) for char in text)


def _is_shown(char: str) -> bool:
    return char.isprintable() or char in _SHOWN or unicodedata.category(char) == _BLANK


def _escape(char: str) -> str:
    # what os.fsdecode makes of a byte that is no UTF-8: shown as the byte it is
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xdc00:02x}"
    return char.encode("unicode_escape").decode("ascii")


def tell(line: str, stream: TextIO | None = None, keep: str = "") -> None:
    """Print a line for people, escaped by `printable`, on `stream` (None: stderr)."""
    print(printable(line, keep), file=stream or sys.stderr, flush=True)


def verbatim(text: object) -> str:
    """Return a text from outside for a message: escaped, and its backquotes make nothing a setting."""
    return printable(text).replace("`", _VERBATIM_BACKQUOTE)


def _one_line(text: str) -> str:
    """Return a message of several lines (a library's error inside ours has some) as one, cut if need be."""
    if "\n" in text:
        text = "; ".join(part.strip() for part in text.split("\n") if part.strip()).replace(":;", ":")
    if len(text) > _MAX_CHARACTERS:
        text = f"{text[:_MAX_CHARACTERS]} ... ({len(text) - _MAX_CHARACTERS} characters more)"
    return printable(text)


def as_keyword(setting: str) -> str:
    """Return image_shape as image_shape: how Python code and configuration files spell a setting."""
    return setting


def spell_settings(message: str, spelling: Callable[[str], str] = as_keyword) -> str:
    """Replace every `setting` of a message by what `spelling` makes of its name."""
    spelled = _SETTING.sub(lambda match: spelling(match[1]), message)
    return spelled.replace(_VERBATIM_BACKQUOTE, "`")


class ImgclsError(Exception):
    """Base of all errors that are shown as one line, without a traceback."""

    exit_status = 1

    @property
    def message(self) -> str:
        """The message with its settings between backquotes: for putting it inside another message."""
        return super().__str__()  # past our own, which spells

    def __str__(self) -> str:
        return self.spelled(as_keyword)

    def spelled(self, spelling: Callable[[str], str]) -> str:
        """Return the message in one line that is safe to print, its settings as `spelling` writes them."""
        return _one_line(spell_settings(self.message, spelling))


class UsageError(ImgclsError):
    """The command, a flag, a configuration key or an argument is wrong: nothing was started."""

    exit_status = 2  # as argparse and most tools have it


class RunError(ImgclsError):
    """The run could not continue (no space, a NaN loss, a prefix in use); what was saved before is good."""


class DataError(ImgclsError):
    """A file does not hold what it should.

    `path` names the file, `offset` the byte where the trouble was found (None: the file as a whole).
    """

    def __init__(self, path: object, reason: str, offset: int | None = None) -> None:
        self.path = str(path)
        self.reason = reason
        self.offset = offset
        location = verbatim(path) if offset is None else f"{verbatim(path)} at byte {offset}"
        super().__init__(f"{location}: {reason}")


#: more names than this are not listed in an error
_MAX_LISTED = 30
#: how many names are offered for a misspelled one, and how similar they must be (0 to 1; difflib's default is
#: 0.6)
_MAX_CLOSE = 3
_MIN_LIKENESS = 0.5


def nearest(name: str, choices: Iterable[str]) -> list[str]:
    """Return the choices most similar to `name` whatever the case, at most three, the best first."""
    by_lower_case = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=_MAX_CLOSE, cutoff=_MIN_LIKENESS)
    return [by_lower_case[choice] for choice in close]


def unknown(subject: str, name: str, choices: Iterable[str], meant: str | None = None) -> UsageError:
    """Return the error for a name that is not among `choices`, with what there is (of many: the nearest).

    `subject` says what the name is for. `meant` is the right name where it is known from elsewhere, such as
    another toolkit's word for the same thing.
    """
    choices = list(choices)
    close = nearest(name, choices)
    guess = meant or (close[0] if close else "")
    hint = f"did you mean {guess}? " if guess else ""
    if len(choices) <= _MAX_LISTED:
        there = f"there is {', '.join(close + [choice for choice in choices if choice not in close])}"
    else:
        there = f"nearest are {', '.join(close)}" if len(close) > 1 else "--help lists them all"
    return UsageError(f"{subject} {verbatim(name)} is not known: {hint}{there}")


def reason(error: OSError | ValueError) -> str:
    """Return what the system says of a failed call, in lower case, to stand behind "cannot write PATH: ".

    A ValueError is what `open` raises for a name with a zero byte.
    """
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "no space left on the device"  # one wording, whatever the C library calls it
    return verbatim((getattr(error, "strerror", None) or str(error)).lower())


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the name of its class where it has none.

    Libraries add stack traces and advice below it. OpenCV puts its source file first: its `err` is the
    sentence alone.
    """
    text = getattr(error, "err", None) or str(error)
    return verbatim(next(iter(str(text).strip().splitlines()), type(error).__name__))


class LostDataError(RunError):
    """A file that was good when the run began is gone, or a part of it: its samples cannot be left out.

    `offset` is the byte that was requested.
    """

    def __init__(self, path: object, reason: str, offset: int) -> None:
        self.path = str(path)
        self.offset = offset
        super().__init__(f"{verbatim(path)} at byte {offset}: {reason}")


class Stopped(RunError):
    """The user or the system asked for an end, and the run ended in good order."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status  # 128 and the signal's number, as in a shell: 130 for Ctrl-C
