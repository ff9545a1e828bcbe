"""Count what a network has: parameters, floating-point operations, classes.

For the summary of a run, for the threads that a step is worth, and for networks that were trained before.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from imgcls.errors import UsageError, first_line
from imgcls.layers import Convolution, FullyConnected


def count_parameters(model: nn.Module, *, frozen: bool = False) -> int:
    """Return how many numbers are learned; with `frozen`, those too that `freeze` leaves as they are."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or frozen)


def count_flops(model: nn.Module, image_shape: Sequence[int]) -> int:
    """Return the floating-point operations of one image, a multiplication and an addition counted as two.

    Counts convolutions and fully connected layers, in a real run on one blank image. UsageError for an image
    shape that the network cannot take.
    """
    # everything else is a few per cent of it, and nobody counts it the same way
    total = 0

    def count(layer: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal total
        weight = layer.weight
        assert isinstance(weight, Tensor)
        # every output value costs one multiply-add for each weight of its channel
        total += 2 * output[0].numel() * (weight.numel() // weight.shape[0])

    counted = (Convolution, FullyConnected, nn.Conv2d, nn.Linear)
    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, counted)]
    try:
        _try_blank_image(model, image_shape)
    finally:
        for hook in hooks:
            hook.remove()
    return total


def count_classes(model: nn.Module, image_shape: Sequence[int]) -> int:
    """Return how many logits the network gives; UsageError for an image shape that it cannot take."""
    return int(_try_blank_image(model, image_shape).shape[1])


def short(number: float) -> str:
    """Return a number for people: 1234567 -> '1.23 M', 12 -> '12'."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"


def _try_blank_image(model: nn.Module, image_shape: Sequence[int]) -> Tensor:
    """Return the logits (1, classes) of a blank image on the model's device; the model keeps its mode."""
    was_training = model.training
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        # evaluation mode: a blank image must not move the running statistics
        model.eval()
        with torch.no_grad():
            return model(torch.zeros(1, *image_shape, device=device))
    except RuntimeError as error:
        shape = ",".join(map(str, image_shape))
        # what torch says first has the sizes in it
        raise UsageError(f"`image_shape` {shape}: the network cannot take it "
                         f"({first_line(error)})") from error
    finally:
        model.train(was_training)
