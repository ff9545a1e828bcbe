"""Runs with regularisation and augmentation of every kind: stopped inside an epoch and resumed, and in parts."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_digits
from test_augmentation_page import AUGMENTATIONS
from torch import nn

from imgcls import graph
from imgcls.cli import score
from imgcls.cli import train as command
from imgcls.config.sections import DistillationConfig, NetworkConfig, RegularizationConfig
from imgcls.formats import idx, params
from imgcls.networks import lenet
from imgcls.networks._builder import NetworkBuilder
from imgcls.training import checkpoint, trainer
from imgcls.training.weight_average import WeightAverage, begin_average

#: settings that draw, mix or remember something, all at once
EVERYTHING = ("--mixup", 0.4, "--cutmix", 1, "--label-smoothing", 0.1, "--balanced-order", 1, "--aug-repeats", 2,
              "--model-ema-decay", 0.9, "--random-crop", 1, "--pad-size", 2, "--pad-mode", "reflect",
              "--alternating-mirror", 1,
              "--bias-lr-mult", 4,
              "--auto-augment", "augmix", "--augmix-severity", 2, "--random-erase", 0.3,
              "--network", "resnet-8", "--drop-path", 0.3,
              "--progressive-scale", 0.5, "--progressive-epochs", "1,2")


#: what goes with colour images, and not with some of the above
COLOURS = ("--dataset", "cifar10", "--network", "resnet-8", "--batch-size", 10, "--random-crop", 0, "--pad-size", 0,
           "--random-resized-crop", 1,
           "--min-random-area", 0.3, "--max-random-area", 0.9, "--min-random-aspect-ratio", 0.8,
           "--max-random-aspect-ratio", 1.25, "--random-mirror", 1, "--brightness", 0.3, "--contrast", 0.3,
           "--saturation", 0.3, "--max-random-h", 20, "--max-random-s", 20, "--max-random-l", 20,
           "--pca-noise", 0.1, "--auto-augment", "ra", "--ra-num-ops", 3, "--ra-magnitude", 12,
           "--random-erase", 0.3, "--mixup", 0.4, "--class-weights", "balanced", "--label-smoothing", 0.1)
#: the affine warp, and a policy of one operation
WARPED = ("--network", "lenet", "--max-random-rotate-angle", 10, "--max-random-shear-ratio", 0.1,
          "--max-random-scale", 1.2, "--min-random-scale", 0.9, "--max-random-aspect-ratio", 0.2, "--random-crop", 1,
          "--auto-augment", "ta_wide", "--cutmix", 1, "--brightness", 0.2)


#: dropout, stochastic depth and a teacher at once, on crops of random size resized in random ways
DROPPED = ("--network", "lenet", "--dropout", 0.3, "--drop-path", 0.4, "--distillation-alpha", 0.3,
           "--distillation-temperature", 3, "--random-crop", 1, "--min-crop-size", 20, "--max-crop-size", 28,
           "--interpolation", "random", "--random-erase", 0.3, "--mixup", 0.4, "--cutmix", 1, "--auto-augment", "ra",
           "--model-ema-decay", 0.9, "--progressive-scale", 0.5, "--progressive-epochs", "1,2")


def dropping_network(config: NetworkConfig) -> nn.Module:
    """Return a tiny network with dropout and two residual branches."""
    net = NetworkBuilder(config, (1, 28, 28))
    body = net.pooling(net.convolution(net.data, 8, 3, pad=1), 2, "max", stride=2)
    for _ in range(2):
        body = net.plus(body, net.convolution(net.relu(net.batch_norm(body)), 8, 3, pad=1))
    body = net.dropout(net.flatten(net.pooling(body, 1, "avg", global_pool=True)), 0.5)
    return net.module(net.fully_connected(body, config.num_classes))


def test_nothing_that_draws_or_remembers_is_left_out() -> None:
    given = {str(flag)[2:].replace("-", "_") for flags in (EVERYTHING, COLOURS, WARPED, DROPPED) for flag in flags
             if str(flag).startswith("--")} | {"teacher"}
    sections = (RegularizationConfig, DistillationConfig)
    settings = AUGMENTATIONS | {field.name for section in sections for field in dataclasses.fields(section)}
    assert settings <= given


def write_cifar(folder: Path) -> Path:
    """Write CIFAR-10's binary files with twelve pictures each."""
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        rows = rng.integers(0, 256, (12, 3073)).astype(np.uint8)
        rows[:, 0] = rng.integers(0, 4, 12)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("mnist"))


def train(folder: Path, *flags: object) -> int:
    return command.main(["--data-dir", str(folder), "--batch-size", "32", "--disp-batches", "2", *map(str, flags)])


def weights(prefix: Path, epoch: int) -> bytes:
    return Path(f"{prefix}-{epoch:04d}.params").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("whole") / "net"
    assert train(folder, *EVERYTHING, "--num-epochs", 2, "--model-prefix", prefix) == 0
    return prefix


