"""Digits drawn by the toolkit itself: 6,000 + 1,000, 28 x 28 grey, in a fifth of a second, without any file.

For a first run, for tests, and where there is no network. Each digit is written in one of several ways
(`_strokes.py`), bent, slanted, turned, scaled and moved at random, with a pen of random width, softness and
darkness, on a noisy sheet. A convolutional network reads them clearly better than a perceptron: with the
defaults below lenet gets about 99.3 %, mlp 96 %.

The same seed gives the same bytes on every machine. Hence the old random generator, whose stream numpy has
frozen, and plain arithmetic, element by element: sums, matrix products, exp and sin differ in the last bit
between processors, and drawing differs between versions of OpenCV.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from imgcls.config.sections import DataConfig
from imgcls.data.sources import ArraySource, Splits
from imgcls.datasets import _folders
from imgcls.datasets._strokes import CURVE, SHAPES, Stroke

#: as for MNIST, in whose place these digits are used, but with lenet: its training takes seconds here
DEFAULTS: dict[str, object] = {
    "network": "lenet", "num_classes": 10, "image_shape": (1, 28, 28),
    "batch_size": 64, "num_epochs": 5, "disp_batches": 20,
    "lr": 0.05, "lr_factor": 0.1, "lr_step_epochs": "4",
    "rgb_mean": (0.0,), "rgb_std": (255.0,),
}

#: none: nothing is read, and nothing can be missing
FILES = ""

#: none of the settings about files, likewise
SETTINGS = ()

#: number of samples of an epoch under `benchmark`
NUM_EXAMPLES = 6000

_SIZE = 28
#: digits drawn at a time, so that the work stays in the processor's cache; another number draws other digits
_CHUNK = 256

#: (lowest, highest) per digit -> float32 (digits,)
Draw = Callable[[float, float], np.ndarray]


def load(config: DataConfig) -> Splits:
    """Return images uint8 (N, 1, 28, 28), labels int64; the same ones whatever the seed of the run."""
    _folders.refuse_files(config, "data_train", "data_val")
    names = [str(digit) for digit in range(10)]
    return Splits(ArraySource(*draw(6000, seed=1), names, "digits (train)"),
                  ArraySource(*draw(1000, seed=2), names, "digits (test)"))


def draw(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `count` digits, as many of each, in random order: uint8 (count, 1, 28, 28), labels int64."""
    random = np.random.RandomState(seed)
    labels = np.argsort(random.random_sample(count), kind="stable") % 10
    ways = random.random_sample(count)
    images = np.empty((count, _SIZE * _SIZE), np.uint8)
    for digit, shapes in SHAPES.items():
        way = np.where(labels == digit, (ways * len(shapes)).astype(np.int64), -1)
        for number, strokes in enumerate(shapes):
            members = np.flatnonzero(way == number)
            for start in range(0, len(members), _CHUNK):
                some = members[start:start + _CHUNK]
                images[some] = _draw_alike(strokes, len(some), random).T
    return images.reshape(count, 1, _SIZE, _SIZE), labels.astype(np.int64)


def _draw_alike(strokes: Sequence[Stroke], count: int, random: np.random.RandomState) -> np.ndarray:
    """Return `count` digits that are all written in the same way: uint8 (pixels, count)."""

    def between(lowest: float, highest: float) -> np.ndarray:
        return (lowest + (highest - lowest) * random.random_sample(count)).astype(np.float32)

    paths = _bend(strokes, between)
    # The order of the draws is part of the data set: another one gives other digits.
    radius = between(0.7, 1.9)
    softness = between(1.0, 2.2)
    pixels = np.sqrt(_squared_distance(paths, count))
    # 1 on the stroke, 0 beside it, a ramp of `softness` pixels between
    pixels = np.clip((radius + softness / 2 - pixels) / softness, 0, 1)
    pixels *= between(140, 255)  # how dark the pen is
    # the noise of the sheet, from raw bytes: cheaper than as many drawn floats
    noise = np.frombuffer(random.bytes(pixels.size), np.uint8).reshape(pixels.shape)
    strength = between(0, 0.35)
    pixels += noise * strength - strength * 64
    return np.clip(pixels, 0, 255).astype(np.uint8).reshape(-1, count)


def _bend(strokes: Sequence[Stroke], between: Draw) -> list[list[np.ndarray]]:
    """Return the strokes of each digit in pixels; a path is a list of points float32 (2, digits), x and y."""
    height = between(1.3, 2.1)
    width = height * between(0.65, 1.15)
    slant, turn = between(-0.35, 0.35), between(-0.2, 0.2)
    bow_x, bow_y = between(-0.025, 0.025), between(-0.04, 0.04)
    left, top = between(10.0, 17.0), between(10.7, 16.3)
    paths = []
    for kind, points in strokes:
        path = []
        for x0, y0 in points:
            # Every point is moved a little; then the whole digit is bent, slanted, scaled, turned and moved.
            x, y = x0 - 3 + between(-0.4, 0.4), y0 - 5 + between(-0.4, 0.4)
            x, y = x + bow_x * y * y, y + bow_y * x * x
            x, y = (x - slant * y) * width, y * height
            path.append(np.stack([x - turn * y + left, y + turn * x + top]))
        paths.append(_smooth(path) if kind == CURVE else path)
    return paths


def _smooth(points: list[np.ndarray]) -> list[np.ndarray]:
    """Return the points with the middle of a Catmull-Rom spline between each two."""
    # Halfway between two points the spline is (9 (p1 + p2) - (p0 + p3)) / 16; float32 has sixteenths.
    around = [points[0], *points, points[-1]]
    path = [points[0]]
    for before, start, end, after in zip(around, around[1:], around[2:], around[3:], strict=False):
        path += [(start + end) * np.float32(9 / 16) - (before + after) * np.float32(1 / 16), end]
    return path


def _squared_distance(paths: list[list[np.ndarray]], count: int) -> np.ndarray:
    """Return the squared distance of every pixel to the nearest stroke: float32 (rows, columns, count).

    The digits stand in the last axis, so that all operations run over long rows of memory.
    """
    grid = np.arange(_SIZE, dtype=np.float32)[:, None]
    nearest = np.full((_SIZE, _SIZE, count), np.inf, np.float32)
    # scratch memory for all segments: allocating it anew takes longer than the arithmetic
    along, across, inside = (np.empty_like(nearest) for _ in range(3))
    for path in paths:
        for start, end in itertools.pairwise(path):
            dx, dy = end - start
            # two points of a stroke may be moved to the same place: never a division by 0
            length = np.sqrt(dx * dx + dy * dy) + np.float32(1e-3)
            dx, dy = dx / length, dy / length
            x, y = grid - start[0], grid - start[1]
            # The pixel in the coordinates of the segment: what lies beyond its ends, and beside it.
            np.add(x * dx, (y * dy)[:, None], out=along)
            np.subtract(x * dy, (y * dx)[:, None], out=across)
            along -= np.clip(along, 0, length, out=inside)
            along *= along
            across *= across
            across += along
            np.minimum(nearest, across, out=nearest)
    return nearest
