"""Give the loaders of a run memory for decoded images: one copy for all processes of a machine.

The first process of a machine makes it, the others open it; who that is they tell each other by numbers.
Where something of this fails, images are decoded in every epoch as without it, to the same pixels.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeGuard

from imgcls.data.decoded.segment import Address, Segment, is_available, machine_id
from imgcls.data.loaders.batch import Loader
from imgcls.distributed.process_group import Worker
from imgcls.errors import RunError
from imgcls.storage import memory

if TYPE_CHECKING:
    from imgcls.data.loaders.streaming import StreamingLoader

#: of the free memory, where the user gave no number
DEFAULT_SHARE = 0.5
#: validation may take this part of it where both do not fit
_VAL_SHARE = 0.5

_log = logging.getLogger(__name__)


def attach(limit_gb: float | None, train: Loader, val: Loader | None, worker: Worker) -> None:
    """Let `train` and `val` keep what they decode within `limit_gb` (None: half of the free memory), and say
    so in their notes. Called by all processes at the same time."""
    loaders = [loader for loader in (val, train) if _keeps(loader)]
    if limit_gb == 0 or not loaders or not is_available():
        return
    leader, num_workers = _machine(worker)
    # each process that cannot share has its part
    budget = int(_first(worker, _budget(limit_gb) / num_workers, leader))
    room = budget
    for loader in loaders:
        table_bytes, sample_bytes = loader.kept_bytes()
        # the same in all: one may have failed to read a header
        sample_bytes = int(_first(worker, float(sample_bytes), leader))
        needed = table_bytes + sample_bytes * len(loader.source)
        size = room if loader is train else min(needed, int(room * _VAL_SHARE) if len(loaders) > 1 else room)
        # all processes go on together, also where one machine has no room for a single image
        segment = _share(size if size >= table_bytes + sample_bytes else 0, worker, leader)
        if segment is None:
            continue
        loader.keep_in(segment)
        room -= size
        loader.note = ", ".join(filter(None, (loader.note, _describe(size, needed, limit_gb))))


def _keeps(loader: Loader | None) -> TypeGuard[StreamingLoader]:
    # asked for by its name: to ask for the class would load OpenCV for data that needs none
    return bool(getattr(loader, "can_keep", False))


def _budget(limit_gb: float | None) -> float:
    """Return the bytes that may be taken."""
    available = memory.available_bytes() or 0
    return available * DEFAULT_SHARE if limit_gb is None else limit_gb * 1e9


def _machine(worker: Worker) -> tuple[int, int]:
    """Return the rank of the first process of this machine, and into how many parts the memory is divided."""
    if not worker.is_synchronous:  # dist_async agrees on nothing: each worker keeps its own
        return worker.rank, worker.local_world_size
    machines = worker.gather(float(machine_id()))
    return machines.index(machines[worker.rank]), 1


def _first(worker: Worker, value: float, leader: int) -> float:
    """Return the value that the first process of this machine has."""
    return worker.gather(value)[leader] if worker.is_synchronous else value


def _share(size: int, worker: Worker, leader: int) -> Segment | None:
    """Return memory that the processes of this machine have in common; None where there is none."""
    segment = None
    if worker.rank == leader and size:
        try:
            segment = Segment.create(size)
        except RunError as error:
            _log.warning("nothing is kept decoded: %s", error)
    if not worker.is_synchronous:
        return segment
    address = Address(*(int(_first(worker, float(number), leader))
                        for number in (segment.address if segment else (0, 0, 0))))
    if worker.rank != leader and address.token:
        segment = Segment.attach(address, size)
        if segment is None:
            _log.warning("rank %d: cannot open the memory of rank %d, and keeps nothing decoded", worker.rank,
                         leader)
    worker.barrier()  # the first process stays until all have opened it
    return segment


def _describe(size: int, needed: int, limit_gb: float | None) -> str:
    source = "half of the free memory" if limit_gb is None else "`decoded_cache_gb`"
    if needed <= size:
        # first what they take: of a small folder the limit alone would read like a demand
        return (f"decoded once and kept in memory (about {max(needed / 1e6, 1):,.0f} MB of at most "
                f"{size / 1e9:.3g} GB, {source})")
    return (f"decoded once and kept in memory as far as {size / 1e9:.3g} GB go ({source}): about "
            f"{size / needed:.0%} of them, all would take {needed / 1e9:.3g} GB")
