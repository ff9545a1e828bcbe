"""The page about one run or several: figures at a glance, charts, tables of the numbers, settings."""

from __future__ import annotations

from collections.abc import Sequence, Sized

from imgcls.report import axes, run_charts
from imgcls.report.history import Epoch, Run
from imgcls.report.page import card, page, table
from imgcls.report.svg import escape

#: rows of a table: of more epochs evenly chosen ones are shown, with the best and the last
MAX_ROWS = 200
#: a longer table is folded up at first
_MAX_OPEN_ROWS = 60
OPEN = ' open="open"'
#: runs that the title names
_MAX_TITLED = 4
#: settings that say where and not what: runs nearly always differ in them, which means nothing
_WHERE = ("model_prefix", "save_model_prefix", "log_file", "log_dir", "load_epoch")


def run_page(runs: Sequence[Run], *, state: str = "", images: str = "") -> bytes:
    """Return the page as UTF-8. `state` says how far a run is; `images` is HTML to stand below the charts."""
    # all names of many runs would be a paragraph
    more = f" and {len(runs) - _MAX_TITLED} more" if len(runs) > _MAX_TITLED else ""
    title = " | ".join(run.name for run in runs[:_MAX_TITLED]) + more
    # each name isolated: one that is written from right to left would change the order of the others
    heading = " | ".join(f"<bdi>{escape(run.name)}</bdi>" for run in runs[:_MAX_TITLED]) + more
    body = [f"<h1>{heading}</h1>", f'<p class="soft">{escape(state or _describe(runs))}</p>']
    # figures at a glance for one run, a row each for several
    body += [_cards(runs[0])] if len(runs) == 1 else [_comparison(runs)]
    body.append(_charts(runs))
    body.append(images)
    body.append("<h2>Epochs</h2>")
    # the numbers of several runs are folded away: they are compared in the charts
    body += [_epochs(run, is_open=len(runs) == 1) for run in runs]
    body.append(_settings(runs))
    # at the end, what a reader must know: logs that were cut, values that were estimated
    notes = [(f"{run.name}: " if len(runs) > 1 else "") + note for run in runs for note in run.notes]
    if notes:
        body.append("<h2>Notes</h2><ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>")
    return page(title, "\n".join(filter(None, body)))


def _describe(runs: Sequence[Run]) -> str:
    if len(runs) > 1:
        return f"{len(runs)} runs side by side"
    run = runs[0]
    parts = [_count(run.epochs)]
    if run.num_epochs and run.num_epochs > len(run.epochs):
        parts[0] += f" of {run.num_epochs:,}"
    # an MXNet log has a network and no data set
    parts += [run.settings[name] for name in ("network", "dataset") if run.settings.get(name)]
    return ", ".join(parts)


