"""Settings that a network reads beside its name: checks, and errors that say what would work.

Every network calls them, most through `NetworkBuilder`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from imgcls.config.flags import show
from imgcls.config.sections import NetworkConfig
from imgcls.errors import UsageError
from imgcls.layers import Shape

#: settings that only some networks read, and which; a network's file names those that it reads in OPTIONS
OPTIONAL = {"add_stn": "lenet", "batch_norm": "vgg", "num_group": "resnext",
            "multiplier": "mobilenet, mobilenetv2 and airbench", "variant": "overfeat and alexnet-towers",
            "model_parallel": "alexnet-towers"}


def check_options(config: NetworkConfig, options: Iterable[str]) -> None:
    """Raise UsageError for a setting of OPTIONAL that was changed though the network does not read it."""
    # Compared with the default and not with what the user gave: a configuration file may list all settings.
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name in set(OPTIONAL) - set(options):
        value = getattr(config, name)
        if value != defaults[name]:
            raise UsageError(f"`{name}` {value}: {config.network} has no such option; it is for "
                             f"{OPTIONAL[name]}")


def depth_of(config: NetworkConfig, default: int, depths: Iterable[int]) -> int:
    """Return `num_layers`, or `default` where it was not given; UsageError unless it is one of `depths`."""
    depths = sorted(depths)  # for the error, which lists them
    depth = default if config.num_layers is None else config.num_layers
    if depth not in depths:
        *others, last = map(str, depths)
        raise UsageError(f"`num_layers` {depth}: {config.network} comes with {', '.join(others)} or {last}")
    return depth


def variant_of(config: NetworkConfig, variants: Iterable[str]) -> str:
    """Return `variant`, or the first of `variants` without one; UsageError unless it is one of them."""
    variants = list(variants)
    if config.variant and config.variant not in variants:
        raise UsageError(f"`variant` {config.variant}: {config.network} comes as {' or '.join(variants)}")
    return config.variant or variants[0]  # "" is the default of the flag


def image_shape(config: NetworkConfig, works: Shape) -> tuple[int, int, int]:
    """Return (channels, height, width); UsageError, which names `works`, unless there are three."""
    if len(config.image_shape) != 3:
        raise UsageError(f"`image_shape` {show(config.image_shape)}: {config.network} needs "
                         f"channels,height,width, such as {show(works)}")
    channels, height, width = config.image_shape
    return channels, height, width


def too_small(config: NetworkConfig, works: Shape, reason: str) -> UsageError:
    """Return the error for an image shape that the network cannot run at; it names one that works."""
    shape = config.image_shape
    # With the user's number of channels: only height and width are wrong.
    return UsageError(f"`image_shape` {show(shape)}: {config.network} cannot run at it: {reason}; "
                      f"{show((shape[0], *works[1:]))} works")
