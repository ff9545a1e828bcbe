"""Accuracy and the other metrics, over exactly the samples that are no padding, under MXNet's names.

Counts stay on the device until they are read: reading one waits for the GPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from imgcls.errors import UsageError, unknown

#: value of `loss` -> MXNet's name of the metric (common/fit.py of its example has the first two)
LOSSES = {"ce": "cross-entropy", "nll": "nll-loss", "nll_loss": "nll-loss"}
#: MXNet's epsilon of cross-entropy (metric.py): a sample that is certainly wrong counts 27.6, not infinity
_EPSILON = 1e-12
#: how many numbers, in logits, may wait to be counted: counting costs as much as a layer of a small network,
#: and next to nothing if it is done once in many batches
_MAX_WAITING = 1 << 14


def metric_names(top_k: int, loss: str, num_classes: int) -> list[str]:
    """Return the metrics that `top_k` and `loss` name, accuracy first, in the order of MXNet's log.

    UsageError for a `top_k` that says nothing about so many classes, and for a `loss` that is not known.
    """
    names = ["accuracy"]
    if top_k and num_classes == 2:
        raise UsageError(f"`top_k` {top_k}: with two classes it would always be 1; leave it out")
    if top_k == 1 or top_k >= num_classes:
        raise UsageError(f"`top_k` {top_k}: must be from 2 to {num_classes - 1}, the classes less one; "
                         "0 is off")
    if top_k:
        names.append(f"top_k_accuracy_{top_k}")
    for word in (part.strip() for part in loss.split(",")):
        if word and word not in LOSSES:
            raise unknown("`loss`", word, LOSSES)
        if word:
            names.append(LOSSES[word])
    return list(dict.fromkeys(names))  # nll and nll_loss are one metric


class Metrics:
    """Sums since the last `reset`, one per name; `values()` divides by the samples seen."""

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.names = list(names)
        # float64: a float32 count stops growing at 16.7 million samples
        self._sums = [torch.zeros((), device=device, dtype=torch.float64) for _ in self.names]
        self._num_samples = 0
        # Counts do not depend on the portions that they are made in, sums of losses do. Not on a GPU, where a
        # CUDA graph writes the next logits over the last.
        self._can_wait = device.type == "cpu" and all("accuracy" in name for name in self.names)
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def update(self, logits: Tensor, labels: Tensor, other_labels: Tensor | None = None,
               share: float = 1.0) -> None:
        """Add float (N, classes) logits and int64 (N,) labels, none of them padding.

        Where an image was mixed of two, `share` of it from the first, both labels count by their part: an
        answer that names one of them is right to that part.
        """
        self._num_samples += len(labels)
        if self._can_wait and other_labels is None:
            self._waiting.append((logits, labels))
            if len(self._waiting) * logits.numel() >= _MAX_WAITING:
                self._count_waiting()
            return
        self._add(logits, labels, share)
        if other_labels is not None:
            self._add(logits, other_labels, 1 - share)

    def _count_waiting(self) -> None:
        if self._waiting:
            # rows may differ in number, as the last batch's do
            logits, labels = zip(*self._waiting, strict=True)
            self._waiting.clear()
            self._add(torch.cat(logits), torch.cat(labels), 1)

    def _add(self, logits: Tensor, labels: Tensor, weight: float) -> None:
        """Add the sums of one label of each image."""
        log_probabilities = None
        for total, name in zip(self._sums, self.names, strict=True):
            if name == "accuracy":
                value = (logits.argmax(1) == labels).sum()  # on the device: nothing waits for it here
            elif name.startswith("top_k_accuracy_"):
                best = logits.topk(int(name.rpartition("_")[2]), 1).indices
                value = (best == labels[:, None]).sum()
            else:  # cross-entropy and nll-loss are the same number here; MXNet has two classes for it
                if log_probabilities is None:
                    log_probabilities = F.log_softmax(logits.float(), 1).gather(1, labels[:, None])
                # Back from the logarithm: MXNet adds its epsilon to the probability, and a log line must not
                # differ.
                value = -torch.log(log_probabilities.exp() + _EPSILON).sum()
            total += value if weight == 1 else weight * value.double()

    def totals(self) -> tuple[list[float], int]:
        """Return the sums as numbers, and the samples they are over: what a position keeps of them."""
        self._count_waiting()
        return torch.stack(self._sums).tolist(), self._num_samples

    def add(self, totals: Sequence[float], num_samples: int) -> None:
        """Add sums that `totals` gave."""
        for total, value in zip(self._sums, totals, strict=True):
            total += value
        self._num_samples += num_samples

    def values(self, totals: tuple[Sequence[float], int] | None = None) -> dict[str, float]:
        """Return name -> mean over the samples, of these totals or of its own; nan before the first."""
        sums, num_samples = totals or self.totals()
        return {name: total / num_samples if num_samples else float("nan")
                for name, total in zip(self.names, sums, strict=True)}

    def reset(self) -> None:
        """Start from zero."""
        for total in self._sums:
            # In place: new tensors would be as many allocations on the device in each interval.
            total.zero_()
        self._num_samples = 0
        self._waiting.clear()
