"""What Python code uses: `imgcls.fit` on arrays, `imgcls.load_model` and `imgcls.Predictor` on checkpoints.

`imgcls/__init__.py` loads this file when one of them is first used, since it imports torch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from imgcls import pretrained
from imgcls.config import resolve as configuration
from imgcls.data.sources import ArraySource, Splits
from imgcls.errors import UsageError
from imgcls.inference.predictor import Predictor
from imgcls.pretrained.teacher import make_teacher
from imgcls.training.run import run

__all__ = ["Predictor", "Result", "fit", "load_model"]


@dataclass(frozen=True)
class Result:
    """The metrics of the last epoch, and the trained network in evaluation mode, which gives logits."""

    metrics: dict[str, float]
    model: nn.Module


def fit(train: tuple[np.ndarray, np.ndarray], val: tuple[np.ndarray, np.ndarray] | None = None,
        **settings: Any) -> Result:
    """Train on arrays: what `imgcls-train` does, with its flags as keywords (`network="lenet"`, `lr=.1`).

    `train` and `val` are (images, labels). Images are uint8 or float (N, H, W), (N, C, H, W) or flat (N, P);
    uint8 is scaled by 1/255 unless `rgb_mean` or `rgb_std` say otherwise, float is taken as it is. Labels are
    whole numbers from 0. `image_shape` and `num_classes` follow from the data where they are not given; flat
    rows for a network that takes images need `image_shape`, such as "1,28,28". Prints nothing but warnings
    unless `verbose=True`. Raises the UsageError, DataError and RunError of `imgcls.errors`.
    """
    # The one keyword that is no flag: a library prints nothing unless it is asked to, a command does.
    verbose = bool(settings.pop("verbose", False))
    # Read before the settings are built, since the arrays are brought into this shape first.
    shape = settings.get("image_shape")
    if shape is not None:
        shape = configuration.convert(configuration.FIELDS["image_shape"], shape)
    # What follows from the arrays is passed as defaults, so that any keyword wins over it.
    source = _array_source(train, shape, "train")
    splits = Splits(source, None if val is None else _array_source(val, shape, "val"), is_given=True)
    largest = int(np.asarray(source.labels).max(initial=0))
    # NDArrayIter's examples feed floats; uint8 pixels become 0-1, which the same learning rates suit. At
    # least two classes: with one there is nothing to learn.
    defaults = {"rgb_std": (255.0,), "image_shape": source.images.shape[1:], "batch_size": 64,
                "num_epochs": 10, "num_classes": max(largest + 1, 2)}
    config = configuration.build(defaults, settings)
    # Such a run ends without a network, and a Result has one.
    if config.train.test_io:
        raise UsageError("test_io: reads the data and trains nothing; it is for the command "
                         "(imgcls-train --test-io 1)")
    if config.train.dry_run:
        raise UsageError("dry_run: trains nothing; it is for the command (imgcls-train --dry-run)")
    for setting in ("find_lr", "find_batch_size"):
        if getattr(config.find, setting):
            flag = setting.replace("_", "-")
            raise UsageError(f"{setting}: trains nothing that stays; it is for the command (imgcls-train "
                             f"--{flag})")
    # `splits` is a function, as it is for the commands: a run calls it when it is ready to read.
    model, metrics = run(config, splits=lambda: splits, command="imgcls.fit", quiet=not verbose,
                         make_teacher=make_teacher)
    assert model is not None  # only test_io ends without one
    return Result(metrics, model.eval())


def load_model(prefix: str | os.PathLike[str], epoch: int | str = "auto") -> nn.Module:
    """Return the network of a checkpoint, ours or MXNet's, in evaluation mode.

    It takes float (N, C, H, W) and gives logits (N, classes).

    `prefix` may also be a network of MXNet's zoo (`resnext-101`), a URL of a prefix, or torchvision:NAME: see
    `pretrained.locate`. `epoch` is a number or "auto" for the newest. Raises UsageError for an epoch that is
    not there and DataError for damaged files.
    """
    return pretrained.build(pretrained.read(pretrained.locate(prefix, epoch)))


def _array_source(data: tuple[np.ndarray, np.ndarray], shape: tuple[int, ...] | None,
                  argument: str) -> ArraySource:
    """Return checked arrays in the loader's layout: (N, C, H, W) or (N, P), uint8 or float32."""
    try:
        images, labels = (np.asarray(array) for array in data)
    except (TypeError, ValueError):
        # e.g. a single array, or lists of different lengths: numpy's own message would name no argument
        raise UsageError(f"{argument}: must be a pair (images, labels) of arrays") from None
    if images.ndim < 2 or images.dtype == object:
        raise UsageError(f"{argument}: images must be (N, H, W), (N, C, H, W) or (N, P), not {images.shape}")
    # grey images rarely come with an axis for their one channel
    if images.ndim == 3:
        images = images[:, None]
    # Only flat rows are reshaped: images of another size are a mistake that must not be hidden.
    if shape is not None and images.ndim == 2:
        if int(np.prod(shape)) != images.shape[1]:
            raise UsageError(f"image_shape {shape}: the rows of {argument} have {images.shape[1]} values")
        images = images.reshape(-1, *shape)
    # uint8 stays: it is a quarter of the memory, and is normalised batch by batch on the device
    if images.dtype != np.uint8:
        images = images.astype(np.float32, copy=False)
    # Floats are fine where they are whole numbers, as MXNet and text files have them; one-hot rows are not.
    if labels.ndim != 1 or not _are_whole(labels):
        raise UsageError(f"{argument}: labels must be one whole number per image")
    return ArraySource(images, labels.astype(np.int64), description=f"arrays ({argument})")


def _are_whole(labels: np.ndarray) -> bool:
    """Return whether all labels are whole numbers; names of classes and nan are none."""
    try:
        with np.errstate(invalid="ignore"):  # nan
            return labels.dtype.kind in "biufO" and np.array_equal(labels, labels.astype(np.int64))
    except (TypeError, ValueError, OverflowError):  # objects that are no numbers
        return False
