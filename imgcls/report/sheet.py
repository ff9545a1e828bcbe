"""A sheet of training images: each as the network got it, beside the image it was made from.

The images come from the loader of the run, with its settings and its seed, so they are exact: what was cut,
turned and coloured in an epoch is a function of (seed, epoch, index).
"""

from __future__ import annotations

import base64
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
from imgcls.errors import DataError, UsageError, printable
from imgcls.report.svg import escape

#: longest side of an original: enough to see what it shows
RAW_EDGE = 200
#: images of a sheet in a page, as they are stored in it; with more they are JPEG, and then fewer
MAX_BYTES = 6 << 20
_JPEG_QUALITY = 88
#: a picture on the PNG sheet, and the room for its text
_TILE, _TEXT_HEIGHT, _GAP = 160, 34, 10


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
    loader = make_loader(source, batch_size=config.data.batch_size, image_shape=shape, seed=config.train.seed,
                         augment_config=config.augment, train=True, device=torch.device("cpu"), threads=0,
                         on_bad=config.data.on_bad)
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
        raw = None if index is None else _raw(source, index, shape[0])
        changes: list[str] = []
        if index is not None and raw is not None:
            (spec,) = crops.specs(epoch, np.array([index]), np.array([raw.shape[:2]], np.int64))
            changes = describe_spec(spec, crops.crop, raw.shape[:2])
        names = source.class_names
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
    for extension in (".png", ".jpg"):
        figures = [_figure(sample, extension) for sample in samples]
        if sum(map(len, figures)) <= MAX_BYTES:
            break
    shown, size = [], 0
    for figure in figures:
        size += len(figure)
        if size <= MAX_BYTES:
            shown.append(figure)
    left_out = len(figures) - len(shown)
    remark = f" {left_out} more would make this page too large." if left_out else ""
    return (f'<h2>Training images</h2><p class="soft">{escape(description)}: as the network got them in the '
            f'first epoch, and as they are.{remark}</p><div class="images">{"".join(shown)}</div>')


def as_png(samples: Sequence[Sample]) -> bytes:
    """Return the sheet as one PNG: pairs of pictures with their labels below."""
    columns = max(1, round(np.sqrt(len(samples) / 1.6)))
    width, height = 2 * _TILE + 4 + _GAP, _TILE + _TEXT_HEIGHT + _GAP
    rows = -(-len(samples) // columns)
    sheet = np.full((rows * height + _GAP, columns * width + _GAP, 3), 255, np.uint8)
    for number, sample in enumerate(samples):
        top, left = _GAP + number // columns * height, _GAP + number % columns * width
        for image, x in ((sample.pixels, left), (sample.raw, left + _TILE + 4)):
            if image is not None:
                tile = _tile(image)
                sheet[top:top + tile.shape[0], x:x + tile.shape[1]] = tile
        _write(sheet, sample.label[:40], left, top + _TILE + 14, 0.45)
        _write(sheet, ", ".join(sample.changes)[:64], left, top + _TILE + 29, 0.36)
    return _encoded(sheet, ".png")


def _write(sheet: np.ndarray, content: str, x: int, y: int, size: float) -> None:
    # OpenCV's letters are those of ASCII
    shown = printable(content).encode("ascii", "replace").decode()
    opencv.cv2.putText(sheet, shown, (x, y), opencv.cv2.FONT_HERSHEY_SIMPLEX, size, (40, 40, 40), 1,
                       opencv.cv2.LINE_AA)


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


def _raw(source: Source, index: int, num_channels: int) -> np.ndarray | None:
    """Return an original as uint8 (H, W, C) in RGB, None where it cannot be decoded."""
    try:
        data = source.read(index)
        if isinstance(data, np.ndarray):
            return data
        image = opencv.decode(data, 0 if num_channels == 1 else 1)
    except (DataError, BadImageError):
        return None
    return image[:, :, None] if image.ndim == 2 else image[:, :, ::-1]


def _tile(image: np.ndarray) -> np.ndarray:
    """Return an image in BGR, its longer side as long as a tile."""
    scale = _TILE / max(image.shape[:2])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    # small pictures keep their pixels visible
    method = opencv.cv2.INTER_NEAREST if scale > 1 else opencv.cv2.INTER_AREA
    return opencv.cv2.resize(_bgr(image), size, interpolation=method)


def _bgr(image: np.ndarray) -> np.ndarray:
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    return np.ascontiguousarray(image[:, :, 2::-1])


def _figure(sample: Sample, extension: str) -> str:
    pictures = [_picture(sample.pixels, f"{sample.label} as the network got it", extension)]
    if sample.raw is not None:
        raw = _shrunk(sample.raw)
        # what was made smaller is not exact anyhow
        kind = extension if raw is sample.raw else ".jpg"
        pictures.append(_picture(raw, f"{sample.label}, the original", kind))
    changes = f'<br/><span class="soft">{escape(", ".join(sample.changes))}</span>' if sample.changes else ""
    return (f'<figure><div class="pair">{"".join(pictures)}</div>'
            f"<figcaption>{escape(sample.label)}{changes}</figcaption></figure>")


def _shrunk(image: np.ndarray) -> np.ndarray:
    """Return an image whose longer side is `RAW_EDGE` at most."""
    scale = RAW_EDGE / max(image.shape[:2])
    if scale >= 1:
        return image
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    small = opencv.cv2.resize(np.ascontiguousarray(image), size, interpolation=opencv.cv2.INTER_AREA)
    return small[:, :, None] if small.ndim == 2 else small


def _picture(image: np.ndarray, description: str, extension: str) -> str:
    kind = "png" if extension == ".png" else "jpeg"
    data = base64.b64encode(_encoded(_bgr(image), extension)).decode()
    return (f'<img alt="{escape(description)}" width="{image.shape[1]}" height="{image.shape[0]}" '
            f'src="data:image/{kind};base64,{data}"/>')


def _encoded(image: np.ndarray, extension: str) -> bytes:
    quality = [opencv.cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if extension == ".jpg" else []
    _, data = opencv.cv2.imencode(extension, image, quality)
    return data.tobytes()
