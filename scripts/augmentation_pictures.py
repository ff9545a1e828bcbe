#!/usr/bin/env python3
"""Make the pictures of docs/augmentation.md, and measure what each augmentation costs.

    python scripts/augmentation_pictures.py docs/pictures    # one strip for each, from drawn images
    python scripts/augmentation_pictures.py --time         # the table: microseconds for an image of 224 x 224

The pictures come from the loader and the mixing that a run has, with a run's flags.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from imgcls.config.sections import AugmentConfig, RegularizationConfig, TrainConfig
from imgcls.data import erasing, operations, order
from imgcls.data.loaders.batch import Batch
from imgcls.data.loaders.make import make_loader
from imgcls.data.mixing import Mixing, make_mixing
from imgcls.data.policies import PolicySampler
from imgcls.data.resizing import Resizing
from imgcls.data.sampling import make_sampling
from imgcls.data.sources import ArraySource

#: the settings of random resized crops
RESIZED_CROP: dict[str, Any] = {"random_resized_crop": True, "min_random_area": 0.25, "max_random_area": 1.0,
                "min_random_aspect_ratio": 3 / 4, "max_random_aspect_ratio": 4 / 3}
#: name of the picture -> settings of the run
STRIPS: dict[str, dict[str, Any]] = {
    "none": {},
    "crop": {"random_crop": True, "pad_size": 8},
    "pad-mode": {"random_crop": True, "pad_size": 8, "pad_mode": "reflect"}, "resized-crop": RESIZED_CROP,
    "crop-size": {"min_crop_size": 48, "max_crop_size": 104, "random_crop": True},
    "mirror": {"random_mirror": True}, "alternating-mirror": {"alternating_mirror": True},
    "rotate": {"max_random_rotate_angle": 20}, "shear": {"max_random_shear_ratio": 0.3},
    "scale": {"min_random_scale": 0.88, "max_random_scale": 1.4},
    "aspect": {"max_random_aspect_ratio": 0.25, "min_random_scale": 1.2, "max_random_scale": 1.2},
    "interpolation": {**RESIZED_CROP, "interpolation": "random"},
    "jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4},
    "hsl": {"max_random_h": 36, "max_random_s": 50, "max_random_l": 50},
    "pca-noise": {"pca_noise": 0.5},
    "ra": {"auto_augment": "ra", "ra_num_ops": 2, "ra_magnitude": 9}, "ta_wide": {"auto_augment": "ta_wide"},
    "augmix": {"auto_augment": "augmix", "augmix_severity": 5}, "random-erase": {"random_erase": 1.0},
    "mixup": {"mixup": 1.0}, "cutmix": {"cutmix": 1.0}, "repeats": {**RESIZED_CROP, "aug_repeats": 4},
    "progressive": {"progressive_scale": 0.5, "progressive_epochs": (1, 6)},
}
#: the augmentations that a loader applies while it crops
LOADED = ("crop", "pad-mode", "resized-crop", "crop-size", "mirror", "alternating-mirror", "rotate", "shear",
          "scale", "aspect", "interpolation", "jitter", "hsl", "pca-noise", "repeats")
# stored larger than shown, so that crops have somewhere to go
NUM_IMAGES, STORED, SIDE = 8, 112, 96
#: side and number of the images that are measured
TIMED_SIDE, TIMED_IMAGES = 224, 256


def draw_images(count: int, side: int) -> np.ndarray:
    """Return uint8 (count, 3, side, side): a shape on a ground with a slope and stripes, no two alike."""
    # drawn and not photographed: everybody can make the pictures of the docs again, and no one
    # has a copyright on them
    chance = np.random.default_rng(5)
    y, x = np.mgrid[:side, :side] / side
    images = []
    for number in range(count):
        ground, ink = chance.uniform(60, 200, 3), chance.uniform(0, 255, 3)
        # a gradient and fine stripes: on a plain ground neither posterize nor sharpness could be
        # seen
        image = ground + 50 * (x + y - 1)[:, :, None] + 18 * np.sin(40 * (x - y))[:, :, None]
        image = np.clip(image, 0, 255).astype(np.uint8)
        centre, radius = (side // 2, side // 2), round(side * 0.3)
        # polygons with one corner upwards and a dot on one side: a turn or a mirror shows at once
        corners = 3 + number % 5
        angles = 2 * np.pi * (np.arange(corners) / corners - 0.25)
        points = np.stack([np.cos(angles), np.sin(angles)], 1) * radius + centre
        cv2.fillPoly(image, [points.round().astype(np.int32)], ink.tolist(), cv2.LINE_AA)
        cv2.circle(image, (side * 2 // 5, side * 2 // 5), side // 12, (255 - ink).tolist(), -1, cv2.LINE_AA)
        images.append(image.transpose(2, 0, 1))
    return np.ascontiguousarray(images)


def strip(settings: dict[str, Any]) -> np.ndarray:
    """Return the images of the first batch side by side, uint8 (rows * SIDE, NUM_IMAGES * SIDE, 3) RGB.

    Where the augmentation differs by epoch: the images of two epochs, or one image in eight epochs.
    """
    if "alternating_mirror" in settings:
        return np.concatenate([_row(settings, epoch, is_sorted=True) for epoch in range(2)])
    if "progressive_scale" in settings:
        return _row(settings, 0, is_sorted=True)
    return _row(settings, 0)


def _row(settings: dict[str, Any], epoch: int, *, is_sorted: bool = False) -> np.ndarray:
    """Return the first batch of an epoch, uint8 (SIDE, NUM_IMAGES * SIDE, 3), in the order of its labels if
    `is_sorted`."""
    augment, regularization, train = (
        section(**{name: value for name, value in settings.items() if name in section.__dataclass_fields__})
        for section in (AugmentConfig, RegularizationConfig, TrainConfig))
    # subtracted in the loader and added again below: zeros, which warps fill with, are then grey
    augment = dataclasses.replace(augment, rgb_mean=(110.0,))
    mixing = make_mixing(regularization, (3, SIDE, SIDE), seed=0)
    source = ArraySource(draw_images(NUM_IMAGES, STORED), np.arange(NUM_IMAGES))
    loader = make_loader(source, batch_size=NUM_IMAGES, image_shape=(3, SIDE, SIDE), augment_config=augment,
                         train=True, seed=2, device=torch.device("cpu"), threads=0,
                         shard=order.Shard(has_partners=mixing is not None),
                         sampling=make_sampling(regularization))
    batch = next(iter(loader.epoch(epoch)))
    images = (mixing(batch, 0, 0) if mixing else batch).images + 110
    if train.progressive_scale < 1:
        images = _grown(images, Resizing(train, (SIDE, SIDE)))
    elif is_sorted:
        images = images[batch.labels.argsort()]
    pixels = images.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return np.concatenate(list(pixels), axis=1)


def _grown(images: torch.Tensor, resizing: Resizing) -> torch.Tensor:
    """Return the first image at the size that it has in each of the first epochs, on white."""
    shown = torch.full_like(images, 255)
    batch = Batch(images[:1], torch.zeros(1, dtype=torch.int64), 1, 1)
    for epoch, frame in enumerate(shown):
        (small,) = resizing(batch, epoch, 0).images
        frame[:, -small.shape[1]:, :small.shape[2]] = small
    return shown


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of five calls, after one that is not measured."""
    work()
    times = []
    for _ in range(5):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    # the fastest: whatever else the machine did only made the others slower
    return min(times)


