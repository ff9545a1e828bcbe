"""`--model-parallel 2`: the two towers on two devices. There may be none here: torch's fake tensors stand in
for two GPUs, and on the CPU both parts go the same way through the code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from imgcls import graph, networks
from imgcls.cli import train as command
from imgcls.config.sections import NetworkConfig, OptimizerConfig
from imgcls.errors import UsageError
from imgcls.formats import idx, params
from imgcls.networks import alexnet_towers, check_model_parallel, to_devices
from imgcls.optim import optimizers

SHAPE = (3, 67, 67)
CONFIG = NetworkConfig(network="alexnet-towers", image_shape=SHAPE, model_parallel=2)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same network with few filters and units."""
    monkeypatch.setattr(alexnet_towers, "HIDDEN", 16)
    monkeypatch.setattr(alexnet_towers, "TOWER",
                        ((4, 11, 4, 2, True), (4, 5, 1, 2, True), (4, 3, 1, 1, True)))


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Move fake tensors, which nn.Module.to cannot; torch has no public way to put a parameter in place."""
    def to(self: nn.Module, device: torch.device) -> nn.Module:
        for module in self.modules():
            for name, parameter in module._parameters.items():
                assert parameter is not None
                module._parameters[name] = nn.Parameter(parameter.detach().to(device))
        return self

    monkeypatch.setattr(nn.Module, "to", to)


def devices_of(module: nn.Module) -> set[str]:
    return {str(parameter.device) for parameter in module.parameters()}


@pytest.mark.parametrize(("gpus", "device", "second"), [
    ((0, 1), 0, 1), ((3, 1), 3, 1), ((0, 1, 2, 3), 2, 3),
])
def test_towers_on_two_gpus(moves: None, gpus: tuple[int, ...], device: int, second: int) -> None:
    first = torch.device("cuda", device)
    with FakeTensorMode(), torch.no_grad():  # raises where tensors of two devices meet
        model = alexnet_towers.build(CONFIG)
        assert to_devices(model, CONFIG, first, gpus) == (
            f"`model_parallel` 2: the parts of the network are on cuda:{device} and cuda:{second}")
        assert isinstance(model, alexnet_towers.TwoTowerAlexNet)
        assert devices_of(model.tower2) == {f"cuda:{second}"}
        for part in (model.tower1, model.fc6, model.fc8):
            assert devices_of(part) == {f"cuda:{device}"}
        logits = model(torch.empty(4, *SHAPE, device=first))
        assert (logits.device, logits.shape) == (first, (4, 10))


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "adamax", "adadelta"])
def test_steps_and_clipping_with_parameters_on_two_gpus(moves: None, name: str) -> None:
    with FakeTensorMode():
        model = alexnet_towers.build(CONFIG)
        to_devices(model, CONFIG, torch.device("cuda", 0), (0, 1))
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        optimizer = optimizers.build(OptimizerConfig(optimizer=name), model, torch.device("cuda", 0))
        optimizers.set_lr(optimizer, 0.1)
        optimizers.clip_elements(model.parameters(), 1.0)
        with torch.no_grad():
            optimizers.stepper(optimizer)()
        for parameter, state in optimizer.state.items():
            assert {value.device for value in state.values() if value.ndim} == {parameter.device}


def test_no_tensor_stays_on_the_previous_device() -> None:
    model = networks.build_network(CONFIG, seed=0)
    assert isinstance(model, alexnet_towers.TwoTowerAlexNet)
    images = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    logits = model.eval()(images)
    model.to_devices([torch.device("cpu"), torch.device("meta")])
    with pytest.raises(RuntimeError, match="meta"):
        model(images)
    model.tower2 = networks.build_network(CONFIG, seed=0).tower2  # type: ignore[assignment]
    assert torch.equal(model(images), logits)


def test_one_device_is_a_plain_move() -> None:
    config = NetworkConfig(network="mlp")
    model = networks.build_network(config, seed=0)
    assert to_devices(model, config, torch.device("meta"), ()) == ""
    assert devices_of(model) == {"meta"}


def test_a_foreign_network_cannot_be_split() -> None:
    with pytest.raises(UsageError, match="model_parallel 2: this network is in one piece"):
        to_devices(nn.Linear(2, 2), CONFIG, torch.device("cpu"), ())


@pytest.mark.parametrize(("gpus", "compiled", "message"), [
    ((0,), False, "model_parallel 2: each copy of the network takes 2 GPUs, gpus 0 names 1"),
    ((0, 1, 5), False, "model_parallel 2: each copy of the network takes 2 GPUs, gpus 0,1,5 names 3"),
    ((0, 1), True, "model_parallel 2: a network on several devices is not compiled"),
])
def test_incompatible_settings(gpus: tuple[int, ...], compiled: bool, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        check_model_parallel(CONFIG, gpus, compiled)
    assert str(raised.value).startswith(message)


def test_compatible_settings() -> None:
    for gpus in ((), (0, 1), (0, 1, 2, 3)):
        check_model_parallel(CONFIG, gpus)
    check_model_parallel(NetworkConfig(), (0,), is_compiled=True)


# ---- the command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Idx files of a few noisy pictures."""
    chance = np.random.default_rng(0)
    for name, count in (("train", 96), ("t10k", 32)):
        images = chance.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        idx.write_images(tmp_path / f"{name}-images-idx3-ubyte", images)
        idx.write_labels(tmp_path / f"{name}-labels-idx1-ubyte",
                         chance.integers(0, 10, count).astype(np.uint8))
    return tmp_path


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The first run in a process would otherwise begin with more threads than the next: other last bits."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(folder: Path, prefix: str, *flags: object) -> int:
    return command.main(["--data-dir", str(folder), "--network", "alexnet-towers", "--image-shape", "3,67,67",
                         "--batch-size", "32", "--clip-gradient", "0.5", "--model-prefix",
                         str(folder / prefix),
                         *map(str, flags)])


