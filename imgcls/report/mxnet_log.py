"""Read the logs of MXNet's scripts, of any generation, and of ours: lines in, a `Run` out.

The lines of all versions, each behind any prefix (`INFO:root:`, `2016-07-08 16:06:09,463 Node[0] `, a
launcher's):

    Epoch[3] Batch [40] Speed: 801.25 samples/sec  Train-accuracy=0.41         up to 0.9.5, one per metric
    Epoch[3] Batch [40] Speed: 801.25 samples/sec  accuracy=0.41  top_k...     0.10 to 1.3
    Epoch[3] Batch [20-40] Speed: ... accuracy=0.41                            from 1.4 on, and ours
    Iter[3] Batch [40] Speed: ...                                              without metrics
    Epoch[3] Train-accuracy=0.43, Epoch[3] Time cost=61.2, Epoch[3] Validation-accuracy=0.40
    Iteration[3] Train-accuracy=0.43                                           before the first release
    Update[471]: Change learning rate to 5.00000e-04
    start with arguments Namespace(batch_size=64, ...)

Several workers may have written one log: their values of an epoch are averaged, as MXNet's parse_log.py does.
A run that was resumed with the same log repeats epochs: the repeated ones replace those before.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from imgcls.report.history import MAX_METRICS, MAX_NAME_CHARACTERS, Point, Run, fill_elapsed, number

_NUMBER = r"([-+]?(?:nan|inf|[0-9.]+(?:e[-+]?[0-9]+)?))"
_EPOCH = re.compile(r"\b(?:Epoch|Iteration|Iter)\[(\d{1,9})\] ?(.*)", re.DOTALL)
_PROGRESS = re.compile(rf"Batch ?\[(?:\d+-)?(\d{{1,12}})\]\s*Speed: {_NUMBER} samples/sec(.*)",
                       re.IGNORECASE | re.DOTALL)
# a name has no = and no tab; nothing here can match a text in more than one way, so no line takes long
_PAIR = re.compile(rf"(?:Train-)?([^\s=]{{1,200}})={_NUMBER}", re.IGNORECASE)
_METRIC = re.compile(rf"(Train|Validation)-([^\s=]{{1,200}})={_NUMBER}", re.IGNORECASE)
_TIME_COST = re.compile(rf"Time cost={_NUMBER}", re.IGNORECASE)
_RATE = re.compile(rf"(?:Change learning rate to|learning rate arrived at|Adjust learning rate to) {_NUMBER}",
                   re.IGNORECASE)
_ARGUMENTS = "start with arguments "
# bounded repetitions: without them a quote that is never closed would be searched for to the end of the line,
# from each place anew
_ARGUMENT = re.compile(r"""(\w{1,80})=(u?'(?:[^'\\]|\\.){0,999}'|u?"(?:[^"\\]|\\.){0,999}"|"""
                       r"""\[[^\]]{0,999}\]|\([^)]{0,999}\)|[^,\s)]{0,999})""")
_MAX_ARGUMENTS = 300
#: how many resumed runs are recognised in one log
_MAX_RESUMES = 100
_CLOCK = re.compile(r"\b(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:[.,](\d{1,6}))?")
#: a date is at the beginning of its line, perhaps after the name of a host
_MAX_CLOCK_OFFSET = 80


def read_log(name: str, lines: Iterable[bytes]) -> Run:
    """Return the run that a log holds: without epochs where it is no such log."""
    reader = _Reader(name)
    for line in lines:
        reader.add(line.decode("utf-8", "replace"))  # a log in another encoding still has its numbers
    return reader.finish()


class _Mean:
    """The mean of a value that several workers log."""

    def __init__(self) -> None:
        self._total = 0.0
        self._count = 0

    def add(self, value: float | None) -> None:
        """Add a value; None, and the nan that versions up to 1.1 wrote, leave it as it is."""
        if value is not None and not math.isnan(value):
            self._total += value
            self._count += 1

    @property
    def value(self) -> float | None:
        """Return the mean, None where nothing was added."""
        return self._total / self._count if self._count else None


@dataclass
class _EpochMeans:
    """What was logged about one epoch, averaged over workers; `progress` is from its progress lines."""

    train: dict[str, _Mean] = field(default_factory=dict)
    validation: dict[str, _Mean] = field(default_factory=dict)
    progress: dict[str, _Mean] = field(default_factory=dict)
    seconds: _Mean = field(default_factory=_Mean)
    speed: _Mean = field(default_factory=_Mean)


