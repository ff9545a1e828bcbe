"""One paper, one file: `--network lenet` is `lenet.py`, and each offers `build(config) -> nn.Module` giving logits.

`build_network` is the door: it finds the file, builds, and initialises as MXNet would. `torchvision:NAME` and
`timm:NAME` are networks of those packages, as they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from imgcls.config import lookup
from imgcls.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from imgcls.config.sections import NetworkConfig


def build_network(config: NetworkConfig, seed: int) -> nn.Module:
    """The network that --network names, initialised from `seed`, on the CPU, in training mode."""
    from imgcls.networks import _foreign, _init

    kind, colon, name = config.network.partition(":")
    if colon:
        import torch

        if config.initializer != "default":
            raise UsageError(f"`initializer` {config.initializer}: {config.network} initialises itself")

        torch.manual_seed(seed)  # these packages draw their weights from torch's own generator
        return _foreign.build_foreign(kind, name, config)
    model = lookup.module("networks", config.network, "`network`").build(config)
    _init.initialize(model, config.initializer, config.network, seed)
    return model


def takes_depth(network: str) -> bool:
    """Whether --num-layers means anything to the network of this name."""
    if ":" in network:
        return False
    return "num_layers" in getattr(lookup.module("networks", network, "`network`"), "OPTIONS", ())


def check_parts(config: NetworkConfig, gpus: Sequence[int], compile: bool = False) -> None:
    """UsageError where --model-parallel does not go with --gpus (the numbers in it, none for the CPU) or --compile.

    Whether the network can be spread at all, `build` says. Needs no torch.
    """
    parts = config.model_parallel
    if parts > 1 and len(gpus) % parts:
        raise UsageError(f"`model_parallel` {parts}: each copy of the network takes {parts} GPUs, `gpus` "
                         f"{','.join(map(str, gpus))} names {len(gpus)}")
    if parts > 1 and compile:
        raise UsageError(f"`model_parallel` {parts}: a network on several devices is not compiled; leave `compile` out")


def to_devices(model: nn.Module, config: NetworkConfig, device: torch.device, gpus: Sequence[int]) -> str:
    """Move the network to `device`, or its parts to that and the devices behind it in `gpus` (--model-parallel).

    Logits come out on `device`. The text says where the parts are; "" where there is one. On a CPU all parts are on it.
    """
    parts = config.model_parallel
    if parts == 1:
        model.to(device)
        return ""
    import torch

    spreadable: Any = model
    if not hasattr(model, "to_devices"):
        raise UsageError(f"`model_parallel` {parts}: this network is in one piece (alexnet-towers is in two)")
    devices, where = [device] * parts, f"all on the CPU; `gpus` {','.join(map(str, range(parts)))} spreads them"
    if device.type == "cuda":
        first = list(gpus).index(device.index)
        devices = [torch.device("cuda", number) for number in gpus[first:first + parts]]
        where = "on " + " and ".join(map(str, devices))
    spreadable.to_devices(devices)
    return f"`model_parallel` {parts}: the parts of the network are {where}"
