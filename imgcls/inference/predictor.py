"""Names and probabilities for pictures, with a checkpoint's own class names and preprocessing.

`imgcls-predict`, `imgcls-serve` and `imgcls.Predictor` use this. A picture is prepared as the validation
images are in training.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from imgcls.config import resolve as configuration
from imgcls.config.flags import convert
from imgcls.config.resolve import Config
from imgcls.config.sections import PREPROCESSING
from imgcls.data.loaders.streaming import num_cores
from imgcls.data.normalize import Normalizer
from imgcls.errors import ImgclsError, UsageError, unknown, verbatim
from imgcls.inference import features
from imgcls.inference.export.exported_network import require_layers
from imgcls.inference.export.load import load_network
from imgcls.inference.images import AnyImage, Image, as_image
from imgcls.inference.notes import about_larger_images
from imgcls.inference.test_time_augmentation import MeanOfViews, check_views
from imgcls.inference.views import ViewMaker, Views, in_batches, prepare
from imgcls.pretrained.class_names import find_class_names
from imgcls.pretrained.preprocessing import for_evaluation
from imgcls.training.precision import Precision, trained_dtype

#: images that go through the network together
BATCH_SIZE = 32  # small, for an early first line; `batch_size` is for those who want throughput

#: [(name, probability), ...], the likeliest class first
Ranking = list[tuple[str, float]]


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image: `ranking`, and the numbers of its classes in the same order.

    `seen` are the pixels that the network was given, uint8 (H, W, C) in RGB; `features` is the requested
    output of an inner layer, float32, or None.
    """

    image: str
    ranking: Ranking
    classes: list[int]
    seen: np.ndarray
    features: np.ndarray | None = None


