"""How this command was called: the words to type for calling it, or another of our commands, once more.

For the lines that a run ends with ("resume: ..."), which are there to be pasted. Nothing here starts a
process.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path


def typed_command(argv: Sequence[str], prog: str) -> list[str]:
    """Return the words of this command line: how the program was called, and its arguments `argv`.

    Where `argv` is not the end of the command line, `main` was called from Python: the name `prog` has to do.
    """
    num_words = len(sys.orig_argv) - len(argv)
    if num_words < 1 or sys.orig_argv[num_words:] != list(argv):
        return [prog, *argv]
    return [*_program(sys.orig_argv[:num_words]), *argv]


def installed_command(command: str) -> list[str]:
    """Return how another command of ours, such as imgcls-predict, is called from where this one was."""
    if shutil.which(command):
        return [command]
    # without its folder in PATH an environment's command is called by its path
    beside = Path(sys.executable).with_name(command)
    if beside.is_file():
        return [_as_typed(str(beside))]
    # a checkout that no one installed
    root = Path(__file__).resolve().parents[2]
    return ["env", f"PYTHONPATH={root}", _short(sys.executable), "-m", "imgcls",
            command.removeprefix("imgcls-")]


def _program(words: Sequence[str]) -> list[str]:
    """Return how the program was called, of what the interpreter was called with: python -m imgcls train."""
    interpreter, *arguments = words
    # A script that was called by itself: its first line leads to the interpreter that it was given to.
    if len(arguments) == 1 and os.access(arguments[0], os.X_OK):
        named = _interpreter_of(arguments[0])
        if named and shutil.which(named) == shutil.which(interpreter):
            return [_short(arguments[0])]
    return [_short(interpreter), *arguments]


def _interpreter_of(script: str) -> str:
    """Return what a script's first line calls: python3 for #!/usr/bin/env python3, "" without such a line."""
    try:
        with open(script, "rb") as stream:
            line = os.fsdecode(stream.readline(1000))  # a program may be of any size and have no line at all
    except OSError:
        return ""
    return line[2:].split()[-1] if line.startswith("#!") and line[2:].strip() else ""


def _short(path: str) -> str:
    """Return the name of a program alone where a shell finds the same one by it, else the path."""
    name = os.path.basename(path)
    found = shutil.which(name)
    if path == name and found:
        return name
    return name if found and os.path.exists(path) and os.path.samefile(found, path) else _as_typed(path)


def _as_typed(path: str) -> str:
    """Return a path as a shell takes it for one: with a slash, and from the current folder where it is below
    it."""
    relative = os.path.relpath(path) if os.path.isabs(path) else path
    path = relative if not relative.startswith(os.pardir) else path
    return path if os.sep in path else os.path.join(os.curdir, path)
