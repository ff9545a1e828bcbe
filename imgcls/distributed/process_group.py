"""This process among the others: its device, its rank, and what all of them agree on.

A Worker is asked in every case; alone it answers at once. What is agreed on (sums of metrics, requests to stop, a
checkpoint) goes over a gloo group on the CPU, whatever the gradients go over.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch

from imgcls.distributed.rank_info import Place, host_name
from imgcls.errors import RunError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

#: what torch's back ends say when it is another process that is gone
_LOST = re.compile(r"gloo|NCCL|ncclUnhandled|Connection (closed|reset|refused)|Broken pipe|Timed out waiting|"
                   r"recvBytes|sendBytes|TCPStore|socket|ProcessGroup", re.IGNORECASE)
_REASON = re.compile(r"Connection (closed|reset) by peer \[[^]]*\]|Timed out waiting [^.]*|Connection refused|"
                     r"Broken pipe", re.IGNORECASE)

#: whether this process has met others
joined = False


class LostContact(RunError):
    """Another process of the job is gone or does not answer; what it died of is for that one to say."""


@dataclass
class Worker:
    """This process among `world`: `rank` 0 writes the files and the log.

    With `apart` every process trains by itself (dist_async) and nothing is agreed on.
    """

    device: torch.device
    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    #: how many of MXNet's workers there are: each has a batch of --batch-size, shared by its devices
    workers: int = 1
    apart: bool = False
    place: Place | None = None
    #: called when this process leaves
    farewell: Callable[[], None] = lambda: None
    _pending: Any = field(default=None, repr=False)

    @property
    def together(self) -> bool:
        """Whether there are other processes that take the same steps."""
        return self.world > 1 and not self.apart

    @property
    def description(self) -> str:
        """Of the device, for people."""
        if self.device.type == "cuda":
            return f"{self.device} ({torch.cuda.get_device_name(self.device)})"
        count = torch.get_num_threads()
        return f"cpu ({count} thread{'s' * (count > 1)})"

    def sum(self, values: Sequence[float]) -> list[float]:
        """The float64 sums over all processes of numbers that each of them has."""
        if not self.together or not values:
            return list(values)
        import torch.distributed as dist

        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def gather(self, value: float) -> list[float]:
        """The number that each process has, by rank."""
        return self.sum([value if rank == self.rank else 0.0 for rank in range(self.world)])

    def all_reduce_max(self, request: int) -> int:
        """Return the largest request (0: none) of all processes at the call before this one, the same for all of them.

        One call late, so that no step waits for it: by then everybody has answered long since.
        """
        if not self.together:
            return request
        import torch.distributed as dist

        before, requests = self._pending, torch.tensor([request], dtype=torch.int32)
        self._pending = (dist.all_reduce(requests, dist.ReduceOp.MAX, async_op=True), requests)
        if before is None:
            return 0
        before[0].wait()
        return int(before[1])

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.sum([0.0])

    def broadcast(self, data: bytes | None, source: int) -> bytes:
        """The bytes that process `source` has, for all."""
        if not self.together:
            return data or b""
        import torch.distributed as dist

        mine = data if self.rank == source and data is not None else b""
        content = torch.empty(int(self.sum([float(len(mine))])[0]), dtype=torch.uint8)
        if self.rank == source:
            content.copy_(torch.frombuffer(bytearray(mine), dtype=torch.uint8))
        dist.broadcast(content, source)
        return content.numpy().tobytes()

    def average(self, tensors: Sequence[Tensor], weight: float) -> None:
        """In place: the sum over all processes of `weight` times each tensor, in one message."""
        import torch.distributed as dist

        flat = torch.cat([tensor.flatten() for tensor in tensors]) * weight
        dist.all_reduce(flat)
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Around what talks to the others: a process that is gone is a LostContact, not a traceback."""
        if self.world == 1:
            yield
            return
        try:
            yield
        except RuntimeError as error:  # torch's own errors of this kind have no better class in all back ends
            if isinstance(error, RunError) or not _LOST.search(str(error)):
                raise
            found = _REASON.search(str(error))
            text = found[0] if found else str(error).splitlines()[0]
            raise LostContact(f"rank {self.rank} ({host_name()}): lost contact with another process ({text})"
                              ) from error

    def close(self) -> None:
        """Leave the group; the others may stay."""
        import torch.distributed as dist

        self._pending = None
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
        if self.place and self.place.file and not self.rank:
            with contextlib.suppress(OSError):
                os.unlink(self.place.file)
        self.farewell()


def join(place: Place, device: torch.device, seconds: float) -> int:
    """Meet the other processes of the job and return this one's rank; RunError when they do not come in time."""
    import torch.distributed as dist

    global joined
    joined = True
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):  # MXNet's name for the network card to use
        if os.environ.get("DMLC_INTERFACE"):
            os.environ.setdefault(variable, os.environ["DMLC_INTERFACE"])
    timeout = timedelta(seconds=seconds)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    where = place.file or f"{place.address}:{place.port}"
    try:
        if place.rank >= 0 and "RANK" in os.environ:
            dist.init_process_group(backend, timeout=timeout)
            return place.rank
        store, rank = _store(place, timeout)
        dist.init_process_group(backend, store=store, rank=rank, world_size=place.world, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        raise LostContact(f"the {place.world} processes of the job did not meet at {where} within {seconds:g} s "
                          f"({str(error).splitlines()[0]})") from error
    return rank


def _store(place: Place, timeout: timedelta) -> tuple[Any, int]:
    """The store where the processes meet, and this one's rank."""
    import torch.distributed as dist

    if place.file:
        return dist.FileStore(place.file, place.world), place.rank
    store = dist.TCPStore(place.address, place.port, None, is_master=place.rank == 0 and not place.kept,
                          timeout=timeout, wait_for_workers=False)
    if place.rank >= 0:
        return store, place.rank
    rank = store.add("imgcls/workers", 1) - 1  # MXNet's scheduler, too, hands out ranks in the order of arrival
    if rank >= place.world:
        raise UsageError(f"DMLC_NUM_WORKER={place.world}: there are more workers than that, or an earlier job still "
                         f"uses {place.address}:{place.port}")
    return dist.PrefixStore("imgcls", store), rank


def keep_meeting_place(place: Place, seconds: float) -> None:
    """MXNet's scheduler: keep the store at DMLC_PS_ROOT_URI until every worker has said that it is done."""
    import time

    import torch.distributed as dist

    try:
        store = dist.TCPStore(place.address, place.port, None, is_master=True, timeout=timedelta(seconds=seconds),
                              wait_for_workers=False)
    except RuntimeError as error:
        raise RunError(f"DMLC_PS_ROOT_URI={place.address}, DMLC_PS_ROOT_PORT={place.port}: cannot listen there "
                       f"({str(error).splitlines()[0]})") from error
    while store.add("imgcls/done", 0) < place.world:
        time.sleep(0.2)
    time.sleep(1.0)  # the last one is still leaving


def say_done(place: Place, seconds: float) -> None:
    """Tell MXNet's scheduler that this worker has ended, well or not."""
    import torch.distributed as dist

    with contextlib.suppress(RuntimeError):
        dist.TCPStore(place.address, place.port, None, is_master=False, timeout=timedelta(seconds=min(seconds, 10)),
                      wait_for_workers=False).add("imgcls/done", 1)