class _Reader:
    """The state between lines: the current learning rate, what was logged about each epoch, when it began."""

    def __init__(self, name: str) -> None:
        self._run = Run(name)
        self._means: dict[int, _EpochMeans] = {}
        self._rate: float | None = None
        self._is_resuming = False  # after another start line: the next epoch is where that run begins
        self._num_resumes = 0
        self._began: datetime.datetime | None = None
        self._elapsed_before_s = 0.0  # in the runs that this one continues with
        self._elapsed_s: float | None = None

    def add(self, line: str) -> None:
        """Read a line; one that is not in MXNet's form changes nothing."""
        # nearly all lines of a log are of the first kind: the others are not looked for in them
        if match := _EPOCH.search(line):
            self._read_clock(line)
            self._add_epoch_line(int(match[1]), match[2])
        elif match := _RATE.search(line):
            self._rate = _value(match[1])
        elif _ARGUMENTS in line:
            self._start(line[line.index(_ARGUMENTS) + len(_ARGUMENTS):])
            self._read_clock(line)

    def finish(self) -> Run:
        """Return the run, with estimates where versions wrote no line of their own."""
        run = self._run
        for index, means in self._means.items():
            epoch = run.epoch(index)
            if epoch is None:
                break
            epoch.train = _values(means.train)
            epoch.validation = _values(means.validation)
            epoch.seconds, epoch.speed = means.seconds.value, means.speed.value
            # 0.7 to 0.8 had no Train- line, and 0.9 to 1.1 wrote nan there
            for name, value in _values(means.progress).items():
                if name not in epoch.train:
                    epoch.train[name] = value
                    run.note("where the log has no training metrics of an epoch, they are the mean of its "
                             "progress lines")
        fill_elapsed(run)
        return run

    def _start(self, arguments: str) -> None:
        """Read a line with all arguments: a run begins, perhaps another one in the same log."""
        run = self._run
        for match in itertools.islice(_ARGUMENT.finditer(arguments), _MAX_ARGUMENTS):
            # a log may have many such lines, each with other names
            if match[1] not in run.settings and len(run.settings) >= _MAX_ARGUMENTS:
                continue
            text = match[2].removeprefix("u") if match[2][1:2] in ("'", '"') else match[2]  # Python 2's
            run.settings[match[1]] = text[1:-1] if text[:1] in ("'", '"') else text
        # the first generation called it num_epoch
        planned = run.settings.get("num_epochs", run.settings.get("num_epoch", ""))
        run.num_epochs = int(planned) if re.fullmatch(r"[1-9]\d{0,8}", planned) else None
        # the workers of one job write this line each, before any of them has trained
        if self._means:
            self._is_resuming = self._num_resumes < _MAX_RESUMES
            self._num_resumes += 1
            # the time between two runs is no training time
            self._began = None
            self._elapsed_before_s = self._elapsed_s or 0.0
        self._rate = _value(run.settings.get("lr", ""))

    def _read_clock(self, line: str) -> None:
        """Read the time of a line that has one."""
        match = _CLOCK.search(line, 0, _MAX_CLOCK_OFFSET)
        if not match:
            return
        try:
            now = datetime.datetime.fromisoformat(f"{match[1]}T{match[2]}.{match[3] or '0':0<6}")
        except ValueError:  # the 31st of February
            return
        self._began = self._began or now
        # a clock that was set back must not give a negative time
        self._elapsed_s = self._elapsed_before_s + max((now - self._began).total_seconds(), 0.0)

    def _add_epoch_line(self, index: int, rest: str) -> None:
        # the rest of a line has one of three forms, or is not MXNet's
        progress = _PROGRESS.match(rest)
        metric = None if progress else _METRIC.match(rest)
        seconds = None if progress or metric else _TIME_COST.match(rest)
        if not (progress or metric or seconds):
            return
        if self._is_resuming:
            self._run.forget_from(index)
            self._means = {number: means for number, means in self._means.items() if number < index}
            self._is_resuming = False
        epoch = self._run.epoch(index)
        if epoch is None:
            return
        means = self._means.setdefault(index, _EpochMeans())
        epoch.elapsed_s = self._elapsed_s
        # the rate may change between the last step of an epoch and the next one's first line, but not before
        # the epoch's own lines
        epoch.lr = epoch.lr if metric and epoch.lr is not None else self._rate
        if progress:
            self._add_progress(index, means, progress)
        elif seconds:
            means.seconds.add(_value(seconds[1]))
        elif metric:
            _add_to(means.train if metric[1].lower() == "train" else means.validation, metric[2], metric[3])

    def _add_progress(self, index: int, means: _EpochMeans, match: re.Match[str]) -> None:
        batch, speed = int(match[1]), _value(match[2])
        metrics: dict[str, float] = {}
        for pair in itertools.islice(_PAIR.finditer(match[3]), MAX_METRICS):
            value = _value(pair[2])
            if value is not None:
                metrics[pair[1][:MAX_NAME_CHARACTERS]] = value
                _add_to(means.progress, pair[1], pair[2])
        # the line before, if it is of the same batch
        last = self._run.points[-1] if self._run.points else None
        # up to 0.9.5 each metric has a separate line, with the same batch and speed
        if last and (last.epoch, last.batch, last.speed) == (index, batch, speed):
            self._run.points[-1] = dataclasses.replace(last, metrics={**last.metrics, **metrics})
            return
        means.speed.add(speed)
        self._run.add_point(Point(index, batch, speed, None, self._rate, metrics))


def _add_to(means: dict[str, _Mean], name: str, text: str) -> None:
    """Add a metric of an epoch, unless it has very many already."""
    # a log may be by anybody: neither names nor their number are without end
    name = name[:MAX_NAME_CHARACTERS]
    if name in means or len(means) < MAX_METRICS:
        means.setdefault(name, _Mean()).add(_value(text))


def _values(means: dict[str, _Mean]) -> dict[str, float]:
    return {name: mean.value for name, mean in means.items() if mean.value is not None}


def _value(text: str) -> float | None:
    """Return the number that a text is, None where it is none (1.2.3)."""
    try:
        # nan is kept, so that a run that diverged looks like one; `number` takes no inf
        return number(float(text))
    except ValueError:
        return None
