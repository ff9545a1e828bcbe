"""ResNeXt: residual units whose 3x3 convolution works in groups.

Xie et al. 2016, "Aggregated Residual Transformations for Deep Neural Networks"; MXNet symbols/resnext.py.
`--num-group` is the paper's cardinality. As in MXNet's file, units without a bottleneck have no groups at
all.
"""

from __future__ import annotations

from torch import nn

from imgcls.config.sections import NetworkConfig
from imgcls.errors import UsageError
from imgcls.networks._builder import NetworkBuilder, Value
from imgcls.networks._options import image_shape
from imgcls.networks._residual import (
    IMAGE_SHAPE,
    NORM,
    PLAIN,
    ResNetSpec,
    classifier,
    resnet_spec,
    stem,
    units,
)

OPTIONS = ("num_layers", "num_group")
#: up to this height there are three stages and their own depths (28 in the other two residual networks)
SMALL_HEIGHT = 32
#: the paper's 29 layers for small images (section 5.3), which MXNet's file refuses; with 32 groups 32x4d
CIFAR_SPEC = ResNetSpec((3, 3, 3), (64, 256, 512, 1024), bottleneck=True)


def build(config: NetworkConfig) -> nn.Module:
    """Return the network: float (N, *image_shape) -> logits (N, num_classes)."""
    height = image_shape(config, IMAGE_SHAPE)[1]
    if config.num_layers == 29 and height <= SMALL_HEIGHT:
        return resnext(config, CIFAR_SPEC)
    return resnext(config, resnet_spec(config, height, SMALL_HEIGHT))


def resnext(config: NetworkConfig, spec: ResNetSpec) -> nn.Module:
    """Return the network with any stages, also others than those of `num_layers`, for use from Python."""
    _check_groups(config, spec)
    net = NetworkBuilder(config, IMAGE_SHAPE, OPTIONS)
    body = net.batch_norm(net.identity(net.data, name="id"), name="bn_data", **(NORM | {"fix_gamma": True}))
    body = stem(net, body, spec.filters[0], normalize_small=False)
    groups = config.num_group if spec.bottleneck else None
    for name, filters, stride, is_first in units(spec):
        body = _unit(net, body, name, filters, stride, project=is_first, groups=groups)
    return net.module(classifier(net, body, config.num_classes))


def _unit(net: NetworkBuilder, data: Value, name: str, filters: int, stride: int, *, project: bool,
          groups: int | None) -> Value:
    """(C, H, W) -> (filters, H / stride, W / stride); without `groups`, two plain 3x3 convolutions."""
    half = int(filters * 0.5)  # twice as wide as ResNet's bottleneck: the groups make up for it (table 1)
    # filters, kernel, stride, pad, groups
    convolutions = [(filters, 3, stride, 1, None), (filters, 3, 1, 1, None)]
    if groups:
        convolutions = [(half, 1, 1, 0, None), (half, 3, stride, 1, groups), (filters, 1, 1, 0, None)]
    body = data
    for number, (width, kernel, step, pad, group) in enumerate(convolutions, start=1):
        body = net.convolution(body, width, kernel, stride=step, pad=pad, num_group=group,
                               name=f"{name}_conv{number}", **PLAIN)
        body = net.batch_norm(body, name=f"{name}_bn{number}", **NORM)
        if number < len(convolutions):  # the last relu comes behind the addition
            body = net.relu(body, name=f"{name}_relu{number}")
    if project:
        data = net.convolution(data, filters, 1, stride=stride, name=f"{name}_sc", **PLAIN)
        data = net.batch_norm(data, name=f"{name}_sc_bn", **NORM)  # _sc alone in resnet-v1
    return net.relu(net.plus(body, data), name=f"{name}_relu")


def _check_groups(config: NetworkConfig, spec: ResNetSpec) -> None:
    narrowest = spec.filters[1] // 2
    if spec.bottleneck and narrowest % config.num_group:
        raise UsageError(f"`num_group` {config.num_group}: must divide {narrowest}, the filters of the "
                         f"narrowest grouped convolution of {config.network} at this depth")
    if not spec.bottleneck and config.num_group != NetworkConfig.num_group:
        raise UsageError(f"`num_group` {config.num_group}: {config.network} has groups from 50 layers on, "
                         f"29 or from 164 at a height of {SMALL_HEIGHT} or less")
