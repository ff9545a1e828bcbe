"""Train a network from scratch or go on with a checkpoint: train_mnist.py, train_cifar10.py and their kin."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from imgcls import config as configuration
from imgcls import distributed
from imgcls.cli._run import in_background, loading_torch, run_main
from imgcls.config import Config
from imgcls.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from imgcls.checkpoint import Position, Saved
    from imgcls.data.loader import Loader
    from imgcls.data.sources import Splits
    from imgcls.distributed import Worker
    from imgcls.reporter import Reporter
    from imgcls.schedule import Schedule

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
    run(config, command=shlex.join([prog, *argv]))
    return 0


def run(config: Config, *, splits: Splits | None = None, command: str = "",
        quiet: bool = False) -> tuple[nn.Module | None, dict[str, float]]:
    """Train as the configuration says: the table of contents of a run. Returns the network and its last metrics.

    `splits` are data already in memory, in place of --dataset.
    """
    on_gpu = bool(distributed.check(config.device))
    data: Callable[[], Splits]
    if splits is None and not on_gpu:
        data = in_background(load_data, config)  # while torch is loaded
    else:  # a GPU may not be there: say so before anything is downloaded
        data = lambda: splits or load_data(config)  # noqa: E731
    with loading_torch():
        from imgcls import checkpoint, optim, schedule, summary, trainer
    from imgcls.reporter import Reporter
    from imgcls.signals import Stop

    with contextlib.ExitStack() as stack:
        worker = distributed.choose(config.device)
        prefix = config.checkpoint.save_model_prefix or config.checkpoint.model_prefix
        reporter = stack.enter_context(contextlib.closing(Reporter(
            config.report, metrics_path=f"{prefix}-metrics.jsonl" if prefix else None, rank=worker.rank, quiet=quiet)))
        reporter.line(configuration.tell(config))
        splits = data()
        config = settle_classes(config, splits)
        loader, val_loader = make_loaders(config, splits, worker)
        if config.train.test_io:
            return None, test_io(config, loader, reporter)

        saved = find_checkpoint(config)
        model = make_network(config, saved, reporter)
        flops = summary.flops(model, config.network.image_shape)
        distributed.limit_threads(worker, 3 * flops * config.data.batch_size)  # the way back costs two ways forward
        model.to(worker.device)
        plan = schedule.from_config(config.schedule, updates_per_epoch=loader.batches_per_epoch, given=config.given,
                                    num_epochs=config.train.num_epochs, first_generation=config.first_generation)
        position = start_of(config, saved, loader, plan, reporter)
        optimizer = optim.build(config.optimizer, model, worker.device)
        precision = trainer.Precision(config.device.dtype, worker.device)
        if saved and saved.optimizer_class in ("", type(optimizer).__name__):
            checkpoint.restore_optimizer(model, optimizer, saved)
            precision.restore(saved.scaler)
        elif saved:
            reporter.warn(f"--optimizer {config.optimizer.optimizer}: the checkpoint was trained with "
                          f"{saved.optimizer_class}, whose state means nothing here; the optimizer starts afresh")
        summarise(config, splits, model, flops, loader, val_loader, plan, worker, precision.name, reporter)
        warn_of_what_hurts(config, splits, position, saved, reporter)

        writer = None
        if prefix and position.epoch < config.train.num_epochs:
            writer = stack.enter_context(contextlib.closing(checkpoint.Checkpoint(
                prefix, keep_states=config.checkpoint.keep_states, run=saved.run if saved else "")))
        stop = stack.enter_context(Stop())
        coach = trainer.Trainer(
            model, loader, val_loader, optimizer=optimizer, schedule=plan, precision=precision, worker=worker,
            config=config.train, num_classes=config.network.num_classes, compile=config.device.compile,
            clip_gradient=config.optimizer.clip_gradient, checkpoint=writer,
            save_period=config.checkpoint.save_period, save_every=config.checkpoint.save_every, reporter=reporter,
            stop=stop)
        if writer:
            writer.begin(model, dataclasses.asdict(config.network), meta(config, splits, command),
                         resumed=saved is not None)
            reporter.resume_metrics(position.update)
        result = coach.fit(position)
    if result and not quiet:
        tell_result(result, "Validation" if val_loader else "Train", config, prefix, command)
    return model, result


def load_data(config: Config) -> Splits:
    """The data set's training and validation sources."""
    return configuration.dataset_module(config).load(config.data)


def settle_classes(config: Config, splits: Splits) -> Config:
    """Without --num-classes, as many as the data names."""
    from imgcls.data import sources

    named = None if "num_classes" in config.given else sources.num_classes(splits.train, splits.val)
    return config if named is None else dataclasses.replace(
        config, network=dataclasses.replace(config.network, num_classes=max(named, 2)))


