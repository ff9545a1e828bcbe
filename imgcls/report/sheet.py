"""A sheet of training images: each as the network got it, beside the image it was made from.

The images come from the loader of the run, with its settings and its seed, so they are exact: what was cut,
turned and coloured in an epoch is a function of (seed, epoch, index).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from imgcls.config.resolve import Config
from imgcls.data import opencv
from imgcls.data.crops import CropSampler, CropSpec
from imgcls.data.image_header import BadImageError
from imgcls.data.loaders.batch import Batch, Loader
from imgcls.data.loaders.make import make_loader
from imgcls.data.loaders.resident import ResidentLoader
from imgcls.data.loaders.streaming import StreamingLoader
from imgcls.data.mixing import Mixing, make_mixing
from imgcls.data.normalize import per_channel, read_mean_image
from imgcls.data.order import Shard, sample_of
from imgcls.data.policies import Policy
from imgcls.data.sampling import make_sampling
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
    #: None where the original is not known or cannot be decoded
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
    mixing = make_mixing(config.regularization, shape, config.train.seed)
    # In the caller's thread and on the CPU: a few images of one epoch need no more.
    # With the batch size of the run: mixing takes the partner of an image from its batch.
    loader = make_loader(source, batch_size=config.data.batch_size, image_shape=shape, seed=config.train.seed,
                         augment_config=config.augment, train=True, device=torch.device("cpu"), threads=0,
                         on_bad=config.data.on_bad, shard=Shard(has_partners=mixing is not None),
                         sampling=make_sampling(config.regularization))
    crops = CropSampler(config.augment, (shape[1], shape[2]), shape[0], seed=config.train.seed, train=True)
    samples = []
    # lazily: only as many batches are decoded as the sheet has images
    for (drawn, batch, row), _ in zip(_rows(loader, source, mixing, epoch), range(count), strict=False):
        index = None if drawn is None else int(sample_of(drawn)[0])
        raw = None if index is None else read_original(source, index, shape[0])
        changes: list[str] = []
        if drawn is not None and raw is not None:
            (spec,) = crops.specs(epoch, drawn, np.array([raw.shape[:2]], np.int64))
            changes = describe_spec(spec, crops.crop, raw.shape[:2])
            # drawn again from (seed, epoch, sample): nothing was recorded while the image was made
            erased = crops.erased(epoch, drawn)
            changes += ["a box erased"] if erased is not None and erased.any() else []
        if batch.other_labels is not None:
            other = _class_name(source, int(batch.other_labels[row]))
            changes.append(f"mixed with {1 - batch.share:.0%} of {other}")
        name = _class_name(source, int(batch.labels[row]))
        pixels = _denormalized(batch.images[row], config, is_mirrored="mirrored" in changes)
        samples.append(Sample(-1 if index is None else index, name, pixels, raw, changes))
    return samples


def _class_name(source: Source, label: int) -> str:
    # labels without names are shown as numbers
    return str(source.class_names[label]) if 0 <= label < len(source.class_names) else str(label)


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
    # crops of random size are scaled after the cut, so this comes after it
    if (spec.height, spec.width) != crop:
        words.append(f"scaled to {crop[1]}x{crop[0]}")
    if spec.mirror:
        words.append("mirrored")
    if spec.color:
        words.append("colours changed")
    if spec.policy:
        words += _describe_policy(spec.policy)
    return words


def _describe_policy(policy: Policy) -> list[str]:
    """Return the operations of one chain, each with its magnitude; of several, their number."""
    if policy.original:
        return [f"AugMix, {policy.original:.0%} of the image itself"]
    return [f"{name.replace('_', ' ')} {magnitude:.3g}" if magnitude else name.replace("_", " ")
            for name, magnitude in policy.chains[0].operations]


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


def _rows(loader: Loader, source: Source, mixing: Mixing | None,
          epoch: int) -> Iterator[tuple[np.ndarray | None, Batch, int]]:
    """Yield (entry of the epoch's order, batch, row) for the images of an epoch as the trainer gets them.

    The entry is int64 (1,) (see `order.sample_of`), None where it is not known which image it is.
    """
    for number, (drawn, batch) in enumerate(_batches(loader, source, epoch)):
        mixed = mixing(batch, epoch, number) if mixing else batch
        for row in range(mixed.num_valid):
            yield None if drawn is None else drawn[row:row + 1], mixed, row


def _batches(loader: Loader, source: Source,
             epoch: int) -> Iterator[tuple[np.ndarray | None, Batch]]:
    """Yield (entries of the epoch's order, batch) without damaged images; None where they are not known."""
    if isinstance(loader, ResidentLoader):
        # where damaged images were dropped when all were decoded, the order is that of the others
        is_whole = loader.num_samples == len(source)
        drawn = loader.epoch_indices(epoch)
        for number, batch in enumerate(loader.epoch(epoch)):
            first = number * loader.batch_size
            yield drawn[first:first + loader.batch_size] if is_whole else None, batch
        return
    assert isinstance(loader, StreamingLoader)
    for host in loader.host_batches(epoch):
        yield host.drawn[:host.num_valid][host.good[:host.num_valid]], loader.to_device(host)


def _denormalized(image: Tensor, config: Config, *, is_mirrored: bool) -> np.ndarray:
    """Return uint8 (H, W, C) of a normalised image (C, H, W): exact by rounding, where bytes went in."""
    channels = config.network.image_shape[0]
    mean = torch.tensor(per_channel(config.augment.rgb_mean, channels, "`rgb_mean`"))[:, None, None]
    if config.augment.mean_image:
        mean = torch.from_numpy(read_mean_image(config.augment.mean_image, config.network.image_shape))
        # the mean image was mirrored together with its image
        mean = mean.flip(2) if is_mirrored else mean
    std = torch.tensor(per_channel(config.augment.rgb_std, channels, "`rgb_std`"))[:, None, None]
    pixels = (image * std + mean).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(1, 2, 0).numpy()


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
