"""This process among the others: its device, its rank, and what they all compute together.

A run has a Worker whether or not there are other processes; alone, its methods return at once. Sums of
metrics, stop requests and checkpoints go over a gloo group on the CPU, whatever the gradients go over.
`topology` makes and joins Workers, the trainer calls them. What is trained does not matter here.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from imgcls.distributed import addresses, cpu_threads, stores
from imgcls.distributed.rank_info import RankInfo, host_name
from imgcls.errors import RunError, UsageError, first_line

# torch's errors of this kind have no class of their own: by its text one means that another process is gone,
_LOST_PEER = re.compile(
    r"gloo|NCCL|ncclUnhandled|Connection (closed|reset|refused)|Broken pipe|Timed out waiting|"
    r"pair closure|Operation timed out|No route to host|Network is (down|unreachable)|"
    r"recvBytes|sendBytes|TCPStore|socket|ProcessGroup", re.IGNORECASE)
# and this part of the text is worth repeating to a user
_REASON = re.compile(
    r"Connection (closed|reset) by peer \[[^]]*\]|Timed out waiting [^.\n]*|Connection refused|Broken pipe|"
    r"Application timeout",
    re.IGNORECASE)

#: set when this process joins others and never cleared: threads of gloo may outlive the process group
_joined = threading.Event()


def has_joined() -> bool:
    """Return whether this process has ever joined others, or tried to."""
    return _joined.is_set()


class LostContact(RunError):
    """Another process of the job is gone or does not answer; why it ended, it reports itself."""


@dataclass
class Worker:
    """This process among `world_size`: `rank` 0 writes the files and the log.

    With `is_async` every process trains at its own pace (dist_async) and nothing is computed together.
    """

    #: where this process computes
    device: torch.device
    rank: int = 0
    world_size: int = 1
    #: among the processes of this host, which share its cores
    local_rank: int = 0
    local_world_size: int = 1
    #: how many of MXNet's workers there are: each has a batch of `batch_size`, shared by its devices
    num_workers: int = 1
    #: whether the gradients go to a server (dist_async) and not to the other workers
    is_async: bool = False
    #: what the launcher said, None for a process alone
    rank_info: RankInfo | None = None
    #: the CPU threads it computes with; None until they are chosen, and on a GPU
    threads: cpu_threads.Choice | None = None
    #: called when this process leaves
    on_exit: Callable[[], None] = lambda: None
    #: the collective of `all_reduce_max` that is under way, and the tensor that will hold its result
    _pending: tuple[dist.Work, Tensor] | None = field(default=None, repr=False)

    @property
    def is_synchronous(self) -> bool:
        """Whether there are other processes that take the same steps."""
        return self.world_size > 1 and not self.is_async

    @property
    def num_threads(self) -> int:
        """The CPU threads that it computes with; 0 on a GPU."""
        return torch.get_num_threads() if self.device.type == "cpu" else 0

    def limit_threads(self, flops_per_step: float, num_saved: int = 0) -> str:
        """Use no more CPU threads than a step is worth, or those of the checkpoint; return `limit`'s note."""
        if self.threads is None:
            return ""
        self.threads, note = cpu_threads.limit(self.threads, flops_per_step, num_saved)
        torch.set_num_threads(self.threads.num)
        return note

    @property
    def description(self) -> str:
        """The device, for people: "cuda:0 (its name)", "cpu (2 threads)", "cpu (1 thread: the reason)"."""
        if self.device.type == "cuda":
            return f"{self.device} ({torch.cuda.get_device_name(self.device)})"
        count = self.num_threads
        reason = f": {self.threads.reason}" if self.threads and self.threads.reason else ""
        return f"cpu ({count} thread{'s' if count > 1 else ''}{reason})"

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the float64 sums over all processes of numbers that each of them has."""
        if not self.is_synchronous or not values:
            return list(values)
        # float64: counts of samples stay whole numbers, and sums of losses keep what float32 would round away
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def gather(self, value: float) -> list[float]:
        """Return the number that each process has, by rank."""
        # each fills one place of a vector of zeros, so that the sum is the gather
        return self.sum([value if rank == self.rank else 0.0 for rank in range(self.world_size)])

    def gather_at_start(self, value: float) -> list[float]:
        """Return the number that each process has, by rank; of dist_async's workers as well.

        Those are together before they train, and never again.
        """
        total = torch.tensor([value if rank == self.rank else 0.0 for rank in range(self.world_size)],
                             dtype=torch.float64)
        # the process group is there for dist_async as well: the workers met in it
        if self.world_size > 1:
            dist.all_reduce(total)
        return total.tolist()

    def all_reduce_max(self, stop_request: int) -> int:
        """Return the largest stop request (0: none) of all processes at the call before this one.

        The answer is the same in all of them.
        """
        # One call late, so that no step waits for it: by then all processes have answered.
        if not self.is_synchronous:
            return stop_request
        previous = self._pending
        largest = torch.tensor([stop_request], dtype=torch.int32)
        work = dist.all_reduce(largest, dist.ReduceOp.MAX, async_op=True)
        assert work is not None
        self._pending = (work, largest)
        if previous is None:
            return 0
        previous[0].wait()
        return int(previous[1])

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.sum([0.0])

    def broadcast(self, data: bytes | None, source: int) -> bytes:
        """Return, in all processes, the `data` of process `source`; that of the others is ignored.

        Where nothing is computed together (one process, or dist_async), return this one's own `data`.
        """
        if not self.is_synchronous:
            return data or b""
        mine = data if self.rank == source and data is not None else b""
        # the others do not know the size; only one process has any bytes, so the sum is the size
        content = torch.empty(int(self.sum([float(len(mine))])[0]), dtype=torch.uint8)
        if self.rank == source:
            content.copy_(torch.frombuffer(bytearray(mine), dtype=torch.uint8))
        dist.broadcast(content, source)
        return content.numpy().tobytes()

    def average(self, tensors: Sequence[Tensor], weight: float) -> None:
        """Replace each tensor by the sum over all processes of `weight` times it, in one message."""
        # statistics are many small vectors: what a message costs is the wait, not its size
        flat = torch.cat([tensor.flatten() for tensor in tensors]) * weight
        dist.all_reduce(flat)
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Turn torch's error about a process that is gone into a LostContact."""
        if self.world_size == 1:
            yield
            return
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, RunError) or not _LOST_PEER.search(str(error)):
                raise
            match = _REASON.search(str(error))
            text = match[0] if match else first_line(error)
            raise LostContact(f"rank {self.rank} ({host_name()}): lost contact with another process ({text})"
                              ) from error

    def close(self) -> None:
        """Leave the group; the others may stay."""
        self._pending = None
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
        # the file where processes of mpirun and srun met has no one else to remove it
        if self.rank_info and self.rank_info.file and not self.rank:
            with contextlib.suppress(OSError):
                os.unlink(self.rank_info.file)
        self.on_exit()


