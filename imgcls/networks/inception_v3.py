"""Inception v3 without its auxiliary head.

Szegedy et al. 2015, "Rethinking the Inception Architecture for Computer Vision"; MXNet
symbols/inception-v3.py. Blocks are called a to e in the order of that file; figures below are the paper's.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from imgcls.config.sections import NetworkConfig
from imgcls.layers import Size
from imgcls.networks._builder import NetworkBuilder, Value

IMAGE_SHAPE = (3, 299, 299)
#: filters, kernel and, where they are not 1 and 0, stride and pad
Unit = tuple[Any, ...]


def build(config: NetworkConfig) -> nn.Module:
    """Return the network: float (N, *image_shape) -> logits (N, num_classes)."""
    net = NetworkBuilder(config, IMAGE_SHAPE)
    # stem: 299 x 299 -> 73 x 73 -> (192, 35, 35)
    body = _chain(net, net.identity(net.data, name="id"), "conv", (32, 3, 2), (32, 3), (64, 3, 1, 1))
    body = net.pooling(body, 3, "max", stride=2, name="pool")
    body = _unit(net, _unit(net, body, "conv_3", 80, 1), "conv_4", 192, 3)
    body = net.pooling(body, 3, "max", stride=2, name="pool1")
    # 35 x 35 with 256 to 288 channels, 17 x 17 with 768, 8 x 8 with 1,280 to 2,048
    # `filters` are those behind the pooling: few at first, where the map has few channels.
    for name, filters in (("mixed", 32), ("mixed_1", 64), ("mixed_2", 64)):
        body = _block_a(net, body, name, filters)
    body = _block_b(net, body, "mixed_3")
    for name, filters in (("mixed_4", 128), ("mixed_5", 160), ("mixed_6", 160), ("mixed_7", 192)):
        body = _block_c(net, body, name, filters)
    body = _block_d(net, body, "mixed_8")
    body = _block_e(net, body, "mixed_9", "avg")
    body = _block_e(net, body, "mixed_10", "max")
    body = net.flatten(net.pooling(body, 8, "avg", stride=1, name="global_pool"), name="flatten")
    return net.module(net.fully_connected(body, config.num_classes, name="fc1"))


def _block_a(net: NetworkBuilder, data: Value, name: str, filters: int) -> Value:
    """35 x 35 maps: 1x1, 5x5, double 3x3, pooling to `filters` (figure 5, but for the 5x5)."""
    return net.concat(
        _unit(net, data, f"{name}_conv", 64, 1),
        _chain(net, data, f"{name}_tower_conv", (48, 1), (64, 5, 1, 2)),
        _chain(net, data, f"{name}_tower_1_conv", (64, 1), (96, 3, 1, 1), (96, 3, 1, 1)),
        _unit(net, _pool(net, data, name, "avg", stride=1, pad=1), f"{name}_tower_2_conv", filters, 1),
        name=f"ch_concat_{name}_chconcat")


def _block_b(net: NetworkBuilder, data: Value, name: str) -> Value:
    """35 x 35 -> 17 x 17: 3x3, double 3x3, pooling."""
    # stride 2 in all three, and no 1x1 for the pooled maps (figure 10)
    return net.concat(
        _unit(net, data, f"{name}_conv", 384, 3, 2),
        _chain(net, data, f"{name}_tower_conv", (64, 1), (96, 3, 1, 1), (96, 3, 2)),
        _pool(net, data, name, "max", stride=2, pad=0),
        name=f"ch_concat_{name}_chconcat")


def _block_c(net: NetworkBuilder, data: Value, name: str, filters: int) -> Value:
    """17 x 17 maps: 1x1, 7x7 as 1x7 and 7x1, the same twice, pooling (figure 6)."""
    # `filters` inside the long branches, 192 at their ends
    across = ((1, 7), 1, (0, 3))  # kernel, stride, pad: a 7x7 in two steps, with two sevenths of the weights
    down = ((7, 1), 1, (3, 0))
    return net.concat(
        _unit(net, data, f"{name}_conv", 192, 1),
        _chain(net, data, f"{name}_tower_conv", (filters, 1), (filters, *across), (192, *down)),
        _chain(net, data, f"{name}_tower_1_conv", (filters, 1), (filters, *down), (filters, *across),
               (filters, *down), (192, *across)),
        _unit(net, _pool(net, data, name, "avg", stride=1, pad=1), f"{name}_tower_2_conv", 192, 1),
        name=f"ch_concat_{name}_chconcat")


def _block_d(net: NetworkBuilder, data: Value, name: str) -> Value:
    """17 x 17 -> 8 x 8: 3x3, 7x7 as 1x7 and 7x1 before a 3x3, pooling."""
    return net.concat(
        _chain(net, data, f"{name}_tower_conv", (192, 1), (320, 3, 2)),
        _chain(net, data, f"{name}_tower_1_conv", (192, 1), (192, (1, 7), 1, (0, 3)),
               (192, (7, 1), 1, (3, 0)), (192, 3, 2)),
        _pool(net, data, name, "max", stride=2),
        name=f"ch_concat_{name}_chconcat")


def _block_e(net: NetworkBuilder, data: Value, name: str, pool: str) -> Value:
    """8 x 8 maps: 1x1, 1x3 beside 3x1, the same after a 3x3, pooling (figure 7); 2,048 channels."""
    across = (384, (1, 3), 1, (0, 1))
    down = (384, (3, 1), 1, (1, 0))
    # Each of these two goes into both an `across` and a `down`, side by side.
    near = _unit(net, data, f"{name}_tower_conv", 384, 1)
    far = _chain(net, data, f"{name}_tower_1_conv", (448, 1), (384, 3, 1, 1))
    return net.concat(
        _unit(net, data, f"{name}_conv", 320, 1),
        _unit(net, near, f"{name}_tower_mixed_conv", *across),
        _unit(net, near, f"{name}_tower_mixed_conv_1", *down),
        _unit(net, far, f"{name}_tower_1_mixed_conv", *across),
        _unit(net, far, f"{name}_tower_1_mixed_conv_1", *down),
        _unit(net, _pool(net, data, name, pool, stride=1, pad=1), f"{name}_tower_2_conv", 192, 1),
        name=f"ch_concat_{name}_chconcat")


def _pool(net: NetworkBuilder, data: Value, name: str, kind: str, **options: int) -> Value:
    return net.pooling(data, 3, kind, name=f"{kind}_pool_{name}_pool", **options)


def _chain(net: NetworkBuilder, data: Value, name: str, *units: Unit) -> Value:
    """Add units one after the other, called `name`, `name_1`, `name_2`, ..."""
    for number, unit in enumerate(units):  # the first one has no number
        data = _unit(net, data, f"{name}_{number}" if number else name, *unit)
    return data


def _unit(net: NetworkBuilder, data: Value, name: str, filters: int, kernel: Size, stride: int = 1,
          pad: Size = 0) -> Value:
    """Convolution without bias, batch normalisation with gamma fixed at 1, relu."""
    body = net.convolution(data, filters, kernel, stride=stride, pad=pad, no_bias=True, name=f"{name}_conv2d")
    return net.relu(net.batch_norm(body, fix_gamma=True, name=f"{name}_batchnorm"), name=f"{name}_relu")
