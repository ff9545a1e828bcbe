"""The charts of runs as one picture, for a paper or a message: the plots of the page, drawn by OpenCV."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from imgcls.data.opencv import cv2
from imgcls.report import pictures
from imgcls.report.history import Run
from imgcls.report.page import LIGHT
from imgcls.report.run_charts import Plot, plots
from imgcls.report.svg import Line

#: a chart, its margins, and the space above all charts, in pixels
_WIDTH, _HEIGHT, _HEAD = 720, 440, 46
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 190, 40, 56
_COLUMNS = 2
_GRID, _AXIS = (222, 218, 216), (110, 100, 92)
_DASH, _SPACE = 9, 6
#: OpenCV is given coordinates as whole numbers of sixteenths of a pixel
_SHIFT = 4


def charts_png(runs: Sequence[Run]) -> bytes:
    """Return all charts of the runs as a PNG, two beside each other."""
    # against epochs only: a picture has no switch
    drawn = [plot_pixels(plot) for plot in plots(runs)]
    # rounded up
    num_rows = -(-len(drawn) // _COLUMNS)
    # a run of which nothing is known yet has no chart, and still a picture with its name
    picture = np.full((_HEAD + num_rows * _HEIGHT, _COLUMNS * _WIDTH, 3), 255, np.uint8)
    for number, chart in enumerate(drawn):
        top, left = _HEAD + number // _COLUMNS * _HEIGHT, number % _COLUMNS * _WIDTH
        picture[top:top + _HEIGHT, left:left + _WIDTH] = chart
    pictures.write(picture, " | ".join(run.name for run in runs)[:120], 24, 32, 0.7)
    return pictures.encoded(picture, ".png")


def plot_pixels(plot: Plot) -> np.ndarray:
    """Return one chart as pixels (H, W, 3) in BGR."""
    picture = np.full((_HEIGHT, _WIDTH, 3), 255, np.uint8)
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    for tick, label in zip(plot.y.ticks, plot.y.labels, strict=True):
        y = round(_TOP + height * (1 - plot.y.place(tick)))
        cv2.line(picture, (_LEFT, y), (_LEFT + width, y), _GRID, 1)
        # letters are about 8 pixels wide at this size: right-aligned before the axis
        pictures.write(picture, label, _LEFT - 8 - 8 * len(label), y + 5, 0.42)
    for tick, label in zip(plot.x.ticks, plot.x.labels, strict=True):
        x = round(_LEFT + width * plot.x.place(tick))
        cv2.line(picture, (x, _TOP + height), (x, _TOP + height + 5), _AXIS, 1)
        pictures.write(picture, label, x - 4 * len(label), _TOP + height + 22, 0.42)
    cv2.line(picture, (_LEFT, _TOP + height), (_LEFT + width, _TOP + height), _AXIS, 1)
    pictures.write(picture, f"{plot.title} ({plot.y_label})", _LEFT, 26, 0.55)
    pictures.write(picture, plot.x_label, _LEFT + width // 2 - 20, _HEIGHT - 12, 0.45)

    # the faint lines first, below the others
    for line in sorted(plot.lines, key=lambda line: not line.is_faint):
        _draw_line(picture, plot, line)
    _write_labels(picture, plot)
    return picture


def _draw_line(picture: np.ndarray, plot: Plot, line: Line) -> None:
    color = _color(line.color, 0.35 if line.is_faint else 1.0)
    places = [_place(plot, line, i) for i in line.points()]
    for before, after in itertools.pairwise(places):
        # a gap where a value was not a number
        if before is None or after is None:
            continue
        corner = (before[0], after[1])
        # a value that is logged at the end of an interval is that of the whole interval
        steps = [(before, corner), (corner, after)] if line.is_step else [(before, after)]
        for begin, end in steps:
            for a, b in _dashes(begin, end) if line.is_dashed else [(begin, end)]:
                cv2.line(picture, _fixed(a), _fixed(b), color, 1 if line.is_faint else 2, cv2.LINE_AA, _SHIFT)
    if line.best is not None and (best := _place(plot, line, line.best)):
        cv2.circle(picture, _fixed(best), 7 << _SHIFT, color, 2, cv2.LINE_AA, _SHIFT)
    # a single epoch is a point, and no line
    for place in places if len(places) <= 1 else []:
        if place:
            cv2.circle(picture, _fixed(place), 3 << _SHIFT, color, -1, cv2.LINE_AA, _SHIFT)


def _write_labels(picture: np.ndarray, plot: Plot) -> None:
    """Write each line's label beside its end; labels that would overlap are moved down."""
    ends = []
    for line in plot.lines:
        seen = [place for i in line.points()[-1:] if (place := _place(plot, line, i))]
        if line.label and seen:
            ends.append((seen[0][1], line))
    free_from = 0.0
    for end_y, line in sorted(ends, key=lambda end: end[0]):
        y = max(end_y, free_from)
        free_from = y + 18
        at = _WIDTH - _RIGHT + 12
        cv2.line(picture, (at, round(y)), (at + 18, round(y)), _color(line.color), 2, cv2.LINE_AA)
        pictures.write(picture, line.label[:22], at + 24, round(y) + 5, 0.42)


def _place(plot: Plot, line: Line, index: int) -> tuple[float, float] | None:
    """Return where in the picture a point is (x, y), None for one that cannot be drawn."""
    x, y = line.xs[index], line.ys[index]
    if not math.isfinite(x) or not math.isfinite(y) or (plot.y.is_log and y <= 0):
        return None
    return (_LEFT + (_WIDTH - _LEFT - _RIGHT) * plot.x.place(x),
            _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - plot.y.place(y)))


def _dashes(begin: tuple[float, float],
            end: tuple[float, float]) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Return the dashes of a line; OpenCV draws none."""
    length = math.dist(begin, end)
    # a piece shorter than a dash is drawn as it is: it has no gap
    if length <= _DASH:
        return [(begin, end)]

    def at(distance: float) -> tuple[float, float]:
        part = min(distance / length, 1.0)
        return begin[0] + (end[0] - begin[0]) * part, begin[1] + (end[1] - begin[1]) * part

    starts = np.arange(0, length, _DASH + _SPACE).tolist()
    return [(at(start), at(start + _DASH)) for start in starts]


def _fixed(place: tuple[float, float]) -> tuple[int, int]:
    return round(place[0] * (1 << _SHIFT)), round(place[1] * (1 << _SHIFT))


def _color(number: int, strength: float = 1.0) -> tuple[int, int, int]:
    """Return a colour of the page's light theme in BGR, mixed with white where it is faint."""
    text = LIGHT[number % len(LIGHT)]
    red, green, blue = (int(text[i:i + 2], 16) for i in (1, 3, 5))
    return (round(255 - (255 - blue) * strength), round(255 - (255 - green) * strength),
            round(255 - (255 - red) * strength))