def rendezvous(info: RankInfo, device: torch.device, timeout_s: float) -> int:
    """Meet the other processes and return this one's rank; LostContact when they are late or silent.

    UsageError where there are more workers than DMLC_NUM_WORKER says.
    """
    _joined.set()
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):  # MXNet's name for the network card to use
        if os.environ.get("DMLC_INTERFACE"):
            os.environ.setdefault(variable, os.environ["DMLC_INTERFACE"])
    if _is_one_machine(info):
        addresses.stay_on_this_machine()
    try:
        # one time limit for all of it: some of the waiting inside has none
        return stores.within(timeout_s, lambda: _meet(info, device, timeout_s))
    except (RuntimeError, ValueError, OSError) as error:  # a TimeoutError is an OSError
        where = info.file or f"{info.address}:{info.port}"
        raise LostContact(f"the {info.world_size} processes of the job did not meet at {where} within "
                          f"{timeout_s:g} s ({first_line(error)})") from error


def _is_one_machine(info: RankInfo) -> bool:
    return bool(info.file) or info.local_world_size == info.world_size or addresses.is_loopback(info.address)


def _meet(info: RankInfo, device: torch.device, timeout_s: float) -> int:
    """Do the work of `rendezvous` without its time limit; called in a separate thread."""
    if device.type == "cuda":
        torch.cuda.set_device(device)  # each thread has its own
    timeout = timedelta(seconds=timeout_s)
    # gloo beside NCCL: what the processes agree on is on the CPU and must not wait for the GPU's queue
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if info.rank >= 0 and info.is_store_served and "RANK" in os.environ:
        dist.init_process_group(backend, timeout=timeout)  # torch reads an agent's variables itself
        return info.rank
    store, rank = _open_store(info, timeout_s)
    dist.init_process_group(backend, store=store, rank=rank, world_size=info.world_size, timeout=timeout)
    return rank


def _open_store(info: RankInfo, timeout_s: float) -> tuple[Any, int]:
    """Return the store where the processes meet, and this one's rank."""
    if info.file:
        return dist.FileStore(info.file, info.world_size), info.rank
    serves = info.rank == 0 and not info.is_store_served
    store = stores.open_tcp_store(info.address, info.port, timeout_s, serves=serves,
                                  is_one_machine=_is_one_machine(info))
    if info.rank >= 0:
        return store, info.rank
    # MXNet's scheduler, too, hands out ranks in the order of arrival
    rank = store.add("imgcls/workers", 1) - 1
    if rank >= info.world_size:
        raise UsageError(f"DMLC_NUM_WORKER={info.world_size}: there are more workers than that, or an "
                         f"earlier job still uses {info.address}:{info.port}")
    return dist.PrefixStore("imgcls", store), rank


def serve_rendezvous(info: RankInfo, timeout_s: float) -> None:
    """Serve the store at DMLC_PS_ROOT_URI until every worker has said that it is done: MXNet's scheduler."""
    try:
        store = stores.open_tcp_store(info.address, info.port, timeout_s, serves=True)
    except (RuntimeError, ValueError, OSError) as error:
        raise RunError(f"DMLC_PS_ROOT_URI={info.address}, DMLC_PS_ROOT_PORT={info.port}: cannot listen there "
                       f"({first_line(error)})") from error
    # polled: a wait for the key would end with the time-out, and a job may take days
    while store.add("imgcls/done", 0) < info.world_size:
        time.sleep(0.2)
    time.sleep(1.0)  # the last one is still leaving


def report_done(info: RankInfo, timeout_s: float) -> None:
    """Tell MXNet's scheduler that this worker has ended, with or without an error."""
    # a short time limit: the scheduler may be gone, and that is no failure of this worker
    timeout_s = min(timeout_s, 10)
    with contextlib.suppress(RuntimeError, OSError):
        store = stores.open_tcp_store(info.address, info.port, timeout_s)
        stores.within(timeout_s, lambda: store.add("imgcls/done", 1))
