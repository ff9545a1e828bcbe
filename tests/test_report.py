"""Logs and metrics become tables and pages: the right numbers, and nothing in them that runs or requests anything."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
import math
import re
import struct
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT

from imgcls.cli import parse_log, report, train
from imgcls.config import resolve
from imgcls.data.loaders.make import make_loader
from imgcls.data.sources import open_source
from imgcls.datasets import mnist
from imgcls.errors import DataError, RunError, UsageError
from imgcls.formats import idx, tensorboard
from imgcls.report import axes, find, pictures, run_charts, sheet, svg, tables
from imgcls.report.chart_pixels import charts_png
from imgcls.report.find import find_runs
from imgcls.report.history import MAX_EPOCHS, MAX_POINTS, Point, Run, add_record
from imgcls.report.lines import MAX_LINE_BYTES, bounded_lines
from imgcls.report.live import LivePage
from imgcls.report.metrics_file import add_meta, read_metrics
from imgcls.report.mxnet_log import read_log
from imgcls.report.run_page import MAX_ROWS, run_page

LOGS = ROOT.parent / "shared" / "fixtures" / "logs"

#: the same two epochs as each generation of MXNet's scripts wrote them
GENERATIONS = {
    "2015": """\
2015-10-08 16:06:00,100 Node[0] start with arguments Namespace(batch_size=128, lr=0.05, network='lenet', num_epochs=2)
2015-10-08 16:06:00,463 Node[0] Start training with [cpu(0)]
2015-10-08 16:06:09,463 Node[0] Iteration[0] Train-accuracy=0.411000
2015-10-08 16:06:09,464 Node[0] Iteration[0] Time cost=9.100
2015-10-08 16:06:10,463 Node[0] Iteration[0] Validation-accuracy=0.500000
2015-10-08 16:06:11,463 Node[0] Update[79]: Change learning rate to 0.00500
2015-10-08 16:06:19,463 Node[0] Iteration[1] Train-accuracy=0.611000
2015-10-08 16:06:19,464 Node[0] Iteration[1] Time cost=8.900
2015-10-08 16:06:20,463 Node[0] Iteration[1] Validation-accuracy=0.600000
""",
    "0.7": """\
2016-07-08 16:06:00,100 Node[0] start with arguments Namespace(batch_size=128, lr=0.05, network='lenet', num_epochs=2)
2016-07-08 16:06:05,463 Node[0] Epoch[0] Batch [20]\tSpeed: 100.00 samples/sec\tTrain-accuracy=0.400000
2016-07-08 16:06:05,463 Node[0] Epoch[0] Batch [20]\tSpeed: 100.00 samples/sec\tTrain-top_k_accuracy_5=0.800000
2016-07-08 16:06:08,463 Node[0] Epoch[0] Batch [40]\tSpeed: 300.00 samples/sec\tTrain-accuracy=0.422000
2016-07-08 16:06:08,463 Node[0] Epoch[0] Batch [40]\tSpeed: 300.00 samples/sec\tTrain-top_k_accuracy_5=0.900000
2016-07-08 16:06:08,463 Node[0] Epoch[0] Resetting Data Iterator
2016-07-08 16:06:09,464 Node[0] Epoch[0] Time cost=9.100
2016-07-08 16:06:09,464 Node[0] Saved checkpoint to "model/mnist-0-0001.params"
2016-07-08 16:06:10,463 Node[0] Epoch[0] Validation-accuracy=0.500000
2016-07-08 16:06:11,463 Node[0] Update[79]: Change learning rate to 5.00000e-03
2016-07-08 16:06:15,463 Node[0] Epoch[1] Batch [20]\tSpeed: 200.00 samples/sec\tTrain-accuracy=0.611000
2016-07-08 16:06:19,464 Node[0] Epoch[1] Time cost=8.900
2016-07-08 16:06:20,463 Node[0] Epoch[1] Validation-accuracy=0.600000
""",
    "0.12": """\
INFO:root:start with arguments Namespace(batch_size=128, lr=0.05, network='lenet', num_epochs=2)
INFO:root:Epoch[0] Batch [20]\tSpeed: 100.00 samples/sec\taccuracy=0.400000
INFO:root:Epoch[0] Batch [40]\tSpeed: 300.00 samples/sec\taccuracy=0.411000
INFO:root:Epoch[0] Train-accuracy=0.411000
INFO:root:Epoch[0] Time cost=9.100
INFO:root:Epoch[0] Validation-accuracy=0.500000
INFO:root:Update[79]: Change learning rate to 5.00000e-03
INFO:root:Epoch[1] Batch [20]\tSpeed: 200.00 samples/sec\taccuracy=0.600000
INFO:root:Epoch[1] Train-accuracy=0.611000
INFO:root:Epoch[1] Time cost=8.900
INFO:root:Epoch[1] Validation-accuracy=0.600000
""",
    "1.9 under a launcher": """\
