"""`imgcls <command>` is `imgcls-<command>` is `python -m imgcls <command>`; every file here is a command."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from pathlib import Path

from imgcls.cli._run import run_main
from imgcls.config import lookup
from imgcls.config.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Find the command's file and hand the rest of the words to its `main`."""
    args = list(sys.argv[1:] if argv is None else argv)
    # no command is a question, and no mistake
    if not args or args[0] in ("-h", "--help", "--version"):
        return run_main(_tell_about, args, "imgcls")
    return start(args[0], args[1:], name="imgcls")


def _tell_about(args: Sequence[str]) -> None:
    print(f"imgcls {__version__}" if args[:1] == ["--version"] else _overview())


def start(command: str, argv: Sequence[str] | None = None, *, name: str = "", **options: str) -> int:
    """Run a command by its name and return its exit status; the scripts in tools/ and scripts/ call it.

    `options` are those of the command's `main`, `name` is who speaks until the command itself does.
    """
    # inside run_main: an unknown command, or a library that is missing, ends in one line like all mistakes
    return run_main(lambda args: lookup.module("cli", command, "command").main(args, **options), argv,
                    name or f"imgcls-{command}")


def _overview() -> str:
    """Return what `imgcls --help` prints: the commands with the first sentence of their files."""
    lines = ["usage: imgcls <command> [--flag value ...]", "", "commands:"]
    for name in lookup.names("cli"):
        # read and not imported: a command brings numpy or more along
        source = (Path(__file__).parent / f"{name.replace('-', '_')}.py").read_text(encoding="utf-8")
        # the first paragraph of a file is one sentence about what the command does
        first = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].replace("\n", " ")
        lines.append(f"  {name:<14}{first}")
    lines += ["", "imgcls <command> -h lists the main flags, --help all; imgcls-<command> is the same."]
    return "\n".join(lines)
