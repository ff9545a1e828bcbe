"""The training loop, told in the order it happens.

`Trainer.fit` runs epochs, an epoch is batches and `train_step`, then the checkpoint and `evaluate`. Everything else
lives elsewhere and is called in plain sight: the order and augmentation in the loader, the learning rate in the
schedule, the files in the checkpoint, the words in the reporter.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgcls import graph, optim
from imgcls.checkpoint import Checkpoint, Position, newest_epoch
from imgcls.data import order
from imgcls.data.loader import Batch, Loader
from imgcls.distributed import Worker
from imgcls.errors import RunError
from imgcls.layers import Dropout
from imgcls.metrics import Metrics, metric_names
from imgcls.monitor import Monitor
from imgcls.reporter import Reporter
from imgcls.schedule import Schedule
from imgcls.sections import TrainConfig
from imgcls.signals import Stop


class Precision:
    """What --dtype means: autocast for the forward pass, and a loss scaler for float16. Weights stay float32."""

    def __init__(self, dtype: str, device: torch.device) -> None:
        if dtype == "auto":
            dtype = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
        self.name, self._device = dtype, device
        self._type = None if dtype == "float32" else getattr(torch, dtype)
        self.scaler = torch.amp.GradScaler(device.type) if dtype == "float16" else None

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the loss scale of a checkpoint, where it has one."""
        if self.scaler and state:
            self.scaler.load_state_dict(dict(state))

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass."""
        if self._type is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=self._type)


class Trainer:
    """Trains `model` (already on the worker's device) until `config.num_epochs`.

    `val_loader` and `checkpoint` may be None; `stop` is looked at after every step. `clip_gradient` 0 is off,
    `save_every` is in minutes, 0 off.
    """

    def __init__(self, model: nn.Module, loader: Loader, val_loader: Loader | None, *, optimizer: torch.optim.Optimizer,
                 schedule: Schedule, precision: Precision, worker: Worker, config: TrainConfig, num_classes: int,
                 clip_gradient: float, checkpoint: Checkpoint | None, save_period: int, save_every: float,
                 reporter: Reporter, stop: Stop, compile: bool = False) -> None:
        self.model, self.loader, self.val_loader = model, loader, val_loader
        self.optimizer, self.schedule, self.precision = optimizer, schedule, precision
        self.config, self.worker, self.reporter, self.stop = config, worker, reporter, stop
        self.checkpoint, self.save_period, self.save_every = checkpoint, save_period, save_every
        self.clip_gradient = clip_gradient
        self._forward: Callable[[Tensor], Tensor] = torch.compile(model) if compile else model
        self._step = optim.stepper(optimizer)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._random = any(isinstance(m, (Dropout, nn.modules.dropout._DropoutNd)) for m in model.modules())
        names = metric_names(config.top_k, config.loss, num_classes)
        self._interval, self._epoch_metrics = Metrics(names, worker.device), Metrics(names, worker.device)
        self._val_metrics = Metrics(names, worker.device)
        self._monitor = Monitor(model, graph.parameter_names(model)) if config.monitor else None
        self._losses: list[Tensor] = []  # of the steps since somebody last looked
        self._interval_loss, self._epoch_loss = (0.0, 0), (0.0, 0)
        self._last_saved = time.monotonic()
        self.position = Position()

    def fit(self, position: Position) -> dict[str, float]:
        """Train from `position` to the end; returns the last validation metrics (training metrics without data)."""
        self.position = position
        result: dict[str, float] = {}
        while self.position.epoch < self.config.num_epochs:
            epoch = self.position.epoch
            result = self.train_epoch()

            # Once an epoch: keep the weights. The last epoch is always kept.
            last = self.position.epoch == self.config.num_epochs
            if self.checkpoint and (last or self.position.epoch % self.save_period == 0):
                path = self.checkpoint.save_epoch(self.model, self.optimizer, self._scaler_state(), self.position)
                self._last_saved = time.monotonic()
                self.reporter.saved(path)

            if self.val_loader is not None:
                result = self.evaluate(self.val_loader)
                self.reporter.validated(epoch, result, self.position.update)
            self.reporter.epoch_over()
        return result

    def train_epoch(self) -> dict[str, float]:
        """The rest of the current epoch; moves `position` to the beginning of the next. Returns its metrics."""
        epoch, first = self.position.epoch, self.position.batch
        self._take_up_metrics()
        self.model.train()
        self.reporter.epoch_begins(epoch, self.config.num_epochs, self.loader.batches_per_epoch, first)
        started = interval_started = time.perf_counter()
        samples = 0
        for number, batch in enumerate(self.loader.epoch(epoch, first), first):
            self.train_step(batch, self.position.update + 1)
            samples += batch.valid
            self.position = dataclasses.replace(self.position, batch=number + 1, update=self.position.update + 1)
            self.reporter.batch_done()

            # Every --disp-batches: a line, and a look at the loss.
            if number and number % self.config.disp_batches == 0:
                loss = self._look_at_losses()
                now = time.perf_counter()
                done = min(self.config.disp_batches, number - first + 1)
                speed = done * self.loader.batch_size / max(now - interval_started, 1e-9)
                interval_started = now
                self.reporter.progress(epoch, number, self.config.disp_batches, speed, loss,
                                       self.schedule.lr_at(self.position.update), self.position.update,
                                       self._interval.values())
                self._close_interval()

            # Once in a while: somebody wants us to stop, or it is time to save the position.
            if self.stop.requested or self._due():
                self._save_position()
        return self._end_epoch(epoch, samples, time.perf_counter() - started)

    def train_step(self, batch: Batch, update: int) -> None:
        """One update of the weights from one batch, the `update`-th of the training (from 1)."""
        lr = self.schedule.lr_at(update)
        optim.set_lr(self.optimizer, lr)
        if self.schedule.changes_at(update):
            self.reporter.line(f"Update[{update}]: Change learning rate to {lr:.5e}")
        if self._random:
            torch.manual_seed(order.step_seed(self.config.seed, update))
        watched = self._monitor if self._monitor and update % self.config.monitor == 0 else None
        if watched:
            watched.begin()

        self.optimizer.zero_grad(set_to_none=True)
        with self.precision.autocast():
            logits = self._forward(batch.images)
        logits, labels = logits.float(), batch.labels
        if batch.valid < len(labels):  # padding learns nothing
            logits, labels = logits[:batch.valid], labels[:batch.valid]
        loss = F.cross_entropy(logits, labels)
        scaler = self.precision.scaler
        (scaler.scale(loss) if scaler else loss).backward()
        if scaler:
            scaler.unscale_(self.optimizer)
        if self.clip_gradient:
            optim.clip_elements(self._parameters, self.clip_gradient)
        if scaler:
            scaler.step(self.optimizer)
            scaler.update()
        else:
            with torch.no_grad():
                self._step()

        self._losses.append(loss.detach())
        self._interval.update(logits.detach(), labels)
        if watched:
            for line in watched.end(update):
                self.reporter.line(line)

    def evaluate(self, loader: Loader) -> dict[str, float]:
        """The metrics over exactly the samples of `loader`; a signal ends it, with the position saved."""
        return evaluate(self.model, loader, self._val_metrics, self.precision,
                        lambda: self._save_position() if self.stop.requested else None)

    def _take_up_metrics(self) -> None:
        """Begin an epoch's sums, or go on with those of the position we resumed from."""
        self._interval.reset()
        self._epoch_metrics.reset()
        for metrics, totals in ((self._interval, self.position.interval_totals),
                                (self._epoch_metrics, self.position.epoch_totals)):
            if totals and len(totals[0]) == len(metrics.names):
                metrics.add(*totals)
        self._losses = []
        self._interval_loss, self._epoch_loss = tuple(self.position.interval_loss), tuple(self.position.epoch_loss)

    def _look_at_losses(self) -> float:
        """Mean loss since the last progress line. A loss that is not a number ends the run and names the step."""
        if self._losses:
            values = torch.stack(self._losses).tolist()
            for offset, value in enumerate(values):
                if not math.isfinite(value):
                    self._refuse(self.position.update - len(values) + 1 + offset, value)
            self._interval_loss = (self._interval_loss[0] + math.fsum(values), self._interval_loss[1] + len(values))
            self._losses = []
        return self._interval_loss[0] / max(self._interval_loss[1], 1)

    def _refuse(self, update: int, value: float) -> None:
        last = newest_epoch(self.checkpoint.prefix) if self.checkpoint else None
        kept = "nothing was saved" if last is None or self.checkpoint is None else (
            f"the last checkpoint is {self.checkpoint.prefix}-{last:04d}.params")
        raise RunError(f"the loss is {value} at update {update} (epoch {self.position.epoch}, learning rate "
                       f"{self.schedule.lr_at(update):g}): stopped, {kept}; a smaller --lr, --warmup-epochs 1 or "
                       "--clip-gradient 1 may help")

    def _close_interval(self) -> None:
        """Move the sums since the last progress line into those of the epoch."""
        self._epoch_metrics.add(*self._interval.totals())
        self._interval.reset()
        self._epoch_loss = (self._epoch_loss[0] + self._interval_loss[0], self._epoch_loss[1] + self._interval_loss[1])
        self._interval_loss = (0.0, 0)

    def _end_epoch(self, epoch: int, samples: int, seconds: float) -> dict[str, float]:
        self._look_at_losses()
        self._close_interval()
        values = self._epoch_metrics.values()
        update = self.position.update
        self.reporter.epoch_done(epoch, values, self._epoch_loss[0] / max(self._epoch_loss[1], 1), seconds, samples,
                                 self.schedule.lr_at(update), update)
        self.position = Position(epoch=epoch + 1, update=update)
        return values

    def _due(self) -> bool:
        return bool(self.checkpoint and self.save_every
                    and time.monotonic() - self._last_saved >= self.save_every * 60)

    def _save_position(self) -> None:
        """Save where we are inside the epoch; leave by way of `Stopped` if a signal asked for the end."""
        self._look_at_losses()
        where = f"epoch {self.position.epoch}, batch {self.position.batch}"
        if self.checkpoint:
            self.position = dataclasses.replace(
                self.position, interval_totals=self._interval.totals(), epoch_totals=self._epoch_metrics.totals(),
                interval_loss=self._interval_loss, epoch_loss=self._epoch_loss)
            self.checkpoint.save_position(self.model, self.optimizer, self._scaler_state(), self.position)
            self._last_saved = time.monotonic()
            where += "; the position was saved, --load-epoch auto goes on from there"
        else:
            where += "; nothing was saved, there is no --model-prefix"
        self.stop.act(where)

    def _scaler_state(self) -> dict[str, object]:
        return self.precision.scaler.state_dict() if self.precision.scaler else {}


@torch.no_grad()
def evaluate(model: nn.Module, loader: Loader, metrics: Metrics, precision: Precision,
             after_batch: Callable[[], None] = lambda: None) -> dict[str, float]:
    """name -> value over exactly the samples of `loader`, in evaluation mode; the mode is put back after."""
    training = model.training
    model.eval()
    metrics.reset()
    try:
        for batch in loader.epoch(0):
            with precision.autocast():
                logits = model(batch.images)
            metrics.update(logits.float()[:batch.valid], batch.labels[:batch.valid])
            after_batch()
    finally:
        model.train(training)
    return metrics.values()
