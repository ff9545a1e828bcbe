"""Where each image is cut and what else is done to it: a pure function of (seed, epoch, index) and its size.

Both loaders use a `CropSampler`: the resident one gets `Windows` of images that are all of one size, the
streaming one a `CropSpec` of each image before it is decoded, so that `decode.py` decodes no more than is
needed. The steps, their order and their distributions are those of MXNet's ImageRecordIter
(image_aug_default.cc, 1.9.1): resize, warp (rotation, shear, scale, aspect), border, crop, colour, mirror.
No pixel is touched here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from imgcls.config.sections import AugmentConfig
from imgcls.data import erasing, order
from imgcls.data.color import Color, ColorSampler
from imgcls.data.order import Draws
from imgcls.data.policies import Policy, PolicySampler, check_policy
from imgcls.errors import UsageError

#: MXNet's numbers, which are OpenCV's from 0 to 4; antialiased bilinear is ours
METHODS = {"nearest": 0, "bilinear": 1, "cubic": 2, "area": 3, "lanczos": 4, "auto": 9, "random": 10,
           "antialias": 11}
#: images up to this short edge are taken as they are: MXNet 1.3 shrank CIFAR for validation, and its accuracy
SMALL_EDGE = 64
#: the crop is this fraction of the short edge that an image is resized to: 224 of 256 is usual
CROP_FRACTION = 0.875
#: a random area is drawn at most so many times until one fits, as in MXNet; then the plain crop is taken
_MAX_TRIES = 10

#: (height, width) in pixels
Size = tuple[int, int]


class Windows(NamedTuple):
    """Where each of n images, with its border, is cut: int64 (n,); and which are mirrored: bool (n,)."""

    top: np.ndarray
    left: np.ndarray
    height: np.ndarray
    width: np.ndarray
    mirror: np.ndarray


class CropSpec(NamedTuple):
    """What is done to one image, in this order; sizes are (height, width), steps of None are left out."""

    #: the image is resized to this
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
    #: operations on the pixels of the crop
    policy: Policy | None = None


class CropSampler:
    """Draws crops for images of any size that become `crop` (H, W), for training or for validation.

    In validation an image is resized (`val_resize`) and cut in the centre, and nothing is drawn: the result
    does not depend on the image's place in the data, nor on the images beside it.
    """

    def __init__(self, config: AugmentConfig, crop: Size, num_channels: int, *, seed: int,
                 train: bool) -> None:
        """UsageError for settings that exclude each other or are out of range (`check_augmentation`)."""
        if not train:
            # everything else is at its default: no border, no draw, and so no random interpolation either
            method = "bilinear" if config.interpolation == "random" else config.interpolation
            config = AugmentConfig(resize=config.val_resize or 0, interpolation=method)
        check_augmentation(config, num_channels)
        self.config = config
        self.crop = crop
        self.seed = seed
        #: width of the border
        self.pad = config.pad_size
        self._aspects = aspect_range(config)
        # With everything at its default MXNet's random resized crop is a plain crop, and so is ours.
        self._has_areas = config.random_resized_crop and (
            (config.min_random_area, config.max_random_area) != (1, 1) or self._aspects != (1, 1))
        self._has_warps = bool(config.max_random_rotate_angle or config.max_random_shear_ratio) or (
            (config.min_random_scale, config.max_random_scale) != (1, 1)) or (
            not config.random_resized_crop and self._aspects != (1, 1))
        self._colors = ColorSampler(config)
        self._policies = PolicySampler(config, crop)
        #: whether border, crop and mirror are all that is done: then `windows` describes everything
        self.is_simple = not (config.resize or self._has_areas or self._has_warps or self._colors.is_active
                              or self._policies.is_active or config.max_crop_size != -1)

    def specs(self, epoch: int, indices: np.ndarray, sizes: np.ndarray) -> list[CropSpec]:
        """Return a spec for each of `indices` (n,), whose images have `sizes` int64 (n, 2), all above 0."""
        draws = Draws(self.seed, epoch, indices)
        count = len(indices)
        resized = short_edge_sizes(sizes, self.config.resize) if self.config.resize else sizes
        warps, canvases = self._warps(draws, resized) if self._has_warps else ([None] * count, resized)
        padded = canvases + 2 * self.pad
        enlarged, windows = self._windows(draws, padded)
        # Lists and not arrays: a field of a spec is read one by one, and numpy's numbers are slow at that.
        columns = (_unless_same(resized, sizes), warps, _unless_same(enlarged, padded),
                   *(column.tolist() for column in windows), self._methods(draws), self._colors.sample(draws),
                   self._policies.sample(draws))
        return [CropSpec(*row) for row in zip(*columns, strict=True)]

    def erased(self, epoch: int, indices: np.ndarray) -> np.ndarray | None:
        """Return the boxes int64 (n, 4) of the crops of `indices` that are erased; None where none is."""
        if not self.config.random_erase:
            return None
        return erasing.boxes(Draws(self.seed, epoch, indices), self.config.random_erase, self.crop)

    def windows(self, epoch: int, indices: np.ndarray, size: Size) -> Windows:
        """Return where to cut `indices` (n,), whose images are of one `size` and hold the crop.

        The same windows as `specs` gives, where the sampler `is_simple`.
        """
        draws = Draws(self.seed, epoch, indices)
        count = len(indices)
        # Drawn by the functions that draw for images of many sizes, so that both loaders cut alike.
        free = np.array([size]) + 2 * self.pad - self.crop
        top, left = np.broadcast_to(self._corners(draws, free), (count, 2)).T
        height, width = self.crop
        return Windows(top, left, np.full(count, height), np.full(count, width), self._mirror(draws))

    def _warps(self, draws: Draws,
               sizes: np.ndarray) -> tuple[list[tuple[np.ndarray, Size] | None], np.ndarray]:
        """Return the matrix and the canvas of each image, and all canvases int64 (n, 2).

        The canvas is MXNet's: it follows the scale alone, so that a rotation cuts the corners off.
        """
        config = self.config
        shear, angle, scale, ratio = draws.uniform(order.WARP, 4)
        shear = (2 * shear - 1) * config.max_random_shear_ratio
        most = config.max_random_rotate_angle
        angle = np.deg2rad(np.floor(angle * (2 * most + 1)) - most)  # whole degrees, both ends included
        if config.random_resized_crop:
            scale = ratio = np.ones(len(sizes))  # the crop itself varies in size and aspect
        else:
            scale = _between(scale, config.min_random_scale, config.max_random_scale)
            ratio = _between(ratio, *self._aspects)
        # the sides are scaled so that their mean is `scale` and their quotient `ratio`
        along = 2 * scale / (1 + ratio)
        across = ratio * along
        cos, sin = np.cos(angle), np.sin(angle)
        matrices = np.zeros((len(sizes), 2, 3), np.float32)
        matrices[:, 0, 0] = along * cos - shear * sin * across
        matrices[:, 0, 1] = along * sin + shear * cos * across
        matrices[:, 1, 0] = -sin * across
        matrices[:, 1, 1] = cos * across
        # the translation that puts the centre of the image on the centre of the canvas
        exact = scale[:, None] * sizes
        centre = matrices[:, :, 0] * sizes[:, 1, None] + matrices[:, :, 1] * sizes[:, 0, None]
        matrices[:, :, 2] = (exact[:, ::-1] - centre) / 2
        canvases = np.maximum(exact.astype(np.int64), 1)
        pairs = zip(matrices, canvases.tolist(), strict=True)
        return [(matrix, (height, width)) for matrix, (height, width) in pairs], canvases

    def _windows(self, draws: Draws, sizes: np.ndarray) -> tuple[np.ndarray, Windows]:
        """Return the sizes (n, 2) to which images too small are enlarged, and where all are cut.

        `sizes` int64 (n, 2) are those with the border.
        """
        count = len(sizes)
        enlarged = sizes
        if self._has_areas:
            boxes = self._areas(draws, sizes)
            is_plain = boxes[:, 2] == 0  # no area fitted
        else:
            boxes = np.zeros((count, 4), np.int64)
            is_plain = np.ones(count, bool)
        if is_plain.any():
            enlarged, shape = self._crop_shapes(draws, sizes, is_plain)
            # for all rows, and then those that need it: draws are made for whole arrays
            plain = np.concatenate([self._corners(draws, enlarged - shape), shape], axis=1)
            boxes[is_plain] = plain[is_plain]
        top, left, height, width = boxes.T
        return enlarged, Windows(top, left, height, width, self._mirror(draws))

    def _crop_shapes(self, draws: Draws, sizes: np.ndarray,
                     is_plain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (n, 2) sizes of the images, enlarged where they have to be, and (n, 2) of what is cut."""
        config = self.config
        enlarged = sizes.copy()
        if config.max_crop_size != -1:
            num_sides = config.max_crop_size - config.min_crop_size + 1
            side = config.min_crop_size + draws.integers(order.CROP_SIZE, num_sides)
            # a square that the image does not hold is made smaller (MXNet aborts there)
            return enlarged, np.repeat(np.minimum(side, sizes.min(axis=1))[:, None], 2, axis=1)
        enlarged[is_plain] = _enlarged_to_hold(sizes[is_plain], self.crop)
        return enlarged, np.broadcast_to(np.array(self.crop), sizes.shape)

    def _corners(self, draws: Draws, free: np.ndarray) -> np.ndarray:
        """Return (n, 2) top and left of windows that leave `free` (n, 2) rows and columns of their images."""
        if not self.config.random_crop:
            return free // 2
        free = np.maximum(free, 0)
        top = draws.integers(order.ROW, free[:, 0] + 1)
        left = draws.integers(order.COLUMN, free[:, 1] + 1)
        return np.stack([top, left], axis=1)

    def _mirror(self, draws: Draws) -> np.ndarray:
        """Return bool (n,): which images are mirrored."""
        if self.config.alternating_mirror:
            # drawn once for all epochs: of two successive epochs an image is mirrored in one (Jordan 2024)
            is_odd = draws.epoch % 2 == 1
            return (Draws(self.seed, 0, draws.indices).uniform(order.MIRROR) < 0.5) != is_odd
        if not self.config.random_mirror:
            return np.zeros(len(draws.indices), bool)
        return draws.uniform(order.MIRROR) < 0.5

    def _areas(self, draws: Draws, sizes: np.ndarray) -> np.ndarray:
        """Return boxes (n, 4) of random area and aspect: the first of ten tries that fits, or a height of 0.

        The aspect is drawn uniformly (torchvision: its logarithm is) and inverted half of the time.
        """
        # all tries of all images at once, (tries, n) each: no loop, whose length would differ by image
        area, ratio, swap, row, column = draws.uniform(order.AREA, 5 * _MAX_TRIES).reshape(5, _MAX_TRIES, -1)
        area = _between(area, self.config.min_random_area, self.config.max_random_area) * sizes.prod(axis=1)
        ratio = _between(ratio, *self._aspects)
        high = np.floor(np.sqrt(area / ratio) + 0.5)
        wide = np.floor(np.sqrt(area * ratio) + 0.5)
        height = np.where(swap > 0.5, wide, high)
        width = np.where(swap > 0.5, high, wide)
        free_rows = sizes[:, 0] - height
        free_columns = sizes[:, 1] - width
        fits = (free_rows >= 0) & (free_columns >= 0) & (height > 0) & (width > 0)
        first = fits.argmax(axis=0), np.arange(len(sizes))
        top = np.floor(row * (free_rows + 1))
        left = np.floor(column * (free_columns + 1))
        boxes = np.stack([side[first] for side in (top, left, height, width)], axis=1).astype(np.int64)
        boxes[~fits[first]] = 0
        return boxes

    def _methods(self, draws: Draws) -> list[int]:
        """Return the interpolation of each sample; a random one is any of OpenCV's five."""
        method = METHODS[self.config.interpolation]
        if method == METHODS["random"]:
            return draws.integers(order.METHOD, 5).tolist()
        return [method] * len(draws.indices)