[1,0]<stderr>:INFO:root:start with arguments Namespace(batch_size=128, lr=0.05, network='lenet', num_epochs=2)
[1,0]<stderr>:INFO:root:Epoch[0] Batch [0-20]\tSpeed: 100.00 samples/sec\taccuracy=0.400000
[1,0]<stderr>:INFO:root:Epoch[0] Batch [20-40]\tSpeed: 300.00 samples/sec\taccuracy=0.411000
[1,0]<stderr>:INFO:root:Epoch[0] Train-accuracy=0.411000
[1,0]<stderr>:INFO:root:Epoch[0] Time cost=9.100
[1,0]<stderr>:INFO:root:Epoch[0] Validation-accuracy=0.500000
[1,0]<stderr>:INFO:root:Update[79]: Change learning rate to 5.00000e-03
[1,0]<stderr>:INFO:root:Epoch[1] Batch [0-20]\tSpeed: 200.00 samples/sec\taccuracy=0.600000
[1,0]<stderr>:INFO:root:Epoch[1] Train-accuracy=0.611000
[1,0]<stderr>:INFO:root:Epoch[1] Time cost=8.900
[1,0]<stderr>:INFO:root:Epoch[1] Validation-accuracy=0.600000
""",
}


def log(text: str) -> Run:
    return read_log("log", bounded_lines(io.BytesIO(text.encode())))


def write_metrics(path: Path, num_epochs: int = 3, **meta: object) -> Path:
    """Write a run's metrics.jsonl and meta.json; return its prefix."""
    lines = []
    for epoch in range(num_epochs):
        for batch in (5, 10):
            lines.append({"kind": "batch", "epoch": epoch, "batch": batch, "update": 11 * epoch + batch + 1,
                          "speed": 1000.0, "loss": 1 / (epoch + 1), "lr": 0.1, "accuracy": epoch / num_epochs})
        lines.append({"kind": "train", "epoch": epoch, "update": 11 * epoch + 11, "loss": 1 / (epoch + 1),
                      "lr": 0.1, "seconds": 2.0, "speed": 900.0 + epoch, "accuracy": epoch / num_epochs})
        lines.append({"kind": "validation", "epoch": epoch, "update": 11 * epoch + 11,
                      "accuracy": 0.5 + epoch / 100})
    Path(f"{path}-metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {"network": "mlp", "num_epochs": num_epochs, "lr": 0.1, **meta}
    Path(f"{path}-meta.json").write_text(json.dumps({"imgcls": "1", "command": "imgcls-train", "config": settings}))
    return path


def parsed(page: bytes) -> ET.Element:
    """Return the page as a tree: it is XML as well as HTML."""
    return ET.fromstring(page.decode().replace("<!DOCTYPE html>", ""))


# Reading


@pytest.mark.parametrize("generation", GENERATIONS)
def test_logs_of_every_generation(generation: str) -> None:
    run = log(GENERATIONS[generation])
    first, second = run.in_order()
    assert (first.index, second.index) == (0, 1)
    assert first.train["accuracy"] == pytest.approx(0.411)
    assert second.train["accuracy"] == pytest.approx(0.611)
    assert [epoch.validation for epoch in (first, second)] == [{"accuracy": 0.5}, {"accuracy": 0.6}]
    assert (first.seconds, second.seconds) == (9.1, 8.9)
    assert (first.lr, second.lr) == (0.05, 0.005)
    assert run.settings["network"] == "lenet"
    assert run.num_epochs == 2
    if generation != "2015":
        assert (first.speed, second.speed) == (200.0, 200.0)
    if "Node" in GENERATIONS[generation]:  # a date on each line
        assert second.elapsed_s == pytest.approx(20.363)
    else:
        assert second.elapsed_s == pytest.approx(18.0)
    assert ("mean of its progress lines" in " ".join(run.notes)) == (generation == "0.7")


def test_progress_lines_with_a_metric_each_are_one_point() -> None:
    points = log(GENERATIONS["0.7"]).points
    assert [(point.epoch, point.batch) for point in points] == [(0, 20), (0, 40), (1, 20)]
    assert points[1].metrics == {"accuracy": 0.422, "top_k_accuracy_5": 0.9}


def test_workers_are_averaged_and_a_resumed_run_replaces() -> None:
    def line(rank: int, epoch: int, value: float) -> str:
        return f"2017-01-01 00:00:00,000 Node[{rank}] Epoch[{epoch}] Train-accuracy={value:f}\n"

    start = "2017-01-01 00:00:00,000 Node[0] start with arguments Namespace(lr=0.1, num_epochs=9)\n"
    text = start * 2 + line(0, 0, .2) + line(1, 0, .4) + line(0, 1, .5) + line(1, 1, .6) + line(0, 2, .9)
    assert [epoch.train["accuracy"] for epoch in log(text).in_order()] == pytest.approx([.3, .55, .9])
    text += start * 2 + line(0, 1, .7) + line(1, 1, .8)  # went back to the end of the first epoch
    assert [epoch.train["accuracy"] for epoch in log(text).in_order()] == pytest.approx([.3, .75])


@pytest.mark.parametrize(("text", "expected"), [
    ("Epoch[0] Train-accuracy=nan\nEpoch[0] Time cost=1.0\n", {}),
    ("Epoch[0] Train-accuracy=1.2.3\nEpoch[0] Time cost=1.0\n", {}),
    ("Epoch[0] Train-cross-entropy=2.5e-03\n", {"cross-entropy": 0.0025}),
    ("Epoch[0] Train-<b>=0.5\n", {"<b>": 0.5}),
])
def test_odd_values(text: str, expected: dict[str, float]) -> None:
    assert log(text).epochs[0].train == expected


@pytest.mark.real_data
def test_the_recorded_logs_parse_to_their_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    hints = json.loads((LOGS / "manifest.json").read_text())["regex_hints"]
    num_values = 0
    for path in sorted(LOGS.glob("*.log")):
        text = path.read_text()
        run = read_log("log", bounded_lines(io.BytesIO(text.encode())))
        for split, key in (("train", "train"), ("validation", "val")):
            for epoch, name, value in re.findall(hints[key], text):
                assert getattr(run.epochs[int(epoch)], split)[name] == pytest.approx(float(value))
                num_values += 1
        for epoch, seconds in re.findall(hints["time"], text):
            assert run.epochs[int(epoch)].seconds == float(seconds)
        speeds = [float(match[3]) for match in re.findall(hints["speed"], text)]
        assert [point.speed for point in run.points] == speeds
    assert num_values >= 20
    assert parse_log.main([str(LOGS / "mnist-mlp.log")]) == 0
    assert capsys.readouterr().out == (LOGS / "mnist-mlp.parse_log.txt").read_text()


def test_parse_log_is_mxnets(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text(GENERATIONS["0.12"].replace("INFO:root:Epoch[1] Validation-accuracy=0.600000\n", ""))
    tool = ROOT / "tools" / "parse_log.py"
    assert tool.stat().st_mode & 0o111
    result = subprocess.run([sys.executable, tool, path, "--format", "none", "--metric-names", "accuracy", "top_k"],
                            capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)})
    assert result.stdout.splitlines() == [
        "epoch\ttrain-accuracy\ttrain-top_k\tval-accuracy\tval-top_k\ttime",
        " 1\t0.411000\tnan\t0.500000\tnan\t9.1", " 2\t0.611000\tnan\tnan\tnan\t8.9"]


