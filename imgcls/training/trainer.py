"""The training loop, written in the order in which things happen.

`Trainer.fit` runs epochs, an epoch is batches and `train_step`, then the checkpoint and `evaluate`.
Everything else is in other modules and is called explicitly: order and augmentation in the loader, learning
rates and the optimizer in the updater, other processes in the sharing, running totals in the meter, files in
the saver, lines in the reporter.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from imgcls import graph
from imgcls.config.sections import TrainConfig
from imgcls.data import order
from imgcls.data.loaders.batch import Batch, BatchTransform, Loader
from imgcls.distributed.process_group import LostContact
from imgcls.errors import LostDataError, RunError
from imgcls.training.accumulation import Accumulation
from imgcls.training.checkpoint import Position
from imgcls.training.dropout import is_random
from imgcls.training.evaluate import evaluate
from imgcls.training.loss import Loss
from imgcls.training.meter import Meter
from imgcls.training.metrics import Metrics
from imgcls.training.monitor import Monitor
from imgcls.training.reporter import Reporter
from imgcls.training.saver import Saver
from imgcls.training.shared_cores import SharedCores
from imgcls.training.sharing import GradientSharing
from imgcls.training.updater import Updater
from imgcls.training.weight_average import WeightAverage


class Trainer:
    """Trains `model`, already on the worker's device, until `config.num_epochs`. `val_loader` may be None.

    `transforms` change batches on the device, in their order. `average`, where there is one, is what is
    validated in place of the model. `position` says where the training is: epochs and batches that are over,
    counted from 0, and `update`, all batches so far. The other parts are described in the module's docstring.
    """

    def __init__(self, model: nn.Module, loader: Loader, val_loader: Loader | None, *, config: TrainConfig,
                 updater: Updater, sharing: GradientSharing, meter: Meter, saver: Saver,
                 reporter: Reporter, loss: Loss, transforms: Sequence[BatchTransform] = (),
                 average: WeightAverage | None = None) -> None:
        self.model = model
        self.loader = loader
        self.val_loader = val_loader
        self.config = config
        self.updater = updater
        self.sharing = sharing
        self.meter = meter
        self.saver = saver
        self.reporter = reporter
        self.loss = loss
        self.transforms = transforms
        self.average = average
        self.position = Position()
        #: the same at the last step: with `accumulate`, the batches after it are in no weight yet
        self._position_of_step = self.position
        self._accumulation = Accumulation(updater.num_accumulated, loader)
        # dropout and stochastic depth; seeding torch costs more than a small network's forward pass, so that
        # it is done only where something draws from it
        self._has_random_layers = any(is_random(module) for module in model.modules())
        self._monitor = Monitor(model, graph.parameter_names(model)) if config.monitor else None
        self._shared_cores = SharedCores(sharing.worker)

    def fit(self, position: Position) -> dict[str, float]:
        """Train from `position` to the end; return the last metrics, those of validation if there is any."""
        # written into every checkpoint, so that other processes can continue with the same batches
        self.position = dataclasses.replace(position, batch_size=self.loader.batch_size,
                                            world=self.sharing.worker.world_size,
                                            num_threads=self.sharing.worker.num_threads,
                                            dtype=self.updater.precision.name)
        self._position_of_step = self.position
        try:
            return self._fit()
        except LostDataError as error:  # between two batches, so what was learned is whole
            position = self._position_of_step
            raise self.saver.save_after_loss(error, self.model, self.updater, position) from error
        finally:
            self._shared_cores.close()

    def _fit(self) -> dict[str, float]:
        result: dict[str, float] = {}
        is_over = self.saver.was_over(self.position)
        while not is_over and self.position.epoch < self.config.num_epochs:
            epoch = self.position.epoch
            result = self.train_epoch()

            # Once an epoch: save the weights, unless `save_period` leaves this one out.
            is_last = self.position.epoch == self.config.num_epochs
            if path := self.saver.save_epoch(self.model, self.updater, self.position, is_last=is_last):
                self.reporter.saved(path)

            # Every `val_period` epochs, and after saving: an evaluation that fails or is interrupted costs
            # nothing that was learned.
            if self.val_loader is not None and self.config.is_validated(self.position.epoch):
                result = self.evaluate(self.val_loader)
                self.reporter.validated(epoch, result, self.position.update)
                is_over = self.saver.note_validation(self.model, self.updater, self.position, result)
            self.reporter.epoch_over()
        self.saver.wait()
        return result

    def train_epoch(self) -> dict[str, float]:
        """Train on the rest of the current epoch, move `position` to the next, and return the metrics."""
        epoch = self.position.epoch
        first_batch = self.position.batch
        self.meter.begin_epoch(self.position)
        # Here, as networks that were read from a checkpoint come in evaluation mode.
        self.model.train()
        self.sharing.begin_epoch(self.model)
        self.reporter.epoch_begins(epoch, self.config.num_epochs, self.loader.batches_per_epoch, first_batch)
        epoch_started = interval_started = time.perf_counter()
        num_samples = 0
        for batch_index, batch in enumerate(self.loader.epoch(epoch, first_batch), first_batch):
            self.train_step(batch, self.position.update + 1)
            num_samples += batch.global_size
            self.position = dataclasses.replace(self.position, batch=batch_index + 1,
                                                update=self.position.update + 1)
            self.reporter.batch_done()

            # Every `disp_batches`: a line, and a look at the loss. As in MXNet the first has one batch more.
            if batch_index and batch_index % self.config.disp_batches == 0:
                loss = self._read_loss()  # waits for the device, so the clock is read after it
                now = time.perf_counter()
                num_batches = min(self.config.disp_batches, batch_index - first_batch + 1)
                speed = num_batches * self.loader.batch_size / max(now - interval_started, 1e-9)
                interval_started = now
                self._report_progress(epoch, batch_index, speed, loss)

            # Between two steps: a signal may request an end, or it may be time to save a position.
            if self._accumulation.window(self.position.update).is_last:
                self.handle_stop_request()
                self._position_of_step = self.position
        return self._end_epoch(epoch, num_samples, time.perf_counter() - epoch_started)

    def train_step(self, batch: Batch, update: int) -> None:
        """Update the weights from one batch, the `update`-th of the training (from 1)."""
        # A batch is a step, but for `accumulate`: then it is one of the window of batches that make a step.
        window = self._accumulation.window(update)
        lr = self.updater.begin(update, window)  # clears the gradients, where the window begins
        if self.updater.schedule.changes_at(update):
            self.reporter.log(f"Update[{update}]: Change learning rate to {lr:.5e}")
        monitor = self._monitor if self._monitor and update % self.config.monitor == 0 else None
        if monitor:
            monitor.begin()

        for transform in self.transforms:  # progressive resizing, mixup and CutMix
            batch = transform(batch, self.position.epoch, self.position.batch)
        self._forward_and_backward(batch, update, is_last=window.is_last)
        if window.is_last:
            self._take_step(update, lr)

        if monitor:
            for line in monitor.end(update):
                self.reporter.log(line)

    def _take_step(self, update: int, lr: float) -> None:
        """Change the weights by the gradients, and their average with them."""
        self.updater.clip_gradients()
        if self.sharing.server:  # dist_async: the servers take the step, and send the weights after it
            self.sharing.server.push_pull(lr)
        else:
            self.updater.step()
        if self.average:
            self.average.update(self.model, update)

    def evaluate(self, loader: Loader) -> dict[str, float]:
        """Return the metrics over the samples of `loader`; a signal ends it, with the position saved."""
        metrics = Metrics(self.meter.names, self.sharing.worker.device)
        model = self.average.model if self.average else self.model
        evaluate(model, loader, metrics, self.updater.precision, self.handle_stop_request)
        return metrics.values(self.meter.sum_over_processes(metrics))

    def _forward_and_backward(self, batch: Batch, update: int, *, is_last: bool) -> None:
        """Add the gradients of the mean loss over the batch of all processes to the parameters; processes
        exchange them with the last batch of a step.

        A batch in micro-batches is what as many processes would have computed, bit for bit: each has its own
        dropout, begins with the same running statistics, and they are averaged after.
        """
        rank = self.sharing.worker.rank
        count = self.sharing.num_micro_batches
        if count == 1:
            with self.sharing.no_sync(is_last=is_last):
                self.meter.add_loss(self._micro_batch_step(batch, update, rank))
            self.sharing.average_statistics(batch.num_valid / batch.global_size)
            return
        total = torch.zeros((), device=self.sharing.worker.device)
        with self.sharing.averaged_micro_batches() as statistics:
            for index, micro_batch in enumerate(batch.micro_batches(count)):
                with self.sharing.no_sync(is_last=is_last and index == count - 1):
                    total += self._micro_batch_step(micro_batch, update, rank * count + index)
                statistics.add(micro_batch.num_valid / batch.global_size)
        self.meter.add_loss(total)

    def _micro_batch_step(self, batch: Batch, update: int, index: int) -> Tensor:
        """Do the forward and backward pass of a micro-batch; return its part of the mean loss, a scalar
        tensor.

        `index` counts the micro-batches of all processes, in the order of the samples.
        """
        if self._has_random_layers:
            # By update and micro-batch: a resumed run drops the same units, and so do two processes and one
            # with two micro-batches.
            torch.manual_seed(order.step_seed(self.config.seed, update) + index)
        self.sharing.begin_micro_batch(batch.num_valid)
        with self.updater.precision.autocast():
            logits = self.sharing.forward(batch.images)
        # float32 for the loss, whatever the network computes in: half precision has too few digits for it
        logits = logits.float()
        if batch.num_valid < len(logits):  # padding learns nothing
            batch = batch.without_padding()
            logits = logits[:batch.num_valid]
        loss = self.loss(logits, batch)
        self.updater.backward(loss)
        # Detached: the graph of a step would otherwise stay as long as the sums, and with it all activations.
        self.meter.metrics.update(logits.detach(), batch.labels, batch.other_labels, batch.share)
        return loss.detach()

    def _read_loss(self) -> float:
        """Return the mean loss since the last progress line; RunError for a loss that is not a number."""
        losses = self.meter.read_losses()
        first_update = self.position.update - len(losses) + 1
        for update, loss in enumerate(losses, first_update):
            if not math.isfinite(loss):
                raise self._diverged(update, loss)
        return self.meter.interval_loss

    def _diverged(self, update: int, loss: float) -> RunError:
        worker = self.sharing.worker
        # all processes have read the same losses; the others end as if they had lost rank 0, which says it
        # once
        if worker.is_synchronous and worker.rank:
            return LostContact(f"the loss is {loss} at update {update}: see the message of rank 0")
        return RunError(f"the loss is {loss} at update {update} (epoch {self.position.epoch}, learning rate "
                        f"{self.updater.schedule.lr_at(update):g}): stopped, {self.saver.describe_last()}; a "
                        "smaller `lr`, `warmup_epochs` 1 or `clip_gradient` 1 may help")

    def _report_progress(self, epoch: int, batch_index: int, speed: float, loss: float) -> None:
        """Write the line of an interval, and begin the next."""
        totals = self.meter.interval_totals()
        update = self.position.update
        self.reporter.progress(epoch, batch_index, self.config.disp_batches, speed, loss,
                               self.updater.schedule.lr_at(update), update, self.meter.values(totals))
        self.meter.close_interval(totals)
        if line := self._shared_cores.check():
            self.reporter.warn(line)

    def handle_stop_request(self) -> None:
        """Save the position where any process requests it, and raise `Stopped` where one requests an end."""
        request = self.saver.pending_request()
        if request:
            self._read_loss()  # no position is saved behind a loss that is not a number
            self.position = self.meter.write_into(self.position)
            self.saver.handle_request(request, self.model, self.updater, self.position)

    def _end_epoch(self, epoch: int, num_samples: int, seconds: float) -> dict[str, float]:
        """Write the lines of the whole epoch, move to the next, and return the epoch's metrics."""
        self._read_loss()
        self.meter.close_interval(self.meter.interval_totals())
        values = self.meter.epoch_values()
        update = self.position.update
        self.reporter.epoch_done(epoch, values, self.meter.epoch_loss, seconds, num_samples,
                                 self.updater.schedule.lr_at(update), update)
        if line := self.sharing.describe_epoch():
            self.reporter.log(f"Epoch[{epoch}] {line}")
        # a new Position: sums of the epoch that is over must not be counted into the next
        self.position = Position(epoch=epoch + 1, update=update, batch_size=self.position.batch_size,
                                 world=self.position.world, num_threads=self.position.num_threads,
                                 dtype=self.position.dtype)
        self._position_of_step = self.position
        return values
