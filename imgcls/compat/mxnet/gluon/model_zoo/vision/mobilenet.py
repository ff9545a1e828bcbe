"""MobileNet (Howard et al. 2017) and its second version (Sandler et al. 2018)."""

from __future__ import annotations

from typing import Any

from imgcls.compat.mxnet.gluon import nn
from imgcls.compat.mxnet.gluon.model_zoo.vision._parts import FeaturesAndOutput, loaded

#: of each pair of convolutions: channels behind it, stride
_PAIRS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *(((512, 1),) * 5), (1024, 2), (1024, 1))
#: of each group of bottlenecks: expansion, channels, their number
_GROUPS = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
#: strides of all bottlenecks as in MXNet, where the map shrinks one unit later than in the paper
_STRIDES = (1, 2, 1, 2, 1, 1, 2, *((1,) * 6), 2, 1, 1, 1)


class RELU6(nn.HybridBlock):
    """A relu that is cut off at 6."""

    def hybrid_forward(self, F: Any, x: Any) -> Any:  # noqa: N803
        return F.clip(x, 0, 6, name="relu6")


def _add_conv(row: nn.HybridSequential, channels: int, kernel: int = 1, stride: int = 1, pad: int = 0,
              groups: int = 1, act: str | None = "relu") -> None:
    row.add(nn.Conv2D(channels, kernel, stride, pad, groups=groups, use_bias=False), nn.BatchNorm(scale=True))
    if act is not None:
        row.add(RELU6() if act == "relu6" else nn.Activation(act))


class LinearBottleneck(nn.HybridBlock):
    """A widening 1 x 1, a depthwise and a narrowing 1 x 1 convolution; the input is added if shapes agree."""

    def __init__(self, in_channels: int, channels: int, t: int, stride: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.use_shortcut = stride == 1 and in_channels == channels
        wide = in_channels * t
        with self.name_scope():
            self.out = nn.HybridSequential()
            _add_conv(self.out, wide, act="relu6")
            _add_conv(self.out, wide, 3, stride, 1, groups=wide, act="relu6")
            _add_conv(self.out, channels, act=None)

    def hybrid_forward(self, F: Any, x: Any) -> Any:  # noqa: N803
        result = self.out(x)
        return F.elemwise_add(result, x) if self.use_shortcut else result


class MobileNet(FeaturesAndOutput):
    """Depthwise and 1 x 1 convolutions in turn."""

    def __init__(self, multiplier: float = 1.0, classes: int = 1000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        with self.name_scope():
            self.features = nn.HybridSequential(prefix="")
            with self.features.name_scope():
                before = int(32 * multiplier)
                _add_conv(self.features, before, 3, 2, 1)
                for channels, stride in _PAIRS:
                    _add_conv(self.features, before, 3, stride, 1, groups=before)
                    before = int(channels * multiplier)
                    _add_conv(self.features, before)
                self.features.add(nn.GlobalAvgPool2D(), nn.Flatten())
            self.output = nn.Dense(classes)


class MobileNetV2(FeaturesAndOutput):
    """Linear bottlenecks."""

    def __init__(self, multiplier: float = 1.0, classes: int = 1000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        with self.name_scope():
            self.features = nn.HybridSequential(prefix="features_")
            with self.features.name_scope():
                before = int(32 * multiplier)
                _add_conv(self.features, before, 3, 2, 1, act="relu6")
                units = [(t, channels) for t, channels, count in _GROUPS for _ in range(count)]
                for (t, width), stride in zip(units, _STRIDES, strict=True):
                    channels = int(width * multiplier)
                    self.features.add(LinearBottleneck(before, channels, t, stride))
                    before = channels
                _add_conv(self.features, int(1280 * multiplier) if multiplier > 1.0 else 1280, act="relu6")
                self.features.add(nn.GlobalAvgPool2D())
            self.output = nn.HybridSequential(prefix="output_")
            with self.output.name_scope():
                self.output.add(nn.Conv2D(classes, 1, use_bias=False, prefix="pred_"), nn.Flatten())


# File names have 1.0 and 0.5, but 0.75 and 0.25.
def _version(multiplier: float) -> str:
    text = f"{multiplier:.2f}"
    return text[:-1] if text in ("1.00", "0.50") else text


def get_mobilenet(multiplier: float, pretrained: bool = False, ctx: Any = None, root: Any = None,
                  **kwargs: Any) -> MobileNet:
    """Return a MobileNet with this multiple of the channels."""
    return loaded(MobileNet(multiplier, **kwargs), f"mobilenet{_version(multiplier)}", pretrained, ctx, root)


def get_mobilenet_v2(multiplier: float, pretrained: bool = False, ctx: Any = None, root: Any = None,
                     **kwargs: Any) -> MobileNetV2:
    """Return a MobileNet of the second version."""
    return loaded(MobileNetV2(multiplier, **kwargs), f"mobilenetv2_{_version(multiplier)}", pretrained, ctx,
                  root)
