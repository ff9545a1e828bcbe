"""Figures about predictions: per class, what is confused with what, how far a confidence can be trusted.

numpy arrays in, numbers out; nothing here depends on a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: equal parts of 0..1 that confidences are put into: the number that papers use
NUM_BINS = 15
#: the temperature is searched between these
_MIN_T, _MAX_T = 0.05, 20.0
_GOLDEN = (5 ** 0.5 - 1) / 2


@dataclass(frozen=True)
class Predictions:
    """The predictions for N images, in the order in which they were scored.

    `top` int64 (N, k) are the likeliest classes, best first, `probabilities` float32 (N, k) theirs;
    `label_probability` float32 (N,) is that of the right class. `logits` float32 (M, C) are of some of the
    images, evenly chosen, whose labels are `logit_labels` (M,).
    """

    labels: np.ndarray
    top: np.ndarray
    probabilities: np.ndarray
    label_probability: np.ndarray
    logits: np.ndarray
    logit_labels: np.ndarray
    num_classes: int

    @property
    def predicted(self) -> np.ndarray:
        """Return the likeliest class of each image, int64 (N,)."""
        return self.top[:, 0]

    @property
    def confidence(self) -> np.ndarray:
        """Return the probability of the likeliest class, float32 (N,)."""
        return self.probabilities[:, 0]

    @property
    def is_right(self) -> np.ndarray:
        """Return which images were classified correctly, bool (N,)."""
        return self.predicted == self.labels

    def mistakes(self, count: int) -> np.ndarray:
        """Return the positions of the most confident mistakes, at most `count`, the most confident first."""
        wrong = np.flatnonzero(~self.is_right)
        # stable: of equal confidences the first image, on every machine
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")][:count]


@dataclass(frozen=True)
class ClassFigures:
    """Of each of C classes, int64 (C,): its images, how often it was predicted, and how often correctly."""

    num_images: np.ndarray
    num_said: np.ndarray
    num_right: np.ndarray

    @property
    def precision(self) -> np.ndarray:
        """Return the share of the predictions of a class that are correct; nan for one never predicted."""
        return _share(self.num_right, self.num_said)

    @property
    def recall(self) -> np.ndarray:
        """Return the share of a class's images that were predicted as it; nan for one without images."""
        return _share(self.num_right, self.num_images)

    @property
    def f1(self) -> np.ndarray:
        """Return the harmonic mean of precision and recall; nan for a class without images or predictions."""
        return _share(2 * self.num_right, self.num_images + self.num_said)


def class_figures(predictions: Predictions) -> ClassFigures:
    """Count the images of each class."""
    count = predictions.num_classes
    labels, predicted = predictions.labels, predictions.predicted
    return ClassFigures(np.bincount(labels, minlength=count), np.bincount(predicted, minlength=count),
                        np.bincount(labels[predictions.is_right], minlength=count))


def confusion(predictions: Predictions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (label, predicted, count), int64 each, of all pairs that occur: of many classes most do not."""
    # one number for each pair: counted without a table of C x C, which for 21,841 classes takes 4 GB
    pairs, counts = np.unique(predictions.labels * predictions.num_classes + predictions.predicted,
                              return_counts=True)
    return pairs // predictions.num_classes, pairs % predictions.num_classes, counts


def confusion_matrix(predictions: Predictions) -> np.ndarray:
    """Return counts int64 (C, C): a row for each class, a column for each predicted class."""
    # the callers have at most MAX_MATRIX_CLASSES classes: more would take gigabytes
    matrix = np.zeros((predictions.num_classes, predictions.num_classes), np.int64)
    labels, predicted, counts = confusion(predictions)
    matrix[labels, predicted] = counts
    return matrix


@dataclass(frozen=True)
class Calibration:
    """Of each bin of confidences: the number of images, their mean confidence, and the share that is right.

    The expected calibration error `ece` is the mean distance of the two over the images (Guo et al., 2017).
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float


def calibration(confidence: np.ndarray, is_right: np.ndarray) -> Calibration:
    """Compare confidences (N,) with how often they were right (N,)."""
    confidence = np.nan_to_num(confidence)  # nan, from a network that diverged, counts as 0
    bins = np.clip((confidence * NUM_BINS).astype(np.int64), 0, NUM_BINS - 1)
    counts = np.bincount(bins, minlength=NUM_BINS)
    sums = np.bincount(bins, weights=confidence, minlength=NUM_BINS)
    right = np.bincount(bins, weights=is_right, minlength=NUM_BINS)
    return Calibration(counts, _share(sums, counts), _share(right, counts),
                       float(np.abs(sums - right).sum() / max(len(confidence), 1)))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature that logits (M, C) must be divided by so that their probabilities fit best.

    It has the least negative log-likelihood, found by golden section: that has one minimum over log T.
    """
    # The largest is subtracted before the exponential, which would be infinite; one row a class, as sums over
    # long rows are several times faster.
    shifted = np.ascontiguousarray((logits - logits.max(1, keepdims=True)).T, np.float32)
    told = float(shifted[labels, np.arange(len(labels))].mean(dtype=np.float64))
    low, high = np.log(_MIN_T), np.log(_MAX_T)
    inner = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    losses = [_loss(shifted, told, np.exp(t)) for t in inner]
    # one new loss a step: the other one is that of the step before
    while high - low > 1e-3:
        if losses[0] < losses[1]:
            high, inner = inner[1], (inner[1] - _GOLDEN * (inner[1] - low), inner[0])
            losses = [_loss(shifted, told, np.exp(inner[0])), losses[0]]
        else:
            low, inner = inner[0], (inner[1], inner[0] + _GOLDEN * (high - inner[0]))
            losses = [losses[1], _loss(shifted, told, np.exp(inner[1]))]
    return float(np.exp((low + high) / 2))


def calibration_at(logits: np.ndarray, labels: np.ndarray, temperature: float) -> Calibration:
    """Return the calibration that logits divided by a temperature have."""
    scaled = logits / temperature
    exponentials = np.exp(scaled - scaled.max(1, keepdims=True))
    return calibration(exponentials.max(1) / exponentials.sum(1), scaled.argmax(1) == labels)


def shown_names(names: Sequence[str], num_classes: int) -> list[str]:
    """Return a name for each class: its number where it has none."""
    return [names[number] if number < len(names) and names[number] else str(number)
            for number in range(num_classes)]


def _loss(shifted: np.ndarray, told: float, temperature: float) -> float:
    """Return the negative log-likelihood of logits (C, M), 0 at most, whose mean at the labels is `told`."""
    scaled = shifted * np.float32(1 / temperature)
    sums = np.exp(scaled, out=scaled).sum(0)
    return float(np.log(sums, out=sums).mean(dtype=np.float64)) - told / temperature


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
