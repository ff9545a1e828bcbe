"""Multilayer perceptron with 128 and 64 hidden units (MXNet symbols/mlp.py), for images of any shape."""

from __future__ import annotations

import math

from torch import Tensor, nn

from imgcls.config.sections import NetworkConfig
from imgcls.layers import Activation, Flatten, FullyConnected
from imgcls.networks._options import check_options


class MLP(nn.Module):
    """float (N, ...) with `in_units` values per sample -> logits (N, num_classes)."""

    def __init__(self, in_units: int, num_classes: int) -> None:
        super().__init__()
        # An attribute's name is the layer's name in MXNet; flatten0 has none there, so it is numbered.
        self.flatten0 = Flatten()
        self.fc1 = FullyConnected(in_units, 128)
        self.relu1 = Activation("relu")
        self.fc2 = FullyConnected(128, 64)
        self.relu2 = Activation("relu")
        self.fc3 = FullyConnected(64, num_classes)

    def forward(self, data: Tensor) -> Tensor:
        hidden = self.relu1(self.fc1(self.flatten0(data)))
        hidden = self.relu2(self.fc2(hidden))
        return self.fc3(hidden)


def build(config: NetworkConfig) -> nn.Module:
    """Return the network: float (N, *image_shape) -> logits (N, num_classes)."""
    check_options(config, ())  # it has none
    return MLP(math.prod(config.image_shape), config.num_classes)
