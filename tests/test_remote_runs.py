"""Data sets and checkpoints behind URLs: trained from and to, resumed, shared."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import list_names, write_digits
from faulty_server import FaultyServer

from imgcls.cli import train as train_command
from imgcls.config.sections import CheckpointConfig, DataConfig
from imgcls.datasets import mnist
from imgcls.errors import DataError, UsageError
from imgcls.storage.remote import RemotePath
from imgcls.training import checkpoint
from imgcls.training.checkpoint.files import read_latest
from imgcls.training.saver import Saver
from imgcls.training.stop import StopSignal

pytestmark = pytest.mark.usefixtures("own_cache", "short_pauses")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn digits in MNIST's files."""
    return write_digits(tmp_path_factory.mktemp("mnist"))


def train(folder: object, prefix: object, *flags: object) -> int:
    args = ("--data-dir", folder, "--model-prefix", prefix, "--batch-size", 32, "--network", "mlp",
            "--num-epochs", 2, "--save-every", 0.00001, *flags)
    return train_command.main([*map(str, args)])


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("local") / "net"
    assert train(folder, prefix) == 0
    return prefix


def test_training_from_and_to_a_url(memory: str, folder: Path, undisturbed: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    from imgcls import api
    from imgcls.training import trainer

    for path in folder.iterdir():
        RemotePath(f"{memory}/mnist/{path.name}").write_bytes(path.read_bytes())
    prefix = f"{memory}/model/net"
    original = trainer.Trainer.train_step

    def train_step(self: trainer.Trainer, batch: object, update: int) -> None:
        original(self, batch, update)  # type: ignore[arg-type]
        if update == 4:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(trainer.Trainer, "train_step", train_step)
    assert train(f"{memory}/mnist/", prefix, "--load-epoch", "auto") == 143
    positions = [name for name in list_names(prefix) if "position" in name]
    assert len(positions) == 1
    assert positions[0].startswith("net-position-00000004-")
    assert read_latest(prefix)["position"] == positions[0]
    assert train(f"{memory}/mnist/", prefix, "--load-epoch", "auto", "--log-file", f"{memory}/model/log") == 0
    for epoch in (1, 2):
        assert RemotePath(f"{prefix}-{epoch:04d}.params").read_bytes() == Path(
            f"{undisturbed}-{epoch:04d}.params").read_bytes()
    assert [name for name in list_names(prefix) if "position" not in name] == [
        "log", "net-0001.params", "net-0001.states", "net-0002.params", "net-0002.states", "net-latest.json",
        "net-meta.json", "net-metrics.jsonl", "net-report.html", "net-symbol.json"]
    count = RemotePath(f"{prefix}-metrics.jsonl").read_text().count("\n")
    assert count == Path(f"{undisturbed}-metrics.jsonl").read_text().count("\n")
    assert "Validation-accuracy" in RemotePath(f"{memory}/model/log").read_text()
    images = torch.rand(2, 1, 28, 28)
    assert torch.equal(api.load_model(prefix)(images), api.load_model(undisturbed)(images))
    message = rf"load_epoch 7: {prefix}-0007.params does not exist; there is 1, 2"
    with pytest.raises(UsageError, match=message):
        checkpoint.load(prefix, "7")


def test_a_new_run_under_an_old_prefix(memory: str, folder: Path, undisturbed: Path) -> None:
    prefix = f"{memory}/net"
    assert train(folder, prefix, "--num-epochs", 1, "--seed", 9) == 0
    RemotePath(f"{prefix}-position-00000001-dead.states").write_bytes(b"left over")
    assert train(folder, prefix) == 0
    assert RemotePath(f"{prefix}-0001.params").read_bytes() == Path(f"{undisturbed}-0001.params").read_bytes()
    positions = [name for name in list_names(prefix) if "position" in name]
    assert positions in ([], [read_latest(prefix)["position"]])


def test_a_second_run_is_noticed(memory: str, folder: Path, monkeypatch: pytest.MonkeyPatch,
                                 capsys: pytest.CaptureFixture[str]) -> None:
    begin = checkpoint.Checkpoint.begin

    def begin_twice(self: checkpoint.Checkpoint, *arguments: object, **named: object) -> None:
        begin(self, *arguments, **named)  # type: ignore[arg-type]
        other = checkpoint.Checkpoint(self.prefix)
        begin(other, *arguments, **named)  # type: ignore[arg-type]
        other.close()

    monkeypatch.setattr(checkpoint.Checkpoint, "begin", begin_twice)
    assert train(folder, f"{memory}/net") == 1
    message = "error: --model-prefix memory://bucket/net: another run has begun to write there"
    assert message in capsys.readouterr().err


def test_missing_files_of_a_data_set(memory: str, web: FaultyServer) -> None:
    for url in (f"{memory}/none", web.url):
        message = rf"^{url}/train-images-idx3-ubyte.gz: no such file, and nothing is "
        with pytest.raises(DataError, match=message):
            mnist.load(DataConfig(data_dir=url))


def test_a_mean_image_under_a_url(memory: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is kept beside the checkpoint there, and read by whoever scores, goes on or predicts."""
    from imgcls import api
    from imgcls.cli import score
    from imgcls.formats import params

    prefix = f"{memory}/model/net"
    mean = np.full((1, 28, 28), 30, np.float32)
    RemotePath(f"{memory}/mean.bin").write_bytes(b"".join(map(bytes, params.serialize(["m"], [mean], "m"))))
    assert train(folder, prefix, "--mean-image", f"{memory}/mean.bin") == 0
    accuracy = capsys.readouterr().out.split("accuracy=")[1].split()[0]
    RemotePath(f"{memory}/mean.bin").unlink()
    assert score.main(["--model", prefix, "--dataset", "mnist", "--data-dir", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert out.split("accuracy=")[1].split()[0] == accuracy
    assert f"mean {prefix}-mean.bin, std 255" in err
    assert train(folder, prefix, "--load-epoch", "auto", "--num-epochs", 3) == 0
    assert f"--mean-image {prefix}-mean.bin" in capsys.readouterr().err
    assert api.Predictor(prefix)(np.zeros((28, 28), np.uint8))
    RemotePath(f"{prefix}-mean.bin").unlink()
    with pytest.raises(DataError, match=r"net-mean\.bin: .*the mean image that"):
        api.Predictor(prefix)


def test_processes_wait_together_for_a_slow_upload() -> None:
    """A process that waits alone for its upload would count as lost after `dist_timeout`."""
    busy = [True, True, False]
    checkpoint: Any = SimpleNamespace(is_remote=True, is_busy=lambda _seconds: busy.pop(0), wait=lambda: None)
    told: list[float] = []

    def saver(checkpoint: Any, others: Callable[[], float], *, is_synchronous: bool = True) -> Saver:
        worker = SimpleNamespace(is_synchronous=is_synchronous,
                                 gather=lambda value: told.append(value) or [value, others()])
        sharing: Any = SimpleNamespace(worker=worker)
        return Saver(checkpoint, StopSignal(), sharing, CheckpointConfig())

    saver(checkpoint, lambda: 0.0).wait()
    assert told == [1, 1, 1, 0]
    assert not busy
    told.clear()
    # another process, which has no checkpoint
    of_rank_0 = [1.0, 1.0, 1.0, 0.0]
    saver(None, lambda: of_rank_0.pop(0)).wait()
    assert told == [0, 0, 0, 0]
    told.clear()
    # files on this machine, and a process by itself
    checkpoint.is_remote = False
    saver(checkpoint, lambda: 0.0).wait()
    checkpoint.is_remote = True
    saver(checkpoint, lambda: 0.0, is_synchronous=False).wait()
    assert told == [0]
