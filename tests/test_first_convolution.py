"""The convolution behind the normalisation of the image: the beta's gradient without that of every pixel."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from imgcls.layers import BatchNorm, Convolution, convolution


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Return the inputs of the convolutions that took the short way."""
    taken: list[Tensor] = []
    decide = convolution._is_shifted_constant

    def noted(data: Tensor) -> bool:
        if decide(data):
            taken.append(data)
            return True
        return False

    monkeypatch.setattr(convolution, "_is_shifted_constant", noted)
    return taken


def _layers(*, fix_gamma: bool = True, **geometry: Any) -> tuple[BatchNorm, Convolution]:
    torch.manual_seed(0)
    norm, conv = BatchNorm(4, fix_gamma=fix_gamma), Convolution(4, 6, 3, **geometry)
    with torch.no_grad():
        for parameter in (*norm.parameters(), *conv.parameters()):
            parameter.normal_()
    return norm, conv


def _loss(values: Tensor) -> Tensor:
    return (values.float() * torch.linspace(-1, 1, values.numel()).view_as(values)).sum()


@pytest.mark.parametrize("geometry", [
    {}, {"pad": 1}, {"stride": 2, "pad": 1}, {"pad": (0, 2), "no_bias": True}, {"num_group": 2, "dilate": 2}])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_those_of_conv2d(calls: list[Tensor], geometry: dict[str, Any], dtype: str,
                                       training: bool) -> None:
    images = torch.rand(5, 4, 9, 8).contiguous(memory_format=torch.channels_last)
    results = []
    for is_short in (True, False):
        norm, conv = _layers(**geometry)
        norm.train(training)
        calls.clear()
        with contextlib.nullcontext() if dtype == "float32" else torch.autocast("cpu", torch.bfloat16):
            data = norm(images)
            output = conv(data) if is_short else F.conv2d(data, conv.weight, conv.bias, conv.stride, conv.pad,
                                                          conv.dilate, conv.groups)
        assert len(calls) == is_short
        _loss(output).backward()
        results.append((output, norm.beta.grad, conv.weight.grad,
                        torch.zeros(1) if conv.bias is None else conv.bias.grad))
    (output, for_beta, *others), (wanted, beta_wanted, *others_wanted) = results
    assert output.dtype == wanted.dtype
    assert torch.equal(output, wanted)
    for gradient, other in zip(others, others_wanted, strict=True):
        assert torch.equal(gradient, other)
    # of the beta the order of the sum alone is another
    torch.testing.assert_close(for_beta, beta_wanted, rtol=1e-5 if dtype == "float32" else 0.1, atol=1e-3)


def test_other_inputs_have_a_gradient_for_every_pixel(calls: list[Tensor]) -> None:
    images = torch.rand(2, 4, 6, 6)
    norm, conv = _layers()
    asked_for = images.clone().requires_grad_()  # somebody looks at what the network sees
    _loss(conv(norm(asked_for))).backward()
    assert asked_for.grad is not None
    assert not torch.equal(asked_for.grad[0], asked_for.grad[1])
    norm, conv = _layers(fix_gamma=False)  # a gamma learns from each pixel
    _loss(conv(norm(images))).backward()
    conv(images)
    with torch.no_grad():
        conv(norm(images))
    assert not calls