def test_parse_log_takes_what_mxnets_pattern_takes() -> None:
    parts = ["Epoch[1] ", "Epoch[22] ", "Train-accuracy", "Train-accuracy_5", "Time cost", "=0.5", "=", "=3.", "x"]
    for words in itertools.product(parts, repeat=4):
        line = "".join(words)
        kinds = ["Train-accuracy", "Validation-accuracy", "Time"]
        found = (re.match(rf".*Epoch\[(\d{{1,9}})\] {kind}.*=([.\d]+)", line) for kind in kinds)
        expected = {int(match[1]): float(match[2]) for match in list(filter(None, found))[:1]}
        read = parse_log.read_epochs([line + "\n"], ["accuracy"])
        assert {epoch: sum(filter(math.isfinite, means)) for epoch, means in read.items()} == expected, line
    began = time.process_time()
    for end in ("", "=", "=1"):
        parse_log.read_epochs(["Epoch[1] Train-accuracy" * 2800 + end] * 100, ["accuracy"])
    assert time.process_time() - began < 20  # the pattern itself takes minutes


def test_a_log_may_be_of_any_size() -> None:
    """Lines without end, epochs and metrics without end: bounded memory, no error, and quick."""
    began = time.process_time()

    class Endless(io.RawIOBase):
        left = 10**8

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:
            count = min(len(buffer), self.left)
            buffer[:count] = b"E" * count
            self.left -= count
            return count

    assert [len(line) for line in bounded_lines(io.BufferedReader(Endless()))] == [MAX_LINE_BYTES]
    for hostile in ("start with arguments Namespace(" + "a=[" * 20000, "Epoch[1] Batch [" * 4000,
                    "Epoch[0] Batch [1]\tSpeed: 1 samples/sec" + "\ta=" * 20000, "a='" * 20000,
                    "start with arguments " * 3000, "Epoch[0] Train-" + "x" * 60000,
                    "start with arguments (" + "a='\\" * 15000):
        log(hostile + "\n")
    run = log("".join(f"Epoch[{i}] Train-m{i}=1\nEpoch[0] Train-m{i}=1\n" for i in range(MAX_EPOCHS + 5)))
    assert len(run.epochs) == MAX_EPOCHS
    assert len(run.epochs[0].train) <= 16
    assert "epochs are shown" in run.notes[0]
    assert time.process_time() - began < 20  # seconds as they are on a busy machine; it takes one


