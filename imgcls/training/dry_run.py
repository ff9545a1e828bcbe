"""`dry_run`: print what a run would do, measure a few of its batches, and write nothing. `run` ends with it.

What is measured is the run's own loader and the trainer's own step, on its devices and with its other
processes: first the loader alone and the copies to the device, then everything together; the time of an
epoch is estimated from the latter. The network, which has learned from a few batches then, is thrown away.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
import time
from collections.abc import Mapping
from contextlib import closing

import torch

from imgcls.config.resolve import Config
from imgcls.data.loaders.batch import Batch
from imgcls.distributed.process_group import Worker
from imgcls.errors import spell_settings, tell, verbatim
from imgcls.layers import Layer
from imgcls.storage import memory
from imgcls.storage.paths import to_path
from imgcls.training import timing
from imgcls.training.checkpoint import Position
from imgcls.training.reporter import Reporter
from imgcls.training.trainer import Trainer

_MIB = 1 << 20


def without_missing_mean(config: Config, reporter: Reporter) -> Config:
    """Return the configuration of loaders without a mean image that does not exist: making it would read all
    images."""
    path = config.augment.mean_image
    if not path or to_path(path, "`mean_image`").exists():
        return config
    # one colour takes as long to subtract
    reporter.info(f"note: the run would begin by making `mean_image` {verbatim(path)}")
    return dataclasses.replace(config, augment=dataclasses.replace(config.augment, mean_image=""))


def measure(trainer: Trainer, position: Position, config: Config) -> dict[str, float]:
    """Print what would be written, how long a batch, an epoch and the run take, and how much memory.

    Returns {"samples/sec": speed, "epoch_s": ..., "run_s": ...}; rank 0 prints.
    """
    worker = trainer.sharing.worker
    loader_s, copy_s = timing.time_loader(trainer.loader, position.epoch, worker.device)
    step_s, together_s = _time_training(trainer, position)
    loader = trainer.loader
    epoch_s = together_s * loader.batches_per_epoch + _validation_s(trainer) / config.train.val_period
    # a resumed run has done a part already
    done = position.epoch + position.batch / max(loader.batches_per_epoch, 1)
    num_left = max(config.train.num_epochs - done, 0.0)
    run_s = epoch_s * num_left
    if not worker.rank:
        parts = {"loader": loader_s, "copy": copy_s, "network": step_s}
        lines = {"dry run": "nothing was written; these are the times of a few batches",
                 "files": _describe_files(trainer, config)}
        lines |= {name: _describe_part(seconds, loader.batch_size) for name, seconds in parts.items()}
        lines["together"] = f"{_describe_part(together_s, loader.batch_size)}; {_limit(parts, worker)}"
        lines["an epoch"] = f"about {duration(epoch_s)}, validation included"
        lines["the run"] = f"about {duration(run_s)} ({num_left:g} epochs)"
        lines["memory"] = _describe_memory(worker.device)
        for name, text in lines.items():
            tell(spell_settings(f"{name + ':':<14}{text}", config.spelling), sys.stdout)
    # the others wait, or the launcher would see processes that end while rank 0 still prints
    worker.barrier()
    return {"samples/sec": loader.batch_size / max(together_s, 1e-9), "epoch_s": epoch_s, "run_s": run_s}


def duration(seconds: float) -> str:
    """Return a duration for people: 0.4 s, 35 s, 12 min, 3.5 h, 2.1 days."""
    # from two days on in days: "36 h" is read faster than "1.5 days"
    for unit, size, digits in (("days", 86400, 1), ("h", 3600, 1), ("min", 60, 0 if seconds >= 600 else 1)):
        if seconds >= (2 if unit == "days" else 1) * size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.{0 if seconds >= 10 else 1}f} s"


def _time_training(trainer: Trainer, position: Position) -> tuple[float, float]:
    """Return the seconds of a step of the network, and of a batch with everything that belongs to it."""
    worker = trainer.sharing.worker
    trainer.meter.begin_epoch(position)
    trainer.model.train()
    trainer.sharing.begin_epoch(trainer.model)
    step_s = 0.0
    update = position.update
    with closing(timing.endless(trainer.loader, position.epoch)) as batches:
        # memory is allocated and kernels are chosen in the first step, which is not counted
        first_s = _step(trainer, next(batches), update := update + 1)
        # all processes take the same number of steps, that of the slowest
        slowest_s = max(worker.gather(first_s)) if worker.is_synchronous else first_s
        count = max(1, min(timing.MAX_BATCHES, int(timing.MAX_SECONDS / max(slowest_s, 1e-6))))
        started = time.perf_counter()
        for batch in itertools.islice(batches, count):
            step_s += _step(trainer, batch, update := update + 1)
            # Ctrl-C ends a dry run as it ends a run
            trainer.handle_stop_request()
        total_s = time.perf_counter() - started
    return step_s / count, total_s / count


def _step(trainer: Trainer, batch: Batch, update: int) -> float:
    """Return the seconds of one step."""
    started = time.perf_counter()
    trainer.train_step(batch, update)
    timing.synchronize(trainer.sharing.worker.device)
    return time.perf_counter() - started


def _validation_s(trainer: Trainer) -> float:
    """Return the seconds of a validation, measured on some batches."""
    loader = trainer.val_loader
    if loader is None:
        return 0.0
    trainer.model.eval()
    started = time.perf_counter()
    count = 0
    with torch.no_grad(), closing(loader.epoch(0)) as batches:  # type: ignore[type-var]
        for batch in batches:
            with trainer.updater.precision.autocast():
                trainer.model(batch.images)
            count += 1
            if timing.is_enough(count, started):
                break
    timing.synchronize(trainer.sharing.worker.device)
    return (time.perf_counter() - started) / max(count, 1) * loader.batches_per_epoch


def _describe_part(seconds: float, batch_size: int) -> str:
    if not seconds:
        return "nothing to do: the images are in memory already"
    num_digits = 0 if seconds > 0.1 else 2
    speed = batch_size / seconds
    return (f"{1e3 * seconds:,.{num_digits}f} ms a batch of {batch_size}, "
            f"{speed:,.{0 if speed >= 10 else 2}f} images/s")


def _limit(parts: Mapping[str, float], worker: Worker) -> str:
    """Return which part the others wait for."""
    slowest = max(parts, key=lambda name: parts[name])
    advice = {"loader": "imgcls-im2rec `resize` packs smaller images, `data_nthreads` sets its threads",
              "copy": "smaller images, or fewer processes, take less",
              # for each part what takes the least effort to change comes first
              "network": "a smaller network, `image_shape`, or another device takes less"}[slowest]
    shared = "" if worker.device.type == "cuda" else ", and all share the cores"
    return f"the {slowest} is the limit{shared} ({advice})"


def _describe_files(trainer: Trainer, config: Config) -> str:
    """Return which files the run would write, and how large its weights are."""
    prefix = verbatim(config.checkpoint.save_prefix)
    report = config.report
    log_file = f", and the log {verbatim(report.log_file)}" if report.log_file else ""
    if not prefix:
        return f"none, without `model_prefix`{log_file}"
    period = config.checkpoint.save_period
    epochs = config.train.num_epochs
    # the last epoch is saved whatever the period is
    num_saved = math.ceil(epochs / period)
    tensors = [*trainer.model.parameters(), *trainer.model.buffers()]
    weights_mib = sum(tensor.numel() * 4 for tensor in tensors) / _MIB
    # as the checkpoint decides it: networks of other packages have no symbol
    has_symbol = any(isinstance(module, Layer) for module in trainer.model.modules())
    names = ["-symbol.json" if has_symbol else "-network.json", "-meta.json", "-metrics.jsonl"]
    names += ["-report.html"] if report.report_page else []
    # files that the settings do not ask for are not listed
    names += ["-tensorboard/"] if report.tensorboard else []
    names += ["-mean.bin"] if config.augment.mean_image and not config.data.benchmark else []
    names += ["-best.json"] if config.early_stopping.patience or config.early_stopping.keep_best else []
    first = min(period, epochs)
    return (f"{prefix}-{first:04d}.params to -{epochs:04d}.params ({num_saved} of {weights_mib:.1f} MiB, and "
            f".states beside them), {', '.join(prefix + name for name in names)}{log_file}")


def _describe_memory(device: torch.device) -> str:
    """Return the most memory that the process has had so far, of the machine and of a GPU, in words."""
    peak = memory.peak_bytes()
    text = "not known" if peak is None else f"{peak / _MIB:,.0f} MiB at the peak"
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        used = torch.cuda.max_memory_reserved(device)
        text += f", and {used / _MIB:,.0f} of {total / _MIB:,.0f} MiB on the GPU"
    return text
