"""Weights of a convolution that meet nothing but padding: their gradient is 0, which oneDNN does not write.

In bfloat16 on a CPU and with a stride above 1 the memory of these gradients stays as it was (seen with torch
2.15: 3 x 3 on maps of one pixel, for example), so that they differ from run to run or are nan.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imgcls.layers import small_maps
from imgcls.layers.small_maps import is_bfloat16_on_cpu


def without_padded_gradients(weight: Tensor, data: Tensor, stride: tuple[int, ...], pad: tuple[int, ...],
                             dilate: tuple[int, ...]) -> Tensor:
    """Return `weight`, (filters, channels, height, width), for a convolution of `data`, (N, C, H, W).

    Where gradients could come out wrong, those of the values that meet padding alone are 0, as they should
    be. The output of the convolution is the same.
    """
    if max(stride) == 1 or not weight.requires_grad or not is_bfloat16_on_cpu(data):
        return weight
    meets = [_meets_pixels(*geometry) for geometry in
             zip(data.shape[2:], weight.shape[2:], stride, pad, dilate, strict=True)]
    if all(map(all, meets)):  # nearly always: maps are larger than kernels
        return weight
    rows, columns = (torch.tensor(part, device=weight.device) for part in meets)
    # not a product: 0 times nan is nan, while this gives what is not chosen the gradient 0
    return torch.where(rows[:, None] & columns, weight, 0)


class Conv2d(nn.Conv2d):
    """torch's Conv2d, with a gradient of 0 for such weights and a faster gradient on small maps."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode == "zeros" and not isinstance(self.padding, str):
            geometry = (self.stride, self.padding, self.dilation)
            weight = without_padded_gradients(weight, input, *geometry)
            if input.ndim == 4:  # torch's takes an image without a batch as well
                return small_maps.conv2d(input, weight, bias, *geometry, self.groups)
        return super()._conv_forward(input, weight, bias)


def replace_torchs(model: nn.Module) -> nn.Module:
    """Change every torch.nn.Conv2d of `model` to the class above, in place; return `model`."""
    for module in model.modules():
        # not subclasses: those of another package may pad in their own way
        if type(module) is nn.Conv2d:
            module.__class__ = Conv2d
    return model


def _meets_pixels(size: int, kernel: int, stride: int, pad: int, dilate: int) -> list[bool]:
    """Return for each weight along one side of a kernel whether it is ever on one of `size` pixels."""
    last = (size + 2 * pad - dilate * (kernel - 1) - 1) // stride
    # the positions n that have it on a pixel: 0 <= n * stride - pad + offset < size
    return [max(0, -((offset - pad) // stride)) <= min(last, (size - 1 + pad - offset) // stride)
            for offset in range(0, kernel * dilate, dilate)]
