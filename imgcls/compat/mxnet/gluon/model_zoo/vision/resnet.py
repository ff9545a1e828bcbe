"""ResNet (He et al. 2015; the second version 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from imgcls.compat.mxnet.gluon import nn
from imgcls.compat.mxnet.gluon.model_zoo.vision._parts import FeaturesAndOutput, loaded, row

#: number of layers -> whether its units are bottlenecks, their number in each stage
_STAGES = {18: (False, (2, 2, 2, 2)), 34: (False, (3, 4, 6, 3)), 50: (True, (3, 4, 6, 3)),
           101: (True, (3, 4, 23, 3)), 152: (True, (3, 8, 36, 3))}
#: channels in front of the stages and behind each
_CHANNELS = {False: (64, 64, 128, 256, 512), True: (64, 256, 512, 1024, 2048)}


def _conv3x3(channels: int, stride: int, in_channels: int) -> nn.Conv2D:
    return nn.Conv2D(channels, 3, stride, 1, use_bias=False, in_channels=in_channels)


class _UnitV1(nn.HybridBlock):
    """The sum of `body` and the input, or its projection, and a relu."""

    body: nn.HybridSequential

    def _project(self, channels: int, stride: int, is_needed: bool, in_channels: int) -> None:
        # None, not an empty block, which files would name.
        self.downsample = row(nn.Conv2D(channels, 1, stride, use_bias=False, in_channels=in_channels),
                              nn.BatchNorm()) if is_needed else None

    def hybrid_forward(self, F: Any, x: Any) -> Any:  # noqa: N803
        body = self.body(x)
        shortcut = x if self.downsample is None else self.downsample(x)
        return self._joined(F, body, shortcut)

    def _joined(self, F: Any, body: Any, shortcut: Any) -> Any:  # noqa: N803
        return F.Activation(body + shortcut, act_type="relu")


class BasicBlockV1(_UnitV1):
    """Two convolutions of 3 x 3."""

    def __init__(self, channels: int, stride: int, downsample: bool = False, in_channels: int = 0,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.body = row(_conv3x3(channels, stride, in_channels), nn.BatchNorm(), nn.Activation("relu"),
                        _conv3x3(channels, 1, channels), nn.BatchNorm())
        self._project(channels, stride, downsample, in_channels)

    # The order of the sum in MXNet's graph.
    def _joined(self, F: Any, body: Any, shortcut: Any) -> Any:  # noqa: N803
        return F.Activation(shortcut + body, act_type="relu")


class BottleneckV1(_UnitV1):
    """A convolution of 3 x 3 between two of 1 x 1, which have biases as in MXNet."""

    def __init__(self, channels: int, stride: int, downsample: bool = False, in_channels: int = 0,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        inner = channels // 4
        # with biases, and the stride in the first 1 x 1: MXNet's v1 differs from torchvision's in
        # both, and its weight files hold those biases
        self.body = row(nn.Conv2D(inner, 1, stride), nn.BatchNorm(), nn.Activation("relu"),
                        _conv3x3(inner, 1, inner), nn.BatchNorm(), nn.Activation("relu"),
                        nn.Conv2D(channels, 1, 1), nn.BatchNorm())
        self._project(channels, stride, downsample, in_channels)


class _UnitV2(nn.HybridBlock):
    """Normalisation and relu in front of each convolution; nothing behind the sum."""

    _num_convolutions: int

    def _project(self, channels: int, stride: int, is_needed: bool, in_channels: int) -> None:
        self.downsample = (nn.Conv2D(channels, 1, stride, use_bias=False, in_channels=in_channels)
                           if is_needed else None)

    def hybrid_forward(self, F: Any, x: Any) -> Any:  # noqa: N803
        result, shortcut = x, x
        for number in range(1, self._num_convolutions + 1):
            result = F.Activation(getattr(self, f"bn{number}")(result), act_type="relu")
            # He et al. 2016: a projection gets the normalised input, an identity the plain input
            if number == 1 and self.downsample is not None:
                shortcut = self.downsample(result)
            result = getattr(self, f"conv{number}")(result)
        return result + shortcut


class BasicBlockV2(_UnitV2):
    """Two convolutions of 3 x 3."""

    _num_convolutions = 2

    def __init__(self, channels: int, stride: int, downsample: bool = False, in_channels: int = 0,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bn1 = nn.BatchNorm()
        self.conv1 = _conv3x3(channels, stride, in_channels)
        self.bn2 = nn.BatchNorm()
        self.conv2 = _conv3x3(channels, 1, channels)
        self._project(channels, stride, downsample, in_channels)


class BottleneckV2(_UnitV2):
    """A convolution of 3 x 3 between two of 1 x 1."""

    _num_convolutions = 3

    def __init__(self, channels: int, stride: int, downsample: bool = False, in_channels: int = 0,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        inner = channels // 4
        self.bn1 = nn.BatchNorm()
        self.conv1 = nn.Conv2D(inner, 1, 1, use_bias=False)
        self.bn2 = nn.BatchNorm()
        self.conv2 = _conv3x3(inner, stride, inner)
        self.bn3 = nn.BatchNorm()
        self.conv3 = nn.Conv2D(channels, 1, 1, use_bias=False)
        self._project(channels, stride, downsample, in_channels)


class _ResNet(FeaturesAndOutput):
    """A stem, stages of units, a global pooling; `thumbnail` makes a stem for images of 32 x 32."""

    _is_second = False

    def __init__(self, block: Any, layers: Sequence[int], channels: Sequence[int], classes: int = 1000,
                 thumbnail: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        with self.name_scope():
            features = nn.HybridSequential(prefix="")
            if self._is_second:
                # the network normalises its images itself, without parameters
                features.add(nn.BatchNorm(scale=False, center=False))
            # for 32 pixels: a stride of 2 and a pooling would leave 8 of them before the first stage
            if thumbnail:
                features.add(_conv3x3(channels[0], 1, 0))
            else:
                features.add(nn.Conv2D(channels[0], 7, 2, 3, use_bias=False), nn.BatchNorm(),
                             nn.Activation("relu"), nn.MaxPool2D(3, 2, 1))
            for number, count in enumerate(layers, 1):
                features.add(_stage(block, count, channels[number], 1 if number == 1 else 2, number,
                                    channels[number - 1]))
            if self._is_second:
                features.add(nn.BatchNorm(), nn.Activation("relu"))
            features.add(nn.GlobalAvgPool2D())
            if self._is_second:
                features.add(nn.Flatten())
            self.features = features
            self.output = nn.Dense(classes, in_units=channels[-1])


class ResNetV1(_ResNet):
    """The first version."""


class ResNetV2(_ResNet):
    """The second version, with normalisation in front."""

    _is_second = True


def _stage(block: Any, count: int, channels: int, stride: int, number: int,
           in_channels: int) -> nn.HybridSequential:
    stage = nn.HybridSequential(prefix=f"stage{number}_")
    with stage.name_scope():
        # a projection where the channels change, even with a stride of 1
        stage.add(block(channels, stride, channels != in_channels, in_channels=in_channels, prefix=""))
        for _ in range(count - 1):
            stage.add(block(channels, 1, False, in_channels=channels, prefix=""))
    return stage


def get_resnet(version: int, num_layers: int, pretrained: bool = False, ctx: Any = None, root: Any = None,
               **kwargs: Any) -> _ResNet:
    """Return a ResNet of version 1 or 2 with 18, 34, 50, 101 or 152 layers."""
    if num_layers not in _STAGES:
        raise AssertionError(f"Invalid number of layers: {num_layers}. Options are {_STAGES.keys()}")
    if version not in (1, 2):
        raise AssertionError(f"Invalid resnet version: {version}. Options are 1 and 2.")
    is_bottleneck, layers = _STAGES[num_layers]
    unit = {(1, False): BasicBlockV1, (1, True): BottleneckV1, (2, False): BasicBlockV2,
            (2, True): BottleneckV2}[version, is_bottleneck]
    network = (ResNetV1 if version == 1 else ResNetV2)(unit, layers, _CHANNELS[is_bottleneck], **kwargs)
    return loaded(network, f"resnet{num_layers}_v{version}", pretrained, ctx, root)
