"""Accuracy and its companions over exactly the samples that are there, under MXNet's names.

Counts stay on the device until somebody wants to see them: reading one is a wait for the GPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from imgcls.errors import UsageError, unknown

#: --loss words -> MXNet's name of the metric
LOSSES = {"ce": "cross-entropy", "nll": "nll-loss", "nll_loss": "nll-loss"}


def metric_names(top_k: int, loss: str, num_classes: int) -> list[str]:
    """The metrics that --top-k and --loss ask for, accuracy first, in the order of MXNet's log."""
    names = ["accuracy"]
    if top_k == 1 or top_k >= num_classes:
        raise UsageError(f"`top_k` {top_k}: must be from 2 to {num_classes - 1}, the classes less one; 0 is off")
    if top_k:
        names.append(f"top_k_accuracy_{top_k}")
    for word in (part.strip() for part in loss.split(",")):
        if word and word not in LOSSES:
            raise unknown("`loss`", word, LOSSES)
        if word:
            names.append(LOSSES[word])
    return list(dict.fromkeys(names))


class Metrics:
    """Sums since the last `reset`, one per name; `values()` divides by the samples seen."""

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.names = list(names)
        self._device = device
        self._sums = [torch.zeros((), device=device, dtype=torch.float64) for _ in self.names]
        self._samples = 0

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add float (N, classes) logits and int64 (N,) labels, none of them padding."""
        log_probabilities = None
        for total, name in zip(self._sums, self.names, strict=True):
            if name == "accuracy":
                total += (logits.argmax(1) == labels).sum()
            elif name.startswith("top_k_accuracy_"):
                best = logits.topk(int(name.rpartition("_")[2]), 1).indices
                total += (best == labels[:, None]).sum()
            else:
                if log_probabilities is None:
                    log_probabilities = F.log_softmax(logits.float(), 1).gather(1, labels[:, None])
                total += -torch.log(log_probabilities.exp() + 1e-12).sum()  # MXNet's floor: never infinite
        self._samples += len(labels)

    def totals(self) -> tuple[list[float], int]:
        """The sums as numbers, and the samples they are over: what a checkpoint inside an epoch keeps."""
        return torch.stack(self._sums).tolist(), self._samples

    def add(self, totals: Sequence[float], samples: int) -> None:
        """Add sums that `totals` gave."""
        for total, value in zip(self._sums, totals, strict=True):
            total += value
        self._samples += samples

    def values(self, totals: tuple[Sequence[float], int] | None = None) -> dict[str, float]:
        """name -> mean over the samples, of these totals or of its own; nan before the first."""
        sums, samples = totals or self.totals()
        return {name: total / samples if samples else float("nan")
                for name, total in zip(self.names, sums, strict=True)}

    def reset(self) -> None:
        """Forget everything."""
        for total in self._sums:
            total.zero_()
        self._samples = 0
