"""`find_batch_size`: which batch size to take, from the speed and the memory of larger and larger ones.

One batch of the run's own images is repeated to 8, 16, 32, ... of them, and each size is trained for a moment
with the run's own step. It ends before memory runs out, where larger ones are no faster, and at the size of
the data. `run` ends with it; nothing is saved.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import torch

from imgcls.config.resolve import Config
from imgcls.data.loaders.batch import Batch
from imgcls.data.resizing import Resizing
from imgcls.distributed.topology import Topology
from imgcls.errors import RunError, UsageError, spell_settings, tell
from imgcls.optim.cycles import Sweep
from imgcls.optim.schedules import Schedule
from imgcls.report import axes, plot_file
from imgcls.report.run_charts import Plot
from imgcls.report.svg import Line
from imgcls.storage import memory
from imgcls.storage.tracebacks import is_out_of_memory
from imgcls.training.checkpoint import Position
from imgcls.training.timing import endless, synchronize, time_loader
from imgcls.training.trainer import Trainer

#: the sizes that are tried: the first, and each twice the one before
_SMALLEST, _LARGEST = 8, 1 << 16
#: how long a size is measured after its first step, and how many steps are enough
_SECONDS, _MAX_STEPS = 0.6, 20
#: a size is not tried whose steps would take longer than this
_MAX_STEP_S = 10.0
#: the part of the free memory that a step may take: what else the machine will run is not known
_USABLE = 0.8
#: the part of the fastest size's speed that counts as equally good
_GOOD = 0.95
#: the search ends where two doublings together gain less than this factor
_GAIN = 1.03
#: an epoch of fewer updates learns little, however fast it is
_MIN_UPDATES = 10
#: a rate at which steps change next to nothing: the trial stays finite
_LR = 1e-10
_MIB = 1 << 20
#: optimizers that divide by the size of the gradients: their rate grows with the square root of the batch
_ADAPTIVE = ("adam", "adamw", "adamax", "nadam", "rmsprop", "adagrad", "groupadagrad", "ftml", "lamb",
             "schedule-free-adamw")


@dataclass(frozen=True)
class Measurement:
    """A batch size, its images a second, and the most memory there was, in bytes (0: not known)."""

    size: int
    speed: float
    num_bytes: int


def measure(trainer: Trainer, position: Position, config: Config) -> dict[str, float]:
    """Draw speed and memory against batch size, print the size to take, and return it with its rate.

    RunError where not even the smallest fits.
    """
    # the memory has to hold images of full size, with which progressive resizing ends
    trainer.transforms = [change for change in trainer.transforms if not isinstance(change, Resizing)]
    trainer.updater.schedule = Schedule(Sweep(_LR, _LR, 2))
    device = trainer.sharing.worker.device
    loader_s = sum(time_loader(trainer.loader, position.epoch, device))
    loader_speed = trainer.loader.batch_size / max(loader_s, 1e-9)
    trainer.meter.begin_epoch(position)
    trainer.model.train()
    trainer.sharing.begin_epoch(trainer.model)
    with closing(endless(trainer.loader, position.epoch)) as batches:
        batch = next(batches)
    found, why_over = _search(trainer, batch)
    if not found:
        raise RunError(f"`find_batch_size`: {why_over}")
    size, why = suggest(found, loader_speed, trainer.loader.num_samples)
    lr, why_lr = rate_for(size, config)
    plot_file.write_plots([_speed_plot(found, size, loader_speed), _memory_plot(found, size)],
                          config.find.find_batch_size)
    lines = [*table(found), f"{why_over}; nothing was saved", f"`batch_size` {size}: {why}",
             f"`lr` {lr:g}: {why_lr}", f"picture: {config.find.find_batch_size}"]
    for line in lines:
        tell(spell_settings(line, config.spelling), sys.stdout)
    return {"batch_size": size, "lr": lr}


def check(config: Config, topology: Topology) -> None:
    """Raise UsageError where `find_batch_size` does not go with other settings."""
    if not config.find.find_batch_size:
        return
    if config.find.find_lr:
        raise UsageError("`find_batch_size` and `find_lr`: one after the other, the batch size first")
    if config.device.cuda_graphs:
        raise UsageError("`find_batch_size`: does not go with `cuda_graphs`, a graph is of one batch size")
    if topology.rank_info is not None and topology.rank_info.world_size > 1:
        raise UsageError("`find_batch_size`: measures one process; find it with one GPU (`gpus` 0), each "
                         "further one takes as many images")


def _search(trainer: Trainer, batch: Batch) -> tuple[list[Measurement], str]:
    """Return what was measured of each size, and why the search ended."""
    device = trainer.sharing.worker.device
    updates = itertools.count(1)
    found: list[Measurement] = []
    size = min(_SMALLEST, trainer.loader.num_samples)
    while True:
        if found and (reason := _reason_to_end(found, size, trainer.loader.num_samples, device)):
            return found, reason
        trainer.reporter.info(f"trying batches of {size}")
        try:
            found.append(_measure_size(trainer, repeated(batch, size), updates))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return found, f"ended at {size}: memory ran out"
        finally:
            # a step that failed leaves gradients behind
            for parameter in trainer.model.parameters():
                parameter.grad = None
        size *= 2


def _measure_size(trainer: Trainer, batch: Batch, updates: itertools.count[int]) -> Measurement:
    """Train a moment on one batch again and again."""
    device = trainer.sharing.worker.device
    memory.forget_peak()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    trainer.train_step(batch, next(updates))  # chooses kernels, takes memory
    synchronize(device)
    count, started = 0, time.perf_counter()
    while count < _MAX_STEPS and (not count or time.perf_counter() - started < _SECONDS):
        trainer.train_step(batch, next(updates))
        synchronize(device)
        count += 1
    seconds = time.perf_counter() - started
    trainer.meter.read_losses()
    trainer.handle_stop_request()
    return Measurement(len(batch.images), count * len(batch.images) / max(seconds, 1e-9), _peak_bytes(device))


def _reason_to_end(found: Sequence[Measurement], size: int, num_samples: int, device: torch.device) -> str:
    """Return why the next `size` is not tried, "" where it is."""
    last = found[-1]
    # memory last: the other reasons are cheaper to find out
    if size > min(num_samples, _LARGEST):
        return f"ended at {last.size}: the data set has {num_samples:,} images" if size > num_samples else (
            f"ended at {last.size}, the largest that is tried")
    if len(found) > 2 and last.speed < _GAIN * found[-3].speed:
        return f"ended at {last.size}: larger batches are no faster"
    if size / last.speed > _MAX_STEP_S:
        return f"ended at {last.size}: a step of {size} would take more than {_MAX_STEP_S:g} s"
    more, free = expected_bytes(found, size) - _held_bytes(device), _free_bytes(device)
    if free is not None and more > _USABLE * free:
        return (f"ended at {last.size}: a step of {size} would take about {more / _MIB:,.0f} MiB more than "
                f"is held now, and {free / _MIB:,.0f} are free")
    return ""


def expected_bytes(found: Sequence[Measurement], size: int) -> float:
    """Return the memory that a step of `size` will need, along the line through the last two measured.

    After a single one in proportion, which is too much rather than too little.
    """
    last = found[-1]
    if len(found) == 1:
        return last.num_bytes * size / last.size
    slope = max(last.num_bytes - found[-2].num_bytes, 0) / (last.size - found[-2].size)
    return last.num_bytes + slope * (size - last.size)


def suggest(found: Sequence[Measurement], loader_speed: float, num_samples: int) -> tuple[int, str]:
    """Return the smallest size that is as good as the fastest, and why it is that one.

    Speed above that of the loader does not count, and an epoch has ten updates at least where possible.
    """
    # a set of a hundred images would otherwise get one update an epoch
    allowed = [one for one in found if one.size * _MIN_UPDATES <= num_samples] or [found[0]]
    fastest = max(allowed, key=lambda one: one.speed)
    needed = _GOOD * min(fastest.speed, loader_speed)
    chosen = next(one for one in allowed if one.speed >= needed)
    why = f"{chosen.speed:,.4g} images/s"
    if chosen.speed >= loader_speed * _GOOD and loader_speed < fastest.speed:
        why += f", and the loader gives {loader_speed:,.4g}: a larger batch would wait for it"
    elif chosen is fastest:
        why += ", the most that was measured" if len(allowed) == len(found) else (
            f", the most with {_MIN_UPDATES} updates an epoch")
    else:
        most = f"{fastest.speed:,.4g} with {fastest.size}"
        why += (f", {chosen.speed / fastest.speed:.0%} of the most ({most}): "
                "a larger batch takes memory and updates for little")
    return chosen.size, why


def rate_for(size: int, config: Config) -> tuple[float, str]:
    """Return the learning rate that goes with a batch size, from that of the settings, and why.

    In proportion to the batch (Goyal et al. 2017, arXiv 1706.02677), for rules that divide by the size of the
    gradients to its square root (Malladi et al. 2022, arXiv 2205.10287).
    """
    # the one rate that is known is that of the user, the data set or the recipe, for its own batch
    batch_size, lr = config.data.batch_size, config.schedule.lr
    if config.optimizer.name in _ADAPTIVE:
        lr *= math.sqrt(size / batch_size)
        how = "with the square root of the batch"
    else:
        lr *= size / batch_size
        how = "in proportion to the batch"
    advice = "; begin with `warmup_epochs` 5" if size >= 4 * batch_size else ""
    return float(f"{lr:.3g}"), f"{config.schedule.lr:g} for {batch_size}, {how}{advice}"


def repeated(batch: Batch, size: int) -> Batch:
    """Return a batch of `size` images, those of `batch` again and again."""
    rows = torch.arange(size, device=batch.images.device) % max(batch.num_valid, 1)
    # indexing gives contiguous memory; the loaders' is channels_last
    images = batch.images[rows]
    if images.ndim == 4:
        images = images.contiguous(memory_format=torch.channels_last)
    partners = None if batch.partners is None else torch.arange(size, device=rows.device).roll(1)
    return dataclasses.replace(batch, images=images, labels=batch.labels[rows], num_valid=size,
                               global_size=size, partners=partners)


def table(found: Sequence[Measurement]) -> list[str]:
    """Return lines of size, speed and memory."""
    lines = [f"{'batch':>7}{'images/s':>12}{'memory':>14}"]
    for one in found:
        mib = f"{one.num_bytes / _MIB:,.0f} MiB" if one.num_bytes else "not known"
        lines.append(f"{one.size:>7}{one.speed:>12,.4g}{mib:>14}")
    return lines


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return memory.peak_bytes() or 0  # shown as "not known"


def _held_bytes(device: torch.device) -> int:
    """Return what this process has of the device's memory now."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    return memory.resident_bytes() or 0


