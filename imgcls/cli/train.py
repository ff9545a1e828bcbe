"""Train a network from scratch or go on with a checkpoint: train_mnist.py, train_cifar10.py and their kin."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from imgcls import networks
from imgcls.cli._run import in_background, loading_torch, run_main
from imgcls.config import resolve as configuration
from imgcls.config.command_line import without
from imgcls.config.resolve import Config
from imgcls.distributed.rank_info import LAUNCHER_VARIABLE
from imgcls.distributed.topology import (
    check_gpus,
    join_process_group,
    make_worker,
    resolve_topology,
    serve_mxnet_role,
)
from imgcls.errors import ImgclsError, UsageError
from imgcls.storage.paths import to_path

if TYPE_CHECKING:
    import torch
    from torch import nn

    from imgcls.data.loaders.batch import Loader
    from imgcls.data.sources import Splits
    from imgcls.distributed.data_parallel import DataParallel
    from imgcls.distributed.parameter_server.client import ParameterServerClient
    from imgcls.distributed.process_group import Worker
    from imgcls.distributed.rank_info import RankInfo
    from imgcls.distributed.sync_batch_norm import SyncBNState
    from imgcls.optim.schedules import Schedule
    from imgcls.training.checkpoint import Position, Saved
    from imgcls.training.reporter import Reporter
    from imgcls.training.trainer import Precision

    MakeNetwork = Callable[[Config, "Saved | None", Reporter], nn.Module]

EXAMPLES = """examples:
  {prog} --dataset digits                                    lenet on drawn digits, nothing to download
  {prog} --network lenet --gpus 0 --model-prefix model/mnist  MNIST on a GPU, a checkpoint after each epoch
  {prog} --network lenet --model-prefix model/mnist --load-epoch auto   go on where that run stopped
