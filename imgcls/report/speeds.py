"""Speeds that were measured as an aligned table for people, as CSV and as JSON: `imgcls-benchmark`."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from imgcls.errors import printable
from imgcls.report.tables import safe_cell


@dataclass(frozen=True)
class Speed:
    """One row: what was measured, how large its batches were, and what each repeat gave.

    `images_per_s` and `seconds`, per batch, have a number for each repeat; they are empty where nothing could
    be measured, and `note` says why. `name` is a network or a source of data, `shape` its images (C,H,W),
    `threads` those of a loader (None for a network), `peak_bytes` the peak memory meanwhile, None where the
    system does not report it.
    """

    name: str
    shape: str
    batch_size: int
    dtype: str
    threads: int | None = None
    images_per_s: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()
    parameters: int = 0
    peak_bytes: int | None = None
    note: str = ""

    @property
    def median(self) -> float | None:
        """Return the images per second, the median of the repeats; None without any."""
        # of the repeats: one in which another program ran does not count
        return statistics.median(self.images_per_s) if self.images_per_s else None

    @property
    def ms_per_batch(self) -> float | None:
        """Return the milliseconds per batch, the median of the repeats; None without any."""
        return 1000 * statistics.median(self.seconds) if self.seconds else None

    @property
    def spread(self) -> float | None:
        """Return half of the distance between the slowest and the fastest repeat, as a part of the median.

        None where there is only one.
        """
        if len(self.images_per_s) < 2 or not self.median:
            return None
        # half the range: of three to five repeats a standard deviation would suggest more precision than
        # there is
        return (max(self.images_per_s) - min(self.images_per_s)) / 2 / self.median


def as_text(rows: Sequence[Speed], device: str) -> str:
    """Return a table with aligned columns, the device above it."""
    if not rows:
        return f"{printable(device)}\nnothing was measured\n"
    is_loader = rows[0].threads is not None
    names = ["data", "threads"] if is_loader else ["network", "dtype"]
    head = [names[0], "input", "batch", names[1], "images/s", "spread", "ms/batch",
            *([] if is_loader else ["parameters"]), "memory"]
    table = [head, *(_cells(row, is_loader) for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    lines = []
    for cells, note in zip(table, ["", *(row.note for row in rows)], strict=True):
        # the name on the left, numbers on the right
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        padded[0] = cells[0].ljust(widths[0])
        # a row that was not measured has the reason in place of its figures
        lines.append("  ".join([*padded[:4], note] if note else padded).rstrip())
    return "\n".join([printable(device), *lines, ""])


def _cells(row: Speed, is_loader: bool) -> list[str]:
    speed = "" if row.median is None else _digits(row.median)
    spread = "" if row.spread is None else f"+-{100 * row.spread:.1f} %"
    milliseconds = "" if row.ms_per_batch is None else _digits(row.ms_per_batch)
    memory = "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:,.0f} MB"
    parameters = [] if is_loader else [f"{row.parameters:,}" if row.parameters else ""]
    kind = str(row.threads) if is_loader else row.dtype
    return [printable(row.name), row.shape, str(row.batch_size), kind, speed, spread, milliseconds,
            *parameters, memory]


def _digits(number: float) -> str:
    # a measurement of this kind has no more than four digits
    if number >= 1000:
        return f"{number:,.0f}"
    return f"{number:.4g}"


def as_csv(rows: Sequence[Speed], device: str, mode: str) -> str:
    """Return a line for each row; what was not measured is empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    plain = [_plain(row) for row in rows]
    names = list(_plain(Speed("", "", 0, "")))
    writer.writerow(["mode", "device", *names])
    for row in plain:
        row["repeats"] = " ".join(map(repr, row["repeats"]))
        cells = ["" if row[name] is None else row[name] for name in names]
        writer.writerow([mode, safe_cell(device), *(safe_cell(cell) if isinstance(cell, str) else cell
                                                   for cell in cells)])
    return stream.getvalue()


def as_json(rows: Sequence[Speed], device: str, mode: str) -> str:
    """Return an object with the device, the mode and a list of rows; what was not measured is null."""
    # allow_nan=False: NaN is no JSON, and no figure here should be one
    content = {"mode": mode, "device": device, "rows": [_plain(row) for row in rows]}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _plain(row: Speed) -> dict[str, Any]:
    """Return the figures of a row under the names that files have for them."""
    return {"name": row.name, "image_shape": row.shape, "batch_size": row.batch_size, "dtype": row.dtype,
            "threads": row.threads, "images_per_s": row.median, "repeats": list(row.images_per_s),
            "spread": row.spread, "ms_per_batch": row.ms_per_batch, "parameters": row.parameters or None,
            "peak_bytes": row.peak_bytes, "note": row.note}
