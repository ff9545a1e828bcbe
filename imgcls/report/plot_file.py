"""One chart as a separate file, for a page of the documentation or beside a checkpoint: SVG, or PNG."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from imgcls.errors import UsageError
from imgcls.report.page import LIGHT
from imgcls.report.run_charts import Plot
from imgcls.report.svg import HEIGHT, WIDTH
from imgcls.storage.atomic import write_bytes
from imgcls.storage.paths import to_path

#: the rules of a page's style sheet, for a separate drawing; on white, as a picture in a paper
_STYLE = ("text{font:12px sans-serif;fill:#222}.ticks text,text.title{fill:#666}.grid{stroke:#ddd}"
          ".axis{stroke:#888}.line{fill:none;stroke:var(--c);stroke-width:2;stroke-linejoin:round}"
          ".dashed{stroke-dasharray:5 3}.faint{stroke-width:1;opacity:.45}.dot{fill:var(--c)}"
          ".best{fill:none;stroke:var(--c);stroke-width:2}text.label{fill:var(--c);font-weight:600}"
          ".tip rect{fill:transparent}.tip path{stroke:none}"
          + "".join(f".c{number}{{--c:{color}}}" for number, color in enumerate(LIGHT)))


def check_path(path: str, setting: str) -> None:
    """Raise UsageError for a path without the suffix of a picture, or a wrong URL; `setting` names it."""
    if not path.endswith((".svg", ".png")):
        raise UsageError(f"`{setting}` {path}: must be a file for a picture, .svg or .png")
    to_path(path, f"`{setting}`")


def write_plot(plot: Plot, path: str) -> None:
    """Write a chart to `path`, in the format of its suffix; RunError where the file cannot be written."""
    write_bytes(to_path(path), _png(plot) if path.endswith(".png") else standalone(plot).encode())


def write_plots(plots: Sequence[Plot], path: str) -> None:
    """Write charts under each other to one file; RunError where it cannot be written."""
    if path.endswith(".png"):
        from imgcls.report import chart_pixels, pictures  # OpenCV

        drawn = [chart_pixels.plot_pixels(plot) for plot in plots]
        content = pictures.encoded(np.concatenate(drawn), ".png")
    else:
        # each a drawing inside of one that is as high as all of them
        size = f'width="{WIDTH}" height="{HEIGHT}"'
        inner = "".join(f'<svg y="{number * HEIGHT}" {size}>{standalone(plot)}</svg>'
                        for number, plot in enumerate(plots))
        content = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {len(plots) * HEIGHT}">'
                   f"{inner}</svg>\n").encode()
    write_bytes(to_path(path), content)


def standalone(plot: Plot) -> str:
    """Return the chart as an SVG that needs no page around it."""
    # what a page gives around it: a name space, a style and a background
    element = plot.as_svg()
    head, _, content = element.partition(">")
    return (f'{head} xmlns="http://www.w3.org/2000/svg"><style>{_STYLE}</style>'
            f'<rect width="100%" height="100%" fill="#fff"/>{content}\n')


def _png(plot: Plot) -> bytes:
    from imgcls.report import chart_pixels, pictures  # OpenCV

    return pictures.encoded(chart_pixels.plot_pixels(plot), ".png")
