"""Pages in a real browser: both themes, a telephone's width, no word on the console, no request."""

from __future__ import annotations

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
        assert look.width <= 390
        assert look.shown == ["grid", "none"]  # the charts by epoch; those by time wait for the switch
        backgrounds.append(look.background)
    assert backgrounds[0] != backgrounds[1]


def test_the_page_of_a_score(tmp_path: Path) -> None:
    for num_classes in (3, 12, 60):
        chance = np.random.default_rng(0)
        logits = chance.normal(size=(300, num_classes)).astype(np.float32)
        names = [f"class number {number} of a long name" for number in range(num_classes)]
        told = recorded(logits, chance.integers(0, num_classes, 300))
        look = look_at(score_page(make_report("net", "data", {"accuracy": 0.5}, names, told)), tmp_path)
        assert look.requests == ["/frame.html", "/page.html"]
        assert look.console == []
        assert look.width <= 390


def test_the_browser_would_have_told(tmp_path: Path) -> None:
    """What the test above finds nothing of: a picture from elsewhere, a script, a page too wide."""
    (tmp_path / "runs").mkdir()
    page = run_page(find_runs([str(write_metrics(tmp_path / "runs" / "a"))]))
    spoilt = page.replace(b"<main>", b'<main><script>alert(1)</script><img src="/x.png"/><p style="width:600px">x</p>')
    look = look_at(spoilt, tmp_path)
    assert look.requests == ["/frame.html", "/page.html"]  # the policy holds both back, and says so
    assert len(look.console) >= 2
    assert look.width >= 600
