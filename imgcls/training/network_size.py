"""Count what a network has: parameters, floating-point operations, classes.

For the summary of a run, for the threads that a step is worth, and for networks that were trained before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from imgcls.config.flags import show
from imgcls.config.resolve import Config
from imgcls.errors import UsageError, first_line, verbatim
from imgcls.layers import Convolution, FullyConnected
from imgcls.storage import memory
from imgcls.storage.tracebacks import is_out_of_memory


def count_parameters(model: nn.Module, *, frozen: bool = False) -> int:
    """Return how many numbers are learned; with `frozen`, those too that `freeze` leaves as they are."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or frozen)


class Cost(NamedTuple):
    """What one image costs in the convolutions and fully connected layers of a network."""

    #: floating-point operations, a multiplication and an addition counted as two
    flops: int
    #: numbers in the outputs of these layers, which a training step keeps for the backward pass
    values: int
    #: the most numbers in the output of one layer
    largest: int = 0


def measure(model: nn.Module, image_shape: Sequence[int]) -> Cost:
    """Return what one image costs, measured in a real run on a blank one.

    UsageError for an image shape that the network cannot take.
    """
    # everything else is a few per cent of it, and every tool counts it differently
    total = values = largest = 0

    def count(layer: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal total, values, largest
        values += output[0].numel()
        largest = max(largest, output[0].numel())
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
    return Cost(total, values, largest)


def require_memory(cost: Cost, num_images: int, config: Config, device: torch.device) -> None:
    """Raise UsageError where a step of `num_images` on the CPU cannot have the least memory that it needs."""
    # On a GPU torch says so itself; here the system would kill the process. Two bytes a number: the least,
    # in a lower precision.
    num_bytes = 2 * cost.values * num_images / config.distributed.micro_batches
    if device.type == "cpu":
        sizes = (f"`batch_size` {config.data.batch_size}, `network` {verbatim(config.network.network)}, "
                 f"`image_shape` {show(config.network.image_shape)}")
        memory.require(memory.process_share(num_bytes), f"{sizes}: a step")


def count_classes(model: nn.Module, image_shape: Sequence[int]) -> int:
    """Return how many logits the network gives; UsageError for an image shape that it cannot take."""
    # Tried and not read off the last layer, which in a foreign network may be anything.
    return int(_try_blank_image(model, image_shape).shape[1])


def short(number: float) -> str:
    """Return a number for people: 1234567 -> '1.23 M', 12 -> '12'."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:  # three digits make a million of 999,700
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"


def _try_blank_image(model: nn.Module, image_shape: Sequence[int]) -> Tensor:
    """Return the logits (1, classes) of a blank image on the model's device; the model keeps its mode."""
    was_training = model.training
    shape = show(image_shape)
    # A shape of 3,99999,99999 would be 120 GB of zeros before any layer could refuse it.
    memory.require(4 * math.prod(image_shape), f"`image_shape` {shape}: an image of that size")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        # evaluation mode: a blank image must not move the running statistics
        model.eval()
        with torch.no_grad():
            return model(torch.zeros(1, *image_shape, device=device))
    # torch's, those of layers of ours, and those of torchvision and timm
    except (RuntimeError, ValueError, AssertionError, LookupError, ArithmeticError) as error:
        if is_out_of_memory(error):
            raise
        # what torch says first has the sizes in it
        raise UsageError(f"`image_shape` {shape}: the network cannot take it "
                         f"({first_line(error)})") from error
    finally:
        model.train(was_training)
