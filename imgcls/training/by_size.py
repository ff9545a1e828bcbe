"""Epochs, batch and learning rate for a folder of photographs, by how many there are. Called by `run`.

MXNet's defaults are for the million images of ImageNet: of two hundred photographs they make two updates an
epoch. They hold for everything else than a folder, for the scripts that have MXNet's names, and where the
user gives one of these settings. What was chosen goes into the meta data: a run that goes on keeps it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from imgcls.config import rules
from imgcls.config.flags import convert
from imgcls.config.resolve import FIELDS, Config
from imgcls.data.file_source import FolderSource
from imgcls.data.sources import Splits
from imgcls.distributed.process_group import Worker
from imgcls.errors import DataError, UsageError
from imgcls.training.checkpoint import Saved
from imgcls.training.kept_preprocessing import read_noted
from imgcls.training.reporter import Reporter

#: what is chosen together, and what of the user's keeps it from being chosen
CHOSEN = ("num_epochs", "batch_size", "lr", "lr_schedule")
_INSTEAD = (*CHOSEN, "lr_factor", "lr_step_epochs", "lr_factor_epoch", "final_lr", "optimizer")
#: from here on MXNet's defaults are what they were made for
_MANY_IMAGES = 100_000
#: of fewer, trained weights make more than anything that could be chosen here
_FEW_IMAGES = 10_000
#: about so many updates make an epoch, as far as the bounds of a batch allow: below, batch normalisation has
#: too little to go by; above, a small set has too few updates
_UPDATES_PER_EPOCH = 30
_MIN_BATCH, _MAX_BATCH = 16, 128
#: images, and the epochs for fewer than these: from scratch, and from weights that were trained before
_EPOCHS = ((1_000, 100, 30), (10_000, 60, 15), (_MANY_IMAGES, 40, 8))
#: the learning rate of a batch of 128, and for other batches in proportion; trained weights move less
_LR, _LR_PRETRAINED = 0.1, 0.05


def choose(config: Config, splits: Splits, saved: Saved | None, worker: Worker, reporter: Reporter, *,
           is_pretrained: bool) -> Config:
    """Return the configuration with these settings by the number of training images, each told with why.

    As it is where they are not to be chosen. A run that goes on keeps those that it was begun with.
    """
    if not config.may_choose or not isinstance(splits.train, FolderSource) or config.train.test_io:
        return config
    if saved is not None:
        before = _chosen_before(config, saved, worker)
        return _with(config, before) if before else config
    count = len(splits.train)
    if config.is_explicit(*_INSTEAD) or count >= _MANY_IMAGES:
        return config
    values, reasons = choice(count, is_pretrained=is_pretrained)
    for name, reason in reasons.items():
        reporter.info(f"chosen: `{name}` {values[name]} ({reason})")
    if not is_pretrained and count < _FEW_IMAGES:
        reporter.info(f"note: {count:,} photographs are few to learn from scratch; imgcls-finetune begins "
                      "with a trained network")
    return _with(config, values)


def choice(count: int, *, is_pretrained: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """Return setting -> value for `count` training images, and setting -> why, for people."""
    batch_size = _MIN_BATCH
    while batch_size < _MAX_BATCH and count // (2 * batch_size) >= _UPDATES_PER_EPOCH:
        batch_size *= 2
    limit, scratch, pretrained = next(row for row in _EPOCHS if count < row[0])
    lr_of_128 = _LR_PRETRAINED if is_pretrained else _LR
    begin = "weights that were trained before" if is_pretrained else "scratch"
    values = {"num_epochs": pretrained if is_pretrained else scratch, "batch_size": batch_size,
              "lr": lr_of_128 * batch_size / 128, "lr_schedule": "cosine"}
    return values, {
        "num_epochs": f"from {begin}, with fewer than {limit:,} images",
        "batch_size": f"{-(-count // batch_size):,} updates an epoch of {count:,} images",
        "lr": f"{lr_of_128:g} for a batch of 128 from {begin}, in proportion",
        "lr_schedule": "falls to 0 at the last update, with no steps to choose"}


def _chosen_before(config: Config, saved: Saved, worker: Worker) -> dict[str, Any]:
    """Return what was chosen for the run that is gone on with, {} where nothing was."""
    noted = read_noted(saved, config, worker).get("chosen") or {}
    try:
        return {name: convert(FIELDS[name], noted[name]) for name in CHOSEN if name in noted}
    except UsageError as error:
        raise DataError(f"{saved.path}: the meta data beside it", str(error)) from error


def _with(config: Config, values: dict[str, Any]) -> Config:
    """Return the configuration with these values where the user gives none, and the schedule that follows."""
    if config.is_explicit("lr_factor", "lr_step_epochs", "lr_factor_epoch"):
        values = {name: value for name, value in values.items() if name != "lr_schedule"}
    config = config.with_defaults(**values)
    decay = rules.resolve_decay(config.schedule, config.explicit, num_epochs=config.train.num_epochs)
    return dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, decay=decay),
                               chosen=values)
