"""`imgcls-benchmark`: what is measured and how often, what is in the table, which errors are one line."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, write_digits

from imgcls.cli import benchmark
from imgcls.report import speeds
from imgcls.report.speeds import Speed
from imgcls.training import speed
from imgcls.training.trainer import Trainer

QUICK = ("--num-batches", "2", "--warm-up", "1", "--repeats", "2")
#: what benchmark_score.py logs, and people's scripts look for
MXNET_LINE = re.compile(r"INFO:root:batch size ([ 0-9]{2,}), dtype float32, images/sec: ([0-9.]+)")


def run(*argv: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = benchmark.main(argv)
    out, err = capsys.readouterr()
    return status, out, err


def test_every_network_with_every_batch_size(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run("--network", "mlp,lenet", "--batch-size", "1,2", *QUICK, "--format", "json", capsys=capsys)
    assert status == 0
    result = json.loads(out)
    assert result["mode"] == "score"
    assert result["device"].startswith("cpu (")
    assert [(row["name"], row["batch_size"]) for row in result["rows"]] == [
        ("mlp", 1), ("mlp", 2), ("lenet", 1), ("lenet", 2)]
    for row in result["rows"]:
        assert len(row["repeats"]) == 2
        assert min(row["repeats"]) <= row["images_per_s"] <= max(row["repeats"])
        assert row["ms_per_batch"] > 0
        assert row["peak_bytes"] is None or row["peak_bytes"] > 0
    assert {row["name"]: row["parameters"] for row in result["rows"]} == {"mlp": 109386, "lenet": 431080}
    lines = err.splitlines()
    assert lines[:2] == ["INFO:root:network: mlp", "INFO:root:device: cpu(0)"]
    measured = [MXNET_LINE.fullmatch(line) for line in lines if "batch" in line]
    assert [match and match[1].strip() for match in measured] == ["1", "2", "1", "2"]


def test_the_warm_up_is_not_timed() -> None:
    calls = []

    def step() -> int:
        calls.append(0)
        return 3

    rates, seconds = speed.time_batches(step, torch.device("cpu"), speed.Plan(4, 5, 2))
    assert len(calls) == 4 + 5 * 2
    assert len(rates) == len(seconds) == 2


def test_a_gpu_is_asked_for_its_own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one at hand: the events stand around the batches that are timed, and are waited for."""
    told: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            told.append("record")

        def synchronize(self) -> None:
            told.append("wait")

        def elapsed_time(self, end: Event) -> float:
            assert end is not self
            return 500.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: told.append("idle"))

    def step() -> int:
        told.append("step")
        return 8

    rates, seconds = speed.time_batches(step, torch.device("cuda", 0), speed.Plan(1, 2, 1))
    assert told == ["step", "idle", "record", "step", "step", "record", "wait"]
    assert rates == [32.0]
    assert seconds == [0.25]


