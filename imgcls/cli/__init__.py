"""`imgcls <command>`, `imgcls-<command>` and `python -m imgcls <command>` are the same.

Every file here is a command, except those that start with `_`, which are helpers.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from pathlib import Path

from imgcls.cli._run import run_main
from imgcls.config import lookup
from imgcls.config.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Call the `main` of the command that the first argument names; return its exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    # without a command the overview is printed: that is no mistake
    if not args or args[0] in ("-h", "--help", "--version"):
        return run_main(_tell_about, args, "imgcls")
    return start(args[0], args[1:], name="imgcls")


def _tell_about(args: Sequence[str]) -> None:
    print(f"imgcls {__version__}" if args[:1] == ["--version"] else _overview())


def start(command: str, argv: Sequence[str] | None = None, *, name: str = "", **options: str) -> int:
    """Run a command by its name and return its exit status; the scripts in tools/ and scripts/ call it.

    `options` are keyword arguments of the command's `main`. Errors before that is called begin with `name`.
    """
    # inside run_main: an unknown command, or a library that is missing, ends in one line like all mistakes
    return run_main(lambda args: lookup.module("cli", command, "command").main(args, **options), argv,
                    name or f"imgcls-{command}")


def _overview() -> str:
    """Return what `imgcls --help` prints: the commands with the first sentence of their files."""
    lines = ["usage: imgcls <command> [--flag value ...]", "", "commands:"]
    for name in lookup.names("cli"):
        # parsed and not imported: importing a command loads numpy or more
        source = (Path(__file__).parent / f"{name.replace('-', '_')}.py").read_text(encoding="utf-8")
        # the first paragraph of a file is one sentence about what the command does
        first = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].replace("\n", " ")
        lines.append(f"  {name:<15}{first}")
    lines += ["", "imgcls <command> -h lists the main flags, --help all; imgcls-<command> is the same."]
    return "\n".join(lines)
