"""Arrays and results as `metric.py` needs them: lists of arrays, pairs of names and values."""

from __future__ import annotations

from typing import Any

import numpy as np

from imgcls.compat.mxnet.nd import NDArray


# 0 in place of a division by 0.
def f1_score(counts: np.ndarray) -> float:
    """Return the F1 score of (true positives, predicted positives, actual positives)."""
    right, predicted, there = counts
    precision = right / predicted if predicted else 0.0  # MXNet's 0, where sklearn warns
    recall = right / there if there else 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def values(array: Any) -> np.ndarray:
    """Return the numpy array of an NDArray or of anything like one, without a copy."""
    return array._data if isinstance(array, NDArray) else np.asarray(array)


def as_list(arrays: Any) -> list[Any]:
    """Return a list of arrays; of a single array a list of one."""
    return [arrays] if isinstance(arrays, (NDArray, np.ndarray)) else list(arrays)


# User-defined metrics call it first.
def check_label_shapes(labels: Any, preds: Any, wrap: bool = False, shape: bool = False) -> tuple[Any, Any]:
    """Return (labels, preds); a ValueError where their lengths, or with `shape` their shapes, differ.

    With `wrap` a single array becomes a list of one.
    """
    found = (labels.shape, preds.shape) if shape else (len(labels), len(preds))
    if found[0] != found[1]:
        raise ValueError(f"Shape of labels {found[0]} does not match shape of predictions {found[1]}")
    if wrap:
        labels, preds = ([one] if isinstance(one, NDArray) else one for one in (labels, preds))
    return labels, preds


# The message is MXNet's.
def of_same_count(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return the labels; a ValueError unless there is one for each prediction."""
    if len(label) != len(prediction):
        raise ValueError(f"Shape of labels {label.shape} does not match shape of predictions "
                         f"{prediction.shape}")
    return label


# Composite metrics have lists of names and values, other metrics one of each.
def as_pairs(found: tuple[Any, Any]) -> list[tuple[str, float]]:
    """Return [(name, value), ...] of a metric's (name, value), each of which may be a list."""
    names, values = ([part] if not isinstance(part, list) else part for part in found)
    return list(zip(names, values, strict=True))


def joined(pairs: list[list[tuple[str, float]]]) -> tuple[list[str], list[float]]:
    """Return (names, values) of the pairs of several metrics."""
    flat = [pair for one in pairs for pair in one]
    return [name for name, _ in flat], [value for _, value in flat]
