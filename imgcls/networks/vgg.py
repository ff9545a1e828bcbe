"""VGG with 11, 13, 16 or 19 layers, with batch normalisation on request (`--batch-norm`).

Simonyan, Zisserman 2014, "Very Deep Convolutional Networks for Large-Scale Image Recognition", table 1; MXNet
symbols/vgg.py.
"""

from __future__ import annotations

from torch import nn

from imgcls.config.sections import NetworkConfig
from imgcls.networks._builder import NetworkBuilder
from imgcls.networks._options import depth_of

IMAGE_SHAPE = (3, 224, 224)
OPTIONS = ("num_layers", "batch_norm")
#: depth -> convolutions in each of the five blocks; the paper calls them A, B, D and E
DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
#: filters of each block; its pooling then halves the map: 112, 56, 28, 14, 7
FILTERS = (64, 128, 256, 512, 512)


def build(config: NetworkConfig) -> nn.Module:
    """Return the network: float (N, *image_shape) -> logits (N, num_classes)."""
    depth = depth_of(config, 11, DEPTHS)
    net = NetworkBuilder(config, IMAGE_SHAPE, OPTIONS)
    body = net.data
    for block, (convolutions, filters) in enumerate(zip(DEPTHS[depth], FILTERS, strict=True), start=1):
        for number in range(1, convolutions + 1):
            body = net.convolution(body, filters, 3, pad=1, name=f"conv{block}_{number}")
            if config.batch_norm:  # before the relu, as MXNet's file and torchvision have it
                body = net.batch_norm(body, name=f"bn{block}_{number}")
            body = net.relu(body, name=f"relu{block}_{number}")
        body = net.pooling(body, 2, "max", stride=2, name=f"pool{block}")
    body = net.flatten(body, name="flatten")
    # Nine tenths of the parameters of 11 layers are in these three, most of them in fc6 (25,088 x 4,096).
    for number in (6, 7):
        body = net.relu(net.fully_connected(body, 4096, name=f"fc{number}"), name=f"relu{number}")
        body = net.dropout(body, 0.5, name=f"drop{number}")
    return net.module(net.fully_connected(body, config.num_classes, name="fc8"))
