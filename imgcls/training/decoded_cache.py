"""Give the loaders of a run a cache of decoded images: one copy for all processes of a machine.

It is in memory, or on a disk where the next run finds it (`decoded_cache_dir`). The first process of a
machine makes it and the others open it; they exchange numbers to find out which is the first. Where any of
this fails, images are decoded in every epoch as without a cache, to the same pixels.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeGuard

from imgcls.data.decoded import tables
from imgcls.data.decoded.segment import HEADER_BYTES, Address, Segment, is_available, machine_id
from imgcls.data.loaders.batch import Loader
from imgcls.distributed.process_group import Worker
from imgcls.errors import RunError, UsageError, verbatim
from imgcls.storage import memory
from imgcls.training import decoded_folder

if TYPE_CHECKING:
    from imgcls.data.loaders.streaming import StreamingLoader

#: the part of the free memory or disk that is taken where the user gave no number
DEFAULT_SHARE = 0.5
#: the part of it that validation may take at most
_VAL_SHARE = 0.5

_log = logging.getLogger(__name__)


def attach(limit_gb: float | None, train: Loader, val: Loader | None, worker: Worker,
           folder: str = "") -> None:
    """Let `train` and `val` keep what they decode within `limit_gb` (None: half of what is free), in `folder`
    or, if that is "", in memory; and say so in their notes. Called by all processes at the same time.

    UsageError and RunError for a folder that cannot be used.
    """
    if folder:
        folder = decoded_folder.check(folder)
    loaders = [loader for loader in (val, train) if _keeps(loader)]
    if folder and train not in loaders and not worker.rank:
        _log.warning("`decoded_cache_dir`: no training images are kept there: they are in memory already, or "
                     "read in chunks")
    if limit_gb == 0 or not loaders:
        return
    if not is_available():
        # a cache in memory is only a default and is left out in silence; a folder was requested
        if folder:
            raise UsageError("`decoded_cache_dir`: is for Linux")
        return
    group = _Machine(worker)
    on_disk = decoded_folder.Folder(folder, limit_gb, DEFAULT_SHARE) if folder else None
    budget = int(group.from_leader(_budget(limit_gb)))
    for loader in loaders:
        # All take part in each exchange of numbers, in the same order:
        # rank 0 alone evaluates where every worker trains by itself
        users = _Machine(worker, is_alone=True) if worker.is_async and loader is val else group
        share = 1.0 if loader is train or len(loaders) == 1 else _VAL_SHARE
        # Machines may differ in what they can keep, and yet all processes take part in the same exchanges:
        # nothing below returns before the last of them.
        is_on_disk = on_disk is not None and _keep_on_disk(loader, on_disk, share, users)
        # validation comes first, and leaves half at least
        room = 0 if is_on_disk else int(budget * share)
        budget -= _keep_in_memory(loader, room, limit_gb, users, is_last=loader is train)


def _keep_in_memory(loader: StreamingLoader, room: int, limit_gb: float | None, users: _Machine, *,
                    is_last: bool) -> int:
    """Give a loader memory, at most `room` bytes; return how many."""
    table_bytes, sample_bytes = loader.kept_bytes()
    # the leader's number in all processes: one may have failed to read a header
    sample_bytes = int(users.from_leader(float(sample_bytes)))
    needed = table_bytes + sample_bytes * len(loader.source)
    # more than it needs costs nothing: pages are taken when they are written
    size = int(users.from_leader(float(room if is_last else min(needed, room))))
    # nothing where not even one image fits, and for records of pixels, which need no decoding
    segment = _share(size if sample_bytes and size >= table_bytes + sample_bytes else 0, users)
    if segment is None:
        return 0
    loader.keep_in(segment)
    source = "half of the free memory" if limit_gb is None else "`decoded_cache_gb`"
    _note(loader, _describe("in memory", size, needed, source))
    return size


def _keep_on_disk(loader: StreamingLoader, folder: decoded_folder.Folder, share: float,
                  users: _Machine) -> bool:
    """Let a loader keep its images in `folder`, with what an earlier run left there; False if it cannot."""
    table_bytes, sample_bytes = loader.disk_table_bytes()[0], loader.kept_bytes()[1]
    sample_bytes = int(users.from_leader(float(sample_bytes)))
    # and a little more than the images take
    needed = sample_bytes * len(loader.source) + HEADER_BYTES
    kept = None
    segment = None
    # one process does all that may fail, and sends the others the result
    if users.is_leader and sample_bytes:
        try:
            kept = folder.open_kept(loader, share, needed)
            segment = Segment.create(table_bytes)
        except RunError as error:
            _log.warning("%s; what is decoded is kept in memory", error)
            kept = None
    limit = int(users.from_leader(float(kept.limit if kept and segment else 0)))
    # the tables are in memory that all share; the process that has the lock saves them
    segment = _open_shared(segment if limit else None, table_bytes, users)
    if kept and segment:
        num_before = kept.begin(loader, segment)
        _note(loader, _describe(f"in {verbatim(folder.path)}", limit, needed, folder.source) + (
            f", {num_before} of {len(loader.source)} images are there from before" if num_before else ""))
    # the others find in the segment which file it is, and what is there from before
    users.barrier()
    if segment and not kept:
        decoded_folder.join(loader, folder.path, segment, limit)
    users.barrier()
    return limit > 0


def save() -> None:
    """Save what was decoded since the last save, where the cache is on a disk; called at the end of a run.

    Called by all processes, and not left to the exit of Python: processes of a group leave without it.
    """
    tables.save_all()


class _Machine:
    """The processes of this machine that share what is kept; `leader` is the first of them."""

    def __init__(self, worker: Worker, *, is_alone: bool = False) -> None:
        """Called by all of them, unless this one `is_alone`."""
        self._worker = worker
        self._is_alone = is_alone or worker.world_size == 1
        self._leader = worker.rank
        if not self._is_alone:
            machines = worker.gather_at_start(float(machine_id()))
            self._leader = machines.index(machines[worker.rank])

    @property
    def is_leader(self) -> bool:
        return self._leader == self._worker.rank

    @property
    def leader(self) -> int:
        return self._leader

    @property
    def rank(self) -> int:
        return self._worker.rank

    def from_leader(self, value: float) -> float:
        """Return the value that the leader has."""
        return value if self._is_alone else self._worker.gather_at_start(value)[self._leader]

    def barrier(self) -> None:
        """Wait until all are here."""
        self.from_leader(0.0)


def _keeps(loader: Loader | None) -> TypeGuard[StreamingLoader]:
    # by an attribute and not by its class, whose import would load OpenCV for data that needs none
    return bool(getattr(loader, "can_keep", False))


def _budget(limit_gb: float | None) -> float:
    """Return the bytes of memory that may be taken."""
    available = memory.available_bytes() or 0
    return available * DEFAULT_SHARE if limit_gb is None else limit_gb * 1e9


def _share(size: int, users: _Machine) -> Segment | None:
    """Return memory that the processes of this machine have in common; None where there is none."""
    segment = None
    if users.is_leader and size:
        try:
            segment = Segment.create(size)
        except RunError as error:
            _log.warning("nothing is kept decoded: %s", error)
    segment = _open_shared(segment, size, users)
    users.barrier()  # the first process stays until all have opened it
    return segment


def _open_shared(segment: Segment | None, size: int, users: _Machine) -> Segment | None:
    """Return the leader's segment, in all processes of the machine; None where it cannot be opened."""
    address = Address(*(int(users.from_leader(float(number)))
                        for number in (segment.address if segment else (0, 0, 0))))
    if not users.is_leader and address.token:
        segment = Segment.attach(address, size)
        if segment is None:
            _log.warning("rank %d: cannot open the memory of rank %d, and keeps nothing decoded", users.rank,
                         users.leader)
    return segment


def _note(loader: Loader, text: str) -> None:
    loader.note = ", ".join(filter(None, (loader.note, text)))


def _describe(place: str, size: int, needed: int, source: str) -> str:
    if needed <= size:
        # first what they take: for a small folder the limit alone would look like what is needed
        takes = f"about {max(needed / 1e6, 1):,.0f} MB"
        # validation is given no more than it needs
        limit = f" of at most {_bytes(size)}, {source}" if size > needed else ""
        return f"decoded once and kept {place} ({takes}{limit})"
    return (f"decoded once and kept {place} as far as {_bytes(size)} go ({source}): about "
            f"{size / needed:.0%} of them, all would take {_bytes(needed)}")


def _bytes(size: float) -> str:
    """Return a size for people: in GB, the unit of the limits, from a tenth of one on."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor / 10:
            value = size / factor
            return f"{value:,.0f} {unit}" if value >= 999.5 else f"{value:.3g} {unit}"
    return f"{size:.0f} bytes"
