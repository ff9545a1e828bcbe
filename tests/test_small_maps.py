"""The gradient of a convolution's weights on small maps, computed of images side by side."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgcls.layers import Convolution, small_maps
from imgcls.layers.padded_weights import replace_torchs

SAME_SIZE: dict[str, Any] = {"stride": (1, 1), "pad": (1, 1), "dilate": (1, 1), "groups": 1}


def test_images_side_by_side() -> None:
    images = torch.arange(1.0, 3 * 2 * 2 * 3 + 1).view(3, 2, 2, 3)
    rows = small_maps.side_by_side(images, 2, 1)
    assert rows.shape == (2, 2, 2, 2 * (3 + 1))
    assert rows.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(rows[0, :, :, :3], images[0])
    torch.testing.assert_close(rows[0, :, :, 4:7], images[1])
    torch.testing.assert_close(rows[1, :, :, :3], images[2])
    # the gaps, and the image that the last row lacks
    assert rows.sum() == images.sum()


@pytest.mark.parametrize(("count", "channels", "filters", "height", "width", "kernel"), [
    (5, 64, 72, 7, 7, 3), (17, 70, 64, 3, 5, 3), (2, 65, 64, 2, 2, 5), (3, 64, 64, 13, 4, 3),
    (70, 64, 64, 1, 1, 3), (3, 64, 64, 9, 13, 7)])
def test_gradients_are_torchs(count: int, channels: int, filters: int, height: int, width: int,
                              kernel: int) -> None:
    generator = torch.Generator().manual_seed(1)
    pad = (kernel // 2, kernel // 2)
    inputs = [torch.randn(count, channels, height, width, generator=generator),
              torch.randn(filters, channels, kernel, kernel, generator=generator),
              torch.randn(filters, generator=generator)]
    gradient = torch.randn(count, filters, height, width, generator=generator)
    leaves = [part.requires_grad_() for part in inputs]
    with torch.autocast("cpu", torch.bfloat16):
        geometry = SAME_SIZE | {"pad": pad}
        assert small_maps.is_small(leaves[0], leaves[1], **geometry)
        found = small_maps.conv2d(*leaves, **geometry)
        expected = F.conv2d(*leaves, padding=pad)
    assert torch.equal(found, expected)
    pairs = zip(torch.autograd.grad(found, leaves, gradient.bfloat16()),
                torch.autograd.grad(expected, leaves, gradient.bfloat16()), strict=True)
    for ours, torchs in pairs:
        assert ours.dtype == torchs.dtype == torch.float32
        # bfloat16 has 8 binary digits; the sums differ in their order alone
        torch.testing.assert_close(ours, torchs, rtol=0.02, atol=0.01 * float(torchs.abs().max()))


@pytest.mark.parametrize(("change", "is_small"), [
    ({}, True), ({"stride": (2, 2)}, False), ({"dilate": (2, 2)}, False), ({"groups": 2}, False),
    ({"pad": (0, 0)}, False)])
def test_which_convolutions_are_small(change: dict[str, Any], is_small: bool) -> None:
    weight = torch.zeros(64, 64, 3, 3, requires_grad=True)
    geometry = SAME_SIZE | change
    images = torch.zeros(4, 64, 7, 7)
    assert not small_maps.is_small(images, weight, **geometry)  # in float32
    with torch.autocast("cpu", torch.bfloat16):
        assert small_maps.is_small(images, weight, **geometry) == is_small
        assert not small_maps.is_small(torch.zeros(4, 64, 7, 16), weight, **geometry)
        assert not small_maps.is_small(images, weight.detach(), **geometry)
        with torch.no_grad():
            assert not small_maps.is_small(images, weight, **geometry)


@pytest.mark.parametrize("kind", ["ours", "torch's"])
def test_layers_compute_so(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer: nn.Module = (Convolution(64, 64, 3, pad=1) if kind == "ours" else
                        replace_torchs(nn.Sequential(nn.Conv2d(64, 64, 3, padding=1))))
    called = []
    side_by_side = small_maps.side_by_side
    monkeypatch.setattr(small_maps, "side_by_side",
                        lambda images, *rest: called.append(images.shape) or side_by_side(images, *rest))
    images = torch.randn(4, 64, 7, 7)
    with torch.autocast("cpu", torch.bfloat16):
        _loss(layer(images)).backward()
    assert called == [(4, 64, 7, 7)] * 2
    _loss(layer(images)).backward()  # float32: as torch computes it
    assert len(called) == 2


def _loss(output: Tensor) -> Tensor:
    return output.float().square().sum()