def test_points_are_thinned_evenly() -> None:
    run = Run("run")
    for batch in range(5 * MAX_POINTS):
        run.add_point(Point(0, batch, 1.0, None, None, {}))
    batches = [point.batch for point in run.points]
    assert len(batches) <= MAX_POINTS
    assert batches[-1] > 5 * MAX_POINTS - 10
    assert {after - before for before, after in itertools.pairwise(batches)} == {7, 8}


@pytest.mark.parametrize("line", [
    b"[]", b"{", b"[" * 100_000, b"\xff", b'{"kind": "train"}', b'{"kind": "train", "epoch": "x"}',
    b'{"kind": "train", "epoch": -1, "loss": 1}', b'{"kind": "train", "epoch": 0, "loss": [1], "accuracy": true}',
    b'{"kind": "train", "epoch": 0, "loss": 1' + b"0" * 400 + b"}", b'{"kind": "batch", "epoch": 0, "batch": null}',
    b'{"kind": "train", "epoch": 0, "accuracy": NaN, "loss": Infinity}',
    b'{"kind": "train", "epoch": 1' + b"0" * 5000 + b"}",
    b'{"kind": "train", "epoch": 1' + b"0" * 400 + b', "loss": 1}',
    b'{"kind": "batch", "epoch": 0, "batch": -1, "loss": 1}',
    b'{"kind": "batch", "epoch": 0, "batch": 1' + b"0" * 400 + b', "loss": 1}',
    b'{"kind": "train", "epoch": 0, "\\ud800": 1}',
])
def test_damaged_metrics(line: bytes) -> None:
    good = b'{"kind": "train", "epoch": 7, "loss": 0.5, "accuracy": 0.25}'
    run = read_metrics("run", [line + b"\n", good + b"\n"])
    assert run.epochs[7].loss == 0.5
    parsed(run_page([run]))
    tables.as_csv([run]).encode("utf-8", "surrogateescape")


def test_arguments_of_many_runs_in_one_log_are_bounded() -> None:
    lines = [f"start with arguments Namespace({', '.join(f'a{n}_{i}=1' for i in range(200))})\n".encode()
             for n in range(20)]
    assert len(read_log("run", lines).settings) == 300


def test_damaged_meta_data() -> None:
    run = Run("run")
    add_meta(run, {"config": {"lr": [1, {"a": None}], "num_epochs": "x", "network": None}, "command": 5,
                   "versions": {"torch": 1, "numpy": "2"}, "imgcls": ["x"]})
    assert run.settings == {"lr": '[1, {"a": null}]', "num_epochs": "x", "network": "", "version of numpy": "2"}
    for meta in ({}, {"config": 1}, {"config": {"num_epochs": True}, "versions": []}):
        add_meta(run, meta)


# What a user names


def test_what_a_run_may_be(tmp_path: Path) -> None:
    prefix = write_metrics(tmp_path / "a")
    write_metrics(tmp_path / "b", lr=0.5)
    (tmp_path / "old.log").write_text(GENERATIONS["0.7"])
    (tmp_path / "other.log").write_text("apache started\n")
    for ending in ("", "-metrics.jsonl", "-meta.json", "-0003.params", "-symbol.json", "-report.html"):
        (run,) = find_runs([f"{prefix}{ending}"])
        assert (run.name, len(run.epochs), run.settings["lr"]) == ("a", 3, "0.1")
    assert [run.name for run in find_runs([str(tmp_path)])] == ["a", "b", "old.log"]
    (tmp_path / "sub").mkdir()
    write_metrics(tmp_path / "sub" / "a")
    names = [run.name for run in find_runs([f"{tmp_path}/a", f"{tmp_path}/sub/a", f"{tmp_path}/a"])]
    assert names == [f"{tmp_path}/a", f"{tmp_path}/sub/a"]


def test_runs_of_a_folder_in_their_order(tmp_path: Path) -> None:
    for number in (10, 9, 1, 2, 12, 11, 3, 4, 5):
        (tmp_path / f"run{number}.log").write_text(GENERATIONS["0.12"])
    runs = find_runs([str(tmp_path)])
    assert [run.name for run in runs] == [f"run{number}.log" for number in (1, 2, 3, 4, 5, 9, 10, 11, 12)]
    # the ninth has the first one's colour, and other dashes
    classes = [path.get("class") for path in parsed(run_page(runs)).iter("path")]
    assert "line c0 again" in classes
    assert "line c0 again dashed" in classes


