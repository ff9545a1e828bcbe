"""Convolutions of small maps in bfloat16 on a CPU: the gradient of the weights from images side by side.

oneDNN computes that gradient row by row, in tiles of 32 columns: a map of 7 columns leaves three quarters of
each tile empty, and the gradient takes three times as long as the convolution. So several images are put into
one row, with columns of zeros between them, which add nothing to the gradient: it is 1.3 times as fast at
maps of 13 columns, and 8 times at 2.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Pair = tuple[int, ...]

#: columns of a tile: images go side by side where two of them and their gaps fit into one
_TILE = 32
#: with fewer channels the copies cost what the fuller tiles save
_MIN_CHANNELS = 64


def conv2d(data: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, pad: Pair, dilate: Pair,
           groups: int) -> Tensor:
    """Return torch's conv2d of `data`, float (N, C, H, W), on small maps with a faster gradient of `weight`.

    That gradient is the same sum in another order.
    """
    if is_small(data, weight, stride, pad, dilate, groups):
        result = _ConvolutionOfSmallMaps.apply(data, weight, bias, pad)
        assert isinstance(result, Tensor)
        return result
    return F.conv2d(data, weight, bias, stride, pad, dilate, groups)


def is_small(data: Tensor, weight: Tensor, stride: Pair, pad: Pair, dilate: Pair, groups: int) -> bool:
    """Return whether the gradient of `weight` is computed faster with images side by side."""
    if not (is_bfloat16_on_cpu(data) and weight.requires_grad and torch.is_grad_enabled()):
        return False
    if groups > 1 or max(stride) > 1 or max(dilate) > 1 or torch.compiler.is_compiling():
        return False
    height, width = weight.shape[2:]
    # maps keep their size, so that both lie side by side in the same way
    keeps_size = (height, width) == (2 * pad[0] + 1, 2 * pad[1] + 1)
    return (keeps_size and pad[1] > 0 and data.shape[0] > 1 and min(weight.shape[:2]) >= _MIN_CHANNELS
            and 2 * (data.shape[3] + pad[1]) <= _TILE)


def is_bfloat16_on_cpu(data: Tensor) -> bool:
    """Return whether a convolution of `data` is computed so, by its type or by autocast."""
    if data.device.type != "cpu":
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else data.dtype
    return dtype == torch.bfloat16


class _ConvolutionOfSmallMaps(torch.autograd.Function):
    """conv2d of stride 1 whose maps keep their size."""

    @staticmethod
    def forward(context: Any, data: Tensor, weight: Tensor, bias: Tensor | None, pad: Pair) -> Tensor:
        # as autocast does outside of a Function
        data, weight = data.bfloat16(), weight.bfloat16()
        context.save_for_backward(data, weight)
        context.pad, context.bias_shape = pad, None if bias is None else list(bias.shape)
        return F.conv2d(data, weight, None if bias is None else bias.bfloat16(), padding=pad)

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient, (data, weight), pad = gradients[0], context.saved_tensors, context.pad
        needs_data, _, needs_bias, _ = context.needs_input_grad
        geometry = (context.bias_shape, (1, 1), pad, (1, 1), False, (0, 0), 1)
        for_data = None
        if needs_data:
            for_data, _, _ = torch.ops.aten.convolution_backward(gradient, data, weight, *geometry,
                                                                 (True, False, False))
        columns = data.shape[3] + pad[1]
        # a row of two tiles where many images are in it: the zeros at its end are fewer
        num = (_TILE if columns > 6 else 2 * _TILE) // columns
        # the bias with the weights: by itself torch's sum for it takes longer than both
        _, for_weight, for_bias = torch.ops.aten.convolution_backward(
            side_by_side(gradient, num, pad[1]), side_by_side(data, num, pad[1]), weight, *geometry,
            (False, True, needs_bias))
        return for_data, for_weight, for_bias, None


def side_by_side(images: Tensor, num: int, gap: int) -> Tensor:
    """Return (N, C, H, W) as (N / num, C, H, num * (W + gap)): `num` images a row, `gap` zeros behind each.

    N / num is rounded up; the last row is filled up with zeros. In channels_last memory.
    """
    count, channels, height, width = images.shape
    rows, last = divmod(count, num)
    out = images.new_zeros(rows + (last > 0), height, num, width + gap, channels)
    pixels = images.permute(0, 2, 3, 1)
    out[:rows, :, :, :width] = pixels[:rows * num].reshape(rows, num, height, width, channels).transpose(1, 2)
    if last:
        out[rows, :, :last, :width] = pixels[rows * num:].transpose(0, 1)
    return out.flatten(2, 3).permute(0, 3, 1, 2)