"""


def main(argv: Sequence[str] | None = None, *, dataset: str = "mnist", prog: str = "imgcls-train") -> int:
    """The command. `dataset` is the default of --dataset: a script like train_cifar10.py has its own."""
    return run_main(lambda words: _start(words, dataset, prog), argv, prog)


def _start(argv: Sequence[str], dataset: str, prog: str) -> int:
    config = configuration.parse(argv, prog=prog, examples=EXAMPLES.format(prog=prog), dataset=dataset)
    again = [sys.executable, "-m", "imgcls", "train", "--dataset", config.data.dataset, *argv]
    status = start_others(config, argv, again, prog)
    if status is None:
        run(config, command=shlex.join([prog, *argv]))
    return status or 0


def start_others(config: Config, argv: Sequence[str], again: Sequence[str], prog: str) -> int | None:
    """Where the command means several processes and nobody has started them: start them, and return the exit status
    once all have ended. None where this process is to train. `again` is the command where it did not come from the
    command line."""
    topology = resolve_topology(config.device, config.distributed, config.network.model_parallel)
    networks.check_model_parallel(config.network, topology.gpus, config.device.compile)
    if topology.rank_info is not None and topology.rank_info.role != "worker":
        return serve_mxnet_role(topology.rank_info, config.distributed.dist_timeout, prog)
    if not topology.num_to_start:
        if topology.rank_info:  # warnings of torch's C++ side are stack traces; what matters is raised
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
        return None
    if argv and sys.argv[-len(argv):] == list(argv):
        again = [sys.executable, *sys.orig_argv[1:]]
    with loading_torch():
        from imgcls.launch import agent
    if topology.gpus:
        check_gpus(config.device.gpus, topology.gpus)
    wanted = config.distributed
    return agent.run(agent.make_spec(
        again, processes=topology.num_to_start, nnodes=wanted.nnodes, endpoint=wanted.rdzv_endpoint,
        job=wanted.rdzv_id, max_restarts=wanted.max_restarts, timeout_s=wanted.dist_timeout, name=prog))


def run(config: Config, *, splits: Splits | None = None, command: str = "", quiet: bool = False,
        network: MakeNetwork | None = None) -> tuple[nn.Module | None, dict[str, float]]:
    """Train as the configuration says: the table of contents of a run. Returns the network and its last metrics.

    `splits` are data already in memory, in place of --dataset; `network` makes the network, in place of `make_network`.
    """
    topology = resolve_topology(config.device, config.distributed, config.network.model_parallel)
    networks.check_model_parallel(config.network, topology.gpus, config.device.compile)
    if topology.num_to_start:
        raise UsageError("several devices need several processes, which only a command can start: imgcls-train or "
                         "torchrun")
    data: Callable[[], Splits]
    if splits is None and not topology.gpus:
        data = in_background(load_data, config)  # while torch is loaded
    else:  # a GPU may not be there: say so before anything is downloaded
        data = lambda: splits or load_data(config)  # noqa: E731
    with loading_torch():
        from imgcls.distributed.cpu_threads import limit_threads
        from imgcls.optim import schedules
        from imgcls.training import checkpoint, summary, trainer
    from imgcls.training.reporter import Reporter
    from imgcls.training.stop import StopSignal

    with contextlib.ExitStack() as stack:
        worker = make_worker(config.device, topology)
        stack.enter_context(worker.guard())
        stack.callback(worker.close)
        join_process_group(worker, topology, config.distributed.dist_timeout)
        check_sharing(config, worker)
        prefix = config.checkpoint.save_model_prefix or config.checkpoint.model_prefix
        to_path(prefix, "--model-prefix")
        metrics_path = f"{prefix}-metrics.jsonl" if prefix else None
        reporter = stack.enter_context(contextlib.closing(Reporter(
            config.report, metrics_path=metrics_path, rank=worker.rank, quiet=quiet,
            spelling=config.spelling)))
        reporter.line(configuration.format_namespace(config))
        splits = data()
        config = settle_classes(config, splits)
        saved = None if config.train.test_io else agreed_checkpoint(config, worker)
        batch_size = whole_batch(config, saved, worker, reporter)
        loader, val_loader = make_loaders(config, splits, worker, batch_size)
        if config.train.test_io:
            return None, test_io(config, loader, reporter, tells=worker.rank == 0)

        model = (network or make_network)(config, saved, reporter)
        flops = summary.flops(model, config.network.image_shape)
        pieces = (1 if worker.is_async else worker.world_size) * config.distributed.micro_batches
        limit_threads(worker, 3 * flops * batch_size / pieces)  # the way back costs two ways forward
        parts = networks.to_devices(model, config.network, worker.device, topology.gpus)
        if parts:
            reporter.line(parts)
        plan = schedules.from_config(config.schedule, updates_per_epoch=loader.batches_per_epoch,
                                    num_epochs=config.train.num_epochs)
        position = start_of(config, saved, loader, plan, reporter)
        optimizer, precision = make_optimizer(config, model, saved, worker, reporter,
                                              plan.lr_at(position.update), position.update)
        forward, sync_bn = spread_over_devices(config, model, worker, batch_size)
        summarise(config, splits, model, flops, loader, val_loader, plan, worker, precision.name, reporter)
        warn_of_what_hurts(config, splits, position, saved, worker, reporter)
        for note in filter(None, (topology.store.note, *(forward.notes if forward else ()))):
            reporter.say(f"note: {note}")

        server_client = None
        if worker.is_async:
            server_client = stack.enter_context(start_server_client(config, optimizer, worker))
        writer = None
        if prefix and not worker.rank and position.epoch < config.train.num_epochs:
            writer = stack.enter_context(contextlib.closing(checkpoint.Checkpoint(
                prefix, keep_states=config.checkpoint.keep_states, run=saved.run if saved else "")))
        stop = stack.enter_context(StopSignal())
        coach = trainer.Trainer(
            model, loader, val_loader, optimizer=optimizer, schedule=plan, precision=precision, worker=worker,
            config=config.train, num_classes=config.network.num_classes, compile=config.device.compile,
            clip_gradient=config.optimizer.clip_gradient, checkpoint=writer,
            save_period=config.checkpoint.save_period, save_every=config.checkpoint.save_every, reporter=reporter,
            stop=stop, micro_batches=config.distributed.micro_batches, forward=forward, sync_bn=sync_bn,
            server_client=server_client)
        if writer:
            job = topology.rank_info.job if topology.rank_info else ""
            writer.begin(model, dataclasses.asdict(config.network), meta(config, splits, command) | {"job": job},
                         resumed=saved is not None)
            reporter.resume_metrics(position.update)
        result = coach.fit(position)
        worker.barrier()  # nobody leaves while another still listens
    if result and not quiet and not worker.rank:
        tell_result(result, "Validation" if val_loader else "Train", config, prefix, command)
    return model, result


def make_optimizer(config: Config, model: nn.Module, saved: Saved | None, worker: Worker, reporter: Reporter,
                   lr: float, update: int) -> tuple[torch.optim.Optimizer, Precision]:
    """The optimizer and the precision of the steps, in the state of the checkpoint where there is one, which was left
    at this learning rate and number of updates."""
    from imgcls.optim import optimizers
    from imgcls.training import checkpoint, trainer

    optimizer = optimizers.build(config.optimizer, model, worker.device)
    precision = trainer.Precision(config.device.dtype, worker.device)
    if saved and saved.mxnet_states is not None:
        saved = checkpoint.translate_states(model, optimizer, saved, lr, update)
        reporter.say("note: " + (
            f"MXNet's optimizer states are taken up, as left at learning rate {lr:g} after {update} updates"
            if saved.optimizer else f"MXNet's optimizer states hold nothing that {config.optimizer.optimizer} can use; "
                                    "the optimizer starts afresh"))
    if saved and saved.optimizer_class in ("", type(optimizer).__name__):
        checkpoint.restore_optimizer(model, optimizer, saved)
        precision.restore(saved.scaler)
    elif saved:
        reporter.warn(f"--optimizer {config.optimizer.optimizer}: the checkpoint was trained with "
                      f"{saved.optimizer_class}, whose state means nothing here; the optimizer starts afresh")
    return optimizer, precision


def agreed_checkpoint(config: Config, worker: Worker) -> Saved | None:
    """What --load-epoch names, or after a restart of the job what it saved last; the same for all processes.

    Every machine looks at its own disk, the one that is furthest on reads, and the others are told.
    """
    from imgcls.training import checkpoint

    worker = dataclasses.replace(worker, is_async=False)  # at the start all are together
    saved: Saved | None = None
    error: ImgclsError | None = None
    if not worker.local_rank or not worker.is_synchronous:
        try:
            saved = find_checkpoint(config, worker.rank_info)
        except ImgclsError as problem:
            error = problem
    if not worker.is_synchronous:
        if error:
            raise error
        return saved
    progress = -1.0 if saved is None else saved.position.epoch * 1e9 + saved.position.batch
    everybody = worker.gather(-2.0 if error else progress)
    if max(everybody) < -1 or (max(everybody) < 0 and error and config.checkpoint.load_epoch.lower() != "auto"):
        raise error or UsageError(f"--load-epoch {config.checkpoint.load_epoch}: no machine of the job has it")
    if max(everybody) < 0:
        return None
    owner = everybody.index(max(everybody))
    if saved and saved.mxnet_states is not None and worker.rank == owner:
        print("warning: MXNet's optimizer states are not passed on to other processes; the optimizer starts afresh",
              file=sys.stderr)
    content = checkpoint.pack(saved) if worker.rank == owner and saved else None
    return checkpoint.unpack(worker.broadcast(content, owner))


def whole_batch(config: Config, saved: Saved | None, worker: Worker, reporter: Reporter) -> int:
    """Samples of a batch over all processes: --batch-size of every worker, or that of the checkpoint, where only the
    number of processes has changed since, so that its position and learning rates keep their meaning."""
    batch_size = config.data.batch_size * (1 if worker.is_async else worker.num_workers)
    then = saved.position if saved else None
    if then and not worker.is_async and (
            then.batch_size not in (0, batch_size) and then.world not in (0, worker.world_size)):
        reporter.say(f"note: the batch of {then.batch_size} samples is kept, which {then.world} processes shared "
                     f"before and {worker.world_size} do now")
        return then.batch_size
    return batch_size


def spread_over_devices(config: Config, model: nn.Module, worker: Worker,
                        batch_size: int) -> tuple[DataParallel | None, SyncBNState | None]:
    """The network as the trainer calls it where several processes share the work, and its synchronised batch
    normalisations; None and None for one process."""
    if not worker.is_synchronous:
        return None, None
    from torch.nn.modules.batchnorm import _BatchNorm

    from imgcls.distributed import data_parallel, sync_batch_norm
    from imgcls.layers import BatchNorm

    wanted = config.distributed
    sync_bn = sync_batch_norm.convert_sync_batch_norm(model, (BatchNorm, _BatchNorm)) if wanted.sync_bn else None
    forward = data_parallel.data_parallel(model, device=worker.device, gc_type=wanted.gc_type,
                                      gc_threshold=wanted.gc_threshold,
                                      batch_per_device=max(batch_size // worker.world_size, 1))
    return forward, sync_bn


def check_sharing(config: Config, worker: Worker) -> None:
    """UsageError for settings that do not go with the way gradients are shared."""
    from imgcls.distributed import data_parallel

    wanted, dtype = config.distributed, config.device.dtype
    if worker.is_async:
        for flag, given in ((f"--gc-type {wanted.gc_type}", wanted.gc_type != "none"), ("--sync-bn", wanted.sync_bn),
                            ("--dtype float16", dtype == "float16")):
            if given:
                raise UsageError(f"{flag}: does not go with --kv-store {wanted.kv_store}, where every worker is by "
                                 "itself and its gradients go to a server as float32; take dist_sync"
                                 + (" or --dtype bfloat16" if dtype == "float16" else ""))
    data_parallel.check(wanted.gc_type, wanted.gc_threshold, dtype)


def start_server_client(config: Config, optimizer: torch.optim.Optimizer, worker: Worker) -> ParameterServerClient:
    """dist_async: the servers, started, and the weights of worker 0 in all of them and in every worker."""
    from imgcls.distributed.parameter_server.client import ParameterServerClient

    servers = worker.rank_info.num_servers if worker.rank_info else 0
    return ParameterServerClient(optimizer, rank=worker.rank, world_size=worker.world_size, num_servers=servers or 1,
                                 timeout_s=config.distributed.dist_timeout)


def load_data(config: Config) -> Splits:
    """The data set's training and validation sources."""
    return configuration.dataset_module(config).load(config.data)


