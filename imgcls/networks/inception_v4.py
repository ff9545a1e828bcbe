"""Inception v4.

Szegedy et al. 2016, "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning";
MXNet symbols/inception-v4.py. As in that file: names contain `*`, and some of them name another kernel than
they have.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from imgcls.config.sections import NetworkConfig
from imgcls.layers import Size
from imgcls.networks._builder import NetworkBuilder, Value

IMAGE_SHAPE = (3, 299, 299)
#: name, filters, kernel and, where they are not 1 and 0, stride and pad
Unit = tuple[Any, ...]


def build(config: NetworkConfig) -> nn.Module:
    """Return the network: float (N, *image_shape) -> logits (N, num_classes)."""
    net = NetworkBuilder(config, IMAGE_SHAPE)
    body = _stem(net, net.identity(net.data, name="id"), "in_stem")
    # four blocks at 35 x 35, seven at 17 x 17, three at 8 x 8, as the paper's figure 9 has them
    for number in range(1, 5):
        body = _block_a(net, body, f"in{number}A")
    body = _reduction_a(net, body, "re1A")
    for number in range(1, 8):
        body = _block_b(net, body, f"in{number}B")
    body = _reduction_b(net, body, "re1B")
    for number in range(1, 4):
        body = _block_c(net, body, f"in{number}C")
    # Padded, as in MXNet's file, so that 3 x 3 are left: 13,824 features where the paper has 1,536.
    body = net.dropout(net.pooling(body, 8, "avg", pad=1, name="global_avgpool"), 0.2)
    return net.module(net.fully_connected(net.flatten(body, name="flatten"), config.num_classes, name="fc1"))


def _stem(net: NetworkBuilder, data: Value, name: str) -> Value:
    """(C, 299, 299) -> (384, 35, 35), the paper's figure 3."""
    # Three times two branches that are joined: at 73 x 73, 71 x 71 and 35 x 35.
    body = _chain(net, data, name, ("conv1_3*3", 32, 3, 2), ("conv2_3*3", 32, 3), ("conv3_3*3", 64, 3, 1, 1))
    body = net.concat(net.pooling(body, 3, "max", stride=2, name=f"{name}_maxpool_1"),
                      _chain(net, body, name, ("conv4_3*3", 96, 3, 2)), name=f"{name}_concat_1")
    short = _chain(net, body, name, ("conv5_1*1", 64, 1), ("conv6_3*3", 96, 3))
    long = _chain(net, body, name, ("conv7_1*1", 64, 1), ("conv8_7*1", 64, (7, 1), 1, (3, 0)),
                  ("conv9_1*7", 64, (1, 7), 1, (0, 3)), ("conv10_3*3", 96, 3))
    body = net.concat(short, long, name=f"{name}_concat_2")
    return net.concat(_chain(net, body, name, ("conv11_3*3", 192, 3, 2)),
                      net.pooling(body, 3, "max", stride=2, name=f"{name}_maxpool_2"),
                      name=f"{name}_concat_3")


def _block_a(net: NetworkBuilder, data: Value, name: str) -> Value:
    """35 x 35 maps, 384 channels (figure 4)."""
    return net.concat(
        _chain(net, _average(net, data, name), name, ("conv1_1*1", 96, 1)),
        _chain(net, data, name, ("conv2_1*1", 96, 1)),
        _chain(net, data, name, ("conv3_1*1", 64, 1), ("conv4_3*3", 96, 3, 1, 1)),
        _chain(net, data, name, ("conv5_1*1", 64, 1), ("conv6_3*3", 96, 3, 1, 1), ("conv7_3*3", 96, 3, 1, 1)),
        name=f"{name}_concat_1")


def _reduction_a(net: NetworkBuilder, data: Value, name: str) -> Value:
    """(384, 35, 35) -> (1024, 17, 17)."""
    # figure 7 with the filters of table 1: k 192, l 224, m 256, n 384
    return net.concat(
        net.pooling(data, 3, "max", stride=2, name=f"{name}_maxpool_1"),
        _chain(net, data, name, ("conv1_3*3", 384, 3, 2)),
        _chain(net, data, name, ("conv2_1*1", 192, 1), ("conv3_3*3", 224, 3, 1, 1), ("conv4_3*3", 256, 3, 2)),
        name=f"{name}_concat_1")