def measure() -> None:
    """Print microseconds for an image of each augmentation, and of torchvision's where it is installed."""
    # one core each, as a loader's thread has it
    torch.set_num_threads(1)
    pictures = draw_images(TIMED_IMAGES, TIMED_SIDE).transpose(0, 2, 3, 1).copy()
    draws = order.Draws(0, 0, np.arange(TIMED_IMAGES))
    size = (TIMED_SIDE, TIMED_SIDE)
    plain_s = seconds(epoch_of({}))
    for name in LOADED:
        # the time beyond that of a loader which cuts the centre: these are not steps of their own
        show(name, epoch_of(STRIPS[name]), None, plain_s)
    for policy, theirs in (("ra", "RandAugment"), ("ta_wide", "TrivialAugmentWide"), ("augmix", "AugMix")):
        sampler = PolicySampler(AugmentConfig(auto_augment=policy), size)

        def ours(sampler: PolicySampler = sampler) -> None:
            for image, drawn in zip(pictures, sampler.sample(draws), strict=True):
                assert drawn
                operations.apply(image.copy(), drawn)

        show(policy, ours, torchvisions(theirs, pictures))
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    show("random-erase", lambda: erasing.erase(images, erasing.boxes(draws, 0.25, size)), None)
    batch = Batch(images, torch.zeros(TIMED_IMAGES, dtype=torch.int64), TIMED_IMAGES, TIMED_IMAGES,
                  partners=torch.arange(-1, TIMED_IMAGES - 1) % TIMED_IMAGES)
    for name in ("mixup", "cutmix"):
        mixing = Mixing(RegularizationConfig(**{name: 1.0}), seed=0)
        show(name, lambda mixing=mixing: mixing(batch, 0, 0), None)
    resizing = Resizing(TrainConfig(progressive_scale=0.5, num_epochs=10), size)
    show("progressive", lambda: resizing(batch, 0, 0), None)


