"""Early stopping and the best epoch: recorded, kept, printed, and found again by a resumed run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import write_digits

from imgcls.cli import score
from imgcls.cli import train as command
from imgcls.config.sections import EarlyStoppingConfig, ReportConfig
from imgcls.storage.uploads import UploadQueue
from imgcls.training.best_epoch import BestEpoch
from imgcls.training.reporter import Reporter


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("mnist"))


def train(folder: Path, *flags: object) -> int:
    return command.main(["--data-dir", str(folder), "--batch-size", "64", "--network", "mlp", *map(str, flags)])


def decide(patience: int, *accuracies: float) -> int:
    """The epoch that training ends with, 0 where it goes on."""
    reporter = Reporter(ReportConfig(), quiet=True)
    best = BestEpoch(EarlyStoppingConfig(patience=patience, keep_best=True), {}, reporter)
    for epoch, accuracy in enumerate(accuracies, 1):
        best.note(epoch, {"accuracy": accuracy})
        if best.is_over(epoch):
            return epoch
    return 0


def test_patience() -> None:
    assert decide(2, .1, .2, .3, .3, .2, .9) == 5, "an equal one is no better"
    assert decide(2, .1, .2, .1, .3, .2) == 0
    assert decide(1, .3, .2) == 2
    assert decide(0, .3, .2, .1) == 0


def test_a_rate_of_0_is_stopped_and_the_first_epoch_was_best(digits: Path, tmp_path: Path,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    prefix = tmp_path / "m"
    flags = ("--lr", 0, "--num-epochs", 9, "--patience", 2, "--keep-best", "--save-period", 100,
             "--model-prefix", prefix)
    assert train(digits, *flags) == 0
    said = capsys.readouterr()
    assert "stopped after epoch 3: epoch 1 was best" in said.err
    assert "best:       epoch 1 was best, with validation accuracy" in said.out
    assert f"checkpoint: {prefix}-0003.params" in said.out
    # the same command again, as a scheduler gives it: each start would be an epoch more
    assert train(digits, *flags, "--load-epoch", "auto") == 0
    assert "stopped after epoch 3: epoch 1 was best" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.glob("*.params")) == ["m-0001.params", "m-0003.params"]
    noted = json.loads((tmp_path / "m-best.json").read_text())
    assert noted["epoch"] == 1
    assert list(noted["accuracies"]) == ["1", "2", "3"]
    assert score.main(["--model", str(prefix), "--load-epoch", "best", "--data-dir", str(digits)]) == 0
    assert f"{noted['accuracy']:f}" in capsys.readouterr().out
    # gone on after epoch 1, it knows of that one alone, and ends where it did
    assert train(digits, *flags, "--load-epoch", 1) == 0
    assert "stopped after epoch 3: epoch 1 was best" in capsys.readouterr().err
    (tmp_path / "m-best.json").write_text('{"accuracies": {"1": "x"}}')
    assert train(digits, *flags, "--load-epoch", 1) == 1
    assert "accuracies" in capsys.readouterr().err.splitlines()[-1]


def test_the_best_epoch_is_named_when_its_weights_are_there(digits: Path, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write = UploadQueue.write

    def note(self: UploadQueue, path: str, *pieces: bytes) -> None:
        written.append(path.rpartition("/")[2])
        write(self, path, *pieces)

    monkeypatch.setattr(UploadQueue, "write", note)
    assert train(digits, "--lr", 0, "--num-epochs", 3, "--keep-best", "--save-period", 100, "--model-prefix",
                 tmp_path / "m") == 0
    assert [name for name in written if not name.endswith(("-symbol.json", "-meta.json"))] == [
        "m-0001.states", "m-0001.params", "m-best.json", "m-best.json", "m-0003.states", "m-0003.params", "m-best.json"]


def test_validation_every_few_epochs(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = tmp_path / "m"
    flags = ("--num-epochs", 5, "--val-period", 2, "--keep-best", "--model-prefix", prefix)
    assert train(digits, *flags) == 0
    said = capsys.readouterr()
    validated = [epoch for epoch in range(5) if f"Epoch[{epoch}] Validation-accuracy" in said.err]
    assert validated == [1, 3, 4], "every second epoch, and the last"
    assert list(json.loads((tmp_path / "m-best.json").read_text())["accuracies"]) == ["2", "4", "5"]
    # the page and the metrics are of all epochs
    assert (tmp_path / "m-report.html").stat().st_size > 0
    kinds = [json.loads(line).get("kind") for line in (tmp_path / "m-metrics.jsonl").read_text().splitlines()]
    assert kinds.count("validation") == 3
    # a run that continues after epoch 3 validates in the same epochs
    assert train(digits, *flags, "--load-epoch", 3) == 0
    assert "Epoch[3] Validation-accuracy" in capsys.readouterr().err


def test_what_it_needs_is_said(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(digits, "--load-epoch", "best", "--model-prefix", tmp_path / "m") == 2
    assert "m-best.json that names an epoch; training writes it with --keep-best" in capsys.readouterr().err
    (digits / "none").mkdir(exist_ok=True)
    assert command.main(["--benchmark", "1", "--network", "mlp", "--num-examples", "64", "--num-epochs", "1",
                         "--patience", "1"]) == 2
    assert "--patience: needs validation data" in capsys.readouterr().err