@pytest.mark.slow
def test_training_and_resuming_write_the_files_of_one_device(folder: Path, capsys: pytest.CaptureFixture[str],
                                                             one_thread: None) -> None:
    assert train(folder, "one", "--num-epochs", 2) == 0
    assert train(folder, "two", "--num-epochs", 1, "--model-parallel", 2) == 0
    assert train(folder, "two", "--num-epochs", 2, "--model-parallel", 2, "--load-epoch", "auto") == 0
    assert "the parts of the network are all on the CPU; --gpus 0,1 spreads them" in capsys.readouterr().err
    for name in ("symbol.json", "0001.params", "0002.params"):
        assert (folder / f"two-{name}").read_bytes() == (folder / f"one-{name}").read_bytes()
    assert "arg:tower2_conv1_weight" in params.load(folder / "two-0002.params")
    model = networks.build_network(CONFIG, seed=0)
    graph.load_arrays(model, params.load(folder / "two-0002.params"), path="two")  # and it fits


@pytest.mark.parametrize(("flags", "message"), [
    (["--network", "lenet", "--image-shape", "1,28,28"],
     "--model-parallel 2: lenet has no such option; it is for alexnet-towers"),
    (["--variant", "theano", "--image-shape", "3,227,227"], "2: alexnet-towers --variant theano has 1"),
    (["--gpus", "0"], "--model-parallel 2: each copy of the network takes 2 GPUs"),
    (["--compile"], "--model-parallel 2: a network on several devices is not compiled"),
])
def test_wrong_usage(folder: Path, flags: list[str], message: str,
                     capsys: pytest.CaptureFixture[str]) -> None:
    assert train(folder, "model", "--model-parallel", 2, *flags) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_two_real_gpus(folder: Path) -> None:
    assert train(folder, "two", "--num-epochs", 1, "--gpus", "0,1", "--model-parallel", 2) == 0
    assert train(folder, "two", "--num-epochs", 2, "--gpus", "0,1", "--model-parallel", 2,
                 "--load-epoch", "auto") == 0
    assert train(folder, "two", "--num-epochs", 3, "--gpus", "0", "--load-epoch", "auto") == 0
