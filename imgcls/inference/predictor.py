"""Names and probabilities for pictures, with a checkpoint's own class names and preprocessing.

`imgcls-predict` and `imgcls.Predictor` are this. A picture goes the way of the validation images in training.
"""

from __future__ import annotations

import os

import numpy as np
import torch

from imgcls import pretrained
from imgcls.config.sections import AugmentConfig
from imgcls.data.loaders.make import make_loader
from imgcls.errors import DataError, reason
from imgcls.formats.recordio import MAX_PAYLOAD_BYTES
from imgcls.storage.paths import to_path
from imgcls.storage.reading import read_bounded
from imgcls.storage.remote import RemotePath


class Predictor:
    """Names the classes of an image, with the preprocessing that the checkpoint was trained with."""

    def __init__(self, prefix: str | os.PathLike[str], epoch: int | str = "auto", *, top: int = 5) -> None:
        """Load the network; an MXNet checkpoint without meta data is taken as 3 channels, no mean, scale 1.

        `prefix` and `epoch` are as in `imgcls.load_model`; `top` is how many classes a call gives.
        """
        ref = pretrained.locate(prefix, epoch)
        self.model = pretrained.build(pretrained.read(ref))
        self.top = top
        self.class_names: list[str] = list(ref.class_names)
        # {} for MXNet's own checkpoints: their files say nothing about it
        noted = ref.preprocessing
        self.image_shape = tuple(noted.get("image_shape") or (3, 224, 224))
        self._augment = AugmentConfig(
            rgb_mean=tuple(noted.get("mean") or (0.0,)), rgb_std=tuple(noted.get("std") or (1.0,)),
            val_resize=noted.get("val_resize"), interpolation=noted.get("interpolation") or "bilinear")

    def __call__(self, image: str | os.PathLike[str] | np.ndarray) -> list[tuple[str, float]]:
        """Return [(name, probability), ...], best first, for a file or uint8 pixels (H, W) or (H, W, C) in
        RGB.

        A class without a name is called by its number. DataError for what is no picture.
        """
        # threads=0: one image is decoded here, without starting any
        loader = make_loader(_OneImage(image), batch_size=1, image_shape=self.image_shape, train=False,
                             seed=0, augment_config=self._augment, device=torch.device("cpu"), threads=0,
                             on_bad="stop")
        with torch.no_grad():
            probabilities = self.model(next(iter(loader.epoch(0))).images).softmax(1)[0]
        best = probabilities.topk(min(self.top, len(probabilities)))
        return [(self._name(index), probability)
                for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)]

    def _name(self, index: int) -> str:
        return self.class_names[index] if index < len(self.class_names) else str(index)


class _OneImage:
    """A Source of one picture: a file, or pixels."""

    def __init__(self, image: str | os.PathLike[str] | np.ndarray) -> None:
        self.labels = np.zeros(1, np.int64)
        self.class_names = ()
        self.description = "image" if isinstance(image, np.ndarray) else os.fspath(image)
        self._pixels = image if isinstance(image, np.ndarray) else None

    def __len__(self) -> int:
        return 1

    def read(self, index: int) -> bytes | np.ndarray:
        """Return the file's bytes, or the pixels as (H, W, C)."""
        if self._pixels is not None:
            return self._pixels if self._pixels.ndim == 3 else self._pixels[:, :, None]
        try:
            path = to_path(self.description)
            if isinstance(path, RemotePath):
                return path.read_bytes(MAX_PAYLOAD_BYTES)
            return read_bounded(path, MAX_PAYLOAD_BYTES, takes_pipes=True)
        except OSError as error:
            raise DataError(self.description, reason(error)) from error

    def problem(self, index: int, reason: str) -> DataError:
        """Return the error for a picture that cannot be decoded."""
        return DataError(self.description, reason)
