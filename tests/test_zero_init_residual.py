"""`zero_init_residual`: a network begins with residual branches that add nothing, and they learn."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import nn

from imgcls.config.sections import NetworkConfig
from imgcls.errors import UsageError
from imgcls.layers.residual import residual_branches
from imgcls.networks import build_network, check_network


def build(network: str, *, side: int = 28, zero: bool = True, num_layers: int | None = None) -> nn.Module:
    config = NetworkConfig(network=network, image_shape=(3, side, side), num_layers=num_layers,
                           zero_init_residual=zero)
    check_network(config)
    return build_network(config, 0)


@pytest.mark.parametrize(("network", "num_layers", "side", "num_branches"), [
    ("resnet-v1", 20, 28, 9), ("resnext", 20, 28, 9), ("resnet-caffe", 50, 224, 16), ("mobilenetv2", None, 224, 10)])
def test_every_branch_begins_at_0_and_learns(network: str, num_layers: int | None, side: int,
                                             num_branches: int) -> None:
    model = build(network, side=side, num_layers=num_layers).train()
    branches = residual_branches(model)
    assert len(branches) == num_branches
    for addition, index, _ in branches:
        addition.register_forward_hook(lambda _, inputs, output, index=index: torch.testing.assert_close(
            output, inputs[1 - index], rtol=0, atol=0))
    logits = model(torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0)))
    logits.logsumexp(1).sum().backward()
    for branch in branches:
        assert isinstance(branch.last, nn.Module)
        assert bool(branch.last.gamma.grad.abs().sum() > 0)

    # all else is as without the setting
    plain = build(network, side=side, zero=False, num_layers=num_layers).state_dict()
    changed = [name for name, values in model.state_dict().items()
               if "moving" not in name and not torch.equal(values, plain[name])]
    assert len(changed) == num_branches
    assert all(name.endswith("gamma") for name in changed)


def test_torchvisions_own_setting_is_used() -> None:
    model = build("torchvision:resnet18", side=64)
    gammas = {name: bool(module.weight.any()) for name, module in model.named_modules()
              if isinstance(module, nn.BatchNorm2d)}
    assert {name for name, is_set in gammas.items() if not is_set} == {
        f"layer{stage}.{block}.bn2" for stage in range(1, 5) for block in range(2)}


@pytest.mark.parametrize(("network", "problem"), [
    # a convolution is the last of its branches; none; a gamma that is fixed; other packages
    ("resnet", "resnet has no residual branches that end in"), ("vgg", "vgg has no residual branches"),
    ("resnet-28-small", "learns its gamma"), ("torchvision:vgg11", "torchvision:vgg11 has no such option"),
    pytest.param("timm:resnet18", "timm:resnet18 begins as timm has it", marks=pytest.mark.skipif(
        importlib.util.find_spec("timm") is None, reason="no timm"))])
def test_networks_without_such_a_gamma_say_so(network: str, problem: str) -> None:
    with pytest.raises(UsageError, match=rf"zero_init_residual.*{problem}"):
        build(network, side=64 if ":" in network or network == "vgg" else 28)
