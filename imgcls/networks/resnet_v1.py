"""ResNet v1, with normalisation and relu behind each convolution.

He et al. 2015, "Deep Residual Learning for Image Recognition"; MXNet symbols/resnet-v1.py, and the same as
symbols/resnetv1.py. A bottleneck halves the map in its first 1x1 convolution, as in the paper.
"""

from __future__ import annotations

from torch import nn

from imgcls.config.sections import NetworkConfig
from imgcls.networks._builder import NetworkBuilder, Value
from imgcls.networks._options import image_shape
from imgcls.networks._residual import IMAGE_SHAPE, NORM, PLAIN, classifier, resnet_spec, stem, units

#: up to this height there are three stages and their own depths
SMALL_HEIGHT = 28
OPTIONS = ("num_layers",)


def build(config: NetworkConfig) -> nn.Module:
    """Return the network: float (N, *image_shape) -> logits (N, num_classes)."""
    spec = resnet_spec(config, image_shape(config, IMAGE_SHAPE)[1], SMALL_HEIGHT)
    net = NetworkBuilder(config, IMAGE_SHAPE, OPTIONS)
    body = stem(net, net.identity(net.data, name="id"), spec.filters[0], normalize_small=True)
    for name, filters, stride, is_first in units(spec):
        body = _unit(net, body, name, filters, stride, project=is_first, bottleneck=spec.bottleneck)
    return net.module(classifier(net, body, config.num_classes))


def _unit(net: NetworkBuilder, data: Value, name: str, filters: int, stride: int, *, project: bool,
          bottleneck: bool) -> Value:
    """(C, H, W) -> (filters, H / stride, W / stride)."""
    quarter = int(filters * 0.25)
    convolutions = [(filters, 3, stride, 1), (filters, 3, 1, 1)]  # filters, kernel, stride, pad
    if bottleneck:
        convolutions = [(quarter, 1, stride, 0), (quarter, 3, 1, 1), (filters, 1, 1, 0)]
    body = data
    for number, (width, kernel, step, pad) in enumerate(convolutions, start=1):
        body = net.convolution(body, width, kernel, stride=step, pad=pad, name=f"{name}_conv{number}",
                               **PLAIN)
        body = net.batch_norm(body, name=f"{name}_bn{number}", **NORM)
        if number < len(convolutions):  # the last relu comes behind the addition
            body = net.relu(body, name=f"{name}_relu{number}")
    if project:  # the shapes differ, so the shortcut is a convolution (the paper's option B)
        data = net.convolution(data, filters, 1, stride=stride, name=f"{name}_conv1sc", **PLAIN)
        data = net.batch_norm(data, name=f"{name}_sc", **NORM)
    return net.relu(net.plus(body, data), name=f"{name}_relu3")  # 3 in units of two convolutions, too