def _block_b(net: NetworkBuilder, data: Value, name: str) -> Value:
    """17 x 17 maps, 1,024 channels (figure 5)."""
    # conv5_1*7 is 7x1
    across = ((1, 7), 1, (0, 3))
    down = ((7, 1), 1, (3, 0))
    return net.concat(
        _chain(net, _average(net, data, name), name, ("conv1_1*1", 128, 1)),
        _chain(net, data, name, ("conv2_1*1", 384, 1)),
        _chain(net, data, name, ("conv3_1*1", 192, 1), ("conv4_1*7", 224, *across),
               ("conv5_1*7", 256, *down)),
        _chain(net, data, name, ("conv6_1*1", 192, 1), ("conv7_1*7", 192, *across), ("conv8_7*1", 224, *down),
               ("conv9_1*7", 224, *across), ("conv10_7*1", 256, *down)),
        name=f"{name}_concat_1")


def _reduction_b(net: NetworkBuilder, data: Value, name: str) -> Value:
    """(1024, 17, 17) -> (1536, 8, 8) (figure 8)."""
    return net.concat(
        net.pooling(data, 3, "max", stride=2, name=f"{name}_maxpool_1"),
        _chain(net, data, name, ("conv1_1*1", 192, 1), ("conv2_3*3", 192, 3, 2)),
        _chain(net, data, name, ("conv3_1*1", 256, 1), ("conv4_1*7", 256, (1, 7), 1, (0, 3)),
               ("conv5_7*1", 320, (7, 1), 1, (3, 0)), ("conv6_3*3", 320, 3, 2)),
        name=f"{name}_concat_1")


def _block_c(net: NetworkBuilder, data: Value, name: str) -> Value:
    """8 x 8 maps, 1,536 channels (figure 6)."""
    # conv4_3*1 and conv10_3*1 are 1x3, conv5_1*3 and conv9_1*3 are 3x1
    across = ((1, 3), 1, (0, 1))
    down = ((3, 1), 1, (1, 0))
    # Each of these two goes into both an `across` and a `down`, side by side.
    near = _chain(net, data, name, ("conv3_1*1", 384, 1))
    far = _chain(net, data, name, ("conv6_1*1", 384, 1), ("conv7_1*3", 448, *across),
                 ("conv8_3*1", 512, *down))
    return net.concat(
        _chain(net, _average(net, data, name), name, ("conv1_1*1", 256, 1)),
        _chain(net, data, name, ("conv2_1*1", 256, 1)),
        _chain(net, near, name, ("conv4_3*1", 256, *across)),
        _chain(net, near, name, ("conv5_1*3", 256, *down)),
        _chain(net, far, name, ("conv9_1*3", 256, *down)),
        _chain(net, far, name, ("conv10_3*1", 256, *across)),
        name=f"{name}_concat")


def _average(net: NetworkBuilder, data: Value, name: str) -> Value:
    return net.pooling(data, 3, "avg", pad=1, name=f"{name}_avgpool_1")


def _chain(net: NetworkBuilder, data: Value, block: str, *units: Unit) -> Value:
    """Add units one after the other."""
    for unit in units:
        data = _unit(net, data, block, *unit)
    return data


def _unit(net: NetworkBuilder, data: Value, block: str, name: str, filters: int, kernel: Size,
          stride: int = 1, pad: Size = 0) -> Value:
    """Convolution without bias, batch normalisation with gamma fixed at 1, relu."""
    name = f"{block}_{name}"
    body = net.convolution(data, filters, kernel, stride=stride, pad=pad, no_bias=True, name=f"{name}_conv2d")
    return net.relu(net.batch_norm(body, fix_gamma=True, name=f"{name}_batchnorm"), name=f"{name}_relu")
