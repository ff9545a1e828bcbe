"""A training run from its configuration to its last line: the table of contents.

`imgcls-train`, `imgcls-finetune` and `imgcls.fit` call `run`. Each step is a function of this package or of
one below it, in the order in which they happen. Nothing here reads a command line, looks at which settings
the user gave, or starts a process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from torch import nn

from imgcls import datasets, graph, networks
from imgcls.config import resolve as configuration
from imgcls.config.resolve import Config
from imgcls.config.sections import ReportConfig
from imgcls.data.loaders.batch import BatchTransform, Loader
from imgcls.data.mixing import make_mixing
from imgcls.data.resizing import make_resizing
from imgcls.data.sources import Splits
from imgcls.distributed.process_group import Worker
from imgcls.distributed.topology import Topology, join_process_group, make_worker, resolve_topology
from imgcls.errors import UsageError
from imgcls.optim import schedules
from imgcls.optim.schedules import Schedule
from imgcls.report.plot_file import check_path
from imgcls.storage.paths import to_path
from imgcls.training import (
    auto_settings,
    checkpoint,
    decoded_cache,
    dry_run,
    find_batch_size,
    find_lr,
    fit_in_memory,
    loaders,
    metadata,
    network_size,
    precision,
    read_speed,
    results,
    resume,
    summary,
    time_budget,
)
from imgcls.training.best_epoch import begin_best
from imgcls.training.checkpoint import Checkpoint, Position, Saved
from imgcls.training.determinism import deterministic
from imgcls.training.distillation import Teacher
from imgcls.training.dropout import with_dropout
from imgcls.training.kept_preprocessing import keep_preprocessing
from imgcls.training.loss import Loss, make_loss
from imgcls.training.meter import Meter
from imgcls.training.metrics import metric_names
from imgcls.training.output import lasting_output
from imgcls.training.recompute import recompute_activations
from imgcls.training.reporter import Reporter
from imgcls.training.saver import Saver
from imgcls.training.sharing import check_sharing, share_gradients
from imgcls.training.stop import StopSignal
from imgcls.training.trainer import Trainer
from imgcls.training.updater import Updater, make_updater
from imgcls.training.validation_split import hold_out
from imgcls.training.warnings import warn_suspicious_settings, warn_unused_settings
from imgcls.training.weight_average import begin_average
from imgcls.training.whitening import whiten

NEEDS_PROCESSES = ("several devices need several processes, which only a command can start: imgcls-train or "
                   "torchrun")
#: builds the network on the CPU, with the weights of the checkpoint if there is one
MakeNetwork = Callable[[Config, Saved | None, Reporter], nn.Module]
#: returns a value for `pretrained_model` whose weights are on this machine, or "" (`auto_settings.choose`)
FindTrained = Callable[[], str] | None
#: configuration, class names of the data, device -> the teacher that `teacher` names, None for none
MakeTeacher = Callable[[Config, Sequence[str], torch.device], Teacher | None] | None


def run(config: Config, *, splits: Callable[[], Splits] | None = None,
        make_network: MakeNetwork | None = None, command: str = "", predict_command: str = "",
        find_trained: FindTrained = None, make_teacher: MakeTeacher = None,
        quiet: bool = False) -> tuple[nn.Module | None, dict[str, float]]:
    """Train as the configuration says; return the network and its last metrics.

    `splits` gives the data in place of `dataset`; it is called once the devices are known to be there.
    `make_network` builds the network in place of `build_model`. `command` goes into the meta data and the
    hint how to resume, `predict_command` into the hint how to predict, `find_trained` into the note what
    could be fine-tuned instead; `make_teacher` gives the network that `teacher` names. `test_io`, `dry_run`,
    `find_lr` and `find_batch_size` save nothing and return None with what was measured. Raises UsageError,
    DataError, RunError.
    """
    topology = _find_devices(config)
    with lasting_output(), deterministic(config.device.deterministic), contextlib.ExitStack() as stack:
        # This process among the others, and what a person sees of it. The stack closes in reverse.
        worker = stack.enter_context(_joined_worker(config, topology))
        check_sharing(config, worker)
        reporter = stack.enter_context(_open_reporter(config, worker, quiet=quiet))
        reporter.log(configuration.format_namespace(config), is_for_programs=True)
        warn_unused_settings(config, reporter)
        if make_network is None:
            networks.check_network(config.network)  # before the data are read
        # The data, and the checkpoint, whose batch size may be kept.
        data = splits() if splits else datasets.load_splits(config)
        config = loaders.infer_num_classes(config, data)
        saved = None if config.train.test_io else resume.load_agreed(config, worker)
        config, data = _decide(config, data, saved, worker, reporter, make_network is not None, find_trained)
        batch_size = resume.global_batch_size(config, saved, worker, reporter)
        loader, val_loader = _make_loaders(config, data, worker, batch_size, reporter)
        if config.train.test_io:
            return None, read_speed.measure(loader, config.train, reporter, prints=worker.rank == 0)

        # The network on its devices, what changes its weights, and their average.
        model = _make_model(config, saved, reporter, loader, worker, make_network)
        cost = network_size.measure(model, config.network.image_shape)
        config, threads_note = _to_devices(model, config, topology, worker, cost, loader, saved, reporter)
        loss = _make_loss(config, data, worker, make_teacher)
        config = time_budget.fit(config, model, loss, loader, val_loader, saved, worker, reporter)
        lr_schedule = _make_schedule(config, loader)
        position = resume.resume_position(config, saved, loader, lr_schedule, reporter)
        updater = make_updater(config, model, lr_schedule, saved, position, worker, reporter)
        average = begin_average(config.regularization.model_ema_decay, model, saved, updater.optimizer)
        transforms = _make_transforms(config, model, worker)

        # Nearly all that can be wrong has been checked: log what will be trained.
        summary.log_summary(config, data, model, cost.flops, loader, val_loader, updater, worker, reporter)
        warn_suspicious_settings(config, data, position, saved, worker, reporter)
        sharing = stack.enter_context(share_gradients(config, model, updater.optimizer, worker, batch_size))
        recompute_note = recompute_activations(model, config)
        summary.log_notes((topology.store.note, threads_note, recompute_note, *sharing.notes), reporter)

        # From here on a signal ends the run in good order, with its position saved.
        writer = stack.enter_context(_open_checkpoint(config, saved, position, worker))
        stop = stack.enter_context(StopSignal())
        best = begin_best(config.early_stopping, saved, position, worker, reporter, val_loader)
        saver = Saver(writer, stop, sharing, config.checkpoint, average and average.model, best)
        trainer = Trainer(model, loader, val_loader, config=config.train, updater=updater, sharing=sharing,
                          meter=_make_meter(config, worker), saver=saver, reporter=reporter, loss=loss,
                          transforms=transforms, average=average)
        if config.is_trial:
            return None, _measure(trainer, position, config)
        _begin_files(writer, config, data, model, saved, position, command, worker, reporter, updater)
        result = fit_in_memory.fit(trainer, position, config, reporter)
        worker.barrier()  # no process leaves while another still waits for it
    if result and not quiet and not worker.rank:
        results.print_result(result, "Validation" if val_loader else "Train", config, command,
                             predict_command, reporter.page, trainer.position.epoch, best)
    return average.model if average else model, result


def _measure(trainer: Trainer, position: Position, config: Config) -> dict[str, float]:
    """Return what `find_lr`, `find_batch_size` or `dry_run` measures; it writes no checkpoint."""
    if config.find.find_lr:
        return find_lr.measure(trainer, position, config)
    return (find_batch_size if config.find.find_batch_size else dry_run).measure(trainer, position, config)


def _find_devices(config: Config) -> Topology:
    """Return the devices of this process; UsageError unless it is one of those that train."""
    for setting in ("find_lr", "find_batch_size"):
        if path := getattr(config.find, setting):
            check_path(path, setting)
    topology = resolve_topology(config.device, config.distributed, config.network.model_parallel)
    networks.check_model_parallel(config.network, topology.gpus, config.device.compile)
    if topology.num_to_start:
        raise UsageError(NEEDS_PROCESSES)
    find_batch_size.check(config, topology)
    return topology


def _decide(config: Config, data: Splits, saved: Saved | None, worker: Worker, reporter: Reporter,
            is_pretrained: bool, find_trained: FindTrained) -> tuple[Config, Splits]:
    """Return configuration and data with what only the data or the checkpoint can decide."""
    config, data = hold_out(config, data, saved, worker, reporter)
    config = auto_settings.choose(config, data, saved, worker, reporter, is_pretrained=is_pretrained,
                            find_trained=find_trained)
    config = keep_preprocessing(config, saved, worker, reporter)
    return loaders.decide_validation(config, data), data


def _make_loaders(config: Config, data: Splits, worker: Worker, batch_size: int,
                  reporter: Reporter) -> tuple[Loader, Loader | None]:
    """Return the loaders for training and for validation; those of a dry run make no mean image."""
    if config.train.dry_run:
        config = dry_run.without_missing_mean(config, reporter)
    return loaders.make_loaders(config, data, worker, batch_size)


def _make_model(config: Config, saved: Saved | None, reporter: Reporter, loader: Loader, worker: Worker,
                make_network: MakeNetwork | None) -> nn.Module:
    """Return the network on the CPU as it begins: new, or with the weights of the checkpoint."""
    model = with_dropout((make_network or build_model)(config, saved, reporter), config)
    # a network that `make_network` gives has learned from images already
    if config.network.whiten and make_network is None:
        whiten(model, loader, worker, is_new=saved is None)
    return model


def build_model(config: Config, saved: Saved | None, reporter: Reporter) -> nn.Module:
    """Return the network of `network` with the saved weights, if any; on the CPU, in channels_last memory."""
    model = networks.build_network(config.network, config.train.seed, config.regularization.drop_path)
    if saved:
        graph.load_arrays(model, dict(saved.arrays), path=saved.path)
        # MXNet's log line has an underscore where the file name has a hyphen
        stem, _, epoch = saved.path.removesuffix(".params").rpartition("-")
        reporter.log(f"Loaded model {stem}_{epoch}.params" if saved.path.endswith(".params")
                     else f"Loaded position {saved.path}")
    # the memory order in which the loaders give their images, and convolutions on a CPU are fastest
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _make_schedule(config: Config, loader: Loader) -> Schedule:
    # MXNet's: raised to one batch, and rounded up to whole ones
    num_macrobatch = max(-(-config.optimizer.macrobatch_size // loader.batch_size), 1)
    return schedules.from_config(config.schedule, updates_per_epoch=loader.batches_per_epoch,
                                 num_epochs=config.train.num_epochs,
                                 num_macrobatch=num_macrobatch if config.optimizer.name == "lbsgd" else 0,
                                 batch_size=loader.batch_size)


def _make_loss(config: Config, data: Splits, worker: Worker, make_teacher: MakeTeacher) -> Loss:
    """Return the loss of batches on the device, with that of the teacher where there is one."""
    teacher = make_teacher and make_teacher(config, data.train.class_names, worker.device)
    return make_loss(config.regularization, data.train.labels, config.network.num_classes, worker.device,
                     teacher)


def _make_transforms(config: Config, model: nn.Module, worker: Worker) -> Sequence[BatchTransform]:
    """Return how batches are changed on the device, in this order."""
    shape = config.network.image_shape
    resizing = make_resizing(config.train, shape, model, worker.device)
    mixing = make_mixing(config.regularization, shape, config.train.seed)
    # smaller first: there is less to mix then
    return [transform for transform in (resizing, mixing) if transform]


def _make_meter(config: Config, worker: Worker) -> Meter:
    return Meter(metric_names(config.train.top_k, config.train.loss, config.network.num_classes), worker)


@contextlib.contextmanager
def _joined_worker(config: Config, topology: Topology) -> Iterator[Worker]:
    """Join the other processes and give this one's worker, which leaves them at the end of the block."""
    worker = make_worker(config.device, topology)
    with worker.guard():
        try:
            join_process_group(worker, topology, config.distributed.dist_timeout)
            yield worker
        finally:
            decoded_cache.save()
            worker.close()


