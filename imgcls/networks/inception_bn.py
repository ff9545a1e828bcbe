"""Inception with batch normalisation.

Ioffe, Szegedy 2015, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
Shift"; MXNet symbols/inception-bn.py. As in MXNet, images up to 28 pixels high get a small network of their
own. `inception-bn-full` is the wide one for 21,841 classes.
"""

from __future__ import annotations

from torch import nn

from imgcls.config.sections import NetworkConfig
from imgcls.networks._builder import NetworkBuilder, Value
from imgcls.networks._inception_bn import InceptionBN
from imgcls.networks._options import image_shape

IMAGE_SHAPE = (3, 224, 224)
#: what errors offer for small images
SMALL_SHAPE = (3, 28, 28)
#: images up to this height get the small network
SMALL_HEIGHT = 28
#: the paper's figure 5; filters of a block: 1x1, before 3x3, 3x3, before double 3x3, double 3x3, the pooling,
#: behind it; or of one that halves the map: before 3x3, 3x3, before double 3x3, double 3x3
BLOCKS = {
    "3a": (64, 64, 64, 64, 96, "avg", 32),
    "3b": (64, 64, 96, 64, 96, "avg", 64),
    "3c": (128, 160, 64, 96),
    "4a": (224, 64, 96, 96, 128, "avg", 128),
    "4b": (192, 96, 128, 96, 128, "avg", 128),
    "4c": (160, 128, 160, 128, 160, "avg", 128),
    "4d": (96, 128, 192, 160, 192, "avg", 128),
    "4e": (128, 192, 192, 256),
    "5a": (352, 192, 320, 160, 224, "avg", 128),
    "5b": (352, 192, 320, 192, 224, "max", 128),
}
#: filters of a block of the small network: 1x1 and 3x3; or of one that halves the map: 3x3
SMALL_BLOCKS = {
    "in3a": (32, 32), "in3b": (32, 48), "in3c": (80,),
    "in4a": (112, 48), "in4b": (96, 64), "in4c": (80, 80), "in4d": (48, 96), "in4e": (96,),
    "in5a": (176, 160), "in5b": (176, 160),
}
#: attributes of every batch normalisation; eps as MXNet's file computes it, which is what a symbol.json shows
NORM = {"eps": 1e-10 + 1e-5, "momentum": 0.9, "fix_gamma": False}


def build(config: NetworkConfig) -> nn.Module:
    """Return the network: float (N, *image_shape) -> logits (N, num_classes)."""
    _, height, _ = image_shape(config, IMAGE_SHAPE)
    is_small = height <= SMALL_HEIGHT
    net = NetworkBuilder(config, SMALL_SHAPE if is_small else IMAGE_SHAPE)
    blocks = InceptionBN(net, batch_norm=NORM, halving_pool={"pad": 1})
    body = _small(blocks) if is_small else _large(blocks)
    return net.module(net.fully_connected(net.flatten(body), config.num_classes))


def _large(blocks: InceptionBN) -> Value:
    """The network for large images; at 224 x 224 the map before the last pooling is 7 x 7."""
    net = blocks.net
    body = blocks.unit(net.data, "1", 64, 7, stride=2, pad=3)
    body = net.pooling(body, 3, "max", stride=2, name="pool_1")
    body = blocks.unit(blocks.unit(body, "2_red", 64, 1), "2", 192, 3, pad=1)
    body = net.pooling(body, 3, "max", stride=2, name="pool_2")
    # 27 x 27 here, 28 x 28 in the paper: these two poolings round down. Then 14 x 14 and 7 x 7.
    body = blocks.stages(body, BLOCKS)
    return net.pooling(body, 7, "avg", stride=1, name="global_pool")


def _small(blocks: InceptionBN) -> Value:
    """The network for small images; at 28 x 28 the map before the last pooling is 7 x 7."""
    net = blocks.net
    body = blocks.unit(net.data, "1", 96, 3, pad=1)
    for name, (*point, filters) in SMALL_BLOCKS.items():
        if point:  # side by side: 1x1 and 3x3 of the same map
            left = blocks.unit(body, f"{name}_1x1", point[0], 1)
            right = blocks.unit(body, f"{name}_3x3", filters, 3, pad=1)
        else:  # halves the map: a 3x3 beside a pooling
            left = blocks.unit(body, f"{name}_conv", filters, 3, stride=2, pad=1)
            right = net.pooling(body, 3, "max", stride=2, pad=1, name=f"{name}_pool")
        body = net.concat(left, right, name=f"{name}_ch_concat")
    return net.pooling(body, 7, "avg", name="global_pool")
