"""SGD's kernel, called directly: the same bits as torch's own step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from imgcls.config.sections import OptimizerConfig
from imgcls.layers import FullyConnected
from imgcls.optim import optimizers
from imgcls.optim.fused_sgd import direct_step


def _net() -> nn.Module:
    return nn.ModuleList([FullyConnected(4, 3), FullyConnected(4, 3, extra={"__lr_mult__": "0.01"})])


@pytest.mark.parametrize("name", ["sgd", "nag"])
@pytest.mark.parametrize("mom", [0.0, 0.9])
def test_the_direct_step_is_torchs_to_the_bit(name: str, mom: float) -> None:
    nets, own = [_net(), _net()], []
    for parameter in nets[0].parameters():  # layers alone come with whatever the memory held
        nn.init.constant_(parameter, 0.5)
    nets[1].load_state_dict(nets[0].state_dict())
    config = OptimizerConfig(optimizer=name, mom=mom, wd=0.01)
    theirs, ours = (optimizers.build(config, net, torch.device("cpu")) for net in nets)
    step = direct_step(ours, lambda: own.append(True) or ours.step())
    for number in range(6):
        for net, optimizer in zip(nets, (theirs, ours), strict=True):
            optimizers.set_lr(optimizer, 0.1 / (1 + number))
            optimizer.zero_grad()
            torch.manual_seed(number)
            # from the fourth step on a layer is left out, as a frozen one is
            layers = list(net)[:2 if number < 3 else 1]
            sum(layer(torch.rand(2, 4)).square().sum() for layer in layers).backward()
        if number == 2:  # a state that was read takes the place of the one that was
            ours.load_state_dict(ours.state_dict())
        # with all of torch's checks
        theirs.step()
        with torch.no_grad():
            step()
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(a, b)
    assert len(own) == (1 if mom else 0)  # torch makes the state, and is not asked after that
