"""Choose the loader that suits a source: called where data are trained on or validated with.

Small images that are all of one size are decoded once and for all and given to the resident loader, if
border, crop and mirror are all that is requested: on 32 x 32 pixels that is many times as fast as decoding
them in every epoch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from imgcls.config.sections import AugmentConfig
from imgcls.data import image_header, order
from imgcls.data.crops import CROP_FRACTION, CropSampler, Size, usual_val_resize
from imgcls.data.image_header import BadImageError, ImageInfo
from imgcls.data.loaders.batch import Loader
from imgcls.data.loaders.resident import ResidentLoader
from imgcls.data.sampling import EACH_ONCE, Sampling
from imgcls.data.sources import ArraySource, Source
from imgcls.errors import DataError, UsageError, printable, verbatim
from imgcls.formats import caffe, npy, params
from imgcls.storage.paths import to_path

if TYPE_CHECKING:
    from imgcls.data.loaders.streaming import StreamingLoader

#: decoded sets up to this size are kept in memory
RESIDENT_BYTES = 1 << 30
#: how many headers are looked at to know the size of the images
_NUM_PROBED = 64

_log = logging.getLogger(__name__)


def make_loader(source: Source, *, batch_size: int, image_shape: Sequence[int], augment_config: AugmentConfig,
                train: bool, seed: int, device: torch.device, threads: int | None = None,
                on_bad: str = "skip", shard: order.Shard = order.NO_SHARD,
                sampling: Sampling = EACH_ONCE) -> Loader:
    """Return the loader that suits source and augmentation; its `note` says what is done to the images.

    Arrays, and encoded images that are all of one size and fit in memory, go to the resident loader where it
    can do what is requested; everything else is streamed. A `mean_image` that does not exist yet is made with
    training data. UsageError for arrays that would have to be streamed and are no uint8 images.
    """
    loader_kwargs: dict[str, Any] = {"batch_size": batch_size, "image_shape": image_shape, "train": train,
                                     "seed": seed, "device": device, "shard": shard, "sampling": sampling}
    config = augment_config
    note = ""
    # Arrays have no header and need no decoder: those that the resident loader cannot take must be uint8.
    if isinstance(source, ArraySource):
        if _suits_resident(config, source, image_shape, train):
            return ResidentLoader(source, augment_config=config, **loader_kwargs)
        if source.images.ndim != 4 or source.images.dtype != np.uint8:
            raise UsageError(f"{verbatim(source.description)}: of the augmentation only border, crop and "
                             f"mirror are for numbers like these ({source.images.dtype}, "
                             f"{source.images.ndim} dimensions)")
    else:
        config = config if train else decide_val_resize(config, source, image_shape)
        note = _describe_cut(config, source, image_shape, train)
    # before the training data's loader is made, which reads the mean image
    if train and config.mean_image and not to_path(config.mean_image, "`mean_image`").exists():
        make_mean_image(config.mean_image, source, image_shape, config, threads, on_bad)
    decoded = None
    if not isinstance(source, ArraySource) and _suits_resident(config, source, image_shape, train):
        decoded = _decode_all(source, image_shape, threads, on_bad)
    if decoded is not None:
        images, bad_indices = decoded
        resident = ResidentLoader(images, augment_config=config, **loader_kwargs)
        size = f"decoded once and kept in memory ({images.images.nbytes / 1e6:.0f} MB)"
        resident.note = ", ".join(filter(None, (resident.note, size)))
        resident.bad_indices = bad_indices
        return resident
    loader = _stream(source, augment_config=config, threads=threads, on_bad=on_bad, **loader_kwargs)
    loader.note = note
    return loader


def make_mean_image(path: str, source: Source, image_shape: Sequence[int], config: AugmentConfig,
                    threads: int | None, on_bad: str) -> None:
    """Write the mean of the centre crops of all images, as MXNet does where `mean_img` names no file yet."""
    if caffe.is_mean(path) or npy.is_npy(path):
        raise UsageError(f"`mean_image` {verbatim(path)}: does not exist, and what is made here is an MXNet "
                         "file: call it .bin")
    plain = AugmentConfig(val_resize=config.resize, interpolation=config.interpolation)
    loader = _stream(source, batch_size=128, image_shape=image_shape, augment_config=plain, train=False,
                     seed=0, device=torch.device("cpu"), threads=threads, on_bad=on_bad)
    # summed as whole numbers: the mean does not depend on the order of the additions
    total = torch.zeros(image_shape[1], image_shape[2], image_shape[0], dtype=torch.int64)
    count = 0
    for batch in loader.host_batches(0):
        good = torch.from_numpy(batch.good)
        total += batch.pixels[good].sum(0)
        count += int(good.sum())
    # in float64 and rounded once, so that a large set loses nothing
    mean = (total.double() / max(count, 1)).permute(2, 0, 1).float().contiguous().numpy()
    params.save(path, {"mean_img": mean})
    _log.warning("%s: made the mean image %s", printable(source.description), printable(path))


def _stream(source: Source, **kwargs: Any) -> StreamingLoader:
    """Return a streaming loader."""
    # The one place that loads OpenCV, a tenth of a second, where there is something to decode.
    from imgcls.data.loaders.streaming import StreamingLoader

    return StreamingLoader(source, **kwargs)


def _suits_resident(config: AugmentConfig, source: Source, image_shape: Sequence[int], train: bool) -> bool:
    """Return whether the resident loader can do what is requested."""
    if config.mean_image:
        return False
    if isinstance(source, ArraySource) and (not train or len(image_shape) != 3):
        # numbers of any kind, as long as nothing is to be resized; uint8 images that have to be made to fit
        # are streamed like pictures in files, since another way to round them would be another result
        return not config.val_resize and (len(image_shape) != 3 or _fits(source.images, image_shape))
    num_channels, height, width = image_shape
    return CropSampler(config, (height, width), num_channels, seed=0, train=train).is_simple


def _fits(images: np.ndarray, image_shape: Sequence[int]) -> bool:
    """Return whether arrays (N, C, H, W) need no more than a crop; True for those that cannot be streamed."""
    if images.ndim != 4 or images.dtype != np.uint8:
        return True
    num_channels, height, width = images.shape[1:]
    is_grey_wanted = num_channels != image_shape[0] == 1
    return not is_grey_wanted and height >= image_shape[1] and width >= image_shape[2]


def decide_val_resize(config: AugmentConfig, source: Source, image_shape: Sequence[int]) -> AugmentConfig:
    """Return the configuration with `val_resize` a number, decided for all of `source` where it is None.

    Called once before validation: a run writes the number into its meta data, so that every image is treated
    alike by the run, by imgcls-score and by imgcls-predict.
    """
    if config.val_resize is not None or len(image_shape) != 3:
        return config
    # arrays have the size that the user gave them: resized as in training, and otherwise left as they are
    edge = 0 if isinstance(source, ArraySource) else typical_edge(source)
    return dataclasses.replace(
        config, val_resize=usual_val_resize(config, (image_shape[1], image_shape[2]), edge))


def _describe_cut(config: AugmentConfig, source: Source, image_shape: Sequence[int], train: bool) -> str:
    """Return a note on how images are resized before they are cut, or on a better setting for that; or ""."""
    crop = max(image_shape[1:])
    if not train:
        note = f"resized to a short edge of {config.val_resize} before the centre"
        return f"{note} {image_shape[1]}x{image_shape[2]} is cut (`val_resize`)" if config.val_resize else ""
    is_shrunk = config.resize or config.random_resized_crop or config.max_crop_size != -1
    if is_shrunk or config.max_random_scale != 1 or (edge := typical_edge(source)) <= 1.5 * crop:
        return ""
    return (f"cut at {image_shape[1]}x{image_shape[2]} from images whose short edge is about "
            f"{edge}: `resize` {round(crop / CROP_FRACTION)} shrinks them first")


def typical_edge(source: Source) -> int:
    """Return the median short edge of some of the images, 0 where no header gives a size."""
    # a sample of the headers, evenly spread: all of them would be read from a slow disk twice
    edges = []
    for index in np.unique(np.linspace(0, len(source) - 1, _NUM_PROBED).astype(int)).tolist():
        with contextlib.suppress(BadImageError, DataError):
            edges.append(min(_header(source, index)[:2]))
    return int(np.median([edge for edge in edges if edge] or [0]))


def _decode_all(source: Source, image_shape: Sequence[int], threads: int | None,
                on_bad: str) -> tuple[ArraySource, list[int]] | None:
    """Return the images decoded, without the damaged ones, and the indices of those.

    None where they have no common size that suits the resident loader.
    """
    num_channels = image_shape[0]
    size = _common_size(source, image_shape)
    if size is None:
        return None
    # as validation without a resize: in the order of the source, each image as it is
    loader = _stream(source, batch_size=256, image_shape=(num_channels, *size), train=False, seed=0,
                     augment_config=AugmentConfig(), device=torch.device("cpu"), threads=threads,
                     on_bad=on_bad)
    images = np.empty((len(source), *size, num_channels), np.uint8)
    good = np.ones(len(source), bool)
    for batch in loader.host_batches(0):
        images[batch.indices] = batch.pixels.numpy()
        good[batch.indices] = batch.good
    if not good.all():  # a copy of everything, made only where it must be
        images = images[good]
    decoded = ArraySource(images.transpose(0, 3, 1, 2), np.asarray(source.labels)[good], source.class_names,
                          source.description)
    return decoded, np.flatnonzero(~good).tolist()


def _common_size(source: Source, image_shape: Sequence[int]) -> Size | None:
    """Return the size of all images; None where they differ, are smaller than the crop, or are too much.

    Stops at the first image that does not fit: of a large set only a few headers are read. Damaged images are
    skipped; (0, 0) where all are damaged.
    """
    size = (0, 0)  # of the first undamaged image
    for index in range(len(source)):
        try:
            height, width = _header(source, index)[:2]
        except (BadImageError, DataError):
            continue
        size = size if any(size) else (height, width)
        if (height, width) != size or height < image_shape[1] or width < image_shape[2]:
            return None
        if not height or len(source) * height * width * image_shape[0] > RESIDENT_BYTES:
            return None
    return size


def _header(source: Source, index: int) -> ImageInfo:
    """Return what the header of a sample says; BadImageError or DataError where it is damaged."""
    data = source.read(index)
    return ImageInfo(*data.shape[:2]) if isinstance(data, np.ndarray) else image_header.inspect(data)
