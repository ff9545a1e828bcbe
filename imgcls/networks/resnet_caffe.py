"""ResNet-50 and ResNet-32 with Caffe's layer names.

As github.com/yihui-he/resnet-imagenet-caffe trained them; He et al. 2015, "Deep Residual Learning for Image
Recognition". ResNet-50 is `resnet-v1` but for a bias in the first convolution and a pooling that rounds up
and has no border. ResNet-32 is the same network cut off after its 32nd convolution: bottlenecks 2a-2c, 3a-3d,
4a, 4b, then only the first 1x1 of 4c, an average over 7 x 7 windows of the 14 x 14 map (8 x 8 are left) and
the classifier.
"""

from __future__ import annotations

from torch import nn

from imgcls.config.sections import NetworkConfig
from imgcls.networks._builder import NetworkBuilder, Value
from imgcls.networks._options import depth_of

IMAGE_SHAPE = (3, 224, 224)
#: depth -> bottlenecks in each stage, the first of which is called 2
DEPTHS = {32: (3, 4, 2), 50: (3, 4, 6, 3)}
#: Caffe's BatchNorm and Scale are one BatchNorm here, with Caffe's epsilon
NORM = {"eps": 1e-5, "fix_gamma": False}
OPTIONS = ("num_layers",)


def build(config: NetworkConfig) -> nn.Module:
    """Return the network: float (N, *image_shape) -> logits (N, num_classes)."""
    depth = depth_of(config, 50, DEPTHS)
    net = NetworkBuilder(config, IMAGE_SHAPE, OPTIONS)
    body = net.convolution(net.data, 64, 7, stride=2, pad=3, name="conv1")
    body = net.relu(net.batch_norm(body, name="bn_conv1", **NORM), name="conv1_relu")
    body = net.pooling(body, 3, "max", stride=2, pooling_convention="full", name="pool1")  # Caffe rounds up
    # stages on 56, 28, 14 and 7 pixels
    for stage, units in enumerate(DEPTHS[depth], start=2):
        for unit in range(units):
            stride = 2 if stage > 2 and unit == 0 else 1
            body = _unit(net, body, f"{stage}{'abcdef'[unit]}", 2 ** (stage + 4), stride, project=unit == 0)
    if depth == 32:  # the first layer of a bottleneck that is not finished
        body = net.relu(_linear(net, body, "4c_branch2a", 256, 1), name="res4c_branch2a_relu")
    body = net.flatten(net.pooling(body, 7, "avg", stride=1, name="pool5"), name="flatten")
    return net.module(net.fully_connected(body, config.num_classes, name="fc1000"))


def _unit(net: NetworkBuilder, data: Value, name: str, width: int, stride: int, *, project: bool) -> Value:
    """(C, H, W) -> (4 * width, H / stride, W / stride), the sides rounded up."""
    # Caffe's files list the projection first, and a symbol lists nodes in the order of the calls.
    shortcut = _linear(net, data, f"{name}_branch1", 4 * width, 1, stride=stride) if project else data
    body = _linear(net, data, f"{name}_branch2a", width, 1, stride=stride)
    body = net.relu(body, name=f"res{name}_branch2a_relu")
    body = _linear(net, body, f"{name}_branch2b", width, 3, pad=1)
    body = net.relu(body, name=f"res{name}_branch2b_relu")
    body = _linear(net, body, f"{name}_branch2c", 4 * width, 1)
    return net.relu(net.plus(shortcut, body, name=f"res{name}"), name=f"res{name}_relu")


def _linear(net: NetworkBuilder, data: Value, name: str, filters: int, kernel: int, *, stride: int = 1,
            pad: int = 0) -> Value:
    """Convolution without bias and batch normalisation, no activation."""
    body = net.convolution(data, filters, kernel, stride=stride, pad=pad, no_bias=True, name=f"res{name}")
    return net.batch_norm(body, name=f"bn{name}", **NORM)
