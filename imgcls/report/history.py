"""What is known of a run, epoch by epoch: filled from metrics.jsonl, from a log, or while it trains.

Everything here has a bound, since a log may be of any length and by anybody: the epochs, the metrics of one,
the points between epochs. What is beyond it is left out; for epochs a note says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: epochs, and metrics of one, that are kept: hardly a training has more
MAX_EPOCHS = 20_000
MAX_METRICS = 16
MAX_NAME_CHARACTERS = 80
#: points between epochs; when there are more, every second one is dropped
MAX_POINTS = 4096
#: larger numbers of an epoch or a batch are none
_MAX_COUNT = 10**12
#: larger numbers are no measurement, and would break the arithmetic of an axis
_MAX_VALUE = 1e30
#: keys of a record that are not metrics
_FIELDS = ("kind", "epoch", "batch", "update", "speed", "loss", "lr", "seconds", "elapsed_s", "time")


@dataclass
class Epoch:
    """One epoch, numbered from 0 as in logs; None is what was not measured.

    `lr` is that of its last step, `speed` is in images per second, `seconds` of its training alone;
    `elapsed_s` counts from the start of the run to its end.
    """

    index: int
    train: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    loss: float | None = None
    lr: float | None = None
    speed: float | None = None
    seconds: float | None = None
    elapsed_s: float | None = None

    def metrics(self, names: Sequence[str]) -> list[float | None]:
        """Return the value in training and that in validation of each name in turn."""
        return [split.get(name) for name in names for split in (self.train, self.validation)]


@dataclass(frozen=True)
class Point:
    """A progress line: `batch` batches of `epoch` are done, both from 0; metrics since the line before."""

    epoch: int
    batch: int
    speed: float | None
    loss: float | None
    lr: float | None
    metrics: Mapping[str, float]


@dataclass
class Run:
    """A run under the name that the page shows, and the settings it had, as text."""

    name: str
    origin: str = ""
    epochs: dict[int, Epoch] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    command: str = ""
    #: what a reader of the page should know: lines that were left out, values that were estimated
    notes: list[str] = field(default_factory=list)
    #: how many epochs were planned, None where that is not recorded
    num_epochs: int | None = None
    #: seconds from its start to its last record
    elapsed_s: float = 0.0
    _stride: int = 1  # every how many-th point is kept
    _num_points: int = 0

    def epoch(self, index: int) -> Epoch | None:
        """Return the epoch, a new one where it is not there yet; None below 0 or where there are too many."""
        found = self.epochs.get(index)
        if found is None:
            if index < 0 or len(self.epochs) >= MAX_EPOCHS:
                self.note(f"only {MAX_EPOCHS:,} epochs are shown")
                return None
            found = self.epochs[index] = Epoch(index)
        return found

    def add_point(self, point: Point) -> None:
        """Keep a progress line; where there are very many, only every so many-th."""
        self._num_points += 1
        # 1 at first: every point is kept until there are too many
        if self._num_points % self._stride:
            return
        self.points.append(point)
        if len(self.points) > MAX_POINTS:
            # the newest of each pair stays, so that the end of the run is always there
            self.points = self.points[::-1][::2][::-1]
            self._stride *= 2

    def forget_from(self, index: int) -> None:
        """Drop this epoch and all after it: the run was resumed there and repeats them."""
        # a list first: a dict must not change during iteration
        for later in [number for number in self.epochs if number >= index]:
            del self.epochs[later]
        self.points = [point for point in self.points if point.epoch < index]

    def note(self, text: str) -> None:
        """Add a note once."""
        if text not in self.notes:
            self.notes.append(text)

    def in_order(self) -> list[Epoch]:
        """Return the epochs by their numbers."""
        return [self.epochs[index] for index in sorted(self.epochs)]

    def metric_names(self) -> list[str]:
        """Return the metrics of all epochs, in the order in which they were first seen."""
        names: dict[str, None] = {}
        for epoch in self.epochs.values():
            names.update(dict.fromkeys(epoch.train))
            names.update(dict.fromkeys(epoch.validation))
        # a dict keeps the order of its keys, which a set does not
        return list(names)
    def batches_per_epoch(self) -> int:
        """Return how many batches an epoch has, as far as the progress lines show it."""
        return max((point.batch + 1 for point in self.points), default=1)

    def best(self) -> tuple[Epoch, float, str] | None:
        """Return (epoch, accuracy, split) of the highest validation accuracy, None where there is none.

        Of training accuracy where there was no validation. Of several equal epochs the first one: those after
        it gained nothing.
        """
        for split in ("validation", "train"):
            # training accuracy counts only where there was no validation at all
            rated = [(epoch, getattr(epoch, split).get("accuracy")) for epoch in self.in_order()]
            rated = [(epoch, value) for epoch, value in rated if value is not None and math.isfinite(value)]
            if rated:
                return *max(rated, key=lambda pair: pair[1]), split
        return None


def add_record(run: Run, record: Mapping[str, Any]) -> None:
    """Add an object of metrics.jsonl; what is not a number where one should be is passed over."""
    index, kind = record.get("epoch"), record.get("kind")
    # bool is an int for Python
    if not isinstance(index, int) or isinstance(index, bool) or kind not in ("batch", "train", "validation"):
        return
    if index > _MAX_COUNT:
        return
    metrics = {name: value for name, value in clean_metrics(record).items() if name not in _FIELDS}
    elapsed_s = number(record.get("elapsed_s"))
    run.elapsed_s = elapsed_s or run.elapsed_s
    if kind == "batch":
        # a progress line between epochs; the other kinds are of an epoch that is over
        batch = record.get("batch")
        if index >= 0 and isinstance(batch, int) and 0 <= batch <= _MAX_COUNT:
            run.add_point(Point(index, batch, number(record.get("speed")), number(record.get("loss")),
                                number(record.get("lr")), metrics))
        return
    epoch = run.epoch(index)
    if epoch is None:
        return
    if kind == "validation":
        epoch.validation = metrics
    else:
        epoch.train = metrics
        epoch.loss, epoch.lr = number(record.get("loss")), number(record.get("lr"))
        epoch.speed, epoch.seconds = number(record.get("speed")), number(record.get("seconds"))
    epoch.elapsed_s = elapsed_s or epoch.elapsed_s


def clean_metrics(record: Mapping[Any, Any]) -> dict[str, float]:
    """Return the entries that are numbers: at most `MAX_METRICS`, and as many more as a record has fields."""
    metrics = {}
    for name, value in record.items():
        measured = number(value)
        if measured is not None and len(metrics) < MAX_METRICS + len(_FIELDS):
            metrics[str(name)[:MAX_NAME_CHARACTERS]] = measured
    return metrics


def number(value: Any) -> float | None:
    """Return a measured value as a float; None for what is no number, or larger than any measurement.

    nan stays nan; infinities are None.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        measured = float(value)
    except OverflowError:  # an integer of more than 308 digits
        return None
    return measured if math.isnan(measured) or abs(measured) <= _MAX_VALUE else None


def fill_elapsed(run: Run) -> None:
    """Estimate `elapsed_s` where it is not recorded: the sum of the training times of the epochs so far."""
    total = 0.0
    for epoch in run.in_order():
        total += epoch.seconds or 0.0
        if epoch.elapsed_s is None and total:
            epoch.elapsed_s = total
        total = max(total, epoch.elapsed_s or 0.0)
    run.elapsed_s = run.elapsed_s or total
