"""Charts as SVG text for a page: no library, no script, colours from the page's style sheet.

All text that comes from outside passes `escape`. A chart of any number of values has a bounded number of
points, so that a page costs the same after ten epochs and after ten thousand.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from imgcls.errors import printable
from imgcls.report.axes import Scale, show

#: the drawing in its own units: as wide as a telephone, so that text is never scaled down by much
WIDTH, HEIGHT = 420, 256
_TOP, _BOTTOM = 14, 40
#: a line is drawn through at most so many points, and a chart shows values under the mouse at so many places
MAX_POINTS, MAX_TIPS = 300, 60
#: lines with a label at their end; more could not be distinguished
MAX_LABELS = 8
#: colours in the style sheet; the ninth line has the first one's colour again
NUM_COLORS = 8
_FONT = 12
_LINE_HEIGHT = 14


def escape(text: object) -> str:
    """Return text for a page: <, >, & and quotes as entities, control characters as Python writes them."""
    return html.escape(printable(text, keep="\n"), quote=True)


@dataclass(frozen=True)
class Line:
    """A line of a chart. `color` counts the page's colours; `best` is the index of a point with a ring.

    `label` is written at its end, `name` in what the mouse shows. A faint line is background: no label, no
    marks.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    color: int
    label: str = ""
    is_dashed: bool = False
    is_faint: bool = False
    is_step: bool = False
    best: int | None = None

    def points(self) -> list[int]:
        """Return the indices that are drawn: all, or evenly chosen ones with the last and the best."""
        count = len(self.xs)
        if count <= MAX_POINTS:
            return list(range(count))
        # by place and not by value: what is left out is as likely high as low
        chosen = {round(i * (count - 1) / (MAX_POINTS - 1)) for i in range(MAX_POINTS)}
        return sorted(chosen | ({self.best} if self.best is not None else set()))


@dataclass
class _Frame:
    """Where a chart's axes are, and how values become coordinates in the drawing."""

    x: Scale
    y: Scale
    left: float
    right: float
    parts: list[str] = field(default_factory=list)

    def px(self, value: float) -> float:
        """Return the coordinate of a value of the x axis, from the left."""
        return self.left + self.x.place(value) * (self.right - self.left)

    def py(self, value: float) -> float:
        """Return the coordinate of a value of the y axis, from the top."""
        return HEIGHT - _BOTTOM - self.y.place(value) * (HEIGHT - _BOTTOM - _TOP)

    def holds(self, x: float, y: float) -> bool:
        """Return whether a point can be drawn: nan cannot, and 0 cannot on a logarithmic axis."""
        return math.isfinite(x) and math.isfinite(y) and (not self.y.is_log or y > 0)


def line_chart(lines: Sequence[Line], x: Scale, y: Scale, *, title: str, x_label: str, y_label: str,
               x_name: str = "") -> str:
    """Return a chart of lines over two axes.

    `title` is for readers who cannot see it, `x_name` ("epoch") for what the mouse shows.
    """
    labelled = [line for line in lines if line.label and len(line.xs)][:MAX_LABELS]
    # digits and lower case letters are about half as wide as high
    room = max((text_width(line.label) for line in labelled), default=0)
    # as much space on either side as the texts there need
    frame = _Frame(x, y, left=28 + max((text_width(label) for label in y.labels), default=0),
                   right=WIDTH - 12 - min(room, 130))
    _draw_axes(frame, x_label, y_label)
    # the background is drawn first
    for line in sorted(lines, key=lambda line: not line.is_faint):
        _draw_line(frame, line)
    _draw_labels(frame, labelled)
    _draw_tips(frame, lines, x_name or x_label)
    return svg("".join(frame.parts), title)


def svg(content: str, title: str, width: float = WIDTH, height: float = HEIGHT) -> str:
    """Return a drawing as an element of a page; it takes the width that there is."""
    return (f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
            f"{content}</svg>")


def text(x: float, y: float, content: str, css_class: str = "", anchor: str = "start") -> str:
    """Return text on a drawing; `anchor` is start, middle or end."""
    css = f' class="{css_class}"' if css_class else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{css}>{escape(content)}</text>'


def text_width(content: str, size: float = _FONT) -> float:
    """Return about how wide a text will be; Chinese characters are as wide as high."""
    return sum(size if ord(character) > 0x2e80 else 0.56 * size for character in content)


def _draw_axes(frame: _Frame, x_label: str, y_label: str) -> None:
    bottom = HEIGHT - _BOTTOM
    parts = frame.parts
    grid, marks = [], []
    for tick, label in zip(frame.y.ticks, frame.y.labels, strict=True):
        y = frame.py(tick)
        grid.append(f"M{frame.left:.1f} {y:.1f}H{frame.right:.1f}")
        marks.append(text(frame.left - 6, y + 4, label, anchor="end"))
    for tick, label in _without_overlap(frame):
        x = frame.px(tick)
        grid.append(f"M{x:.1f} {bottom}v4")
        marks.append(text(x, bottom + 17, label, anchor="middle"))
    parts.append(f'<path class="grid" d="{"".join(grid)}"/>'
                 f'<path class="axis" d="M{frame.left:.1f} {bottom}H{frame.right:.1f}"/>'
                 f'<g class="ticks">{"".join(marks)}</g>')
    parts.append(text((frame.left + frame.right) / 2, HEIGHT - 6, x_label, "title", "middle"))
    # turned, beside the axis: above it a long one would not fit
    middle = (_TOP + bottom) / 2
    parts.append(f'<text class="title" text-anchor="middle" transform="translate(12 {middle:.1f}) '
                 f'rotate(-90)">{escape(y_label)}</text>')


