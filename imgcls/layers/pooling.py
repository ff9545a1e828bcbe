"""MXNet's Pooling, with the paddings and roundings that torch's pooling does not have."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from imgcls.layers.base import (
    Layer,
    OpSpec,
    Size,
    empty_on_meta,
    map_shape,
    optional_pairs,
    output_sides,
    to_attrs,
)


class Pooling(Layer):
    """max, avg, sum or lp pooling, float (N, C, H, W) -> (N, C, H', W').

    MXNet's defaults: stride 1, sizes rounded down (`valid`), padding counted in an average. `full` rounds
    sizes up; `global_pool` takes the whole map whatever the kernel says.
    """

    op = "Pooling"

    def __init__(self, kernel: Size | None = None, pool_type: str | None = None, *,
                 stride: Size | None = None, pad: Size | None = None, global_pool: bool | None = None,
                 pooling_convention: str | None = None, count_include_pad: bool | None = None,
                 p_value: int | None = None, extra: dict[str, str] | None = None) -> None:
        pairs = optional_pairs(kernel=kernel, stride=stride, pad=pad)
        super().__init__(to_attrs(pool_type=pool_type, global_pool=global_pool, p_value=p_value,
                                  pooling_convention=pooling_convention, count_include_pad=count_include_pad,
                                  **pairs) | (extra or {}))
        self.kernel = pairs["kernel"] or (1, 1)
        self.stride = pairs["stride"] or (1, 1)
        self.pad = pairs["pad"] or (0, 0)
        self.pool_type = pool_type or "max"
        self.global_pool = bool(global_pool)
        self.power = p_value or 2  # of lp pooling only
        self.ceil = pooling_convention == "full"  # Caffe's way, and MXNet's before 0.8
        self.count_include_pad = count_include_pad is not False

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        spec.ignore("cudnn_off")
        spec.choice("layout", "None", ("None", "NCHW"))
        global_pool = spec.flag("global_pool")
        if not global_pool and not spec.integers("kernel", ()):
            raise ValueError("kernel is missing")
        power = int(spec.choice("p_value", "2", ("1", "2", "3"))) if spec.is_given("p_value") else None
        return cls(spec.pair("kernel", 1), spec.choice("pool_type", "max", ("max", "avg", "sum", "lp")),
                   stride=spec.pair("stride", 1), pad=spec.pair("pad", 0), global_pool=global_pool,
                   pooling_convention=spec.choice("pooling_convention", "valid", ("valid", "full")),
                   count_include_pad=spec.optional_flag("count_include_pad"), p_value=power)

    def infer(self, *data: Tensor) -> Tensor:
        num, channels, *sizes = map_shape(data[0])
        if self.global_pool:
            return empty_on_meta(num, channels, 1, 1)
        sides = output_sides(sizes, self.kernel, self.stride, self.pad, self.ceil)
        return empty_on_meta(num, channels, *sides)

    def forward(self, data: Tensor) -> Tensor:
        if self.pool_type == "lp":
            total = self._sum_windows(data**self.power)  # of signed powers: MXNet takes no absolute values
            return total if self.power == 1 else total.sign() * total.abs() ** (1 / self.power)
        if self.global_pool and self.pool_type == "max":
            # of equal values one gets the gradient, as in MXNet, where amax shares it among them; a reduction
            # is for maps that are larger than a kernel should be
            is_small = all(side <= size for side, size in zip(data.shape[2:], self.kernel, strict=True))
            return F.max_pool2d(data, data.shape[2:]) if is_small else data.amax((2, 3), keepdim=True)
        # one reduction, and not a pooling whose kernel is as large as the map
        if self.global_pool and self.pool_type == "avg":
            return data.mean((2, 3), keepdim=True)
        if self.pool_type == "sum":
            return self._sum_windows(data)
        if self._needs_own_padding(data.shape[2:]):
            return self._pool_padded(data)
        if self.pool_type == "max":
            return F.max_pool2d(data, self.kernel, self.stride, self.pad, ceil_mode=self.ceil)
        return F.avg_pool2d(data, self.kernel, self.stride, self.pad, self.ceil, self.count_include_pad)

    def _needs_own_padding(self, sizes: Sequence[int]) -> bool:
        """Return whether torch would refuse the padding, or leave out a window of `full` without a pixel."""
        # torch allows half a kernel of padding, and drops a last window that begins in the padding
        return any(2 * p > k or (self.ceil and k < s + p and -((k - n - 2 * p) // s) * s >= n + p)
                   for n, k, s, p in zip(sizes, self.kernel, self.stride, self.pad, strict=True))

    def _pool_padded(self, data: Tensor) -> Tensor:
        """Return max or avg with explicit padding, right and below as much as the last window needs."""
        if self.pool_type == "max":
            # not -inf: for MXNet the maximum of a window of padding alone is the smallest number there is
            padded = F.pad(data, self._margins(data), value=torch.finfo(data.dtype).min)
            return F.max_pool2d(padded, self.kernel, self.stride)
        # How many pixels a window counts is the same for all samples and channels: a map of ones shows it.
        ones = torch.ones_like(data[:1, :1])
        if self.count_include_pad:
            # MXNet counts its own padding, but not what `full` adds behind it.
            ones = F.pad(ones, (self.pad[1], self.pad[1], self.pad[0], self.pad[0]), value=1.0)
            rest = [margin - self.pad[1 - i // 2] for i, margin in enumerate(self._margins(data))]
            counts = self._sum_windows(ones, rest)
        else:
            counts = self._sum_windows(ones)
        return self._sum_windows(data) / counts.clamp(min=1)

    def _sum_windows(self, data: Tensor, margins: list[int] | None = None) -> Tensor:
        """Return the sum over each window; `margins` are those of `_margins` if not given."""
        if self.global_pool:
            return data.sum((2, 3), keepdim=True)
        padded = F.pad(data, self._margins(data) if margins is None else margins)
        # an average that divides by 1 is a sum
        return F.avg_pool2d(padded, self.kernel, self.stride, divisor_override=1)

    def _margins(self, data: Tensor) -> list[int]:
        """Return the padding left, right, above, below; with `full` it is what the last window needs."""
        margins = []
        for axis in (1, 0):  # the order in which F.pad wants them
            n, k, s, p = data.shape[2 + axis], self.kernel[axis], self.stride[axis], self.pad[axis]
            (count,) = output_sides([n], [k], [s], [p], self.ceil)
            margins += [p, max(p, (count - 1) * s + k - n - p)]
        return margins
