"""Metrics that also keep the predictions of the network that is measured."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from imgcls.report.statistics import Predictions
from imgcls.training.metrics import Metrics

#: likeliest classes of an image that are kept
_TOP = 5
#: at most so many bytes of logits are kept, which only the fitted temperature needs
_MAX_LOGIT_BYTES = 1 << 26


class RecordingMetrics(Metrics):
    """Metrics over `num_samples` images at most, which also keep the predictions on the device."""

    def __init__(self, names: Sequence[str], device: torch.device, num_samples: int,
                 num_classes: int) -> None:
        super().__init__(names, device)
        self._num_classes = num_classes
        # every so many-th row, evenly over the data, which may be sorted by class
        self._every = -(-num_samples * num_classes * 4 // _MAX_LOGIT_BYTES) or 1
        self._rows: list[tuple[Tensor, ...]] = []
        self._logits: list[tuple[Tensor, Tensor]] = []
        self._num_seen = 0

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add float (N, classes) logits and int64 (N,) labels, and keep the predictions."""
        super().update(logits, labels)
        # on the device, where the logits are; they come to the CPU at the end
        probabilities = logits.softmax(1)
        top = probabilities.topk(min(_TOP, logits.shape[1]), 1)
        of_label = probabilities.gather(1, labels[:, None])[:, 0]
        # copies: a view would keep the whole batch
        self._rows.append((labels.clone(), top.indices, top.values, of_label))
        # counted across batches, so that it does not matter where one begins
        first = -self._num_seen % self._every
        self._logits.append((logits[first::self._every].clone(), labels[first::self._every].clone()))
        self._num_seen += len(labels)

    def reset(self) -> None:
        """Start from zero."""
        # every evaluation calls this first
        super().reset()
        self._rows, self._logits, self._num_seen = [], [], 0

    def predictions(self) -> Predictions:
        """Return all that was kept, as arrays."""
        labels, top, probabilities, of_label = (torch.cat(column).cpu().numpy()
                                                for column in zip(*self._rows, strict=True))
        logits, logit_labels = (torch.cat(column).cpu().numpy() for column in zip(*self._logits, strict=True))
        return Predictions(labels, top, probabilities, of_label, logits, logit_labels, self._num_classes)
