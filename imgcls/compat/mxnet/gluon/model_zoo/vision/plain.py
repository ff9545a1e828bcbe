"""AlexNet (Krizhevsky et al. 2012) and VGG (Simonyan and Zisserman 2014): convolutions in one row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from imgcls.compat.mxnet import initializer
from imgcls.compat.mxnet.gluon import nn
from imgcls.compat.mxnet.gluon.model_zoo.vision._parts import FeaturesAndOutput, loaded

#: number of layers -> convolutions in front of each pooling; their channels
_VGG_LAYERS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_VGG_CHANNELS = (64, 128, 256, 512, 512)


class AlexNet(FeaturesAndOutput):
    """Five convolutions, three fully connected layers."""

    def __init__(self, classes: int = 1000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        with self.name_scope():
            self.features = nn.HybridSequential(prefix="")
            with self.features.name_scope():
                self.features.add(
                    nn.Conv2D(64, 11, 4, 2, activation="relu"), nn.MaxPool2D(3, 2),
                    nn.Conv2D(192, 5, padding=2, activation="relu"), nn.MaxPool2D(3, 2),
                    nn.Conv2D(384, 3, padding=1, activation="relu"),
                    nn.Conv2D(256, 3, padding=1, activation="relu"),
                    nn.Conv2D(256, 3, padding=1, activation="relu"), nn.MaxPool2D(3, 2), nn.Flatten(),
                    nn.Dense(4096, activation="relu"), nn.Dropout(0.5),
                    nn.Dense(4096, activation="relu"), nn.Dropout(0.5))
            self.output = nn.Dense(classes)


class VGG(FeaturesAndOutput):
    """Convolutions of 3 x 3 with poolings between, and three fully connected layers."""

    def __init__(self, layers: Sequence[int], filters: Sequence[int], classes: int = 1000,
                 batch_norm: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        with self.name_scope():
            self.features = nn.HybridSequential(prefix="")
            for count, channels in zip(layers, filters, strict=True):
                for _ in range(count):
                    weights = initializer.Xavier(rnd_type="gaussian", factor_type="out", magnitude=2)
                    self.features.add(nn.Conv2D(channels, 3, padding=1, weight_initializer=weights))
                    if batch_norm:
                        self.features.add(nn.BatchNorm())
                    self.features.add(nn.Activation("relu"))
                self.features.add(nn.MaxPool2D(strides=2))
            for _ in range(2):
                self.features.add(nn.Dense(4096, activation="relu", weight_initializer="normal"),
                                  nn.Dropout(rate=0.5))
            self.output = nn.Dense(classes, weight_initializer="normal")


def alexnet(pretrained: bool = False, ctx: Any = None, root: Any = None, **kwargs: Any) -> AlexNet:
    """Return an AlexNet."""
    return loaded(AlexNet(**kwargs), "alexnet", pretrained, ctx, root)


def get_vgg(num_layers: int, pretrained: bool = False, ctx: Any = None, root: Any = None,
            **kwargs: Any) -> VGG:
    """Return a VGG with 11, 13, 16 or 19 layers."""
    name = f"vgg{num_layers}" + ("_bn" if kwargs.get("batch_norm") else "")
    return loaded(VGG(_VGG_LAYERS[num_layers], _VGG_CHANNELS, **kwargs), name, pretrained, ctx, root)
