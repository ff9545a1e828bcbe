"""What a run with a prefix leaves beside its checkpoints, for people and programs: numbers and their page.

    PREFIX-metrics.jsonl   one JSON object for every progress line, two for every epoch
    PREFIX-report.html     the same as charts, unless switched off (`report/live.py`)
    PREFIX-tensorboard/    the same for TensorBoard, if asked for
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from imgcls.config.sections import ReportConfig
from imgcls.errors import RunError, UsageError, reason, verbatim
from imgcls.formats import tensorboard
from imgcls.report.history import Run
from imgcls.report.live import LivePage
from imgcls.report.metrics_file import add_lines, add_meta
from imgcls.storage.paths import to_path
from imgcls.storage.remote import RemotePath
from imgcls.training.log_files import MetricsFile

#: keys of a record that are numbers to look at; "update" is the step they are at
_NOT_SCALARS = ("kind", "epoch", "batch", "update", "elapsed_s")


class RunFiles:
    """The files of one run; made by the process that writes them, filled record by record.

    Only metrics.jsonl is worth ending a run for, on a full disk; of the others the methods return what went
    wrong, one line each.
    """

    def __init__(self, prefix: str, config: ReportConfig) -> None:
        self._metrics = MetricsFile(f"{prefix}-metrics.jsonl")
        self._page = LivePage(f"{prefix}-report.html") if config.report_page else None
        self._events = EventFile(f"{prefix}-tensorboard") if config.tensorboard else None
        self._began = time.perf_counter()
        self._elapsed_before_s = 0.0
        self._sync_problem = ""

    def begin(self, update: int, meta: Mapping[str, Any]) -> None:
        """Begin the files, or continue with them after this update; `meta` is the run's meta data."""
        # what came after this update will come again
        lines = self._metrics.resume(update)
        self._began = time.perf_counter()
        # what an earlier run of the prefix measured is shown as before
        history = self._page.run if self._page else Run("")
        add_lines(history, lines)
        add_meta(history, meta)
        self._elapsed_before_s = history.elapsed_s
        if self._events:
            self._events.begin(update)

    def add(self, record: Mapping[str, Any]) -> None:
        """Write a record; RunError where the disk is full."""
        elapsed_s = self._elapsed_before_s + time.perf_counter() - self._began
        record = {**record, "elapsed_s": round(elapsed_s, 3)}
        # the file first: it is what a page can be made of again
        self._metrics.write(record)
        if self._page:
            self._page.add(record)
        if self._events:
            self._events.add(record)

    @property
    def page(self) -> str:
        """The path of the page, "" where there is none."""
        return self._page.path if self._page and self._page.is_written else ""

    def epoch_over(self) -> str:
        """Refresh the page; return what went wrong."""
        # a server that has just been waited for in vain is not waited for twice
        return self._page.refresh() if self._page and not self._sync_problem else ""

    def sync(self) -> str:
        """Copy what is behind a URL; return what went wrong."""
        self._sync_problem = self._metrics.sync()
        return self._sync_problem

    def close(self) -> list[str]:
        """Write the page a last time and copy what is behind a URL; return what went wrong."""
        problem = self._metrics.close()
        return [problem, self._page.close() if self._page and not problem else ""]


class EventFile:
    """TensorBoard's event file of this run, in a separate folder; a resumed run begins another."""

    def __init__(self, folder: str) -> None:
        path = to_path(folder)
        if isinstance(path, RemotePath):
            raise UsageError("`tensorboard`: event files are written on this machine only, and "
                             f"{verbatim(path)} is a URL")
        self._folder = path
        self._path = path / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"

    def begin(self, update: int) -> None:
        """Write the beginning of the file; RunError where that cannot be."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the folder {verbatim(self._folder)}: {reason(error)}") from error
        # not the clock that measures: TensorBoard shows the time of day
        now = time.time()
        # TensorBoard drops what it has from this step on: the numbers of `update` are of the session before
        first = tensorboard.session_record(now, update + 1)
        self._append(tensorboard.version_record(now) + first)

    def add(self, record: Mapping[str, Any]) -> None:
        """Write the numbers of a record under the name of its split: train/accuracy."""
        # in the order of the record, as metrics are listed everywhere
        values = {f"{record['kind']}/{name}": float(value) for name, value in record.items()
                  if name not in _NOT_SCALARS}
        self._append(tensorboard.scalars_record(time.time(), int(record["update"]), values))

    def _append(self, data: bytes) -> None:
        try:
            # Opened for each record: TensorBoard reads along, and nothing waits in a buffer for a kill.
            with self._path.open("ab") as stream:
                stream.write(data)
        except OSError as error:
            raise RunError(f"cannot write {verbatim(self._path)}: {reason(error)}") from error
