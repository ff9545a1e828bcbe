#!/usr/bin/env python3
"""Hold the code to its size limits: what a reader can take in at a time, and how much of it is explained.

    python scripts/limits.py              # the whole checkout; status 1 if a limit is broken
    python scripts/limits.py imgcls/data  # one folder, while working on it

Prints every broken limit as `file:line: what`, then the figures. It stands beside ruff, which has no rule for
the length of a file or a function. Tests are not held to it: a table of cases may be long.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: what is read as code; the tests are left out
FOLDERS = ("imgcls", "scripts", "tools", "benchmarks", "examples")

#: about what can be read at one sitting
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60  # the docstring is not counted: a long explanation is no fault
MAX_CONSTRUCTOR_PARAMETERS = 12  # of a written __init__: a dataclass of settings has a field per flag
MAX_LINE_LENGTH = 110
MIN_COMMENT_PERCENT = 8
MIN_DOCUMENTED_PERCENT = 80  # of public classes, functions and methods

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Figures:
    """What was counted in all files together, and the limits that single places break."""

    num_files: int = 0
    num_lines: int = 0
    num_comments: int = 0
    num_public: int = 0
    num_documented: int = 0
    broken: list[str] = field(default_factory=list)


def check_file(path: Path, figures: Figures) -> None:
    """Add one file to the figures and note every place in it that is over a limit."""
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    tree = ast.parse(source)
    name = path.relative_to(ROOT)
    figures.num_files += 1
    figures.num_lines += len(lines)
    # Empty lines count as lines: the share is of what a reader scrolls through.
    figures.num_comments += count_comment_lines(source)
    if len(lines) > MAX_FILE_LINES:
        figures.broken.append(f"{name}: {len(lines)} lines, at most {MAX_FILE_LINES}")
    figures.broken += [f"{name}:{number}: {len(line)} characters, at most {MAX_LINE_LENGTH}"
                       for number, line in enumerate(lines, 1) if len(line) > MAX_LINE_LENGTH]
    figures.broken += [f"{name}:{problem}" for node in ast.walk(tree) if isinstance(node, Function)
                       for problem in check_function(node)]
    # A property or method of a public class is public; whatever begins with _ is the author's own.
    # Private functions may do without a docstring where the name says all.
    for node in public_definitions(tree):
        figures.num_public += 1
        figures.num_documented += ast.get_docstring(node) is not None


def check_function(node: Function) -> Iterator[str]:
    """Yield what is too large about a function, nested functions counted as its lines."""
    # From `def` on: decorators are short, and a long list of them is a table.
    num_lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node) is not None:
        docstring = node.body[0]
        # Explaining more must never break a limit.
        num_lines -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
    if num_lines > MAX_FUNCTION_LINES:
        yield f"{node.lineno}: {node.name} has {num_lines} lines, at most {MAX_FUNCTION_LINES}"
    if node.name == "__init__":
        args = node.args
        num_parameters = len(args.posonlyargs) + len(args.args) + len(args.kwonlyargs) - 1  # without self
        if num_parameters > MAX_CONSTRUCTOR_PARAMETERS:
            yield (f"{node.lineno}: a constructor of {num_parameters} parameters, "
                   f"at most {MAX_CONSTRUCTOR_PARAMETERS}")


def public_definitions(scope: ast.Module | ast.ClassDef) -> Iterator[Function | ast.ClassDef]:
    """Yield the public classes and functions of a module, and the public methods of those classes."""
    for node in scope.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node)


def count_comment_lines(source: str) -> int:
    """Return the number of lines with a comment, alone or behind code; a # inside a string is none."""
    # With the tokenizer and not a search for "#", which also finds those inside strings.
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return len({token.start[0] for token in tokens if token.type == tokenize.COMMENT})


def check_totals(figures: Figures) -> str:
    """Note the limits that the files break together; return the figures in a line."""
    comments = 100 * figures.num_comments / max(figures.num_lines, 1)
    # a folder without public names has left none undocumented
    documented = 100 * figures.num_documented / figures.num_public if figures.num_public else 100.0
    # Over all files together: a table of numbers needs no comments, a protocol needs many.
    if comments < MIN_COMMENT_PERCENT:
        figures.broken.append(f"{comments:.1f} % of the lines have a comment, "
                              f"at least {MIN_COMMENT_PERCENT} %")
    if documented < MIN_DOCUMENTED_PERCENT:
        figures.broken.append(f"{documented:.0f} % of the public names have a docstring, "
                              f"at least {MIN_DOCUMENTED_PERCENT} %")
    return (f"{figures.num_files} files, {figures.num_lines} lines, {comments:.1f} % with a comment, "
            f"{documented:.0f} % of {figures.num_public} public names documented")


def main(arguments: list[str]) -> int:
    """Check the named files and folders, or all code; return the exit status."""
    paths = [Path(argument).resolve() for argument in arguments] or [ROOT / folder for folder in FOLDERS]
    figures = Figures()
    for path in paths:
        # sorted, so that two runs print the same list
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            check_file(file, figures)
    totals = check_totals(figures)
    for problem in figures.broken:
        print(problem)
    print(f"{totals}; limits broken: {len(figures.broken)}")
    return 1 if figures.broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