def settle_classes(config: Config, splits: Splits) -> Config:
    """Without --num-classes, as many as the data names."""
    from imgcls.data import sources

    named = sources.num_classes(splits.train, splits.val)
    return config if named is None else config.with_defaults(num_classes=max(named, 2))


def make_loaders(config: Config, splits: Splits, worker: Worker,
                 batch_size: int) -> tuple[Loader, Loader | None]:
    """Loaders on the worker's device, for training and for validation (None without validation data): of batches of
    `batch_size` samples over all processes, this one's share."""
    from imgcls.data import order
    from imgcls.data.loaders.benchmark import BenchmarkLoader
    from imgcls.data.loaders.make import make_loader

    shard = order.Shard(worker.rank, worker.world_size, worker.is_async)
    if config.data.benchmark:
        return BenchmarkLoader(
            num_samples=config.data.num_examples or len(splits.train), batch_size=batch_size,
            image_shape=config.network.image_shape, num_classes=config.network.num_classes, seed=config.train.seed,
            device=worker.device, shard=shard), None
    for source, what in ((splits.train, "training"), (splits.val, "validation")):
        if source is not None:
            check_labels(source.labels, config.network.num_classes, f"the {what} labels of {source.description}")
    common: dict[str, Any] = {
        "batch_size": batch_size, "image_shape": config.network.image_shape, "seed": config.train.seed,
        "augment_config": config.augment, "device": worker.device,
        "threads": config.data.data_nthreads, "on_bad": config.data.on_bad}
    train = make_loader(splits.train, train=True, shard=shard, **common)
    if splits.val is None or (worker.is_async and worker.rank):
        return train, None
    return train, make_loader(splits.val, train=False, shard=order.NO_SHARD if worker.is_async else shard, **common)


