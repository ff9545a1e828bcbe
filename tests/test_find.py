"""Settings that are found by trying: the learning rate, and the epochs that fit into a time."""

from __future__ import annotations

import dataclasses
import json
import shlex
import time
from pathlib import Path

import pytest
import torch
from conftest import write_digits
from torch import Tensor

from imgcls.cli import train as command
from imgcls.config import resolve
from imgcls.data.resizing import Resizing
from imgcls.errors import RunError
from imgcls.networks import build_network
from imgcls.networks.mlp import MLP
from imgcls.report import plot_file
from imgcls.training import find_lr, time_budget
from imgcls.training.distillation import Teacher
from imgcls.training.trainer import Trainer


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("mnist"))


def train(folder: Path, *flags: object) -> int:
    return command.main(["--data-dir", str(folder), "--batch-size", "32", "--network", "mlp", *map(str, flags)])


def test_the_rate_is_a_tenth_of_that_with_the_least_loss() -> None:
    rates = [10 ** (k / 10 - 6) for k in range(71)]
    # a loss that falls from 1e-4 on, and goes up behind 0.1; its running mean is ten updates late at most
    losses = [2.3 if rate < 1e-4 else 0.5 if rate < 0.1 else 50.0 for rate in rates]
    assert 0.005 <= find_lr.suggest(rates, losses) <= 0.02
    assert find_lr.is_over(losses[:53])
    assert not find_lr.is_over(losses[:50])
    assert find_lr.is_over([2.3, float("nan")])
    with pytest.raises(RunError, match="the loss does not fall at any learning rate"):
        find_lr.suggest(rates, [2.3] * len(rates))


@pytest.mark.parametrize("last", [float("nan"), float("inf")])
@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_sweep_that_ends_without_a_number_is_drawn(last: float, suffix: str, tmp_path: Path) -> None:
    rates = [10 ** (k / 10 - 6) for k in range(30)]
    losses = [2.3 - k / 20 for k in range(29)] + [last]
    plot = find_lr._plot(rates, losses, find_lr.suggest(rates, losses))
    assert all(len(line.xs) == len(line.ys) for line in plot.lines)
    plot_file.write_plot(plot, str(tmp_path / f"lr.{suffix}"))
    assert (tmp_path / f"lr.{suffix}").stat().st_size > 1000


