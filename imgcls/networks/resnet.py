"""ResNet v2, with normalisation and relu before each convolution.

He et al. 2016, "Identity Mappings in Deep Residual Networks"; MXNet symbols/resnet.py. `resnet-v1` is the one
of 2015.
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
    # The network normalises the image itself: those of MXNet's zoo were trained on raw pixels.
    body = net.batch_norm(net.identity(net.data, name="id"), name="bn_data", **(NORM | {"fix_gamma": True}))
    body = stem(net, body, spec.filters[0], normalize_small=False)
    for name, filters, stride, is_first in units(spec):
        body = _unit(net, body, name, filters, stride, project=is_first, bottleneck=spec.bottleneck)
    body = net.relu(net.batch_norm(body, name="bn1", **NORM), name="relu1")
    return net.module(classifier(net, body, config.num_classes))


def _unit(net: NetworkBuilder, data: Value, name: str, filters: int, stride: int, *, project: bool,
          bottleneck: bool) -> Value:
    """(C, H, W) -> (filters, H / stride, W / stride); a projection starts from the activated input."""
    quarter = int(filters * 0.25)
    convolutions = [(filters, 3, stride, 1), (filters, 3, 1, 1)]  # filters, kernel, stride, pad
    if bottleneck:
        convolutions = [(quarter, 1, 1, 0), (quarter, 3, stride, 1), (filters, 1, 1, 0)]
    body = activated = data
    for number, (width, kernel, step, pad) in enumerate(convolutions, start=1):
        body = net.relu(net.batch_norm(body, name=f"{name}_bn{number}", **NORM), name=f"{name}_relu{number}")
        activated = body if number == 1 else activated
        body = net.convolution(body, width, kernel, stride=step, pad=pad, name=f"{name}_conv{number}",
                               **PLAIN)
    if not project:  # nothing but an addition: "identity mapping" is the paper's point
        return net.plus(body, data)
    return net.plus(body, net.convolution(activated, filters, 1, stride=stride, name=f"{name}_sc", **PLAIN))