def _without_overlap(frame: _Frame) -> Iterator[tuple[float, str]]:
    """Yield the ticks of the x axis whose texts do not overlap."""
    free_from = -math.inf
    for tick, label in zip(frame.x.ticks, frame.x.labels, strict=True):
        # with a little space on both sides
        half = text_width(label) / 2 + 3
        if frame.px(tick) - half >= free_from:
            free_from = frame.px(tick) + half
            yield tick, label


def _draw_line(frame: _Frame, line: Line) -> None:
    path: list[str] = []
    # a line starts again after every gap
    is_drawing, last_y = False, 0.0
    indices = line.points()
    for i in indices:
        if not frame.holds(line.xs[i], line.ys[i]):
            is_drawing = False  # a gap, as for a loss that was not a number
            continue
        x, y = frame.px(line.xs[i]), frame.py(line.ys[i])
        if line.is_step and (is_drawing or not i):
            # a value logged at the end of an interval is that of all of it, from the start of the axis on
            begin = f"V{y:.1f}" * (y != last_y) if is_drawing else f"M{frame.px(frame.x.low):.1f} {y:.1f}"
            path.append(f"{begin}H{x:.1f}")
        else:
            path.append(f"{'L' if is_drawing else 'M'}{x:.1f} {y:.1f}")
        is_drawing, last_y = True, y
    # the ninth line has the first one's colour, and is dotted to tell the two apart
    names = (f"line c{line.color % NUM_COLORS}{' again' * (line.color >= NUM_COLORS)}"
             f"{' dashed' * line.is_dashed}{' faint' * line.is_faint}")
    frame.parts.append(f'<path class="{names}" d="{"".join(path)}"/>')
    if line.is_faint:
        return
    # of a few epochs each one is marked, and a single one would not show as a line
    if len(indices) <= 30 and not line.is_step:
        dots = "".join(f'<circle cx="{frame.px(line.xs[i]):.1f}" cy="{frame.py(line.ys[i]):.1f}" r="2.6"/>'
                       for i in indices if frame.holds(line.xs[i], line.ys[i]))
        frame.parts.append(f'<g class="dot c{line.color % NUM_COLORS}">{dots}</g>')
    if line.best is not None and frame.holds(line.xs[line.best], line.ys[line.best]):
        x, y = frame.px(line.xs[line.best]), frame.py(line.ys[line.best])
        color = f"c{line.color % NUM_COLORS}"
        frame.parts.append(f'<circle class="best {color}" cx="{x:.1f}" cy="{y:.1f}" r="6"/>')


def _draw_labels(frame: _Frame, lines: Sequence[Line]) -> None:
    """Write each line's label at its end, moved up or down where two would overlap."""
    ends = []
    for line in lines:
        last = next((i for i in reversed(range(len(line.xs))) if frame.holds(line.xs[i], line.ys[i])), None)
        if last is not None:
            ends.append((frame.py(line.ys[last]), frame.px(line.xs[last]), line))
    ends.sort(key=lambda end: end[0])
    # from the top down, each as near to its line as the one above allows
    places = [end[0] for end in ends]
    for i in range(1, len(places)):  # downwards: none above the one before it
        places[i] = max(places[i], places[i - 1] + _LINE_HEIGHT)
    lowest = HEIGHT - _BOTTOM - 2.0
    for i in range(len(places) - 1, -1, -1):  # and back, where that went below the axis
        places[i] = min(places[i], lowest)
        lowest = places[i] - _LINE_HEIGHT
    for place, (_, x, line) in zip(places, ends, strict=True):
        # the legend has the whole name
        label = line.label if text_width(line.label) <= 130 else line.label[:17] + "..."
        frame.parts.append(text(x + 7, place + 4, label, f"label c{line.color % NUM_COLORS}"))


def _draw_tips(frame: _Frame, lines: Sequence[Line], x_name: str) -> None:
    """Add strips along the x axis that show the values there under the mouse."""
    values: dict[float, list[str]] = {}
    for line in lines:
        # the background shows no values
        for i in ([] if line.is_faint else line.points()):
            if frame.holds(line.xs[i], line.ys[i]):
                values.setdefault(line.xs[i], []).append(f"{line.name}: {show(line.ys[i])}")
    # runs of different lengths may have values at different places
    xs = sorted(values)
    if len(xs) > MAX_TIPS:
        xs = [xs[round(i * (len(xs) - 1) / (MAX_TIPS - 1))] for i in range(MAX_TIPS)]
    places = [frame.px(x) for x in xs]
    strips = []
    for i, x in enumerate(xs):
        # from half-way to the one before, to half-way to the one after
        begin = (places[i - 1] + places[i]) / 2 if i else max(places[i] - 20, frame.left)
        end = (places[i] + places[i + 1]) / 2 if i + 1 < len(xs) else places[i] + 20
        title = "\n".join(escape(text) for text in (f"{x_name} {x:.6g}", *values[x][:MAX_LABELS]))
        strips.append(f'<g class="tip"><rect x="{begin:.1f}" y="{_TOP}" width="{end - begin:.1f}" '
                      f'height="{HEIGHT - _BOTTOM - _TOP}"/>'
                      f'<path d="M{places[i]:.1f} {_TOP}V{HEIGHT - _BOTTOM}"/><title>{title}</title></g>')
    frame.parts.append("".join(strips))