def test_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.log").write_text("nothing\n")
    with pytest.raises(UsageError, match=r"RUN nope: there is no such log or folder, and no nope-metrics\.jsonl"):
        find_runs(["nope"])
    with pytest.raises(UsageError, match="holds no run"):
        find_runs([str(tmp_path / "empty")])
    with pytest.raises(DataError, match="holds no epoch"):
        find_runs([str(tmp_path / "x.log")])


def test_the_command(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    prefix = str(write_metrics(tmp_path / "a"))
    assert report.main([prefix]) == 0
    assert capsysbinary.readouterr().out.decode() == f"{prefix}-report.html\n"
    parsed(Path(f"{prefix}-report.html").read_bytes())
    assert report.main([prefix, "--format", "text"]) == 0
    text = capsysbinary.readouterr().out.decode().splitlines()
    assert text[0] == "a"
    assert text[1].split() == ["epoch", "train-accuracy", "val-accuracy", "loss", "lr", "images/s", "time", "elapsed"]
    assert text[4].split()[:4] == ["3*", "0.6667", "0.5200", "0.3333"]
    assert report.main([prefix, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsysbinary.readouterr().out.decode())))
    assert (rows[1]["epoch"], rows[1]["validation-accuracy"], rows[1]["speed"]) == ("2", "0.51", "901.0")
    assert report.main([prefix, "--format", "json", "--output", str(tmp_path / "x.json")]) == 0
    (run,) = json.loads((tmp_path / "x.json").read_text())
    assert run["best"] == {"epoch": 3, "accuracy": 0.52, "split": "validation"}
    assert run["epochs"][2]["elapsed_s"] == 6.0
    capsysbinary.readouterr()
    assert report.main([prefix, "--format", "png"]) == 0
    assert capsysbinary.readouterr().out.decode() == f"{prefix}-report.png\n"
    picture = cv2.imread(f"{prefix}-report.png")
    assert picture.shape[1] == 1440
    # lines in the colours of the page: blue for validation, vermilion for training
    for color in ((178, 114, 0), (0, 76, 194)):
        assert (picture == color).all(2).sum() > 300
    assert report.main(["--format", "pdf", prefix]) == 2
    assert report.main([prefix, "--images", "4", "--format", "csv"]) == 2
    assert report.main([prefix, "--sheet", "x.png", "--output", "y.png"]) == 2


# Pages


def test_a_page_asks_nothing_of_anybody(tmp_path: Path) -> None:
    runs = find_runs([str(write_metrics(tmp_path / "a")), str(write_metrics(tmp_path / "b", lr=0.5))])
    tree = parsed(run_page(runs))
    assert not list(tree.iter("script"))
    for element in tree.iter():
        for name, value in element.attrib.items():
            assert not name.startswith("on")
            if name in ("src", "href", "data", "action", "poster"):
                assert value.startswith("data:")
            assert "url(" not in value
    (style,) = tree.iter("style")
    assert "url(" not in (style.text or "")
    assert "@import" not in (style.text or "")
    policies = [meta.get("content") for meta in tree.iter("meta") if meta.get("http-equiv")]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_text_from_outside_is_shown_and_does_nothing(tmp_path: Path) -> None:
    nasty = "<script>alert(1)</script>\"'&\x1b[31m\u202e\x00"
    prefix = write_metrics(tmp_path / "<b>&", network=nasty, **{"<i>": nasty})
    (run,) = find_runs([str(prefix)])
    add_record(run, {"kind": "validation", "epoch": 1, nasty: 0.5, "accuracy": 0.9})
    run.command = nasty
    page = run_page([run, Run(nasty)]).decode()
    assert "<script" not in page
    assert not re.search("[\x00-\x08\x0e-\x1f\u202e]", page)
    tree = parsed(page.encode())
    texts = [text for element in tree.iter() for text in element.itertext()]
    assert "<script>alert(1)</script>\"'&\\x1b[31m\\u202e\\x00" in texts


def test_the_page_holds_the_numbers(tmp_path: Path) -> None:
    (run,) = find_runs([str(write_metrics(tmp_path / "a"))])
    tree = parsed(run_page([run]))
    titles = [element.text for element in tree.iter("h3")]
    assert titles == ["Accuracy", "Loss", "Learning rate", "Speed"] * 2
    rows = [[cell.text for cell in row] for row in tree.iter("tr")]
    assert ["3", "0.6667", "0.5200", "0.3333", "0.1", "902", "2 s", "6 s"] in rows
    best = [row for row in tree.iter("tr") if row.get("class") == "best"]
    assert [row[0].text for row in best] == ["3"]
    assert len([circle for circle in tree.iter("circle") if circle.get("class") == "best c0"]) == 2  # both forms


def test_settings_that_differ_come_first(tmp_path: Path) -> None:
    runs = find_runs([str(write_metrics(tmp_path / "a")), str(write_metrics(tmp_path / "b", lr=0.5))])
    tree = parsed(run_page(runs))
    differing = [[cell.text for cell in row] for row in tree.iter("tr") if row.get("class") == "differs"]
    assert differing == [["lr", "0.1", "0.5"]] * 2  # alone, and among all


