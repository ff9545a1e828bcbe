"""Pages in a real browser: both themes, a telephone's width, no word on the console, no request."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from browser import look_at
from test_report import write_metrics
from test_score_report import recorded

from imgcls.report.find import find_runs
from imgcls.report.run_page import run_page
from imgcls.report.score_page import make_report, score_page

pytestmark = pytest.mark.slow


def test_the_page_of_runs(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for name in ("a-run-with-" + "a-very-" * 12 + "long-name", "b"):
        write_metrics(tmp_path / "runs" / name, num_epochs=30, network="x" * 300)
    page = run_page(find_runs([str(tmp_path / "runs")]))
    backgrounds = []
    for is_dark in (False, True):
        look = look_at(page, tmp_path, is_dark=is_dark)
        assert look.requests == ["/frame.html", "/page.html"]
        assert look.console == []
        assert look.width <= 360
        assert look.shown == ["grid", "none"]  # the charts by epoch; those by time wait for the switch
        backgrounds.append(look.background)
    assert backgrounds[0] != backgrounds[1]


#: right to left, letters of several bytes, markup, no place to break a line, nothing at all
NAMES = ["\u05e2\u05d1\u05e8\u05d9\u05ea", "\u0627\u0644\u0639\u0631\u0628\u064a\u0629", "\U0001f43c panda",
         "<b>bold</b>", "W" * 200, ""]


def test_runs_that_went_wrong(tmp_path: Path) -> None:
    """One epoch, numbers that are none, numbers too large for any axis, and names of all kinds."""
    (tmp_path / "runs").mkdir()
    for number, (name, losses) in enumerate(zip(NAMES, ([1.0], [math.nan] * 3, [2.0, math.nan, math.inf],
                                                        [1e300, 1e-300], [3.4e38] * 2, [0.0]), strict=True)):
        lines = [{"kind": kind, "epoch": epoch, "update": epoch + 1, "loss": loss, "accuracy": loss, "lr": loss,
                  "speed": loss, "seconds": loss} for epoch, loss in enumerate(losses)
                 for kind in ("train", "validation")]
        stem = str(tmp_path / "runs" / f"{number}{name.replace('/', '')}")
        Path(f"{stem}-metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        Path(f"{stem}-meta.json").write_text(json.dumps({"imgcls": "1", "command": name, "config": {"network": name}}))
    together = find_runs([str(tmp_path / "runs")])
    assert len(together) == len(NAMES)
    for runs in (together, together[2:3]):
        look = look_at(run_page(runs), tmp_path)
        assert (look.requests, look.console) == (["/frame.html", "/page.html"], [])
        assert look.width <= 360


@pytest.mark.parametrize(("num_classes", "is_dark"), [(1, False), (3, True), (60, False), (1000, True)])
def test_the_page_of_a_score(tmp_path: Path, num_classes: int, is_dark: bool) -> None:
    chance = np.random.default_rng(0)
    logits = chance.normal(size=(300, num_classes)).astype(np.float32)
    names = [f"{NAMES[number % len(NAMES)]} number {number} of a long name" for number in range(num_classes)]
    told = recorded(logits, chance.integers(0, num_classes, 300))
    look = look_at(score_page(make_report("net", "data", {"accuracy": 0.5}, names, told)), tmp_path, is_dark=is_dark)
    assert look.requests == ["/frame.html", "/page.html"]
    assert look.console == []
    assert look.width <= 360


def test_the_browser_would_have_told(tmp_path: Path) -> None:
    """What the test above finds nothing of: a picture from elsewhere, a script, a page too wide."""
    (tmp_path / "runs").mkdir()
    page = run_page(find_runs([str(write_metrics(tmp_path / "runs" / "a"))]))
    spoilt = page.replace(b"<main>", b'<main><script>alert(1)</script><img src="/x.png"/><p style="width:600px">x</p>')
    look = look_at(spoilt, tmp_path)
    assert look.requests == ["/frame.html", "/page.html"]  # the policy holds both back, and says so
    assert len(look.console) >= 2
    assert look.width >= 600
