"""Show how runs went, ours or MXNet's: a page with charts, or the numbers as a table, CSV or JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgcls.cli._run import loading_torch, run_main
from imgcls.config.command_line import parse
from imgcls.config.flags import flag, positional
from imgcls.errors import UsageError, verbatim
from imgcls.report import find, tables
from imgcls.report.find import METRICS, find_runs
from imgcls.report.history import Run
from imgcls.report.run_page import run_page
from imgcls.storage.atomic import write_bytes

if TYPE_CHECKING:
    from imgcls.report.sheet import Sample

NAME = "imgcls-report"
EXAMPLES = """examples:
  imgcls-report model/mnist                       the run with this prefix, as model/mnist-report.html
  imgcls-report model/a model/b --output ab.html  two runs side by side, what differs in their settings marked
  imgcls-report train.log                         a log of MXNet's, of any version
  imgcls-report model/                            all runs of a folder
  imgcls-report model/mnist --images 24           with training images, as they were cut and mirrored
  imgcls-report model/mnist --format text         the numbers here; csv and json are for programs
"""


@dataclass(frozen=True)
class PageConfig:
    """Report"""

    runs: tuple[str, ...] = positional("a prefix, a log file, a metrics.jsonl, a folder of them; - is stdin",
                                       metavar="RUN", takes="several")
    format: str = flag("html", "page, charts as a picture, table, or numbers for programs",
                       choices=("html", "png", "text", "csv", "json"))
    images: int = flag(0, "training images to show, as the network got them and as they are; the data must "
                       "be where the run found it", metavar="N", minimum=0, maximum=500)
    sheet: str = flag("", "write only these images (16 if not given), as a PNG", metavar="FILE")
    output: str = flag("", "file to write; - is stdout (pages and pictures: beside the run, else: stdout)",
                       metavar="FILE", short="-o")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; the path of a page that was written goes to stdout."""
    return run_main(_start, argv, NAME, PageConfig)


def _start(argv: Sequence[str]) -> int:
    (args,) = parse(argv, PageConfig, prog=NAME, usage="[flags] RUN ...", examples=EXAMPLES)
    # a flag is never ignored in silence
    if args.images and args.format != "html" and not args.sheet:
        raise UsageError(f"`images` {args.images}: is for `format` html, or for `sheet`")
    if args.output and args.sheet:
        raise UsageError(f"`output` {verbatim(args.output)}: has no effect with `sheet`, which names a file "
                         "itself")
    runs = find_runs(args.runs)
    if args.sheet:
        return _write_sheet(runs, args)
    images = _images_html(runs, args.images) if args.images and args.format == "html" else ""
    if args.format == "html":
        content = run_page(runs, images=images)
    elif args.format == "png":
        from imgcls.report.chart_pixels import charts_png  # OpenCV takes a while to load

        content = charts_png(runs)
    else:
        table = {"csv": tables.as_csv, "json": tables.as_json, "text": tables.as_text}[args.format]
        content = table(runs).encode("utf-8", "surrogateescape")
    output = args.output or (_beside(runs, args.format) if args.format in ("html", "png") else "-")
    if output == "-":
        # written as bytes: a terminal's encoding may not have all characters of a class name
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return 0
    write_bytes(output, content)
    print(output)
    return 0


def _write_sheet(runs: Sequence[Run], args: PageConfig) -> int:
    from imgcls.report import sheet

    if len(runs) > 1:
        raise UsageError(f"`sheet` {verbatim(args.sheet)}: shows the images of one run, not of {len(runs)}")
    samples, _ = _samples(runs[0], args.images or 16)
    write_bytes(args.sheet, sheet.as_png(samples))
    print(args.sheet)
    return 0


def _images_html(runs: Sequence[Run], count: int) -> str:
    from imgcls.report import sheet

    return "".join(sheet.as_html(*_samples(run, count)) for run in runs)


def _samples(run: Run, count: int) -> tuple[list[Sample], str]:
    """Return the first training images of a run, made with its own settings and seed, and their title."""
    settings = find.read_settings(run)
    with loading_torch():
        from imgcls.config import lookup, resolve
        from imgcls.report.sheet import training_samples
    module = lookup.module("datasets", str(settings.get("dataset", "")), "`dataset`")
    # settings that this version does not have are another version's: images do not depend on them
    known = {name: value for name, value in settings.items() if name in resolve.FIELDS}
    config = resolve.build(module.DEFAULTS, known)
    source = module.load(config.data).train
    return training_samples(source, config, count), f"{run.name}, {source.description}"


def _beside(runs: Sequence[Run], extension: str) -> str:
    """Return the default path of a page: beside its run; in the current folder for several runs or stdin."""
    if len(runs) > 1 or not runs[0].origin:
        return f"report.{extension}"
    return runs[0].origin.removesuffix(METRICS).removesuffix(".log") + f"-report.{extension}"
