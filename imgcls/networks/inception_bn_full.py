"""Inception with batch normalisation, wider at the start, for the full ImageNet of 21,841 classes.

Ioffe, Szegedy 2015, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
Shift"; the first generation's symbol_inception-bn-full.py. Give it `--num-classes 21841`.
"""

from __future__ import annotations

from torch import nn

from imgcls.config.sections import NetworkConfig
from imgcls.networks._builder import NetworkBuilder
from imgcls.networks._inception_bn import InceptionBN

IMAGE_SHAPE = (3, 224, 224)
#: filters of a block: 1x1, before 3x3, 3x3, before double 3x3, double 3x3, the pooling, behind it; or of one
#: that halves the map: before 3x3, 3x3, before double 3x3, double 3x3
BLOCKS = {
    "3a": (96, 96, 96, 96, 144, "avg", 48),
    "3b": (96, 96, 144, 96, 144, "avg", 96),
    "3c": (192, 240, 96, 144),
    "4a": (224, 64, 96, 96, 128, "avg", 128),
    "4b": (192, 96, 128, 96, 128, "avg", 128),
    "4c": (160, 128, 160, 128, 160, "avg", 128),
    "4d": (96, 128, 192, 160, 96, "avg", 128),
    "4e": (128, 192, 192, 256),
    "5a": (352, 192, 320, 160, 224, "avg", 128),
    "5b": (352, 192, 320, 192, 224, "max", 128),
}
#: MXNet before 0.8 rounded the size of a pooling up and had no attribute to say so; ours have it, so that a
#: later MXNet computes what the old one did
ROUND_UP = {"pooling_convention": "full"}


def build(config: NetworkConfig) -> nn.Module:
    """Return the network: float (N, *image_shape) -> logits (N, num_classes)."""
    net = NetworkBuilder(config, IMAGE_SHAPE)
    blocks = InceptionBN(net, convolution={"extra": {"workspace": "512"}}, halving_pool=ROUND_UP)
    body = blocks.unit(net.data, "conv1", 96, 7, stride=2, pad=3)
    body = net.pooling(body, 3, "max", stride=2, name="pool1", **ROUND_UP)
    body = blocks.unit(blocks.unit(body, "conv2red", 128, 1), "conv2", 288, 3, pad=1)
    body = net.pooling(body, 3, "max", stride=2, name="pool2", **ROUND_UP)
    body = blocks.stages(body, BLOCKS)  # on 28, 14 and 7 pixels
    body = net.flatten(net.pooling(body, 7, "avg", stride=1, name="global_pool"), name="flatten")
    return net.module(net.fully_connected(body, config.num_classes, name="fc1"))
