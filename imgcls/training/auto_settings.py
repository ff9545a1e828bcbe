"""Choose epochs, batch size and learning rate by the number of training photographs. Called by `run`.

MXNet's defaults are for the million images of ImageNet: with two hundred photographs they make two updates an
epoch. They still hold for training from scratch on records and lists, for everything that is not photographs,
for the scripts under MXNet's names, and where a recipe sets rate, batch or schedule or the user gives
`lr_regime`. What the user sets stays, and the rest is chosen. The choice goes into the meta data, and a
resumed run keeps it. Tuned on several sets and networks: the figures are in docs/benchmarks.md.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from imgcls.config import rules
from imgcls.config.flags import convert, show
from imgcls.config.resolve import FIELDS, Config
from imgcls.config.sections import OPTIMIZERS
from imgcls.data.file_source import FolderSource
from imgcls.data.sources import ArraySource, Splits
from imgcls.distributed.process_group import Worker
from imgcls.errors import DataError, UsageError, verbatim
from imgcls.training.checkpoint import Saved
from imgcls.training.kept_preprocessing import read_noted
from imgcls.training.reporter import Reporter

#: the settings that may be chosen; those that the user sets stay
CHOSEN = ("num_epochs", "batch_size", "lr", "lr_schedule", "mom", "wd", "initializer", "rgb_std")
#: these count in epochs: where one is given, the number of epochs is not chosen, as it could be too small
_IN_EPOCHS = ("lr_factor", "lr_step_epochs", "lr_factor_epoch", "restart_epochs", "restart_factor")
#: these say how the rate falls
_SCHEDULES = ("lr_schedule", "final_lr", *_IN_EPOCHS)
#: a script under MXNet's name gives no advice where the user sets one of these
_OF_RATES = ("lr", "lr_regime", "optimizer", *_SCHEDULES)
#: optimizers whose steps are the rate times the gradient: rates are known for these
_SGD = ("sgd", "ccsgd", "nag")
#: optimizers that want a constant rate
_CONSTANT = ("schedule-free-sgd", "schedule-free-adamw", "ftrl", "adadelta")
#: `rgb_std` is not chosen where the user sets one of these
_SCALE = ("rgb_std", "rgb_mean", "mean_image")
#: from this number of images on MXNet's defaults hold: they were made for sets of that size
_MANY_IMAGES = 100_000
#: with fewer images, starting from trained weights gains more than any setting that could be chosen here
_FEW_IMAGES = 10_000
#: about so many updates make an epoch, as far as the bounds of a batch allow: below, batch normalisation has
#: too little to go by; above, a small set has too few updates
_UPDATES_PER_EPOCH = 30
_MIN_BATCH, _MAX_BATCH = 16, 128
#: a number of images, and the epochs for sets of fewer: from scratch, and from pretrained weights
_EPOCHS = ((1_000, 100, 30), (10_000, 60, 15), (_MANY_IMAGES, 40, 8))
#: the learning rate from scratch for a batch of 128; for other sizes in proportion
_LR = 0.1
#: from trained weights a batch may be smaller: running statistics and features have been learned already
_MIN_BATCH_PRETRAINED = 8
#: the learning rate from trained weights for a batch of 8 to 16, and the most that a larger batch gets in
#: proportion: it must not take the weights far away from what they were trained to
_LR_PRETRAINED, _MAX_LR_PRETRAINED = 0.025, 0.05
#: the deviations of ImageNet's photographs: they bring values to about 1; with larger values networks
#: without normalisation diverge
_STD = (58.393, 57.12, 57.375)
#: networks that begin with a fully connected layer, and the most that the rate times the number of values of
#: an image may be: the step of such a layer grows with its inputs
_FLAT, _LR_TIMES_VALUES = ("mlp",), 30.0


def choose(config: Config, splits: Splits, saved: Saved | None, worker: Worker, reporter: Reporter, *,
           is_pretrained: bool, find_trained: Callable[[], str] | None = None) -> Config:
    """Return the configuration with the settings chosen for this number of images; log each with its reason.

    Return it unchanged where nothing is to be chosen. A resumed run keeps what was chosen when it began.
    `find_trained` returns a value for `pretrained_model` that is on this machine, or "".
    """
    if isinstance(splits.train, ArraySource) or config.train.test_io or config.data.benchmark:
        return config
    if saved is not None:
        before = _chosen_before(config, saved, worker) if config.may_choose else {}
        return _with(config, before) if before else config
    count = len(splits.train)
    # training from scratch on records keeps MXNet's defaults
    is_for_choice = is_pretrained or isinstance(splits.train, FolderSource)
    if count >= _MANY_IMAGES or not count or not is_for_choice or _is_whole(config):
        return config
    num_workers = 1 if worker.is_async else worker.num_workers
    values, reasons = settings_for(config, count, is_pretrained=is_pretrained, num_workers=num_workers)
    if not config.may_choose:
        if is_pretrained and not config.is_explicit(*_OF_RATES):
            reporter.info(_advice(values, count))
        return config
    if config.is_explicit("optimizer") and "lr" not in {*values, *config.explicit}:
        reporter.info(f"note: which rate goes with `optimizer` {config.optimizer.name} is not known here, so "
                      "nothing is chosen; where `lr` is given, the rest is")
        return config
    for name, reason in reasons.items():
        reporter.info(f"chosen: `{name}` {show(values[name])} ({reason})")
    if note := _rate_given(config.with_defaults(**values), is_pretrained=is_pretrained):
        reporter.info(note)
    if not is_pretrained and count < _FEW_IMAGES:
        found = find_trained() if find_trained else ""
        weights = f"{verbatim(found)}, which is on this machine" if found else "a trained network"
        reporter.info(f"note: {count:,} photographs are few to learn from scratch; imgcls-finetune begins "
                      f"with {weights}")
    return _with(config, values)


def settings_for(config: Config, count: int, *, is_pretrained: bool,
                 num_workers: int = 1) -> tuple[dict[str, Any], dict[str, str]]:
    """Return setting -> value for `count` training images, and setting -> why, for people.

    Settings that the user gave are left out; the learning rate is for the batch that will be used, which has
    `batch_size` images of each of the `num_workers` workers.
    """
    begin = "pretrained weights" if is_pretrained else "scratch"
    # by the number of images alone: the effect of the number of classes was not measured
    limit, scratch, pretrained = next(row for row in _EPOCHS if count < row[0])
    batch_size = (config.data.batch_size if config.is_explicit("batch_size") else
                  max(_batch_size(count, _MIN_BATCH_PRETRAINED if is_pretrained else _MIN_BATCH)
                      // num_workers, 1))
    num_updates = math.ceil(count / (batch_size * num_workers))
    lr, why = _learning_rate(config, batch_size * num_workers, is_pretrained=is_pretrained)
    chosen: dict[str, tuple[Any, str]] = {
        "num_epochs": (pretrained if is_pretrained else scratch,
                       f"from {begin}, with fewer than {limit:,} images"),
        "batch_size": (batch_size, f"{_counted(num_updates, 'update')} an epoch of "
                                   f"{_counted(count, 'image')}"
                                   + (f" with {num_workers} workers" if num_workers > 1 else "")),
        "lr": (lr, f"{why} from {begin}"),
        # no step to choose, and the best of the schedules that need none
        "lr_schedule": ("cosine", "falls to 0 at the last update, with no steps to choose")}
    if is_pretrained:  # MXNet's fine-tune.py has neither
        if "mom" in OPTIMIZERS.get(config.optimizer.name, ()):
            chosen["mom"] = (0.9, "as in training from scratch; the rate goes with it")
        chosen["wd"] = (1e-4, "as in training from scratch")
        if ":" not in config.network.network:  # networks of other packages draw their own small values
            # random outputs would send random gradients through the weights below (Kumar et al., 2022)
            chosen["initializer"] = ("zero", "of the new head: it learns first, and what is below it then")
    elif config.network.image_shape[:1] == (3,) and not config.is_explicit(*_SCALE):
        chosen["rgb_std"] = (_STD, "of ImageNet's photographs: values of about 1 for any network")
    given = {*config.explicit, *_fixed_by_others(config)}
    num_epochs = config.train.num_epochs if "num_epochs" in given else chosen["num_epochs"][0]
    if num_epochs * num_updates == 1:
        given.add("lr_schedule")  # the only update is the last, where the rate is 0
    chosen = {name: row for name, row in chosen.items() if name not in given}
    return ({name: value for name, (value, _) in chosen.items()},
            {name: reason for name, (_, reason) in chosen.items()})


def _is_whole(config: Config) -> bool:
    """Return whether `lr_regime` or a recipe decides about the settings, so that nothing is chosen."""
    # a recipe that sets one of these was tried with the defaults of the others
    of_recipe = (name for name in ("lr", "batch_size", *_SCHEDULES)
                 if config.explicit.get(name, "").startswith("--recipe"))
    return config.is_explicit("lr_regime") or any(of_recipe)


def _fixed_by_others(config: Config) -> set[str]:
    """Return the settings that are not chosen, as the optimizer or other settings of the user decide them."""
    fixed = set()
    if config.is_explicit(*_SCHEDULES):
        fixed.add("lr_schedule")
        if config.is_explicit(*_IN_EPOCHS) or config.schedule.lr_schedule == "restarts":
            fixed.add("num_epochs")
    if config.optimizer.name not in _SGD:
        fixed.add("lr")
        if config.optimizer.name in _CONSTANT:
            fixed.add("lr_schedule")
    return fixed


def _rate_given(config: Config, *, is_pretrained: bool) -> str:
    """Return the note about a rate that the user gives: which one would be chosen; "" if that is the same."""
    if not config.is_explicit("lr") or config.optimizer.name not in _SGD:
        return ""
    lr, _ = _learning_rate(config, config.data.batch_size, is_pretrained=is_pretrained)
    return "" if lr == config.schedule.lr else (
        f"note: `lr` {config.schedule.lr:g} is given; for a batch of {config.data.batch_size} {lr:g} would "
        "be chosen")


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _batch_size(count: int, least: int) -> int:
    batch_size = least
    while batch_size < _MAX_BATCH and count // (2 * batch_size) >= _UPDATES_PER_EPOCH:
        batch_size *= 2
    return batch_size


def _learning_rate(config: Config, batch_size: int, *, is_pretrained: bool) -> tuple[float, str]:
    """Return the learning rate and the rule that gives it, in words."""
    if is_pretrained:
        scale = min(batch_size / 8, 1.0) * max(batch_size / 16, 1.0)
        lr = min(_LR_PRETRAINED * scale, _MAX_LR_PRETRAINED)
        why = (f"{_LR_PRETRAINED:g} for a batch of 8 to 16, in proportion else, at most "
               f"{_MAX_LR_PRETRAINED:g},")
        if config.lr_scale == 1:
            return lr, why
        return float(f"{lr * config.lr_scale:.2g}"), (
            f"{why} times {config.lr_scale:.2g} as the norm of the filters before batch normalisation is "
            "small,")
    # ResNet's own recipe has 0.1 for 128 to 256 images; in proportion to the batch: Goyal et al., 2017
    lr = _LR * batch_size / 128
    num_values = math.prod(config.network.image_shape)
    if config.network.network in _FLAT and lr > _LR_TIMES_VALUES / num_values:
        return (float(f"{_LR_TIMES_VALUES / num_values:.2g}"),
                f"{config.network.network} takes {num_values:,} values at once: the more, the smaller the "
                "steps,")
    return lr, f"{_LR:g} for a batch of 128, in proportion,"


def _advice(values: Mapping[str, Any], count: int) -> str:
    """Return the note for fine-tuning with MXNet's defaults: which settings would learn more."""
    better = ", ".join(f"`{name}` {show(value)}" for name, value in values.items())
    return (f"note: these are the defaults of MXNet's fine-tune.py; of {count:,} photographs more is learned "
            f"with {better}, which imgcls-finetune chooses automatically")


def _chosen_before(config: Config, saved: Saved, worker: Worker) -> dict[str, Any]:
    """Return what was chosen when the resumed run began, {} if nothing was."""
    noted = read_noted(saved, worker).get("chosen") or {}
    try:
        return {name: convert(FIELDS[name], noted[name]) for name in CHOSEN if name in noted}
    except UsageError as error:
        raise DataError(f"{saved.path}: the meta data beside it", str(error)) from error


def _with(config: Config, values: dict[str, Any]) -> Config:
    """Return the configuration with these values where the user gives none, and the schedule that follows."""
    if config.is_explicit(*_SCHEDULES):
        values = {name: value for name, value in values.items() if name != "lr_schedule"}
    config = config.with_defaults(**values)
    decay = rules.resolve_decay(config.schedule, config.explicit, num_epochs=config.train.num_epochs)
    return dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, decay=decay),
                               chosen={**config.chosen, **values})
