"""`mx.gluon.nn`: convolutions, with the operator's settings under Gluon's names."""

from __future__ import annotations

from typing import Any

from imgcls.compat.mxnet.gluon.hybrid_block import HybridBlock
from imgcls.compat.mxnet.gluon.nn.activations import Activation

Sizes = int | tuple[int, ...]


def sizes(value: Any, count: int) -> tuple[int, ...]:
    """Return one number as a tuple of `count`, and a tuple as it is."""
    return (value,) * count if isinstance(value, int) else tuple(value)


class _Convolution(HybridBlock):
    """The base class of convolutions."""

    _num_axes = 2
    _operator = "Convolution"

    def __init__(self, channels: int, kernel: tuple[int, ...], strides: Sizes, padding: Sizes,
                 dilation: Sizes, groups: int, layout: str, activation: str | None,
                 biases: tuple[bool, Any, Any], in_channels: int, **kwargs: Any) -> None:
        output_padding = kwargs.pop("output_padding", None)
        super().__init__(**kwargs)
        use_bias, weight_initializer, bias_initializer = biases
        axes = len(kernel)
        self._channels = channels
        self._settings: dict[str, Any] = {
            "kernel": kernel, "stride": sizes(strides, axes), "dilate": sizes(dilation, axes),
            "pad": sizes(padding, axes), "num_filter": channels, "num_group": groups,
            "no_bias": not use_bias, "layout": layout}
        if output_padding is not None:
            self._settings["adj"] = output_padding
        shape = self._weight_shape(in_channels, kernel, groups, layout)
        with self.name_scope():
            self.weight = self.params.get("weight", shape=shape, init=weight_initializer,
                                          allow_deferred_init=True)
            self.bias = self.params.get("bias", shape=(channels,), init=bias_initializer,
                                        allow_deferred_init=True) if use_bias else None
            # named by the kind, as MXNet has it: `relu_fwd` and not `activation0_fwd`
            self.act = None if activation is None else Activation(activation, prefix=activation + "_")

    def _alias(self) -> str:
        return "conv"

    def _weight_shape(self, in_channels: int, kernel: tuple[int, ...], groups: int,
                      layout: str) -> tuple[int, ...]:
        # 0 where the channels are not known yet: they follow from the first batch
        inside = in_channels // groups
        if self._operator == "Deconvolution":
            # a transposed convolution is the gradient of a convolution, and has its layout of weights:
            # input channels first
            return (in_channels, self._channels // groups, *kernel)
        if layout.endswith("C"):
            return (self._channels, *kernel, inside)
        return (self._channels, inside, *kernel)

    def hybrid_forward(self, F: Any, x: Any, weight: Any = None, bias: Any = None) -> Any:  # noqa: N803
        inputs = (x, weight) if bias is None else (x, weight, bias)
        # "fwd" is MXNet's name of the node, which exported files contain
        result = getattr(F, self._operator)(*inputs, name="fwd", **self._settings)
        return result if self.act is None else self.act(result)

    def __repr__(self) -> str:
        settings = self._settings
        axes = len(settings["kernel"])
        parts = [f"kernel_size={settings['kernel']}", f"stride={settings['stride']}"]
        if settings["pad"] != (0,) * axes:
            parts.append(f"padding={settings['pad']}")
        if settings["dilate"] != (1,) * axes:
            parts.append(f"dilation={settings['dilate']}")
        if settings.get("adj", (0,) * axes) != (0,) * axes:
            parts.append(f"output_padding={settings['adj']}")
        if settings["num_group"] != 1:
            parts.append(f"groups={settings['num_group']}")
        if self.bias is None:
            parts.append("bias=False")
        if self.act is not None:
            parts.append(repr(self.act))
        shape = self.weight.shape or (0, 0)
        # None for channels that are not known yet
        return f"{type(self).__name__}({shape[1] or None} -> {shape[0]}, {', '.join(parts)})"


class Conv2D(_Convolution):
    """A convolution of maps (N, C, H, W)."""

    def __init__(self, channels: int, kernel_size: Sizes, strides: Sizes = (1, 1), padding: Sizes = (0, 0),
                 dilation: Sizes = (1, 1), groups: int = 1, layout: str = "NCHW",
                 activation: str | None = None, use_bias: bool = True, weight_initializer: Any = None,
                 bias_initializer: Any = "zeros", in_channels: int = 0, **kwargs: Any) -> None:
        if layout not in ("NCHW", "NHWC"):
            raise AssertionError("Only supports 'NCHW' and 'NHWC' layout for now")
        super().__init__(channels, sizes(kernel_size, 2), strides, padding, dilation, groups, layout,
                         activation, (use_bias, weight_initializer, bias_initializer), in_channels, **kwargs)


class Conv2DTranspose(_Convolution):
    """A transposed convolution of maps, which enlarges them."""

    _operator = "Deconvolution"

    def __init__(self, channels: int, kernel_size: Sizes, strides: Sizes = (1, 1), padding: Sizes = (0, 0),
                 output_padding: Sizes = (0, 0), dilation: Sizes = (1, 1), groups: int = 1,
                 layout: str = "NCHW", activation: str | None = None, use_bias: bool = True,
                 weight_initializer: Any = None, bias_initializer: Any = "zeros", **kwargs: Any) -> None:
        in_channels = kwargs.pop("in_channels", 0)
        super().__init__(channels, sizes(kernel_size, 2), strides, padding, dilation, groups, layout,
                         activation, (use_bias, weight_initializer, bias_initializer), in_channels,
                         output_padding=sizes(output_padding, 2), **kwargs)
