"""The shape of the images that a network takes, as far as its layers determine it: for checkpoints without
meta data.

The first convolution determines the channels; height and width are those for which the network's layers fit
together. Whether a shape fits is tried on the meta device, which computes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from imgcls.layers import Convolution, FullyConnected

Shape = tuple[int, int, int]

#: sides that networks were published with, the usual ones first
_USUAL_SIDES = (224, 28, 32, 299, 227, 256, 64, 96, 128, 160, 192, 240, 260, 300, 331)
#: then all sides up to this, multiples of the usual strides first
_MAX_SIDE = 512


def find_input_shape(model: nn.Module, preferred: Sequence[int]) -> tuple[int, ...]:
    """Return (C, H, W) that the network takes: `preferred` where it fits, else the first shape that does.

    `preferred` is also returned where no shape fits: the caller then gets the error of using it.
    """
    layer = _first_layer(model)
    if layer is None:
        return tuple(preferred)
    if isinstance(layer, (FullyConnected, nn.Linear)):
        return _image_of(layer.weight.shape[1], preferred)  # type: ignore[union-attr, index, operator]
    groups = int(getattr(layer, "num_group", 0) or getattr(layer, "groups", 1))
    num_channels = int(layer.weight.shape[1]) * groups  # type: ignore[union-attr, index, operator]
    parameters = {name: torch.empty_like(value, device="meta")
                  for name, value in (*model.named_parameters(), *model.named_buffers())}
    for shape in _candidates(num_channels, preferred):
        if _fits(model, parameters, shape):
            return shape
    return tuple(preferred)


def _candidates(num_channels: int, preferred: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield the shapes to be tried: as near to `preferred` as the channels allow, then the usual sides, then
    all."""
    if len(preferred) == 3:
        sides = (28,) if num_channels == 1 != preferred[0] else ()
        yield from ((num_channels, side, side) for side in sides)
        yield (num_channels, *preferred[1:])
    sides = (*_USUAL_SIDES, *range(32, _MAX_SIDE + 1, 32), *range(8, _MAX_SIDE + 1))
    yield from ((num_channels, side, side) for side in dict.fromkeys(sides))


def _first_layer(model: nn.Module) -> nn.Module | None:
    """Return the first layer with a weight for each input value or channel, in the order of the modules."""
    kinds = (Convolution, nn.Conv2d, FullyConnected, nn.Linear)
    return next((module for module in model.modules() if isinstance(module, kinds)), None)


def _image_of(num_values: int, preferred: Sequence[int]) -> tuple[int, ...]:
    """Return (C, H, W) of a square image of this many values, C 1, 3 or 4; `preferred` if its size is right.
    """
    if math.prod(preferred) == num_values:
        return tuple(preferred)
    for num_channels in (1, 3, 4):
        side = math.isqrt(num_values // num_channels)
        if num_channels * side * side == num_values:
            return num_channels, side, side
    return tuple(preferred)


def _fits(model: nn.Module, parameters: dict[str, torch.Tensor], shape: Sequence[int]) -> bool:
    """Return whether the network takes images of this shape, without computing anything."""
    # two images: an axis of 1 would broadcast against any
    images = torch.empty((2, *shape), device="meta")
    try:
        with torch.no_grad():
            torch.func.functional_call(model, parameters, (images,))
    except (RuntimeError, ValueError, ArithmeticError, LookupError, TypeError):
        return False  # what torch and our layers raise for sizes that do not fit
    return True
