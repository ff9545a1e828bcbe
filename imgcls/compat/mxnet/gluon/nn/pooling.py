"""`mx.gluon.nn`: pooling, and padding by reflection."""

from __future__ import annotations

from typing import Any

from imgcls.compat.mxnet.gluon.hybrid_block import HybridBlock
from imgcls.compat.mxnet.gluon.nn.convolution import Sizes, sizes


class _Pooling(HybridBlock):
    """The base class of poolings."""

    def __init__(self, pool_size: tuple[int, ...], strides: Any, padding: Any, ceil_mode: bool,
                 is_global: bool, pool_type: str, layout: str, count_include_pad: bool | None = None,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        axes = len(pool_size)
        self._settings: dict[str, Any] = {
            "kernel": pool_size, "stride": sizes(pool_size if strides is None else strides, axes),
            "pad": sizes(padding, axes), "global_pool": is_global, "pool_type": pool_type, "layout": layout,
            # MXNet's words for rounding the size up and down
            "pooling_convention": "full" if ceil_mode else "valid"}
        # for means only: MXNet writes no such attribute for a maximum
        if count_include_pad is not None:
            self._settings["count_include_pad"] = count_include_pad

    def _alias(self) -> str:
        return "pool"

    def hybrid_forward(self, F: Any, x: Any) -> Any:  # noqa: N803
        return F.Pooling(x, name="fwd", **self._settings)

    def __repr__(self) -> str:
        settings = self._settings
        return (f"{type(self).__name__}(size={settings['kernel']}, stride={settings['stride']}, "
                f"padding={settings['pad']}, ceil_mode={settings['pooling_convention'] == 'full'}, "
                f"global_pool={settings['global_pool']}, pool_type={settings['pool_type']}, "
                f"layout={settings['layout']})")


class MaxPool2D(_Pooling):
    """The largest value of each window; without `strides` windows do not overlap."""

    def __init__(self, pool_size: Sizes = (2, 2), strides: Sizes | None = None, padding: Sizes = 0,
                 layout: str = "NCHW", ceil_mode: bool = False, **kwargs: Any) -> None:
        super().__init__(sizes(pool_size, 2), strides, padding, ceil_mode, False, "max", layout, **kwargs)


class AvgPool2D(_Pooling):
    """The mean of each window."""

    def __init__(self, pool_size: Sizes = (2, 2), strides: Sizes | None = None, padding: Sizes = 0,
                 ceil_mode: bool = False, layout: str = "NCHW", count_include_pad: bool = True,
                 **kwargs: Any) -> None:
        super().__init__(sizes(pool_size, 2), strides, padding, ceil_mode, False, "avg", layout,
                         count_include_pad, **kwargs)


class GlobalMaxPool2D(_Pooling):
    """The largest value of each map, (N, C, 1, 1)."""

    def __init__(self, layout: str = "NCHW", **kwargs: Any) -> None:
        super().__init__((1, 1), None, 0, True, True, "max", layout, **kwargs)


class GlobalAvgPool2D(_Pooling):
    """The mean of each map, (N, C, 1, 1)."""

    def __init__(self, layout: str = "NCHW", **kwargs: Any) -> None:
        # the window of 1 x 1 is not used, but exported files contain it
        super().__init__((1, 1), None, 0, True, True, "avg", layout, **kwargs)


class ReflectionPad2D(HybridBlock):
    """Pad a map on all sides by reflection at its border."""

    def __init__(self, padding: Sizes = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # 0 for the axes of the batch and the channels, which come first
        self._padding = (0, 0, 0, 0, *(padding,) * 4) if isinstance(padding, int) else tuple(padding)

    def hybrid_forward(self, F: Any, x: Any) -> Any:  # noqa: N803
        return F.pad(x, mode="reflect", pad_width=self._padding)