def test_a_page_has_a_bounded_size() -> None:
    """After a hundred times as many epochs there are no more elements on the page: it costs no more to make."""
    def elements(num_epochs: int) -> int:
        run = Run("run")
        for epoch in range(num_epochs):
            add_record(run, {"kind": "train", "epoch": epoch, "loss": math.sin(epoch), "lr": 0.1, "seconds": 1.0,
                             "speed": 10.0 + epoch % 7, "accuracy": 0.5})
            add_record(run, {"kind": "validation", "epoch": epoch, "accuracy": 0.5})
            add_record(run, {"kind": "batch", "epoch": epoch, "batch": 1, "loss": 1.0, "lr": 0.1})
        page = run_page([run])
        assert len(page) < 300_000
        return len(list(parsed(page).iter()))

    assert elements(10_000) <= elements(2 * MAX_ROWS) * 1.1


@pytest.mark.parametrize("values", [
    [], [0.0], [1e-30, 1e30], [math.nan, math.nan], [math.inf, 1.0], [-5.0, -5.0], [0.1, 0.1 + 1e-12],
    [1e29, -1e30], [5e-324, 0.0], [1e-322], [2e-301]])
def test_axes_of_odd_values(values: list[float]) -> None:
    scale = axes.linear(values, floor=0.0, ceiling=1.0)
    assert scale.high > scale.low
    assert len(scale.ticks) <= 12
    scale = axes.linear(values)
    run = Run("run")
    for epoch, value in enumerate(values):
        add_record(run, {"kind": "train", "epoch": epoch,
                         **dict.fromkeys(("loss", "lr", "speed", "accuracy"), value)})
    assert charts_png([run]).startswith(b"\x89PNG")
    for chart in run_charts.draw_charts([run]):
        ET.fromstring(chart.by_epoch)
        assert "nan" not in re.sub("<title>.*?</title>|<text.*?</text>", "", chart.by_epoch)