def make_loaders(config: Config, splits: Splits, worker: Worker) -> tuple[Loader, Loader | None]:
    """Loaders on the worker's device, for training and for validation (None without validation data)."""
    from imgcls.data.loader import BenchmarkLoader
    from imgcls.data.make import make_loader

    if config.data.benchmark:
        return BenchmarkLoader(
            num_samples=config.data.num_examples or len(splits.train), batch_size=config.data.batch_size,
            image_shape=config.network.image_shape, num_classes=config.network.num_classes, seed=config.train.seed,
            device=worker.device), None
    for source, what in ((splits.train, "training"), (splits.val, "validation")):
        if source is not None:
            check_labels(source.labels, config.network.num_classes, f"the {what} labels of {source.description}")
    common: dict[str, Any] = {
        "batch_size": config.data.batch_size, "image_shape": config.network.image_shape, "seed": config.train.seed,
        "augment_config": config.augment, "device": worker.device,
        "threads": config.data.data_nthreads, "on_bad": config.data.on_bad}
    train = make_loader(splits.train, train=True, **common)
    return train, make_loader(splits.val, train=False, **common) if splits.val is not None else None


def check_labels(labels: Any, num_classes: int, what: str) -> None:
    """Labels must be 0 .. num_classes-1; UsageError says which is not."""
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise UsageError(f"--num-classes {num_classes}: {what} go up to {labels.max()} (down to {labels.min()}), "
                         f"they must be 0 to {num_classes - 1}")


def find_checkpoint(config: Config) -> Saved | None:
    """What --load-epoch names; None to start from scratch, which auto does where nothing was saved yet."""
    from imgcls import checkpoint

    wanted = config.checkpoint
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
    from imgcls.checkpoint import Position

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
    from imgcls import summary
    from imgcls.data import augment

    network, shape = config.network, ",".join(map(str, config.network.image_shape))
    is_image = len(network.image_shape) == 3
    val = f", {val_loader.num_samples:,} for validation" if val_loader else ", none for validation"
    data = "random noise (--benchmark)" if config.data.benchmark else splits.train.description
    for name, text in {
        "data": f"{data}: {loader.num_samples:,} images{val}, {network.num_classes} classes",
        "network": f"{network.network}, input {shape}, {summary.short(summary.parameters(model))} parameters, "
                   f"{summary.short(flops)} FLOPs per image",
        "augmentation": augment.describe(config.augment, network.image_shape) if is_image else "none",
        "schedule": plan.description,
        "training": f"{config.optimizer.optimizer}, batch {config.data.batch_size}, "
                    f"{loader.batches_per_epoch:,} updates per epoch, {config.train.num_epochs} epochs, "
                    f"seed {config.train.seed}",
        "device": f"{worker.description}, {dtype}{', compiled' if config.device.compile else ''}",
    }.items():
        reporter.say(f"{name + ':':<14}{text}")
    for note in (*splits.notes, *(f"{what} images are {one.note}" for what, one in (
            ("training", loader), ("validation", val_loader)) if one and one.note)):
        reporter.say(f"note: {note}")


def warn_of_what_hurts(config: Config, splits: Splits, position: Position, saved: Saved | None,
                       reporter: Reporter) -> None:
    """Settings and data that are allowed and rarely meant."""
    import numpy as np

    from imgcls import checkpoint
    from imgcls.data.sources import FolderSource
    from imgcls.networks import takes_depth

    labels = np.asarray(splits.train.labels)
    few = 2 * config.network.num_classes
    if len(labels) > few > np.count_nonzero(np.diff(labels)) and not config.data.benchmark and (
            not isinstance(splits.train, FolderSource)):  # folders are always sorted
        reporter.warn("the training data is sorted by class; every epoch is fully shuffled here, but MXNet, which "
                      "shuffles in chunks, learns nothing from such a file")
    if config.network.num_layers is not None and not takes_depth(config.network.network):
        reporter.warn(f"--num-layers {config.network.num_layers}: {config.network.network} comes in one depth only")
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


def test_io(config: Config, loader: Loader, reporter: Reporter) -> dict[str, float]:
    """`--test-io 1`: read the training data once, without a network, and say how fast."""
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
    words, kept, skip = shlex.split(command) or ["imgcls-train"], [], False
    for word in words:
        name = configuration.expand([word], "")[0].partition("=")[0] if word.startswith("--") else ""
        if skip and not name:
            skip = False
            continue
        skip = name in ("--num-epochs", "--load-epoch") and "=" not in word
        if name not in ("--num-epochs", "--load-epoch"):
            kept.append(word)
    return shlex.join([*kept, "--load-epoch", "auto", "--num-epochs", str(2 * config.train.num_epochs)])