def _free_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return memory.available_bytes()


def _speed_plot(found: Sequence[Measurement], size: int, loader_speed: float) -> Plot:
    sizes, speeds = _sizes(found), [one.speed for one in found]
    lines = [Line("network", sizes, speeds, 0, label="the network", best=sizes.index(size))]
    # far above the network it is no limit, and would flatten the curve
    if loader_speed < 2 * max(speeds):
        lines.append(Line("loader", [sizes[0], sizes[-1]], [loader_speed] * 2, 1, is_dashed=True,
                          label="the loader"))
        speeds = [*speeds, loader_speed]
    return Plot("Speed", lines, _size_axis(sizes), axes.linear([0, *speeds], floor=0), "batch size",
                "images per second")


def _memory_plot(found: Sequence[Measurement], size: int) -> Plot:
    sizes, mib = _sizes(found), [one.num_bytes / _MIB for one in found]
    return Plot("Memory", [Line("memory", sizes, mib, 2, label="MiB", best=sizes.index(size))],
                _size_axis(sizes), axes.linear([0, *mib], floor=0), "batch size", "MiB at the peak")


def _sizes(found: Sequence[Measurement]) -> list[float]:
    return [float(one.size) for one in found]


def _size_axis(sizes: Sequence[float]) -> axes.Scale:
    """Return an axis with a mark at each size, all as far apart."""
    high = sizes[-1] if len(sizes) > 1 else 2 * sizes[0]
    return axes.Scale(sizes[0], high, tuple(sizes), tuple(f"{size:g}" for size in sizes), is_log=True)
