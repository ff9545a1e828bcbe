"""How training uses a CPU: no more threads than a step is worth, and memory that is kept.

`make_worker` and a run call this once each, before the first step. It never touches a GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from functools import cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from imgcls.distributed.process_group import Worker

#: floating-point operations of a training step that are worth a thread: about a millisecond of one core
FLOPS_PER_THREAD = 1e8


def limit_threads(worker: Worker, flops_per_step: float) -> None:
    """Use no more CPU threads than a step of so many floating-point operations is worth.

    OMP_NUM_THREADS set by the user holds. The processes of one machine share its cores.
    """
    # Threads meet several times in every layer. Where a step is short, they wait longer than they work, and
    # where another program wants the same cores, all of them wait for the one that has to share: a small
    # network is then tens of times slower with two threads than with one.
    if worker.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        most = max(_initial_num_threads() // worker.local_world_size, 1)
        torch.set_num_threads(max(1, min(most, int(flops_per_step // FLOPS_PER_THREAD))))


@cache
def _initial_num_threads() -> int:
    """Return the number of threads that torch found at its start, before any run here took less."""
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