def epoch_of(settings: dict[str, Any]) -> Callable[[], None]:
    """Return a function that loads an epoch of images in this thread, augmented as the settings say."""
    names = AugmentConfig.__dataclass_fields__
    loader = make_loader(
        ArraySource(_larger(), np.arange(TIMED_IMAGES)), batch_size=32,
        image_shape=(3, TIMED_SIDE, TIMED_SIDE),
        # resized to the size that they have: it changes nothing, but all go through the code for photographs
        augment_config=AugmentConfig(resize=_larger().shape[2], **{
            name: value for name, value in settings.items() if name in names}),
        train=True, seed=2, device=torch.device("cpu"), threads=0, shard=order.Shard(),
        sampling=make_sampling(RegularizationConfig(
            **{name: value for name, value in settings.items() if name not in names})))

    def load() -> None:
        for _ in loader.epoch(0):
            pass

    return load


@functools.cache
def _larger() -> np.ndarray:
    """Return images with a margin around the part that is cut out of them."""
    return draw_images(TIMED_IMAGES, TIMED_SIDE + 32)


def torchvisions(name: str, pictures: np.ndarray) -> Callable[[], None] | None:
    """Return torchvision's transform of all pictures, None where it is not installed."""
    try:
        from torchvision.transforms import v2
    except ImportError:
        return None
    # torchvision's defaults, which are ours as well
    transform = getattr(v2, name)()
    tensors = [torch.from_numpy(image).permute(2, 0, 1) for image in pictures]

    def apply() -> None:
        for tensor in tensors:
            transform(tensor)

    return apply


def show(name: str, ours: Callable[[], object], theirs: Callable[[], object] | None,
         without_s: float = 0.0) -> None:
    """Print one row of the table; `without_s` are the seconds without the augmentation, to be subtracted."""
    row = f"| {name} | {1e6 * max(seconds(ours) - without_s, 0) / TIMED_IMAGES:.0f}"
    print(f"{row} | {1e6 * seconds(theirs) / TIMED_IMAGES:.0f} |" if theirs else f"{row} | |", flush=True)


def main() -> int:
    """Run the command and return its exit status."""
    if sys.argv[1:] == ["--time"]:
        measure()
        return 0
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__)
        return 2
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, settings in STRIPS.items():
        pixels = cv2.cvtColor(strip(settings), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / f"augmentation-{name}.jpg"), pixels, [cv2.IMWRITE_JPEG_QUALITY, 80])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
