"""Log what is about to be trained, in a few lines: data, network, schedule, device. Called by `run`."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from imgcls.config.flags import show
from imgcls.config.resolve import Config
from imgcls.config.sections import RegularizationConfig
from imgcls.data import augment
from imgcls.data.loaders.batch import Loader
from imgcls.data.sources import Splits
from imgcls.distributed.process_group import Worker
from imgcls.errors import verbatim
from imgcls.training import precision
from imgcls.training.network_size import count_parameters, short
from imgcls.training.reporter import Reporter
from imgcls.training.updater import Updater


def log_summary(config: Config, splits: Splits, model: nn.Module, flops: int, loader: Loader,
                val_loader: Loader | None, updater: Updater, worker: Worker, reporter: Reporter) -> None:
    """Log what is trained on what, how and where, and what was done to the images to make them fit.

    `flops` are those of one image; the schedule is that of `updater`.
    """
    # what decides the result comes first, what decides the speed last
    lines = {
        "data": _describe_data(config, splits, loader, val_loader),
        "network": _describe_network(config, model, flops),
        # flat rows of numbers are taken as they are
        "augmentation": (augment.describe(config.augment, config.network.image_shape)
                         if len(config.network.image_shape) == 3 else "none"),
        "regularised": ", ".join(filter(None, (
            describe_regularization(config.regularization), config.distillation.teacher
            and f"taught by {verbatim(config.distillation.teacher)}"))),
        "schedule": updater.schedule.description,
        "training": f"{config.optimizer.optimizer}, batch {describe_batch(loader.batch_size, worker)}, "
                    f"{loader.batches_per_epoch:,} updates per epoch, {config.train.num_epochs} epochs, "
                    f"seed {config.train.seed}",
        "device": _describe_device(config, worker),
    }
    # the texts begin in one column; lines without a text are left out
    for name, text in lines.items():
        if text:
            reporter.info(f"{name + ':':<14}{text}")
    log_notes(splits.notes, reporter)
    log_notes((f"{split} images are {split_loader.note}" for split, split_loader in (
        ("training", loader), ("validation", val_loader)) if split_loader and split_loader.note), reporter)


def log_notes(notes: Iterable[str], reporter: Reporter) -> None:
    """Log each note that is not empty."""
    for note in filter(None, notes):
        reporter.info(f"note: {note}")


def describe_batch(batch_size: int, worker: Worker) -> str:
    """Return the size of a batch over all processes, and how many samples of it each has."""
    if not worker.is_synchronous:
        return f"{batch_size} of each of {worker.world_size} workers" if worker.is_async else str(batch_size)
    smallest, rest = divmod(batch_size, worker.world_size)
    each = f"{smallest} or {smallest + 1}" if rest else str(smallest)
    share = f"{each} on each of {worker.world_size} devices"
    if worker.num_workers == 1:
        return f"{batch_size} ({share})"
    # MXNet's dist_sync: `batch_size` is that of a worker, and its devices share it
    per_worker = batch_size // worker.num_workers
    return f"{batch_size} ({per_worker} for each of {worker.num_workers} workers, {share})"


def describe_regularization(config: RegularizationConfig) -> str:
    """Return the settings of the section in words; "" where all are off."""
    parts = [f"{words} {show(value)}" for words, value in (
        ("label smoothing", config.label_smoothing), ("mixup", config.mixup), ("CutMix", config.cutmix),
        ("class weights", config.class_weights), ("averaged weights", config.model_ema_decay),
        ("dropout", config.dropout), ("stochastic depth", config.drop_path)) if value]
    if config.balanced_order:
        parts.append("classes balanced")
    if config.aug_repeats > 1:
        parts.append(f"each image {config.aug_repeats} times in its batch")
    return ", ".join(parts)


def _describe_data(config: Config, splits: Splits, loader: Loader, val_loader: Loader | None) -> str:
    name = "random noise (`benchmark`)" if config.data.benchmark else verbatim(splits.train.description)
    validation = f"{val_loader.num_samples:,} for validation" if val_loader else "none for validation"
    return f"{name}: {loader.num_samples:,} images, {validation}, {config.network.num_classes} classes"


def _describe_network(config: Config, model: nn.Module, flops: int) -> str:
    shape = show(config.network.image_shape)
    # frozen ones count: they are in the file and take memory
    num_parameters = count_parameters(model, frozen=True)
    return (f"{config.network.network}, input {shape}, {short(num_parameters)} parameters, {short(flops)} "
            "FLOPs per image")


def _describe_device(config: Config, worker: Worker) -> str:
    compiled = ", compiled" if config.device.compile else ", CUDA graphs" if config.device.cuda_graphs else ""
    dtype = precision.describe(config, worker.device)
    others = worker.world_size - 1
    if not others:
        return f"{worker.description}, {dtype}{compiled}"
    return f"{worker.description}, {dtype}{compiled}, and {others} more process{'es' if others > 1 else ''}"
