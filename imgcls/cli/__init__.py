"""`imgcls <command>` is `imgcls-<command>` is `python -m imgcls <command>`; every file here is a command."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from imgcls.cli._run import run_main
from imgcls.config import lookup


def main(argv: Sequence[str] | None = None) -> int:
    """Find the command's file and hand the rest of the words to its `main`."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["--version"]:
        from imgcls.config.version import __version__

        print(f"imgcls {__version__}")
        return 0
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0
    return run_main(lambda rest: lookup.module("cli", rest[0], "command").main(rest[1:]), words, "imgcls")


def _overview() -> str:
    """What `imgcls --help` prints: the commands with the first sentence of their files."""
    import ast
    from pathlib import Path

    lines = ["usage: imgcls <command> [--flag value ...]", "", "commands:"]
    for name in lookup.names("cli"):
        source = (Path(__file__).parent / f"{name.replace('-', '_')}.py").read_text(encoding="utf-8")
        first = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].replace("\n", " ")
        lines.append(f"  {name:<14}{first}")
    return "\n".join([*lines, "", "imgcls <command> --help tells more; imgcls-<command> is the same command."])
