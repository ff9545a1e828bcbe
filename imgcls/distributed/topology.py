"""Which processes train together, and which device this one has: from `gpus`, `kv_store` and the environment.

`resolve_topology` needs no torch: a command calls it before anything is loaded, and starts the processes that
are missing (`imgcls.launch.agent`). `make_worker` and `join_process_group` then make the Worker that training
uses. Nothing here starts a process.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgcls.config.flags import shortened, to_integer
from imgcls.config.sections import MAX_PROCESSES, DeviceConfig, DistributedConfig
from imgcls.distributed import kv_store, rank_info
from imgcls.distributed.addresses import split_endpoint
from imgcls.distributed.rank_info import RankInfo
from imgcls.errors import UsageError

if TYPE_CHECKING:
    from imgcls.distributed.process_group import Worker


@dataclass(frozen=True)
class Topology:
    """The processes of one command, as far as they are known without torch."""

    #: GPU numbers of this host, none for the CPU
    gpus: tuple[int, ...]
    #: how gradients are shared
    store: kv_store.Store
    #: this process among those that a launcher has started; None without a launcher
    rank_info: RankInfo | None
    #: processes that share one `batch_size`
    num_devices: int
    #: processes to start on this host, 0 to train in this one
    num_to_start: int

    @property
    def is_async(self) -> bool:
        """Whether every worker trains at its own pace (dist_async), which takes more than one."""
        return self.store.mode == "async" and self.rank_info is not None and self.rank_info.world_size > 1


def resolve_topology(device: DeviceConfig, distributed: DistributedConfig,
                     gpus_per_copy: int = 1) -> Topology:
    """Return the Topology of the settings and the environment; UsageError where they contradict each other.

    `gpus_per_copy` is `model_parallel`, the GPUs that one copy of the network is spread over. Needs no torch;
    whether the GPUs exist is not checked here.
    """
    gpus = tuple(gpu_numbers(device.gpus))
    store = kv_store.parse(distributed.kv_store)
    if distributed.rdzv_endpoint:
        split_endpoint(distributed.rdzv_endpoint)  # a wrong one is an error even where it would not be used
    info = rank_info.detect()
    if gpus and distributed.workers_per_host > 1:
        raise UsageError(f"`workers_per_host` {distributed.workers_per_host}: is for the CPU; "
                         f"`gpus` {device.gpus} has a process for each GPU already")
    # a process for each copy of the network, which `model_parallel` spreads over several GPUs
    num_copies = max(len(gpus) // gpus_per_copy, 1)
    num_devices = num_copies if gpus else distributed.workers_per_host
    if info is None:
        # one process, too, needs an agent where it is to be restarted or others are on other hosts
        several = num_devices > 1 or distributed.nnodes != "1" or distributed.max_restarts > 0
        return Topology(gpus, store, None, num_devices, num_devices if several else 0)
    if info.role == "worker" and gpus and info.local_world_size > num_copies:
        each = "GPU" if gpus_per_copy == 1 else f"{gpus_per_copy} GPUs"
        raise UsageError(f"`gpus` {device.gpus}: {info.local_world_size} processes run on this machine, each "
                         f"needs its own {each}")
    # MXNet's variables say nothing of the processes of one host: which GPU would this one take?
    if info.rank < 0 and num_devices > 1:
        raise UsageError(f"`gpus` {device.gpus or '(CPU)'}: a worker that DMLC_ROLE describes has one "
                         "device; start with imgcls-launch for several")
    # processes in another number than the devices that are named are workers of one device each
    return Topology(gpus, store, info, num_devices if info.local_world_size % num_devices == 0 else 1, 0)


def gpu_numbers(text: str) -> list[int]:
    """Return [0, 1, 3] for "0,1,3" and [] for the CPU; UsageError for anything else. Touches no device."""
    if text.strip().lower() in ("", "none", "cpu"):
        return []
    try:
        numbers = [to_integer(number) for number in text.split(",")]
    except ValueError:
        numbers = [-1]
    if min(numbers) < 0 or max(numbers) >= MAX_PROCESSES or len(set(numbers)) < len(numbers):
        raise UsageError(f"`gpus` {shortened(text)}: must be numbers of GPUs, each once, such as 0 or 0,1,3")
    return numbers


# ---- with torch, which is imported where it is needed: `--help` and wrong flags must not wait for it


def check_gpus(text: str, gpus: tuple[int, ...]) -> None:
    """Raise UsageError for a GPU that this machine does not have; `text` is `gpus` as the user gave it."""
    import torch

    if not torch.cuda.is_available():
        build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        raise UsageError(f"`gpus` {text}: no GPU was found on this machine (torch {torch.__version__} is "
                         f"built {build}); leave `gpus` out to run on the CPU")
    for number in gpus:
        if number >= torch.cuda.device_count():
            raise UsageError(f"`gpus` {text}: there is no GPU {number}; this machine has "
                             f"{', '.join(map(str, range(torch.cuda.device_count())))}")


def make_worker(device: DeviceConfig, topology: Topology | None = None) -> Worker:
    """Return the Worker on the device that `gpus` asks for, not yet joined with the others.

    UsageError for a device that this machine does not have. Without a topology there is one process and one
    device.
    """
    import torch

    from imgcls.distributed import cpu_threads
    from imgcls.distributed.process_group import Worker

    gpus = topology.gpus if topology else tuple(gpu_numbers(device.gpus))
    if topology is None and len(gpus) > 1:
        raise UsageError(f"`gpus` {device.gpus}: this command works on one device; give one of them")
    info = topology.rank_info if topology else None
    local_rank, local_world_size = (info.local_rank, info.local_world_size) if info else (0, 1)
    threads = None
    if gpus:
        check_gpus(device.gpus, gpus)
        # the first GPU of this process's copy; a process without a launcher has the first of all
        chosen = torch.device("cuda", gpus[local_rank * (len(gpus) // local_world_size) if info else 0])
        # what torch allocates without naming a device, such as NCCL's buffers, goes there, too
        torch.cuda.set_device(chosen)
    else:
        cpu_threads.keep_freed_memory()
        threads = cpu_threads.choose(device.num_threads, local_world_size)
        torch.set_num_threads(threads.num)
        chosen = torch.device("cpu")
    worker = Worker(chosen, local_rank=local_rank, local_world_size=local_world_size, rank_info=info,
                    threads=threads)
    if info:
        worker.rank = max(info.rank, 0)  # -1 until the rendezvous hands the ranks out
        worker.world_size = info.world_size
    return worker


def join_process_group(worker: Worker, topology: Topology, timeout_s: float) -> None:
    """Meet the other processes and set the worker's rank; LostContact when they are late."""
    from imgcls.distributed import process_group

    info = topology.rank_info
    if info is None or worker.world_size == 1:
        return
    worker.rank = process_group.rendezvous(info, worker.device, timeout_s)
    if info.rank < 0:  # MXNet's scheduler waits until every worker has said that it is done
        worker.on_exit = lambda: process_group.report_done(info, timeout_s)
    # only now: the rendezvous itself is synchronous, whatever training is
    worker.is_async = topology.is_async
    worker.num_workers = max(worker.world_size // topology.num_devices, 1) if topology.store.per_worker else 1


def serve_mxnet_role(info: RankInfo, timeout_s: float, name: str) -> int:
    """Do the work of MXNet's scheduler or server, and return 0; `name` is the command's, for messages.

    The scheduler serves the store where workers meet. A server has nothing to do: gradients are summed by
    all-reduce, and dist_async's servers are started beside the workers.
    """
    from imgcls.distributed import process_group

    if info.role == "scheduler":
        process_group.serve_rendezvous(info, timeout_s)
    else:
        print(f"{name}: note: DMLC_ROLE=server: nothing to do, the workers need no server process",
              file=sys.stderr)
    return 0
