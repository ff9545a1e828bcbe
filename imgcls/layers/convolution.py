"""MXNet's Convolution."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgcls.layers.base import (
    Layer,
    OpSpec,
    Size,
    empty_on_meta,
    map_shape,
    optional_pairs,
    output_sides,
    pair,
    to_attrs,
)


class Convolution(Layer):
    """2-D convolution, float (N, C, H, W) -> (N, num_filter, H', W').

    The weight is (num_filter, C / num_group, kernel height, kernel width).
    """

    op = "Convolution"
    #: in the order of MXNet's inputs, which a symbol keeps
    PARAMETER_NAMES: ClassVar[dict[str, str]] = {"weight": "weight", "bias": "bias"}

    def __init__(self, in_channels: int, num_filter: int, kernel: Size, *, stride: Size | None = None,
                 pad: Size | None = None, num_group: int | None = None, no_bias: bool | None = None,
                 dilate: Size | None = None, extra: dict[str, str] | None = None) -> None:
        # None and not the default where nothing was given: a symbol shows what was given, and nothing else.
        pairs = optional_pairs(stride=stride, pad=pad, dilate=dilate)
        super().__init__(to_attrs(kernel=pair(kernel), num_filter=num_filter, num_group=num_group,
                                  no_bias=no_bias, **pairs) | (extra or {}))
        self.stride = pairs["stride"] or (1, 1)
        self.pad = pairs["pad"] or (0, 0)
        self.dilate = pairs["dilate"] or (1, 1)
        self.groups = num_group or 1
        self.weight = nn.Parameter(torch.empty(num_filter, in_channels // self.groups, *pair(kernel)))
        # MXNet's initializers set biases to 0, whatever they do with weights; those are filled later.
        self.bias = None if no_bias else nn.Parameter(torch.zeros(num_filter))

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        spec.ignore("workspace", "cudnn_tune", "cudnn_off")  # how MXNet computes it, not what
        spec.choice("layout", "None", ("None", "NCHW"))  # NHWC would have its weights in another order
        channels = spec.size(1, "weight", 1)
        num_filter = spec.integer("num_filter")
        if spec.shape is None:  # a weight has the channels of one group only
            channels *= spec.integer("num_group", 1)
        groups = spec.groups(channels, num_filter)
        return cls(channels, num_filter, spec.pair("kernel", 1), stride=spec.pair("stride", 1),
                   pad=spec.pair("pad", 0), dilate=spec.pair("dilate", 1), num_group=groups,
                   no_bias=spec.flag("no_bias"))

    def infer(self, *data: Tensor) -> Tensor:
        num, channels, *sizes = map_shape(data[0])
        if channels != self.weight.shape[1] * self.groups:
            raise ValueError(f"{channels} channels where the weight has {self.weight.shape[1] * self.groups}")
        # a dilated kernel spans more pixels than it has weights
        kernel = [d * (k - 1) + 1 for k, d in zip(self.weight.shape[2:], self.dilate, strict=True)]
        return empty_on_meta(num, self.weight.shape[0], *output_sides(sizes, kernel, self.stride, self.pad))

    def forward(self, data: Tensor) -> Tensor:
        return F.conv2d(data, self.weight, self.bias, self.stride, self.pad, self.dilate, self.groups)