def check_labels(labels: Any, num_classes: int, what: str) -> None:
    """Labels must be 0 .. num_classes-1; UsageError says which is not."""
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise UsageError(f"--num-classes {num_classes}: {what} go up to {labels.max()} (down to {labels.min()}), "
                         f"they must be 0 to {num_classes - 1}")


def find_checkpoint(config: Config, rank_info: RankInfo | None = None) -> Saved | None:
    """What --load-epoch names; None to start from scratch, which auto does where nothing was saved yet. Processes of
    a job that were started again go on with what the job saved last, whatever --load-epoch says."""
    from imgcls.training import checkpoint

    wanted = config.checkpoint
    prefix = wanted.save_model_prefix or wanted.model_prefix
    if rank_info and prefix and (
            rank_info.num_restarts or (rank_info.job and checkpoint.read_meta(prefix).get("job") == rank_info.job)):
        newest = checkpoint.load(prefix, "auto")
        if newest:
            return newest
    if not wanted.load_epoch:
        return None
    if not wanted.model_prefix and not wanted.save_model_prefix:
        raise UsageError(f"--load-epoch {wanted.load_epoch}: needs the --model-prefix to load from")
    if wanted.load_epoch.strip().lower() == "auto" and wanted.save_model_prefix:
        newer = checkpoint.load(wanted.save_model_prefix, "auto")
        if newer or not wanted.model_prefix:
            return newer
    return checkpoint.load(wanted.model_prefix or wanted.save_model_prefix, wanted.load_epoch)


