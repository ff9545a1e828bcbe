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
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgcls import graph
from imgcls.config.sections import TrainConfig
from imgcls.data import order
from imgcls.data.loaders.batch import Batch, Loader
from imgcls.distributed.process_group import LostContact, Worker
from imgcls.errors import RunError
from imgcls.layers import Dropout
from imgcls.optim import optimizers
from imgcls.optim.schedules import Schedule
from imgcls.training.checkpoint import Checkpoint, Position, newest_epoch
from imgcls.training.metrics import Metrics, metric_names
from imgcls.training.monitor import Monitor
from imgcls.training.reporter import Reporter
from imgcls.training.stop import StopSignal

if TYPE_CHECKING:
    from imgcls.distributed.parameter_server.client import ParameterServerClient
    from imgcls.distributed.sync_batch_norm import SyncBNState

Totals = tuple[list[float], int]


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
    `save_every` is in minutes, 0 off. `forward` is the model as it is called while training, where that is another one
    (several devices), and `sync_bn` what its synchronised batch normalisations want to know. Only rank 0 has a
    `checkpoint`. With a `server_client` (dist_async) the optimizer's steps are taken by servers.
    """

    def __init__(self, model: nn.Module, loader: Loader, val_loader: Loader | None, *, optimizer: torch.optim.Optimizer,
                 schedule: Schedule, precision: Precision, worker: Worker, config: TrainConfig, num_classes: int,
                 clip_gradient: float, checkpoint: Checkpoint | None, save_period: int, save_every: float,
                 reporter: Reporter, stop: StopSignal, compile: bool = False, micro_batches: int = 1,
                 forward: nn.Module | None = None, sync_bn: SyncBNState | None = None,
                 server_client: ParameterServerClient | None = None) -> None:
        self.model, self.loader, self.val_loader = model, loader, val_loader
        self.optimizer, self.schedule, self.precision = optimizer, schedule, precision
        self.config, self.worker, self.reporter, self.stop = config, worker, reporter, stop
        self.checkpoint, self.save_period, self.save_every = checkpoint, save_period, save_every
        self.clip_gradient, self.server_client = clip_gradient, server_client
        self.micro_batches, self._wrapped, self._sync_bn = micro_batches, forward, sync_bn
        forward = forward or model
        self._forward: Callable[[Tensor], Tensor] = torch.compile(forward) if compile else forward
        self._step = optimizers.stepper(optimizer)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._random = any(isinstance(m, (Dropout, nn.modules.dropout._DropoutNd)) for m in model.modules())
        names = metric_names(config.top_k, config.loss, num_classes)
        self._interval, self._val_metrics = Metrics(names, worker.device), Metrics(names, worker.device)
        self._epoch_totals: Totals = ([0.0] * len(names), 0)  # of all processes, up to the last progress line
        self._statistics: list[Tensor] = []  # running means and variances that processes or micro-batches share
        self._monitor = Monitor(model, graph.parameter_names(model)) if config.monitor else None
        self._losses: list[Tensor] = []  # of the steps since somebody last looked
        self._interval_loss, self._epoch_loss = (0.0, 0), (0.0, 0)
        self._last_saved = time.monotonic()
        self.position = Position()

    def fit(self, position: Position) -> dict[str, float]:
        """Train from `position` to the end; returns the last validation metrics (training metrics without data)."""
        self.position = dataclasses.replace(position, batch_size=self.loader.batch_size, world=self.worker.world_size)
        result: dict[str, float] = {}
        while self.position.epoch < self.config.num_epochs:
            epoch = self.position.epoch
            result = self.train_epoch()

            # Once an epoch: keep the weights. The last epoch is always kept.
            last = self.position.epoch == self.config.num_epochs
            if self.checkpoint and (last or self.position.epoch % self.save_period == 0):
                self._fetch()
                path = self.checkpoint.save_epoch(self.model, self.optimizer, self._scaler_state(), self.position)
                self._last_saved = time.monotonic()
                self.reporter.saved(path)

            if self.val_loader is not None:
                result = self.evaluate(self.val_loader)
                self.reporter.validated(epoch, result, self.position.update)
            self.reporter.epoch_over()
        if self.checkpoint:
            self.checkpoint.wait()
        return result

    def train_epoch(self) -> dict[str, float]:
        """The rest of the current epoch; moves `position` to the beginning of the next. Returns its metrics."""
        epoch, first = self.position.epoch, self.position.batch
        self._take_up_metrics()
        self.model.train()
        if (self.worker.is_synchronous or self.micro_batches > 1) and not self._sync_bn:
            self._statistics = running_statistics(self.model)
        self.reporter.epoch_begins(epoch, self.config.num_epochs, self.loader.batches_per_epoch, first)
        started = interval_started = time.perf_counter()
        samples = 0
        for number, batch in enumerate(self.loader.epoch(epoch, first), first):
            self.train_step(batch, self.position.update + 1)
            samples += batch.global_size
            self.position = dataclasses.replace(self.position, batch=number + 1, update=self.position.update + 1)
            self.reporter.batch_done()

            # Every --disp-batches: a line, and a look at the loss.
            if number and number % self.config.disp_batches == 0:
                loss = self._look_at_losses()
                now = time.perf_counter()
                done = min(self.config.disp_batches, number - first + 1)
                speed = done * self.loader.batch_size / max(now - interval_started, 1e-9)
                interval_started = now
                totals = self._interval_totals()
                self.reporter.progress(epoch, number, self.config.disp_batches, speed, loss,
                                       self.schedule.lr_at(self.position.update), self.position.update,
                                       self._interval.values(totals))
                self._close_interval(totals)

            # Once in a while: somebody wants us to stop, or it is time to save the position.
            self._handle_stop_request()
        return self._end_epoch(epoch, samples, time.perf_counter() - started)

    def train_step(self, batch: Batch, update: int) -> None:
        """One update of the weights from one batch, the `update`-th of the training (from 1)."""
        lr = self.schedule.lr_at(update)
        optimizers.set_lr(self.optimizer, lr)
        if self.schedule.changes_at(update):
            self.reporter.line(f"Update[{update}]: Change learning rate to {lr:.5e}")
        watched = self._monitor if self._monitor and update % self.config.monitor == 0 else None
        if watched:
            watched.begin()

        self.optimizer.zero_grad(set_to_none=True)
        self._forward_and_backward(batch, update)
        scaler = self.precision.scaler
        if scaler:
            scaler.unscale_(self.optimizer)
        if self.clip_gradient:
            optimizers.clip_elements(self._parameters, self.clip_gradient)
        if self.server_client:
            self.server_client.push_pull(lr)
        elif scaler:
            scaler.step(self.optimizer)
            scaler.update()
        else:
            with torch.no_grad():
                self._step()
        if watched:
            for line in watched.end(update):
                self.reporter.line(line)

    def _forward_and_backward(self, batch: Batch, update: int) -> None:
        """Leave the gradients of the mean loss over the whole batch, of all processes, in the parameters.

        A batch in micro-batches is what as many processes would have computed, bit for bit: each piece has its own
        dropout, begins with the same running statistics, and they are averaged after.
        """
        if self.micro_batches == 1:
            self._losses.append(self._piece(batch, update, self.worker.rank))
            if self._statistics:
                self.worker.average(self._statistics, batch.num_valid / batch.global_size)
            return
        before = [tensor.clone() for tensor in self._statistics]
        sums = [torch.zeros_like(tensor) for tensor in self._statistics]
        total = torch.zeros((), device=self.worker.device)
        for number, piece in enumerate(batch.micro_batches(self.micro_batches), 1):
            no_sync = self._wrapped is not None and number < self.micro_batches  # gradients are exchanged once
            with self._wrapped.no_sync() if no_sync else contextlib.nullcontext():  # type: ignore[union-attr,operator]
                total += self._piece(piece, update, self.worker.rank * self.micro_batches + number - 1)
            for tensor, start, sum_ in zip(self._statistics, before, sums, strict=True):
                sum_ += tensor * (piece.num_valid / batch.global_size)
                tensor.copy_(start)
        self._losses.append(total)
        for tensor, sum_ in zip(self._statistics, sums, strict=True):
            tensor.copy_(sum_)
        if self._statistics and self.worker.is_synchronous:
            self.worker.average(self._statistics, 1.0)

    def _piece(self, batch: Batch, update: int, number: int) -> Tensor:
        """Forward and backward of piece `number` of a batch; returns its part of the mean loss."""
        if self._random:
            torch.manual_seed(order.step_seed(self.config.seed, update) + number)
        if self._sync_bn:
            self._sync_bn.num_valid = batch.num_valid
        with self.precision.autocast():
            logits = self._forward(batch.images)
        logits, labels = logits.float(), batch.labels
        if batch.num_valid < len(labels):  # padding learns nothing
            logits, labels = logits[:batch.num_valid], labels[:batch.num_valid]
        if batch.num_valid == batch.global_size:
            loss = F.cross_entropy(logits, labels)
        else:
            loss = F.cross_entropy(logits, labels, reduction="sum") / batch.global_size
        scaler = self.precision.scaler
        (scaler.scale(loss) if scaler else loss).backward()
        self._interval.update(logits.detach(), labels)
        return loss.detach()

    def evaluate(self, loader: Loader) -> dict[str, float]:
        """The metrics over exactly the samples of `loader`; a signal ends it, with the position saved."""
        evaluate(self.model, loader, self._val_metrics, self.precision, self._handle_stop_request)
        return self._val_metrics.values(self._of_all(self._val_metrics.totals()))

    def _take_up_metrics(self) -> None:
        """Begin an epoch's sums, or go on with those of the position we resumed from."""
        self._interval.reset()
        names = len(self._interval.names)
        totals = self.position.interval_totals
        if totals and len(totals[0]) == names and not (self.worker.is_synchronous and self.worker.rank):
            self._interval.add(*totals)
        totals = self.position.epoch_totals
        self._epoch_totals = totals if totals and len(totals[0]) == names else ([0.0] * names, 0)
        self._losses = []
        self._interval_loss, self._epoch_loss = tuple(self.position.interval_loss), tuple(self.position.epoch_loss)

    def _of_all(self, totals: Totals) -> Totals:
        """Sums of metrics and their samples, over all processes."""
        *sums, samples = self.worker.sum([*totals[0], float(totals[1])])
        return sums, int(samples)

    def _interval_totals(self) -> Totals:
        return self._of_all(self._interval.totals())

    def _look_at_losses(self) -> float:
        """Mean loss since the last progress line. A loss that is not a number ends the run and names the step."""
        if self._losses:
            values = self.worker.sum(torch.stack(self._losses).tolist())
            for offset, value in enumerate(values):
                if not math.isfinite(value):
                    self._refuse(self.position.update - len(values) + 1 + offset, value)
            self._interval_loss = (self._interval_loss[0] + math.fsum(values), self._interval_loss[1] + len(values))
            self._losses = []
        return self._interval_loss[0] / max(self._interval_loss[1], 1)

    def _refuse(self, update: int, value: float) -> None:
        if self.worker.is_synchronous and self.worker.rank:
            raise LostContact(f"the loss is {value} at update {update}: rank 0 tells more")
        last = newest_epoch(self.checkpoint.prefix) if self.checkpoint else None
        kept = "nothing was saved" if last is None or self.checkpoint is None else (
            f"the last checkpoint is {self.checkpoint.prefix}-{last:04d}.params")
        raise RunError(f"the loss is {value} at update {update} (epoch {self.position.epoch}, learning rate "
                       f"{self.schedule.lr_at(update):g}): stopped, {kept}; a smaller `lr`, `warmup_epochs` 1 or "
                       "`clip_gradient` 1 may help")

    def _close_interval(self, totals: Totals) -> None:
        """Move the sums since the last progress line into those of the epoch."""
        self._epoch_totals = add_totals(self._epoch_totals, totals)
        self._interval.reset()
        self._epoch_loss = (self._epoch_loss[0] + self._interval_loss[0], self._epoch_loss[1] + self._interval_loss[1])
        self._interval_loss = (0.0, 0)

    def _end_epoch(self, epoch: int, samples: int, seconds: float) -> dict[str, float]:
        self._look_at_losses()
        self._close_interval(self._interval_totals())
        values = self._interval.values(self._epoch_totals)
        update = self.position.update
        self.reporter.epoch_done(epoch, values, self._epoch_loss[0] / max(self._epoch_loss[1], 1), seconds, samples,
                                 self.schedule.lr_at(update), update)
        if self.server_client and not self.worker.rank:
            self.reporter.line(f"Epoch[{epoch}] dist_async: {self.server_client.statistics()}")
        self.position = dataclasses.replace(Position(epoch=epoch + 1, update=update),
                                            batch_size=self.position.batch_size, world=self.position.world)
        return values

    def _handle_stop_request(self) -> None:
        """Save the position, and perhaps leave, if any process has a reason to."""
        request = self.stop.request
        if not request and self._due():
            request, self._last_saved = self.stop.SAVE, time.monotonic()
        request = max(self.worker.all_reduce_max(request), self.server_client.peer_request if self.server_client else 0)
        if request:
            self._save_position(request)

    def _due(self) -> bool:
        return bool(self.checkpoint and self.save_every
                    and time.monotonic() - self._last_saved >= self.save_every * 60)

    def _save_position(self, request: int) -> None:
        """Save where we are inside the epoch; leave by way of `Stopped` if the request is to end."""
        self._look_at_losses()
        totals = self._interval_totals()
        where = f"epoch {self.position.epoch}, batch {self.position.batch}"
        if self.checkpoint:
            self.position = dataclasses.replace(
                self.position, interval_totals=totals, epoch_totals=self._epoch_totals,
                interval_loss=self._interval_loss, epoch_loss=self._epoch_loss)
            self._fetch()
            self.checkpoint.save_position(self.model, self.optimizer, self._scaler_state(), self.position)
            self._last_saved = time.monotonic()
            where += "; the position was saved, `load_epoch` auto goes on from there"
        elif not self.worker.rank:
            where += "; nothing was saved, there is no `model_prefix`"
        if request > self.stop.SAVE:
            if self.checkpoint:
                # an upload is under way; signals are held off here and no longer behind `raise_if_requested`
                self.checkpoint.wait()
            self.worker.barrier()  # nobody leaves before the files are there
            if self.server_client:
                self.server_client.stop_request = request  # the others are to leave too
        self.stop.raise_if_requested(where, request)

    def _fetch(self) -> None:
        """Have the weights and the optimizer's state here, where servers hold them."""
        if self.server_client:
            self.server_client.fetch()

    def _scaler_state(self) -> dict[str, object]:
        return self.precision.scaler.state_dict() if self.precision.scaler else {}


def add_totals(one: Totals, other: Totals) -> Totals:
    """The sums of two sets of samples together."""
    return [a + b for a, b in zip(one[0], other[0], strict=True)], one[1] + other[1]


def running_statistics(model: nn.Module) -> list[Tensor]:
    """The running means and variances that a step in training mode changes."""
    return [buffer for module in model.modules() if module.training and not getattr(module, "use_global_stats", False)
            for name, buffer in module.named_buffers(recurse=False)
            if name in ("moving_mean", "moving_var", "running_mean", "running_var")]


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
            metrics.update(logits.float()[:batch.num_valid], batch.labels[:batch.num_valid])
            after_batch()
    finally:
        model.train(training)
    return metrics.values()
