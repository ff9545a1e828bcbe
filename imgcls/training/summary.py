"""What is about to be trained, in a few lines: parameters and floating-point operations of a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from imgcls.errors import UsageError
from imgcls.layers import Convolution, FullyConnected


def parameters(model: nn.Module, *, frozen: bool = False) -> int:
    """How many numbers are learned; with `frozen`, those too that --freeze leaves as they are."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or frozen)


def flops(model: nn.Module, image_shape: Sequence[int]) -> int:
    """Floating-point operations of one image through the network, a multiplication and an addition counted as two.

    Counts convolutions and fully connected layers, in a real run on one blank image; an image shape that the network
    cannot take is a UsageError.
    """
    total = 0

    def count(layer: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal total
        weight = layer.weight
        assert isinstance(weight, Tensor)
        total += 2 * output[0].numel() * (weight.numel() // weight.shape[0])

    kinds = (Convolution, FullyConnected, nn.Conv2d, nn.Linear)
    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, kinds)]
    training = model.training
    try:
        model.eval()
        with torch.no_grad():
            model(torch.zeros(1, *image_shape))
    except RuntimeError as error:
        shape = ",".join(map(str, image_shape))
        raise UsageError(f"`image_shape` {shape}: the network cannot take it ({str(error).splitlines()[0]})") from error
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return total


def short(number: float) -> str:
    """1234567 -> '1.23 M', 12 -> '12'"""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"
