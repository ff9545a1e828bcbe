"""Running totals of a training epoch: losses and metrics since the last progress line, and since the epoch began.

The trainer fills it at every step and reads it at progress lines; reading waits for the device and for all processes.
Its sums are in a saved position, so that the log of a resumed epoch goes on as if nothing had been.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from imgcls.distributed.process_group import Worker
from imgcls.training.checkpoint import Position
from imgcls.training.metrics import Metrics

#: the sum of each metric, and the samples they are over
Totals = tuple[list[float], int]


class Meter:
    """Sums of losses and of the metrics `names`, in two steps: an interval (a progress line) and the epoch.

    Metrics of the interval are this process's own; those of the epoch are of all processes.
    """

    def __init__(self, names: Sequence[str], worker: Worker) -> None:
        self.names = list(names)
        self._worker = worker
        #: of the interval; `update` it with the logits of every step
        self.metrics = Metrics(names, worker.device)
        self._epoch_totals: Totals = ([0.0] * len(self.names), 0)
        self._unread_losses: list[Tensor] = []
        # (sum of losses, steps)
        self._interval_loss = (0.0, 0)
        self._epoch_loss = (0.0, 0)

    def begin_epoch(self, position: Position) -> None:
        """Start an epoch's sums, from those of the position where it is inside the epoch."""
        self.metrics.reset()
        totals = position.interval_totals
        # they are of all processes, so only one may take them; another `top_k` or `loss` makes them useless
        if totals and len(totals[0]) == len(self.names) and not (self._worker.is_synchronous and self._worker.rank):
            self.metrics.add(*totals)
        totals = position.epoch_totals
        self._epoch_totals = totals if totals and len(totals[0]) == len(self.names) else ([0.0] * len(self.names), 0)
        self._unread_losses = []
        self._interval_loss = tuple(position.interval_loss)
        self._epoch_loss = tuple(position.epoch_loss)

    def add_loss(self, loss: Tensor) -> None:
        """Note this process's part of the mean loss of a step, without reading it: that would wait for the device."""
        self._unread_losses.append(loss)

    def read_losses(self) -> list[float]:
        """Return the losses of the steps since the last call, over all processes, and count them into the interval."""
        if not self._unread_losses:
            return []
        losses = self._worker.sum(torch.stack(self._unread_losses).tolist())
        self._interval_loss = (self._interval_loss[0] + math.fsum(losses), self._interval_loss[1] + len(losses))
        self._unread_losses = []
        return losses

    @property
    def interval_loss(self) -> float:
        """Mean loss of the interval, as far as losses were read."""
        return self._interval_loss[0] / max(self._interval_loss[1], 1)

    @property
    def epoch_loss(self) -> float:
        """Mean loss of the closed intervals of the epoch."""
        return self._epoch_loss[0] / max(self._epoch_loss[1], 1)

    def interval_totals(self) -> Totals:
        """Return the sums of the interval over all processes; waits for all of them."""
        return self.sum_over_processes(self.metrics)

    def close_interval(self, totals: Totals) -> None:
        """Move the interval, whose sums over all processes are `totals`, into the epoch, and begin the next."""
        sums, samples = self._epoch_totals
        self._epoch_totals = ([a + b for a, b in zip(sums, totals[0], strict=True)], samples + totals[1])
        self.metrics.reset()
        self._epoch_loss = (self._epoch_loss[0] + self._interval_loss[0], self._epoch_loss[1] + self._interval_loss[1])
        self._interval_loss = (0.0, 0)

    def values(self, totals: Totals) -> dict[str, float]:
        """Return name -> mean over the samples of these sums."""
        return self.metrics.values(totals)

    def epoch_values(self) -> dict[str, float]:
        """Return name -> mean over the samples of the closed intervals of the epoch."""
        return self.metrics.values(self._epoch_totals)

    def sum_over_processes(self, metrics: Metrics) -> Totals:
        """Return the sums of `metrics` and their samples over all processes."""
        sums, samples = metrics.totals()
        *sums, samples_of_all = self._worker.sum([*sums, float(samples)])
        return sums, int(samples_of_all)

    def write_into(self, position: Position) -> Position:
        """Return the position with all sums so far; waits for all processes, and losses must have been read."""
        return dataclasses.replace(
            position, interval_totals=self.interval_totals(), epoch_totals=self._epoch_totals,
            interval_loss=self._interval_loss, epoch_loss=self._epoch_loss)
