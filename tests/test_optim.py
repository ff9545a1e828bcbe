"""torch's optimizers under MXNet's names: against MXNet's trajectories where the formulas agree."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import mxnet_file
from torch import nn

from imgcls.config.sections import OptimizerConfig
from imgcls.errors import UsageError
from imgcls.layers import Convolution, FullyConnected
from imgcls.optim import optimizers

CPU = torch.device("cpu")


class Net(nn.Module):
    """One fully connected layer, as in the outside trajectories."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = FullyConnected(4, 3)
        self.slow = FullyConnected(4, 3, extra={"__lr_mult__": "0.01"})


def stepped(name: str, gradients: list[dict[str, list]], start: dict[str, list], lr: float, scale: float,
            **config: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weight and bias after each of our steps."""
    net = Net()
    net.slow.requires_grad_(False)
    with torch.no_grad():
        net.fc.weight.copy_(torch.tensor(start["weight"]))
        net.fc.bias.copy_(torch.tensor(start["bias"]))
    optimizer = optimizers.build(OptimizerConfig(optimizer=name, **config), net, CPU)
    step, seen = optimizers.stepper(optimizer), []
    for gradient in gradients:
        net.fc.weight.grad = torch.tensor(gradient["weight"]) * scale
        net.fc.bias.grad = torch.tensor(gradient["bias"]) * scale
        if config.get("clip_gradient"):
            optimizers.clip_elements([net.fc.weight, net.fc.bias], config["clip_gradient"])
        optimizers.set_lr(optimizer, lr)
        with torch.no_grad():
            step()
        seen.append((net.fc.weight.detach().numpy().copy(), net.fc.bias.detach().numpy().copy()))
    return seen


@pytest.mark.parametrize(("case", "tolerance"), [
    ("sgd plain", 1e-6), ("sgd wd", 1e-6), ("sgd momentum wd", 1e-6), ("sgd momentum wd clip", 1e-6),
    ("sgd clip no momentum", 1e-6), ("nag plain", 1e-6),
    ("nag momentum wd", 2e-3),   # MXNet's decay reads the weight it has just changed
    ("adam defaults", 1e-5), ("rmsprop", 1e-5), ("adamax", 1e-5),
    ("adagrad", 5e-3),           # MXNet adds the decay outside the root
])
def test_trajectories_of_mxnet(case: str, tolerance: float) -> None:
    outside = json.loads(mxnet_file("optim", "manifest.json").read_text())
    recorded = next(c for c in outside["cases"] if c["name"] == case)
    kwargs = recorded["kwargs"]
    lr = kwargs.get("learning_rate", 0.001)
    ours = stepped(recorded["optimizer"], outside["gradients"], outside["start"], lr,
                   kwargs.get("rescale_grad", 1.0),
                   mom=kwargs.get("momentum", 0.0), wd=kwargs.get("wd", 0.0),
                   clip_gradient=kwargs.get("clip_gradient", 0.0))
    for (weight, bias), theirs in zip(ours, recorded["trajectory"], strict=True):
        np.testing.assert_allclose(weight, theirs["weight"], atol=tolerance, rtol=tolerance)
        np.testing.assert_allclose(bias, theirs["bias"], atol=tolerance, rtol=tolerance)


def test_decay_is_for_weights_and_gammas_and_multipliers_hold() -> None:
    net = Net()
    for parameter in net.parameters():
        parameter.data.fill_(1.0)
        parameter.grad = torch.zeros_like(parameter)
    optimizer = optimizers.build(OptimizerConfig(wd=0.1, mom=0.0), net, CPU)
    optimizers.set_lr(optimizer, 1.0)
    with torch.no_grad():
        optimizers.stepper(optimizer)()
    assert net.fc.weight.unique().tolist() == pytest.approx([0.9])
    assert net.slow.weight.unique().tolist() == pytest.approx([0.999])
    assert net.fc.bias.unique().tolist() == [1.0]


def test_every_name_trains() -> None:
    for name in ("sgd", "nag", "adam", "adamw", "adamax", "nadam", "rmsprop", "adagrad", "adadelta", "SGD"):
        net = Net()
        nn.init.ones_(net.fc.weight)
        before = net.fc.weight.detach().clone()
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer = optimizers.build(OptimizerConfig(optimizer=name), net, CPU)
        optimizers.set_lr(optimizer, 0.1)
        with torch.no_grad():
            optimizers.stepper(optimizer)()
        assert (net.fc.weight != before).all(), name


@pytest.mark.parametrize(("name", "message"), [
    ("lbsgd", "the nearest is sgd with warmup_epochs"), ("ftrl", "torch has no ftrl"),
    ("adm", "did you mean adam"),
])
def test_other_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        optimizers.build(OptimizerConfig(optimizer=name), Net(), CPU)


def test_the_first_step_does_not_load_the_compiler() -> None:
    """torch._dynamo costs a second; this fails when a new torch finds another way to import it."""
    import subprocess
    import sys

    code = ("import sys, torch; from imgcls.optim import optimizers\n"
            "from imgcls.config.sections import OptimizerConfig as C\n"
            "from imgcls.layers import FullyConnected\n"
            "net = FullyConnected(2, 2); net.weight.grad = torch.ones(2, 2); net.bias.grad = torch.ones(2)\n"
            "o = optimizers.build(C(), net, torch.device('cpu')); optimizers.set_lr(o, .1); optimizers.stepper(o)()\n"
            "o.zero_grad(); o.state_dict(); print('torch._dynamo' in sys.modules)")
    done = subprocess.run([sys.executable, "-c",
                           "import torch\nwith torch.no_grad():\n exec(" + repr(code) + ")"],
                          capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_initializers_have_mxnets_spread() -> None:
    """Moments of each rule on a convolution and a fully connected layer; biases stay 0."""
    from imgcls.networks._initializers import initialize

    spread = {"default": (2 / 288) ** 0.5, "xavier": (1 / (0.5 * (288 + 576))) ** 0.5, "normal": 0.01,
              "uniform": 0.07 / 3 ** 0.5, "msra": (2 / (1 + 0.0625) / (0.5 * (288 + 576))) ** 0.5}
    for name, std in spread.items():
        net = nn.Sequential(Convolution(32, 64, 3))
        initialize(net, name, "lenet", seed=3)
        weight = net[0].weight.detach()
        assert weight.std().item() == pytest.approx(std, rel=0.03), name
        assert abs(weight.mean().item()) < std / 10
        assert not net[0].bias.any()
        again = nn.Sequential(Convolution(32, 64, 3))
        initialize(again, name, "lenet", seed=3)
        assert torch.equal(again[0].weight, weight)
    net = nn.Sequential(FullyConnected(30, 8))
    initialize(net, "orthogonal", "lenet", seed=0)
    gram = net[0].weight @ net[0].weight.T
    assert torch.allclose(gram, 1.414 ** 2 * torch.eye(8), atol=1e-4)
    for name, value in (("one", 1.0), ("zero", 0.0)):
        initialize(net, name, "lenet", seed=0)
        assert net[0].weight.unique().tolist() == [value]
    for network, std in (("alexnet", 0.01), ("vgg", (1 / (0.5 * (288 + 576))) ** 0.5)):
        net = nn.Sequential(Convolution(32, 64, 3))
        initialize(net, "default", network, seed=0)
        assert net[0].weight.std().item() == pytest.approx(std, rel=0.03)


def test_nag_without_momentum_is_plain_sgd() -> None:
    """torch refuses Nesterov's step without momentum, and MXNet does not."""
    gradients = [{"weight": np.full((3, 4), 0.5).tolist(), "bias": [0.1, 0.2, 0.3]}] * 2
    start = {"weight": np.ones((3, 4)).tolist(), "bias": [0.0, 0.0, 0.0]}
    nag, sgd = (stepped(name, gradients, start, 0.1, 1.0, mom=0.0, wd=0.01) for name in ("nag", "sgd"))
    for (weight, bias), (expected_weight, expected_bias) in zip(nag, sgd, strict=True):
        np.testing.assert_array_equal(weight, expected_weight)
        np.testing.assert_array_equal(bias, expected_bias)
