"""Read metrics.jsonl, and the settings in the meta.json beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from imgcls.report.history import Run, add_record, fill_elapsed

#: characters of one setting that a page shows
_MAX_SETTING = 500
_MAX_SETTINGS = 300


def read_metrics(name: str, lines: Iterable[bytes]) -> Run:
    """Return the run that these lines of metrics.jsonl hold; a note counts those that are no JSON."""
    run = Run(name)
    add_lines(run, lines)
    return run


def add_lines(run: Run, lines: Iterable[bytes | str]) -> None:
    """Add lines of metrics.jsonl to a run."""
    num_bad = 0
    for line in lines:
        # an empty line is no damage
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        # RecursionError: 10^5 brackets. The last line of a run that was killed may be half of one.
        except (ValueError, RecursionError):
            num_bad += 1
            continue
        if isinstance(record, dict):
            add_record(run, record)
        else:
            num_bad += 1
    if num_bad:
        run.note(f"{num_bad:,} line{'s' if num_bad > 1 else ''} could not be read")
    fill_elapsed(run)


def add_meta(run: Run, meta: Mapping[str, Any]) -> None:
    """Add the command and the settings in a checkpoint's meta data to a run; malformed ones are left out."""
    config = meta.get("config")
    if isinstance(config, dict):
        pairs = list(config.items())[:_MAX_SETTINGS]
        run.settings = {str(key)[:_MAX_SETTING]: _as_text(value) for key, value in pairs}
        # True is an int for Python, and no number of epochs
        planned = config.get("num_epochs")
        if isinstance(planned, int) and not isinstance(planned, bool) and planned > 0:
            run.num_epochs = planned
    for key, value in (("imgcls", meta.get("imgcls")), *_items(meta.get("versions"))):
        if isinstance(value, str):
            run.settings[f"version of {key}"] = _as_text(value)
    if isinstance(meta.get("command"), str):
        run.command = str(meta["command"])[:20_000]  # the file may be anybody's


def _items(value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return []
    return [(str(key)[:_MAX_SETTING], item) for key, item in list(value.items())[:20]]


def _as_text(value: Any) -> str:
    # lists and the like as JSON: a page is read by people
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= _MAX_SETTING else text[:_MAX_SETTING] + "..."
