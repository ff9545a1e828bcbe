"""How the colour of each image is changed: drawn here, applied by `pixels.recolor`.

Ranges and distributions are those of MXNet's ImageRecordIter (image_aug_default.cc, 1.9.1): jitter of
brightness, contrast and saturation in random order, shifts of hue, saturation and lightness, and the lighting
noise of AlexNet. Called by `crops.CropSampler`; touches no pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from imgcls.config.sections import AugmentConfig
from imgcls.data import order
from imgcls.data.order import Draws

#: the jitter of colour in each order it can come in: 0 brightness, 1 contrast, 2 saturation
_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
#: directions and sizes of the lighting noise, rows R, G, B (Krizhevsky 2012, as MXNet has them)
_LIGHT_DIRECTIONS = np.array([[-0.5675, 0.7192, 0.4009],
                              [-0.5808, -0.0045, -0.8140],
                              [-0.5836, -0.6948, 0.4203]])
_LIGHT_SIZES = (55.46, 4.794, 1.148)


class Color(NamedTuple):
    """The change of colour of one image."""

    #: in which order the factors are applied: 0 brightness, 1 contrast, 2 saturation; empty for none
    order: tuple[int, ...]
    #: of brightness, contrast and saturation, around 1
    factors: tuple[float, float, float]
    #: whole numbers added to hue, lightness and saturation (8-bit HLS)
    hls: tuple[int, int, int]
    #: numbers added to red, green and blue
    light: tuple[float, float, float]


class ColorSampler:
    """Draws a `Color` for each sample, where any change of colour is requested."""

    def __init__(self, config: AugmentConfig) -> None:
        self._config = config
        self._has_jitter = (config.brightness, config.contrast, config.saturation) != (0, 0, 0)
        has_shifts = (config.max_random_h, config.max_random_l, config.max_random_s) != (0, 0, 0)
        #: whether the colour of any image is changed
        self.is_active = self._has_jitter or has_shifts or config.pca_noise > 0

    def sample(self, draws: Draws) -> Sequence[Color | None]:
        """Return the change of colour of each sample, None where there is none."""
        count = len(draws.indices)
        if not self.is_active:
            return [None] * count
        # All fourteen numbers even where an effect is off: no effect changes what is drawn for the others.
        values = draws.uniform(order.COLOR, 14)
        orders = np.floor(values[0] * len(_ORDERS)).astype(int).tolist()
        rows = zip(orders, self._factors(values[1:4]), self._shifts(values[4:10]), self._light(values[10:]),
                   strict=True)
        return [Color(_ORDERS[number] if self._has_jitter else (), (f0, f1, f2), (hue, lightness, saturation),
                      (red, green, blue))
                for number, (f0, f1, f2), (hue, lightness, saturation), (red, green, blue) in rows]

    def _factors(self, values: np.ndarray) -> list[list[float]]:
        """Return (n, 3) factors of brightness, contrast and saturation from uniform (3, n)."""
        config = self._config
        ranges = (config.brightness, config.contrast, config.saturation)
        factors = [1 + (2 * value - 1) * most for value, most in zip(values, ranges, strict=True)]
        return np.stack(factors, axis=1).tolist()

    def _shifts(self, values: np.ndarray) -> list[list[int]]:
        """Return (n, 3) shifts of hue, lightness and saturation from uniform (6, n)."""
        config = self._config
        shifts = []
        for first, most in ((0, config.max_random_h), (2, config.max_random_l), (4, config.max_random_s)):
            # MXNet mixes two uniform numbers 1 : 4 and cuts the fraction off (image_aug_default.cc)
            mixed = (values[first] + 4 * values[first + 1]) / 5
            shifts.append(np.trunc(mixed * 2 * most - most).astype(int))
        return np.stack(shifts, 1).tolist()

    def _light(self, values: np.ndarray) -> list[list[float]]:
        """Return (n, 3) numbers to add to red, green and blue from uniform (4, n)."""
        strength = self._config.pca_noise
        if not strength:
            return np.zeros((values.shape[1], 3)).tolist()
        first, second, third, _ = _normals(*values)
        # No matrix product: its last bit depends on how many samples there are.
        return (strength * np.sum([
            np.outer(normal, size * direction) for normal, size, direction in zip(
                (first, second, third), _LIGHT_SIZES, _LIGHT_DIRECTIONS.T, strict=True)], axis=0)).tolist()


def _normals(*uniform: np.ndarray) -> list[np.ndarray]:
    """Return standard normal numbers from as many uniform ones (Box and Muller 1958)."""
    pairs = zip(uniform[::2], uniform[1::2], strict=True)
    # 1 - u is in (0, 1]: the logarithm of 0 is never taken
    return [np.sqrt(-2 * np.log(1 - u)) * turn(2 * np.pi * v) for u, v in pairs for turn in (np.cos, np.sin)]
