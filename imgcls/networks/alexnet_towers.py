"""AlexNet in two halves, as it was trained on two GPUs.

Krizhevsky, Sutskever, Hinton 2012, "ImageNet Classification with Deep Convolutional Neural Networks". MXNet
has no such file: the names are ours.

`--variant torch` is soumith/imagenet-multiGPU.torch: two towers that see the same image and meet before the
first hidden layer, no normalisation, dropout before the hidden layers (a plain relu after them, where Torch's
threshold gives 1e-6 for 0). `--model-parallel 2` puts the towers on two devices.

`--variant theano` is uoguelph-mlrg/theano_alexnet, which keeps the paper's exchange between the halves at the
third convolution: halves are groups of one convolution there, and response normalisation runs across both,
after pooling.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from imgcls.config.sections import NetworkConfig
from imgcls.errors import UsageError
from imgcls.layers import Activation, Concat, Convolution, Dropout, Flatten, FullyConnected, Layer, Pooling
from imgcls.networks._builder import NetworkBuilder, Value, output_shape
from imgcls.networks._options import check_options, image_shape, too_small, variant_of

IMAGE_SHAPE = (3, 224, 224)
#: of the Theano form
THEANO_SHAPE = (3, 227, 227)
OPTIONS = ("variant", "model_parallel")
#: filters, kernel, stride, pad of each convolution of one tower, and whether a pooling follows
TOWER = ((48, 11, 4, 2, True), (128, 5, 1, 2, True), (192, 3, 1, 1, False), (192, 3, 1, 1, False),
         (128, 3, 1, 1, True))
#: units of each of the two hidden layers
HIDDEN = 4096


class TwoTowerAlexNet(nn.Module):
    """The Torch form: float (N, channels, H, W) -> logits (N, num_classes)."""

    def __init__(self, channels: int, num_features: int, num_classes: int) -> None:
        """`num_features` values of both towers together reach the first hidden layer."""
        super().__init__()
        self.tower1 = _tower(channels)
        self.tower2 = _tower(channels)
        self.concat = Concat(2)
        self.flatten = Flatten()
        # The paper's two hidden layers, whole: the towers meet before them, and both see all features.
        self.drop6 = Dropout(0.5)
        self.fc6 = FullyConnected(num_features, HIDDEN)
        self.relu6 = Activation("relu")
        self.drop7 = Dropout(0.5)
        self.fc7 = FullyConnected(HIDDEN, HIDDEN)
        self.relu7 = Activation("relu")
        self.fc8 = FullyConnected(HIDDEN, num_classes)

    def to_devices(self, devices: Sequence[torch.device]) -> None:
        """Move the second tower to the last device and all the rest to the first, where logits come out."""
        self.to(devices[0])
        self.tower2.to(devices[-1])

    def forward(self, data: Tensor) -> Tensor:
        if isinstance(data, fx.Proxy):  # a symbol says nothing about devices
            first = self.tower1(data)
            second = self.tower2(data)
        else:
            # The second tower is queued first, so that both devices are busy at once; on one nothing is
            # moved.
            second = self.tower2(data.to(next(self.tower2.parameters()).device, non_blocking=True))
            first = self.tower1(data)
            second = second.to(first.device, non_blocking=True)
        hidden = self.flatten(self.concat(first, second))
        hidden = self.relu6(self.fc6(self.drop6(hidden)))
        hidden = self.relu7(self.fc7(self.drop7(hidden)))
        return self.fc8(hidden)


def build(config: NetworkConfig) -> nn.Module:
    """Return the network: float (N, *image_shape) -> logits (N, num_classes)."""
    # Here and not in the builder: only one of the two forms is written with it.
    check_options(config, OPTIONS)
    variant = variant_of(config, ("torch", "theano"))
    num_towers = 2 if variant == "torch" else 1
    if config.model_parallel > num_towers:
        noun = "towers" if num_towers > 1 else "tower"
        raise UsageError(f"`model_parallel` {config.model_parallel}: {config.network} `variant` {variant} "
                         f"has {num_towers} {noun} to spread")
    return _torch_form(config) if variant == "torch" else _theano_form(config)


def _torch_form(config: NetworkConfig) -> nn.Module:
    channels, height, width = image_shape(config, IMAGE_SHAPE)
    with torch.device("meta"):  # a tower for its sizes alone, without memory
        shape = (channels, height, width)
        for name, layer in _tower(channels).named_children():
            assert isinstance(layer, Layer)
            shape = output_shape(layer, shape)
            if min(shape) < 1:
                raise too_small(config, IMAGE_SHAPE, f"nothing is left at layer {name} of a tower")
    return TwoTowerAlexNet(channels, 2 * shape[0] * shape[1] * shape[2], config.num_classes)


def _tower(channels: int) -> nn.Sequential:
    """(N, channels, 224, 224) -> (N, 128, 6, 6)."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (filters, kernel, stride, pad, has_pool) in enumerate(TOWER, start=1):
        layers[f"conv{number}"] = Convolution(channels, filters, kernel, stride=stride, pad=pad)
        layers[f"relu{number}"] = Activation("relu")
        if has_pool:
            layers[f"pool{number}"] = Pooling(3, "max", stride=2)
        channels = filters
    return nn.Sequential(layers)


def _theano_form(config: NetworkConfig) -> nn.Module:
    """One column whose second, fourth and fifth convolutions have two groups."""
    net = NetworkBuilder(config, THEANO_SHAPE, OPTIONS)
    # 55 x 55 at 227 pixels, then 27, 13 and 6 behind the poolings
    body = net.relu(net.convolution(net.data, 96, 11, stride=4, name="conv1"), name="relu1")
    body = _pool_and_normalize(net, body, 1)
    body = net.relu(net.convolution(body, 256, 5, pad=2, num_group=2, name="conv2"), name="relu2")
    body = _pool_and_normalize(net, body, 2)
    # conv3 is where the paper's two GPUs exchange their maps: no groups
    body = net.relu(net.convolution(body, 384, 3, pad=1, name="conv3"), name="relu3")
    body = net.relu(net.convolution(body, 384, 3, pad=1, num_group=2, name="conv4"), name="relu4")
    body = net.relu(net.convolution(body, 256, 3, pad=1, num_group=2, name="conv5"), name="relu5")
    body = net.flatten(net.pooling(body, 3, "max", stride=2, name="pool5"), name="flatten")
    for number in (6, 7):
        body = net.relu(net.fully_connected(body, HIDDEN, name=f"fc{number}"), name=f"relu{number}")
        body = net.dropout(body, 0.5, name=f"drop{number}")
    return net.module(net.fully_connected(body, config.num_classes, name="fc8"))


def _pool_and_normalize(net: NetworkBuilder, data: Value, number: int) -> Value:
    body = net.pooling(data, 3, "max", stride=2, name=f"pool{number}")
    # alpha is that of the sum of five squares in Theano's code; MXNet and torch divide it by five
    return net.lrn(body, 5, alpha=0.0005, beta=0.75, knorm=2, name=f"norm{number}")