def make_network(config: Config, saved: Saved | None, reporter: Reporter) -> nn.Module:
    """The network of --network, with the saved weights if there are any; on the CPU, in channels_last memory."""
    import torch

    from imgcls import graph
    from imgcls.networks import build_network

    model = build_network(config.network, config.train.seed)
    if saved:
        graph.load_arrays(model, dict(saved.arrays), path=saved.path)
        stem, _, epoch = saved.path.removesuffix(".params").rpartition("-")
        reporter.line(f"Loaded model {stem}_{epoch}.params" if saved.path.endswith(".params")
                      else f"Loaded position {saved.path}")
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def start_of(config: Config, saved: Saved | None, loader: Loader, plan: Schedule, reporter: Reporter) -> Position:
    """Where training begins: the saved position, its update counted in this run's batches."""
    from imgcls.training.checkpoint import Position

    if saved is None:
        return Position()
    position, per_epoch = saved.position, loader.batches_per_epoch
    update = position.epoch * per_epoch + position.batch
    if position.batch and position.update != update:
        raise UsageError(f"--load-epoch {config.checkpoint.load_epoch}: {saved.path} was saved inside an epoch with "
                         f"other data or another --batch-size (an epoch has {per_epoch} batches now); resume with "
                         "those of then, or from a whole epoch")
    position = dataclasses.replace(position, update=update)
    lr = plan.lr_at(position.update + 1)
    if lr != config.schedule.lr:
        reporter.line(f"Adjust learning rate to {lr:e} for epoch {position.epoch}")
    return position


