"""Running totals of a training epoch: losses and metrics since the last progress line, and since the epoch
began.

The trainer fills it at every step and reads it at progress lines; reading waits for the device and for all
processes. Its sums are part of a saved position, so the log of a resumed epoch continues as if it had not
been interrupted.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import Tensor

from imgcls.distributed.process_group import Worker
from imgcls.training.checkpoint import Position
from imgcls.training.metrics import Metrics

#: the sum of each metric, and the samples they are over
Totals = tuple[list[float], int]


class Meter:
    """Sums of losses and of the metrics `names`: of the interval since the last progress line, and of the
    epoch.

    The interval's metrics are this process's own until `interval_totals` adds them up; everything about
    losses and epochs is over all processes.
    """

    def __init__(self, names: Sequence[str], worker: Worker) -> None:
        self.names = list(names)
        self._worker = worker
        #: of the interval: the trainer updates it with the logits of every step
        self.metrics = Metrics(names, worker.device)
        self._epoch_totals: Totals = ([0.0] * len(self.names), 0)
        # kept as tensors: to read a loss at every step would make the CPU wait for the GPU at every step
        self._unread_losses: list[Tensor] = []
        # (sum of the losses, steps)
        self._interval_loss = (0.0, 0)
        self._epoch_loss = (0.0, 0)

    def begin_epoch(self, position: Position) -> None:
        """Start the sums of an epoch, from those in the position where it is inside the epoch."""
        self.metrics.reset()
        # The saved sums are over all processes of the earlier run, so one process alone adds them to its own.
        if self._fits(position.interval_totals) and not (self._worker.is_synchronous and self._worker.rank):
            self.metrics.add(*position.interval_totals)
        zero: Totals = ([0.0] * len(self.names), 0)
        self._epoch_totals = position.epoch_totals if self._fits(position.epoch_totals) else zero
        self._unread_losses = []
        # JSON has given lists
        self._interval_loss = tuple(position.interval_loss)
        self._epoch_loss = tuple(position.epoch_loss)

    def add_loss(self, loss: Tensor) -> None:
        """Note this process's part of the mean loss of a step, a scalar tensor, without reading it."""
        self._unread_losses.append(loss)

    def read_losses(self) -> list[float]:
        """Return the losses of the steps since the last call, and count them into the interval."""
        if not self._unread_losses:
            return []
        losses = self._worker.sum(torch.stack(self._unread_losses).tolist())
        # fsum rounds once: a mean hardly depends on where a saved position has cut the interval
        total, num_steps = self._interval_loss
        self._interval_loss = (total + math.fsum(losses), num_steps + len(losses))
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
        """Move the interval, whose sums are `totals`, into the epoch, and begin the next."""
        sums, num_samples = self._epoch_totals
        self._epoch_totals = ([a + b for a, b in zip(sums, totals[0], strict=True)], num_samples + totals[1])
        self.metrics.reset()
        loss, num_steps = self._interval_loss
        self._epoch_loss = (self._epoch_loss[0] + loss, self._epoch_loss[1] + num_steps)
        self._interval_loss = (0.0, 0)

    def values(self, totals: Totals) -> dict[str, float]:
        """Return name -> mean over the samples of these sums."""
        return self.metrics.values(totals)

    def epoch_values(self) -> dict[str, float]:
        """Return name -> mean over the samples of the closed intervals of the epoch."""
        return self.metrics.values(self._epoch_totals)

    def sum_over_processes(self, metrics: Metrics) -> Totals:
        """Return the sums of `metrics` and their samples over all processes."""
        sums, num_samples = metrics.totals()
        # in one message: an all-reduce of a few numbers costs as much as one of a single number; float64
        # counts exactly up to 2^53
        *sums, num_samples_of_all = self._worker.sum([*sums, float(num_samples)])
        return sums, int(num_samples_of_all)

    def write_into(self, position: Position) -> Position:
        """Return the position with all sums so far; losses must have been read. Waits for all processes."""
        return dataclasses.replace(
            position, interval_totals=self.interval_totals(), epoch_totals=self._epoch_totals,
            interval_loss=self._interval_loss, epoch_loss=self._epoch_loss)

    def _fits(self, totals: Totals | None) -> TypeGuard[Totals]:
        """Whether saved sums are of these metrics: another `top_k` or `loss` since makes them useless."""
        return totals is not None and len(totals[0]) == len(self.names)
