"""One process per device: which device this one has, its rank, and what all of them agree on.

The only folder that names torch.distributed. `environment` reads what a launcher said, `agent` starts the processes
of one machine, `worker` joins them, `gradients` and `exchange` (with its `server`) are the two ways of sharing what was
learned, and `stores` knows which of them MXNet's names for --kv-store mean.
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from imgcls.config.sections import DeviceConfig, DistributedConfig
from imgcls.distributed import kv_store, rank_info
from imgcls.distributed.rank_info import Place
from imgcls.errors import UsageError

if TYPE_CHECKING:
    from imgcls.distributed.process_group import Worker

#: floating-point operations of a training step that are worth a thread: about a millisecond of one core
FLOPS_PER_THREAD = 1e8


@dataclass(frozen=True)
class Team:
    """Who trains: the processes that one command means, as far as it is known without torch."""

    #: GPU numbers of this host, none for the CPU
    gpus: tuple[int, ...]
    store: kv_store.Store
    #: this process among those that somebody started already; None: nobody did
    place: Place | None
    #: processes that share one --batch-size
    devices: int
    #: processes to start on this host, 0 to train in this one
    to_start: int

    @property
    def asynchronous(self) -> bool:
        """Whether every worker goes at its own pace (dist_async), which takes more than one."""
        return self.store.mode == "async" and self.place is not None and self.place.world > 1


def gather_team(device: DeviceConfig, distributed: DistributedConfig, per_copy: int = 1) -> Team:
    """What --gpus, --kv-store and the environment mean; UsageError for what no machine could run. Needs no torch.

    `per_copy` is --model-parallel, the GPUs that one copy of the network is spread over.
    """
    gpus, store = tuple(gpu_numbers(device.gpus)), kv_store.parse(distributed.kv_store)
    place = rank_info.detect()
    if gpus and distributed.workers_per_host > 1:
        raise UsageError(f"`workers_per_host` {distributed.workers_per_host}: is for the CPU; `gpus` {device.gpus} "
                         "has a process for each GPU already")
    devices = max(len(gpus) // per_copy, 1) if gpus else distributed.workers_per_host
    if place is None:
        several = devices > 1 or distributed.nnodes != "1" or distributed.max_restarts > 0
        return Team(gpus, store, None, devices, devices if several else 0)
    if place.role == "worker" and gpus and place.local_world > max(len(gpus) // per_copy, 1):
        raise UsageError(f"`gpus` {device.gpus}: {place.local_world} processes run on this machine, each needs "
                         f"{'a GPU' if per_copy == 1 else f'{per_copy} GPUs'} of its own")
    if place.rank < 0 and devices > 1:
        raise UsageError(f"`gpus` {device.gpus or '(CPU)'}: a worker that DMLC_ROLE describes has one device; start "
                         "with imgcls-launch for several")
    return Team(gpus, store, place, devices if place.local_world % devices == 0 else 1, 0)


def choose(device: DeviceConfig, team: Team | None = None) -> Worker:
    """The Worker on the device that --gpus asks for, not joined with others yet; UsageError for a device that this
    machine has not."""
    import torch

    from imgcls.distributed.process_group import Worker

    gpus = team.gpus if team else tuple(gpu_numbers(device.gpus))
    if team is None and len(gpus) > 1:
        raise UsageError(f"`gpus` {device.gpus}: this command works on one device; give one of them")
    place = team.place if team else None
    local_rank, local_world = (place.local_rank, place.local_world) if place else (0, 1)
    if not gpus:
        _keep_freed_memory()
        chosen = torch.device("cpu")
    else:
        check_gpus(device.gpus, gpus)
        chosen = torch.device("cuda", gpus[local_rank * (len(gpus) // local_world) if place else 0])
        torch.cuda.set_device(chosen)
    worker = Worker(chosen, local_rank=local_rank, local_world=local_world, place=place)
    if place:
        worker.rank, worker.world = max(place.rank, 0), place.world
    return worker


def join(worker: Worker, team: Team, seconds: float) -> None:
    """Meet the other processes of the job, and know the rank."""
    from imgcls.distributed import process_group as workers

    if team.place is None or worker.world == 1:
        return
    worker.rank = workers.join(team.place, worker.device, seconds)
    if team.place.rank < 0:
        place = team.place
        worker.farewell = lambda: workers.say_done(place, seconds)
    worker.apart = team.asynchronous
    worker.workers = max(worker.world // team.devices, 1) if team.store.per_worker else 1


def serve_mxnet_role(place: Place, seconds: float, name: str) -> int:
    """What MXNet's scheduler and servers did: the scheduler keeps the place where workers meet, a server is not needed
    (gradients are summed by all-reduce, and dist_async's servers are started beside the workers)."""
    from imgcls.distributed import process_group as workers

    if place.role == "scheduler":
        workers.keep_meeting_place(place, seconds)
    else:
        print(f"{name}: note: DMLC_ROLE=server: nothing to do, the workers need no server process", file=sys.stderr)
    return 0


def check_gpus(text: str, gpus: tuple[int, ...]) -> None:
    """UsageError for a GPU that this machine has not."""
    import torch

    if not torch.cuda.is_available():
        built = f"torch {torch.__version__} is built for CUDA {torch.version.cuda}" if torch.version.cuda else (
            f"torch {torch.__version__} is built without CUDA")
        raise UsageError(f"`gpus` {text}: no GPU was found on this machine ({built}); "
                         "leave `gpus` out to run on the CPU")
    for number in gpus:
        if number >= torch.cuda.device_count():
            raise UsageError(f"`gpus` {text}: there is no GPU {number}; this machine has "
                             f"{', '.join(map(str, range(torch.cuda.device_count())))}")


def limit_threads(worker: Worker, flops_per_step: float) -> None:
    """On a CPU, use no more threads than the work of a step is worth; OMP_NUM_THREADS set by the user holds.

    Threads meet several times in every layer. Where a step is short, they wait longer than they work, and where
    another program wants the same cores, all of them wait for the one that has to share: a small network is then tens
    of times slower with two threads than with one. The processes of one machine share its cores.
    """
    if worker.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        import torch

        most = max(_all_threads() // worker.local_world, 1)
        torch.set_num_threads(max(1, min(most, int(flops_per_step // FLOPS_PER_THREAD))))


@cache
def _all_threads() -> int:
    """What torch found at its start, before any run here took less."""
    import torch

    return torch.get_num_threads()


def gpu_numbers(text: str) -> list[int]:
    """0,1,3 -> [0, 1, 3]; none for the CPU. UsageError for anything else; touches no device."""
    if text.strip().lower() in ("", "none", "cpu"):
        return []
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = [-1]
    if min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise UsageError(f"`gpus` {text}: must be numbers of GPUs, each once, such as 0 or 0,1,3")
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
