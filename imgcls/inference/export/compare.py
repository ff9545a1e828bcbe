"""Compare an export with its checkpoint: both classify the same pictures, each with its own runtime."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from imgcls.config.resolve import Config
from imgcls.data.loaders.make import make_loader
from imgcls.inference.export.exported import Exported
from imgcls.inference.export.pictures import Pictures

#: a class whose probability is nearer than this to the best is as good: rounding makes such differences
TIE = 1e-5
_BATCH = 16  # more than one: an export whose batch axis got fixed must not pass


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison."""

    num_images: int
    num_equal: int
    #: the largest difference of any class' probability
    max_difference: float
    #: seconds that the export took in all
    seconds: float
    #: numbers of the pictures whose labels differ
    different: Sequence[int]
    #: int (num_images,): the labels that the export gives
    labels: Sequence[int] = ()

    @property
    def is_equal(self) -> bool:
        """Return whether every label is the checkpoint's."""
        return self.num_equal == self.num_images


@dataclass(frozen=True)
class Expected:
    """The checkpoint's results on the pictures."""

    #: float32 (n, classes)
    probabilities: np.ndarray
    #: what its network was given, where the export takes that
    inputs: np.ndarray | None
    #: how many pictures have other pixels when imgcls reads their files: decoded smaller, or to grey
    num_read_otherwise: int = 0
    #: how many of these get another label then
    num_other_labels: int = 0


def expected(exported: Exported, config: Config, pictures: Pictures) -> Expected:
    """Run the checkpoint as imgcls-score and imgcls-predict do, on the pixels that the export gets.

    An export that takes pixels is run by programs that decode all of a JPEG, where imgcls decodes a large
    one at a reduced size. That is no error of the export, so both get all of the pixels here. How often the
    checkpoint's result differs when imgcls reads the files itself is counted separately.

    DataError for a picture that cannot be decoded.
    """
    probabilities, inputs = [], []
    num_read_otherwise = num_other_labels = 0
    takes_pixels = exported.description.takes_pixels
    shown = pictures.decoded(exported.description.input_shape[3] or 3) if takes_pixels else pictures
    read = _images(exported, config, pictures) if takes_pixels and not pictures.is_made else None
    with torch.no_grad():
        for images in _images(exported, config, shown):
            probabilities.append(exported.servable.network(images).softmax(1).numpy())
            if not takes_pixels:
                inputs.append(images.contiguous().numpy())
            elif read is not None:
                of_files = next(read)
                # few or none: the network is run again for these alone
                rows = (of_files != images).flatten(1).any(1)
                if rows.any():
                    labels = exported.servable.network(of_files[rows]).argmax(1).numpy()
                    num_read_otherwise += len(labels)
                    num_other_labels += int((labels != probabilities[-1][rows.numpy()].argmax(1)).sum())
    return Expected(np.concatenate(probabilities), np.concatenate(inputs) if inputs else None,
                    num_read_otherwise, num_other_labels)


def _images(exported: Exported, config: Config, pictures: Pictures) -> Iterator[torch.Tensor]:
    """Yield batches, float32 (n, C, H, W), of what the checkpoint's network is given."""
    loader = make_loader(pictures, batch_size=_BATCH, image_shape=exported.description.image_shape,
                         augment_config=config.augment, train=False, seed=0, device=torch.device("cpu"),
                         threads=0, on_bad="stop")
    for batch in loader.epoch(0):
        yield batch.images[:batch.num_valid]


def compare(exported: Exported, run: Callable[[np.ndarray], np.ndarray], pictures: Pictures,
            checkpoint: Expected) -> Comparison:
    """Run the export on the pictures (or the network's inputs) and compare with the checkpoint's results."""
    wanted = checkpoint.probabilities
    found = np.empty_like(wanted)
    started = time.perf_counter()  # decoding is included, as it is for its users
    for rows, batch in batches(exported, pictures, checkpoint.inputs):
        found[rows] = run(batch)
    seconds = time.perf_counter() - started
    labels = found.argmax(1)
    best = wanted.max(1)
    is_equal = wanted[np.arange(len(wanted)), labels] >= best - TIE
    # argmax of a row of nan is 0, which would be right where the label happens to be 0.
    is_equal &= np.isfinite(found).all(1)
    return Comparison(len(wanted), int(is_equal.sum()), float(np.abs(found - wanted).max()), seconds,
                      np.flatnonzero(~is_equal).tolist(), labels.tolist())


def batches(exported: Exported, pictures: Pictures,
            inputs: np.ndarray | None) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield (numbers of pictures, a batch of them as the export takes it).

    Successive pictures of one size are in one batch, at most 16.
    """
    if inputs is not None:
        for first in range(0, len(inputs), _BATCH):
            rows = list(range(first, min(first + _BATCH, len(inputs))))
            yield rows, inputs[rows]
        return
    num_channels = exported.description.input_shape[3]
    assert num_channels
    rows, images = [], []
    for index in range(len(pictures)):
        image = pictures.pixels(index, num_channels)
        # a batch is one array: a picture of another size begins the next one
        if images and (image.shape != images[0].shape or len(images) == _BATCH):
            yield rows, np.stack(images)
            rows, images = [], []
        rows.append(index)
        images.append(image)
    if images:
        yield rows, np.stack(images)
