"""Dropout and stochastic depth as the settings say: in training only, by the seed of an update, in no symbol."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from imgcls import graph
from imgcls.config import resolve
from imgcls.config.resolve import Config
from imgcls.errors import UsageError
from imgcls.formats import symbol
from imgcls.layers import Dropout, ElementwiseAdd, LeakyReLU
from imgcls.layers.residual import residual_branches
from imgcls.networks import build_network
from imgcls.training.dropout import is_random, with_dropout


def config_of(network: str, **settings: object) -> Config:
    return resolve.build({"image_shape": (3, 32, 32)}, {"network": network, **settings})


@pytest.mark.parametrize(("network", "num_units", "shape"), [
    ("resnet-20", 9, "3,28,28"), ("resnet-v1-20", 9, "3,28,28"), ("resnext-20", 9, "3,28,28"),
    ("resnet-28-small-20", 9, "3,28,28"), ("vgg", 0, "3,32,32")])
def test_residual_branches_are_found_and_the_symbol_stays(network: str, num_units: int, shape: str) -> None:
    config = config_of(network, drop_path=0.4, image_shape=shape)
    model = build_network(config.network, 0)
    before = symbol.dumps(graph.to_symbol(model))
    branches = residual_branches(model)
    assert len(branches) == num_units
    if not num_units:
        with pytest.raises(UsageError, match=r"drop_path 0.4: vgg has no residual branches"):
            with_dropout(model, config)
        return
    with_dropout(model, config)
    rates = [layer.drop_path for layer in model.modules() if isinstance(layer, ElementwiseAdd)]
    np.testing.assert_allclose(rates, 0.4 * np.arange(1, num_units + 1) / num_units)
    assert symbol.dumps(graph.to_symbol(model)) == before
    # without its branches the network still is one, and the shortcut is not what is dropped
    model.train()
    for layer, _, _ in branches:
        layer.drop_path = 1 - 1e-9
    images = torch.randn(2, *config.network.image_shape)
    for layer, branch, _ in branches:
        layer.register_forward_hook(lambda _, inputs, output, branch=branch: torch.testing.assert_close(
            output, inputs[1 - branch]))
    model(images)


needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="no timm")


@pytest.mark.parametrize("name", ["torchvision:efficientnet_b0", pytest.param("timm:resnet18", marks=needs_timm)])
def test_networks_of_other_packages_leave_theirs_out(name: str) -> None:
    config = config_of(name, drop_path=0.4, image_shape="3,64,64")
    model = with_dropout(build_network(config.network, 0, config.regularization.drop_path), config)
    layers = [module for module in model.modules() if type(module).__name__ in ("StochasticDepth", "DropPath")]
    rates = [getattr(layer, "p", getattr(layer, "drop_prob", None)) for layer in layers]
    assert max(rates) == pytest.approx(0.4)
    assert rates == sorted(rates)
    assert all(map(is_random, layers)), "seeded by the update, or a resumed run would drop others"


@pytest.mark.parametrize("name", ["torchvision:vgg11", pytest.param("timm:vgg11", marks=needs_timm)])
def test_networks_of_other_packages_without_any_say_so(name: str) -> None:
    config = config_of(name, drop_path=0.4, image_shape="3,32,32")
    with torch.device("meta"), pytest.raises(UsageError, match="drop_path"):
        with_dropout(build_network(config.network, 0, config.regularization.drop_path), config)


def test_branches_are_dropped_by_sample_in_training_only() -> None:
    layer = ElementwiseAdd()
    layer.drop_path, layer.branch = 0.25, 1
    shortcut, branch = torch.ones(4000, 2, 1, 1), torch.full((4000, 2, 1, 1), 3.0)
    torch.manual_seed(0)
    values, counts = layer(shortcut, branch)[:, 0].unique(return_counts=True)
    assert values.tolist() == [1.0, 5.0]
    assert abs(counts[0] / 4000 - 0.25) < 0.03
    assert torch.equal(layer.eval()(shortcut, branch), shortcut + branch)
    assert is_random(layer)
    assert not is_random(ElementwiseAdd())


def test_slopes_that_are_drawn_are_seeded_by_the_update() -> None:
    assert is_random(LeakyReLU("rrelu"))
    assert is_random(torch.nn.RReLU())
    assert not any(map(is_random, (LeakyReLU(), LeakyReLU("prelu"), torch.nn.LeakyReLU())))


def test_dropout_of_a_network_is_set_and_shown() -> None:
    config = config_of("vgg", dropout=0.2)
    model = build_network(config.network, 0)
    with_dropout(model, config)
    assert {layer.p for layer in model.modules() if isinstance(layer, Dropout)} == {0.2}
    assert '"p": "0.2"' in symbol.dumps(graph.to_symbol(model))
    with pytest.raises(UsageError, match=r"dropout 0.2: lenet has no dropout"):
        with_dropout(build_network(config_of("lenet", image_shape="1,28,28").network, 0),
                    config_of("lenet", dropout=0.2))
