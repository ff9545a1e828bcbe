"""One process per device: which device this one has, its rank, and what all of them agree on.

The only file that names torch.distributed. One process is the case that is there today; the trainer asks a Worker in
every case, so that several are no change for it.
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from imgcls.errors import UsageError, unknown
from imgcls.sections import DEVICES_LATER, DeviceConfig

if TYPE_CHECKING:
    import torch

#: floating-point operations of a training step that are worth a thread: about a millisecond of one core
FLOPS_PER_THREAD = 1e8
#: every name MXNet took for a store on one machine; with one device they all mean the same
LOCAL_STORES = ("local", "device", "nccl", "none", "local_update_cpu", "local_allreduce_cpu", "local_allreduce_device")
DISTRIBUTED_STORES = ("dist", "dist_sync", "dist_async", "dist_device_sync", "dist_sync_device", "dist_async_device",
                      "dist_device_async", "horovod", "byteps", "p3")


@dataclass(frozen=True)
class Worker:
    """This process among `world`: `rank` 0 writes the files and the log."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def description(self) -> str:
        import torch

        if self.device.type == "cuda":
            return f"{self.device} ({torch.cuda.get_device_name(self.device)})"
        count = torch.get_num_threads()
        return f"cpu ({count} thread{'s' * (count > 1)})"


def check(config: DeviceConfig) -> list[int]:
    """The numbers in --gpus, none for the CPU. UsageError for what no machine could run; touches no device."""
    store = config.kv_store.lower()
    if store in DISTRIBUTED_STORES:
        raise UsageError(f"--kv-store {config.kv_store}: {DEVICES_LATER}")
    if store not in LOCAL_STORES:
        raise unknown("--kv-store", config.kv_store, (*LOCAL_STORES, *DISTRIBUTED_STORES))
    return _gpu_numbers(config.gpus)


def choose(config: DeviceConfig) -> Worker:
    """The Worker that --gpus and --kv-store ask for; UsageError for a device that this machine has not."""
    import torch

    wanted = check(config)
    if not wanted:
        _keep_freed_memory()
        return Worker(torch.device("cpu"))
    if not torch.cuda.is_available():
        built = f"torch {torch.__version__} is built for CUDA {torch.version.cuda}" if torch.version.cuda else (
            f"torch {torch.__version__} is built without CUDA")
        raise UsageError(f"--gpus {config.gpus}: no GPU was found on this machine ({built}); "
                         "leave --gpus out to run on the CPU")
    for number in wanted:
        if number >= torch.cuda.device_count():
            raise UsageError(f"--gpus {config.gpus}: there is no GPU {number}; this machine has "
                             f"{', '.join(map(str, range(torch.cuda.device_count())))}")
    if len(wanted) > 1:
        raise UsageError(f"--gpus {config.gpus}: {DEVICES_LATER}; give one of them")
    torch.cuda.set_device(wanted[0])
    return Worker(torch.device("cuda", wanted[0]))


def limit_threads(worker: Worker, flops_per_step: float) -> None:
    """On a CPU, use no more threads than the work of a step is worth; OMP_NUM_THREADS set by the user holds.

    Threads meet several times in every layer. Where a step is short, they wait longer than they work, and where
    another program wants the same cores, all of them wait for the one that has to share: a small network is then tens
    of times slower with two threads than with one.
    """
    if worker.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(max(1, min(_all_threads(), int(flops_per_step // FLOPS_PER_THREAD))))


@cache
def _all_threads() -> int:
    """What torch found at its start, before any run here took less."""
    import torch

    return torch.get_num_threads()


def _gpu_numbers(text: str) -> list[int]:
    if text.strip().lower() in ("", "none", "cpu"):
        return []
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = [-1]
    if min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise UsageError(f"--gpus {text}: must be numbers of GPUs, each once, such as 0 or 0,1,3")
    return numbers


def _keep_freed_memory() -> None:
    """Tell glibc to keep what is freed: giving large tensors back to the system and faulting them in again at every
    step costs convolutional networks up to a third of their time on a CPU."""
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library, without the setting
    m_trim_threshold, m_mmap_threshold, m_mmap_max = -1, -3, -4
    mallopt(m_trim_threshold, 2 ** 31 - 1)
    mallopt(m_mmap_threshold, 2 ** 30)
    mallopt(m_mmap_max, 0)