def test_the_rate_that_is_found_learns(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix, picture = tmp_path / "m", tmp_path / "lr.svg"
    assert train(digits, "--find-lr", picture, "--model-prefix", prefix) == 0
    said = capsys.readouterr().out
    lr = float(said.split("--lr ")[1].split(":")[0])
    assert 1e-3 < lr < 1
    assert picture.read_text().startswith("<svg")
    assert [path.name for path in tmp_path.iterdir()] == ["lr.svg"], "nothing else is written"
    assert train(digits, "--lr", lr, "--num-epochs", 20) == 0
    assert float(capsys.readouterr().out.split("Validation-accuracy=")[1].split()[0]) > 0.6
    assert train(digits, "--find-lr", tmp_path / "lr.gif") == 2
    assert "--find-lr" in capsys.readouterr().err


def test_epochs_that_fit() -> None:
    assert time_budget.epochs_in(600, 10) == 57
    assert time_budget.epochs_in(600, 1000) == 1
    config = resolve.build({"num_epochs": 300, "lr_step_epochs": "200,250"}, {})
    fitted = time_budget.with_epochs(config, 30)
    assert fitted.schedule.decay.step_epochs == (20, 25)
    assert fitted.train.num_epochs == fitted.chosen["num_epochs"] == 30
    config = resolve.build({"num_epochs": 300}, {"lr_step_epochs": "5,7"})
    assert time_budget.with_epochs(config, 30).schedule.decay.step_epochs == (5, 7), "the user's own"


def times(step_s: float, small_s: float, scale: float = 0.5) -> time_budget.Times:
    return time_budget.Times(100, step_s, small_s, scale, 5.0)


def test_too_few_epochs_begin_with_smaller_images() -> None:
    config = resolve.build({"image_shape": "3,224,224", "num_epochs": 80}, {})
    scales = (0.75, 0.625, 0.5)
    # 105 s an epoch: enough of full size fit
    assert time_budget.choose(config, times(1.0, 0.3), 3600, scales) == (32, 1.0, "")
    count, scale, why = time_budget.choose(config, times(1.0, 0.3), 1500, scales)
    assert scale == 0.75, "as large as gives 16 epochs"
    assert count >= 16
    assert why.startswith("13 of full size would fit")
    count, scale, _ = time_budget.choose(config, times(1.0, 0.3), 800, scales)
    assert scale == 0.5, "the most epochs"
    assert count > 9
    train = dataclasses.replace(config.train, num_epochs=count, progressive_scale=scale)
    assert times(1.0, 0.3).run_s(train) <= 0.95 * 800
    assert times(1.0, 0.3).run_s(dataclasses.replace(train, num_epochs=count + 1)) > 0.95 * 800
    assert Resizing(train, (224, 224)).size(count - 1) == (224, 224), "it ends at full size"
    # where the loader is what takes the time, smaller images are no faster
    assert time_budget.choose(config, times(1.0, 0.95), 800, scales) == (7, 1.0, "")
    assert time_budget.choose(config, times(1.0, 0.3), 800, ()) == (7, 1.0, "")
    # one epoch is of full size whatever the scale
    assert time_budget.choose(config, times(1.0, 0.3), 60, scales) == (1, 1.0, "")
    own = resolve.build({"image_shape": "3,224,224"}, {"progressive_scale": 0.5})
    count, scale, why = time_budget.choose(own, times(1.0, 0.3), 3600, (0.5,))
    assert (scale, why) == (0.5, "")
    assert count > 32, "the user's own sizes are reckoned with"


def test_sizes_that_may_be_begun_with() -> None:
    def allowed(shape: str, network: str = "resnet", **settings: object) -> tuple[float, ...]:
        config = resolve.build({"image_shape": shape, "network": network, "num_layers": 18}, settings)
        return time_budget.allowed_scales(config, build_network(config.network, 0), torch.device("cpu"))

    assert allowed("3,224,224") == (0.75, 0.625, 0.5)
    assert allowed("3,128,160") == (0.75,)
    assert allowed("3,64,64") == ()
    assert allowed("3,224,224", progressive_scale=0.25) == (0.25,)
    assert allowed("3,224,224", progressive_scale=1) == (), "the user wants full size"
    assert allowed("3,128,128", network="lenet", num_layers=None) == (), "it takes one size only"


def test_a_chosen_size_is_kept_and_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_budget, "choose", lambda *_: (4, 0.5, "few fit"))
    monkeypatch.setattr(time_budget, "_MAX_BATCHES", 1)
    folder = tmp_path / "data"
    folder.mkdir()
    flags = ("--network", "resnet", "--num-layers", 8, "--lr-schedule", "cosine", "--disp-batches", 1000)
    assert train(write_digits(folder), *flags, "--time-budget", "1", "--model-prefix", tmp_path / "m") == 0
    assert "chosen: --progressive-scale 0.5 (few fit)" in capsys.readouterr().err
    assert train(folder, *flags, "--num-epochs", 4, "--progressive-scale", 0.5, "--model-prefix",
                 tmp_path / "n") == 0
    trained = (tmp_path / "n-0004.params").read_bytes()
    assert (tmp_path / "m-0004.params").read_bytes() == trained
    # resumed where another machine would choose otherwise
    monkeypatch.setattr(time_budget, "choose", lambda *_: (9, 1.0, ""))
    assert train(folder, *flags, "--time-budget", "1", "--model-prefix", tmp_path / "m", "--load-epoch", 1) == 0
    assert (tmp_path / "m-0004.params").read_bytes() == trained