def summarise(config: Config, splits: Splits, model: nn.Module, flops: int, loader: Loader, val_loader: Loader | None,
              plan: Schedule, worker: Worker, dtype: str, reporter: Reporter) -> None:
    """The start-up summary: what is trained on what, how and where."""
    from imgcls.data import augment
    from imgcls.training import summary

    network, shape = config.network, ",".join(map(str, config.network.image_shape))
    is_image = len(network.image_shape) == 3
    val = f", {val_loader.num_samples:,} for validation" if val_loader else ", none for validation"
    data = "random noise (--benchmark)" if config.data.benchmark else splits.train.description
    for name, text in {
        "data": f"{data}: {loader.num_samples:,} images{val}, {network.num_classes} classes",
        "network": f"{network.network}, input {shape}, {summary.short(summary.parameters(model, frozen=True))} "
                   f"parameters, {summary.short(flops)} FLOPs per image",
        "augmentation": augment.describe(config.augment, network.image_shape) if is_image else "none",
        "schedule": plan.description,
        "training": f"{config.optimizer.optimizer}, batch {batch_of(loader.batch_size, worker)}, "
                    f"{loader.batches_per_epoch:,} updates per epoch, {config.train.num_epochs} epochs, "
                    f"seed {config.train.seed}",
        "device": f"{worker.description}, {dtype}{', compiled' if config.device.compile else ''}"
                  + (f", and {worker.world_size - 1} more process{'es' * (worker.world_size > 2)}"
                     if worker.world_size > 1 else ""),
    }.items():
        reporter.say(f"{name + ':':<14}{text}")
    for note in (*splits.notes, *(f"{what} images are {one.note}" for what, one in (
            ("training", loader), ("validation", val_loader)) if one and one.note)):
        reporter.say(f"note: {note}")


def batch_of(batch_size: int, worker: Worker) -> str:
    """The size of a batch, and who has what of it."""
    if not worker.is_synchronous:
        return f"{batch_size} of each of {worker.world_size} workers" if worker.is_async else str(batch_size)
    each, more = divmod(batch_size, worker.world_size)
    share = f"{each}{f' or {each + 1}' if more else ''} on each of {worker.world_size} devices"
    if worker.num_workers == 1:
        return f"{batch_size} ({share})"
    return f"{batch_size} ({batch_size // worker.num_workers} for each of {worker.num_workers} workers, {share})"


def warn_of_what_hurts(config: Config, splits: Splits, position: Position, saved: Saved | None,
                       worker: Worker, reporter: Reporter) -> None:
    """Settings and data that are allowed and rarely meant."""
    import numpy as np

    from imgcls.data.sources import FolderSource
    from imgcls.networks import takes_depth
    from imgcls.training import checkpoint

    labels = np.asarray(splits.train.labels)
    few = 2 * config.network.num_classes
    if len(labels) > few > np.count_nonzero(np.diff(labels)) and not config.data.benchmark and (
            not isinstance(splits.train, FolderSource)):  # folders are always sorted
        reporter.warn("the training data is sorted by class; every epoch is fully shuffled here, but MXNet, which "
                      "shuffles in chunks, learns nothing from such a file")
    classes, last = config.network.num_classes, int(labels.max(initial=-1))
    if not config.is_explicit("num_classes") and not config.data.benchmark and 0 <= last < classes // 2:
        reporter.warn(f"nothing says how many classes there are: the training labels go from {labels.min()} to {last}, "
                      f"and the network has {classes}; give --num-classes {max(last + 1, 2)} if these are all")
    if config.network.num_layers is not None and not takes_depth(config.network.network):
        reporter.warn(f"--num-layers {config.network.num_layers}: {config.network.network} comes in one depth only")
    if worker.world_size == 1 and (unused := one_process_flags(config)):
        reporter.warn(f"{', '.join(unused)}: one process trains alone, so that there is nothing to share")
    if worker.is_async:
        from imgcls.distributed.parameter_server.client import advice

        momentum = config.optimizer.mom if config.optimizer.optimizer.lower() in ("sgd", "nag") else 0
        if warning := advice(momentum, config.schedule.lr, worker.world_size):
            reporter.warn(warning)
    if config.schedule.lr == 0:
        reporter.warn("--lr 0: nothing will be learned")
    given = config.data.num_examples
    if given and given != len(splits.train) and not config.data.benchmark:
        reporter.warn(f"--num-examples {given}: there are {len(splits.train)}, and the schedule goes by those")
    if position.epoch >= config.train.num_epochs:
        reporter.warn(f"nothing to train: {position.epoch} epochs are done and --num-epochs is "
                      f"{config.train.num_epochs}, the total; raise it to go on")
    prefix = config.checkpoint.save_model_prefix or config.checkpoint.model_prefix
    there = checkpoint.newest_epoch(prefix) if prefix and not saved else None
    if there is not None:
        reporter.warn(f"{prefix}-{there:04d}.params and those before it are from an earlier run and will be written "
                      "over; --load-epoch auto would go on with it, had it been given")


