"""How training uses a CPU: how many threads it computes with, how they wait, and that freed memory is kept.

`make_worker` chooses the number once, at the start of every command, by the cores that are free; a run then
limits it to what a step is worth, or keeps that of its checkpoint. Nothing here is about GPUs.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from dataclasses import dataclass, replace
from functools import cache

import torch

from imgcls.storage import cores

#: floating-point operations of a training step that are worth a thread: about a millisecond of one core
FLOPS_PER_THREAD = 1e8


@dataclass(frozen=True)
class Choice:
    """How many threads a process computes with, and why not with more, for the log line about its device.

    `most` are those it could have if no other program took a core. `is_by_hand`: the user has set `num`.
    """

    num: int
    most: int
    reason: str = ""
    is_by_hand: bool = False


def choose(num_threads: int, num_processes: int) -> Choice:
    """Return how many threads this process computes with, one of `num_processes` of its job on this machine.

    The user's `num_threads` decides unless it is 0, then OMP_NUM_THREADS where it is set, then the cores that
    are free. How the threads wait is left to OpenMP: they spin, which costs nothing where each has a core to
    itself.
    """
    found = _initial_num_threads()
    if num_threads:
        return Choice(num_threads, num_threads, is_by_hand=True)
    if "OMP_NUM_THREADS" in os.environ:
        return Choice(found, found, is_by_hand=True)
    usable = min(found, cores.num_usable())
    if num_processes > 1:
        # at the start, the work of the job's own processes cannot be told from that of other programs
        share = max(usable // num_processes, 1)
        return Choice(share, share, f"{num_processes} processes share {usable} cores" if usable > 1 else "")
    if usable == 1:
        return Choice(1, 1)
    taken = cores.taken()
    free = cores.num_free(len(cores.affinity()), usable, taken)
    return Choice(free, usable, f"others use {taken:.1f} of {usable} cores" if free < usable else "")


def limit(choice: Choice, flops_per_step: float, num_saved: int = 0) -> tuple[Choice, str]:
    """Return the choice for steps of so many floating-point operations, and a note for the user.

    `num_saved`, the threads of the checkpoint (0: none), are kept where the user has not set a number and
    there are cores for them; else the note says what that changes. It is "" where nothing changes.
    """
    # Threads meet several times in every layer. Where a step is short, they wait longer than they work, and
    # where another program wants the same cores, all of them wait for the one that has to share: a small
    # network is then tens of times slower with two threads than with one.
    num, reason = choice.num, choice.reason
    if num_saved and num_saved <= choice.most and not choice.is_by_hand:
        num, reason = num_saved, "as in the checkpoint" if num_saved != num else reason
    elif not choice.is_by_hand and flops_per_step // FLOPS_PER_THREAD < num:
        num, reason = max(1, int(flops_per_step // FLOPS_PER_THREAD)), "more are not worth it for short steps"
    choice = replace(choice, num=num, reason=reason)
    if num_saved in (0, num):
        return choice, ""
    plural = "s" if num_saved > 1 else ""
    return choice, (
        f"the checkpoint was trained with {num_saved} CPU thread{plural}, this run continues with {num}: "
        "sums are rounded in another order, so the weights will differ in their last digits from those of a "
        f"run that was never stopped; `num_threads` {num_saved} keeps them equal")


class ShortWaits:
    """Lets torch's threads sleep soon when they wait for each other, while it is on; results stay the same.

    They spin for milliseconds, which costs nothing where each has a core to itself and is the fastest there.
    Where another program has one of the cores, it takes the time of the thread that all wait for.
    """

    def __init__(self) -> None:
        self._end: threading.Event | None = None

    @property
    def is_on(self) -> bool:
        return self._end is not None

    def switch(self, is_on: bool) -> None:
        """Switch it on or off; nothing happens where it is so already."""
        if is_on == self.is_on:
            return
        if self._end is not None:
            self._end.set()
            self._end = None
        else:
            # libgomp has no call for it. It spins for a thousandth of the time while a process has more
            # OpenMP threads than cores: those of a second thread that has computed, and waits, are enough.
            self._end, is_ready = threading.Event(), threading.Event()
            threading.Thread(target=_hold_threads, args=(is_ready, self._end), daemon=True).start()
            is_ready.wait()


def _hold_threads(is_ready: threading.Event, end: threading.Event) -> None:
    torch.ones(1 << 20).add_(1)  # large enough for several threads
    is_ready.set()
    end.wait()


@cache
def _initial_num_threads() -> int:
    """Return the number of threads that torch chose at its start, before any run here took fewer."""
    return torch.get_num_threads()


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed; nothing happens with another C library."""
    # Giving large tensors back to the system and faulting them in again at every step costs convolutional
    # networks up to a third of their time on a CPU.
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library, without the setting
    # numbers of malloc.h
    m_trim_threshold, m_mmap_threshold, m_mmap_max = -1, -3, -4
    # keep the top of the heap, take large blocks from the heap, and so map none on their own
    mallopt(m_trim_threshold, 2 ** 31 - 1)
    mallopt(m_mmap_threshold, 2 ** 30)
    mallopt(m_mmap_max, 0)


def release_freed_memory() -> None:
    """Give back to the system what was kept; nothing happens with another C library."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
