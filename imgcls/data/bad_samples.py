"""How many damaged samples a run may leave out before it is stopped, and the log that names them.

A source finds damage when it is opened, a loader when it decodes. Both follow `on_bad`: "stop" raises the
first problem; "skip" leaves the samples out while they are few.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from imgcls.errors import DataError

#: this fraction of the samples may be damaged before a run is stopped, and this number in any case
MAX_BAD_FRACTION, MIN_BAD_LIMIT = 0.01, 10
#: a label above this is no class number: float32 cannot tell it from its neighbours
_MAX_LABEL = 1 << 24
#: damaged samples that are named one by one
_MAX_NAMED = 5

_log = logging.getLogger(__name__)


def is_class_number(labels: np.ndarray) -> np.ndarray:
    """Return bool, as `labels`: which of them are whole and in the range of class numbers."""
    # the bound is false for what is not finite, too
    return (labels == np.floor(labels)) & (np.abs(labels) <= _MAX_LABEL)


def is_class(label: float) -> bool:
    """Return `is_class_number` of one label."""
    return abs(label) <= _MAX_LABEL and label == int(label)


def max_bad_samples(count: int) -> int:
    """Return how many of `count` samples may be damaged before a run is stopped."""
    # A handful is allowed in the smallest set: one percent of a hundred samples is a single bad file.
    return max(MIN_BAD_LIMIT, int(MAX_BAD_FRACTION * count))


def check_bad_samples(problems: Sequence[DataError], count: int, description: str, on_bad: str) -> None:
    """Raise the first problem with `on_bad` "stop", or a DataError where too many of `count` samples are bad.

    With `on_bad` "count", which is for commands that look for damage, nothing is raised.
    """
    if on_bad == "count":
        return
    if problems and on_bad == "stop":
        raise problems[0]
    if len(problems) > max_bad_samples(count):
        raise too_many_bad(problems, count, description)


def too_many_bad(problems: Sequence[DataError], count: int, description: str) -> DataError:
    """Return the error that ends a run in spite of `on_bad` skip."""
    # `message`, not `str`: the code that shows the whole error spells the settings in it
    return DataError(description, f"{len(problems)} of {count} samples are damaged, too many to leave "
                                  f"out; the first: {problems[0].message}")


class BadSampleLog:
    """The damaged samples that a loader has found, each counted once; the first few are named in the log."""

    def __init__(self, *, description: str, num_samples: int, limit: int, on_bad: str) -> None:
        """More than `limit` of `num_samples` end the run; `description` names the source."""
        self._description = description
        self._num_samples = num_samples
        self._limit = limit
        self._on_bad = on_bad
        self._problems: dict[int, DataError] = {}

    @property
    def indices(self) -> list[int]:
        """The samples that were damaged, in order."""
        return sorted(self._problems)

    def record(self, problems: Sequence[tuple[int, DataError]]) -> None:
        """Count the problems of one batch: (index of the sample, what is wrong).

        Raises the first one with `on_bad` "stop", and a DataError when more than `limit` samples are damaged.
        To be called for the batches in their order.
        """
        # Threads note problems in any order. They are sorted so that a run always ends with the same message.
        for index, problem in sorted(problems, key=lambda pair: pair[0]):
            if self._on_bad == "stop":
                raise problem
            if index in self._problems:  # found in an earlier epoch
                continue
            self._problems[index] = problem
            if len(self._problems) <= _MAX_NAMED:
                # The error itself and not its text: the commands' handler spells its settings as flags.
                _log.warning("left out: %s", problem)
            if len(self._problems) > self._limit:
                raise too_many_bad(list(self._problems.values()), self._num_samples, self._description)