def _open_reporter(config: Config, worker: Worker, *, quiet: bool) -> AbstractContextManager[Reporter]:
    prefix = config.checkpoint.save_prefix
    for setting in ("model_prefix", "save_model_prefix"):
        value = getattr(config.checkpoint, setting)
        checkpoint.check_prefix(value, f"`{setting}`")
        to_path(value, f"`{setting}`")  # refuse a URL that has no driver before anything is read
    if config.report.tensorboard and not prefix:
        raise UsageError("`tensorboard` needs a `model_prefix`: the event files go to PREFIX-tensorboard")
    if config.is_trial:  # nothing is written, a log neither
        return contextlib.closing(Reporter(ReportConfig(), rank=worker.rank, quiet=quiet,
                                           spelling=config.spelling))
    return contextlib.closing(Reporter(config.report, prefix=prefix, rank=worker.rank, quiet=quiet,
                                       spelling=config.spelling))


def _to_devices(model: nn.Module, config: Config, topology: Topology, worker: Worker,
                cost: network_size.Cost, loader: Loader, saved: Saved | None,
                reporter: Reporter) -> tuple[Config, str]:
    """Move the network to this process's devices, and use as many threads as a step is worth.

    Returns the configuration with `dtype` resolved, and a note for the user where the threads of the
    checkpoint cannot be kept.
    """
    num_images = min(loader.batch_size, loader.num_samples) // worker.world_size
    network_size.require_memory(cost, num_images, config, worker.device)
    num_shares = config.distributed.micro_batches * (1 if worker.is_async else worker.world_size)
    # the backward pass costs two forward passes
    note = worker.limit_threads(3 * cost.flops * loader.batch_size / num_shares,
                                saved.position.num_threads if saved else 0)
    if description := networks.to_devices(model, config.network, worker.device, topology.gpus):
        reporter.info(description)
    return precision.decide(config, model, saved, worker), note


def _open_checkpoint(config: Config, saved: Saved | None, position: Position,
                     worker: Worker) -> AbstractContextManager[Checkpoint | None]:
    """Return what writes the run's files, as a context; None in it where this process saves nothing."""
    prefix = config.checkpoint.save_prefix
    if not prefix or config.is_trial or worker.rank or position.epoch >= config.train.num_epochs:
        return contextlib.nullcontext()
    return contextlib.closing(Checkpoint(prefix, keep_states=config.checkpoint.keep_states,
                                         run=saved.run if saved else ""))


def _begin_files(writer: Checkpoint | None, config: Config, data: Splits, model: nn.Module,
                 saved: Saved | None, position: Position, command: str, worker: Worker, reporter: Reporter,
                 updater: Updater) -> None:
    """Write what holds for the whole run: network, mean image, meta data, and the heads of the logs.

    Does nothing without a writer.
    """
    if writer is None:
        return
    mean_image = metadata.pack_mean_image(config)
    meta = metadata.describe(config, data, command, worker.rank_info, mean_image,
                             worker.num_threads, updater.precision.name)
    writer.begin(model, config.network, meta, mean_image=mean_image, resumed_epoch=saved and position.epoch)
    reporter.begin_files(position.update, meta)
