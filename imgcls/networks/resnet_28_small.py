"""The first generation's ResNet for CIFAR, on 28 x 28 crops.

He et al. 2015, "Deep Residual Learning for Image Recognition", section 4.2; MXNet 0.7's
symbol_resnet-28-small.py. The depth, 6n + 2, was edited in that file; here it is `--num-layers` (20 if not
given). The file names no convolution, so they carry numbers in the order of the calls: a projection comes
last in its unit.
"""

from __future__ import annotations

from torch import nn

from imgcls.config.sections import NetworkConfig
from imgcls.errors import UsageError
from imgcls.networks._builder import NetworkBuilder, Value

IMAGE_SHAPE = (3, 28, 28)
OPTIONS = ("num_layers",)


def build(config: NetworkConfig) -> nn.Module:
    """Return the network: float (N, *image_shape) -> logits (N, num_classes)."""
    depth = 20 if config.num_layers is None else config.num_layers
    if depth < 8 or depth % 6 != 2:
        raise UsageError(f"`num_layers` {depth}: {config.network} comes with 6n + 2 layers: 20, 32, 56, 110")
    net = NetworkBuilder(config, IMAGE_SHAPE, OPTIONS)
    # stem and classifier are two layers, each of 3n units has two
    body = net.relu(_linear(net, net.data, 16, 3, pad=1))
    for filters in (16, 32, 64):  # on 28, 14 and 7 pixels
        for unit in range(depth // 6):
            body = _unit(net, body, filters, halve=filters > 16 and unit == 0)
    body = net.flatten(net.pooling(body, 7, "avg"), name="flatten")
    return net.module(net.fully_connected(body, config.num_classes, name="fc1"))


def _unit(net: NetworkBuilder, data: Value, filters: int, *, halve: bool) -> Value:
    """(C, H, W) -> (filters, H, W), or half of H and W, rounded up."""
    body = net.relu(_linear(net, data, filters, 3, stride=2 if halve else 1, pad=1))
    body = _linear(net, body, filters, 3, pad=1)
    # A projection where the paper's CIFAR networks pad with zeros (its option A).
    shortcut = _linear(net, data, filters, 1, stride=2) if halve else data
    return net.relu(net.plus(shortcut, body))


def _linear(net: NetworkBuilder, data: Value, filters: int, kernel: int, *, stride: int = 1,
            pad: int = 0) -> Value:
    """Convolution with bias and batch normalisation, no activation."""
    return net.batch_norm(net.convolution(data, filters, kernel, stride=stride, pad=pad))
