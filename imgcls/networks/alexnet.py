"""AlexNet in one column, without groups.

Krizhevsky, Sutskever, Hinton 2012, "ImageNet Classification with Deep Convolutional Neural Networks"; MXNet
symbols/alexnet.py. `alexnet-towers` is the paper's form in two halves.
"""

from __future__ import annotations

from torch import nn

from imgcls.config.sections import NetworkConfig
from imgcls.networks._builder import NetworkBuilder

IMAGE_SHAPE = (3, 224, 224)
#: response normalisation with the paper's constants (section 3.3), but for alpha, which MXNet divides by
#: nsize
NORM = {"alpha": 0.0001, "beta": 0.75, "knorm": 2}


def build(config: NetworkConfig) -> nn.Module:
    """Return the network: float (N, *image_shape) -> logits (N, num_classes)."""
    net = NetworkBuilder(config, IMAGE_SHAPE)
    # 54 x 54 at 224 pixels: MXNet pads nothing here. Then 26 x 26 behind the pooling.
    body = net.relu(net.convolution(net.data, 96, 11, stride=4, name="conv1"))
    body = net.pooling(net.lrn(body, 5, **NORM), 3, "max", stride=2)
    # 26 x 26, then 12 x 12
    body = net.relu(net.convolution(body, 256, 5, pad=2, name="conv2"))
    body = net.pooling(net.lrn(body, 5, **NORM), 3, "max", stride=2)
    # three convolutions on 12 x 12, then 5 x 5: 6,400 features where the paper has 9,216
    body = net.relu(net.convolution(body, 384, 3, pad=1, name="conv3"))
    body = net.relu(net.convolution(body, 384, 3, pad=1, name="conv4"))
    body = net.relu(net.convolution(body, 256, 3, pad=1, name="conv5"))
    body = net.flatten(net.pooling(body, 3, "max", stride=2))
    body = net.dropout(net.relu(net.fully_connected(body, 4096, name="fc1")), 0.5)
    body = net.dropout(net.relu(net.fully_connected(body, 4096, name="fc2")), 0.5)
    return net.module(net.fully_connected(body, config.num_classes, name="fc3"))