def test_a_budget_is_kept_and_gone_on_with(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_budget, "epochs_in", lambda _seconds, _epoch: 3)
    flags = ("--time-budget", "1", "--lr-schedule", "cosine", "--model-prefix", tmp_path / "m")
    assert train(digits, *flags) == 0
    said = capsys.readouterr()
    assert "chosen: --num-epochs 3 (an epoch takes about" in said.err
    assert (tmp_path / "m-0003.params").exists()
    assert not (tmp_path / "m-0004.params").exists()
    # the budget would contradict the epochs
    resume = shlex.split(said.out.split("resume: ")[1].splitlines()[0])
    assert resume[-6:] == ["--time-budget", "0", "--load-epoch", "auto", "--num-epochs", "6"]
    assert resume.count("--time-budget") == 1
    assert train(digits, "--num-epochs", 3, "--lr-schedule", "cosine", "--model-prefix", tmp_path / "n") == 0
    assert (tmp_path / "m-0003.params").read_bytes() == (tmp_path / "n-0003.params").read_bytes()
    # what was chosen holds for a run that goes on, however fast its machine is then
    monkeypatch.setattr(time_budget, "epochs_in", lambda _seconds, _epoch: 9)
    assert train(digits, *flags, "--load-epoch", "1") == 0
    assert ("note: --time-budget 1 changes nothing: --num-epochs 3 was chosen when the run began"
            in capsys.readouterr().err)
    assert (tmp_path / "m-0003.params").read_bytes() == (tmp_path / "n-0003.params").read_bytes()
    assert not (tmp_path / "m-0004.params").exists()
    assert train(digits, *flags, "--num-epochs", 5) == 2
    assert "contradict each other" in capsys.readouterr().err
    meta = json.loads((tmp_path / "m-meta.json").read_text())
    meta["chosen"]["num_epochs"] = "many"
    (tmp_path / "m-meta.json").write_text(json.dumps(meta))
    assert train(digits, *flags, "--load-epoch", "1") == 1
    assert "m-0001.params: the meta data beside it: " in capsys.readouterr().err


def test_a_teacher_takes_its_part_of_a_budget(digits: Path, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(digits, "--num-epochs", 1, "--model-prefix", tmp_path / "t") == 0
    seen: list[time_budget.Times] = []
    monkeypatch.setattr(time_budget, "choose", lambda _config, times, *_: seen.append(times) or (1, 1.0, ""))
    monkeypatch.setattr(time_budget, "_MAX_BATCHES", 1)

    def divergence(_teacher: Teacher, logits: Tensor, _images: Tensor) -> Tensor:
        time.sleep(0.2)
        return 0 * logits.sum()

    monkeypatch.setattr(Teacher, "divergence", divergence)
    monkeypatch.setattr(Trainer, "fit", lambda *_: {})
    assert train(digits, "--time-budget", "1", "--teacher", tmp_path / "t", "--optimizer", "muon") == 0
    assert seen[0].step_s >= 0.2


def test_a_budget_is_measured_in_the_parts_and_the_precision_of_the_run(digits: Path,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, int, bool]] = []
    forward = MLP.forward

    def watched(network: MLP, data: Tensor) -> Tensor:
        seen.append((network.training, len(data), torch.is_autocast_enabled("cpu")))
        return forward(network, data)

    monkeypatch.setattr(MLP, "forward", watched)
    monkeypatch.setattr(time_budget, "_MAX_BATCHES", 1)
    monkeypatch.setattr(Trainer, "fit", lambda *_: {})
    assert train(digits, "--time-budget", "1", "--micro-batches", "4", "--dtype", "bfloat16") == 0
    measured = [(is_training, size, is_autocast) for is_training, size, is_autocast in seen if size > 1]
    assert {size for is_training, size, _ in measured if is_training} == {8}
    assert {is_training for is_training, _, _ in measured} == {True, False}
    assert all(is_autocast for _, _, is_autocast in measured)
