"""Layers with parameters that our own networks do not use: Deconvolution, UpSampling."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgcls.layers.base import Layer, OpSpec, Size, optional_pairs, pair, to_attrs


class Deconvolution(Layer):
    """Transposed convolution, float (N, C, H, W) -> (N, num_filter, H', W').

    The weight is (C, num_filter / num_group, kernel height, kernel width). No bias by default, unlike
    Convolution. `target_shape` in place of `pad` and `adj` says the size of the result.
    """

    op = "Deconvolution"
    PARAMETER_NAMES: ClassVar[dict[str, str]] = {"weight": "weight", "bias": "bias"}

    def __init__(self, in_channels: int, num_filter: int, kernel: Size, *, stride: Size | None = None,
                 pad: Size | None = None, adj: Size | None = None, target_shape: Size | None = None,
                 num_group: int | None = None, no_bias: bool | None = None, dilate: Size | None = None,
                 extra: dict[str, str] | None = None) -> None:
        pairs = optional_pairs(stride=stride, pad=pad, adj=adj, target_shape=target_shape, dilate=dilate)
        super().__init__(to_attrs(kernel=pair(kernel), num_filter=num_filter, num_group=num_group,
                                  no_bias=no_bias, **pairs) | (extra or {}))
        self.kernel = pair(kernel)
        self.stride = pairs["stride"] or (1, 1)
        self.dilate = pairs["dilate"] or (1, 1)
        self.groups = num_group or 1
        self.pad = pairs["pad"] or (0, 0)
        self.adj = pairs["adj"] or (0, 0)
        self.target_shape = pairs["target_shape"]
        # in and out are the other way round than in a Convolution, in MXNet as in torch
        self.weight = nn.Parameter(torch.empty(in_channels, num_filter // self.groups, *pair(kernel)))
        self.bias = nn.Parameter(torch.zeros(num_filter)) if no_bias is False else None

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        spec.ignore("workspace", "cudnn_tune", "cudnn_off")
        spec.choice("layout", "None", ("None", "NCHW"))
        channels = spec.size(1, "weight")
        num_filter = spec.integer("num_filter")
        target = spec.pair("target_shape", 0)  # (0, 0): not given
        return cls(channels, num_filter, spec.pair("kernel", 1), stride=spec.pair("stride", 1),
                   pad=spec.pair("pad", 0), adj=spec.pair("adj", 0), dilate=spec.pair("dilate", 1),
                   target_shape=target if any(target) else None, num_group=spec.groups(channels, num_filter),
                   no_bias=spec.flag("no_bias", True))

    def forward(self, data: Tensor) -> Tensor:
        # torch has no target_shape: what the padding must be follows from it and the input.
        pad = list(self.pad)
        adj = list(self.adj)
        for axis, target in enumerate(self.target_shape or ()):
            # MXNet's rule (deconvolution-inl.h, InferPad): what is too much is cut off on both sides alike.
            full = (self.stride[axis] * (data.shape[2 + axis] - 1)
                    + self.dilate[axis] * (self.kernel[axis] - 1) + 1)
            pad[axis] = (full - target + 1) // 2
            adj[axis] = (full - target) % 2
        return F.conv_transpose2d(data, self.weight, self.bias, self.stride, pad, adj, self.groups,
                                  self.dilate)


class UpSampling(Layer):
    """Enlarges maps by a whole factor, float (N, C, H, W) -> (N, C', scale * H, scale * W).

    `nearest` repeats pixels (and joins several inputs at the size of the first), `bilinear` is a transposed
    convolution with one weight (1, kernel, kernel) a channel.
    """

    op = "UpSampling"
    num_inputs = None
    PARAMETER_NAMES: ClassVar[dict[str, str]] = {"weight": "weight"}

    def __init__(self, scale: int, sample_type: str, *, num_args: int = 1, num_filter: int | None = None,
                 multi_input_mode: str | None = None, extra: dict[str, str] | None = None) -> None:
        super().__init__(to_attrs(scale=scale, sample_type=sample_type, num_args=num_args,
                                  num_filter=num_filter, multi_input_mode=multi_input_mode) | (extra or {}))
        self.scale = scale
        self.sums_inputs = multi_input_mode == "sum"
        self.num_filter = num_filter or 0
        kernel = 2 * scale - scale % 2  # the kernel of bilinear interpolation, as MXNet sizes it
        bilinear = sample_type == "bilinear"
        self.weight = nn.Parameter(torch.empty(self.num_filter, 1, kernel, kernel)) if bilinear else None

    @classmethod
    def num_data(cls, spec: OpSpec) -> int:
        # bilinear has a weight behind its one input, nearest may have several inputs and no weight
        return 1 if spec.text("sample_type", "") == "bilinear" else spec.num_inputs

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        spec.ignore("workspace")
        kind = spec.choice("sample_type", "", ("nearest", "bilinear"))
        mode = spec.choice("multi_input_mode", "concat", ("concat", "sum"))
        return cls(spec.integer("scale"), kind, num_args=spec.integer("num_args", 1), multi_input_mode=mode,
                   num_filter=spec.integer("num_filter", 0))

    def forward(self, *data: Tensor) -> Tensor:
        if self.weight is not None:
            # MXNet's own padding for this kernel: ceil((scale - 1) / 2)
            pad = self.scale // 2
            return F.conv_transpose2d(data[0], self.weight, None, self.scale, pad, groups=self.num_filter)
        # each input is enlarged to the size that the first one gets
        height = data[0].shape[2] * self.scale
        factors = [height // tensor.shape[2] for tensor in data]
        large = [tensor.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
                 for factor, tensor in zip(factors, data, strict=True)]
        if len(large) == 1:
            return large[0]
        return torch.stack(large).sum(0) if self.sums_inputs else torch.cat(large, 1)