@pytest.mark.parametrize(("values", "labels"), [
    ([0.0, 1.0], ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
    ([0, 52_000], ["0", "20k", "40k", "60k"]),
    ([0.912, 0.957], ["0.91", "0.92", "0.93", "0.94", "0.95", "0.96"]),
    ([900, 2300], ["500", "1000", "1500", "2000", "2500"]),
])
def test_marks_are_round_numbers(values: list[float], labels: list[str]) -> None:
    assert list(axes.linear(values).labels) == labels


def test_labels_do_not_stand_on_each_other() -> None:
    lines = [svg.Line(f"run {i}", [1, 2], [0.5, 0.5], i, label=f"run {i}") for i in range(6)]
    drawing = ET.fromstring(svg.line_chart(lines, axes.linear([1, 2]), axes.linear([0, 1]), title="t", x_label="x",
                                           y_label="y"))
    places = [float(text.get("y", 0)) for text in drawing.iter("text") if "label" in (text.get("class") or "")]
    assert all(b - a >= 13.9 for a, b in itertools.pairwise(places))


# While a run is under way


class Clock:
    """Time as a test wants it; each look at it while a page is made costs `cost_s`."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_pages_take_less_than_a_hundredth_of_the_time() -> None:
    """Counted and not measured: a page that costs 5 ms is made after a second, then every half a second."""
    clock, writes = Clock(), []

    def write(path: str, page: bytes) -> None:
        writes.append(clock.now_s)
        clock.now_s += 0.005

    page = LivePage("m/run-report.html", clock=clock, write=write)
    for epoch in range(1000):
        clock.now_s += 0.05
        page.add({"kind": "train", "epoch": epoch, "loss": 1.0, "accuracy": 0.5})
        assert page.refresh() == ""
    assert writes[0] == pytest.approx(1.0)
    assert 0.9 <= len(writes) * 0.005 / (0.01 * clock.now_s) <= 1.0
    assert page.close() == ""
    assert len(writes) >= 2

    slow = LivePage("m/run-report.html", clock=clock, write=write)
    before = len(writes)
    for epoch in range(10):
        clock.now_s += 10.0
        slow.add({"kind": "train", "epoch": epoch, "loss": 1.0, "accuracy": 0.5})
        slow.refresh()
    assert len(writes) == before + 10  # epochs of some length have a page each


@pytest.mark.parametrize("error", [RunError("cannot write x: no space left"), ZeroDivisionError("x")])
def test_a_page_that_cannot_be_made_ends_no_run(error: Exception) -> None:
    def write(path: str, page: bytes) -> None:
        raise error

    clock = Clock()
    page = LivePage("m/run-report.html", clock=clock, write=write)
    page.add({"kind": "train", "epoch": 0, "loss": 1.0})
    told = []
    for _ in range(3):
        clock.now_s += 100.0
        told.append(page.refresh())
    assert str(error) in told[0]
    assert told[1:] == ["", ""]
    assert page.close() == ""
    assert not page.is_written


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST's files with 128 images."""
    path = tmp_path_factory.mktemp("mnist")
    chance = np.random.default_rng(0)
    for name, count in (("train", 128), ("t10k", 32)):
        idx.write_images(path / f"{name}-images-idx3-ubyte", chance.integers(0, 255, (count, 28, 28)).astype(np.uint8))
        idx.write_labels(path / f"{name}-labels-idx1-ubyte", chance.integers(0, 10, count).astype(np.uint8))
    return path


def run_training(folder: Path, prefix: Path, *flags: str) -> int:
    return train.main(["--data-dir", str(folder), "--network", "mlp", "--batch-size", "32", "--disp-batches", "2",
                       "--model-prefix", str(prefix), *flags])


def test_a_run_leaves_its_page_and_goes_on_with_it(folder: Path, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    prefix, page = tmp_path / "net", tmp_path / "net-report.html"
    assert run_training(folder, prefix, "--num-epochs", "2") == 0
    assert f"report:     {page}\n" in capsys.readouterr().out
    first = [row[0].text for row in parsed(page.read_bytes()).iter("tr")]
    assert first[:3] == ["epoch", "1", "2"]
    assert run_training(folder, prefix, "--num-epochs", "3", "--load-epoch", "auto", "--tensorboard") == 0
    tree = parsed(page.read_bytes())
    assert [row[0].text for row in tree.iter("tr")][:4] == ["epoch", "1", "2", "3"]
    (run,) = find_runs([str(prefix)])
    elapsed = [epoch.elapsed_s for epoch in run.in_order()]
    assert elapsed == sorted(elapsed)
    assert None not in elapsed
    assert run.settings["network"] == "mlp"
    events = read_events(next((tmp_path / "net-tensorboard").iterdir()).read_bytes())
    tags = [tag for _, values in events for tag in values]
    assert [step for step, values in events if "validation/accuracy" in values] == [12]
    assert {"train/loss", "train/lr", "batch/speed"} <= set(tags)


def test_tensorboard_reads_what_is_written(folder: Path, tmp_path: Path) -> None:
    """Its own reader, over two sessions of a run: no step twice, and the numbers of metrics.jsonl."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard")
    prefix = tmp_path / "net"
    assert run_training(folder, prefix, "--num-epochs", "2", "--tensorboard") == 0
    assert run_training(folder, prefix, "--num-epochs", "3", "--load-epoch", "auto", "--tensorboard") == 0
    events = reader.EventAccumulator(f"{prefix}-tensorboard")
    events.Reload()
    lines = [json.loads(line) for line in Path(f"{prefix}-metrics.jsonl").read_text().splitlines()]
    for kind, name in (("train", "loss"), ("train", "accuracy"), ("validation", "accuracy")):
        expected = [(line["update"], pytest.approx(line[name])) for line in lines if line["kind"] == kind]
        assert [(event.step, event.value) for event in events.Scalars(f"{kind}/{name}")] == expected
        assert len(expected) == 3


def test_a_run_without_its_page(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_training(folder, tmp_path / "a", "--num-epochs", "1", "--no-report") == 0
    assert not (tmp_path / "a-report.html").exists()
    (tmp_path / "b-report.html").mkdir()
    capsys.readouterr()
    assert run_training(folder, tmp_path / "b", "--num-epochs", "2") == 0
    out, err = capsys.readouterr()
    assert err.count("b-report.html") == 1
    assert "b-report.html: is a directory; the run continues without its page" in err
    assert "report:" not in out
    assert train.main(["--dataset", "digits", "--tensorboard"]) == 2
    assert "--tensorboard needs a --model-prefix" in capsys.readouterr().err


def read_events(data: bytes) -> list[tuple[int, dict[str, float]]]:
    """Return (step, tag -> value) of each event with numbers, its checksums looked at."""
    events, offset = [], 0
    while offset < len(data):
        length, checksum = struct.unpack_from("<QI", data, offset)
        assert checksum == tensorboard.masked_crc(data[offset:offset + 8])
        body = data[offset + 12:offset + 12 + length]
        assert struct.unpack_from("<I", data, offset + 12 + length) == (tensorboard.masked_crc(body),)
        offset += length + 16
        fields = dict(protobuf(body))
        if isinstance(summary := fields.get(5), bytes):
            pairs = [dict(protobuf(value)) for _, value in protobuf(summary) if isinstance(value, bytes)]
            events.append((fields[2], {pair[1].decode(): struct.unpack("<f", pair[2])[0] for pair in pairs}))
    return events


def protobuf(data: bytes) -> list[tuple[int, Any]]:
    """Return (number, value) of the fields of a message."""
    fields, offset = [], 0

    def varint() -> int:
        nonlocal offset
        value = shift = 0
        while True:
            byte = data[offset]
            offset += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while offset < len(data):
        key = varint()
        if key & 7 == 0:
            value: Any = varint()
        else:
            size = {1: 8, 5: 4}.get(key & 7) or varint()
            value = data[offset:offset + size]
            offset += size
        fields.append((key >> 3, value))
    return fields


def test_the_checksum_of_event_files() -> None:
    # RFC 3720, B.4: the CRC32C of 32 zero bytes is 0x8a9136aa
    crc = 0x8A9136AA
    assert tensorboard.masked_crc(bytes(32)) == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


# Training images


def test_the_images_are_those_the_network_gets(folder: Path, tmp_path: Path,
                                               capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """Small images of one size, which are kept in memory: cut and mirrored as the changes say."""
    assert run_training(folder, tmp_path / "net", "--num-epochs", "1", "--pad-size", "2", "--random-crop", "1",
                        "--random-mirror", "1", "--seed", "5") == 0
    config = resolve.build({}, find.read_settings(find_runs([str(tmp_path / "net")])[0]))
    source = mnist.load(config.data).train
    samples = sheet.training_samples(source, config, 50)
    loader = make_loader(source, batch_size=32, image_shape=(1, 28, 28), seed=5, augment_config=config.augment,
                         train=True, device=torch.device("cpu"))
    fed = torch.cat([batch.images for batch in loader.epoch(0)])
    assert len(samples) == 50
    mirrored = 0
    for sample, image in zip(samples, fed, strict=False):
        assert np.abs(sample.pixels[:, :, 0] / 255 - image[0].numpy()).max() < 1e-5
        assert sample.raw is not None
        (cut,) = [change for change in sample.changes if change.startswith("cut")] or ["cut 28x28 at 0,0"]
        left, top = map(int, cut.rpartition(" ")[2].split(","))
        expected = np.pad(sample.raw[:, :, 0], 2, constant_values=127)[top:top + 28, left:left + 28]
        is_mirrored = "mirrored" in sample.changes
        mirrored += is_mirrored
        assert np.array_equal(sample.pixels[:, :, 0], expected[:, ::-1] if is_mirrored else expected)
    assert 10 < mirrored < 40
    capsysbinary.readouterr()
    assert report.main([str(tmp_path / "net"), "--images", "20", "--output", str(tmp_path / "x.html")]) == 0
    tree = parsed((tmp_path / "x.html").read_bytes())
    sources = [image.get("src", "") for image in tree.iter("img")]
    assert len(sources) == 40
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    first = cv2.imdecode(np.frombuffer(base64.b64decode(sources[0].partition(",")[2]), np.uint8), 0)
    assert np.array_equal(first, samples[0].pixels[:, :, 0])
    assert report.main([str(tmp_path / "net"), "--sheet", str(tmp_path / "x.png")]) == 0
    assert cv2.imread(str(tmp_path / "x.png")).shape[2] == 3


def test_images_of_a_folder(tmp_path: Path) -> None:
    """Photographs of many sizes, one damaged, a class with a name for HTML; the page stays within its bound."""
    chance = np.random.default_rng(0)
    for number in range(12):
        path = tmp_path / "data" / ("<b>" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = chance.integers(0, 255, (40 + number, 60, 3)).astype(np.uint8)
        path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    (tmp_path / "data" / "dog" / "0.png").write_bytes(b"no image")
    source = open_source(str(tmp_path / "data"), "data")
    config = resolve.build({"image_shape": "3,32,32", "num_classes": 2, "batch_size": 5, "random_crop": True}, {})
    samples = sheet.training_samples(source, config, 30)
    assert len(samples) == 11
    for sample in samples:
        cut = next(change for change in sample.changes if change.startswith("cut"))
        left, top = map(int, cut.rpartition(" ")[2].split(","))
        assert sample.raw is not None
        assert np.array_equal(sample.pixels, sample.raw[top:top + 32, left:left + 32])
    part = sheet.as_html(samples, "data")
    assert "<b>" not in part
    assert "&lt;b&gt;" in part
    many = sheet.as_html(samples * 300, "data")
    assert len(many) < pictures.MAX_BYTES + 1000
    assert "more would make this page too large" in many
    assert cv2.imdecode(np.frombuffer(sheet.as_png(samples), np.uint8), 1) is not None


def test_runs_whose_images_cannot_be_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old.log").write_text(GENERATIONS["0.7"])
    assert report.main([str(tmp_path / "old.log"), "--images", "3"]) == 2
    assert "--images: old.log has no -meta.json" in capsys.readouterr().err
    prefix = write_metrics(tmp_path / "a", benchmark=True)
    assert report.main([str(prefix), "--sheet", "x.png"]) == 2
    assert "was not trained on files" in capsys.readouterr().err
