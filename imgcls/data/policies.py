"""RandAugment, TrivialAugment and AugMix: which operations are applied to each image, and how strongly.

Cubuk et al. 2020, Mueller and Hutter 2021 (TrivialAugment Wide) and Hendrycks et al. 2020, with the
operations, ranges and distributions of torchvision's `RandAugment`, `TrivialAugmentWide` and `AugMix`, drawn
for (seed, epoch, sample). Called by `crops.CropSampler`; `operations.apply` changes the pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from imgcls.config.sections import AugmentConfig
from imgcls.data import order
from imgcls.data.order import Draws
from imgcls.errors import UsageError

#: number of magnitudes of each operation: of RandAugment and TrivialAugment, and of AugMix (severities)
NUM_MAGNITUDES, NUM_SEVERITIES = 31, 10
#: chains of operations that AugMix adds up, and the most operations of one
_WIDTH, _DEPTH = 3, 3
#: logarithms are taken of no smaller number
_TINY = 1e-300

#: name and magnitude of an operation, as `operations.apply` takes them
Operation = tuple[str, float]


class Chain(NamedTuple):
    """Operations in their order, and the weight of what they give."""

    weight: float
    operations: tuple[Operation, ...]


class Policy(NamedTuple):
    """What is done to one image: the results of the chains are added up by their weights, and the image
    itself with the weight `original`."""

    original: float
    chains: tuple[Chain, ...]
    #: whether warps are interpolated, as AugMix's are; else they take the nearest pixel
    is_smooth: bool


class Range(NamedTuple):
    """The magnitudes of an operation from the weakest on; drawn with either sign where `is_signed`."""

    values: tuple[float, ...]
    is_signed: bool = False


class PolicySampler:
    """Draws a `Policy` for each sample, where any is requested."""

    def __init__(self, config: AugmentConfig, size: tuple[int, int]) -> None:
        """`size` is the (height, width) of the crops, to which the policies are applied."""
        self._config = config
        self._draw = _DRAWS.get(config.auto_augment)
        #: whether any image is changed
        self.is_active = self._draw is not None
        makers = {"ra": _randaugment_space, "ta_wide": _trivial_space, "augmix": _augmix_space}
        space = makers[config.auto_augment](*size) if self.is_active else {}
        # a list and not a dict: an operation is drawn by its number
        self._space = list(space.items())

    def sample(self, draws: Draws) -> Sequence[Policy | None]:
        """Return the policy of each sample, None where there is none."""
        if self._draw is None:
            return [None] * len(draws.indices)
        return self._draw(self._config, self._space, draws)


def check_policy(config: AugmentConfig, num_channels: int) -> None:
    """Raise UsageError where the operations are not for such images."""
    if config.auto_augment != "none" and num_channels not in (1, 3):
        raise UsageError(f"`auto_augment` {config.auto_augment}: is for images of 1 or 3 channels, "
                         f"`image_shape` has {num_channels}")


def describe_policy(config: AugmentConfig) -> str:
    """Return the policy in words, "" where there is none."""
    return {"none": "", "ta_wide": "TrivialAugment",
            "ra": f"RandAugment ({config.ra_num_ops} operations of magnitude {config.ra_magnitude})",
            "augmix": f"AugMix (severity {config.augmix_severity})"}[config.auto_augment]


def _randaugment(config: AugmentConfig, space: Sequence[tuple[str, Range]],
                 draws: Draws) -> list[Policy | None]:
    num_ops, magnitude = config.ra_num_ops, config.ra_magnitude
    # the same count of numbers for each operation, whichever is drawn: no draw shifts the ones after it
    numbers = draws.uniform(order.POLICY, 2 * num_ops).T.tolist()
    return [_single(tuple(_operation(space, which, magnitude, sign)
                          for which, sign in zip(row[::2], row[1::2], strict=True))) for row in numbers]


def _trivial(_config: AugmentConfig, space: Sequence[tuple[str, Range]],
             draws: Draws) -> list[Policy | None]:
    # operation, magnitude and sign
    numbers = draws.uniform(order.POLICY, 3).T.tolist()
    return [_single((_operation(space, which, int(strength * NUM_MAGNITUDES), sign),))
            for which, strength, sign in numbers]


def _augmix(config: AugmentConfig, space: Sequence[tuple[str, Range]], draws: Draws) -> list[Policy | None]:
    policies: list[Policy | None] = []
    for row in draws.uniform(order.POLICY, 1 + 2 * _WIDTH + 3 * _WIDTH * _DEPTH).T:
        # with torchvision's alpha of 1: Beta(1, 1) is even, and a Dirichlet is of exponential numbers
        original = float(row[0])
        weights = -np.log(np.maximum(1 - row[1:1 + _WIDTH], _TINY)) + _TINY
        # what the image itself does not take is divided among the chains
        weights *= (1 - original) / weights.sum()
        # 1 to 3 operations, equally likely, as mixture_depth -1 has it
        depths = 1 + (row[1 + _WIDTH:1 + 2 * _WIDTH] * _DEPTH).astype(int)
        steps = row[1 + 2 * _WIDTH:].reshape(_WIDTH, _DEPTH, 3).tolist()
        policies.append(Policy(original, tuple(
            Chain(weight, tuple(_operation(space, which, int(strength * config.augmix_severity), sign)
                                for which, strength, sign in chain[:depth]))
            for weight, depth, chain in zip(weights.tolist(), depths.tolist(), steps, strict=True)), True))
    return policies


_DRAWS: Mapping[str, Callable[[AugmentConfig, Sequence[tuple[str, Range]], Draws], list[Policy | None]]] = {
    "ra": _randaugment, "ta_wide": _trivial, "augmix": _augmix}


def _single(operations: tuple[Operation, ...]) -> Policy:
    return Policy(0.0, (Chain(1.0, operations),), is_smooth=False)


def _operation(space: Sequence[tuple[str, Range]], which: float, strength: int, sign: float) -> Operation:
    """Return an operation from two numbers in [0, 1) and the number of its magnitude."""
    name, magnitudes = space[int(which * len(space))]
    if not magnitudes.values:
        return name, 0.0
    value = magnitudes.values[strength]
    # a sign is drawn for operations without one, too: see `_randaugment`
    return name, -value if magnitudes.is_signed and sign < 0.5 else value


def _space(count: int, *, shear: float, across: float, down: float, rotate: float, color: float,
           bits: Sequence[int]) -> dict[str, Range]:
    """Return the operations but the identity, with `count` magnitudes each up to these."""
    def up_to(most: float) -> Range:
        return Range(tuple(np.linspace(0, most, count).tolist()), is_signed=True)

    return {"shear_x": up_to(shear), "shear_y": up_to(shear), "translate_x": up_to(across),
            "translate_y": up_to(down), "rotate": up_to(rotate),
            **dict.fromkeys(("brightness", "color", "contrast", "sharpness"), up_to(color)),
            "posterize": Range(tuple(map(float, bits))),
            # falling: the lower the threshold, the more pixels are inverted
            "solarize": Range(tuple(np.linspace(255, 0, count).tolist())),
            "autocontrast": Range(()), "equalize": Range(())}


def _bits(most: int, steps: int, count: int) -> list[int]:
    """Return how many bits each magnitude of posterize leaves, rounded as torchvision does it."""
    return np.round(most - np.arange(count, dtype=np.float32) / np.float32((count - 1) / steps)).astype(
        int).tolist()


def _randaugment_space(height: int, width: int) -> dict[str, Range]:
    # a translation of 150 pixels was for images of 331
    return {"identity": Range(())} | _space(
        NUM_MAGNITUDES, shear=0.3, across=150 / 331 * width, down=150 / 331 * height, rotate=30, color=0.9,
        bits=_bits(8, 4, NUM_MAGNITUDES))


def _trivial_space(_height: int, _width: int) -> dict[str, Range]:
    return {"identity": Range(())} | _space(
        NUM_MAGNITUDES, shear=0.99, across=32, down=32, rotate=135, color=0.99,
        bits=_bits(8, 6, NUM_MAGNITUDES))


def _augmix_space(height: int, width: int) -> dict[str, Range]:
    return _space(NUM_SEVERITIES, shear=0.3, across=width / 3, down=height / 3, rotate=30, color=0.9,
                  bits=_bits(4, 4, NUM_SEVERITIES))
