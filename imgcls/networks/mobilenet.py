"""MobileNet: a depthwise and a pointwise convolution in place of each full one.

Howard et al. 2017, "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications";
MXNet symbols/mobilenet.py. `--multiplier` is the paper's alpha; the resolution is that of the image.
"""

from __future__ import annotations

from torch import nn

from imgcls.config.sections import NetworkConfig
from imgcls.errors import UsageError
from imgcls.networks._builder import NetworkBuilder, Value
from imgcls.networks._options import too_small

IMAGE_SHAPE = (3, 224, 224)
OPTIONS = ("multiplier",)
#: those of the paper's table 6
ALPHAS = (0.25, 0.5, 0.75, 1.0)
#: the paper's table 1: stride of the depthwise convolution, and filters of the pointwise one in multiples of
#: 32 alpha
UNITS = ((1, 2), (2, 4), (1, 4), (2, 8), (1, 8), (2, 16), *[(1, 16)] * 5, (2, 32), (1, 32))


def build(config: NetworkConfig) -> nn.Module:
    """Return the network: float (N, *image_shape) -> logits (N, num_classes)."""
    if config.multiplier not in ALPHAS:
        raise UsageError(f"`multiplier` {config.multiplier:g}: {config.network} has 0.25, 0.5, 0.75 and 1")
    net = NetworkBuilder(config, IMAGE_SHAPE, OPTIONS)
    _, height, width = net.data.shape
    # Five strides of 2, and the last pooling has one kernel for both sides.
    if height != width or height % 32:
        raise too_small(config, IMAGE_SHAPE, "it takes squares whose side is a multiple of 32")
    base = int(32 * config.multiplier)
    body = _unit(net, net.data, "conv_1", base, 3, stride=2, pad=1)
    for number, (stride, widening) in enumerate(UNITS, start=2):
        channels = body.shape[0]
        # depthwise: as many groups as channels, so each is filtered alone; the 1x1 then mixes them
        body = _unit(net, body, f"conv_{number}_dw", channels, 3, stride=stride, pad=1, groups=channels)
        body = _unit(net, body, f"conv_{number}", base * widening, 1)
    # at 224 pixels a map of 7 x 7 is left
    body = net.flatten(net.pooling(body, height // 32, "avg", stride=1, name="global_pool"), name="flatten")
    return net.module(net.fully_connected(body, config.num_classes, name="fc"))


def _unit(net: NetworkBuilder, data: Value, name: str, filters: int, kernel: int, *, stride: int = 1,
          pad: int = 0, groups: int = 1) -> Value:
    """Convolution without bias, batch normalisation with gamma fixed at 1, relu."""
    body = net.convolution(data, filters, kernel, stride=stride, pad=pad, num_group=groups, no_bias=True,
                           name=f"{name}_conv2d")
    return net.relu(net.batch_norm(body, fix_gamma=True, name=f"{name}_batchnorm"), name=f"{name}_relu")
