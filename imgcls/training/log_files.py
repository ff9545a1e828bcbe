"""The files that a run writes line by line: `--log-file`, and PREFIX-metrics.jsonl for programs.

Behind a URL both are local files that are copied there after every epoch and at the end.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from imgcls.config.sections import ReportConfig
from imgcls.errors import RunError, UsageError, reason, verbatim
from imgcls.storage.atomic import write_bytes
from imgcls.storage.paths import to_path
from imgcls.storage.uploads import MirroredFile
from imgcls.storage.urls import url_scheme


class _Handler(logging.FileHandler):
    """A handler that keeps an error of the disk: logging's own prints a traceback for every line."""

    #: what went wrong last, "" for nothing
    problem: str = ""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self.problem = f"cannot write {verbatim(self.baseFilename)}: {reason(error)}"
        else:
            super().handleError(record)


class LogFile:
    """`log_file` in the format of MXNet's first scripts: a time and `Node[rank]` before each message."""

    def __init__(self, file: MirroredFile, rank: int) -> None:
        """Open the file for appending; RunError where it cannot be."""
        self._file = file
        path = file.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handler = _Handler(path, encoding="utf-8")
        except OSError as error:
            raise RunError(f"`log_file` {verbatim(path)}: {reason(error)}") from error
        self._handler.setFormatter(logging.Formatter(f"%(asctime)-15s Node[{rank}] %(message)s"))
        # A logger of our own, outside the tree of logging.getLogger: the root logger belongs to the program.
        self._logger = logging.Logger("imgcls.run")
        self._logger.addHandler(self._handler)

    def write(self, message: str) -> None:
        """Append a line."""
        self._logger.info(message)

    def sync(self) -> str:
        """Copy the file to its URL; return what went wrong since the last call, or ""."""
        problem, self._handler.problem = self._handler.problem, ""
        return problem or self._file.sync()

    def close(self) -> str:
        """Close the file and copy it a last time; return what went wrong since the last `sync`, or ""."""
        problem = self._handler.problem
        try:
            self._handler.close()  # tries once more to write what could not be written
        except OSError as error:
            problem = f"cannot write {verbatim(self._handler.baseFilename)}: {reason(error)}"
        return self._file.close() or problem


def open_log_file(config: ReportConfig, rank: int) -> LogFile | None:
    """Return the file that `log_file` names; None without it. UsageError for `log_dir` alone."""
    if config.log_dir and not config.log_file:
        raise UsageError(f"`log_dir` {config.log_dir}: needs the `log_file` to write there")
    if not config.log_file:
        return None
    if config.log_dir and not url_scheme(config.log_file):
        path = to_path(config.log_dir, "`log_dir`") / config.log_file
    else:
        path = to_path(config.log_file, "`log_file`")
    return LogFile(MirroredFile(path), rank)


class MetricsFile:
    """PREFIX-metrics.jsonl: a JSON object for every progress line and, twice, for every epoch."""

    def __init__(self, path: str) -> None:
        self._file = MirroredFile(to_path(path))

    def resume(self, update: int) -> list[str]:
        """Begin the file, or continue with it; return the lines that stay.

        Lines from after `update` are dropped: the run will write them again.
        """
        kept = []
        if update and self._file.target.exists():
            for content in self._file.target.read_bytes().split(b"\n"):
                try:
                    line = content.decode()  # json itself takes bytes that are no UTF-8
                    if json.loads(line)["update"] <= update:
                        kept.append(line)
                except (ValueError, KeyError, TypeError, RecursionError):
                    continue  # a line that a kill cut short, or the end of the last one
        write_bytes(self._file.path, "".join(line + "\n" for line in kept).encode())
        return kept

    def write(self, fields: dict[str, Any]) -> None:
        """Append an object; RunError where the disk is full."""
        try:
            # opened for each line: what is written is seen at once, and nothing is lost in a buffer by a kill
            with self._file.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(fields) + "\n")
        except OSError as error:
            raise RunError(f"cannot write {self._file.path}: {reason(error)}") from error

    def sync(self) -> str:
        """Copy the file to its URL; return what went wrong, or ""."""
        return self._file.sync()

    def close(self) -> str:
        """Copy the file a last time; return what went wrong, or ""."""
        return self._file.close()
