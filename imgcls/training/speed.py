"""How fast a network answers or learns, and how fast data are read: the measuring of `imgcls-benchmark`.

What is timed is what a run does: the trainer's own step, the forward pass of an evaluation, the loader of
`--test-io`. A GPU's work is timed by the GPU's own clock, and not by when kernels are launched.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from imgcls.config.flags import show
from imgcls.config.resolve import Config
from imgcls.config.sections import Decay, NetworkConfig
from imgcls.data.loaders.batch import Batch, Loader
from imgcls.data.loaders.benchmark import BenchmarkLoader
from imgcls.data.sources import Splits
from imgcls.distributed import cpu_threads
from imgcls.distributed.process_group import Worker
from imgcls.optim import schedules
from imgcls.report.speeds import Speed
from imgcls.storage import memory
from imgcls.storage.tracebacks import is_out_of_memory
from imgcls.training import loaders, network_size
from imgcls.training.checkpoint import Position
from imgcls.training.cuda_graph import check_cuda_graphs
from imgcls.training.loss import Loss
from imgcls.training.meter import Meter
from imgcls.training.precision import Precision
from imgcls.training.reporter import Reporter
from imgcls.training.run import build_model
from imgcls.training.saver import Saver
from imgcls.training.sharing import share_gradients
from imgcls.training.stop import StopSignal
from imgcls.training.timing import endless
from imgcls.training.trainer import Trainer
from imgcls.training.updater import make_updater

#: does the work of one batch and returns how many images that were
Step = Callable[[], int]
#: the note of a row that could not be measured
OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True)
class Plan:
    """How often: batches before the clock runs, batches that are timed together, and how often those."""

    num_warm_up: int
    num_batches: int
    num_repeats: int


def measure_network(config: Config, network: NetworkConfig, batch_size: int, dtype: str, worker: Worker,
                    plan: Plan, *, is_training: bool) -> Speed:
    """Return the speed of a network on noise, of forward passes or steps; a note where memory is too small.

    UsageError for a network that is not known, or an image shape that it cannot take.
    """
    config = dataclasses.replace(
        config, network=network, data=dataclasses.replace(config.data, batch_size=batch_size),
        device=dataclasses.replace(config.device, dtype=dtype))
    shape = show(network.image_shape)
    row = Speed(name=network_name(network), shape=shape, batch_size=batch_size, dtype=dtype)
    make_step = _training_step if is_training else _forward_step
    with contextlib.closing(Reporter(config.report, quiet=True)) as reporter:
        return _measured(row, lambda: _network_step(config, worker, reporter, make_step), worker.device, plan)


def measure_loader(config: Config, splits: Splits, num_threads: int, worker: Worker, plan: Plan) -> Speed:
    """Return the speed at which `num_threads` threads make the training batches, without a network."""
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, data_nthreads=num_threads))
    shape = show(config.network.image_shape)
    row = Speed(name=splits.train.description, shape=shape, batch_size=config.data.batch_size,
                dtype="float32", threads=num_threads)
    return _measured(row, lambda: _loader_step(config, splits, worker), worker.device, plan)


def network_name(network: NetworkConfig) -> str:
    """Return what a table calls a network: its name, with its depth where one was given."""
    depth = "" if network.num_layers is None else f"-{network.num_layers}"
    return f"{network.network}{depth}"


def time_batches(step: Step, device: torch.device, plan: Plan) -> tuple[list[float], list[float]]:
    """Return the images per second and the seconds per batch of each repeat; the warm-up is not in them."""
    for _ in range(plan.num_warm_up):
        # The first passes choose convolution algorithms, compile and fill caches: several times a usual step.
        step()
    speeds: list[float] = []
    seconds: list[float] = []
    for _ in range(plan.num_repeats):
        clock = _cuda_clock if device.type == "cuda" else _clock
        # all batches in one measurement: a clock for each would wait for the GPU every time
        num_images, elapsed = clock(step, plan.num_batches)
        speeds.append(num_images / max(elapsed, 1e-9))
        seconds.append(elapsed / plan.num_batches)
    return speeds, seconds


def _clock(step: Step, num_batches: int) -> tuple[int, float]:
    started = time.perf_counter()
    num_images = sum(step() for _ in range(num_batches))
    return num_images, time.perf_counter() - started


def _cuda_clock(step: Step, num_batches: int) -> tuple[int, float]:
    """Return images and seconds by the GPU's clock, which starts when all earlier work is done."""
    first = torch.cuda.Event(enable_timing=True)
    last = torch.cuda.Event(enable_timing=True)
    # Kernels are queued: without this the clock would see what was launched before it.
    torch.cuda.synchronize()
    first.record()
    num_images = sum(step() for _ in range(num_batches))
    last.record()
    last.synchronize()
    return num_images, first.elapsed_time(last) / 1000  # it counts in milliseconds


