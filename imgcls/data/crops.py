"""What is done to each image before it is known what is in it: a pure function of (seed, epoch, sample) and its size.

The streaming loader asks a `CropSampler` for the `CropSpec` of each sample and `decode.py` carries it out; knowing the plan, it
decodes no more than is needed. The steps, their order and their distributions are those of MXNet's ImageRecordIter
(image_aug_default.cc, 1.9.1): resize, warp (rotation, shear, scale, aspect), border, crop, colour, mirror. Where only
border, crop and mirror are asked for, the resident loader (`augment.plan`) draws the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from imgcls.config.sections import AugmentConfig
from imgcls.data import order
from imgcls.errors import UsageError

# which draw of a sample decides what; never reorder, or old runs cannot be repeated
ROW, COLUMN, MIRROR = 0, 1, 2
# those that give several numbers a sample
_WARP, _CROP_SIZE, _METHOD, _COLOR, _AREA = range(3, 8)
_TRIES = 10

#: MXNet's numbers, which are OpenCV's from 0 to 4; antialiased bilinear is ours
METHODS = {"nearest": 0, "bilinear": 1, "cubic": 2, "area": 3, "lanczos": 4, "auto": 9, "random": 10, "antialias": 11}
#: the jitter of colour in each order it can come in: 0 brightness, 1 contrast, 2 saturation
_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
#: directions and sizes of the lighting noise, rows R, G, B (Krizhevsky 2012, as MXNet has them)
_LIGHT_DIRECTIONS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
_LIGHT_SIZES = (55.46, 4.794, 1.148)

Size = tuple[int, int]


class Color(NamedTuple):
    """Change of colour of one image. Factors around 1 in `order` (0 brightness, 1 contrast, 2 saturation), whole
    numbers added to hue, lightness and saturation (8-bit HLS), numbers added to red, green and blue."""

    order: tuple[int, ...]
    factors: tuple[float, float, float]
    hls: tuple[int, int, int]
    light: tuple[float, float, float]


class CropSpec(NamedTuple):
    """What is done to one image, in this order; sizes are (height, width), what is None is left out."""

    #: the whole image is resized to this
    resize: Size | None
    #: float32 (2, 3), source to canvas, and the canvas' size
    warp: tuple[np.ndarray, Size] | None
    #: after the border: the image is too small for the crop and is enlarged to this
    enlarge: Size | None
    #: the window that is cut, and resized where it is not of the crop's size
    top: int
    left: int
    height: int
    width: int
    mirror: bool
    #: interpolation, one of METHODS but not "random"
    method: int
    color: Color | None


class _Draw:
    """Draw number `number` of some samples in an epoch: float64 in [0, 1), (n,), or (count, n) for several of each."""

    def __init__(self, seed: int, epoch: int, samples: np.ndarray) -> None:
        self.seed, self.epoch, self.samples = seed, epoch, samples

    def __call__(self, number: int, count: int = 1) -> np.ndarray:
        if count == 1:
            return order.uniform(self.seed, self.epoch, self.samples, number)
        # one call for all: what a call costs does not depend on how many numbers it gives
        several = self.samples * count + np.arange(count)[:, None]
        return order.uniform(self.seed, self.epoch, several, number)


class CropSampler:
    """Plans for images of any size that become `crop` (H, W), for training or (resize and centre crop) validation."""

    def __init__(self, config: AugmentConfig, crop: Size, channels: int, *, seed: int, train: bool) -> None:
        """A combination of settings that cannot be is a UsageError."""
        if not train:
            config = AugmentConfig(resize=config.val_resize or 0, interpolation=config.interpolation)
        _check(config, channels)
        self.config, self.crop, self.seed = config, crop, seed
        self.pad = config.pad_size
        self._aspects = aspects(config)
        self._resized_crop = config.random_resized_crop and (
            (config.min_random_area, config.max_random_area) != (1, 1) or self._aspects != (1, 1))
        self.warps = bool(config.max_random_rotate_angle or config.max_random_shear_ratio) or (
            (config.min_random_scale, config.max_random_scale) != (1, 1)) or (
            not config.random_resized_crop and self._aspects != (1, 1))
        self.jitters = (config.brightness, config.contrast, config.saturation) != (0, 0, 0)
        self.shifts = (config.max_random_h, config.max_random_l, config.max_random_s) != (0, 0, 0)
        self._colors = self.jitters or self.shifts or config.pca_noise > 0
        #: only border, crop and mirror: what `plan` and `cut` do as well
        self.simple = not (config.resize or self._resized_crop or self.warps or self._colors
                           or config.max_crop_size != -1)

    def plans(self, epoch: int, samples: np.ndarray, sizes: np.ndarray) -> list[CropSpec]:
        """The plans of `samples` (n,), whose images have `sizes` int64 (n, 2): height and width, above 0."""
        draw = _Draw(self.seed, epoch, samples)
        count = len(samples)
        resized = short_edge_sizes(sizes, self.config.resize) if self.config.resize else sizes
        warps, canvases = self._warps(draw, resized) if self.warps else ([None] * count, resized)
        padded = canvases + 2 * self.pad
        enlarged, windows = self._windows(draw, padded)
        mirror = draw(MIRROR) < 0.5 if self.config.random_mirror else np.zeros(count, bool)
        return [CropSpec(*row) for row in zip(
            _unless_same(resized, sizes), warps, _unless_same(enlarged, padded), *windows.T.tolist(), mirror.tolist(),
            self._methods(draw, count), self._color(draw, count), strict=True)]

    def _warps(self, draw: _Draw, sizes: np.ndarray,
               ) -> tuple[list[tuple[np.ndarray, Size] | None], np.ndarray]:
        """The matrix and canvas of each image (MXNet's: the canvas follows the scale alone), and the canvases."""
        config = self.config
        shear, angle, scale, ratio = draw(_WARP, 4)
        shear = (2 * shear - 1) * config.max_random_shear_ratio
        reach = config.max_random_rotate_angle
        angle = np.deg2rad(np.floor(angle * (2 * reach + 1)) - reach)
        if config.random_resized_crop:
            scale = ratio = np.ones(len(sizes))
        else:
            scale = _between(scale, config.min_random_scale, config.max_random_scale)
            ratio = _between(ratio, *self._aspects)
        along = 2 * scale / (1 + ratio)
        across = ratio * along
        cos, sin = np.cos(angle), np.sin(angle)
        matrices = np.zeros((len(sizes), 2, 3), np.float32)
        matrices[:, 0, 0], matrices[:, 0, 1] = along * cos - shear * sin * across, along * sin + shear * cos * across
        matrices[:, 1, 0], matrices[:, 1, 1] = -sin * across, cos * across
        exact = scale[:, None] * sizes
        centre = matrices[:, :, 0] * sizes[:, 1, None] + matrices[:, :, 1] * sizes[:, 0, None]
        matrices[:, :, 2] = (exact[:, ::-1] - centre) / 2
        canvases = np.maximum(exact.astype(np.int64), 1)
        return [(matrix, (h, w)) for matrix, (h, w) in zip(matrices, canvases.tolist(), strict=True)], canvases

    def _windows(self, draw: _Draw, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64: sizes (n, 2) to which images too small are enlarged, windows (n, 4): top, left, height, width."""
        if self._resized_crop:
            windows = self._areas(draw, sizes)
            left_over = windows[:, 2] == 0
        else:
            windows, left_over = np.zeros((len(sizes), 4), np.int64), np.ones(len(sizes), bool)
        if not left_over.any():
            return sizes, windows
        enlarged = sizes.copy()
        if self.config.max_crop_size != -1:
            side = self.config.min_crop_size + np.floor(
                draw(_CROP_SIZE) * (self.config.max_crop_size - self.config.min_crop_size + 1)).astype(np.int64)
            shape = np.repeat(np.minimum(side, sizes.min(axis=1))[:, None], 2, axis=1)
        else:
            enlarged[left_over] = _enlarged(sizes[left_over], self.crop)
            shape = np.broadcast_to(np.array(self.crop), sizes.shape)
        free = enlarged - shape
        if self.config.random_crop:
            free = np.maximum(free, 0)
            place = np.floor(np.stack([draw(ROW), draw(COLUMN)], axis=1) * (free + 1)).astype(np.int64)
        else:
            place = free // 2
        windows[left_over] = np.concatenate([place, shape], axis=1)[left_over]
        return enlarged, windows

    def _areas(self, draw: _Draw, sizes: np.ndarray) -> np.ndarray:
        """Windows (n, 4) of random area and aspect, which is drawn evenly and turned over half of the time: the first
        of ten tries that fits. Where none does the height of the window is 0."""
        area, ratio, swap, row, column = draw(_AREA, 5 * _TRIES).reshape(5, _TRIES, -1)
        area = _between(area, self.config.min_random_area, self.config.max_random_area) * sizes.prod(axis=1)
        ratio = _between(ratio, *self._aspects)
        high, wide = (np.floor(np.sqrt(x) + 0.5) for x in (area / ratio, area * ratio))
        high, wide = np.where(swap > 0.5, wide, high), np.where(swap > 0.5, high, wide)
        rooms = sizes[:, 0] - high, sizes[:, 1] - wide
        fits = (rooms[0] >= 0) & (rooms[1] >= 0) & (high > 0) & (wide > 0)
        first = fits.argmax(axis=0), np.arange(len(sizes))
        windows = np.stack([np.floor(u * (room + 1))[first] for u, room in zip((row, column), rooms, strict=True)]
                           + [high[first], wide[first]], axis=1).astype(np.int64)
        windows[~fits[first]] = 0
        return windows

    def _methods(self, draw: _Draw, count: int) -> list[int]:
        method = METHODS[self.config.interpolation]
        return np.floor(draw(_METHOD) * 5).astype(int).tolist() if method == METHODS["random"] else [method] * count

    def _color(self, draw: _Draw, count: int) -> Sequence[Color | None]:
        if not self._colors:
            return [None] * count
        config = self.config
        values = draw(_COLOR, 14)
        orders = np.floor(values[0] * len(_ORDERS)).astype(int).tolist()
        factors = [1 + (2 * value - 1) * most for value, most in zip(
            values[1:4], (config.brightness, config.contrast, config.saturation), strict=True)]
        shifts = [np.trunc((values[i] + 4 * values[i + 1]) / 5 * 2 * most - most).astype(int) for i, most in (
            (4, config.max_random_h), (6, config.max_random_l), (8, config.max_random_s))]
        light = np.zeros((count, 3))
        if config.pca_noise:
            first, second, third, _ = _normals(*values[10:])
            # no matrix product: its last bit depends on how many samples there are
            light = config.pca_noise * np.sum([np.outer(normal, size * direction) for normal, size, direction in zip(
                (first, second, third), _LIGHT_SIZES, _LIGHT_DIRECTIONS.T, strict=True)], axis=0)
        rows = zip(orders, np.stack(factors, 1).tolist(), np.stack(shifts, 1).tolist(), light.tolist(), strict=True)
        return [Color(_ORDERS[number] if self.jitters else (), (f0, f1, f2), (hue, lightness, sat), (red, green, blue))
                for number, (f0, f1, f2), (hue, lightness, sat), (red, green, blue) in rows]


def short_edge_sizes(sizes: np.ndarray, short_edge: int) -> np.ndarray:
    """int64 (n, 2): heights and widths with the short edge made `short_edge`, the other in proportion, rounded down."""
    height, width = sizes[:, 0], sizes[:, 1]
    tall = height > width
    return np.stack([np.where(tall, short_edge * height // width, short_edge),
                     np.where(tall, short_edge, short_edge * width // height)], axis=1)


def _check(config: AugmentConfig, channels: int) -> None:
    """Refuse what MXNet's augmenter would die of, before anything is read."""
    if config.random_resized_crop:
        for name, wrong in (("`random_crop` 1", config.random_crop),
                            ("`max_random_scale` or `min_random_scale`",
                             (config.min_random_scale, config.max_random_scale) != (1, 1)),
                            ("`max_crop_size` or `min_crop_size`",
                             (config.min_crop_size, config.max_crop_size) != (-1, -1))):
            if wrong:
                raise UsageError(f"`random_resized_crop` 1 and {name} exclude each other: leave one out")
    for name, low, high, least in (("area", config.min_random_area, config.max_random_area, 0),
                                   ("scale", config.min_random_scale, config.max_random_scale, 0),
                                   ("aspect_ratio", *aspects(config), 0)):
        if not least < low <= high:
            raise UsageError(f"`min_random_{name}` {low:g} and `max_random_{name}` {high:g}: the first must be above 0 "
                             "and not above the second")
    if config.max_random_area > 1:
        raise UsageError(f"`max_random_area` {config.max_random_area:g}: must be at most 1, the whole image")
    sides = (config.min_crop_size, config.max_crop_size)
    if sides != (-1, -1) and not 0 < sides[0] <= sides[1]:
        raise UsageError(f"`min_crop_size` {sides[0]} and `max_crop_size` {sides[1]}: give both, above 0, the first "
                         "not above the second")
    if config.fill_value > 255:
        raise UsageError(f"`fill_value` {config.fill_value}: must be at most 255")
    colors = (config.saturation, config.max_random_h, config.max_random_s, config.max_random_l, config.pca_noise)
    if channels != 3 and any(colors):
        raise UsageError(f"`image_shape` has {channels} channel{'s' * (channels > 1)}: `saturation`, `max_random_h`, "
                         "`max_random_s`, `max_random_l` and `pca_noise` are for 3")


def aspects(config: AugmentConfig) -> tuple[float, float]:
    if config.min_random_aspect_ratio is None:
        return 1 - config.max_random_aspect_ratio, 1 + config.max_random_aspect_ratio
    return config.min_random_aspect_ratio, config.max_random_aspect_ratio


def _between(uniform: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + uniform * (high - low)


def _normals(*uniform: np.ndarray) -> list[np.ndarray]:
    """Standard normal numbers from as many uniform ones (Box and Muller)."""
    pairs = zip(uniform[::2], uniform[1::2], strict=True)
    return [np.sqrt(-2 * np.log(1 - u)) * turn(2 * np.pi * v) for u, v in pairs for turn in (np.cos, np.sin)]


def _enlarged(sizes: np.ndarray, crop: Size) -> np.ndarray:
    """(n, 2): sizes that hold the crop; first the height is brought up, then the width, in MXNet's float32."""
    if (sizes >= crop).all():
        return sizes
    height, width = sizes[:, 0].copy(), sizes[:, 1].copy()
    for one, other, least in ((height, width, crop[0]), (width, height, crop[1])):
        small = one < least
        factor = np.float32(least) / one[small].astype(np.float32)
        other[small] = (factor * other[small].astype(np.float32)).astype(np.int64)
        one[small] = least
    return np.stack([height, width], axis=1)


def _unless_same(sizes: np.ndarray, before: np.ndarray) -> list[Size | None]:
    """Sizes as pairs, None where nothing changes."""
    if sizes is before:
        return [None] * len(sizes)
    same = (sizes == before).all(axis=1).tolist()
    return [None if equal else (h, w) for equal, (h, w) in zip(same, sizes.tolist(), strict=True)]
