"""One paper, one file: `--network lenet` is `lenet.py`, and each offers `build(config) -> nn.Module` giving logits.

`build_network` is the door: it finds the file, builds, and initialises as MXNet would. `torchvision:NAME` and
`timm:NAME` are networks of those packages, as they come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgcls import lookup
from imgcls.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from imgcls.sections import NetworkConfig


def build_network(config: NetworkConfig, seed: int) -> nn.Module:
    """The network that --network names, initialised from `seed`, on the CPU, in training mode."""
    from imgcls.networks import _foreign, _init

    kind, colon, name = config.network.partition(":")
    if colon:
        import torch

        if config.initializer != "default":
            raise UsageError(f"--initializer {config.initializer}: {config.network} initialises itself")

        torch.manual_seed(seed)  # these packages draw their weights from torch's own generator
        return _foreign.build_foreign(kind, name, config)
    model = lookup.module("networks", config.network, "--network").build(config)
    _init.initialize(model, config.initializer, config.network, seed)
    return model


def takes_depth(network: str) -> bool:
    """Whether --num-layers means anything to the network of this name."""
    if ":" in network:
        return False
    return "num_layers" in getattr(lookup.module("networks", network, "--network"), "OPTIONS", ())