def usual_val_resize(config: AugmentConfig, crop: Size, short_edge: int) -> int:
    """Return the `val_resize` of images of about this short edge, where it is not set; 0: no resize.

    As in training (`resize`), or else the usual proportion where the images are clearly larger than the crop.
    """
    is_large = short_edge > max(1.25 * max(crop), SMALL_EDGE)
    return config.resize or (round(max(crop) / CROP_FRACTION) if is_large else 0)


def short_edge_sizes(sizes: np.ndarray, short_edge: int) -> np.ndarray:
    """Return int64 (n, 2): `sizes` with the short edge made `short_edge`, the other in proportion."""
    height, width = sizes[:, 0], sizes[:, 1]
    is_tall = height > width
    # rounded down, as MXNet's integer division does
    return np.stack([np.where(is_tall, short_edge * height // width, short_edge),
                     np.where(is_tall, short_edge, short_edge * width // height)], axis=1)


def aspect_range(config: AugmentConfig) -> tuple[float, float]:
    """Return the least and the greatest aspect ratio; without a least, MXNet's 1 - max to 1 + max."""
    if config.min_random_aspect_ratio is None:
        return 1 - config.max_random_aspect_ratio, 1 + config.max_random_aspect_ratio
    return config.min_random_aspect_ratio, config.max_random_aspect_ratio


def check_augmentation(config: AugmentConfig, num_channels: int) -> None:
    """Raise UsageError for settings at which MXNet's augmenter would abort, before anything is read."""
    if config.random_resized_crop:
        _check_resized_crop(config)
    for name, low, high in (("area", config.min_random_area, config.max_random_area),
                            ("scale", config.min_random_scale, config.max_random_scale),
                            ("aspect_ratio", *aspect_range(config))):
        if not 0 < low <= high:
            raise UsageError(f"`min_random_{name}` {low:g} and `max_random_{name}` {high:g}: the first must "
                             "be above 0 and not above the second")
    if config.max_random_area > 1:
        raise UsageError(f"`max_random_area` {config.max_random_area:g}: must be at most 1, the whole image")
    check_policy(config, num_channels)
    sides = (config.min_crop_size, config.max_crop_size)
    if sides != (-1, -1) and not 0 < sides[0] <= sides[1]:
        raise UsageError(f"`min_crop_size` {sides[0]} and `max_crop_size` {sides[1]}: give both, above 0, "
                         "the first not above the second")
    if config.fill_value > 255:
        raise UsageError(f"`fill_value` {config.fill_value}: must be at most 255")
    # brightness and contrast mean something for any number of channels
    color_only = (config.saturation, config.max_random_h, config.max_random_s, config.max_random_l,
                  config.pca_noise)
    if num_channels != 3 and any(color_only):
        plural = "s" if num_channels > 1 else ""
        raise UsageError(f"`image_shape` has {num_channels} channel{plural}: `saturation`, `max_random_h`, "
                         "`max_random_s`, `max_random_l` and `pca_noise` are for 3")


def _check_resized_crop(config: AugmentConfig) -> None:
    """Raise UsageError for settings that would cut or scale a second time."""
    for name, is_set in (("`random_crop` 1", config.random_crop),
                         ("`max_random_scale` or `min_random_scale`",
                          (config.min_random_scale, config.max_random_scale) != (1, 1)),
                         ("`max_crop_size` or `min_crop_size`",
                          (config.min_crop_size, config.max_crop_size) != (-1, -1))):
        if is_set:
            raise UsageError(f"`random_resized_crop` 1 and {name} exclude each other: leave one out")


def _between(uniform: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + uniform * (high - low)


def _enlarged_to_hold(sizes: np.ndarray, crop: Size) -> np.ndarray:
    """Return (n, 2) sizes that hold the crop: the height is brought up, in proportion, then the width."""
    if (sizes >= crop).all():
        return sizes
    height, width = sizes[:, 0].copy(), sizes[:, 1].copy()
    for edge, other, least in ((height, width, crop[0]), (width, height, crop[1])):
        is_small = edge < least
        # in float32 and cut off, as MXNet computes it: another rounding is another size
        factor = np.float32(least) / edge[is_small].astype(np.float32)
        other[is_small] = (factor * other[is_small].astype(np.float32)).astype(np.int64)
        edge[is_small] = least
    return np.stack([height, width], axis=1)


def _unless_same(sizes: np.ndarray, before: np.ndarray) -> list[Size | None]:
    """Return sizes as pairs, None where nothing changes."""
    if sizes is before:
        return [None] * len(sizes)
    same = (sizes == before).all(axis=1).tolist()
    return [None if equal else (h, w) for equal, (h, w) in zip(same, sizes.tolist(), strict=True)]