class Predictor:
    """Names the classes of images, with the preprocessing that the checkpoint was trained with."""

    def __init__(self, prefix: str | os.PathLike[str], epoch: int | str = "auto", *, top: int = 5,
                 synset: str = "", crops: int = 1, flip: bool = False, shift: int = 0,
                 device: str = "cpu", dtype: str = "auto", **settings: Any) -> None:
        """Load the network.

        `prefix` and `epoch` are as in `imgcls.load_model`, or `prefix` is a file of imgcls-export; `top` is
        how many classes a call gives. What the checkpoint does not record about names and preprocessing is
        set by `synset`, a file with a name on each line, and by the settings of imgcls-predict
        (`image_shape`, `rgb_mean`, `rgb_std`, `mean_image`, `val_resize`, `interpolation`, `dataset`);
        without them an MXNet checkpoint is given its images as in MXNet's score.py. Probabilities are the
        mean over `crops` views (1, the centre; 5, the corners too; 10, those mirrored as well), with `flip`
        each also mirrored, and with `shift` each also shifted by so many pixels, up left and down right, with
        half the weight. `device` is torch's name of one; `dtype` is what the network computes in there:
        float32, bfloat16, float16, or auto, what it was trained in (`training.precision.trained_dtype`).
        `notes` says what was decided, and whatever else a person should know. UsageError for a device that is
        not there, and what `imgcls.load_model` raises.
        """
        if top < 1:
            raise UsageError(f"`top` {top}: must be at least 1")
        # checked before the network is looked for, and perhaps downloaded
        self.device = _find_device(device)
        dtype = _checked_dtype(dtype)
        config = configure(settings)
        ref, model = load_network(prefix, epoch, config, dtype)
        dtype, dtype_note = trained_dtype(dtype, ref.dtype, self.device)
        self._precision = Precision(dtype, self.device)
        # In evaluation mode, as `build` leaves it: batch statistics would make an image depend on its
        # neighbours.
        self.model = model.to(self.device)
        self.top = top
        self._evaluation = for_evaluation(config, ref, self.model)
        self.num_classes = self._evaluation.num_classes
        classes = find_class_names(ref, synset, self.num_classes)
        self.class_names: list[str] = list(classes.names)
        self._config = self._evaluation.config
        #: shape (C, H, W) of what the network is given
        self.image_shape = self._config.network.image_shape
        check_views(self.image_shape, flip=flip, shift=shift)
        self._shifted = MeanOfViews(self.model, shift=shift) if shift else None
        self._make = ViewMaker(self._config.augment, self.image_shape, crops=crops, flip=flip)
        self._normalize = Normalizer(self._config.augment, self.image_shape[0], self.device, self.image_shape)
        #: lines for a person, with settings between backquotes: the first says what is done to an image
        self.notes = [self._evaluation.description,
                      *filter(None, [self._evaluation.note, classes.note, dtype_note])]
        self._has_looked_at_size = False

    @overload
    def __call__(self, image: AnyImage) -> Ranking: ...

    @overload
    def __call__(self, image: Sequence[AnyImage]) -> list[Ranking]: ...

    def __call__(self, image: AnyImage | Sequence[AnyImage]) -> Ranking | list[Ranking]:
        """Return [(name, probability), ...], best first, for an image; for a list of images a list of these.

        An image is a file or URL, the bytes of one, or uint8 pixels (H, W) or (H, W, C) in RGB. A class
        without a name is called by its number. DataError for what is no picture.
        """
        if isinstance(image, (list, tuple)):
            return [_good(prediction).ranking for prediction in self.predict(image)]
        # one image is decoded here, without starting threads; its errors say no number
        (prediction,) = self.predict([as_image(image)], threads=0)  # type: ignore[arg-type]
        return _good(prediction).ranking

    def predict(self, images: Iterable[AnyImage | Image | ImgclsError], *, batch_size: int = BATCH_SIZE,
                threads: int | None = None, layer: str = "") -> Iterator[Prediction | ImgclsError]:
        """Yield a Prediction of each image in order, or, in its place, the error of one that cannot be read.

        Images may come from any iterable, an endless one too; the network computes `batch_size` of them at a
        time, and `threads` (None: one for each core) read and decode the next ones meanwhile. `layer` names
        an output inside the network by MXNet's name, such as flatten0_output, which becomes `features`.
        """
        named = (image if isinstance(image, (Image, ImgclsError)) else as_image(image, f"image {number}")
                 for number, image in enumerate(images))
        if layer:
            require_layers(self.model, "layer")
        if layer and (self._shifted or len(self._make.mirrored) > 1):
            raise UsageError("`layer`: the features are those of the centre: leave `crops`, `flip` and "
                             "`shift` out")
        threads = num_cores() if threads is None else threads
        with features.capture(self.model, layer) as captured:
            for batch in in_batches(prepare(named, self._make, threads), batch_size):
                yield from self._predict_batch(batch, captured)

    def layer_names(self) -> list[str]:
        """Return what `layer` of `predict` may be: the network's outputs by MXNet's names, in their order."""
        return features.output_names(self.model)

    def images_of(self, pixels: np.ndarray) -> Tensor:
        """Return what the network is given for views uint8 (N, V, H, W, C): float32 (N * V, C, H, W)."""
        count = len(pixels)
        # As bytes: a quarter of what floats would take on their way to a GPU.
        flat = torch.from_numpy(pixels.reshape(-1, *pixels.shape[2:])).to(self.device)
        return self._normalize(flat, np.tile(self._make.mirrored[:pixels.shape[1]], count))

    def name_of(self, index: int) -> str:
        """Return the name of a class, or its number as text where it has none."""
        return self.class_names[index] if index < len(self.class_names) else str(index)

    @torch.no_grad()
    def _predict_batch(self, batch: list[Views | ImgclsError],
                       captured: features.Captured) -> Iterator[Prediction | ImgclsError]:
        """Yield the predictions for a batch, its errors in their places."""
        good = [views for views in batch if not isinstance(views, ImgclsError)]
        answers: Iterator[Prediction | ImgclsError] = iter(())
        if good:
            self._look_at_size(good[0])
            images = self.images_of(np.stack([views.pixels for views in good]))
            with self._precision.autocast():
                logits = self._ask(images, len(good))
            probabilities = logits.float().softmax(1)
            # the mean over the views of an image
            probabilities = probabilities.unflatten(0, (len(good), -1)).mean(1)
            best = probabilities.topk(min(self.top, probabilities.shape[1]))
            values, classes = best.values.tolist(), best.indices.tolist()
            rows = captured.rows(images, probabilities)
            answers = (self._answer(*about) for about in zip(good, values, classes, rows, strict=True))
        for views in batch:
            yield views if isinstance(views, ImgclsError) else next(answers)

    def _ask(self, images: Tensor, count: int) -> Tensor:
        """Return the logits of all views of `count` images, (N * V, classes)."""
        if not self._shifted:
            return self.model(images)
        mirrored = torch.from_numpy(np.tile(self._make.mirrored, count)).to(self.device)
        return self._shifted(images, mirrored)

    def _answer(self, views: Views, values: list[float], classes: list[int],
                row: np.ndarray | None) -> Prediction | ImgclsError:
        if not np.isfinite(values).all():  # weights of a run that diverged
            return views.image.problem("the network's output for it is not a number (nan): its "
                                       "weights are damaged")
        ranking = [(self.name_of(index), value) for index, value in zip(classes, values, strict=True)]
        return Prediction(views.image.name, ranking, classes, views.pixels[0], row)

    def _look_at_size(self, views: Views) -> None:
        """Add a note, at the first picture, on what the crop cuts off, unless that was decided before."""
        if self._has_looked_at_size:
            return
        self._has_looked_at_size = True
        if self._evaluation.cut_by:
            note = about_larger_images(self._evaluation, verbatim(views.image.name), views.short_edge)
            self.notes += [note] if note else []
        elif self._config.augment.val_resize is None:
            self.notes.append("note: the checkpoint does not say whether images are resized first (an older "
                              "imgcls did not record it): the size of each picture decides; `val_resize` N "
                              "sets it for all, 0 for none")


def _find_device(name: str) -> torch.device:
    """Return torch's device of a name once it was tried; UsageError for one that is not there."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    # AssertionError: a torch without CUDA; NotImplementedError: a backend without its driver, and meta
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UsageError(f"`device` {verbatim(name)}: this machine has no such device; cpu is always there, "
                         "and cuda:0 is the first GPU") from None
    return device


def _checked_dtype(dtype: str) -> str:
    return str(convert(configuration.FIELDS["dtype"], dtype))


def _good(prediction: Prediction | ImgclsError) -> Prediction:
    if isinstance(prediction, ImgclsError):
        raise prediction
    return prediction


def configure(settings: dict[str, Any]) -> Config:
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
