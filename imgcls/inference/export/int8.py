"""int8: the pictures that ranges are measured on, and what the network loses by it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgcls.errors import UsageError, verbatim
from imgcls.inference.export.compare import Comparison
from imgcls.inference.export.exported import Description
from imgcls.inference.export.pictures import Pictures


@dataclass(frozen=True)
class Drop:
    """How an int8 export compares with its checkpoint; its metadata hold these numbers."""

    num_calibration_images: int
    num_images: int
    #: share of the images that both give the same label
    equal_labels: float
    #: top-1 accuracy of the export and of the checkpoint, None where the labels are not known
    accuracy: float | None
    checkpoint_accuracy: float | None

    @property
    def drop(self) -> float:
        """Return the lost accuracy; without labels its upper bound, the share of predictions that differ."""
        if self.accuracy is None or self.checkpoint_accuracy is None:
            return 1 - self.equal_labels
        return self.checkpoint_accuracy - self.accuracy

    def as_json(self) -> dict[str, float | None]:
        """Return the numbers as the description has them, with the drop."""
        return {**dataclasses.asdict(self), "drop": self.drop}

    def describe(self) -> str:
        """Return the loss in one line."""
        if self.accuracy is None or self.checkpoint_accuracy is None:
            return (f"int8: {1 - self.equal_labels:.2%} of the predicted labels differ (the pictures have "
                    "no labels: top-1 accuracy can be no more than this lower)")
        return (f"int8: top-1 accuracy {self.accuracy:.4f}, the checkpoint's {self.checkpoint_accuracy:.4f}: "
                f"a drop of {self.drop:.4f}; {1 - self.equal_labels:.2%} of the predicted labels differ")


def divide(pictures: Pictures, num_calibration: int) -> tuple[Pictures, Pictures]:
    """Return the pictures to measure ranges on, evenly spaced, and those to compare on: none is in both.

    At most half of them are for the ranges. UsageError for a single picture.
    """
    total = len(pictures)
    if total < 2:
        raise UsageError(f"`images` {verbatim(pictures.description)}: int8 needs two pictures at least, one "
                         "for its ranges and one to compare on, and better a hundred")
    count = min(num_calibration, total // 2)
    # evenly spaced, since pictures are sorted by class: the first hundred would be of one class, and the
    # ranges too narrow
    places = np.linspace(0, total - 1, count).astype(int)
    return pictures.subset(places), pictures.subset(np.setdiff1d(np.arange(total), places))


def measure(comparison: Comparison, wanted: np.ndarray, pictures: Pictures, description: Description,
            num_calibration: int) -> Drop:
    """Return what int8 lost on these pictures; `wanted` (n, classes) are the checkpoint's probabilities."""
    labels = _labels(pictures, description)
    # without labels only the share of equal predictions is known
    accuracy = before = None
    if labels is not None:
        accuracy = float((np.asarray(comparison.labels) == labels).mean())
        before = float((wanted.argmax(1) == labels).mean())
    return Drop(num_calibration, comparison.num_images, comparison.num_equal / comparison.num_images,
                accuracy, before)


def _labels(pictures: Pictures, description: Description) -> np.ndarray | None:
    """Return int (n,), the class of each picture, or None where it is not known for all."""
    found = [pictures.label(index) for index in range(len(pictures))]
    if all(isinstance(label, int) for label in found):
        labels = np.array(found)
        return labels if labels.min() >= 0 and labels.max() < description.num_classes else None
    return _by_folder([label if isinstance(label, Path) else Path() for label in found],
                      pictures.description, description.class_names)


def _by_folder(paths: Sequence[Path], root: str, names: Sequence[str]) -> np.ndarray | None:
    """Return the classes of files by the folders that they are in, which must all be names of classes."""
    places = {name: place for place, name in enumerate(names)}
    classes = [path.relative_to(root).parts[0] if path.is_relative_to(root) else "" for path in paths]
    # two classes of one name: a folder could be either
    if len(places) != len(names) or not all(name in places for name in classes):
        return None
    return np.array([places[name] for name in classes])
