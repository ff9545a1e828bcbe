"""`time_budget`: as many epochs as fit into the time, with schedule and image sizes. Called by `run`.

A few batches are trained on a copy of the network, and thrown away. Where so few epochs fit that the network
would learn little, it sees smaller images first and full ones at the end (`progressive_scale`). What was
chosen goes into the meta data, so that a resumed run keeps epochs, rates and sizes, whatever its machine
is doing then.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from imgcls.config import rules
from imgcls.config.flags import convert, show
from imgcls.config.resolve import FIELDS, Config
from imgcls.config.sections import TrainConfig
from imgcls.data.loaders.batch import Loader
from imgcls.data.resizing import Resizing, make_resizing
from imgcls.distributed.process_group import Worker
from imgcls.errors import DataError, UsageError
from imgcls.optim import optimizers
from imgcls.training.checkpoint import Saved
from imgcls.training.kept_preprocessing import read_noted
from imgcls.training.loss import Loss
from imgcls.training.precision import Precision
from imgcls.training.recompute import recompute_activations
from imgcls.training.reporter import Reporter
from imgcls.training.timing import endless, synchronize

#: what a measurement may take, as a part of the budget and in seconds, and how many batches are enough
# more would be time that is not trained; 40 steps are enough for the mean of a step to settle
_PART, _MAX_SECONDS, _MAX_BATCHES = 0.02, 20.0, 40
#: fewer epochs than this are too few for photographs: ffcv's shortest recipe for ResNet-50 has so many
_FEW_EPOCHS = 16
#: the sizes to begin with, as parts of the full one, the largest first; and the least pixels of a side
_SCALES, _LEAST_SIDE = (0.75, 0.625, 0.5), 96
#: smaller images are worth it where so many times the epochs fit
_WORTH = 1.2
#: of the budget, what is left for saving, and for a machine that is slower later
_MARGIN = 0.05
#: the most epochs that are tried for a run that begins with small images: more fit only where the images are
#: so few that their size hardly matters
MAX_EPOCHS_TRIED = 2000
#: the rate of the measurement: not 0, at which some rules skip their step
_TRIAL_LR = 1e-12
#: a side to compute sizes with, whatever the images have
_SIDE = 1 << 10


def fit(config: Config, model: nn.Module, loss: Loss, loader: Loader, val_loader: Loader | None,
        saved: Saved | None, worker: Worker, reporter: Reporter) -> Config:
    """Return the configuration with the epochs that fit into `time_budget` minutes, and their schedule.

    Unchanged without a budget. A resumed run keeps what was chosen for it, and a note says so. UsageError
    beside `num_epochs`, and with dist_async.
    """
    budget_s = config.find.time_budget * 60
    if not budget_s:
        return config
    if worker.is_async:
        raise UsageError("`time_budget`: does not go with `kv_store` dist_async, whose workers differ in "
                         "speed; take dist_sync")
    # which of the two should win is not for us to guess
    if config.is_explicit("num_epochs"):
        raise UsageError("`time_budget` and `num_epochs` contradict each other: give one of them")
    # measured again the speed might give another number, and so another schedule in the middle of
    # a run
    before = (read_noted(saved, worker).get("chosen") or {}) if saved is not None else {}
    if saved is not None and before.get("num_epochs"):
        return _as_before(config, saved, before, reporter)
    started = time.perf_counter()
    scales = allowed_scales(config, model, worker.device)
    seconds = min(_PART * budget_s, _MAX_SECONDS) / (2 if scales else 1)
    step_s, val_s = _measure(model, loss, loader, val_loader, config, worker, seconds)
    small_s = (_measure(model, loss, loader, None, config, worker, seconds, scales[-1])[0] if scales
               else step_s)
    left_s = budget_s - (time.perf_counter() - started)
    # all processes train equally many epochs: as many as the slowest can
    # every process has the same results of `gather`, which waits for all of them, and so computes
    # the same number of epochs
    if worker.is_synchronous:
        step_s, small_s, val_s, left_s = (max(worker.gather(step_s)), max(worker.gather(small_s)),
                                          max(worker.gather(val_s)), min(worker.gather(left_s)))
    epoch_s = loader.batches_per_epoch * step_s + val_s
    times = Times(loader.batches_per_epoch, step_s, small_s, scales[-1] if scales else 1.0, val_s)
    num_epochs, scale, why = choose(config, times, left_s, scales)
    reporter.info(f"chosen: `num_epochs` {num_epochs} (an epoch takes about {epoch_s:.3g} s of the "
                  f"{config.find.time_budget:g} minutes of `time_budget`"
                  f"{'' if scale == 1 else ' at full size'})")
    if why:
        reporter.info(f"chosen: `progressive_scale` {scale:g} ({why})")
    if epoch_s > left_s:
        reporter.warn(f"`time_budget` {config.find.time_budget:g}: one epoch takes about {epoch_s / 60:.3g} "
                      "minutes; smaller images (`image_shape`) or a smaller network take less")
    return with_epochs(config, num_epochs, scale)


def _as_before(config: Config, saved: Saved, before: Mapping[str, Any], reporter: Reporter) -> Config:
    """Return the configuration with the epochs and sizes in `before`, which were chosen when the run began.
    """
    try:
        config = with_epochs(config, convert(FIELDS["num_epochs"], before["num_epochs"]),
                             convert(FIELDS["progressive_scale"], before.get("progressive_scale", 1.0)))
    except UsageError as error:
        raise DataError(f"{saved.path}: the meta data beside it", str(error)) from error
    # they need not be of a budget: those of a small folder are chosen by its number of images
    reporter.info(f"note: `time_budget` {config.find.time_budget:g} changes nothing: `num_epochs` "
                  f"{config.train.num_epochs} was chosen when the run began, and is kept")
    return config


@dataclasses.dataclass(frozen=True)
class Times:
    """What was measured, in seconds: a batch of full images and one of `scale` of their sides, a validation.
    """

    batches_per_epoch: int
    step_s: float
    small_s: float
    scale: float
    val_s: float

    def batch_s(self, scale: float) -> float:
        """Return the time of a batch of images of `scale`, interpolated by their number of pixels."""
        if self.scale == 1:
            return self.step_s
        # a convolution costs by the pixel, a classifier and the loader by the image: a line through both ends
        part = (scale**2 - self.scale**2) / (1 - self.scale**2)
        return self.small_s + (self.step_s - self.small_s) * part

    def run_s(self, train: TrainConfig) -> float:
        """Return the time of a run with the epochs and the image sizes of these settings."""
        sizes = Resizing(train, (_SIDE, _SIDE))
        return sum(self.val_s * train.is_validated(epoch + 1)
                   + self.batches_per_epoch * self.batch_s(sizes.size(epoch)[0] / _SIDE)
                   for epoch in range(train.num_epochs))


def allowed_scales(config: Config, model: nn.Module, device: torch.device) -> tuple[float, ...]:
    """Return the parts of the full side that a run may begin with, falling; none where all must be full.

    The user's alone where one is given. None for a network that takes one size only.
    """
    train, shape = config.train, config.network.image_shape
    if config.data.benchmark or len(shape) != 3:
        return ()
    if train.progressive_scale < 1:
        return (train.progressive_scale,)
    if config.is_explicit("progressive_scale", "progressive_epochs"):
        return ()
    scales = tuple(scale for scale in _SCALES if scale * min(shape[1:]) >= _LEAST_SIDE)
    # the smallest: what runs at it runs at those in between
    smallest = dataclasses.replace(train, progressive_scale=scales[-1], num_epochs=10) if scales else None
    try:
        return scales if smallest and make_resizing(smallest, shape, model, device) else ()
    except UsageError:
        return ()


def choose(config: Config, times: Times, seconds: float, scales: Sequence[float]) -> tuple[int, float, str]:
    """Return how many epochs fit, the size to begin with, and why it is not full size ("" where it is)."""
    if scales and config.train.progressive_scale < 1:  # the user's own
        return _epochs_at(config, times, seconds, config.train.progressive_scale), scales[0], ""
    # smaller images cost accuracy at equal epochs: only where there are too few of them
    full = epochs_in(seconds, times.batches_per_epoch * times.step_s
                     + times.val_s / config.train.val_period)
    if full >= _FEW_EPOCHS:
        return full, 1.0, ""
    counts = {scale: _epochs_at(config, times, seconds, scale) for scale in scales}
    # as large as gives enough epochs, else what gives the most
    scale = next((scale for scale in scales if counts[scale] >= _FEW_EPOCHS), scales[-1] if scales else 1.0)
    if not scales or counts[scale] < _WORTH * full or counts[scale] < 2:
        return full, 1.0, ""
    return counts[scale], scale, (f"{full} of full size would fit, which is few; smaller images in the first "
                                  f"half of {counts[scale]}, full ones at the end")


def _epochs_at(config: Config, times: Times, seconds: float, scale: float) -> int:
    """Return how many epochs fit that begin with images of `scale`; one at least."""
    def fits(count: int) -> bool:
        train = dataclasses.replace(config.train, num_epochs=count, progressive_scale=scale)
        return times.run_s(train) <= (1 - _MARGIN) * seconds

    # no more than if all were small; from there down, as the time does not quite rise evenly
    count = epochs_in(seconds, times.batches_per_epoch * times.batch_s(scale) + times.val_s)
    count = min(count, MAX_EPOCHS_TRIED)
    while count > 1 and not fits(count):
        count -= max(count // 100, 1)
    return count


def epochs_in(seconds: float, epoch_s: float) -> int:
    """Return how many epochs fit, with a margin; one at least."""
    # a time of 0 where the clock is coarse is no division by 0
    return max(int((1 - _MARGIN) * seconds / max(epoch_s, 1e-9)), 1)


def with_epochs(config: Config, num_epochs: int, scale: float = 1.0) -> Config:
    """Return the configuration with so many epochs; steps of the rate keep their share of the run.

    `scale` is the `progressive_scale` that was chosen, unless the user has one.
    """
    before = max(config.train.num_epochs, 1)
    train = dataclasses.replace(config.train, num_epochs=num_epochs)
    chosen: dict[str, Any] = {"num_epochs": num_epochs}
    if scale < 1 and not config.is_explicit("progressive_scale"):
        train = dataclasses.replace(train, progressive_scale=scale)
        chosen["progressive_scale"] = scale
    schedule = config.schedule
    # steps at 30 and 60 of 90 epochs become 1 and 2 of 3: without this a short run would never
    # lower its rate
    if schedule.decay.kind == "steps" and not config.is_explicit("lr_step_epochs"):
        steps = sorted({max(round(epoch * num_epochs / before), 1) for epoch in schedule.decay.step_epochs})
        schedule = dataclasses.replace(schedule, lr_step_epochs=show(steps))
    # cosine and linear ones end at the last epoch, which has just changed
    decay = rules.resolve_decay(schedule, config.explicit, num_epochs=num_epochs)
    return dataclasses.replace(config, train=train, schedule=dataclasses.replace(schedule, decay=decay),
                               chosen={**config.chosen, **chosen})


def _measure(model: nn.Module, loss: Loss, loader: Loader, val_loader: Loader | None, config: Config,
             worker: Worker, seconds: float, scale: float = 1.0) -> tuple[float, float]:
    """Return the seconds of a batch, from the loader to the step, and those of a validation.

    Batches have `scale` of the height and width, made smaller on the device as the run would do it. A teacher
    in the loss, the run's own optimizer and activations that are computed again count as they do there.
    """
    # the run itself must begin with the weights that its seed gives; a small rate alone would not do, as
    # batch normalisation moves its statistics
    trial = copy.deepcopy(model).train()
    recompute_activations(trial, config)
    # the updates are computed for the time that they take; at such a rate the trial stays finite whatever it
    # learns
    optimizer = optimizers.build(config.optimizer, trial, worker.device, config.train.seed)
    optimizers.set_lr(optimizer, _TRIAL_LR)
    take_step = optimizers.stepper(optimizer)
    precision = Precision(config.device.dtype, worker.device)
    count = 0
    started = time.perf_counter()
    with closing(endless(loader, 0)) as batches:
        for number, batch in enumerate(batches):
            if number == 1:  # the first chooses kernels and takes memory
                started = time.perf_counter()
            if scale < 1:
                side = [max(round(scale * length), 1) for length in batch.images.shape[2:]]
                batch = dataclasses.replace(batch, images=F.interpolate(batch.images, side, mode="bilinear",
                                                                        antialias=True))
            # in the parts of the run: a whole batch may take more memory than there is
            for part in batch.micro_batches(config.distributed.micro_batches):
                with precision.autocast():
                    logits = trial(part.images)
                loss(logits.float()[:part.num_valid], part.without_padding()).backward()
            with torch.no_grad():
                take_step()
            trial.zero_grad(set_to_none=True)
            synchronize(worker.device)
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
            with precision.autocast():
                trial(batch.images)
            synchronize(worker.device)
            count += 1
            if count >= val_loader.batches_per_epoch or time.perf_counter() - started > seconds:
                break
    return step_s, (time.perf_counter() - started) / count * val_loader.batches_per_epoch
