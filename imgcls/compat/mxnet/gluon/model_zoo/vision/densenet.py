"""DenseNet (Huang et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from imgcls.compat.mxnet.gluon import nn
from imgcls.compat.mxnet.gluon.model_zoo.vision._parts import FeaturesAndOutput, loaded, row
from imgcls.compat.mxnet.gluon.nn.containers import HybridConcurrent, Identity

#: number of layers -> channels of the stem, growth, layers of each block
_SPECS = {121: (64, 32, (6, 12, 24, 16)), 161: (96, 48, (6, 12, 36, 24)), 169: (64, 32, (6, 12, 32, 32)),
          201: (64, 32, (6, 12, 48, 32))}


def _normalised_relu() -> tuple[Any, Any]:
    return nn.BatchNorm(), nn.Activation("relu")


def _layer(growth: int, bn_size: int, dropout: float) -> HybridConcurrent:
    """Return a block that joins the input and the layer's new channels."""
    new = row(*_normalised_relu(), nn.Conv2D(bn_size * growth, 1, use_bias=False), *_normalised_relu(),
              nn.Conv2D(growth, 3, padding=1, use_bias=False))
    if dropout:
        new.add(nn.Dropout(dropout))
    both = HybridConcurrent(axis=1, prefix="")
    both.add(Identity(), new)
    return both


class DenseNet(FeaturesAndOutput):
    """Blocks of layers whose input is the output of all earlier layers of their block."""

    def __init__(self, num_init_features: int, growth_rate: int, block_config: Sequence[int],
                 bn_size: int = 4, dropout: float = 0, classes: int = 1000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        channels = num_init_features
        with self.name_scope():
            features = row(nn.Conv2D(channels, 7, 2, 3, use_bias=False), *_normalised_relu(),
                           nn.MaxPool2D(3, 2, 1))
            for number, count in enumerate(block_config, 1):
                block = nn.HybridSequential(prefix=f"stage{number}_")
                with block.name_scope():
                    for _ in range(count):
                        block.add(_layer(growth_rate, bn_size, dropout))
                features.add(block)
                channels += count * growth_rate
                if number < len(block_config):
                    channels //= 2
                    features.add(row(*_normalised_relu(), nn.Conv2D(channels, 1, use_bias=False),
                                     nn.AvgPool2D(2, 2)))
            features.add(*_normalised_relu(), nn.AvgPool2D(7), nn.Flatten())
            self.features = features
            self.output = nn.Dense(classes)


def get_densenet(num_layers: int, pretrained: bool = False, ctx: Any = None, root: Any = None,
                 **kwargs: Any) -> DenseNet:
    """Return a DenseNet with 121, 161, 169 or 201 layers."""
    return loaded(DenseNet(*_SPECS[num_layers], **kwargs), f"densenet{num_layers}", pretrained, ctx, root)
