"""A sheet of training images: each as the network got it, beside the image it was made from.

The images come from the loader of the run, with its settings and its seed, so they are exact: what was cut,
turned and coloured in an epoch is a function of (seed, epoch, index).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imgcls.config.resolve import Config
from imgcls.data import opencv
from imgcls.data.crops import CropSampler, CropSpec
from imgcls.data.image_header import BadImageError
from imgcls.data.loaders.make import make_loader
from imgcls.data.loaders.resident import ResidentLoader
from imgcls.data.normalize import per_channel
from imgcls.data.order import EpochOrders
from imgcls.data.sources import ArraySource, Source
from imgcls.errors import DataError, UsageError
from imgcls.report import pictures
from imgcls.report.svg import escape


@dataclass(frozen=True)
class Sample:
    """One training image: uint8 (H, W, C) RGB or grey as the network got it, and what it was made from."""

    index: int
    label: str
    pixels: np.ndarray
    #: None where the original cannot be told
    raw: np.ndarray | None
    #: what was done to it, in words
    changes: Sequence[str]


def training_samples(source: Source, config: Config, count: int, epoch: int = 0) -> list[Sample]:
    """Return the first `count` training images of an epoch (from 0), as the run's loader gives them.

    UsageError where the data are no pictures.
    """
    shape = config.network.image_shape
    if len(shape) != 3 or shape[0] not in (1, 3, 4) or not _has_pixels(source):
        raise UsageError(f"`images` {count}: {source.description} holds numbers that are no pictures")
    # in the caller's thread and on the CPU: some images of one epoch need no more
    loader = make_loader(source, batch_size=config.data.batch_size, image_shape=shape, seed=config.train.seed,
                         augment_config=config.augment, train=True, device=torch.device("cpu"), threads=0,
                         on_bad=config.data.on_bad)
    # the one loader whose batches are normalised at once, and have no bytes to look at
    if isinstance(loader, ResidentLoader):
        pixels = _denormalized(loader, config, epoch)
        # damaged images were dropped when all were decoded: the order is then one of the others
        indices: Sequence[int | None] = [None] * count
        if loader.num_samples == len(source):
            indices = EpochOrders().permutation(config.train.seed, epoch, len(source))[:count].tolist()
        labels = (int(label) for batch in loader.epoch(epoch) for label in batch.labels.tolist())
        rows = zip(indices, labels, pixels, strict=False)
    else:
        all_labels = np.asarray(source.labels)
        rows = ((index, int(all_labels[index]), image) for index, image in _streamed(loader, epoch))
    crops = CropSampler(config.augment, (shape[1], shape[2]), shape[0], seed=config.train.seed, train=True)
    samples = []
    for (index, label, image), _ in zip(rows, range(count), strict=False):
        raw = None if index is None else read_original(source, index, shape[0])
        changes: list[str] = []
        if index is not None and raw is not None:
            (spec,) = crops.specs(epoch, np.array([index]), np.array([raw.shape[:2]], np.int64))
            changes = describe_spec(spec, crops.crop, raw.shape[:2])
        names = source.class_names
        # labels without names are shown as numbers
        name = str(names[label]) if 0 <= label < len(names) else str(label)
        samples.append(Sample(-1 if index is None else index, name, image, raw, changes))
    return samples


def describe_spec(spec: CropSpec, crop: tuple[int, int], size: Sequence[int]) -> list[str]:
    """Return in words what is done to an image of this (height, width)."""
    words = []
    if spec.resize:
        words.append(f"resized to {spec.resize[1]}x{spec.resize[0]}")
    if spec.warp:
        words.append("turned, sheared or stretched")
    if spec.enlarge:
        words.append(f"enlarged to {spec.enlarge[1]}x{spec.enlarge[0]}")
    if (spec.height, spec.width) != tuple(size) or spec.top or spec.left:
        words.append(f"cut {spec.width}x{spec.height} at {spec.left},{spec.top}")
    if (spec.height, spec.width) != crop:
        words.append(f"scaled to {crop[1]}x{crop[0]}")
    if spec.mirror:
        words.append("mirrored")
    if spec.color:
        words.append("colours changed")
    return words


def as_html(samples: Sequence[Sample], description: str) -> str:
    """Return the images as a part of a page, with all pictures inside it."""
    figures, num_left_out = pictures.gallery(samples, _figure)
    remark = f" {num_left_out} more would make this page too large." if num_left_out else ""
    return (f'<h2>Training images</h2><p class="soft">{escape(description)}: as the network got them in the '
            f"first epoch, and as they are.{remark}</p>{figures}")


def as_png(samples: Sequence[Sample]) -> bytes:
    """Return the sheet as one PNG: pairs of pictures with their labels below."""
    return pictures.contact_sheet([((sample.pixels, sample.raw), (sample.label, ", ".join(sample.changes)))
                                   for sample in samples])


def _has_pixels(source: Source) -> bool:
    if isinstance(source, ArraySource):
        return source.images.ndim == 4 and source.images.dtype == np.uint8
    return True


def _denormalized(loader: ResidentLoader, config: Config, epoch: int) -> Iterator[np.ndarray]:
    """Yield the uint8 pixels of an epoch: what was normalised is brought back, exactly, by rounding."""
    channels = config.network.image_shape[0]
    mean = torch.tensor(per_channel(config.augment.rgb_mean, channels, "`rgb_mean`"))[:, None, None]
    std = torch.tensor(per_channel(config.augment.rgb_std, channels, "`rgb_std`"))[:, None, None]
    for batch in loader.epoch(epoch):
        pixels: Tensor = (batch.images * std + mean).round().clamp(0, 255).to(torch.uint8)
        yield from pixels.permute(0, 2, 3, 1).numpy()


def _streamed(loader: Any, epoch: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index, uint8 pixels) of an epoch, damaged images left out."""
    for batch in loader.host_batches(epoch):
        for row in np.flatnonzero(batch.good[:batch.num_valid]):
            yield int(batch.indices[row]), batch.pixels[row].numpy().copy()


def read_original(source: Source, index: int, num_channels: int) -> np.ndarray | None:
    """Return an original as uint8 (H, W, C) in RGB, None where it cannot be decoded."""
    try:
        data = source.read(index)
        if isinstance(data, np.ndarray):
            return data
        # grey where the network is given grey
        image = opencv.decode(data, 0 if num_channels == 1 else 1)
    except (DataError, BadImageError):
        return None
    return image[:, :, None] if image.ndim == 2 else image[:, :, ::-1]


def _figure(sample: Sample, extension: str) -> str:
    shown = [pictures.img(sample.pixels, f"{sample.label} as the network got it", extension)]
    if sample.raw is not None:
        shown.append(pictures.original(sample.raw, f"{sample.label}, the original", extension))
    changes = f'<br/><span class="soft">{escape(", ".join(sample.changes))}</span>' if sample.changes else ""
    return (f'<figure><div class="pair">{"".join(shown)}</div>'
            f"<figcaption>{escape(sample.label)}{changes}</figcaption></figure>")