def test_training_takes_the_trainers_own_steps(capsys: pytest.CaptureFixture[str],
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    updates: list[int] = []
    step = Trainer.train_step
    monkeypatch.setattr(Trainer, "train_step", lambda self, batch, update: (
        updates.append(update), step(self, batch, update))[1])
    status, out, _ = run("--mode", "train", "--network", "mlp", "--batch-size", "4", *QUICK, "--format", "json",
                         "--optimizer", "adam", capsys=capsys)
    assert status == 0
    assert updates == [1, 2, 3, 4, 5]
    assert len(json.loads(out)["rows"]) == 1


def test_the_loader_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_digits(tmp_path)
    status, out, err = run("--mode", "loader", "--dataset", "mnist", "--data-dir", str(tmp_path), "--batch-size", "200",
                           "--threads", "0,1", *QUICK, "--format", "json", capsys=capsys)
    assert status == 0, err
    rows = json.loads(out)["rows"]
    assert [(row["threads"], row["batch_size"], row["parameters"]) for row in rows] == [(0, 200, None), (1, 200, None)]
    assert re.search(r"INFO:root:batch size 200, threads 1, images/sec: [0-9.]+", err)


def test_the_table_is_aligned() -> None:
    rows = [Speed("lenet", "1,28,28", 1, "float32", None, (1.0, 3.0, 2.0), (1.0, 0.3, 0.5), 1000, 10**9),
            Speed("resnet-152", "3,224,224", 256, "float32", parameters=0, note="out of memory")]
    lines = speeds.as_text(rows, "device: cpu").splitlines()
    assert lines[0] == "device: cpu"
    assert lines[1].split() == ["network", "input", "batch", "dtype", "images/s", "spread", "ms/batch", "parameters",
                                "memory"]
    assert lines[2].split() == ["lenet", "1,28,28", "1", "float32", "2", "+-50.0", "%", "500", "1,000", "1,000", "MB"]
    assert len(lines[1]) == len(lines[2])
    assert lines[3].endswith("float32  out of memory")
    assert lines[1].index("batch") + 5 == lines[3].index("256") + 3
    assert rows[0].spread == 0.5
    assert Speed("lenet", "1,28,28", 1, "float32", None, (1.0,), (1.0,)).spread is None
    assert "nothing was measured" in speeds.as_text([], "device: cpu")


def test_csv_has_a_line_for_each_row(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "new" / "speeds.csv"
    status, out, _ = run("--network", "mlp", "--batch-size", "1,2", *QUICK, "--format", "csv", "--output", str(path),
                         capsys=capsys)
    assert status == 0
    assert out == f"{path}\n"
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert [(row["mode"], row["name"], row["batch_size"]) for row in rows] == [("score", "mlp", "1"),
                                                                                ("score", "mlp", "2")]
    assert all(len(row["repeats"].split()) == 2 and float(row["images_per_s"]) > 0 for row in rows)


def test_a_batch_too_large_is_one_row(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where torch says so in the middle of it; what comes after is measured."""
    for mode in ("score", "train"):
        status, out, err = run("--mode", mode, "--network", "lenet", "--batch-size", "9999999,1", *QUICK, "--format",
                               "json", capsys=capsys)
        assert status == 0
        rows = json.loads(out)["rows"]
        assert [(row["note"], len(row["repeats"])) for row in rows] == [("out of memory", 0), ("", 2)]
        assert "INFO:root:batch size 9999999, dtype float32, out of memory" in err


def test_torch_without_memory_is_one_row(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "time_batches", lambda *_: (_ for _ in ()).throw(
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")))
    status, out, _ = run("--network", "mlp", "--batch-size", "1", *QUICK, capsys=capsys)
    assert status == 0
    assert out.splitlines()[-1].endswith("out of memory")
    monkeypatch.setattr(speed, "time_batches", lambda *_: (_ for _ in ()).throw(RuntimeError("another mistake")))
    status, _, err = run("--network", "mlp", "--batch-size", "1", *QUICK, capsys=capsys)
    assert status == 1
    assert "another mistake" in err


def test_ctrl_c_prints_what_there_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    measure = speed.measure_network

    def interrupted(config: Any, network: Any, size: int, *rest: Any, **options: Any) -> Speed:
        if size == 2:
            raise KeyboardInterrupt
        return measure(config, network, size, *rest, **options)

    monkeypatch.setattr(speed, "measure_network", interrupted)
    status, out, err = run("--network", "mlp", "--batch-size", "1,2,3", *QUICK, "--format", "json", capsys=capsys)
    assert status == 130
    assert [row["batch_size"] for row in json.loads(out)["rows"]] == [1]
    assert err.endswith("imgcls-benchmark: interrupted\n")


def test_a_file_that_cannot_be_written_loses_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = str(tmp_path / "file" / "speeds.json")
    status, out, err = run("--network", "mlp", "--batch-size", "1", *QUICK, "--format", "json", "-o", path,
                           capsys=capsys)
    assert status in (1, 2)
    assert len(json.loads(out)["rows"]) == 1
    assert err.splitlines()[-1].startswith("imgcls-benchmark: error: ")


def test_mxnets_networks_and_sizes_are_the_default(capsys: pytest.CaptureFixture[str],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    def pretended(_config: Any, network: Any, size: int, dtype: str, *_rest: Any, **_options: Any) -> Speed:
        shape = ",".join(map(str, network.image_shape))
        return Speed(speed.network_name(network), shape, size, dtype, None, (1.0,), (1.0,), network.num_classes)

    monkeypatch.setattr(speed, "measure_network", pretended)
    monkeypatch.setattr("imgcls.networks.check_network", lambda _network: None)
    _, out, err = run("--format", "json", capsys=capsys)
    rows = json.loads(out)["rows"]
    assert {row["batch_size"] for row in rows} == {1, 32, 64, 128, 256}
    assert len(rows) == 12 * 5
    assert {row["parameters"] for row in rows} == {1000}
    large = {row["name"] for row in rows if row["image_shape"] == "3,299,299"}
    assert large == {"inception-v3", "inception-v4"}
    assert {row["image_shape"] for row in rows} == {"3,299,299", "3,224,224"}
    assert {"vgg-16", "resnetv1-50", "resnet-152", "torchvision:densenet121", "torchvision:squeezenet1_1"} <= {
        row["name"] for row in rows}
    assert err.count("INFO:root:network: ") == 12
    # a beginning of a flag, and what a user sets for all networks
    _, out, _ = run("--net", "resnet-50", "--batch", "7", "--image-shape", "3,32,32", "--format", "json", capsys=capsys)
    assert [(row["image_shape"], row["batch_size"], row["parameters"]) for row in json.loads(out)["rows"]] == [
        ("3,32,32", 7, 10)]


@pytest.mark.parametrize(("arguments", "message"), [
    ("--network nosuch", "--networks nosuch is not known"),
    ("--network vgg-12", "--num-layers 12: vgg comes with 11, 13, 16 or 19"),
    ("--network ,", "--networks: must be names"),
    ("--network lenet --image-shape 1,2,2", "--image-shape 1,2,2"),
    ("--network torchvision:nosuch", "torchvision has no such network"),
    ("--batch-size x", "--batch-sizes x: must be a whole number"),
    ("--batch-size 1,0", "--batch-sizes 0: must be at least 1"),
    ("--batch-size 1,99999999999", "--batch-sizes 99999999999: must be at most"),
    ("--batch-size ,", "--batch-sizes ,: must be whole numbers"),
    ("--dtype int8", "--dtypes int8: must be float32"), ("--dtype ,", "--dtypes ,: must be float32"),
    ("--dtype float16", "--dtypes float16: is measured on a GPU only; name one with --gpus"),
    ("--mode fast", "--mode fast is not known"),
    ("--repeats 0", "--repeats 0: must be at least 1"),
    ("--mode train --threads 2", "--threads: has no effect with --mode train"),
    ("--network lenet --data-train x.rec", "--data-train: has no effect with --mode score"),
    ("--mode loader", "--data-train is missing"),
    ("--mode loader --data-train /no/such.rec", "/no/such.rec"),
    ("--mode loader --dataset digits --threads 1,9999", "--threads 9999: must be at most"),
    ("--mode loader --dataset digits --network lenet", "--networks: has no effect with --mode loader"),
    ("--output /", "-o /: is a folder"),
])
def test_what_is_wrong_ends_in_a_line(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(*arguments.split(), capsys=capsys)
    assert status == 2
    assert out == ""
    assert err.startswith("imgcls-benchmark: error: ")
    assert err.count("\n") == 1
    assert message in err


def test_mxnets_script_is_there_and_quick() -> None:
    code = "import runpy, sys; sys.argv = ['benchmark_score.py', '--help']\n" \
           "try: runpy.run_path('scripts/benchmark_score.py', run_name='__main__')\n" \
           "except SystemExit: assert 'torch' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "--network NAMES" in result.stdout
    assert (ROOT / "scripts/benchmark_score.py").stat().st_mode & 0o111
