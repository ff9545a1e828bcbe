"""GoogLeNet without its auxiliary heads.

Szegedy et al. 2014, "Going Deeper with Convolutions"; MXNet symbols/googlenet.py: no local response
normalisation, no dropout, and the classifier is `fullyconnected0`.
"""

from __future__ import annotations

from torch import nn

from imgcls.config.sections import NetworkConfig
from imgcls.networks._builder import NetworkBuilder, Value

IMAGE_SHAPE = (3, 224, 224)
#: the paper's table 1: filters of 1x1, before 3x3, 3x3, before 5x5, 5x5, behind the pooling; whether a
#: pooling follows
BLOCKS = {
    "in3a": (64, 96, 128, 16, 32, 32, False),
    "in3b": (128, 128, 192, 32, 96, 64, True),
    "in4a": (192, 96, 208, 16, 48, 64, False),
    "in4b": (160, 112, 224, 24, 64, 64, False),
    "in4c": (128, 128, 256, 24, 64, 64, False),
    "in4d": (112, 144, 288, 32, 64, 64, False),
    "in4e": (256, 160, 320, 32, 128, 128, True),
    "in5a": (256, 160, 320, 32, 128, 128, False),
    "in5b": (384, 192, 384, 48, 128, 128, False),
}


def build(config: NetworkConfig) -> nn.Module:
    """Return the network: float (N, *image_shape) -> logits (N, num_classes)."""
    net = NetworkBuilder(config, IMAGE_SHAPE)
    # MXNet's poolings round down, so maps have sides of 55, 27, 13 and 6 where the paper's have 56, 28, 14
    # and 7.
    body = _unit(net, net.data, "conv1", 64, 7, stride=2, pad=3)
    body = net.pooling(body, 3, "max", stride=2)
    body = _unit(net, _unit(net, body, "conv2", 64, 1), "conv3", 192, 3, pad=1)
    body = net.pooling(body, 3, "max", stride=2)
    for name, (*widths, pool_follows) in BLOCKS.items():
        body = _inception(net, body, name, *widths)
        if pool_follows:
            body = net.pooling(body, 3, "max", stride=2)
    # global, so the 7 is only what the symbol shows
    body = net.flatten(net.pooling(body, 7, "avg", stride=1, global_pool=True))
    return net.module(net.fully_connected(body, config.num_classes))


def _inception(net: NetworkBuilder, data: Value, name: str, n1: int, r3: int, n3: int, r5: int, n5: int,
               proj: int) -> Value:
    """Four branches side by side (the paper's figure 2b); (C, H, W) -> (n1 + n3 + n5 + proj, H, W)."""
    # "reduce": a 1x1 with fewer channels, before the costly kernels
    point = _unit(net, data, f"{name}_1x1", n1, 1)
    middle = _unit(net, _unit(net, data, f"{name}_3x3_reduce", r3, 1), f"{name}_3x3", n3, 3, pad=1)
    wide = _unit(net, _unit(net, data, f"{name}_5x5_reduce", r5, 1), f"{name}_5x5", n5, 5, pad=2)
    pooled = net.pooling(data, 3, "max", stride=1, pad=1, name=f"max_pool_{name}_pool")
    return net.concat(point, middle, wide, _unit(net, pooled, f"{name}_proj", proj, 1),
                      name=f"ch_concat_{name}_chconcat")


def _unit(net: NetworkBuilder, data: Value, name: str, filters: int, kernel: int, *, stride: int = 1,
          pad: int = 0) -> Value:
    """Convolution with bias and relu."""
    return net.relu(net.convolution(data, filters, kernel, stride=stride, pad=pad, name=f"conv_{name}"),
                    name=f"relu_{name}")
