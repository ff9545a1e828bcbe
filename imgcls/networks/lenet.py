"""LeNet with tanh, and with a spatial transformer in front (`--add-stn`).

LeCun et al. 1998, "Gradient-based learning applied to document recognition"; Jaderberg et al. 2015, "Spatial
Transformer Networks"; MXNet symbols/lenet.py. Layers have no names in that file, so they carry the numbers
that MXNet gives them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imgcls.config.sections import NetworkConfig
from imgcls.layers import Activation, Convolution, Flatten, FullyConnected, Pooling, SpatialTransformer
from imgcls.networks._options import check_options, image_shape, too_small

OPTIONS = ("add_stn",)
#: what errors offer
IMAGE_SHAPE = (1, 28, 28)
#: the smallest side that leaves a pixel behind the last pooling, of LeNet and of the localisation network
_SMALLEST, _SMALLEST_TRANSFORMED = 16, 7


class LeNet(nn.Module):
    """float (N, channels, H, W), H and W from 16 up -> logits (N, num_classes)."""

    def __init__(self, channels: int, height: int, width: int, num_classes: int) -> None:
        super().__init__()
        # 28 x 28 -> 24 -> 12
        self.convolution0 = Convolution(channels, 20, 5)
        self.activation0 = Activation("tanh")
        self.pooling0 = Pooling(2, "max", stride=2)
        # -> 8 -> 4
        self.convolution1 = Convolution(20, 50, 5)
        self.activation1 = Activation("tanh")
        self.pooling1 = Pooling(2, "max", stride=2)
        # 50 x 4 x 4 = 800 -> 500 -> classes
        self.flatten0 = Flatten()
        self.fullyconnected0 = FullyConnected(50 * _after_pools(height) * _after_pools(width), 500)
        self.activation2 = Activation("tanh")
        self.fullyconnected1 = FullyConnected(500, num_classes)

    def forward(self, data: Tensor) -> Tensor:
        maps = self.pooling0(self.activation0(self.convolution0(data)))
        maps = self.pooling1(self.activation1(self.convolution1(maps)))
        hidden = self.activation2(self.fullyconnected0(self.flatten0(maps)))
        return self.fullyconnected1(hidden)


class TransformerLeNet(nn.Module):
    """LeNet on a 28 x 28 view of the image that a small localisation network chooses."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        # The localisation network: (channels, H, W) -> the six numbers of an affine map.
        self.convolution0 = Convolution(channels, 30, 5, stride=2)
        self.activation0 = Activation("relu")
        self.pooling0 = Pooling(2, "max", stride=2)
        self.convolution1 = Convolution(30, 60, 3, stride=1, pad=1)
        self.activation1 = Activation("relu")
        self.pooling1 = Pooling(2, "avg", global_pool=True)
        self.flatten0 = Flatten()
        slow = {"__lr_mult__": "0.01"}  # the map is learned a hundred times slower than the rest
        self.stn_loc = FullyConnected(60, 6, extra=slow)
        _begin_with_identity(self.stn_loc)
        self.spatialtransformer0 = SpatialTransformer((28, 28))
        # LeNet, numbered on from there.
        self.convolution2 = Convolution(channels, 20, 5)
        self.activation2 = Activation("tanh")
        self.pooling2 = Pooling(2, "max", stride=2)
        self.convolution3 = Convolution(20, 50, 5)
        self.activation3 = Activation("tanh")
        self.pooling3 = Pooling(2, "max", stride=2)
        self.flatten1 = Flatten()
        self.fullyconnected0 = FullyConnected(50 * _after_pools(28) ** 2, 500)
        self.activation4 = Activation("tanh")
        self.fullyconnected1 = FullyConnected(500, num_classes)

    def forward(self, data: Tensor) -> Tensor:
        maps = self.pooling0(self.activation0(self.convolution0(data)))
        maps = self.pooling1(self.activation1(self.convolution1(maps)))
        view = self.spatialtransformer0(data, self.stn_loc(self.flatten0(maps)))
        maps = self.pooling2(self.activation2(self.convolution2(view)))
        maps = self.pooling3(self.activation3(self.convolution3(maps)))
        hidden = self.activation4(self.fullyconnected0(self.flatten1(maps)))
        return self.fullyconnected1(hidden)


def build(config: NetworkConfig) -> nn.Module:
    """Return the network: float (N, *image_shape) -> logits (N, num_classes)."""
    check_options(config, OPTIONS)
    channels, height, width = image_shape(config, IMAGE_SHAPE)
    # The view of the transformer has 28 x 28 pixels whatever the image has, and its own layers need fewer.
    smallest = _SMALLEST_TRANSFORMED if config.add_stn else _SMALLEST
    if min(height, width) < smallest:
        raise too_small(config, IMAGE_SHAPE, f"height and width must be at least {smallest}")
    if config.add_stn:
        return TransformerLeNet(channels, config.num_classes)
    return LeNet(channels, height, width, config.num_classes)


def _begin_with_identity(localization: FullyConnected) -> None:
    """Let the localisation start as no transformation at all, as in the paper.

    Filled at random, as MXNet 1.x does, it looks at a few pixels around some point and learns nothing (10 %
    on digits after 3 epochs).
    """
    assert localization.bias is not None
    with torch.no_grad():
        localization.weight.zero_()
        localization.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))  # the rows of a 2 x 3 matrix
    localization.is_initialized = True


def _after_pools(size: int) -> int:
    """Return the side of the map after both convolutions and poolings: 28 -> 4."""
    return ((size - 4) // 2 - 4) // 2
