"""Measure what one image costs the loader, and carry it on to more cores: what limits it, and from where on.

    python benchmarks/loader_limits.py --images DIR [--cores 2,16,64]

DIR holds photographs. Measured, on one thread: CPU time of an image, and the part of it that holds the
interpreter's lock (at most: all but decoding, resizing and mirroring in OpenCV, which lets go of it), from
the files and from the decoded cache; bytes that it moves through memory; and the machine's speed of copying
on one thread and on two. The rest is arithmetic from these (`limits`), and no measurement: threads share the
lock of their process, all share the memory, and each process gives its images to one GPU over PCIe.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout, installed or not

from imgcls.errors import DataError

if TYPE_CHECKING:
    from imgcls.data.loaders.host_batch import HostBatch
    from imgcls.data.loaders.preparer import SamplePreparer

#: of an image in a batch of uint8: what is copied to the GPU
IMAGE_BYTES = 224 * 224 * 3
#: assumed, bytes a second: over PCIe 4.0 x16 to each GPU, and the memory of a server with 8 channels of DDR4
PCIE_BYTES_S, SERVER_MEMORY_BYTES_S = 25e9, 200e9
#: at most so many threads prepare batches in a process (`loaders.streaming.MAX_THREADS`)
MAX_THREADS = 16
_JOB, _NUM_EPOCHS = 16, 3


@dataclass(frozen=True)
class Cost:
    """What one image costs the loader."""

    #: seconds of a core, and how many of them hold the interpreter's lock
    cpu_s: float
    locked_s: float
    #: bytes read and written
    memory_bytes: float


def limits(cost: Cost, cores: int, processes: int, memory_bytes_s: float) -> dict[str, float]:
    """Return the images a second that each limit allows on a machine: the lowest is what to expect."""
    # A process has no more threads than that: beyond it only further processes use the cores.
    threads = min(cores // processes, MAX_THREADS) * processes
    return {"cores": threads / cost.cpu_s, "lock": processes / cost.locked_s,
            "memory": memory_bytes_s / cost.memory_bytes, "PCIe": processes * PCIE_BYTES_S / IMAGE_BYTES}


def main() -> None:
    """Print what is measured, then the table."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True)
    parser.add_argument("--cores", default="2,16,64")
    args = parser.parse_args()
    speeds = [copy_speed(1), copy_speed(2)]
    print(f"copying memory, read and written: {speeds[0] / 1e9:.1f} GB/s on one thread, "
          f"{speeds[1] / 1e9:.1f} on two")
    print(f"{'':<26}{'CPU us':>8}{'locked':>8}{'kB moved':>10}   images/s that each limit allows")
    for name, cost in measure(Path(args.images)).items():
        print(f"{name:<26}{cost.cpu_s * 1e6:>8.0f}{cost.locked_s * 1e6:>8.0f}"
              f"{cost.memory_bytes / 1e3:>10.0f}")
        for cores in map(int, args.cores.split(",")):
            # all in one process, or one for every eight cores, as with eight GPUs
            for processes in sorted({1, max(1, cores // 8)}):
                # memory is assumed to grow with the cores, as from one to two here, up to a server's
                allowed = limits(cost, cores, processes, min(speeds[1] * cores / 2, SERVER_MEMORY_BYTES_S))
                least = min(allowed, key=allowed.__getitem__)
                print(f"  {cores:>3} cores, {processes} process{'es' if processes > 1 else '':<18}"
                      + ", ".join(f"{what} {value:,.0f}" for what, value in allowed.items())
                      + f": {least}", flush=True)


def copy_speed(num_threads: int) -> float:
    """Return bytes read and written each second by threads that copy memory larger than any cache share."""
    size = 1 << 28
    arrays = [(np.ones(size, np.uint8), np.zeros(size, np.uint8)) for _ in range(num_threads)]
    best = 0.0
    for _ in range(4):
        threads = [threading.Thread(target=np.copyto, args=(target, source)) for source, target in arrays]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        best = max(best, 2 * size * num_threads / (time.perf_counter() - started))
    return best


def measure(folder: Path) -> dict[str, Cost]:
    """Return the cost of an image: of a random resized crop and of validation, from files and decoded."""
    import cv2
    import torch

    from imgcls.config.sections import AugmentConfig
    from imgcls.data.crops import CropSampler
    from imgcls.data.decode import Decoder
    from imgcls.data.decoded.crops import CropCache
    from imgcls.data.decoded.images import ImageCache
    from imgcls.data.decoded.segment import Segment
    from imgcls.data.loaders.host_batch import host_batch
    from imgcls.data.loaders.preparer import SamplePreparer
    from imgcls.data.order import LocalBatch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    files = _Files(folder)
    rows = np.arange(len(files))
    costs: dict[str, Cost] = {}
    tasks = {"random resized crop": AugmentConfig(random_resized_crop=True, min_random_area=.08,
                                                  random_mirror=True),
             "validation, 256 and 224": AugmentConfig(val_resize=256)}
    for name, config in tasks.items():
        train = config.random_resized_crop
        crops = CropSampler(config, (224, 224), 3, seed=0, train=train)
        preparer = SamplePreparer(files, crops, Decoder((3, 224, 224), reduce_resized=not train))
        batch = host_batch(LocalBatch(rows, len(rows), len(rows), rows),
                           torch.empty((len(rows), 224, 224, 3), dtype=torch.uint8))

        epoch = functools.partial(_prepare, preparer, batch)
        costs[name] = _cost(epoch, len(rows))
        segment = Segment.create(1 << 30)
        preparer.keep(ImageCache(segment, len(rows), 3) if train else
                      CropCache(segment, len(rows), (224, 224, 3)))
        for number in range(_NUM_EPOCHS):  # decoded at every scale that is asked for
            epoch(number)
        costs[f"{name}, kept"] = _cost(epoch, len(rows))
    return costs


def _prepare(preparer: SamplePreparer, batch: HostBatch, epoch: int) -> None:
    for first in range(0, len(batch.indices), _JOB):
        preparer.prepare(batch, first, min(first + _JOB, len(batch.indices)), epoch)


def _cost(epoch: Callable[[int], None], num_images: int) -> Cost:
    """Return the cost of an image, from the median CPU time of some epochs."""
    import cv2

    # CPU time of this thread: what others do on the machine counts little
    times = []
    for number in range(_NUM_EPOCHS):
        started = time.thread_time()
        epoch(number)
        times.append(time.thread_time() - started)
    # and once more, measuring the time of the calls that release the lock
    unlocked_s = moved_bytes = 0.0

    def clocked(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(image: np.ndarray, *arguments: Any, **keywords: Any) -> Any:
            nonlocal unlocked_s, moved_bytes
            started = time.thread_time()
            result = function(image, *arguments, **keywords)
            unlocked_s += time.thread_time() - started
            moved_bytes += image.nbytes + result.nbytes
            return result
        return call

    plain = {name: getattr(cv2, name) for name in ("imdecode", "resize", "flip")}
    for name, function in plain.items():
        setattr(cv2, name, clocked(function))
    started = time.thread_time()
    epoch(0)
    locked_s = time.thread_time() - started - unlocked_s
    for name, function in plain.items():
        setattr(cv2, name, function)
    cpu_s = statistics.median(times) / num_images
    # and the batch, which is written and read once more
    return Cost(cpu_s, locked_s / num_images, moved_bytes / num_images + 2 * IMAGE_BYTES)


class _Files:
    """Photographs in memory, as a source."""

    def __init__(self, folder: Path) -> None:
        self._files = [path.read_bytes() for path in sorted(folder.iterdir())]
        self.labels = np.zeros(len(self._files), np.int64)

    def __len__(self) -> int:
        return len(self._files)

    @property
    def class_names(self) -> tuple[str, ...]:
        return ()

    description = "photographs"

    def read(self, index: int) -> bytes:
        return self._files[index]

    def problem(self, index: int, reason: str) -> DataError:
        return DataError(self.description, f"image {index} {reason}")


if __name__ == "__main__":
    main()