def _measured(row: Speed, make_step: Callable[[], contextlib.AbstractContextManager[tuple[Step, int]]],
              device: torch.device, plan: Plan) -> Speed:
    """Return the row with its figures, or with the note that memory was too small."""
    is_peak_known = _forget_memory(device)
    try:
        with make_step() as (step, num_parameters):
            row = dataclasses.replace(row, parameters=num_parameters)
            speeds, seconds = time_batches(step, device, plan)
        return dataclasses.replace(row, images_per_s=tuple(speeds), seconds=tuple(seconds),
                                   peak_bytes=_peak_bytes(device) if is_peak_known else None)
    except memory.TooLittleMemory:
        return dataclasses.replace(row, note=OUT_OF_MEMORY)
    # torch raises RuntimeError for this and for all else
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return dataclasses.replace(row, note=OUT_OF_MEMORY)


@contextlib.contextmanager
def _network_step(config: Config, worker: Worker, reporter: Reporter,
                  make_step: Callable[..., contextlib.AbstractContextManager[Step]]) -> Iterator[
                      tuple[Step, int]]:
    """Give the step of a network that `make_step` makes, and how many parameters it has."""
    network, batch_size = config.network, config.data.batch_size
    model = build_model(config, None, reporter)
    cost = network_size.measure(model, network.image_shape)
    _require_memory(config, cost, worker, is_training=make_step is _training_step)
    # as a run decides it: the backward pass costs two forward passes
    worker.limit_threads((3 if make_step is _training_step else 1) * cost.flops * batch_size)
    model.to(worker.device)
    noise = BenchmarkLoader(num_samples=batch_size, batch_size=batch_size, image_shape=network.image_shape,
                            num_classes=network.num_classes, seed=config.train.seed, device=worker.device)
    with make_step(config, model, next(iter(noise.epoch(0))), noise, worker, reporter) as step:
        yield step, network_size.count_parameters(model, frozen=True)


def _require_memory(config: Config, cost: network_size.Cost, worker: Worker, *, is_training: bool) -> None:
    """Raise TooLittleMemory where the system would kill the process; a GPU says so itself."""
    batch_size = config.data.batch_size
    # the noise is drawn on the CPU, in float32, and once more while it is scaled
    per_image = 8 * math.prod(config.network.image_shape)
    if worker.device.type == "cpu":
        # For the backward pass all values are kept, of micro-batches one after the other. Without it the
        # largest layer is there at once.
        values = cost.values / config.distributed.micro_batches if is_training else cost.largest
        per_image += (4 if config.device.dtype == "float32" else 2) * values
    memory.require(per_image * batch_size, f"`batch_sizes` {batch_size}: a step")


@contextlib.contextmanager
def _forward_step(config: Config, model: nn.Module, batch: Batch, _loader: Loader, worker: Worker,
                  _reporter: Reporter) -> Iterator[Step]:
    """Give the forward pass of an evaluation."""
    model.eval()
    forward = torch.compile(model) if config.device.compile else model
    precision = Precision(config.device.dtype, worker.device)

    def step() -> int:
        with torch.no_grad(), precision.autocast():
            forward(batch.images)
        return batch.num_valid

    yield step


@contextlib.contextmanager
def _training_step(config: Config, model: nn.Module, batch: Batch, loader: Loader, worker: Worker,
                   reporter: Reporter) -> Iterator[Step]:
    """Give the trainer's own step, at a constant learning rate."""
    check_cuda_graphs(config, worker)
    schedule = schedules.from_config(dataclasses.replace(config.schedule, decay=Decay(), warmup_epochs=0.0),
                                     updates_per_epoch=1, num_epochs=1)
    updater = make_updater(config, model, schedule, None, Position(), worker, reporter)
    with share_gradients(config, model, updater.optimizer, worker, batch.global_size) as sharing:
        meter = Meter(["accuracy"], worker)
        saver = Saver(None, StopSignal(), sharing, config.checkpoint)  # never entered: signals stay Python's
        trainer = Trainer(model, loader, None, config=config.train, updater=updater, sharing=sharing,
                          meter=meter, saver=saver, reporter=reporter, loss=Loss())
        model.train()
        sharing.begin_epoch(model)
        update = 0

        def step() -> int:
            nonlocal update
            # counted on: schedules and corrected moments of Adam depend on the number of the update
            update += 1
            trainer.train_step(batch, update)
            return batch.num_valid

        yield step


@contextlib.contextmanager
def _loader_step(config: Config, splits: Splits, worker: Worker) -> Iterator[tuple[Step, int]]:
    """Give what takes the next training batch, epoch after epoch; there are no parameters."""
    loader, _ = loaders.make_loaders(config, Splits(splits.train), worker, config.data.batch_size)
    # Closed, as the loader's threads would wait for ever in a generator that is not continued.
    with contextlib.closing(endless(loader)) as batches:
        yield lambda: next(batches).num_valid, 0


def _forget_memory(device: torch.device) -> bool:
    """Free the memory of the row before and reset the peak; return whether it was reset.

    Where the system cannot reset it, the peak would be that of an earlier row.
    """
    # Modules and their hooks are reference cycles, which only the collector frees, and with them their
    # memory.
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return True
    cpu_threads.release_freed_memory()
    return memory.forget_peak()


def _peak_bytes(device: torch.device) -> int | None:
    """Return the most memory since `_forget_memory`: torch's on a GPU, else that of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return memory.peak_bytes()