def one_process_flags(config: Config) -> list[str]:
    """The flags, as given, that mean something to several processes only."""
    wanted = config.distributed
    found = [f"--kv-store {wanted.kv_store}"] if wanted.kv_store.lower().startswith("dist") else []
    found += ["--sync-bn"] if wanted.sync_bn else []
    return found + ([f"--gc-type {wanted.gc_type}"] if wanted.gc_type != "none" else [])


def meta(config: Config, splits: Splits, command: str) -> dict[str, Any]:
    """What travels with a checkpoint: class names, preprocessing, the resolved configuration, versions."""
    import platform

    import numpy as np
    import torch

    return {
        "network": config.network.network,
        "class_names": list(splits.train.class_names),
        "preprocessing": {"image_shape": list(config.network.image_shape), "mean": list(config.augment.rgb_mean),
                          "std": list(config.augment.rgb_std), "val_resize": config.augment.val_resize,
                          "interpolation": config.augment.interpolation, "channels": "RGB", "range": "0-255"},
        "command": command,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "config": configuration.settings(config),
    }


def test_io(config: Config, loader: Loader, reporter: Reporter, *, tells: bool) -> dict[str, float]:
    """`--test-io 1`: read the training data once, without a network, and say how fast.

    Each process reads its share of every batch; the one that `tells` prints the result.
    """
    import time

    every = config.train.disp_batches
    started = tic = time.perf_counter()
    for number, _batch in enumerate(loader.epoch(0)):
        if (number + 1) % every == 0:
            now = time.perf_counter()
            speed = every * loader.batch_size / max(now - tic, 1e-9)
            reporter.line(f"Batch [{number}]\tSpeed: {speed:.2f} samples/sec")
            tic = now
    speed = loader.num_samples / max(time.perf_counter() - started, 1e-9)
    if tells:
        print(f"{loader.num_samples} samples in {loader.batches_per_epoch} batches, {speed:.2f} samples/sec")
    return {"samples/sec": speed}


def tell_result(result: dict[str, float], what: str, config: Config, prefix: str, command: str) -> None:
    """The last lines, on stdout: how good it is, where it is, and what to do next."""
    for name, value in result.items():
        print(f"{what}-{name}={value:f}")
    if not prefix:
        print("nothing was saved: give --model-prefix PREFIX to keep the weights")
        return
    print(f"checkpoint: {prefix}-{config.train.num_epochs:04d}.params")
    print(f"predict:    imgcls-predict --model {shlex.quote(prefix)} IMAGE")
    print(f"resume:     {_resume_command(command, config)}")


def _resume_command(command: str, config: Config) -> str:
    """The command of this run with twice the epochs, going on from its checkpoint."""
    kept = without(shlex.split(command) or ["imgcls-train"], ("num_epochs", "load_epoch"), config.fields)
    kept = shlex.split(os.environ.get(LAUNCHER_VARIABLE, "")) + kept
    return shlex.join([*kept, "--load-epoch", "auto", "--num-epochs", str(2 * config.train.num_epochs)])

