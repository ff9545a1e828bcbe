"""The loss of a step: cross-entropy, with smoothed or mixed labels and weights of classes where asked for.

Made by `run`, called by the trainer with the logits of each micro-batch. Without any of its settings it is
the plain mean, bit for bit.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from imgcls.config.sections import RegularizationConfig
from imgcls.data.loaders.batch import Batch
from imgcls.errors import UsageError, verbatim
from imgcls.training.distillation import Teacher


class Loss:
    """Logits of a (micro-)batch -> its part of the mean loss over the batch of all processes, a scalar.

    The sums of all parts are divided by the samples that all processes have, so what the parts add up to
    does not depend on how many there are.
    """

    def __init__(self, label_smoothing: float = 0.0, class_weights: Tensor | None = None,
                 teacher: Teacher | None = None) -> None:
        """`class_weights` float32 (classes,), on the device of the logits."""
        self._label_smoothing = label_smoothing
        self._class_weights = class_weights
        self._teacher = teacher
        # plain runs keep torch's fused mean, whose bits earlier checkpoints were trained with
        self._is_plain = not label_smoothing and class_weights is None and teacher is None

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the loss of float32 logits (n, classes) of a batch without padding."""
        labels = batch.labels
        if self._is_plain and batch.other_labels is None:
            if batch.num_valid == batch.global_size:
                return F.cross_entropy(logits, labels)
            # gradients are summed over processes, so each divides by the samples of all
            return F.cross_entropy(logits, labels, reduction="sum") / batch.global_size
        loss = self._sum(logits, labels)
        if batch.other_labels is not None:
            # linear in the label (Zhang et al. 2018, mixup; Yun et al. 2019, CutMix)
            loss = batch.share * loss + (1 - batch.share) * self._sum(logits, batch.other_labels)
        if self._teacher:
            divergence = self._teacher.divergence(logits, batch.images)
            loss = (1 - self._teacher.alpha) * loss + self._teacher.alpha * divergence
        return loss / batch.global_size

    def _sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self._class_weights is None:
            return F.cross_entropy(logits, labels, reduction="sum", label_smoothing=self._label_smoothing)
        # by the label's class, smoothed or not: torch's `weight` would be of each class that smoothing adds
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=self._label_smoothing)
        # a sum of products in one kernel
        return torch.dot(losses, self._class_weights[labels])


def make_loss(config: RegularizationConfig, labels: np.ndarray, num_classes: int,
              device: torch.device, teacher: Teacher | None = None) -> Loss:
    """Return the loss of these settings, for training data with these labels, int64 (N,)."""
    weights = class_weights(config.class_weights, np.asarray(labels, np.int64), num_classes)
    on_device = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device)
    return Loss(config.label_smoothing, on_device, teacher)


def class_weights(text: str, labels: np.ndarray, num_classes: int) -> np.ndarray | None:
    """Return float64 (classes,) from the setting `class_weights`, None where it is "".

    They are scaled so that their mean over the training images is 1: a learning rate keeps its meaning.
    UsageError for a text that is neither balanced nor numbers, and unless there is one number for each class.
    """
    text = text.strip().lower()
    if not text:
        return None
    # of the training images alone: validation measures the errors that users will see
    counts = np.bincount(labels, minlength=num_classes)
    if text == "balanced":
        # a class without images has no error that could count
        weights = np.where(counts > 0, 1 / np.maximum(counts, 1), 0.0)
    else:
        weights = _numbers(text)
        if len(weights) != num_classes:
            raise UsageError(f"`class_weights` has {len(weights)} numbers: there are {num_classes} classes; "
                             "give one for each, or balanced")
    mean = float((weights * counts).sum()) / max(int(counts.sum()), 1)
    if not mean:
        raise UsageError(f"`class_weights` {verbatim(text)}: no training image would count")
    return weights / mean


def _numbers(text: str) -> np.ndarray:
    try:
        weights = np.array([float(part) for part in text.split(",")])
    except ValueError:
        # refused below with the same words as a negative number
        weights = np.array([-1.0])
    # up to a bound: an infinity would make every loss nan
    if not ((weights >= 0) & (weights <= 1e6)).all():
        raise UsageError(f"`class_weights` {verbatim(text[:80])}: must be balanced, or numbers from 0 to 1e6 "
                         "such as 1,1,5, one for each class")
    return weights
