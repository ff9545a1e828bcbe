"""Mean and standard deviation of each channel over all images, and the mean image; exact with any threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from imgcls.data.conversion.readers import Sample, SampleReader
from imgcls.data.image_header import MAX_PIXELS, BadImageError
from imgcls.data.packing.images import decode, quiet_opencv, short_edge_size
from imgcls.data.packing.pipeline import map_in_order
from imgcls.errors import DataError, RunError

#: images that each thread decodes ahead at most: their pixels wait in memory until they are added up
_MAX_WAITING = 64


class MeanResult(NamedTuple):
    """Means and deviations are of 0-255, channels R, G, B."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    #: float32 (3, H, W), None where images have no common size
    image: np.ndarray | None
    num_images: int
    skipped: list[DataError]


def compute_mean(readers: Sequence[SampleReader], shape: tuple[int, int] | None, resize: int,
                 num_threads: int, *, progress: Callable[[int], object] = lambda count: None) -> MeanResult:
    """Return the means over all images of the readers.

    With `resize` the short edge is scaled to it, with `shape` (height, width) the centre of that size is cut
    out, and smaller images are scaled up to it first. Sums are whole numbers: no order of adding changes
    them. RunError where no image can be decoded.
    """
    def sums(sample: Sample) -> tuple[Sample, np.ndarray | str]:
        return sample, fitted_pixels(sample.image, shape, resize)

    total = np.zeros(3, np.int64)
    squares = np.zeros(3, np.int64)
    num_pixels = num_images = 0
    image_sum = np.zeros((*shape, 3), np.int64) if shape else None
    skipped = []
    with quiet_opencv(), map_in_order(sums, chain.from_iterable(readers), num_threads,
                                      lambda pair: len(pair[1]), _MAX_WAITING) as pairs:
        for count, (sample, image) in enumerate(pairs, 1):
            progress(count)
            if isinstance(image, str):
                skipped.append(DataError(sample.name, image))
                continue
            num_images += 1
            num_pixels += image.shape[0] * image.shape[1]
            # counts of the 256 values: a tenth of the time of adding up pixels as 64-bit numbers
            histogram = [np.bincount(image[..., channel].ravel(), minlength=256) for channel in (2, 1, 0)]
            values = np.arange(256)
            total += [int((values * counts).sum()) for counts in histogram]
            squares += [int((values * values * counts).sum()) for counts in histogram]
            if image_sum is not None:
                image_sum += image
    if not num_images:
        raise RunError("not one image could be decoded")
    # from whole numbers, so the same whatever order the images came in
    mean = total / num_pixels
    variance = squares / num_pixels - mean * mean
    mean_image = None
    if image_sum is not None:
        mean_image = (image_sum[..., ::-1] / num_images).transpose(2, 0, 1).astype(np.float32)
    return MeanResult(tuple(mean.tolist()), tuple(np.sqrt(np.maximum(variance, 0)).tolist()), mean_image,
                      num_images, skipped)


def fitted_pixels(data: bytes, shape: tuple[int, int] | None, resize: int) -> np.ndarray | str:
    """Return an image's pixels, (H, W, 3) in OpenCV's order, as `compute_mean` takes them, or why not."""
    image = decode(data, 1)
    if isinstance(image, str):
        return image
    try:
        return _fitted(image, shape, resize)
    except BadImageError as error:
        return str(error)


def _fitted(image: np.ndarray, shape: tuple[int, int] | None, resize: int) -> np.ndarray:
    """Return the image scaled and cut as `compute_mean` says; BadImageError where it would be too large."""
    height, width = image.shape[:2]
    if resize:
        width, height = short_edge_size(width, height, resize)
        image = _resized(image, width, height)
    if shape is None:
        return image
    scale = max(shape[0] / height, shape[1] / width)
    if scale > 1:
        width, height = max(shape[1], round(width * scale)), max(shape[0], round(height * scale))
        image = _resized(image, width, height)
    top, left = (height - shape[0]) // 2, (width - shape[1]) // 2
    return image[top:top + shape[0], left:left + shape[1]]


def _resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    from imgcls.data.opencv import cv2

    # a strip one pixel wide would take gigabytes
    if width * height > MAX_PIXELS:
        raise BadImageError(f"would become {width} x {height} pixels when resized")
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
