"""Which cores this process may use, and how many of them other programs leave free. Without torch.

Three things limit a process: its affinity, the CPU quota of its container (cgroups 1 and 2), and other
programs on the same cores. Linux reports all three; elsewhere only the number of cores is known, and a probe
measures what others take.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

#: share of a core below which others are ignored: services, timers and the kernel's own work
_NEGLIGIBLE = 0.2
#: shortest time between two looks at the machine's load, in seconds: the kernel counts in hundredths
_SHORTEST_LOOK_S = 0.3
#: how long each core is tried, in seconds: several turns of a scheduler that shares it
_PROBE_S = 0.02
#: what one thread hashes at a time; large enough that hashlib releases the interpreter's lock
_BLOCK = bytes(1 << 18)


@dataclass(frozen=True)
class _Load:
    """What the cores had done by the time `at`: seconds of work of all processes, and of this one."""

    at: float
    busy_s: float
    own_s: float


#: the look that `taken` compares with; None before `watch`
_first_look: _Load | None = None


def affinity() -> set[int]:
    """Return the numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def num_usable() -> int:
    """Return how many cores this process may use: its affinity, and whole cores of its container's quota."""
    count = len(affinity())
    limit = quota()
    return count if limit is None else max(1, min(count, int(limit)))


def num_free(num_cores: int, usable: int, taken: float) -> int:
    """Return on how many of `usable` cores to compute where others take `taken` of the `num_cores` there are.

    The threads of a step wait for each other: one on a core that it shares makes all as slow as itself. So a
    core is left out where others take a larger part of it than would be lost without it. At least 1.
    """
    whole, part = divmod(max(taken, 0.0), 1)
    left_out = int(whole) + (part > max(1 / num_cores, _NEGLIGIBLE))
    return max(1, min(usable, num_cores - left_out))


class Watch:
    """What other programs compute on this process's cores, from one look to the next."""

    def __init__(self) -> None:
        self._last = _look()

    def taken(self, shortest_s: float) -> float | None:
        """Return how many cores others have used since the last answer, on average; takes a tenth of a ms.

        None where the last answer is less than `shortest_s` seconds old, and where the system does not say.
        """
        if self._last is None or time.monotonic() - self._last.at < shortest_s:
            return None
        # each answer is about the time since the one before
        last, self._last = self._last, _look()
        return _others(last, self._last) if self._last else None


def watch() -> None:
    """Begin to watch what others compute: `taken` is about the time from here on. Takes a tenth of a ms."""
    global _first_look
    _first_look = _look()


def taken() -> float:
    """Return how many of this process's cores others use: those that they used since `watch` and still use.

    Work that has ended by now does not count, and work that began a moment ago does not either.
    """
    since_then, now = _first_look, _look()
    load = math.inf
    if since_then and now and now.at - since_then.at >= _SHORTEST_LOOK_S:
        load = _others(since_then, now)
    # On an idle machine the load is enough. Else up to three probes, until one finds the cores free.
    for _ in range(3):
        if load <= _NEGLIGIBLE:
            break
        load = min(load, _probe(len(affinity())))
    return load


def quota(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """Return how many cores' time the container may use; None where no limit is set or none can be read."""
    quotas: list[float] = []
    with contextlib.suppress(OSError):
        for line in membership.read_text(encoding="utf-8", errors="replace").splitlines():
            _, controllers, path = line.split(":", 2)
            # version 2 has one tree and no names, version 1 one below each controller; inside a container the
            # path may be the host's, and the limit at the root
            tree = root if not controllers else root / "cpu" if "cpu" in controllers.split(",") else None
            group = Path(path.lstrip("/"))
            if tree and ".." not in group.parts:
                quotas += filter(None, (_quota_of(tree / folder) for folder in (group, *group.parents)))
    return min(quotas, default=None)


def _quota_of(folder: Path) -> float | None:
    """Return the limit of one group in cores; None where it has none."""
    with contextlib.suppress(OSError, ValueError):
        limit, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        return None if limit == "max" else int(limit) / int(period)
    with contextlib.suppress(OSError, ValueError):
        limit = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        # -1 for no limit
        return limit / int((folder / "cpu.cfs_period_us").read_text(encoding="ascii")) if limit > 0 else None
    return None


def _others(before: _Load, after: _Load) -> float:
    """Return how many cores others have used between two looks."""
    others_s = after.busy_s - before.busy_s - (after.own_s - before.own_s)
    return max(others_s, 0.0) / max(after.at - before.at, 1e-9)


def _look() -> _Load | None:
    """Return what this process's cores have done so far; None where the system does not tell."""
    names = {f"cpu{number}" for number in affinity()}
    try:
        lines = [line.split() for line in Path("/proc/stat").read_text(encoding="ascii").splitlines()]
        # user, nice, system, irq, softirq, steal (what the host of a virtual machine gave to others)
        ticks = sum(int(fields[column]) for fields in lines if fields and fields[0] in names
                    for column in (1, 2, 3, 6, 7, 8))
        ticks_per_s = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None
    return _Load(time.monotonic(), ticks / ticks_per_s, time.process_time()) if ticks else None


def _probe(num_cores: int) -> float:
    """Return how many of the cores others take now: one thread for each core measures its share of it."""
    shares: list[float] = []

    def compute() -> None:
        begun, computed = time.perf_counter(), time.thread_time()
        while time.perf_counter() - begun < _PROBE_S:
            hashlib.sha256(_BLOCK)
        shares.append((time.thread_time() - computed) / (time.perf_counter() - begun))

    threads = [threading.Thread(target=compute, daemon=True) for _ in range(num_cores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # another program that had a core to itself now shares it with our thread, half and half
    return 2 * (num_cores - sum(shares))
