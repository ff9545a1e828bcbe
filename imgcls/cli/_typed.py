"""How this command was called: the words to type to call it, or another of our commands, again.

For the lines that a run ends with ("resume: ..."), which are meant for copying. Nothing here starts a
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

    Where `argv` is not the end of the command line, `main` was called from Python: `prog` is used instead.
    """
    num_words = len(sys.orig_argv) - len(argv)
    if num_words < 1 or sys.orig_argv[num_words:] != list(argv):
        return [prog, *argv]
    return [*_program(sys.orig_argv[:num_words]), *argv]


def installed_command(command: str) -> list[str]:
    """Return how another command of ours, such as imgcls-predict, is called from where this one was."""
    if shutil.which(command):
        return [command]
    # where the folder of an environment is not in PATH, its commands are called by their path
    beside = Path(sys.executable).with_name(command)
    if beside.is_file():
        return [_as_typed(str(beside))]
    # a checkout that no one installed
    root = Path(__file__).resolve().parents[2]
    return ["env", f"PYTHONPATH={root}", _short(sys.executable), "-m", "imgcls",
            command.removeprefix("imgcls-")]


def _program(words: Sequence[str]) -> list[str]:
    """Return the words that called the program, out of those of the interpreter: python -m imgcls train."""
    interpreter, *arguments = words
    # A script may have been called directly: then its first line names the interpreter that runs here.
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
    """Return the bare name of a program where a shell finds the same file by it, else its path."""
    name = os.path.basename(path)
    found = shutil.which(name)
    if path == name and found:
        return name
    return name if found and os.path.exists(path) and os.path.samefile(found, path) else _as_typed(path)


def _as_typed(path: str) -> str:
    """Return a path as it is typed in a shell: with a slash in it, and relative if it is below the current
    folder."""
    relative = os.path.relpath(path) if os.path.isabs(path) else path
    path = relative if not relative.startswith(os.pardir) else path
    return path if os.sep in path else os.path.join(os.curdir, path)