def _cards(run: Run) -> str:
    """Return the figures of one run."""
    epochs = run.in_order()
    if not epochs:
        return "<p>No epoch is done yet.</p>"
    cards = []
    last = epochs[-1]
    if best := run.best():
        epoch, value, split = best
        remark = f"after epoch {epoch.index + 1}"
        cards.append(card(f"best {_split(split)} accuracy", axes.show(value), remark))
    for split in ("validation", "train"):
        if (value := getattr(last, split).get("accuracy")) is not None:
            cards.append(card(f"last {_split(split)} accuracy", axes.show(value)))
    if last.loss is not None:
        cards.append(card("last training loss", axes.show(last.loss)))
    # the median: the first epoch reads the data from a cold disk
    if speeds := [epoch.speed for epoch in epochs if epoch.speed is not None]:
        median = sorted(speeds)[len(speeds) // 2]
        cards.append(card("speed", f"{median:,.0f}", "images/s, median epoch"))
    # a log without times has none
    if last.elapsed_s:
        cards.append(card("time", axes.show_time(last.elapsed_s), _count(epochs)))
    return f'<div class="cards">{"".join(cards)}</div>'


def _comparison(runs: Sequence[Run]) -> str:
    """Return a table with a row for each run; the best of all is marked."""
    bests = [run.best() for run in runs]
    # runs that are equally good are both the best
    top = max((best[1] for best in bests if best), default=None)
    rows = []
    for run, best in zip(runs, bests, strict=True):
        # a log may end before its first epoch does
        last = run.in_order()[-1] if run.epochs else Epoch(0)
        rows.append(("best" if best and best[1] == top else "", [
            run.name, axes.show(best[1]) if best else "", str(best[0].index + 1) if best else "",
            axes.show(last.validation.get("accuracy")), axes.show(last.train.get("accuracy")),
            axes.show(last.loss), f"{len(run.epochs):,}", axes.show_time(last.elapsed_s)]))
    header = ["run", "best accuracy", "in epoch", "last validation", "last training", "last loss", "epochs",
              "time"]
    return table(header, rows, "names")


def _charts(runs: Sequence[Run]) -> str:
    charts = run_charts.draw_charts(runs)
    if not charts:
        return ""
    # The switch is two radio buttons and a rule of the style sheet: the page has no script.
    views = "".join(
        f'<div class="charts {view}">' + "".join(
            f'<figure class="chart"><h3>{escape(chart.title)}</h3>{drawing(chart)}</figure>'
            for chart in charts) + "</div>"
        for view, drawing in (("by-epoch", lambda chart: chart.by_epoch),
                              ("by-time", lambda chart: chart.by_time)))
    return (f'<div class="switch"><input type="radio" name="axis" id="by-epoch" checked="checked"/>'
            f'<label for="by-epoch">by epoch</label><input type="radio" name="axis" id="by-time"/>'
            f'<label for="by-time">by time</label>{run_charts.legend(runs)}{views}</div>')


def _epochs(run: Run, *, is_open: bool) -> str:
    """Return the numbers of a run's epochs."""
    epochs = run.in_order()
    if not epochs:
        return ""
    # a column for each metric, and the same columns for all epochs
    names = run.metric_names()
    best = run.best()
    best_index = best[0].index if best else -1
    shown = epochs
    if len(epochs) > MAX_ROWS:
        chosen = {round(i * (len(epochs) - 1) / (MAX_ROWS - 1)) for i in range(MAX_ROWS)}
        shown = [epoch for i, epoch in enumerate(epochs) if i in chosen or epoch.index == best_index]
    rows = []
    for epoch in shown:
        metrics = map(axes.show, epoch.metrics(names))
        # 12345.6 and not 12,346 of a learning rate: it was set by hand and is shown as it was set
        rate = "" if epoch.lr is None else f"{epoch.lr:.6g}"
        rows.append(("best" if epoch.index == best_index else "", [
            str(epoch.index + 1), *metrics, axes.show(epoch.loss), rate, axes.show(epoch.speed),
            axes.show_time(epoch.seconds), axes.show_time(epoch.elapsed_s)]))
    header = ["epoch", *(f"{split} {name}" for name in names for split in ("training", "validation")),
              "loss", "learning rate", "images/s", "epoch's time", "since the start"]
    # never silently: a table that ends early looks like a run that did
    num_left_out = len(epochs) - len(shown)
    left_out = f'<p class="soft">{num_left_out:,} epochs are left out here.</p>' if num_left_out else ""
    is_open = is_open and len(shown) <= _MAX_OPEN_ROWS
    summary = f"<summary><bdi>{escape(run.name)}</bdi>: {_count(epochs)}</summary>"
    return f'<details{OPEN if is_open else ""}>{summary}{table(header, rows)}{left_out}</details>'


def _settings(runs: Sequence[Run]) -> str:
    """Return the settings: those that differ first, then all of them."""
    body = []
    # a log of MXNet's holds the settings and not the command
    if commands := [run for run in runs if run.command]:
        lines = "".join(f"<pre>{escape(run.command)}</pre>" for run in commands)
        body.append(f"<h2>Command{'s' if len(commands) > 1 else ''}</h2>{lines}")
    names = list(dict.fromkeys(name for run in runs for name in run.settings))
    if not names:
        return "".join(body)
    header = ["setting", *(run.name if len(runs) > 1 else "value" for run in runs)]

    def row(name: str) -> list[str]:
        return [name, *(run.settings.get(name, "(not recorded)") for run in runs)]

    # a setting that only some of them recorded is a difference, too
    differing = [name for name in names if name not in _WHERE
                 and len({run.settings.get(name) for run in runs}) > 1]
    body.append("<h2>Settings</h2>")
    if len(runs) > 1:
        body.append(table(header, [("differs", row(name)) for name in differing], "texts") if differing
                    else "<p>All runs have the same settings.</p>")
    rows = [("differs" if name in differing else "", row(name)) for name in names]
    body.append(f"<details><summary>all {len(names)} settings</summary>{table(header, rows, 'texts')}"
                "</details>")
    return "".join(body)


def _count(epochs: Sized) -> str:
    return f"{len(epochs):,} epoch{'' if len(epochs) == 1 else 's'}"


def _split(name: str) -> str:
    return "training" if name == "train" else name