def test_resume_inside_an_epoch_with_everything_on(folder: Path, undisturbed: Path, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = tmp_path / "net"
    flags = (*EVERYTHING, "--num-epochs", 2, "--model-prefix", prefix, "--load-epoch", "auto")
    original = trainer.Trainer.train_step
    stops = iter([3, 6])
    stop_at = next(stops)

    def train_step(self: trainer.Trainer, batch: object, update: int) -> None:
        original(self, batch, update)  # type: ignore[arg-type]
        if update == stop_at:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(trainer.Trainer, "train_step", train_step)
    assert train(folder, *flags) == 143
    stop_at = next(stops)
    assert train(folder, *flags, "--data-nthreads", 1) == 143
    stop_at = 0
    assert train(folder, *flags) == 0
    assert weights(prefix, 2) == weights(undisturbed, 2)


@pytest.mark.parametrize("augmentation", [COLOURS, WARPED, DROPPED], ids=["colours", "warped", "dropped"])
def test_resume_inside_an_epoch_with_what_excludes_the_above(
        folder: Path, tmp_path: Path, augmentation: tuple[object, ...], request: pytest.FixtureRequest,
        monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_cifar(tmp_path) if augmentation is COLOURS else folder
    if augmentation is DROPPED:
        augmentation = (*DROPPED, "--teacher", request.getfixturevalue("undisturbed"))
        monkeypatch.setattr(lenet, "build", dropping_network)
    assert train(data, *augmentation, "--num-epochs", 2, "--model-prefix", tmp_path / "whole") == 0
    original = trainer.Trainer.train_step
    stop_at = 8

    def train_step(self: trainer.Trainer, batch: object, update: int) -> None:
        original(self, batch, update)  # type: ignore[arg-type]
        if update == stop_at:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(trainer.Trainer, "train_step", train_step)
    flags = (*augmentation, "--num-epochs", 2, "--model-prefix", tmp_path / "parts", "--load-epoch", "auto")
    assert train(data, *flags) == 143
    stop_at = 0
    assert train(data, *flags, "--data-nthreads", 1) == 0
    assert weights(tmp_path / "parts", 2) == weights(tmp_path / "whole", 2)


def test_the_average_is_saved_and_what_is_trained_is_in_the_states(undisturbed: Path) -> None:
    saved = checkpoint.load(str(undisturbed), "2")
    assert saved is not None
    assert saved.trained.keys() == saved.arrays.keys()
    assert any(not np.array_equal(saved.trained[name], array) for name, array in saved.arrays.items())
    assert {name: array.tobytes() for name, array in saved.arrays.items()} == {
        name: array.tobytes() for name, array in params.load(f"{undisturbed}-0002.params").items()}


def test_the_average_moves_as_the_papers() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = WeightAverage(model, 0.5)
    expected = [value.clone() for value in model.state_dict().values()]
    for update in range(1, 12):
        model(torch.randn(4, 3))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 1
        average.update(model, update)
        decay = min(0.5, (1 + update) / (10 + update))
        expected = [decay * mean + (1 - decay) * now if now.is_floating_point() else now.clone()
                    for mean, now in zip(expected, model.state_dict().values(), strict=True)]
    for mean, value in zip(expected, average.model.state_dict().values(), strict=True):
        torch.testing.assert_close(value, mean)
    assert not average.model.training
    assert model.training


def test_a_run_without_the_average_goes_on_with_what_was_trained(undisturbed: Path) -> None:
    saved = checkpoint.load(str(undisturbed), "1")
    assert saved is not None
    model = graph.load(str(undisturbed), f"{undisturbed}-0001.params", (1, 28, 28))
    assert begin_average(0.0, model, saved) is None
    for name, array in graph.arrays(model).items():
        np.testing.assert_array_equal(array, saved.trained[name])


@pytest.mark.parametrize(("flags", "weights_of"), [
    (["--flip"], {(False, 0): 1, (True, 0): 1}),
    (["--flip", "--shift", "2"], {(False, 0): 2, (True, 0): 2, (False, -2): 1, (True, -2): 1,
                                  (False, 2): 1, (True, 2): 1}),
], ids=["flip", "flip and shift"])
def test_scoring_with_several_views(folder: Path, undisturbed: Path, flags: list[str],
                                    weights_of: dict[tuple[bool, int], int],
                                    capsys: pytest.CaptureFixture[str]) -> None:
    assert score.main(["--model", str(undisturbed), "--data-dir", str(folder), "--dataset", "mnist", "--loss", "ce",
                       *flags]) == 0
    found = dict(line.split("=") for line in capsys.readouterr().out.splitlines() if "=" in line)
    model = graph.load(str(undisturbed), f"{undisturbed}-0002.params", (1, 28, 28)).eval()
    images = np.array(idx.read_images(folder / "t10k-images-idx3-ubyte.gz"), np.float32) / 255
    labels = idx.read_labels(folder / "t10k-labels-idx1-ubyte.gz")
    mean = np.zeros((len(images), 10))
    with torch.no_grad():
        for (is_mirrored, shift), weight in weights_of.items():
            padded = np.pad(images, ((0, 0), (2, 2), (2, 2)), "reflect")[:, 2 + shift:, 2 + shift:][:, :28, :28]
            view = padded[:, :, ::-1].copy() if is_mirrored else padded
            mean += weight * model(torch.from_numpy(view)[:, None]).softmax(1).numpy() / sum(weights_of.values())
    assert float(found["accuracy"]) == pytest.approx((mean.argmax(1) == labels).mean(), abs=1e-6)
    right = mean[np.arange(len(labels)), labels]
    assert float(found["cross-entropy"]) == pytest.approx(-np.log(right).mean(), abs=1e-5)
