"""MXNet's Convolution, and a faster gradient for one that sees the normalised image."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from imgcls.layers import small_maps
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
from imgcls.layers.padded_weights import without_padded_gradients


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
        weight = without_padded_gradients(self.weight, data, self.stride, self.pad, self.dilate)
        if _is_shifted_constant(data):
            result = _ConvolutionOfShiftedConstant.apply(data, weight, self.bias, self.stride, self.pad,
                                                         self.dilate, self.groups)
            assert isinstance(result, Tensor)
            return result
        return small_maps.conv2d(data, weight, self.bias, self.stride, self.pad, self.dilate, self.groups)


def _is_shifted_constant(data: Tensor) -> bool:
    """Return whether all that learns in `data` is one number a channel, added at every pixel.

    That is the case behind the BatchNorm with a fixed gamma that residual networks begin with: its input is
    the image.
    """
    node = data.grad_fn
    if node is None or data.is_meta or torch.compiler.is_compiling():  # shapes alone, and what is traced
        return False
    # the name torch gives it; if a later version changes it, the gradients are only slower
    if node.name() != "NativeBatchNormBackward0":
        return False
    # of a batch normalisation's three inputs, the beta alone has a gradient to be computed
    is_learned = [function is not None for function, _ in node.next_functions]
    return is_learned == [False, False, True]


def _sum_over_batch(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the sum over the images of a batch, 1 x C x H x W, in `dtype`."""
    # As a matrix of one row for each image: of four dimensions in channels_last memory torch's sum over the
    # first takes thirty times as long on a CPU, 31 ms for 16 x 64 x 112 x 112.
    if not images.is_contiguous(memory_format=torch.channels_last):
        return images.sum(0, keepdim=True, dtype=dtype)
    rows = images.permute(0, 2, 3, 1)
    return rows.reshape(len(images), -1).sum(0, dtype=dtype).view(1, *rows.shape[1:]).permute(0, 3, 1, 2)


class _ConvolutionOfShiftedConstant(torch.autograd.Function):
    """conv2d whose input's gradient is right as a sum over the batch, which is all that a beta needs.

    The gradient of the input is linear in that of the output, so it is computed once, for the sum over the
    batch, and not for each image: here are the largest maps of the network and three channels, where it is
    slowest (resnet-18 spends a tenth of a step on it). What is returned for each image is the mean.
    """

    @staticmethod
    def forward(context: Any, data: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
        # as autocast does outside of a Function; inside it leaves everything as it is
        device = data.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else data.dtype
        context.save_for_backward(data.to(dtype), weight.to(dtype), weight)
        context.geometry, context.bias = geometry, bias
        return F.conv2d(data.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype), *geometry)

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient, (data, weight, full_weight), bias = gradients[0], context.saved_tensors, context.bias
        stride, pad, dilate, groups = context.geometry
        sizes = None if bias is None else list(bias.shape)
        arguments = (sizes, stride, pad, dilate, False, (0, 0), groups)
        needs_weight, needs_bias = context.needs_input_grad[1:3]
        _, for_weight, for_bias = torch.ops.aten.convolution_backward(
            gradient, data, weight, *arguments, (False, needs_weight, needs_bias))
        # in float32: the sum has more digits than a half-precision gradient of one image
        total = _sum_over_batch(gradient, full_weight.dtype)
        one = data.new_empty((1, *data.shape[1:]), dtype=full_weight.dtype)
        for_one, _, _ = torch.ops.aten.convolution_backward(total, one, full_weight, *arguments,
                                                            (True, False, False))
        return ((for_one / len(data)).expand(data.shape), for_weight if for_weight is None
                else for_weight.to(full_weight.dtype), for_bias, None, None, None, None)
