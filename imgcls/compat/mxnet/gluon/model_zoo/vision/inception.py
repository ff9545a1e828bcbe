"""Inception v3 (Szegedy et al. 2015), for images of 299 x 299."""

from __future__ import annotations

from typing import Any

from imgcls.compat.mxnet.gluon import nn
from imgcls.compat.mxnet.gluon.model_zoo.vision._parts import FeaturesAndOutput, loaded, row
from imgcls.compat.mxnet.gluon.nn.containers import HybridConcurrent

#: (channels, kernel, stride, padding) of a convolution
Conv = tuple[int, Any, int, Any]


def _conv(channels: int, kernel: Any, stride: int = 1, padding: Any = 0) -> nn.HybridSequential:
    return row(nn.Conv2D(channels, kernel, stride, padding, use_bias=False), nn.BatchNorm(epsilon=0.001),
               nn.Activation("relu"))


def _branch(*convs: Conv, pool: str | None = None) -> nn.HybridSequential:
    made = nn.HybridSequential(prefix="")
    if pool == "avg":
        made.add(nn.AvgPool2D(3, 1, 1))
    elif pool == "max":
        made.add(nn.MaxPool2D(3, 2))
    for conv in convs:
        made.add(_conv(*conv))
    return made


def _same(channels: int, kernel: Any) -> Conv:
    """Return a convolution that keeps the size of the map."""
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    # half the kernel on each side keeps the size of the image
    return channels, kernel, 1, (sides[0] // 2, sides[1] // 2)


def _module(prefix: str, *branches: Any) -> HybridConcurrent:
    """Return parallel branches; each is (convolutions, pooling in front), or a function that makes it."""
    made = HybridConcurrent(axis=1, prefix=prefix)
    with made.name_scope():  # layers are numbered inside, so branches are made here
        for branch in branches:
            block: Any = branch() if callable(branch) else _branch(*branch[0], pool=branch[1])
            made.add(block)
    return made


def _a(pooled: int, prefix: str) -> HybridConcurrent:
    return _module(prefix, ([_same(64, 1)], None), ([_same(48, 1), _same(64, 5)], None),
                   ([_same(64, 1), _same(96, 3), _same(96, 3)], None), ([_same(pooled, 1)], "avg"))


def _b(prefix: str) -> HybridConcurrent:
    return _module(prefix, ([(384, 3, 2, 0)], None), ([_same(64, 1), _same(96, 3), (96, 3, 2, 0)], None),
                   ([], "max"))


def _c(inner: int, prefix: str) -> HybridConcurrent:
    wide, high = (1, 7), (7, 1)
    return _module(prefix, ([_same(192, 1)], None),
                   ([_same(inner, 1), _same(inner, wide), _same(192, high)], None),
                   ([_same(inner, 1), _same(inner, high), _same(inner, wide), _same(inner, high),
                     _same(192, wide)], None), ([_same(192, 1)], "avg"))


def _d(prefix: str) -> HybridConcurrent:
    return _module(prefix, ([_same(192, 1), (320, 3, 2, 0)], None),
                   ([_same(192, 1), _same(192, (1, 7)), _same(192, (7, 1)), (192, 3, 2, 0)], None),
                   ([], "max"))


def _forked(*convs: Conv) -> nn.HybridSequential:
    """Return convolutions with two parallel ones behind them, 1 x 3 and 3 x 1."""
    made = row(_branch(*convs))
    fork = HybridConcurrent(axis=1, prefix="")
    fork.add(_branch(_same(384, (1, 3))), _branch(_same(384, (3, 1))))
    made.add(fork)
    return made


def _e(prefix: str) -> HybridConcurrent:
    return _module(prefix, ([_same(320, 1)], None), lambda: _forked(_same(384, 1)),
                   lambda: _forked(_same(448, 1), _same(384, 3)), ([_same(192, 1)], "avg"))


class Inception3(FeaturesAndOutput):
    """Modules of parallel branches."""

    def __init__(self, classes: int = 1000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        with self.name_scope():
            self.features = row(_conv(32, 3, 2), _conv(32, 3), _conv(64, 3, 1, 1), nn.MaxPool2D(3, 2),
                                _conv(80, 1), _conv(192, 3), nn.MaxPool2D(3, 2))
            self.features.add(_a(32, "A1_"), _a(64, "A2_"), _a(64, "A3_"), _b("B_"))
            for number, inner in enumerate((128, 160, 160, 192), 1):
                self.features.add(_c(inner, f"C{number}_"))
            self.features.add(_d("D_"), _e("E1_"), _e("E2_"), nn.AvgPool2D(8), nn.Dropout(0.5))
            self.output = nn.Dense(classes)


def inception_v3(pretrained: bool = False, ctx: Any = None, root: Any = None, **kwargs: Any) -> Inception3:
    """Return an Inception v3."""
    return loaded(Inception3(**kwargs), "inceptionv3", pretrained, ctx, root)
