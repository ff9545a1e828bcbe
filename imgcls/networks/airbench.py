"""The network of airbench, which learns CIFAR-10 in a few epochs.

Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv 2404.00498): a 2x2 convolution, three
groups of two convolutions each, a linear layer. It is meant to be trained with `--whiten 1`, `--initializer
dirac` and `--bias-lr-mult 64`, as in the paper. `--multiplier` widens the groups; 1 is the paper's. The
first convolution has no bias, so that nothing has to be computed behind it on the way back.
"""

from __future__ import annotations

from torch import nn

from imgcls.config.sections import NetworkConfig
from imgcls.errors import UsageError
from imgcls.networks._builder import NetworkBuilder, Value

IMAGE_SHAPE = (3, 32, 32)
OPTIONS = ("multiplier",)
#: filters of each group; maps of 15, 7 and 3 pixels behind them
WIDTHS = (64, 256, 256)
#: side of the first convolution
FIRST_KERNEL = 2
#: side of the last pooling: the map of images of 28 to 32 pixels
LAST_KERNEL = 3
#: the logits are small at first, so that the first steps are no larger than the others
SCALE = 1 / 9


def build(config: NetworkConfig) -> nn.Module:
    """Return the network: float (N, *image_shape) -> logits (N, num_classes)."""
    net = NetworkBuilder(config, IMAGE_SHAPE, OPTIONS)
    widths = [round(width * config.multiplier) for width in WIDTHS]
    if min(widths) < 1:
        raise UsageError(f"`multiplier` {config.multiplier:g}: too narrow for {config.network}; 0.25 works")
    # one for each direction of a patch and one for its opposite: 24 of colour images
    num_first = 2 * net.data.shape[0] * FIRST_KERNEL ** 2
    body = net.convolution(net.data, num_first, FIRST_KERNEL, no_bias=True, name="conv0")
    body = net.gelu(body, name="gelu0")
    for number, width in enumerate(widths, 1):
        body = _group(net, body, f"group{number}", width)
    # where it covers the map it is of the whole map whatever its size, for images that grow in training
    covers = max(body.shape[1:]) <= LAST_KERNEL
    body = net.pooling(body, LAST_KERNEL, "max", stride=LAST_KERNEL, global_pool=covers or None, name="pool")
    body = net.flatten(body, name="flatten")
    body = net.fully_connected(body, config.num_classes, name="fc")
    return net.module(net.scale(body, SCALE, name="scale"))


def _group(net: NetworkBuilder, data: Value, name: str, filters: int) -> Value:
    """Two convolutions, the first of which is pooled: (C, H, W) -> (filters, H/2, W/2)."""
    body = net.convolution(data, filters, 3, pad=1, no_bias=True, name=f"{name}_conv1")
    body = net.pooling(body, 2, "max", stride=2, name=f"{name}_pool")
    body = net.gelu(_batch_norm(net, body, f"{name}_bn1"), name=f"{name}_gelu1")
    body = net.convolution(body, filters, 3, pad=1, no_bias=True, name=f"{name}_conv2")
    return net.gelu(_batch_norm(net, body, f"{name}_bn2"), name=f"{name}_gelu2")


def _batch_norm(net: NetworkBuilder, data: Value, name: str) -> Value:
    # gammas stay 1, and the running statistics follow soon: a training is some hundred updates long
    return net.batch_norm(data, momentum=0.6, name=name)
