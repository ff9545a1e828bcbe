"""The page of a run that is under way: written again after epochs, for at most 1 % of the run's time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from imgcls.errors import RunError, first_line
from imgcls.report.history import Run, add_record
from imgcls.report.run_page import run_page
from imgcls.storage.atomic import atomic_write
from imgcls.storage.paths import to_path

#: share of the run's time so far that making and writing pages may take
_MAX_SHARE = 0.01
#: seconds that the first page is assumed to take
_FIRST_COST_S = 0.01


def _write_page(path: str, page: bytes) -> None:
    # waiting for the disk takes longer than making the page, and the next epoch writes it anew
    with atomic_write(path, is_durable=False) as stream:
        stream.write(page)


class LivePage:
    """PREFIX-report.html while the run continues; atomic, so that a reader never sees half a page.

    Nothing here ends a run: an error is returned as text, once, to be logged as a warning.
    """

    def __init__(self, path: str, *, clock: Callable[[], float] = time.perf_counter,
                 write: Callable[[str, bytes], None] = _write_page) -> None:
        self.path = path
        #: what was recorded so far; the caller adds the records of an earlier run with this prefix
        self.run = Run(to_path(path).name.removesuffix("-report.html"))
        self._clock = clock
        self._write = write
        self._began = clock()
        self._spent_s = 0.0
        self._last_cost_s = _FIRST_COST_S
        self._has_failed = False
        #: whether the page is there as it should be
        self.is_written = False
        self._has_told = False

    def add(self, record: Mapping[str, Any]) -> None:
        """Add a record of what was measured; this takes hardly any time."""
        add_record(self.run, record)

    def refresh(self) -> str:
        """Write the page, unless that would take more than 1 % of the run's time; return an error or "".

        Epochs of less than a second do not get a page each, nor do those whose storage takes seconds for it.
        """
        if self._spent_s + self._last_cost_s > _MAX_SHARE * (self._clock() - self._began):
            return ""
        done, planned = len(self.run.epochs), self.run.num_epochs
        of = f" of {planned:,}" if planned else ""
        return self._make(f"epoch {done:,}{of} is done, training continues; reload this page to see more")

    def close(self) -> str:
        """Write the page a last time, however long that takes; return an error or ""."""
        # where the last try failed, perhaps for want of a server, another would only delay the end
        return "" if self._has_failed or not self.run.epochs else self._make("")

    def _make(self, state: str) -> str:
        began = self._clock()
        problem = ""
        try:
            self._write(self.path, run_page([self.run], state=state))
        except RunError as error:
            problem = str(error)
        # a mistake in drawing must not end a training; it is reported, so that it can be corrected
        except Exception as error:
            problem = f"cannot make {self.path}: {type(error).__name__}: {first_line(error)}"
        self._has_failed = bool(problem)
        self.is_written = not problem
        self._last_cost_s = self._clock() - began
        self._spent_s += self._last_cost_s
        if not problem or self._has_told:
            return ""
        self._has_told = True
        return f"{problem}; the run continues without its page"
