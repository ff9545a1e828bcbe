"""One paper, one file: `--network lenet` is `lenet.py`, whose `build(config)` returns a module giving logits.

All code builds networks with `build_network`: it finds the file, builds, and initialises as MXNet would.
`torchvision:NAME` and `timm:NAME` are networks of those packages, as they come. Files that start with `_` are
helpers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from imgcls.config import lookup
from imgcls.config.flags import show
from imgcls.errors import UsageError, verbatim
from imgcls.storage import memory

# torch is imported in the functions that need it: the checks below also serve commands before torch is
# loaded.
if TYPE_CHECKING:
    import torch
    from torch import nn

    from imgcls.config.sections import NetworkConfig


def build_network(config: NetworkConfig, seed: int, drop_path: float = 0.0) -> nn.Module:
    """Return the network that `network` names, initialised from `seed`, on the CPU, in training mode.

    `drop_path` is for those of timm, which have stochastic depth only where they are made with it.

    Raises UsageError for a name that is not known, and for a setting or an image shape that it cannot take.
    """
    import torch

    from imgcls.networks import _initializers, _packages

    check_network(config)
    package, colon, name = config.network.partition(":")
    if colon:
        torch.manual_seed(seed)  # these packages draw their weights from torch's own generator
        return _packages.build_from_package(package, name, config, drop_path)
    model = lookup.module("networks", config.network, "`network`").build(config)
    _initializers.initialize(model, config.initializer, config.network, seed)
    if config.zero_init_residual:
        _initializers.zero_residual_branches(model, config.network)
    return model


def check_network(config: NetworkConfig) -> None:
    """Raise UsageError for a network that is not known, cannot run at its image shape or is too large for the
    memory here.

    Takes no memory itself: a run calls it before its data are read.
    """
    import torch

    from imgcls.networks import _initializers, _packages

    package, colon, name = config.network.partition(":")
    if colon and config.initializer != "default":
        raise UsageError(f"`initializer` {config.initializer}: {config.network} initialises itself")
    with torch.device("meta"):  # shapes without values
        if colon:
            model = _packages.make_trial(package, name, config)
        else:
            model = lookup.module("networks", config.network, "`network`").build(config)
            if config.zero_init_residual:
                _initializers.zero_residual_branches(model, config.network)
    num_values = sum(parameter.numel() for parameter in model.parameters())
    # A weight is float32, and drawn in a second tensor of its size.
    memory.require(4 * num_values + 4 * max(map(torch.Tensor.numel, model.parameters()), default=0),
                   f"{_describe_size(config)}: the network of {num_values:,} weights")


def _describe_size(config: NetworkConfig) -> str:
    """Return the settings that decide how large a network is, with their values, for an error; the last two
    only where they are not the default."""
    shape = show(config.image_shape)
    parts = [f"`network` {verbatim(config.network)}", f"`image_shape` {shape}",
             f"`num_classes` {config.num_classes}"]
    if config.num_layers is not None:
        parts.append(f"`num_layers` {config.num_layers}")
    if config.multiplier != 1:
        parts.append(f"`multiplier` {config.multiplier:g}")
    return ", ".join(parts)


def takes_depth(network: str) -> bool:
    """Return whether `num_layers` means anything to the network of this name."""
    if ":" in network:  # another package's: its name says how deep it is
        return False
    return "num_layers" in getattr(lookup.module("networks", network, "`network`"), "OPTIONS", ())


def check_model_parallel(config: NetworkConfig, gpus: Sequence[int], is_compiled: bool = False) -> None:
    """Raise UsageError where `model_parallel` does not go with `gpus` or `compile`.

    `gpus` are the numbers of the GPUs, none for the CPU. Whether the network has parts at all, `build` says.
    """
    num_parts = config.model_parallel
    # Several copies share the batch, each on num_parts GPUs.
    if num_parts > 1 and len(gpus) % num_parts:
        raise UsageError(f"`model_parallel` {num_parts}: each copy of the network takes {num_parts} GPUs, "
                         f"`gpus` {show(gpus)} names {len(gpus)}")
    if num_parts > 1 and is_compiled:
        raise UsageError(f"`model_parallel` {num_parts}: a network on several devices is not compiled; leave "
                         "`compile` out")


def to_devices(model: nn.Module, config: NetworkConfig, device: torch.device, gpus: Sequence[int]) -> str:
    """Move the network to `device` or, with `model_parallel`, its parts to that and the next ones in `gpus`.

    Logits come out on `device`. On the CPU all parts are on it. Returns a note that says where the parts are;
    "" where there is only one.
    """
    num_parts = config.model_parallel
    if num_parts == 1:
        model.to(device)
        return ""
    import torch

    if not hasattr(model, "to_devices"):
        raise UsageError(f"`model_parallel` {num_parts}: this network is in one piece (alexnet-towers is in "
                         "two)")
    if device.type == "cuda":
        # Each copy of the network has the GPU it was given and those that follow it in the user's list.
        first = list(gpus).index(device.index)
        devices = [torch.device("cuda", number) for number in gpus[first:first + num_parts]]
        where = "on " + " and ".join(map(str, devices))
    else:
        devices = [device] * num_parts
        where = f"all on the CPU; `gpus` {show(tuple(range(num_parts)))} spreads them"
    spreadable: Any = model
    spreadable.to_devices(devices)
    return f"`model_parallel` {num_parts}: the parts of the network are {where}"
