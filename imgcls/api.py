"""What Python code uses: `imgcls.fit` on arrays, `imgcls.load_model` and `imgcls.Predictor` on checkpoints."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imgcls import checkpoint, graph, storage
from imgcls import config as configuration
from imgcls.data import augment
from imgcls.data.sources import ArraySource, Splits
from imgcls.errors import DataError, UsageError
from imgcls.formats import params, symbol
from imgcls.sections import AugmentConfig

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

    `epoch` is a number or "auto" for the newest. Raises UsageError for an epoch that is not there and DataError for
    damaged files.
    """
    arrays, path = _weights(os.fspath(prefix), str(epoch))
    settings = Path(f"{os.fspath(prefix)}-network.json")
    if settings.exists():
        return _foreign_network(settings, arrays, path).eval()
    net = symbol.load(_symbol_path(path, os.fspath(prefix)))
    return graph.from_symbol(net, arrays, path=path).eval()


class Predictor:
    """Class names and probabilities for an image, with the preprocessing that the checkpoint was trained with."""

    def __init__(self, prefix: str | os.PathLike[str], epoch: int | str = "auto", *, top: int = 5) -> None:
        """Loads the network; an MXNet checkpoint without meta data is taken as 3 channels, no mean, scale 1."""
        import torch

        self.model, self.top = load_model(prefix, epoch), top
        meta = checkpoint.read_meta(os.fspath(prefix))
        self.class_names: list[str] = [str(name) for name in meta.get("class_names") or ()]
        pre = meta.get("preprocessing") or {}
        self.image_shape = tuple(pre.get("image_shape") or (3, 224, 224))
        mean, std = tuple(pre.get("mean") or (0.0,)), tuple(pre.get("std") or (1.0,))
        self._augment = AugmentConfig(rgb_mean=mean, rgb_std=std)
        self._normalize = augment.Normalizer(self._augment, self.image_shape[0], torch.device("cpu"))

    def __call__(self, image: str | os.PathLike[str] | np.ndarray) -> list[tuple[str, float]]:
        """[(name, probability), ...], best first, for a file or uint8 pixels (H, W) or (H, W, C) in RGB."""
        import torch

        pixels = image if isinstance(image, np.ndarray) else read_image(image, self.image_shape[0])
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        batch = torch.from_numpy(np.ascontiguousarray(pixels))[None]
        batch, _ = augment.fit(batch, self._augment, self.image_shape, train=False)
        batch = _shrink(batch, self.image_shape)
        with torch.no_grad():
            probabilities = self.model(self._normalize(batch)).softmax(1)[0]
        best = probabilities.topk(min(self.top, len(probabilities)))
        return [(self.class_names[i] if i < len(self.class_names) else str(i), p)
                for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]


def read_image(path: str | os.PathLike[str], channels: int) -> np.ndarray:
    """Decode a picture file: uint8 (H, W, 3) RGB or (H, W) for one channel. DataError where it is none."""
    import cv2

    try:
        encoded = np.frombuffer(storage.local(path).read_bytes(), np.uint8)
    except OSError as error:
        raise DataError(path, (error.strerror or str(error)).lower()) from error
    image = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR) if len(encoded) else None
    if image is None:
        raise DataError(path, "not a picture that OpenCV can read")
    return image if channels == 1 else np.ascontiguousarray(image[:, :, ::-1])


def _shrink(batch: Any, shape: Sequence[int]) -> Any:
    """Scale a larger picture so that its short edge fits, and cut the centre."""
    import torch.nn.functional as F

    _, height, width = shape
    scale = max(height / batch.shape[1], width / batch.shape[2])
    if scale < 1:
        size = [max(round(batch.shape[1] * scale), height), max(round(batch.shape[2] * scale), width)]
        batch = F.interpolate(batch.permute(0, 3, 1, 2), size, mode="bilinear", antialias=True).permute(0, 2, 3, 1)
    top, left = (batch.shape[1] - height) // 2, (batch.shape[2] - width) // 2
    return batch[:, top:top + height, left:left + width]


def _foreign_network(settings: Path, arrays: dict[str, np.ndarray], path: str) -> nn.Module:
    """A network that no symbol expresses: built anew from its settings, with the weights."""
    from imgcls.networks import build_network
    from imgcls.sections import NetworkConfig

    try:
        given = json.loads(settings.read_text(encoding="utf-8"))
        config = NetworkConfig(**{**given, "image_shape": tuple(given["image_shape"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(settings, f"not the settings of a network: {error}") from error
    model = build_network(config, seed=0)
    graph.load_arrays(model, arrays, path=path)
    return model


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


def _weights(prefix: str, epoch: str) -> tuple[dict[str, np.ndarray], str]:
    """The arrays that (prefix, epoch) names, and their path. A prefix may also be the .params file itself."""
    if prefix.endswith(".params"):
        return params.load(prefix), prefix
    saved = checkpoint.load(prefix, epoch)
    if saved is None:
        raise UsageError(f"--model {prefix}: there is no {prefix}-0001.params or any other epoch")
    return dict(saved.arrays), saved.path


def _symbol_path(params_path: str, prefix: str) -> Path:
    """The symbol that goes with the weights: PREFIX-symbol.json, also for PREFIX-0008.params and PREFIX-0-0008."""
    for stem in (prefix.removesuffix(".params"), params_path.rpartition("-")[0],
                 params_path.rpartition("-")[0].removesuffix("-0")):
        if Path(f"{stem}-symbol.json").exists():
            return Path(f"{stem}-symbol.json")
    raise DataError(f"{prefix}-symbol.json", "does not exist; it says which network the weights belong to")
