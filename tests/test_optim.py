"""Optimizers under MXNet's names: against trajectories that MXNet made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import mxnet_file, write_digits
from torch import nn

from imgcls import graph
from imgcls.config.sections import OPTIMIZERS, OptimizerConfig
from imgcls.errors import DataError, UsageError
from imgcls.formats.symbol import Node
from imgcls.layers import BatchNorm, Convolution, FullyConnected
from imgcls.optim import optimizers
from imgcls.optim.muon import orthogonal
from imgcls.optim.schedules import Constant, MacroBatch, Schedule
from imgcls.training.checkpoint import Position, Saved, states
from imgcls.training.checkpoint.mxnet_states import translate_states
from imgcls.training.checkpoint.optimizer_state import in_words_of_today, optimizer_tensors, restore_optimizer

CPU = torch.device("cpu")


class Net(nn.Module):
    """One fully connected layer, as in the outside trajectories."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = FullyConnected(4, 3)
        self.slow = FullyConnected(4, 3, extra={"__lr_mult__": "0.01"})


def stepped(name: str, gradients: list[dict[str, list]], start: dict[str, list], rates: list[float],
            scale: float = 1.0, *, lars_batch_size: int = 0, **config: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weight and bias after each of our steps."""
    net = Net()
    net.slow.requires_grad_(False)
    with torch.no_grad():
        net.fc.weight.copy_(torch.tensor(start["weight"]))
        net.fc.bias.copy_(torch.tensor(start["bias"]))
    optimizer = optimizers.build(OptimizerConfig(optimizer=name, **config), net, CPU,
                                 lars_batch_size=lars_batch_size)
    step, seen = optimizers.stepper(optimizer), []
    for gradient, lr in zip(gradients, rates, strict=True):
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
    ("adam defaults", 1e-5), ("rmsprop", 1e-6), ("adamax", 1e-5), ("adagrad", 1e-6), ("adadelta", 1e-6),
    ("ftrl", 2e-6), ("signsgd", 1e-6), ("dcasgd", 2e-6),
])
def test_trajectories_of_mxnet(case: str, tolerance: float) -> None:
    outside = json.loads(mxnet_file("optim", "manifest.json").read_text())
    recorded = next(c for c in outside["cases"] if c["name"] == case)
    kwargs = recorded["kwargs"]
    lr = kwargs.get("learning_rate", 0.001)
    ours = stepped(recorded["optimizer"], outside["gradients"], outside["start"], [lr] * 5,
                   kwargs.get("rescale_grad", 1.0),
                   mom=kwargs.get("momentum", 0.0), wd=kwargs.get("wd", 0.0),
                   clip_gradient=kwargs.get("clip_gradient", 0.0))
    for (weight, bias), theirs in zip(ours, recorded["trajectory"], strict=True):
        np.testing.assert_allclose(weight, theirs["weight"], atol=tolerance, rtol=tolerance)
        np.testing.assert_allclose(bias, theirs["bias"], atol=tolerance, rtol=tolerance)


def test_adadelta_moves_at_any_rate() -> None:
    gradients, start = [{"weight": [[1.0] * 4] * 3, "bias": [1.0] * 3}], {"weight": [[1.0] * 4] * 3,
                                                                          "bias": [1.0] * 3}
    (weight, _), = stepped("adadelta", gradients, start, [0.0])
    assert (weight < 1).all(), "MXNet's has no rate that could be 0"
    (weight, _), = stepped("adagrad", gradients, start, [0.0])
    assert (weight == 1).all()


def test_a_macrobatch_is_that_of_mxnets_lbsgd() -> None:
    outside = json.loads(mxnet_file("optim", "manifest.json").read_text())
    recorded = next(c for c in outside["cases"] if c["name"] == "lbsgd")
    kwargs = recorded["kwargs"]
    count = kwargs["batch_scale"]
    schedule = Schedule(Constant(kwargs["learning_rate"]), macrobatch=MacroBatch(
        count, kwargs["warmup_epochs"] * kwargs["updates_per_epoch"], kwargs["warmup_strategy"]))
    means = [{kind: np.mean([gradient[kind] for gradient in outside["gradients"][:count]], 0, np.float32)
              for kind in ("weight", "bias")}]
    ((weight, bias),) = stepped("lbsgd", means, outside["start"], [schedule.lr_at(count)], kwargs["rescale_grad"],
                                mom=kwargs["momentum"], wd=kwargs["wd"])
    np.testing.assert_allclose(weight, recorded["trajectory"][count - 1]["weight"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(bias, recorded["trajectory"][count - 1]["bias"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("num_batches", [1, 2])
def test_lars_is_that_of_mxnets_lbsgd(num_batches: int) -> None:
    """The bias reaches none of the bounds; a weight of zeros has the least factor."""
    recorded = RECORDED["lbsgd_lars"]
    steps = range(num_batches, len(RECORDED["gradients"]) + 1, num_batches)
    means = [{kind: np.mean([gradient[kind] for gradient in RECORDED["gradients"][step - num_batches:step]], 0,
                            dtype=np.float32) for kind in ("weight", "bias")} for step in steps]
    batch_size = recorded["batch_size"]
    ours = stepped("lbsgd", means, RECORDED["start"],
                   [recorded["rate_factor"] * RECORDED["rates"][step - 1] for step in steps], 1 / batch_size,
                   mom=0.9, wd=0.01, lars_batch_size=batch_size)
    for (weight, bias), expected in zip(ours, recorded["trajectories"][str(num_batches)], strict=True):
        np.testing.assert_allclose(weight.ravel(), expected["weight"], rtol=3e-6, atol=3e-6)
        np.testing.assert_allclose(bias, expected["bias"], rtol=3e-6, atol=3e-6)
    zeros = {kind: np.zeros_like(value).tolist() for kind, value in RECORDED["start"].items()}
    ones = [{kind: np.ones_like(value, np.float32) for kind, value in RECORDED["start"].items()}]
    ((weight, _),) = stepped("lbsgd", ones, zeros, [0.5], lars_batch_size=batch_size)
    np.testing.assert_allclose(weight, -0.005, rtol=1e-6)


def test_the_multipliers_of_a_variable_are_its_own() -> None:
    layer = FullyConnected(4, 3, extra={"__lr_mult__": "0.5"})
    # as a symbol is read: MXNet looks at the variable and not at the operator
    layer.variables = {"weight": Node("null", "w", {"__lr_mult__": "0.25", "__wd_mult__": "0"})}
    groups = optimizers.build(OptimizerConfig(wd=0.1), layer, CPU).param_groups
    assert [(group["lr_mult"], group["weight_decay"]) for group in groups] == [(0.25, 0.0), (0.5, 0.0)]
    for text in ("fast", "nan", "inf"):
        layer.variables["weight"].attrs["__lr_mult__"] = text
        with pytest.raises(UsageError, match=f"the network has {text} and 0 as multipliers"):
            optimizers.build(OptimizerConfig(), layer, CPU)


@pytest.mark.parametrize("name", ["sgd", "adam", "rmsprop"])
def test_a_weight_that_two_layers_share_is_stepped_once(name: str) -> None:
    steps = []
    for is_shared in (False, True):
        net = nn.ModuleList([FullyConnected(4, 3), FullyConnected(4, 3)])
        for layer in net:
            nn.init.ones_(layer.weight)
        if is_shared:
            # another group for the second layer must not take it either
            net[1].weight, net[1].lr_mult = net[0].weight, 0.5
        optimizer = optimizers.build(OptimizerConfig(optimizer=name, mom=0.9), net, CPU)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        assert len(parameters) == len(set(parameters)) == (3 if is_shared else 4)
        net[0].weight.grad = torch.full((3, 4), 0.5)
        optimizers.set_lr(optimizer, 0.1)
        with torch.no_grad():
            optimizers.stepper(optimizer)()
        steps.append(net[0].weight.detach().clone())
    assert torch.equal(*steps)


#: made by `mxnet.optimizer` 1.9.1 with wd 0.01, gradients down to 1e-3 and a rate that falls twice
RECORDED = json.loads((Path(__file__).parent / "fixtures" / "optimizers.json").read_text())
#: the rules that are torch's: docs/differences.md says where they differ
TOLERANCE = {"sgd": 1e-5, "ccsgd": 1e-5, "nag": 2e-3, "adam": 1e-5, "adamax": 1e-5, "nadam": 1e-5}


@pytest.mark.parametrize("name", RECORDED["cases"])
def test_every_rule_is_mxnets(name: str) -> None:
    theirs = RECORDED["cases"][name]["trajectory"]
    if name in ("sgd", "ccsgd", "nag"):  # torch's momentum does not hold the rate: equal until it changes
        theirs = theirs[:2]
    ours = stepped(name, RECORDED["gradients"][:len(theirs)], RECORDED["start"], RECORDED["rates"][:len(theirs)],
                   wd=0.01, mom=0.0 if name == "dcasgd" else 0.9)
    for (weight, bias), expected in zip(ours, theirs, strict=True):
        tolerance = TOLERANCE.get(name, 3e-6)
        np.testing.assert_allclose(weight.ravel(), expected["weight"], atol=tolerance, rtol=tolerance)
        if "bias" in expected:  # MXNet's nadam mixes up the parameters where there are several
            np.testing.assert_allclose(bias, expected["bias"], atol=tolerance, rtol=tolerance)


class Small(nn.Module):
    """Two layers, one of whose parameters learn in a group of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = FullyConnected(4, 3)
        self.second = FullyConnected(3, 2, extra={"__lr_mult__": "0.5"})
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_to_the_bit_from_a_saved_state(name: str) -> None:
    def train(net: Small, optimizer: torch.optim.Optimizer, updates: range) -> None:
        for update in updates:
            torch.manual_seed(update)
            optimizer.zero_grad()
            net(torch.randn(5, 4)).square().sum().backward()
            optimizers.set_lr(optimizer, 0.01 / update)
            optimizer.step()

    def fresh() -> tuple[Small, torch.optim.Optimizer]:
        torch.manual_seed(0)
        net = Small()
        return net, optimizers.build(OptimizerConfig(optimizer=name), net, CPU, seed=3)

    whole, optimizer = fresh()
    train(whole, optimizer, range(1, 7))
    half, optimizer = fresh()
    train(half, optimizer, range(1, 4))
    saved = Saved("x", graph.arrays(half), Position(), optimizer_tensors(half, optimizer),
                  type(optimizer).__name__)
    saved = states.decode(states.encode(saved, with_weights=True), "x")
    other, optimizer = fresh()
    other.load_state_dict(half.state_dict())
    restore_optimizer(other, optimizer, saved)
    train(other, optimizer, range(4, 7))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", RECORDED["schedule_free"]["trajectories"])
def test_schedule_free_is_its_authors(name: str) -> None:
    """The average after each update of a warm-up and beyond, as the package schedulefree 1.4 has it."""
    recorded = RECORDED["schedule_free"]
    net = FullyConnected(4, 3)
    with torch.no_grad():
        for p, kind in zip(net.parameters(), ("weight", "bias"), strict=True):
            p.copy_(torch.tensor(RECORDED["start"][kind]))
    optimizer = optimizers.build(OptimizerConfig(optimizer=name, wd=0.01), net, CPU)
    for gradient, lr, expected in zip(RECORDED["gradients"], recorded["rates"], recorded["trajectories"][name],
                                      strict=True):
        for p, kind in zip(net.parameters(), ("weight", "bias"), strict=True):
            p.grad = torch.tensor(gradient[kind])
        optimizers.set_lr(optimizer, lr)
        optimizer.step()
        for p, kind in zip(net.parameters(), ("weight", "bias"), strict=True):
            np.testing.assert_allclose(optimizer.state[p]["x"].ravel(), expected[kind], rtol=1e-5, atol=1e-5)


def test_muon_is_torchs_for_matrices_and_adamw_for_the_rest() -> None:
    """torch's Muon takes matrices only; the last layer and the biases are AdamW's."""
    torch.manual_seed(3)
    net, other = Small(), Small()
    other.load_state_dict(net.state_dict())
    ours = optimizers.build(OptimizerConfig(optimizer="muon", wd=0.01, mom=0.95), net, CPU)
    muon = torch.optim.Muon([other.first.weight], weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    rest = torch.optim.AdamW([{"params": [other.second.weight], "weight_decay": 0.01, "lr_mult": 0.5},
                              {"params": [other.first.bias], "weight_decay": 0.0, "lr_mult": 1.0},
                              {"params": [other.second.bias], "weight_decay": 0.0, "lr_mult": 0.5}])
    for update in range(4):
        for p, q in zip(net.parameters(), other.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        optimizers.set_lr(ours, 0.02 / (update + 1))
        optimizers.set_lr(rest, 0.02 / (update + 1))
        muon.param_groups[0]["lr"] = 0.02 / (update + 1)
        for optimizer in (ours, muon, rest):
            optimizer.step()
    # torch computes the matrices in bfloat16
    torch.testing.assert_close(net.first.weight, other.first.weight, rtol=0, atol=1e-3)
    for name in ("first.bias", "second.weight", "second.bias"):
        torch.testing.assert_close(net.get_parameter(name), other.get_parameter(name), rtol=1e-5, atol=1e-6)
    values = torch.linalg.svdvals(orthogonal(torch.randn(6, 40)))
    assert 0.6 < values.min() <= values.max() < 1.3


@pytest.mark.parametrize("name", ["rmsprop", "adagrad", "adadelta", "ftrl", "ftml", "signum", "lamb", "lars", "adamax"])
def test_states_are_mxnets_arrays(name: str) -> None:
    """What MXNet's own file holds after five updates is what we hold after them, and both go on alike."""
    net = FullyConnected(4, 3)
    optimizer = optimizers.build(OptimizerConfig(optimizer=name, wd=0.01), net, CPU)
    theirs = RECORDED["cases"][name]["states"]
    content = {index: tuple(np.float32(part).reshape(p.shape) for part in parts) if isinstance(parts[0], list)
               else np.float32(parts).reshape(p.shape)
               for index, (parts, p) in enumerate(zip(theirs.values(), net.parameters(), strict=True))}
    saved = translate_states(net, optimizer, Saved("x", {}, Position(), mxnet_states=content), RECORDED["rates"][-1], 5)
    restore_optimizer(net, optimizer, saved)

    ours = FullyConnected(4, 3)
    mine = optimizers.build(OptimizerConfig(optimizer=name, wd=0.01), ours, CPU)
    with torch.no_grad():
        for p, kind in zip(ours.parameters(), ("weight", "bias"), strict=True):
            p.copy_(torch.tensor(RECORDED["start"][kind]))
    for gradient, lr in zip(RECORDED["gradients"], RECORDED["rates"], strict=True):
        for p, kind in zip(ours.parameters(), ("weight", "bias"), strict=True):
            p.grad = torch.tensor(gradient[kind])
        optimizers.set_lr(mine, lr)
        mine.step()
    for p, q in zip(ours.parameters(), net.parameters(), strict=True):
        assert optimizer.state[q].keys() == mine.state[p].keys()
        for kind, value in mine.state[p].items():
            np.testing.assert_allclose(optimizer.state[q][kind], value, rtol=2e-5, atol=2e-5, err_msg=kind)


@pytest.mark.parametrize(("name", "kinds"), [
    ("adam", ("step", "exp_avg")), ("adamw", ("exp_avg", "exp_avg_sq")), ("adamax", ("step", "exp_avg_sq")),
    ("nadam", ("step", "exp_avg", "exp_avg_sq"))])
def test_half_a_state_of_torchs_is_refused(name: str, kinds: tuple[str, ...]) -> None:
    net = FullyConnected(4, 3)
    optimizer = optimizers.build(OptimizerConfig(optimizer=name), net, CPU)
    tensors = {f"{parameter}/{kind}": torch.ones(()) if kind == "step" else torch.ones(p.shape)
               for parameter, p in net.named_parameters() for kind in kinds}
    names = graph.parameter_names(net)
    tensors = {f"{names[path.split('/')[0]]}/{path.split('/')[1]}": tensor for path, tensor in tensors.items()}
    with pytest.raises(DataError, match="the optimizer state is not that of"):
        restore_optimizer(net, optimizer, Saved("x", {}, Position(), tensors, type(optimizer).__name__))


def test_states_that_torch_kept_of_today_s_rules_are_gone_on_with() -> None:
    net = Small()
    optimizer = optimizers.build(OptimizerConfig(optimizer="rmsprop"), net, CPU)
    tensors = {f"{name}/{kind}": torch.ones(()) if kind == "step" else torch.full(p.shape, 2.0)
               for (name, p) in zip(("fc1_weight", "fc1_bias", "fc2_weight", "fc2_bias"), net.parameters(), strict=True)
               for kind in ("square_avg", "step")}
    names = graph.parameter_names(net)
    tensors = {path.replace(old, new): tensor for path, tensor in tensors.items()
               for old, new in zip(("fc1_weight", "fc1_bias", "fc2_weight", "fc2_bias"), names.values(), strict=True)
               if path.startswith(old)}
    saved = in_words_of_today(Saved("x", {}, Position(), tensors, "RMSprop"))
    assert saved.optimizer_class == "RMSProp"
    restore_optimizer(net, optimizer, saved)
    assert optimizer.state[net.first.weight]["n"].unique().tolist() == [2.0]
    wrong = Saved("x", {}, Position(), {f"{names['first.weight']}/z": torch.zeros(3, 4)}, "RMSProp")
    with pytest.raises(DataError, match="the optimizer state is not that of RMSProp"):
        restore_optimizer(net, optimizer, wrong)


def test_langevin_noise_has_the_variance_of_the_rate_and_comes_again() -> None:
    def after_two(seed: int) -> torch.Tensor:
        net = FullyConnected(200, 200)
        nn.init.zeros_(net.weight)
        optimizer = optimizers.build(OptimizerConfig(optimizer="sgld", wd=0.0), net, CPU, seed)
        for _ in range(2):
            net.weight.grad = torch.ones_like(net.weight)
            optimizers.set_lr(optimizer, 0.04)
            optimizer.step()
        return net.weight.detach()

    moved = after_two(5)
    assert moved.mean().item() == pytest.approx(-2 * 0.04 / 2, abs=0.01)
    assert moved.std().item() == pytest.approx((2 * 0.04) ** 0.5, rel=0.02)
    assert torch.equal(moved, after_two(5))
    assert not torch.equal(moved, after_two(6))


def test_betas_epsilon_and_the_norm() -> None:
    def options(name: str, **given: float) -> dict:
        return optimizers.build(OptimizerConfig(optimizer=name, **given), Net(), CPU).param_groups[0]

    assert options("adam")["betas"] == (0.9, 0.999)
    assert options("adamw", beta1=0.8, beta2=0.95, epsilon=1e-6)["betas"] == (0.8, 0.95)
    assert options("ftml")["beta1"] == 0.6
    assert options("ftml", beta1=0.5)["beta1"] == 0.5
    assert options("rmsprop", beta2=0.95)["gamma1"] == 0.95
    assert options("adadelta", beta2=0.8, epsilon=1e-4)["rho"] == 0.8
    net = Net()
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    optimizers.clip_norm(list(net.parameters()), 1.0)
    assert torch.cat([p.grad.ravel() for p in net.parameters()]).norm().item() == pytest.approx(1.0, abs=1e-5)
    optimizers.clip_norm(list(net.parameters()), 5.0)
    assert torch.cat([p.grad.ravel() for p in net.parameters()]).norm().item() == pytest.approx(1.0, abs=1e-5)


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


def test_gammas_go_without_decay_where_that_is_asked_for() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    plain, without = (optimizers.build(OptimizerConfig(wd=0.1, norm_wd=norm_wd), net, CPU) for norm_wd in (True, False))
    decay = [{id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
             for optimizer in (plain, without)]
    assert [decay[0][id(p)] for p in net.parameters()] == [0.1, 0, 0.1, 0]
    assert [decay[1][id(p)] for p in net.parameters()] == [0.1, 0, 0, 0]


def test_biases_and_betas_have_a_rate_of_their_own() -> None:
    net = nn.Sequential(Convolution(3, 4, 1), BatchNorm(4, fix_gamma=False), FullyConnected(4, 2))
    optimizer = optimizers.build(OptimizerConfig(bias_lr_mult=64.0, wd=0.1), net, CPU)
    optimizers.set_lr(optimizer, 0.5)
    rates = {id(parameter): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups
             for parameter in group["params"]}
    assert {name: rates[id(parameter)] for name, parameter in net.named_parameters()} == {
        "0.weight": (0.5, 0.1), "0.bias": (32.0, 0.0), "1.gamma": (0.5, 0.1), "1.beta": (32.0, 0.0),
        "2.weight": (0.5, 0.1), "2.bias": (32.0, 0.0)}


def test_the_dirac_initializer_passes_channels_on() -> None:
    from imgcls.networks._initializers import initialize

    net = nn.Sequential(Convolution(6, 16, 3), Convolution(6, 4, 3), FullyConnected(30, 8))
    initialize(net, "dirac", "lenet", seed=3)
    data = torch.randn(2, 6, 5, 5)
    for layer, count in ((net[0], 6), (net[1], 4)):
        passed = layer(data)[:, :count]
        assert torch.equal(passed, data[:, :count, 1:-1, 1:-1])
    # the others as torch draws them: evenly, to one by the square root of the inputs
    assert net[0].weight[6:].abs().max().item() == pytest.approx(54 ** -0.5, rel=0.01)
    assert net[2].weight.abs().max().item() == pytest.approx(30 ** -0.5, rel=0.05)


def test_group_adagrad_is_mxnets_on_matrices_and_adagrad_on_biases() -> None:
    recorded = RECORDED["group_adagrad"]  # learning_rate 0.1, wd 0: MXNet refuses a decay, and what is no matrix
    net = FullyConnected(4, 3)
    with torch.no_grad():
        net.weight.copy_(torch.tensor(recorded["start"]))
        net.bias.zero_()
    optimizer = optimizers.build(OptimizerConfig(optimizer="groupadagrad", wd=0.0), net, CPU)
    optimizers.set_lr(optimizer, 0.1)
    total, bias = torch.zeros(3), torch.zeros(3)
    for gradient, expected in zip(recorded["gradients"], recorded["weights"], strict=True):
        net.weight.grad = torch.tensor(gradient)
        net.bias.grad = net.weight.grad[:, 0].clone()
        optimizer.step()
        np.testing.assert_allclose(net.weight.detach(), expected, rtol=2e-6, atol=2e-6)
        total += net.bias.grad.square()
        bias -= 0.1 * net.bias.grad / (total + recorded["eps"]).sqrt()
    torch.testing.assert_close(net.bias.detach(), bias)
    history = optimizer.state[net.weight]["history"]
    np.testing.assert_allclose(history, np.tile(recorded["history"], (1, 4)), rtol=1e-6)


def test_every_name_trains() -> None:
    for name in (*OPTIMIZERS, "SGD"):
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
    ("lbnag", "MXNet had none"),
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
    nag, sgd = (stepped(name, gradients, start, [0.1, 0.1], mom=0.0, wd=0.01) for name in ("nag", "sgd"))
    for (weight, bias), (expected_weight, expected_bias) in zip(nag, sgd, strict=True):
        np.testing.assert_array_equal(weight, expected_weight)
        np.testing.assert_array_equal(bias, expected_bias)


@pytest.mark.parametrize("name", ["muon", "schedule-free-sgd", "schedule-free-adamw"])
def test_a_run_that_was_stopped_goes_on_to_the_bit(name: str, tmp_path: Path) -> None:
    """With the weights that are trained, not the average that is scored; both are in the checkpoint."""
    from imgcls.cli import train as command

    folder = write_digits(tmp_path)
    flags = ["--data-dir", str(folder), "--network", "lenet", "--batch-size", "64", "--lr", "0.01", "--optimizer", name]

    def run(prefix: str, *more: str) -> int:
        return command.main([*flags, "--model-prefix", str(tmp_path / prefix), *more])

    assert run("whole", "--num-epochs", "3") == 0
    assert run("half", "--num-epochs", "1") == 0
    assert run("half", "--num-epochs", "3", "--load-epoch", "1") == 0
    assert (tmp_path / "whole-0003.params").read_bytes() == (tmp_path / "half-0003.params").read_bytes()
    if name != "muon":
        assert run("x", "--model-ema-decay", "0.9") == 2
