"""The page of a run that is under way: refreshed after its epochs, for little of the run's time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from imgcls.errors import RunError, first_line
from imgcls.report.history import Run, add_record
from imgcls.report.run_page import run_page
from imgcls.storage.atomic import atomic_write
from imgcls.storage.paths import to_path

#: of the run's time so far, what making and writing pages may take
_MAX_SHARE = 0.01
#: what the first page is taken to cost, before one was made
_FIRST_COST_S = 0.01


def _write_page(path: str, page: bytes) -> None:
    # waiting for the disk takes longer than making the page, and the next epoch writes it anew
    with atomic_write(path, is_durable=False) as stream:
        stream.write(page)


class LivePage:
    """PREFIX-report.html while the run continues; atomic, so that a reader never sees half a page.

    Nothing here ends a run: what goes wrong is returned as text, once, to be told as a warning.
    """

    def __init__(self, path: str, *, clock: Callable[[], float] = time.perf_counter,
                 write: Callable[[str, bytes], None] = _write_page) -> None:
        self.path = path
        #: what was told so far; the caller fills it with what an earlier run of the prefix has left
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
        """Take in what was measured; costs next to nothing."""
        add_record(self.run, record)

    def refresh(self) -> str:
        """Write the page, unless that would take more than 1 % of the run's time; return what went wrong.

        Epochs of less than a second are not worth a page each, nor is a store that takes seconds for it.
        """
        if self._spent_s + self._last_cost_s > _MAX_SHARE * (self._clock() - self._began):
            return ""
        done, planned = len(self.run.epochs), self.run.num_epochs
        of = f" of {planned:,}" if planned else ""
        return self._make(f"epoch {done:,}{of} is done, training continues; reload this page to see more")

    def close(self) -> str:
        """Write the page a last time, whatever that takes; return what went wrong."""
        # where the last try found no server, another would keep the program waiting for nothing
        return "" if self._has_failed or not self.run.epochs else self._make("")

    def _make(self, state: str) -> str:
        began = self._clock()
        problem = ""
        try:
            self._write(self.path, run_page([self.run], state=state))
        except RunError as error:
            problem = str(error)
        # a mistake in drawing must not cost anybody their training; it is told, and so it will be mended
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
