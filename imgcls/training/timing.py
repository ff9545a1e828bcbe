"""Time the loader and the device of a run, for `dry_run`, the finders, `time_budget` and `speed`."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Generator
from contextlib import closing

import torch

from imgcls.data.loaders.batch import Batch, Loader
from imgcls.data.loaders.streaming import StreamingLoader
from imgcls.errors import RunError

#: a measurement ends after so many seconds or batches, whichever comes first
# four seconds even out a disk's and a clock's ups and downs
MAX_SECONDS, MAX_BATCHES = 4.0, 50


def is_enough(num_batches: int, started: float) -> bool:
    """Return whether a measurement that `started` then (perf_counter) has timed enough batches."""
    return num_batches >= MAX_BATCHES or time.perf_counter() - started > MAX_SECONDS


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def endless(loader: Loader, epoch: int = 0) -> Generator[Batch, None, None]:
    """Yield the batches of `epoch` and of all epochs after it: a small set has fewer than are timed.

    RunError for an epoch without batches. Close it, or the loader's threads wait for ever.
    """
    for number in itertools.count(epoch):
        is_empty = True
        for batch in loader.epoch(number):
            is_empty = False
            yield batch
        if is_empty:
            raise RunError("there is no batch in an epoch: nothing to measure")


def time_loader(loader: Loader, epoch: int, device: torch.device) -> tuple[float, float]:
    """Return the seconds per batch of the loader alone, and of the copy of a batch to the device.

    A loader with its images in memory gives them where they are: nothing is copied.
    """
    if not isinstance(loader, StreamingLoader):
        started = time.perf_counter()
        count = 0
        with closing(endless(loader, epoch)) as batches:
            for _ in batches:
                count += 1
                if is_enough(count, started):
                    break
        synchronize(device)
        return (time.perf_counter() - started) / count, 0.0
    copies = []
    started = time.perf_counter()
    with closing(loader.host_batches(epoch)) as host_batches:
        for host in host_batches:
            copy_started = time.perf_counter()
            loader.to_device(host)
            synchronize(device)
            copies.append(time.perf_counter() - copy_started)
            if is_enough(len(copies), started):
                break
    total_s = time.perf_counter() - started
    # the median: the first copy waits for the device to wake up
    copy_s = statistics.median(copies)
    # threads went on decoding meanwhile: the time of the copies is not the loader's
    return max(total_s - sum(copies), 0.0) / len(copies), copy_s
