"""The charts of runs: accuracy, loss, learning rate and speed, each against epochs and against time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imgcls.report import axes, svg
from imgcls.report.history import Epoch, Run

#: with more epochs the progress lines between them are not drawn
_FEW_EPOCHS = 40
#: at most so many progress lines are drawn behind the epochs
_MAX_BACKGROUND = 400
#: at most so many metrics are drawn that MXNet's scripts do not have
_MAX_OTHERS = 4
_LOSSES = ("cross-entropy", "nll-loss")

Measure = Callable[[Epoch], float | None]


@dataclass(frozen=True)
class Chart:
    """A chart in both forms, as SVG, under its title."""

    title: str
    by_epoch: str
    by_time: str


@dataclass(frozen=True)
class Plot:
    """The content of a chart against one axis, for any way of drawing it."""

    title: str
    lines: list[svg.Line]
    x: axes.Scale
    y: axes.Scale
    x_label: str
    y_label: str

    def as_svg(self) -> str:
        """Return the chart as an element of a page."""
        return svg.line_chart(self.lines, self.x, self.y, title=f"{self.title} against {self.x_label}",
                              x_label=self.x_label, y_label=self.y_label)


@dataclass(frozen=True)
class _Curve:
    """What a chart shows of each run: a value of an epoch, and the key of the same in a progress line."""

    split: str  # "training", "validation", or "" where there is but one
    measure: Measure
    point_key: str = ""


@dataclass(frozen=True)
class _Spec:
    """A chart to be drawn: its curves, and what its axes are like."""

    title: str
    unit: str
    curves: Sequence[_Curve]
    has_best: bool = False
    #: whether a value is that of a whole epoch, and then jumps
    is_step: bool = False
    may_be_log: bool = False
    starts_at_0: bool = False
    #: bounds of the axis, which it does not exceed for the sake of round ticks
    floor: float | None = None
    ceiling: float | None = None


def draw_charts(runs: Sequence[Run]) -> list[Chart]:
    """Return the charts for which any run has values, the most important first."""
    charts = [_draw(runs, spec) for spec in _specs(runs)]
    return [chart for chart in charts if chart]


def plots(runs: Sequence[Run]) -> list[Plot]:
    """Return the charts against epochs, for drawings other than the page."""
    drawn = [_plot(runs, spec, "epoch", None) for spec in _specs(runs)]
    return [plot for plot in drawn if plot]


def _specs(runs: Sequence[Run]) -> list[_Spec]:
    names = list(dict.fromkeys(name for run in runs for name in run.metric_names()))
    # with `loss` ce or nll there is a validation loss as well
    loss_name = next((name for name in _LOSSES if name in names), "")

    def loss(epoch: Epoch) -> float | None:
        return epoch.train.get(loss_name) if epoch.loss is None else epoch.loss

    specs = [_Spec(_title(name), "share of images", _both_splits(name), has_best=name == "accuracy",
                   floor=0.0, ceiling=1.0) for name in names if "accuracy" in name]
    specs.append(_Spec("Loss", "mean per image", floor=0.0, curves=[
        _Curve("validation", _metric("validation", loss_name)), _Curve("training", loss, "loss")]))
    # usually falls by powers of ten: a linear axis would show the first step only
    specs.append(_Spec("Learning rate", "learning rate", is_step=True, may_be_log=True, curves=[
        _Curve("", lambda epoch: epoch.lr, "lr")]))
    specs.append(_Spec("Speed", "images per second", starts_at_0=True, curves=[
        _Curve("", lambda epoch: epoch.speed, "speed")]))
    # metrics of someone's own script, under their own names
    others = [name for name in names if "accuracy" not in name and name not in _LOSSES]
    return specs + [_Spec(name, name, _both_splits(name)) for name in others[:_MAX_OTHERS]]


def legend(runs: Sequence[Run]) -> str:
    """Return what colours and dashes mean."""
    if len(runs) > 1:
        entries = [(run.name, f"c{number % svg.NUM_COLORS}{' again' * (number >= svg.NUM_COLORS)}")
                   for number, run in enumerate(runs)]
        entries += [("validation", ""), ("training", "dashed")]
    else:
        entries = [("validation", "c0"), ("training", "c1 dashed")]
    # drawn as the ring in the chart
    entries.append(("best validation accuracy", "ring"))
    items = []
    for name, css in entries:
        if css == "ring":
            mark = '<circle class="best" style="--c:var(--soft)" cx="15" cy="6" r="5"/>'
        else:
            # of several runs a dash has no colour of its own
            style = "" if css.startswith("c") else ' style="--c:var(--soft)"'
            mark = f'<path class="line {css}"{style} d="M1 6H29"/>'
        items.append(f'<li><svg viewBox="0 0 30 12" aria-hidden="true">{mark}</svg>{svg.escape(name)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def _both_splits(name: str) -> list[_Curve]:
    return [_Curve("validation", _metric("validation", name)),
            _Curve("training", _metric("train", name), name)]


def _metric(split: str, name: str) -> Measure:
    return lambda epoch: getattr(epoch, split).get(name)


def _title(name: str) -> str:
    """Return top_k_accuracy_5 as Top-5 accuracy."""
    if name.startswith("top_k_accuracy_"):
        return f"Top-{name.removeprefix('top_k_accuracy_')} accuracy"
    return name[:1].upper() + name[1:]


def _draw(runs: Sequence[Run], spec: _Spec) -> Chart | None:
    """Return the chart in both forms, None where there is nothing to show."""
    times = [epoch.elapsed_s or 0.0 for run in runs for epoch in run.epochs.values()]
    time_unit, unit_s = axes.time_unit(max(times, default=0.0))
    by_epoch = _plot(runs, spec, "epoch", None)
    if not by_epoch:
        return None
    # a log without times has one form only
    by_time = _plot(runs, spec, f"time ({time_unit})", unit_s) or by_epoch
    return Chart(spec.title, by_epoch.as_svg(), by_time.as_svg())


def _plot(runs: Sequence[Run], spec: _Spec, x_label: str, unit_s: float | None) -> Plot | None:
    """Return the chart against epochs or, where a unit is given, time; None where nothing is to be shown."""
    lines = [line for number in range(len(runs)) for line in _lines(runs, number, spec, unit_s)]
    if not lines:
        return None
    # without a progress line nothing was measured before the end of the first epoch
    begins_at_0 = unit_s is not None or spec.is_step or any(line.is_faint for line in lines)
    # tight: the axis ends at the last epoch
    x = axes.linear([x for line in lines for x in line.xs] + [0.0] * begins_at_0, num_ticks=7,
                    is_integer=unit_s is None, is_tight=True)
    values = [y for line in lines for y in line.ys if math.isfinite(y)] + [0.0] * spec.starts_at_0
    if spec.may_be_log and axes.suits_log(values):
        y = axes.logarithmic(values)
    else:
        # bounds are used where all values are within: a loss below 0, or an accuracy in percent, is shown too
        low, high = min(values, default=0.0), max(values, default=0.0)
        y = axes.linear(values, floor=None if spec.floor is None or low < spec.floor else spec.floor,
                        ceiling=None if spec.ceiling is None or high > spec.ceiling else spec.ceiling)
    return Plot(spec.title, lines, x, y, x_label, spec.unit)


def _lines(runs: Sequence[Run], number: int, spec: _Spec, unit_s: float | None) -> list[svg.Line]:
    """Return a run's lines: for each curve the epochs and, behind them, the progress lines."""
    run, is_alone = runs[number], len(runs) == 1
    best = run.best() if spec.has_best else None
    lines: list[svg.Line] = []
    for position, curve in enumerate(spec.curves):
        told = [(epoch, value) for epoch in run.in_order() if (value := curve.measure(epoch)) is not None]
        # a log may have the time of some lines only
        if unit_s is not None:
            told = [(epoch, value) for epoch, value in told if epoch.elapsed_s is not None]
        if not told:
            continue
        xs, ys = [_place(epoch, unit_s) for epoch, _ in told], [value for _, value in told]
        # with one run training and validation have colours of their own, with several the runs have
        color = position if is_alone else number
        between = _between_epochs(run, curve.point_key) if curve.point_key and unit_s is None else []
        if spec.is_step and between:
            # a rate may change at any step: the points between the epochs belong to the line itself
            steps = sorted({**dict(between), **dict(zip(xs, ys, strict=True))}.items())
            xs, ys = [x for x, _ in steps], [y for _, y in steps]
        elif between and (is_alone or len(run.epochs) < 3):
            lines.append(svg.Line("", [x for x, _ in between], [y for _, y in between], color, is_faint=True))
        is_rated = best and curve.split == ("training" if best[2] == "train" else best[2])
        ringed = next((i for i, (epoch, _) in enumerate(told)
                       if is_rated and best and epoch is best[0]), None)
        if is_alone:
            label = f"{curve.split} {axes.show(ys[-1])}".strip()
        else:  # only one line of each run has its name at its end, or they would hide each other
            label = run.name if not any(line.label for line in lines) else ""
        name = " ".join(filter(None, ("" if is_alone else run.name, curve.split))) or spec.title.lower()
        lines.append(svg.Line(name, xs, ys, color, label=label, best=ringed, is_step=spec.is_step,
                              is_dashed=curve.split == "training"))
    return lines


def _place(epoch: Epoch, unit_s: float | None) -> float:
    # an epoch's values are those at its end, so the first one is at 1, as its checkpoint is PREFIX-0001
    return epoch.index + 1.0 if unit_s is None else (epoch.elapsed_s or 0.0) / unit_s


def _between_epochs(run: Run, key: str) -> list[tuple[float, float]]:
    """Return a value of the progress lines against the epoch: 0 to 1 in the first one."""
    # with many epochs they would be a thick band behind a line that shows the same
    if len(run.epochs) > _FEW_EPOCHS:
        return []
    per_epoch = run.batches_per_epoch()
    told = []
    # evenly thinned, rounded up
    every = -(-len(run.points) // _MAX_BACKGROUND) or 1
    for point in run.points[::every]:
        value = getattr(point, key) if key in ("loss", "lr", "speed") else point.metrics.get(key)
        # MXNet wrote no loss, unless as a metric
        if value is None and key == "loss":
            value = next((point.metrics[name] for name in _LOSSES if name in point.metrics), None)
        if value is not None:
            told.append((point.epoch + (point.batch + 1) / per_epoch, value))
    return told
