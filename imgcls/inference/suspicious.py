"""Images whose label a trained network contradicts: often they are labelled wrong.

The measure is the network's confidence in another class where it gives the label hardly any probability; see
Northcutt et al. 2021, "Confident learning", which counts the same disagreements.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from imgcls.data.checks.findings import Finding
from imgcls.data.sources import Source
from imgcls.errors import ImgclsError, UsageError
from imgcls.inference.images import Image
from imgcls.inference.predictor import Predictor

#: the network is sure of another class, and gives the label less than this
# both: a network that hesitates between two look-alikes says nothing about the label
MIN_CONFIDENCE, MAX_LABEL_PROBABILITY = 0.9, 0.05


def find_suspicious(predictor: Predictor, name: str, source: Source, labels: np.ndarray,
                    indices: Sequence[int]) -> Iterator[Finding]:
    """Yield a finding with those of the samples `indices` whose label the network contradicts, if any.

    `labels` are those of all samples, int64 (N,). The predictor must return all of its classes (`top`).
    UsageError where these are not the classes of the data.
    """
    from tqdm import tqdm

    number_of = _numbers(predictor, source, labels)
    images = (_image(source, index) for index in indices)
    found: list[tuple[float, int, str]] = []
    answers = tqdm(predictor.predict(images), total=len(indices), desc=f"{name}, labels", unit="img",
                   disable=None, leave=False)
    for index, answer in zip(indices, answers, strict=True):
        # damaged images have a finding of their own
        if isinstance(answer, ImgclsError):
            continue
        ranking = {number: probability for number, (_, probability) in zip(
            answer.classes, answer.ranking, strict=True)}
        (best, confidence) = answer.ranking[0]
        number = number_of.get(int(labels[index]))
        if number is None:  # a label that is no class is a finding of its own
            continue
        label_probability = ranking.get(number, 0.0)
        if confidence > MIN_CONFIDENCE and label_probability < MAX_LABEL_PROBABILITY:
            shown = _called(source, int(labels[index]))
            found.append((confidence, index, f"{shown} ({label_probability:.3f}), the network predicts "
                                             f"{best} ({confidence:.3f})"))
    if found:
        # the most confident first: a reader may stop where the labels begin to be right
        found.sort(key=lambda entry: (-entry[0], entry[1]))
        yield Finding("suspicious label", "remark", f"{name}: {len(found):,} of {len(indices):,} images "
                      "have a label that the network contradicts with high confidence",
                      tuple(((name, index),) for _, index, _ in found), tuple(text for _, _, text in found))


def _numbers(predictor: Predictor, source: Source, labels: np.ndarray) -> dict[int, int]:
    """Return label of the data -> class of the network: by name where both have names, else by number."""
    ours, theirs = list(source.class_names), list(predictor.class_names)
    if ours and theirs:
        # compared by name: folders are numbered in sorted order, and one more class changes the numbers
        # after it
        # the same names in the same order: two classes of one name (ImageNet's crane) stay two
        if theirs[:len(ours)] == ours:
            return {number: number for number in range(len(ours))}
        places = {name: place for place, name in reversed(list(enumerate(theirs)))}  # the first of one name
        missing = [name for name in ours if name not in places]
        if not missing:
            return {number: places[name] for number, name in enumerate(ours)}
        raise UsageError(f"`model`: the network has no class {missing[0]!r}: it was trained on other classes")
    if labels.max() >= predictor.num_classes:
        raise UsageError(f"`model`: the network has {predictor.num_classes} classes, the data have the label "
                         f"{labels.max()}")
    return {number: number for number in range(predictor.num_classes)}


def _image(source: Source, index: int) -> Image:
    return Image(str(source.problem(index, "").path), lambda: source.read(index))


def _called(source: Source, label: int) -> str:
    return source.class_names[label] if label < len(source.class_names) else str(label)
