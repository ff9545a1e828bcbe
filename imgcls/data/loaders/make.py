"""Which loader suits a source: called by the commands.

Small images that are all of one size are decoded once and for all and given to the resident loader, if border, crop
and mirror are all that is asked for: on 32 x 32 pixels that is many times as fast as decoding them in every epoch.
OpenCV is imported where there is something to decode, and not before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imgcls.config.sections import AugmentConfig
from imgcls.data import order
from imgcls.data.crops import CropSampler
from imgcls.data.loaders.batch import Loader
from imgcls.data.loaders.resident import ResidentLoader
from imgcls.data.sources import ArraySource, Source
from imgcls.errors import DataError, UsageError
from imgcls.formats import caffe, params

#: images up to this short edge are taken as they are: to shrink CIFAR for validation ruined its accuracy in MXNet 1.3
SMALL_EDGE = 64
#: decoded sets up to this size are kept in memory
RESIDENT_BYTES = 1 << 30

_log = logging.getLogger(__name__)


def make_loader(source: Source, *, batch_size: int, image_shape: Sequence[int], augment_config: AugmentConfig,
                train: bool, seed: int, device: torch.device, threads: int | None = None,
                on_bad: str = "skip", shard: order.Shard = order.NO_SHARD) -> Loader:
    """The loader that suits the source and the augmentation; its `note` says what is done to the images.

    Arrays, and encoded images that are all of one size and fit in memory, go to the resident loader where it can do
    what is asked for; everything else is streamed.
    """
    whole: dict[str, Any] = {"batch_size": batch_size, "image_shape": image_shape, "train": train, "seed": seed,
                             "device": device, "shard": shard}
    config, note = augment_config, ""
    if isinstance(source, ArraySource):
        if _resident(config, source, image_shape, train):
            return ResidentLoader(source, augment_config=config, **whole)
        if source.images.ndim != 4 or source.images.dtype != np.uint8:
            raise UsageError(f"{source.description}: of the augmentation only border, crop and mirror are for numbers "
                             f"like these ({source.images.dtype}, {source.images.ndim} dimensions)")
    else:
        config, note = _sized(config, source, image_shape, train)
    if train and config.mean_image and not Path(config.mean_image).exists():
        make_mean_image(config.mean_image, source, image_shape, config, threads, on_bad)
    kept = None
    if not isinstance(source, ArraySource) and _resident(config, source, image_shape, train):
        kept = _decoded(source, image_shape, threads, on_bad)
    if kept is not None:
        loader: Loader = ResidentLoader(kept, augment_config=config, **whole)
        loader.note = ", ".join(filter(None, (
            loader.note, f"decoded once and kept in memory ({kept.images.nbytes / 1e6:.0f} MB)")))
        return loader
    from imgcls.data.loaders.streaming import StreamingLoader

    loader = StreamingLoader(source, augment_config=config, threads=threads, on_bad=on_bad, **whole)
    loader.note = note
    return loader


def make_mean_image(path: str, source: Source, image_shape: Sequence[int], config: AugmentConfig,
                    threads: int | None, on_bad: str) -> None:
    """Write the mean of the centre crops of all images, as MXNet does where `mean_img` names no file yet."""
    from imgcls.data.loaders.streaming import StreamingLoader

    if caffe.is_mean(path):
        raise UsageError(f"`mean_image` {path}: does not exist, and what is made here is an MXNet file: call it .bin")
    plain = AugmentConfig(val_resize=config.resize, interpolation=config.interpolation)
    loader = StreamingLoader(source, batch_size=128, image_shape=image_shape, augment_config=plain, train=False, seed=0,
                             device=torch.device("cpu"), threads=threads, on_bad=on_bad)
    total, count = torch.zeros(image_shape[1], image_shape[2], image_shape[0], dtype=torch.int64), 0
    for filled in loader.host_batches(0):
        good = torch.from_numpy(filled.good)
        total += filled.pixels[good].sum(0)
        count += int(good.sum())
    mean = (total.double() / max(count, 1)).permute(2, 0, 1).float().contiguous().numpy()
    params.save(path, {"mean_img": mean})
    _log.warning("%s: made the mean image %s", source.description, path)


def _resident(config: AugmentConfig, source: Source, image_shape: Sequence[int], train: bool) -> bool:
    """Whether the resident loader can do what is asked for."""
    if config.mean_image:
        return False
    if isinstance(source, ArraySource) and (not train or len(image_shape) != 3):
        return not config.val_resize
    return CropSampler(config, (image_shape[1], image_shape[2]), image_shape[0], seed=0, train=train).simple


def _sized(config: AugmentConfig, source: Source, image_shape: Sequence[int],
           train: bool) -> tuple[AugmentConfig, str]:
    """Decide on --val-resize where the user did not, by the size of the images; the text says what is done and why."""
    crop = max(image_shape[1:])
    edge = _typical_edge(source)
    if train:
        shrunk = config.resize or config.random_resized_crop or config.max_crop_size != -1
        if edge > 1.5 * crop and not shrunk and config.max_random_scale == 1:
            return config, (f"cut at {image_shape[1]}x{image_shape[2]} from images whose short edge is about {edge}: "
                            f"`resize` {round(crop / 0.875)} shrinks them first")
        return config, ""
    resize = config.val_resize
    if resize is None:
        resize = config.resize or (round(crop / 0.875) if edge > max(1.25 * crop, SMALL_EDGE) else 0)
    note = f"resized to a short edge of {resize} before the centre {image_shape[1]}x{image_shape[2]} is cut"
    return dataclasses.replace(config, val_resize=resize), f"{note} (`val_resize`)" if resize else ""


def _typical_edge(source: Source) -> int:
    """The median short edge of some of the images, 0 where no header tells it."""
    from imgcls.data import decode

    edges = []
    for index in np.unique(np.linspace(0, len(source) - 1, 64).astype(int)).tolist():
        with contextlib.suppress(decode.BadImageError, DataError):
            data = source.read(index)
            edges.append(min(data.shape[:2] if isinstance(data, np.ndarray) else decode.inspect(data)[:2]))
    return int(np.median([edge for edge in edges if edge] or [0]))


def _decoded(source: Source, image_shape: Sequence[int], threads: int | None, on_bad: str) -> ArraySource | None:
    """All images decoded, or None where they differ in size, need to be enlarged, or are too much for memory."""
    from imgcls.data import decode
    from imgcls.data.loaders.streaming import StreamingLoader

    channels = image_shape[0]
    size = (0, 0)
    for index in range(len(source)):
        try:
            data = source.read(index)
            info = decode.inspect(data) if not isinstance(data, np.ndarray) else decode.ImageInfo(*data.shape[:2])
        except (decode.BadImageError, DataError):
            continue
        size = size if any(size) else info[:2]
        if info[:2] != size or size[0] < image_shape[1] or size[1] < image_shape[2]:
            return None
        if not size[0] or len(source) * size[0] * size[1] * channels > RESIDENT_BYTES:
            return None
    loader = StreamingLoader(source, batch_size=256, image_shape=(channels, *size), augment_config=AugmentConfig(),
                             train=False, seed=0, device=torch.device("cpu"), threads=threads, on_bad=on_bad)
    images = np.empty((len(source), *size, channels), np.uint8)
    good = np.ones(len(source), bool)
    for filled in loader.host_batches(0):
        images[filled.indices] = filled.pixels.numpy()
        good[filled.indices] = filled.good
    if not good.all():
        images = images[good]
    return ArraySource(images.transpose(0, 3, 1, 2), np.asarray(source.labels)[good], source.class_names,
                       source.description)
