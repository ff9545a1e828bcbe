"""The command as a user runs it: what it prints, what it writes, how it stops, resumes and refuses."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, run_cli

from imgcls.cli import score
from imgcls.cli import train as command
from imgcls.formats import idx, params
from imgcls.training import checkpoint

COUNT = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Idx files of a few hundred pictures: a bright square whose place is the class."""
    path = tmp_path_factory.mktemp("mnist")
    chance = np.random.default_rng(0)
    for name, count in (("train", COUNT), ("t10k", 100)):
        labels = chance.integers(0, 10, count).astype(np.uint8)
        images = chance.integers(0, 120, (count, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, column = 4 + 10 * (label // 5), 1 + 5 * (label % 5)
            image[row:row + 6, column:column + 5] += 100
        idx.write_images(path / f"{name}-images-idx3-ubyte", images)
        idx.write_labels(path / f"{name}-labels-idx1-ubyte", labels)
    return path


def train(folder: Path, *flags: object) -> int:
    return command.main(["--data-dir", str(folder), "--batch-size", "32", "--disp-batches", "4",
                         *map(str, flags)])


def weights(prefix: Path, epoch: int) -> bytes:
    return Path(f"{prefix}-{epoch:04d}.params").read_bytes()


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of the error; what was said before it does not count."""
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text.splitlines()[-1]


# ---- what it prints and writes


def test_an_optimizer_without_state_writes_no_empty_tensor_file(folder: Path,
                                                                tmp_path: Path) -> None:
    """safetensors 0.4 writes what it cannot read where there is no tensor."""
    assert train(folder, "--model-prefix", tmp_path / "net", "--num-epochs", 1, "--mom", 0) == 0
    assert (tmp_path / "net-0001.states").read_bytes()[8:11] != b"{},"
    saved = checkpoint.load(str(tmp_path / "net"), "auto")
    assert saved
    assert saved.optimizer == {}


def test_the_log_has_mxnets_lines(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = tmp_path / "new" / "mnist"
    assert train(folder, "--num-epochs", 2, "--model-prefix", prefix, "--lr-step-epochs", 1, "--top-k", 3,
                 "--loss", "ce,nll") == 0
    out, err = capsys.readouterr()
    lines = [line.removeprefix("INFO:root:") for line in err.splitlines() if line.startswith("INFO:root:")]
    assert lines[0].startswith("start with arguments Namespace(")
    metrics = ["accuracy", "top_k_accuracy_3", "cross-entropy", "nll-loss"]
    progress = r"Epoch\[0\] Batch \[\d+-\d+\]\tSpeed: \d+\.\d\d samples/sec" + "".join(
        rf"\t{name}=\d+\.\d{{6}}" for name in metrics)
    expected = [progress] * 3 + [rf"Epoch\[0\] Train-{name}=\d\.\d{{6}}" for name in metrics] + [
        r"Epoch\[0\] Time cost=\d+\.\d{3}", re.escape(f'Saved checkpoint to "{prefix}-0001.params"')] + [
        rf"Epoch\[0\] Validation-{name}=\d\.\d{{6}}" for name in metrics] + [
        r"Update\[14\]: Change learning rate to 5\.00000e-03"]
    for line, pattern in zip(lines[1:], expected, strict=False):
        assert re.fullmatch(pattern, line), (line, pattern)
    assert [re.search(r"\[(\d+-\d+)\]\t", line)[1] for line in lines[1:4]] == ["0-4", "4-8", "8-12"]
    assert "mlp, input 1,28,28, 109 k parameters, 218 k FLOPs" in err
    assert "400 images, 100 for validation, 10 classes" in err
    assert f"checkpoint: {prefix}-0002.params" in out
    assert re.search(r"resume: .*--load-epoch auto --num-epochs 4", out)
    names = {path.name for path in prefix.parent.iterdir()}
    assert names == {"mnist-symbol.json", "mnist-0001.params", "mnist-0002.params", "mnist-0001.states",
                     "mnist-0002.states", "mnist-meta.json", "mnist-metrics.jsonl", "mnist-report.html"}
    records = [json.loads(line) for line in Path(f"{prefix}-metrics.jsonl").read_text().splitlines()]
    assert [r["kind"] for r in records] == (["batch"] * 3 + ["train", "validation"]) * 2
    meta = checkpoint.read_meta(str(prefix))
    assert meta["class_names"] == [str(d) for d in range(10)]
    assert meta["preprocessing"] == {"image_shape": [1, 28, 28], "mean": [0.0], "std": [255.0],
                                     "mean_image": None, "val_resize": 0,
                                     "interpolation": "bilinear", "channels": "grey", "range": "0-255"}


def test_train_accuracy_covers_the_epoch(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(folder, "--num-epochs", 1, "--disp-batches", 1, "--lr", 0.0) == 0
    err = capsys.readouterr().err
    parts = [float(value) for value in re.findall(r"Batch \[.*accuracy=(\S+)", err)]
    # the first line covers two batches, as in MXNet; the last batch is the rest
    sizes = [64] + [32] * 10 + [16]
    mean_accuracy = sum(a * n for a, n in zip(parts, sizes, strict=True)) / COUNT
    assert float(re.search(r"Train-accuracy=(\S+)", err)[1]) == pytest.approx(mean_accuracy, abs=1e-5)
    assert "warning: --lr 0: nothing will be learned" in err


@pytest.mark.slow
def test_the_bar_on_a_terminal(folder: Path) -> None:
    """Run on a pseudo terminal: a bar with speed, loss and accuracy, and one line an epoch; no log lines."""
    import fcntl
    import os
    import pty
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 150, 0, 0))
    argv = [sys.executable, "-m", "imgcls", "train", "--data-dir", folder, "--num-epochs", "1",
            "--disp-batches", "2"]
    process = subprocess.Popen(argv, stderr=slave, stdout=slave, cwd=ROOT)
    os.close(slave)
    chunks = []
    with contextlib.suppress(OSError):  # the other end is closed when the process ends
        while chunk := os.read(master, 65536):
            chunks.append(chunk)
    os.close(master)
    assert process.wait() == 0
    text = b"".join(chunks).decode()
    assert "INFO:root" not in text
    assert re.search(r"epoch 1/1: +\d+%.*batch/s, .*img/s, loss \d\.\d+, accuracy \d\.\d+", text)
    assert re.search(r"epoch 1: \d+\.\d s, [\d,]+ img/s, loss \d\.\d+, train accuracy \d\.\d+, validation accuracy",
                     text)


def test_log_file_has_the_first_generations_prefix(folder: Path, tmp_path: Path) -> None:
    assert train(folder, "--num-epochs", 1, "--log-file", "run.log", "--log-dir", tmp_path / "logs") == 0
    text = (tmp_path / "logs" / "run.log").read_text()
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} Node\[0\] Epoch\[0\] Train-accuracy=", text,
                     re.MULTILINE)


def test_the_monitor_numbers_several_outputs() -> None:
    from imgcls import graph
    from imgcls.layers import ElementwiseAdd, FullyConnected
    from imgcls.layers.operation import Operation
    from imgcls.training.monitor import Monitor

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.plus = FullyConnected(4, 6), ElementwiseAdd()
            self.split = Operation("SliceChannel", num_outputs=2)
            torch.nn.init.ones_(self.fc1.weight)

        def forward(self, data: torch.Tensor) -> torch.Tensor:
            return self.plus(*self.split(self.fc1(data)))

    model = Net()
    monitor = Monitor(model, graph.parameter_names(model))
    monitor.begin()
    model(torch.ones(2, 4)).sum().backward()
    names = [line.split()[2] for line in monitor.end(1)]
    outputs = ["fc1_output", "split_output0", "split_output1", "plus_output"]
    assert names == [*outputs, *(name.replace("_output", "_backward_output") for name in outputs),
                     "fc1_weight", "fc1_weight_grad", "fc1_bias", "fc1_bias_grad"]


def test_monitor_test_io_and_benchmark(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(folder, "--num-epochs", 1, "--monitor", 10) == 0
    lines = re.findall(r"INFO:root:(Batch: +10 .*)", capsys.readouterr().err)
    names = [line.split()[2] for line in lines]
    assert names[:7] == ["flatten0_output", "fc1_output", "relu1_output", "fc2_output", "relu2_output",
                         "fc3_output",
                         "fc1_backward_output"]
    assert {"fc1_weight", "fc1_weight_grad", "fc3_bias"} <= set(names)
    assert all(float(line.split()[3]) >= 0 for line in lines)
    assert train(folder, "--test-io", 1) == 0
    out, err = capsys.readouterr()
    assert re.search(r"INFO:root:Batch \[3\]\tSpeed: \d+\.\d\d samples/sec", err)
    assert out.startswith("400 samples in 13 batches")
    assert train(folder, "--benchmark", 1, "--num-examples", 128, "--num-epochs", 1) == 0
    assert "random noise (--benchmark): 128 images" in capsys.readouterr().err


# ---- resuming


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("whole") / "net"
    assert train(folder, "--network", "lenet", "--num-epochs", 3, "--model-prefix", prefix,
                 "--optimizer", "nag") == 0
    return prefix


def test_resume_after_an_epoch_gives_the_same_bytes(folder: Path, undisturbed: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "net"
    flags = ("--network", "lenet", "--model-prefix", prefix, "--optimizer", "nag")
    assert train(folder, *flags, "--num-epochs", 1) == 0
    assert train(folder, *flags, "--num-epochs", 3, "--load-epoch", "0001", "--data-nthreads", 1) == 0
    assert weights(prefix, 3) == weights(undisturbed, 3)


@pytest.mark.slow
def test_resume_from_inside_an_epoch_gives_the_same_bytes(folder: Path, undisturbed: Path, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    """SIGTERM at three places; also the log goes on as if nothing had been."""
    from imgcls.training import trainer
    from imgcls.training.stop import StopSignal

    prefix = tmp_path / "net"
    flags = ("--network", "lenet", "--model-prefix", prefix, "--optimizer", "nag", "--num-epochs", 3,
             "--load-epoch", "auto")
    steps = iter([5, 8, 20])
    original = trainer.Trainer.train_step
    stops: list[StopSignal] = []
    entered = StopSignal.__enter__
    monkeypatch.setattr(StopSignal, "__enter__", lambda self: stops.append(entered(self)) or self)

    def train_step(self: trainer.Trainer, batch: object, update: int) -> None:
        original(self, batch, update)
        if update == self.stop_at:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(trainer.Trainer, "train_step", train_step)
    for at in steps:
        monkeypatch.setattr(trainer.Trainer, "stop_at", at, raising=False)
        assert train(folder, *flags) == 143
        assert f"batch {at % 13 or 13}; the position was saved" in error_of(capsys)
        assert Path(f"{prefix}-position.states").exists()
    monkeypatch.setattr(trainer.Trainer, "stop_at", 0, raising=False)
    assert train(folder, *flags) == 0
    assert weights(prefix, 3) == weights(undisturbed, 3)
    assert not Path(f"{prefix}-position.states").exists()

    def epochs(path: Path) -> list[dict[str, float]]:
        records = map(json.loads, Path(f"{path}-metrics.jsonl").read_text().splitlines())
        return [{k: v for k, v in r.items() if k not in ("seconds", "speed", "elapsed_s")} for r in records]
    assert epochs(prefix) == epochs(undisturbed)


@pytest.mark.slow
def test_kill_9_at_any_moment(folder: Path, undisturbed: Path, tmp_path: Path) -> None:
    """A process of its own, killed twice without warning while it saves after every step."""
    prefix = tmp_path / "net"
    flags = ["--network", "lenet", "--model-prefix", prefix, "--optimizer", "nag", "--num-epochs", "3",
             "--data-dir", folder, "--batch-size", "32", "--load-epoch", "auto", "--save-every", "0.00001"]
    argv = [sys.executable, "-m", "imgcls", "train", *map(str, flags)]
    for wait_for in (0.15, 0.4):
        process = subprocess.Popen(argv, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=ROOT)
        before = _stamp(prefix)
        while process.poll() is None and _stamp(prefix) == before:
            time.sleep(0.01)
        time.sleep(wait_for)
        process.kill()
        process.wait()
    assert run_cli("train", *flags).returncode == 0
    assert weights(prefix, 3) == weights(undisturbed, 3)


def _stamp(prefix: Path) -> float:
    path = Path(f"{prefix}-position.states")
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def test_auto_ignores_an_earlier_run(folder: Path, tmp_path: Path,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    prefix = tmp_path / "net"
    assert train(folder, "--num-epochs", 2, "--model-prefix", prefix) == 0
    capsys.readouterr()
    assert train(folder, "--num-epochs", 1, "--seed", 5, "--model-prefix", prefix) == 0
    assert "from an earlier run and will be overwritten" in capsys.readouterr().err
    saved = checkpoint.load(str(prefix), "auto")
    assert saved is not None
    assert saved.position.epoch == 1
    assert checkpoint.load(str(tmp_path / "nothing"), "auto") is None


def test_keep_states_and_save_period(folder: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "net"
    assert train(folder, "--num-epochs", 5, "--model-prefix", prefix, "--save-period", 2,
                 "--keep-states", 1) == 0
    weights_files = sorted(p.name for p in tmp_path.glob("*.params"))
    assert weights_files == ["net-0002.params", "net-0004.params", "net-0005.params"]
    assert sorted(p.name for p in tmp_path.glob("*.states")) == ["net-0005.states"]


def test_weights_of_mxnets_first_generation_and_of_mxnet_itself(folder: Path, undisturbed: Path,
                                                                tmp_path: Path,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    """`prefix-0-0008.params` without states resumes at the right epoch with a fresh optimizer."""
    (tmp_path / "old-0-0008.params").write_bytes(weights(undisturbed, 3))
    assert train(folder, "--network", "lenet", "--model-prefix", tmp_path / "old",
                 "--save-model-prefix", tmp_path / "new", "--load-epoch", 8, "--num-epochs", 9,
                 "--lr-step-epochs", "4,8") == 0
    err = capsys.readouterr().err
    assert f"Loaded model {tmp_path / 'old-0'}_0008.params" in err
    assert "Adjust learning rate to 5.000000e-04 for epoch 8" in err
    assert (tmp_path / "new-0009.params").exists()
    assert not (tmp_path / "old-0009.params").exists()


def test_another_optimizer_starts_afresh(folder: Path, tmp_path: Path,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    prefix = tmp_path / "net"
    assert train(folder, "--num-epochs", 1, "--model-prefix", prefix) == 0
    assert train(folder, "--num-epochs", 2, "--model-prefix", prefix, "--load-epoch", "auto",
                 "--optimizer", "adam",
                 "--lr", ".001") == 0
    assert "warning: --optimizer adam: the checkpoint was trained with SGD" in capsys.readouterr().err


def test_nothing_to_train_is_a_warning(folder: Path, undisturbed: Path,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    assert train(folder, "--network", "lenet", "--model-prefix", undisturbed, "--load-epoch", 3,
                 "--num-epochs", 3) == 0
    assert "warning: nothing to train: 3 epochs are done" in capsys.readouterr().err


def test_suspicious_settings_are_warned_about(folder: Path, tmp_path: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    images = idx.read_images(folder / "train-images-idx3-ubyte")
    labels = idx.read_labels(folder / "train-labels-idx1-ubyte")
    for name, order in (("train", np.argsort(labels, kind="stable")), ("t10k", slice(50))):
        idx.write_images(tmp_path / f"{name}-images-idx3-ubyte", images[order])
        idx.write_labels(tmp_path / f"{name}-labels-idx1-ubyte", labels[order])
    assert train(tmp_path, "--num-epochs", 1, "--num-examples", 60000, "--num-layers", 50) == 0
    err = capsys.readouterr().err
    assert "warning: the training data is sorted by class" in err
    assert "warning: --num-examples 60000: there are 400" in err
    assert "warning: --num-layers 50: mlp comes in one depth only" in err
    assert train(folder, "--num-epochs", 1) == 0
    assert "warning" not in capsys.readouterr().err


def test_scoring_gives_the_validation_accuracy(folder: Path, undisturbed: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    records = map(json.loads, Path(f"{undisturbed}-metrics.jsonl").read_text().splitlines())
    accuracy = [r["accuracy"] for r in records if r["kind"] == "validation"][-1]
    assert score.main(["--model", str(undisturbed), "--data-dir", str(folder)]) == 0
    assert f"accuracy={accuracy:f}" in capsys.readouterr().out


# ---- bad input: one line, the right status, nothing lost


@pytest.mark.parametrize(("flags", "status", "message"), [
    (["--gpus", "0"], 2, "--gpus 0: no GPU was found"),
    (["--kv-store", "dist"], 2, "take dist_sync"),
    (["--kv-store", "distsync"], 2, "did you mean dist_sync"),
    (["--num-classes", "5"], 2, "labels"),
    (["--load-epoch", "3"], 2, "needs the --model-prefix"),
    (["--network", "lenet", "--image-shape", "1,8,8"], 2, "--image-shape 1,8,8"),
    (["--network", "mlp", "--optimizer", "lbnag"], 2, "take nag with --warmup-epochs"),
    (["--top-k", "1"], 2, "--top-k 1"),
    (["--network", "mlp", "--add-stn"], 2, "--add-stn True: mlp has no such option"),
    (["--network", "mlp", "--model-parallel", "2"], 2, "mlp has no such option; it is for alexnet-towers"),
    (["--log-dir", "somewhere"], 2, "--log-dir somewhere: needs the --log-file"),
    (["--network", "torchvision:resnet18", "--initializer", "xavier"], 2, "initialises itself"),
])
def test_wrong_usage(folder: Path, capsys: pytest.CaptureFixture[str], flags: Sequence[str], status: int,
                     message: str) -> None:
    if flags[0] == "--gpus":
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
    assert train(folder, "--num-epochs", 1, *flags) == status
    assert message in error_of(capsys)


def test_a_checkpoint_of_another_network(folder: Path, undisturbed: Path,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    assert train(folder, "--network", "mlp", "--model-prefix", undisturbed, "--load-epoch", 3,
                 "--num-epochs", 4) == 1
    line = error_of(capsys)
    assert "fc1_weight" in line
    assert f"{undisturbed}-0003.params" in line


def test_a_checkpoint_cut_short(folder: Path, undisturbed: Path, tmp_path: Path,
                                capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net-0003.params").write_bytes(weights(undisturbed, 3)[:5000])
    assert train(folder, "--network", "lenet", "--model-prefix", tmp_path / "net", "--load-epoch", 3) == 1
    assert re.search(r"net-0003.params at byte \d+: ", error_of(capsys))


def test_an_epoch_that_is_not_there_names_those_that_are(folder: Path, undisturbed: Path,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    assert train(folder, "--model-prefix", undisturbed, "--load-epoch", 9) == 2
    assert "there is 1, 2, 3" in error_of(capsys)


def test_damaged_states(folder: Path, undisturbed: Path, tmp_path: Path,
                        capsys: pytest.CaptureFixture[str]) -> None:
    foreign = Path(f"{undisturbed}-0002.states").read_bytes()
    for content, message in ((b"\x00" * 4, "cut short"), (foreign, "other weights")):
        (tmp_path / "net-0003.params").write_bytes(weights(undisturbed, 3))
        (tmp_path / "net-0003.states").write_bytes(content)
        assert train(folder, "--network", "lenet", "--model-prefix", tmp_path / "net", "--load-epoch", 3) == 1
        assert message in error_of(capsys)


def test_a_folder_that_cannot_be_written(folder: Path, tmp_path: Path,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert train(folder, "--model-prefix", tmp_path / "file" / "net") == 1
    assert "--model-prefix" in error_of(capsys)


def test_a_full_disk_leaves_the_last_checkpoint(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    import errno
    import os

    prefix = tmp_path / "net"
    assert train(folder, "--num-epochs", 1, "--model-prefix", prefix) == 0
    before = weights(prefix, 1)

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "fsync", full)
    assert train(folder, "--num-epochs", 1, "--model-prefix", prefix) == 1
    assert "no space left on the device" in error_of(capsys)
    assert weights(prefix, 1) == before
    assert not list(tmp_path.glob(".*tmp"))


def test_two_runs_cannot_share_a_prefix(folder: Path, tmp_path: Path,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    other_run = checkpoint.Checkpoint(str(tmp_path / "net"))
    try:
        assert train(folder, "--num-epochs", 1, "--model-prefix", tmp_path / "net") == 1
        assert "another run is writing there" in error_of(capsys)
    finally:
        other_run.close()
    assert train(folder, "--num-epochs", 1, "--model-prefix", tmp_path / "net") == 0


def test_a_loss_that_is_no_number_stops_the_run(folder: Path, tmp_path: Path,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    prefix = tmp_path / "net"
    assert train(folder, "--num-epochs", 1, "--model-prefix", prefix) == 0
    assert train(folder, "--num-epochs", 3, "--model-prefix", prefix, "--load-epoch", 1, "--lr", 1e6) == 1
    line = error_of(capsys)
    assert re.search(r"the loss is (nan|inf) at update \d+ \(epoch 1, ", line)
    assert f"the last checkpoint is {prefix}-0001.params" in line
    assert {p.name for p in tmp_path.glob("*.params")} == {"net-0001.params"}
    assert all(np.isfinite(a).all() for a in params.load(f"{prefix}-0001.params").values())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_learns_and_resumes(folder: Path, tmp_path: Path, dtype: str) -> None:
    uninterrupted, resumed = tmp_path / "whole", tmp_path / "parts"
    flags = ("--dtype", dtype, "--lr", "0.02")
    assert train(folder, *flags, "--num-epochs", 3, "--model-prefix", uninterrupted) == 0
    assert train(folder, *flags, "--num-epochs", 1, "--model-prefix", resumed) == 0
    assert train(folder, *flags, "--num-epochs", 3, "--model-prefix", resumed, "--load-epoch", "auto") == 0
    assert weights(uninterrupted, 3) == weights(resumed, 3)
    assert {a.dtype for a in params.load(f"{uninterrupted}-0003.params").values()} == {np.dtype("float32")}
    last = [json.loads(line) for line in Path(f"{uninterrupted}-metrics.jsonl").read_text().splitlines()][-1]
    assert last["accuracy"] > 0.5
