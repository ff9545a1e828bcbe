"""`time_budget`: as many epochs as fit into the time, with the schedule over those. Called by `run`.

A few batches are trained on a copy of the network, and thrown away. What was chosen goes into the meta data,
so that a run that goes on keeps its epochs and its rates, whatever its machine is doing then.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from contextlib import closing

import torch
from torch import nn

from imgcls.config import rules
from imgcls.config.flags import convert
from imgcls.config.resolve import FIELDS, Config
from imgcls.data.loaders.batch import Loader
from imgcls.distributed.process_group import Worker
from imgcls.errors import UsageError
from imgcls.training.checkpoint import Saved
from imgcls.training.dry_run import endless, wait
from imgcls.training.kept_preprocessing import read_noted
from imgcls.training.loss import Loss
from imgcls.training.precision import Precision
from imgcls.training.reporter import Reporter

#: what a measurement may take, of the budget and at most; and the batches that are enough
# more would be time that is not trained; 40 steps are enough for the mean of a step to settle
_PART, _MAX_SECONDS, _MAX_BATCHES = 0.02, 20.0, 40
#: of the budget, what is left for saving, and for a machine that is slower later
_MARGIN = 0.05


def fit(config: Config, model: nn.Module, loader: Loader, val_loader: Loader | None, saved: Saved | None,
        worker: Worker, reporter: Reporter) -> Config:
    """Return the configuration with the epochs that fit into `time_budget` minutes, and their schedule.

    As it is without a budget. A run that goes on keeps what was chosen for it.
    """
    budget_s = config.find.time_budget * 60
    if not budget_s:
        return config
    if worker.is_async:
        raise UsageError("`time_budget`: does not go with `kv_store` dist_async, where each worker has a "
                         "speed of its own; take dist_sync")
    # which of the two should win is not for us to guess
    if config.is_explicit("num_epochs"):
        raise UsageError("`time_budget` and `num_epochs` contradict each other: give one of them")
    # measured again the speed might give another number, and so another schedule in the middle of
    # a run
    before = (read_noted(saved, config, worker).get("chosen") or {}) if saved is not None else {}
    if before.get("num_epochs"):
        return with_epochs(config, convert(FIELDS["num_epochs"], before["num_epochs"]))
    started = time.perf_counter()
    step_s, val_s = _measure(model, loader, val_loader, config, worker, min(_PART * budget_s, _MAX_SECONDS))
    left_s = budget_s - (time.perf_counter() - started)
    # all processes train as many epochs, those that the slowest can
    # every process has the same result of `gather`, and so the same number of epochs: it is a
    # barrier
    epoch_s = max(worker.gather(loader.batches_per_epoch * step_s + val_s)) if worker.is_synchronous else (
        loader.batches_per_epoch * step_s + val_s)
    num_epochs = epochs_in(left_s, epoch_s)
    reporter.info(f"chosen: `num_epochs` {num_epochs} (an epoch takes about {epoch_s:.3g} s of the "
                  f"{config.find.time_budget:g} minutes of `time_budget`)")
    if epoch_s > left_s:
        reporter.warn(f"`time_budget` {config.find.time_budget:g}: one epoch takes about {epoch_s / 60:.3g} "
                      "minutes; smaller images (`image_shape`) or a smaller network take less")
    return with_epochs(config, num_epochs)


def epochs_in(seconds: float, epoch_s: float) -> int:
    """Return how many epochs fit, with some room; one at least."""
    # a time of 0 where the clock is coarse is no division by 0
    return max(int((1 - _MARGIN) * seconds / max(epoch_s, 1e-9)), 1)


def with_epochs(config: Config, num_epochs: int) -> Config:
    """Return the configuration with so many epochs; steps of the rate keep their share of the run."""
    before = max(config.train.num_epochs, 1)
    train = dataclasses.replace(config.train, num_epochs=num_epochs)
    schedule = config.schedule
    # steps at 30 and 60 of 90 epochs become 1 and 2 of 3: without this a short run would never
    # lower its rate
    if schedule.decay.kind == "steps" and not config.is_explicit("lr_step_epochs"):
        steps = sorted({max(round(epoch * num_epochs / before), 1) for epoch in schedule.decay.step_epochs})
        schedule = dataclasses.replace(schedule, lr_step_epochs=",".join(map(str, steps)))
    # cosine and linear ones end at the last epoch, which has just changed
    decay = rules.resolve_decay(schedule, config.explicit, num_epochs=num_epochs)
    return dataclasses.replace(config, train=train, schedule=dataclasses.replace(schedule, decay=decay),
                               chosen={**config.chosen, "num_epochs": num_epochs})


def _measure(model: nn.Module, loader: Loader, val_loader: Loader | None, config: Config, worker: Worker,
             seconds: float) -> tuple[float, float]:
    """Return the seconds of a batch, from the loader to the step, and those of a validation."""
    # the run itself must begin with the weights that its seed gives; lr 0 alone would not do, as
    # batch normalisation moves its statistics
    trial = copy.deepcopy(model).train()
    # the updates are computed for the time that they take; at 0 the trial stays finite whatever
    # it learns
    optimizer = torch.optim.SGD(trial.parameters(), lr=0.0, momentum=0.9)
    precision = Precision(config.device.dtype, worker.device)
    loss = Loss()
    count = 0
    started = time.perf_counter()
    with closing(endless(loader, 0)) as batches:
        for number, batch in enumerate(batches):
            if number == 1:  # the first chooses kernels and takes memory
                started = time.perf_counter()
            with precision.autocast():
                logits = trial(batch.images)
            loss(logits.float()[:batch.num_valid], batch.without_padding()).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            wait(worker.device)
            count = number
            if number and (number >= _MAX_BATCHES or time.perf_counter() - started > seconds):
                break
    step_s = (time.perf_counter() - started) / max(count, 1)
    if val_loader is None:
        return step_s, 0.0
    # running statistics instead of a batch's, as the run's own validations have it
    trial.eval()
    started = time.perf_counter()
    count = 0
    with torch.no_grad(), closing(endless(val_loader, 0)) as batches:
        for batch in batches:
            trial(batch.images)
            wait(worker.device)
            count += 1
            if count >= val_loader.batches_per_epoch or time.perf_counter() - started > seconds:
                break
    return step_s, (time.perf_counter() - started) / count * val_loader.batches_per_epoch
