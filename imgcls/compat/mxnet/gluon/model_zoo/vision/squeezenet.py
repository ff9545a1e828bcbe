"""SqueezeNet (Iandola et al. 2016)."""

from __future__ import annotations

from typing import Any

from imgcls.compat.mxnet.gluon import nn
from imgcls.compat.mxnet.gluon.model_zoo.vision._parts import FeaturesAndOutput, loaded, row
from imgcls.compat.mxnet.gluon.nn.containers import HybridConcurrent

#: version -> channels and kernel of the stem; channels that each fire module squeezes to, 0 for a pooling
_SPECS = {"1.0": (96, 7, (0, 16, 16, 32, 0, 32, 48, 48, 64, 0, 64)),
          "1.1": (64, 3, (0, 16, 16, 0, 32, 32, 0, 48, 48, 64, 64))}


def _conv(channels: int, kernel: int, padding: int = 0) -> nn.HybridSequential:
    return row(nn.Conv2D(channels, kernel, padding=padding), nn.Activation("relu"))


def _fire(squeezed: int) -> nn.HybridSequential:
    first = _conv(squeezed, 1)
    both = HybridConcurrent(axis=1, prefix="")
    both.add(_conv(4 * squeezed, 1), _conv(4 * squeezed, 3, 1))
    return row(first, both)


class SqueezeNet(FeaturesAndOutput):
    """Fire modules: a 1 x 1 convolution to few channels, then 1 x 1 and 3 x 3 convolutions to many."""

    def __init__(self, version: str, classes: int = 1000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if version not in _SPECS:
            raise AssertionError(f"Unsupported SqueezeNet version {version}:1.0 or 1.1 expected")
        channels, kernel, modules = _SPECS[version]
        with self.name_scope():
            self.features = row(nn.Conv2D(channels, kernel, 2), nn.Activation("relu"))
            for squeezed in modules:
                self.features.add(_fire(squeezed) if squeezed else nn.MaxPool2D(3, 2, ceil_mode=True))
            self.features.add(nn.Dropout(0.5))
            self.output = row(nn.Conv2D(classes, 1), nn.Activation("relu"), nn.AvgPool2D(13), nn.Flatten())


def get_squeezenet(version: str, pretrained: bool = False, ctx: Any = None, root: Any = None,
                   **kwargs: Any) -> SqueezeNet:
    """Return a SqueezeNet of version 1.0 or 1.1."""
    return loaded(SqueezeNet(version, **kwargs), f"squeezenet{version}", pretrained, ctx, root)
