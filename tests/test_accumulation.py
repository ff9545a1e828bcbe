"""Gradients of several batches in one step: those of one large batch, and resumed to the bit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import run_cli, write_digits

from imgcls.cli import train as command
from imgcls.data.loaders.batch import Batch
from imgcls.errors import LostDataError
from imgcls.formats import params
from imgcls.training.accumulation import Accumulation


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("mnist"))


def train(folder: Path, prefix: Path, *flags: object) -> dict[str, np.ndarray]:
    assert command.main(["--data-dir", str(folder), "--network", "mlp", "--model-prefix", str(prefix),
                         *map(str, flags)]) == 0
    return params.load(f"{prefix}-0002.params")


def test_windows_end_with_the_epoch() -> None:
    loader = SimpleNamespace(num_samples=45, batch_size=10, batches_per_epoch=5)
    windows = [Accumulation(2, loader).window(update) for update in range(1, 11)]  # type: ignore[arg-type]
    assert [window.is_first for window in windows] == [True, False, True, False, True] * 2
    assert [window.is_last for window in windows] == [False, True, False, True, True] * 2
    assert [window.share for window in windows] == [0.5, 0.5, 0.5, 0.5, 1.0] * 2
    whole = [Accumulation(9, loader).window(update) for update in range(1, 6)]  # type: ignore[arg-type]
    assert sum(window.share for window in whole) == pytest.approx(1)
    assert whole[-1].share == pytest.approx(5 / 45)


def test_it_is_one_large_batch(digits: Path, tmp_path: Path) -> None:
    """320 images in batches of 96: the last has 32, and counts a third of the others."""
    common = ("--num-epochs", 2, "--lr", "0.1", "--lr-factor", 1)
    large = train(digits, tmp_path / "large", "--batch-size", 320, *common)
    parts = train(digits, tmp_path / "parts", "--batch-size", 96, "--accumulate", 4, *common)
    for name, value in large.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    micro = train(digits, tmp_path / "micro", "--batch-size", 96, "--accumulate", 4, "--micro-batches", 2, *common)
    for name, value in large.items():
        np.testing.assert_allclose(micro[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_macrobatch_of_lbsgd_is_one_large_batch_of_sgd(digits: Path, tmp_path: Path) -> None:
    large = train(digits, tmp_path / "large", "--num-epochs", 2, "--lr-factor", 1, "--batch-size", 320, "--lr", 0.2)
    macro = train(digits, tmp_path / "macro", "--num-epochs", 2, "--lr-factor", 1, "--batch-size", 80, "--lr", 0.05,
                  "--optimizer", "lbsgd", "--macrobatch-size", 300)
    for name, value in large.items():
        np.testing.assert_allclose(macro[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_two_processes_are_as_one(digits: Path, tmp_path: Path) -> None:
    common = ("--num-epochs", 2, "--batch-size", 64, "--accumulate", 3, "--clip-norm", 1)
    one = train(digits, tmp_path / "one", "--micro-batches", 2, *common)
    done = run_cli("train", "--data-dir", digits, "--network", "mlp", "--model-prefix", tmp_path / "two",
                   "--workers-per-host", 2, *common, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    two = params.load(tmp_path / "two-0002.params")
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_position_is_saved_between_two_steps(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was asked in the middle of a step waits for its end, so that no gradient is lost."""
    from imgcls.training import trainer

    seen = []
    handle = trainer.Trainer.handle_stop_request

    def note(self: trainer.Trainer) -> None:
        seen.append((self.position.epoch, self.position.batch))
        handle(self)

    monkeypatch.setattr(trainer.Trainer, "handle_stop_request", note)
    train(digits, tmp_path / "m", "--num-epochs", 2, "--batch-size", 64, "--accumulate", 2)
    assert [pair for pair in seen if pair[1]] == [(0, 2), (0, 4), (0, 5), (1, 2), (1, 4), (1, 5)]


def test_data_that_are_lost_inside_a_step_cost_none_of_its_batches(digits: Path, tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch,
                                                                   capsys: pytest.CaptureFixture[str]) -> None:
    from imgcls.training import trainer

    flags = ("--num-epochs", 2, "--batch-size", 64, "--accumulate", 2)
    undisturbed = train(digits, tmp_path / "whole", *flags)
    take = trainer.Trainer.train_step

    def lose(self: trainer.Trainer, batch: Batch, update: int) -> None:
        if update == 4:
            raise LostDataError("x.rec", "was cut while it was in use", 0)
        take(self, batch, update)

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "train_step", lose)
        with pytest.raises(AssertionError):
            train(digits, tmp_path / "m", *flags)
    assert "in epoch 0, batch 2 the position was saved" in capsys.readouterr().err
    # inside a step of another length: its gradients would be those of the rest alone
    assert command.main(["--data-dir", str(digits), "--network", "mlp", "--model-prefix", f"{tmp_path}/m",
                         *map(str, flags[:4]), "--accumulate", "3", "--load-epoch", "auto"]) == 2
    assert "was saved after batch 2 of an epoch with another --accumulate" in capsys.readouterr().err
    resumed = train(digits, tmp_path / "m", *flags, "--load-epoch", "auto")
    for name, value in undisturbed.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)
