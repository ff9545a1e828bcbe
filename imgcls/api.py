"""What Python code uses: `imgcls.fit` on arrays, `imgcls.load_model` and `imgcls.Predictor` on checkpoints."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imgcls import pretrained
from imgcls.config import resolve as configuration
from imgcls.config.sections import AugmentConfig
from imgcls.data.sources import ArraySource, Splits
from imgcls.errors import DataError, UsageError
from imgcls.storage.paths import to_path

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Result:
    """What `fit` gives: the metrics of the last epoch and the trained network, in evaluation mode, giving logits."""

    metrics: dict[str, float]
    model: nn.Module


def fit(train: tuple[np.ndarray, np.ndarray], val: tuple[np.ndarray, np.ndarray] | None = None,
        **settings: Any) -> Result:
    """Train on arrays: what `imgcls-train` does, with its flags as keywords (`network="lenet"`, `lr=.1`).

    `train` and `val` are (images, labels). Images are uint8 or float (N, H, W), (N, C, H, W) or flat (N, P); uint8 is
    scaled by 1/255 unless `rgb_mean` or `rgb_std` say otherwise, float is taken as it is. Labels are whole numbers from
    0. `image_shape` and `num_classes` follow from the data where they are not given; flat rows that a network wants as
    images need `image_shape="1,28,28"`. Prints nothing but warnings unless `verbose=True`.
    """
    from imgcls.cli.train import run

    verbose = bool(settings.pop("verbose", False))
    shape = settings.get("image_shape")
    if shape is not None:
        shape = configuration.convert(configuration.FIELDS["image_shape"], shape)
    source = _source(train, shape, "train")
    splits = Splits(source, None if val is None else _source(val, shape, "val"))
    labels = np.asarray(source.labels)
    defaults = {"rgb_std": (255.0,), "image_shape": source.images.shape[1:], "batch_size": 64, "num_epochs": 10,
                "num_classes": max(int(labels.max(initial=0)) + 1, 2)}
    config = configuration.build(defaults, settings)
    if config.train.test_io:
        raise UsageError("test_io: reads the data and trains nothing; it is for the command (imgcls-train --test-io 1)")
    model, metrics = run(config, splits=splits, command="imgcls.fit", quiet=not verbose)
    assert model is not None  # only test_io ends without one
    return Result(metrics, model.eval())


def load_model(prefix: str | os.PathLike[str], epoch: int | str = "auto") -> nn.Module:
    """The network of a checkpoint, ours or MXNet's, in evaluation mode: float (N, C, H, W) -> logits (N, classes).

    `prefix` may also be a network of MXNet's zoo (`resnext-101`), a URL of a prefix, or torchvision:NAME: see
    `pretrained.locate`. `epoch` is a number or "auto" for the newest. Raises UsageError for an epoch that is not
    there and DataError for damaged files.
    """
    return pretrained.build(pretrained.read(pretrained.locate(prefix, epoch)))


class Predictor:
    """Class names and probabilities for an image, with the preprocessing that the checkpoint was trained with."""

    def __init__(self, prefix: str | os.PathLike[str], epoch: int | str = "auto", *, top: int = 5) -> None:
        """Loads the network; an MXNet checkpoint without meta data is taken as 3 channels, no mean, scale 1."""
        found = pretrained.locate(prefix, epoch)
        self.model, self.top = pretrained.build(pretrained.read(found)), top
        self.class_names: list[str] = list(found.class_names)
        self._pre = found.preprocessing
        self.image_shape = tuple(self._pre.get("image_shape") or (3, 224, 224))
        self._augment = AugmentConfig(
            rgb_mean=tuple(self._pre.get("mean") or (0.0,)), rgb_std=tuple(self._pre.get("std") or (1.0,)),
            val_resize=self._pre.get("val_resize"), interpolation=self._pre.get("interpolation") or "bilinear")

    def __call__(self, image: str | os.PathLike[str] | np.ndarray) -> list[tuple[str, float]]:
        """[(name, probability), ...], best first, for a file or uint8 pixels (H, W) or (H, W, C) in RGB.

        The image goes the way of the validation images in training. DataError for what is no picture.
        """
        import torch

        from imgcls.data.loaders.make import make_loader

        loader = make_loader(_OneImage(image), batch_size=1, image_shape=self.image_shape, train=False, seed=0,
                             augment_config=self._augment, device=torch.device("cpu"), threads=0, on_bad="stop")
        with torch.no_grad():
            probabilities = self.model(next(iter(loader.epoch(0))).images).softmax(1)[0]
        best = probabilities.topk(min(self.top, len(probabilities)))
        return [(self.class_names[i] if i < len(self.class_names) else str(i), p)
                for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]


class _OneImage:
    """A Source of one picture: a file, or pixels."""

    def __init__(self, image: str | os.PathLike[str] | np.ndarray) -> None:
        self.labels, self.class_names = np.zeros(1, np.int64), ()
        self.description = "image" if isinstance(image, np.ndarray) else os.fspath(image)
        self._pixels = image if isinstance(image, np.ndarray) else None

    def __len__(self) -> int:
        return 1

    def read(self, index: int) -> bytes | np.ndarray:
        if self._pixels is not None:
            return self._pixels if self._pixels.ndim == 3 else self._pixels[:, :, None]
        try:
            return to_path(self.description).read_bytes()
        except OSError as error:
            raise DataError(self.description, (error.strerror or str(error)).lower()) from error

    def problem(self, index: int, reason: str) -> DataError:
        return DataError(self.description, reason)


def _source(data: tuple[np.ndarray, np.ndarray], shape: tuple[int, ...] | None, what: str) -> ArraySource:
    """Checked arrays in the layout of the loader: (N, C, H, W) or (N, P), uint8 or float32; int64 labels."""
    try:
        images, labels = (np.asarray(part) for part in data)
    except (TypeError, ValueError):
        raise UsageError(f"{what}: must be a pair (images, labels) of arrays") from None
    if images.ndim < 2 or images.dtype == object:
        raise UsageError(f"{what}: images must be (N, H, W), (N, C, H, W) or (N, P), not {images.shape}")
    if images.ndim == 3:
        images = images[:, None]
    if shape is not None and images.ndim == 2:
        if int(np.prod(shape)) != images.shape[1]:
            raise UsageError(f"image_shape {shape}: the rows of {what} have {images.shape[1]} values")
        images = images.reshape(-1, *shape)
    if images.dtype != np.uint8:
        images = images.astype(np.float32, copy=False)
    if labels.ndim != 1 or not np.array_equal(labels, labels.astype(np.int64)):
        raise UsageError(f"{what}: labels must be one whole number per image")
    return ArraySource(images, labels.astype(np.int64), description=f"arrays ({what})")
