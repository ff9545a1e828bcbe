"""Inception-ResNet v2.

Szegedy et al. 2016, "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning";
MXNet symbols/inception-resnet-v2.py. That file names no layer, so they carry the numbers that MXNet gives
them: the order of the calls below matters.
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
    # (320, 35, 35), then (1088, 17, 17) and (2080, 8, 8) behind the reductions
    body = _mixed(net, _stem(net, net.data))
    # Residuals are scaled down before they are added, else training dies (the paper's section 3.3).
    for _ in range(10):
        body = net.relu(_block35(net, body, 0.17))
    body = _reduction_a(net, body)
    for _ in range(20):
        body = net.relu(_block17(net, body, 0.1))
    body = _reduction_b(net, body)
    for _ in range(9):
        body = net.relu(_block8(net, body, 0.2))
    body = _block8(net, body, 1.0)  # the last one at full scale, and without a relu behind it
    body = net.pooling(_unit(net, body, 1536, 1), 1, "avg", stride=2, global_pool=True)
    body = net.dropout(net.flatten(body), 0.2)
    return net.module(net.fully_connected(body, config.num_classes))


def _stem(net: NetworkBuilder, data: Value) -> Value:
    """(C, 299, 299) -> (192, 35, 35)."""
    # Inception v3's stem, where the paper has that of v4 (its figure 3).
    body = _chain(net, data, (32, 3, 2), (32, 3), (64, 3, 1, 1))
    body = net.pooling(body, 3, "max", stride=2)
    body = _chain(net, body, (80, 1), (192, 3))
    return net.pooling(body, 3, "max", stride=2)


def _mixed(net: NetworkBuilder, data: Value) -> Value:
    """(192, 35, 35) -> (320, 35, 35)."""
    point = _unit(net, data, 96, 1)
    wide = _chain(net, data, (48, 1), (64, 5, 1, 2))
    double = _chain(net, data, (64, 1), (96, 3, 1, 1), (96, 3, 1, 1))
    pooled = net.pooling(data, 3, "avg", stride=1, pad=1)
    return net.concat(point, wide, double, _unit(net, pooled, 64, 1))


def _block35(net: NetworkBuilder, data: Value, scale: float) -> Value:
    """35 x 35 maps (figure 16)."""
    point = _unit(net, data, 32, 1)
    single = _chain(net, data, (32, 1), (32, 3, 1, 1))
    double = _chain(net, data, (32, 1), (48, 3, 1, 1), (64, 3, 1, 1))
    return _residual(net, data, net.concat(point, single, double), scale)


def _reduction_a(net: NetworkBuilder, data: Value) -> Value:
    """(320, 35, 35) -> (1088, 17, 17)."""
    # figure 7 with the filters of table 1: k 256, l 256, m 384, n 384
    single = _unit(net, data, 384, 3, 2)
    double = _chain(net, data, (256, 1), (256, 3, 1, 1), (384, 3, 2))
    return net.concat(single, double, net.pooling(data, 3, "max", stride=2))


def _block17(net: NetworkBuilder, data: Value, scale: float) -> Value:
    """17 x 17 maps (figure 17)."""
    # 129 filters and the paddings (1, 2) and (2, 1) of a 7-wide kernel are MXNet's file's, not the paper's.
    point = _unit(net, data, 192, 1)
    wide = _chain(net, data, (129, 1), (160, (1, 7), 1, (1, 2)), (192, (7, 1), 1, (2, 1)))
    return _residual(net, data, net.concat(point, wide), scale)


def _reduction_b(net: NetworkBuilder, data: Value) -> Value:
    """(1088, 17, 17) -> (2080, 8, 8), the paper's figure 18."""
    first = _chain(net, data, (256, 1), (384, 3, 2))
    second = _chain(net, data, (256, 1), (288, 3, 2))
    double = _chain(net, data, (256, 1), (288, 3, 1, 1), (320, 3, 2))
    return net.concat(first, second, double, net.pooling(data, 3, "max", stride=2))


def _block8(net: NetworkBuilder, data: Value, scale: float) -> Value:
    """8 x 8 maps (figure 19)."""
    point = _unit(net, data, 192, 1)
    wide = _chain(net, data, (192, 1), (224, (1, 3), 1, (0, 1)), (256, (3, 1), 1, (1, 0)))
    return _residual(net, data, net.concat(point, wide), scale)


def _residual(net: NetworkBuilder, data: Value, branches: Value, scale: float) -> Value:
    """data + scale * (branches brought to data's channels), without an activation."""
    # The call order gives MXNet's numbers: convolution, normalisation, factor, addition.
    return net.plus(data, net.scale(_linear(net, branches, data.shape[0], 1), scale))


def _chain(net: NetworkBuilder, data: Value, *units: Unit) -> Value:
    """Add units one after the other."""
    for unit in units:
        data = _unit(net, data, *unit)
    return data


def _unit(net: NetworkBuilder, data: Value, filters: int, kernel: Size, stride: int = 1,
          pad: Size = 0) -> Value:
    return net.relu(_linear(net, data, filters, kernel, stride, pad))


def _linear(net: NetworkBuilder, data: Value, filters: int, kernel: Size, stride: int = 1,
            pad: Size = 0) -> Value:
    """Convolution with bias and batch normalisation, no activation."""
    return net.batch_norm(net.convolution(data, filters, kernel, stride=stride, pad=pad))
