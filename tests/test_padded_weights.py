"""Gradients of weights that meet padding alone, in bfloat16 on a CPU: 0, and not what the memory held."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from imgcls.layers import Convolution
from imgcls.layers.padded_weights import Conv2d, _meets_pixels, replace_torchs


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_which_weights_meet_pixels(kernel: int, stride: int) -> None:
    for size, pad, dilate in itertools.product((1, 2, 3, 4, 9), (0, 1, 3), (1, 2)):
        if size + 2 * pad < dilate * (kernel - 1) + 1:
            continue
        weight = torch.zeros(1, 1, kernel, 1, dtype=torch.float64, requires_grad=True)
        pixels = torch.ones(1, 1, size, 1, dtype=torch.float64)
        F.conv2d(pixels, weight, stride=(stride, 1), padding=(pad, 0), dilation=(dilate, 1)).sum().backward()
        assert weight.grad is not None
        assert _meets_pixels(size, kernel, stride, pad, dilate) == (weight.grad.flatten() > 0).tolist()


@pytest.mark.parametrize("kind", ["ours", "torch's"])
@pytest.mark.parametrize("groups", [1, 16])
@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 2, 1), (3, 3, 2), (5, 3, 2), (7, 2, 1)])
def test_gradients_are_those_of_float32(kind: str, groups: int, kernel: int, stride: int, size: int) -> None:
    pad = kernel // 2
    if kind == "ours":
        layer: nn.Module = Convolution(16, 16, kernel, stride=stride, pad=pad, num_group=groups, no_bias=True)
        nn.init.normal_(layer.weight)
    else:
        layer = nn.Conv2d(16, 16, kernel, stride=stride, padding=pad, groups=groups, bias=False)
        replace_torchs(nn.Sequential(layer))
        assert isinstance(layer, Conv2d)
    images = torch.randn(8, 16, size, size, generator=torch.Generator().manual_seed(1))
    images = images.contiguous(memory_format=torch.channels_last)
    expected = _gradient(layer, images)
    for _ in range(5):
        # what is freed is what the gradients are written into
        held = [torch.full((2**power,), float("nan")) for power in range(6, 18)]
        del held
        with torch.autocast("cpu", torch.bfloat16):
            found = _gradient(layer, images)
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02 * float(expected.abs().max()))
        assert (found[expected == 0] == 0).all()


def _gradient(layer: nn.Module, images: torch.Tensor) -> torch.Tensor:
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    weight.grad = None
    layer(images).float().sum().backward()
    assert weight.grad is not None
    return weight.grad
