"""Names and probabilities for pictures, with a checkpoint's own class names and preprocessing.

`imgcls-predict` and `imgcls.Predictor` are this. A picture goes the way of the validation images in training.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch

from imgcls import pretrained
from imgcls.config import resolve as configuration
from imgcls.config.resolve import Config
from imgcls.config.sections import PREPROCESSING
from imgcls.data.loaders.make import make_loader, typical_edge
from imgcls.errors import DataError, UsageError, reason, unknown, verbatim
from imgcls.formats.recordio import MAX_PAYLOAD_BYTES
from imgcls.inference.notes import about_larger_images
from imgcls.pretrained.class_names import find_class_names
from imgcls.pretrained.preprocessing import for_evaluation
from imgcls.storage.paths import to_path
from imgcls.storage.reading import read_bounded
from imgcls.storage.remote import RemotePath


class Predictor:
    """Names the classes of an image, with the preprocessing that the checkpoint was trained with."""

    def __init__(self, prefix: str | os.PathLike[str], epoch: int | str = "auto", *, top: int = 5,
                 synset: str = "", **settings: Any) -> None:
        """Load the network.

        `prefix` and `epoch` are as in `imgcls.load_model`; `top` is how many classes a call gives. What the
        checkpoint does not say of names and preprocessing is said by `synset`, a file with a name on each
        line, and by settings as imgcls-predict has them (`image_shape`, `rgb_mean`, `rgb_std`, `mean_image`,
        `val_resize`, `interpolation`, `dataset`); without them an MXNet checkpoint is given its images as in
        MXNet's score.py. `notes` says what was decided, and whatever else a person should know.
        """
        if top < 1:
            raise UsageError(f"`top` {top}: must be at least 1")
        config = _config(settings)
        ref = pretrained.locate(prefix, epoch)
        self.model = pretrained.build(pretrained.read(ref))
        self.top = top
        self._evaluation = for_evaluation(config, ref, self.model)
        classes = find_class_names(ref, synset, self._evaluation.num_classes)
        self.class_names: list[str] = list(classes.names)
        self._config = self._evaluation.config
        #: shape (C, H, W) of what the network is given
        self.image_shape = self._config.network.image_shape
        #: lines for a person, with settings between backquotes: the first says what is done to an image
        self.notes = [self._evaluation.description, *filter(None, [self._evaluation.note, classes.note])]
        self._has_looked_at_size = False

    def __call__(self, image: str | os.PathLike[str] | np.ndarray) -> list[tuple[str, float]]:
        """Return [(name, probability), ...], best first, for a file or uint8 pixels (H, W) or (H, W, C) in
        RGB.

        A class without a name is called by its number. DataError for what is no picture.
        """
        source = _OneImage(image)
        # threads=0: one image is decoded here, without starting any
        loader = make_loader(source, batch_size=1, image_shape=self.image_shape, train=False,
                             seed=0, augment_config=self._config.augment, device=torch.device("cpu"),
                             threads=0, on_bad="stop")
        with torch.no_grad():
            probabilities = self.model(next(iter(loader.epoch(0))).images).softmax(1)[0]
        self._look_at_size(source)
        best = probabilities.topk(min(self.top, len(probabilities)))
        return [(self._name(index), probability)
                for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)]

    def _name(self, index: int) -> str:
        return self.class_names[index] if index < len(self.class_names) else str(index)

    def _look_at_size(self, source: _OneImage) -> None:
        """Note, at the first picture, what is cut off from it; where nobody has decided about that."""
        if self._has_looked_at_size:
            return
        self._has_looked_at_size = True
        if self._evaluation.cut_by:
            note = about_larger_images(self._evaluation, verbatim(source.description), typical_edge(source))
            self.notes += [note] if note else []
        elif self._config.augment.val_resize is None:
            self.notes.append("note: the checkpoint does not say whether images are resized first (an older "
                              "imgcls did not write it down): the size of each picture decides; "
                              "`val_resize` N decides for all, 0 for none")


def _config(settings: dict[str, Any]) -> Config:
    """Return the configuration with these settings of preprocessing; UsageError for any other."""
    settings = {name: value for name, value in settings.items() if value is not None}
    for name in settings:
        if name not in (*PREPROCESSING, "dataset"):
            raise unknown("setting", name, (*PREPROCESSING, "dataset"))
    defaults: dict[str, Any] = {}
    if settings.get("dataset"):
        config = configuration.build({}, {"dataset": settings["dataset"]})
        defaults = dict(configuration.dataset_module(config).DEFAULTS)
    return configuration.build(defaults, settings)


class _OneImage:
    """A Source of one picture: a file, or pixels."""

    def __init__(self, image: str | os.PathLike[str] | np.ndarray) -> None:
        self.labels = np.zeros(1, np.int64)
        self.class_names = ()
        self.description = "image" if isinstance(image, np.ndarray) else os.fspath(image)
        self._content: bytes | np.ndarray | None = _checked(image) if isinstance(image, np.ndarray) else None

    def __len__(self) -> int:
        return 1

    def read(self, index: int) -> bytes | np.ndarray:
        """Return the file's bytes, or the pixels as (H, W, C)."""
        if self._content is None:  # once: a pipe can be read no second time
            try:
                path = to_path(self.description)
                self._content = (path.read_bytes(MAX_PAYLOAD_BYTES) if isinstance(path, RemotePath)
                                 else read_bounded(path, MAX_PAYLOAD_BYTES, takes_pipes=True))
            except OSError as error:
                raise DataError(self.description, reason(error)) from error
        return self._content

    def problem(self, index: int, reason: str) -> DataError:
        """Return the error for a picture that cannot be decoded."""
        return DataError(self.description, reason)


def _checked(pixels: np.ndarray) -> np.ndarray:
    """Return pixels as (H, W, C); UsageError for what is not uint8 or no picture."""
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or not pixels.size:
        shape = "x".join(map(str, pixels.shape))
        raise UsageError(f"an image must be uint8 (H, W) or (H, W, C) in RGB, not {pixels.dtype} {shape}")
    return pixels if pixels.ndim == 3 else pixels[:, :, None]
