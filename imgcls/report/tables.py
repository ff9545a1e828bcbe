"""The numbers of runs as text for a terminal, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from imgcls.errors import printable
from imgcls.report import axes
from imgcls.report.history import Epoch, Run

#: columns of every table, after those of the metrics
_COLUMNS = ("loss", "lr", "speed", "seconds", "elapsed_s")


def as_csv(runs: Sequence[Run]) -> str:
    """Return a row for each epoch of each run; epochs count from 1, as checkpoints do."""
    names = _names(runs)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    # escaped: JSON can hold half of a pair of surrogates, which no file can
    metrics = [f"{split}-{printable(name)}" for name in names for split in ("train", "validation")]
    writer.writerow(["run", "epoch", *metrics, *_COLUMNS])
    for run in runs:
        for epoch in run.in_order():
            values = epoch.metrics(names) + [getattr(epoch, column) for column in _COLUMNS]
            # all digits of a number, and an empty cell for what was not measured
            texts = ["" if value is None else repr(value) for value in values]
            writer.writerow([safe_cell(run.name), epoch.index + 1, *texts])
    return stream.getvalue()


def as_json(runs: Sequence[Run]) -> str:
    """Return a JSON list of runs, each with its epochs and settings; nan and infinity are null."""
    return json.dumps([_plain(run) for run in runs], indent=1, allow_nan=False) + "\n"


def as_text(runs: Sequence[Run]) -> str:
    """Return a table of each run with aligned columns; `*` marks the best epoch."""
    return "\n".join(_text(run) for run in runs)


def _text(run: Run) -> str:
    names = run.metric_names()
    # short headers: a terminal has 80 columns
    best = run.best()
    rows = [["epoch", *(f"{split}-{name}" for name in names for split in ("train", "val")),
             "loss", "lr", "images/s", "time", "elapsed"]]
    for epoch in run.in_order():
        mark = "*" if best and epoch is best[0] else " "
        metrics = map(axes.show, epoch.metrics(names))
        rate = "" if epoch.lr is None else f"{epoch.lr:.6g}"
        rows.append([f"{epoch.index + 1}{mark}", *metrics, axes.show(epoch.loss), rate,
                     axes.show(epoch.speed), axes.show_time(epoch.seconds), axes.show_time(epoch.elapsed_s)])
    rows = [[printable(cell) for cell in row] for row in rows]
    # a column in which nothing was measured is left out, such as the loss in a log of MXNet's, which has none
    used = [i for i in range(len(rows[0])) if any(row[i].strip() for row in rows[1:])]
    widths = {i: max(len(row[i]) for row in rows) for i in used}
    lines = ["  ".join(f"{row[i]:>{widths[i]}}" for i in used).rstrip() for row in rows]
    notes = [f"note: {printable(note)}" for note in run.notes]
    return "\n".join([printable(run.name), *(lines if run.epochs else ["no epoch"]), *notes, ""])


def _names(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.metric_names()))


def safe_cell(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula."""
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _plain(run: Run) -> dict[str, Any]:
    best = run.best()
    return {"name": run.name, "origin": run.origin, "command": run.command,
            "best": {"epoch": best[0].index + 1, "accuracy": best[1], "split": best[2]} if best else None,
            "epochs": [_plain_epoch(epoch) for epoch in run.in_order()],
            "settings": run.settings, "notes": run.notes}


def _plain_epoch(epoch: Epoch) -> dict[str, Any]:
    return {"epoch": epoch.index + 1,
            "train": {name: _finite(value) for name, value in epoch.train.items()},
            "validation": {name: _finite(value) for name, value in epoch.validation.items()},
            **{column: _finite(getattr(epoch, column)) for column in _COLUMNS}}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
