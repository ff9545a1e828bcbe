"""Find what a user means by a run: a prefix, a log, a metrics.jsonl, or a folder of them."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from imgcls.errors import DataError, UsageError, reason, verbatim
from imgcls.report.history import Run
from imgcls.report.lines import bounded_lines
from imgcls.report.metrics_file import add_meta, read_metrics
from imgcls.report.mxnet_log import read_log
from imgcls.storage.paths import AnyPath, to_path
from imgcls.storage.reading import open_read

METRICS, META, PAGE = "-metrics.jsonl", "-meta.json", "-report.html"
#: what may follow a prefix: a file of a run names the run
_ENDINGS = (METRICS, META, PAGE, "-symbol.json", ".params", ".states")
#: runs on one page: more lines than this cannot be distinguished
MAX_RUNS = 50
#: meta data of a hundred thousand classes has a few megabytes
_MAX_META_BYTES = 64 << 20


class _NotARun(DataError):
    """The file could be read, but holds no training."""


def find_runs(texts: Sequence[str]) -> list[Run]:
    """Return the runs that these arguments mean, each under another name.

    UsageError for what is not there and for more than fit on a page, DataError for a log without epochs.
    """
    runs = [run for text in texts for run in _runs_of(text)]
    runs = list({run.origin: run for run in runs}.values())  # named twice, shown once
    if len(runs) > MAX_RUNS:
        raise UsageError(f"{len(runs)} runs: at most {MAX_RUNS} fit on a page; name some of them")
    # the last part of the path, and all of it where two share that
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            run.name = run.origin.removesuffix(METRICS)
    return runs


def read_run(path: AnyPath | None) -> Run:
    """Return the run that a metrics.jsonl or a log holds; None is standard input.

    DataError for a file that cannot be read or holds no run.
    """
    if path is None:
        run = _read(sys.stdin.buffer, "stdin", is_metrics=None)
        if not run.epochs and not run.points:
            raise _NotARun("stdin", "holds no epoch")
        return run
    try:
        with open_read(path) as stream:
            is_metrics = path.name.endswith(".jsonl") or None
            run = _read(stream, path.name.removesuffix(METRICS), is_metrics=is_metrics)
    except OSError as error:
        raise DataError(path, reason(error)) from error
    if not run.epochs and not run.points:
        raise _NotARun(path, "holds no epoch: neither lines of MXNet's logs nor of metrics.jsonl")
    run.origin = str(path)
    if path.name.endswith(METRICS):
        with contextlib.suppress(FileNotFoundError):
            add_meta(run, read_meta(path.with_name(path.name.removesuffix(METRICS) + META)))
    return run


def _read(stream: BinaryIO, name: str, *, is_metrics: bool | None) -> Run:
    """Return the run; with `is_metrics` None the first line decides: one of metrics.jsonl begins with {."""
    lines = bounded_lines(stream)
    # looked at first, and then read like the others
    first = next(lines, b"")
    if is_metrics is None:
        is_metrics = first.lstrip().startswith(b"{")

    def all_lines() -> Iterator[bytes]:
        yield first
        yield from lines

    return read_metrics(name, all_lines()) if is_metrics else read_log(name, all_lines())


def read_settings(run: Run) -> dict[str, Any]:
    """Return the settings of a run as its meta data have them.

    UsageError where there are none, or where the run was not trained on files.
    """
    meta: dict[str, Any] = {}
    if run.origin.endswith(METRICS):
        with contextlib.suppress(FileNotFoundError):
            meta = read_meta(to_path(run.origin.removesuffix(METRICS) + META))
    settings = meta.get("config")
    if not isinstance(settings, dict):
        raise UsageError(f"`images`: {verbatim(run.name)} has no {META}, which says what it was trained on")
    # arrays of a program, and random noise, cannot be read again
    if meta.get("command") == "imgcls.fit" or settings.get("benchmark"):
        raise UsageError(f"`images`: {verbatim(run.name)} was not trained on files")
    return {str(name): value for name, value in settings.items()}


def read_meta(path: AnyPath) -> dict[str, Any]:
    """Return the meta data, {} where they are damaged, since the run's numbers can be shown without them.

    FileNotFoundError where there are none.
    """
    try:
        with open_read(path) as stream:
            content = json.loads(stream.read(_MAX_META_BYTES))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _runs_of(text: str) -> list[Run]:
    """Return the runs that an argument means."""
    # - is stdin, as for tar and cat
    if text == "-":
        return [read_run(None)]
    path = to_path(text, "RUN")
    if not path.is_dir():
        return [read_run(_file_of(text, path))]
    # A folder may hold logs of all kinds; of a metrics.jsonl the name says what it is.
    found = sorted((child for child in path.iterdir() if child.name.endswith((METRICS, ".log"))),
                   key=lambda child: _natural(child.name))
    runs = []
    for child in found:
        with contextlib.suppress(_NotARun):
            runs.append(read_run(child))
    if not runs:
        raise UsageError(f"RUN {verbatim(text)}: the folder holds no run: no PREFIX{METRICS}, no log")
    return runs


def _natural(name: str) -> list[tuple[int, str]]:
    """Return what to sort names by so that run2 comes before run10."""
    # of longer numbers the first 18 digits are compared
    return [(int(part[:18]), "") if part.isascii() and part.isdigit() else (-1, part)
            for part in re.split(r"([0-9]+)", name)]


def _file_of(text: str, path: AnyPath) -> AnyPath:
    """Return the file that a prefix, one of its files or a log means."""
    ending = next((ending for ending in _ENDINGS if path.name.endswith(ending)), "")
    # of a checkpoint's files only this one holds epochs; any other file is taken for a log
    if path.is_file() and (not ending or ending == METRICS):
        return path
    prefix = path.name.removesuffix(ending)
    # PREFIX-0001.params: the epoch is removed as well
    if ending in (".params", ".states") and prefix[-5:-4] == "-" and prefix[-4:].isdigit():
        prefix = prefix[:-5]
    metrics = path.with_name(prefix + METRICS)
    if metrics.is_file():
        return metrics
    raise UsageError(f"RUN {verbatim(text)}: there is no such log or folder, and no "
                     f"{verbatim(metrics)}")
