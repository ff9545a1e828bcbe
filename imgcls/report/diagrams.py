"""Diagrams about predictions: the reliability of confidences, and which classes are confused with which.

As SVG for pages, in the page's colours, and as pixels for PNG files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from imgcls.report import svg
from imgcls.report.pictures import write
from imgcls.report.statistics import Calibration
from imgcls.report.svg import escape, text

#: with more classes the names and numbers could not be read, and the cells are pixels of a picture
MAX_NAMED_CLASSES = 25
#: with more classes than this there is no matrix, only a list of what is most often confused
MAX_MATRIX_CLASSES = 2000
#: a matrix as a picture is about this many pixels wide
_PICTURE_EDGE = 800
_SIDE, _MARGIN = 300, 58
#: BGR, from white over blue to dark: the smaller the share, the lighter
_COLORS = np.array([[255, 255, 255], [178, 114, 0], [80, 30, 0]], float)


def reliability(before: Calibration, after: Calibration | None = None) -> str:
    """Return the diagram: accuracy by confidence, beside the diagonal of perfect calibration.

    `after` is with the fitted temperature, drawn as a dashed line.
    """
    left, bottom = _MARGIN, _SIDE - 40
    width, height = _SIDE - _MARGIN - 8, bottom - 12

    def place(x: float, y: float) -> tuple[float, float]:
        return left + x * width, bottom - y * height

    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = place(tick, tick)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}h{width}"/>')
        parts.append(f'<g class="ticks">{text(left - 6, y + 4, f"{tick:g}", anchor="end")}'
                     f'{text(x, bottom + 17, f"{tick:g}", anchor="middle")}</g>')
    # a bin without images has no bar: 0 would mean always wrong
    count = len(before.counts)
    for number in np.flatnonzero(before.counts):
        x, y = place(number / count, float(before.accuracy[number]))
        title = (f"confidence {before.confidence[number]:.3f}: accuracy {before.accuracy[number]:.3f} on "
                 f"{before.counts[number]:,} images")
        parts.append(f'<rect class="bar c0" x="{x + 1:.1f}" y="{y:.1f}" width="{width / count - 2:.1f}" '
                     f'height="{max(bottom - y, 0.5):.1f}"><title>{escape(title)}</title></rect>')
    (x0, y0), (x1, y1) = place(0, 0), place(1, 1)
    parts.append(f'<path class="axis" d="M{x0} {y0:.1f}L{x1} {y1:.1f}"/>')
    if after is not None:
        points = [place(float(after.confidence[i]), float(after.accuracy[i]))
                  for i in np.flatnonzero(after.counts)]
        path = "".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(points))
        parts.append(f'<path class="line c1 dashed" d="{path}"/>')
    parts.append(text(left + width / 2, _SIDE - 6, "confidence", "title", "middle"))
    parts.append('<text class="title" text-anchor="middle" transform="translate(12 '
                 f'{bottom - height / 2:.0f}) rotate(-90)">accuracy</text>')
    return svg.svg("".join(parts), "accuracy by confidence", _SIDE, _SIDE)


def confusion(matrix: np.ndarray, names: Sequence[str]) -> str:
    """Return the matrix (C, C) of a few classes as a heat map: rows are labels, their shares the colour."""
    count = len(matrix)
    # the whole name is shown under the mouse
    shown = [name if len(name) <= 14 else name[:12] + "..." for name in names]
    room = max((svg.text_width(name, 11) for name in shown), default=0) + 24
    # with few classes the cells must not become huge
    cell = max(16.0, min(34.0, 420 / count))
    top = room
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    parts = []
    for row in range(count):
        y = top + row * cell
        parts.append(text(room - 5, y + cell / 2 + 4, shown[row], anchor="end"))
        x = room + row * cell + cell / 2 + 4
        turned = f"translate({x:.1f} {top - 6:.1f}) rotate(-90)"
        parts.append(f'<text transform="{turned}">{escape(shown[row])}</text>')
        for column in np.flatnonzero(matrix[row]).tolist():
            share = float(shares[row, column])
            # mistakes have another colour, to be seen beside a dark diagonal
            color = "c0" if row == column else "c1"
            title = f"{names[row]} predicted as {names[column]}: {matrix[row, column]:,} images, {share:.1%}"
            parts.append(f'<g><rect class="bar {color}" fill-opacity="{0.12 + 0.88 * share:.3f}" '
                         f'x="{room + column * cell + .5:.1f}" y="{y + .5:.1f}" width="{cell - 1:.1f}" '
                         f'height="{cell - 1:.1f}"/><title>{escape(title)}</title>')
            if cell >= 22:
                light = ' class="on"' if share > 0.5 else ""
                parts.append(f'<text{light} x="{room + (column + .5) * cell:.1f}" y="{y + cell / 2 + 4:.1f}" '
                             f'text-anchor="middle">{_short(int(matrix[row, column]))}</text>')
            parts.append("</g>")
    side = room + count * cell
    outline = f"M{room:.1f} {top:.1f}H{side:.1f}V{side:.1f}H{room:.1f}z"
    parts.append(f'<path class="axis" fill="none" d="{outline}"/>')
    # no wider than needed: a matrix of two classes must not fill the page
    drawing = svg.svg("".join(parts), "confusion matrix", side + 4, side + 4)
    return drawing.replace("<svg ", f'<svg class="small" style="max-width:{side * 1.2:.0f}px" ', 1)


def confusion_pixels(matrix: np.ndarray, names: Sequence[str] = ()) -> np.ndarray:
    """Return the matrix as a picture uint8 (H, W, 3) in BGR, with the names where they can be read."""
    from imgcls.data.opencv import cv2

    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    # the square root, so that one mistake in a hundred is visible
    strength = np.sqrt(shares) * (len(_COLORS) - 1)
    # mixed from the two nearest colours
    low = np.minimum(strength.astype(int), len(_COLORS) - 2)
    part = (strength - low)[:, :, None]
    picture = (_COLORS[low] * (1 - part) + _COLORS[low + 1] * part).round().astype(np.uint8)
    # each class the same number of pixels, or a moiré would show
    cell = max(1, _PICTURE_EDGE // len(matrix))
    picture = np.repeat(np.repeat(picture, cell, 0), cell, 1)
    if not names or len(matrix) > 2 * MAX_NAMED_CLASSES:
        return cv2.copyMakeBorder(picture, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(120, 120, 120))
    picture = cv2.copyMakeBorder(picture, 8, 8, 150, 8, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    for row, name in enumerate(names):
        write(picture, name[:18], 4, 8 + row * cell + cell // 2 + 5, 0.42)
    return picture


def reliability_pixels(found: Calibration) -> np.ndarray:
    """Return the reliability diagram as a picture uint8 (H, W, 3) in BGR."""
    from imgcls.data.opencv import cv2

    side, margin = 480, 50
    picture = np.full((side + 2 * margin, side + 2 * margin, 3), 255, np.uint8)

    def place(x: float, y: float) -> tuple[int, int]:
        return round(margin + x * side), round(margin + side - y * side)

    for number in np.flatnonzero(found.counts).tolist():
        share = float(found.accuracy[number])
        begin, end = place(number / len(found.counts), share), place((number + 1) / len(found.counts), 0)
        cv2.rectangle(picture, (begin[0] + 2, begin[1]), (end[0] - 2, end[1]), (178, 114, 0), -1)
    cv2.rectangle(picture, place(0, 1), place(1, 0), (120, 120, 120), 1)
    cv2.line(picture, place(0, 0), place(1, 1), (120, 120, 120), 1, cv2.LINE_AA)
    texts = (("accuracy", (margin, margin - 14)),
             (f"confidence (ECE {found.ece:.4f})", (margin, side + 2 * margin - 14)))
    for content, (x, y) in texts:
        write(picture, content, x, y, 0.55)
    return picture


def _short(count: int) -> str:
    return str(count) if count < 10_000 else f"{count / 1000:.0f}k"
