"""Show how runs went, ours or MXNet's: a page with charts, or the numbers as a table, CSV or JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from imgcls.cli._run import run_main
from imgcls.config.command_line import parse
from imgcls.config.flags import flag, positional
from imgcls.report import tables
from imgcls.report.find import PAGE, find_runs
from imgcls.report.history import Run
from imgcls.report.run_page import run_page
from imgcls.storage.atomic import write_bytes

NAME = "imgcls-report"
EXAMPLES = """examples:
  imgcls-report model/mnist                       the run with this prefix, as model/mnist-report.html
  imgcls-report model/a model/b --output ab.html  two runs side by side, what differs in their settings marked
  imgcls-report train.log                         a log of MXNet's, of any version
  imgcls-report model/                            all runs of a folder
  imgcls-report model/mnist --format text         the numbers here; csv and json are for programs
"""


@dataclass(frozen=True)
class PageConfig:
    """Report"""

    runs: tuple[str, ...] = positional("a prefix, a log file, a metrics.jsonl, a folder of them; - is stdin",
                                       metavar="RUN", takes="several")
    format: str = flag("html", "page, table for people, or numbers for programs",
                       choices=("html", "text", "csv", "json"))
    output: str = flag("", "file to write; - is stdout (a page: beside the run, everything else: stdout)",
                       metavar="FILE", short="-o")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; the path of a page that was written goes to stdout."""
    return run_main(_start, argv, NAME, PageConfig)


def _start(argv: Sequence[str]) -> int:
    (args,) = parse(argv, PageConfig, prog=NAME, usage="[flags] RUN ...", examples=EXAMPLES)
    runs = find_runs(args.runs)
    formats = {"html": run_page, "csv": lambda runs: tables.as_csv(runs).encode(),
               "json": lambda runs: tables.as_json(runs).encode(),
               "text": lambda runs: tables.as_text(runs).encode()}
    content = formats[args.format](runs)
    output = args.output or (_beside(runs) if args.format == "html" else "-")
    if output == "-":
        # written as bytes: a terminal's encoding may not have all characters of a class name
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return 0
    write_bytes(output, content)
    print(output)
    return 0


def _beside(runs: Sequence[Run]) -> str:
    """Return where a page goes that nobody named a file for: to its run, of several to this folder."""
    if len(runs) > 1 or not runs[0].origin:
        return "report.html"
    return runs[0].origin.removesuffix("-metrics.jsonl").removesuffix(".log") + PAGE
