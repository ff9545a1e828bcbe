"""docs/networks.md: written by its command, complete, and true where that can be counted quickly."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import ROOT

from imgcls.config import lookup
from imgcls.networks import build_network
from imgcls.training import network_size

PAGE = ROOT / "docs" / "networks.md"
QUICK = ("mlp", "lenet", "lenet --add-stn", "alexnet", "alexnet-towers", "overfeat", "vgg --num-layers 16",
         "googlenet",
         "inception-bn-full", "resnet --num-layers 20", "resnet-v1 --num-layers 18",
         "resnext --num-layers 50",
         "mobilenet", "mobilenetv2 --multiplier 0.5", "resnet-28-small", "resnet-caffe --num-layers 32")


@pytest.fixture(scope="module")
def command() -> Iterator[ModuleType]:
    """benchmarks/networks.py as a module."""
    spec = importlib.util.spec_from_file_location("networks_table", ROOT / "benchmarks" / "networks.py")
    assert spec
    assert spec.loader
    module, path = importlib.util.module_from_spec(spec), list(sys.path)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = path
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def rows() -> dict[str, list[str]]:
    """First cell (without the marks) and input -> the cells of each row."""
    cells = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in PAGE.read_text().splitlines()
             if line.startswith("| `") and "`--network`" not in line]
    return {f"{row[0].strip('`')} {row[1].split()[0]}": row for row in cells}


def test_every_network_is_named(rows: dict[str, list[str]]) -> None:
    assert {name.split()[0] for name in rows} == set(lookup.names("networks"))


def test_the_page_is_what_the_command_writes(command: ModuleType) -> None:
    results: dict[str, Any] = json.loads(command.RESULTS.read_text())
    assert command.render(results) == PAGE.read_text(encoding="utf-8")
    assert set(results) == {case.key for case in command.CASES}


def test_parameters_and_operations_are_true(command: ModuleType, rows: dict[str, list[str]]) -> None:
    cases = [case for case in command.CASES if case.name in QUICK]
    assert {case.name for case in cases} == set(QUICK)
    for case in cases:
        with torch.device("meta"):
            model = build_network(case.config, seed=0)
            gammas = sum(buffer.numel() for name, buffer in model.named_buffers() if name.endswith("gamma"))
            row = rows[case.key]
            assert row[2] == f"{network_size.count_parameters(model) + gammas:,}"
            assert row[3] == network_size.short(network_size.measure(model, case.shape).flops)


@pytest.mark.slow
def test_speeds_are_measured_and_cached(command: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command, "ROUND_SECONDS", 0.001)
    monkeypatch.setattr(command, "CASES", [command.Case("mlp", (1, 28, 28), classes=10), command.Case(
        "mobilenetv2", (3, 32, 32), {"multiplier": 0.25}, 10, torchvision="mobilenet_v2")])
    pytest.importorskip("torchvision")
    monkeypatch.setattr(sys, "argv", ["networks.py", "--threads", "1", "--rounds", "2", "--results",
                                      str(tmp_path / "found.json"), "--page", str(tmp_path / "page.md"),
                                      "--no-speed"])
    threads = torch.get_num_threads()
    assert command.main() == 0
    assert "not measured yet" in (tmp_path / "page.md").read_text()
    sys.argv.remove("--no-speed")
    assert command.main() == 0
    results = json.loads((tmp_path / "found.json").read_text())
    both = results["mobilenetv2 --multiplier 0.25 3,32,32"]["speed"]
    assert both["batch"] == 64
    assert both["training"]["ratio"] == pytest.approx(
        both["training"]["imgcls"] / both["training"]["torchvision"], rel=0.5)
    page = (tmp_path / "page.md").read_text()
    assert f"| {both['inference']['imgcls']:g} | {both['training']['imgcls']:g} | mobilenet_v2 (" in page
    monkeypatch.setattr(command, "speed", None)  # what is known is not measured again
    assert command.main() == 0
    assert (tmp_path / "page.md").read_text() == page
    torch.set_num_threads(threads)


def benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_logit_that_is_no_number_is_no_agreement() -> None:
    """`max(0.0, nan)` is 0.0."""
    roundtrip = benchmark("roundtrip")
    assert math.isnan(roundtrip.largest(0.0, math.nan))
    assert math.isnan(roundtrip.largest(math.nan, 0.0))
    assert roundtrip.largest(1e-6, 2e-6) == 2e-6


def test_a_run_that_fails_by_itself_counts_as_no_kill(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="failed by itself before the kill, with exit status 2"):
        benchmark("kill_resume")._run_and_kill(tmp_path / "net", ["--no-such-flag"], 60.0, "KILL")
