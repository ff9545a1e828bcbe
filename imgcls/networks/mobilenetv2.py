"""MobileNet v2: inverted residual blocks.

Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks"; MXNet symbols/mobilenetv2.py.
`--multiplier` widens or narrows every layer; the layers' names contain dashes.
"""

from __future__ import annotations

from torch import nn

from imgcls.config.sections import NetworkConfig
from imgcls.errors import UsageError
from imgcls.networks._builder import NetworkBuilder, Value

IMAGE_SHAPE = (3, 224, 224)
OPTIONS = ("multiplier",)
#: the paper's table 2: expansion, filters, blocks, stride of the first block, for each of the seven sequences
SEQUENCES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
             (6, 320, 1, 1))


def build(config: NetworkConfig) -> nn.Module:
    """Return the network: float (N, *image_shape) -> logits (N, num_classes)."""
    if _widened(SEQUENCES[0][1], config) < 1:
        raise UsageError(f"`multiplier` {config.multiplier:g}: too narrow for {config.network}; 0.25 works")
    net = NetworkBuilder(config, IMAGE_SHAPE, OPTIONS)
    # maps of 112, then 112, 56, 28, 14, 14, 7 and 7 pixels behind the sequences
    body = _unit(net, net.data, "first-3x3-conv", _widened(32, config), 3, stride=2, pad=1)
    for sequence, (expansion, filters, blocks, stride) in enumerate(SEQUENCES):
        for block in range(blocks):
            body = _block(net, body, f"seq-{sequence}-block{block}", expansion, _widened(filters, config),
                          stride=stride if block == 0 else 1, has_shortcut=block > 0)
    # Narrow networks keep the wide last layer (the paper: all layers "except the very last convolutional
    # layer").
    last = int(1280 * config.multiplier) if config.multiplier > 1 else 1280
    body = _unit(net, body, "last-1x1-conv", last, 1)
    body = net.pooling(body, 7, "avg", stride=1, global_pool=True, name="global_pool")
    return net.module(net.fully_connected(net.flatten(body, name="flatten"), config.num_classes, name="fc"))


def _block(net: NetworkBuilder, data: Value, name: str, expansion: int, filters: int, *, stride: int,
           has_shortcut: bool) -> Value:
    """Wider, a depthwise 3x3, then `filters` without an activation: (C, H, W) -> (filters, H', W')."""
    # inverted: wide inside and narrow at its ends, where ResNet's bottleneck is the other way round
    inside = data.shape[0] * expansion
    body = _unit(net, data, f"{name}-exp", inside, 1)  # also where it expands nothing
    body = _unit(net, body, f"{name}-depthwise", inside, 3, stride=stride, pad=1, groups=inside)
    body = _unit(net, body, f"{name}-linear", filters, 1, has_relu=False)
    return net.plus(data, body, name=f"{name}-shortcut") if has_shortcut else body


def _unit(net: NetworkBuilder, data: Value, name: str, filters: int, kernel: int, *, stride: int = 1,
          pad: int = 0, groups: int = 1, has_relu: bool = True) -> Value:
    """Convolution without bias, batch normalisation, and the relu that stops at 6."""
    body = net.convolution(data, filters, kernel, stride=stride, pad=pad, num_group=groups, no_bias=True,
                           name=f"{name}-conv2d")
    body = net.batch_norm(body, fix_gamma=False, use_global_stats=False, eps=1e-5, name=f"{name}-batchnorm")
    return net.clip(body, 0, 6, name=f"{name}-relu6") if has_relu else body


def _widened(filters: int, config: NetworkConfig) -> int:
    return round(filters * config.multiplier)
