"""What workers and servers of dist_async send to each other.

Every message begins with `HEADER_SIZE` float64: the request, learning rate, version of the weights and so on.
Then come float32 gradients or weights, or a safetensors or JSON text. Nothing is pickled. Each worker has a
connection of its own to each server, a gloo group of two.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from enum import IntEnum
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from imgcls.errors import first_line

T = TypeVar("T")

#: float64 numbers that every message begins with
HEADER_SIZE = 4
#: ranks in a group of two
WORKER_RANK, SERVER_RANK = 0, 1
#: gloo tells messages of one pair apart by a tag; ours come one after the other
TAG = 0


class Request(IntEnum):
    """What a worker asks for, and how its header goes on after this number.

    The header of an answer: version of the weights, the largest stop request of workers that have left, size
    in bytes of the text that follows.
    """

    PUSH = 1  # learning rate, version of the weights; gradients follow -> weights
    PULL = 2  # -> weights
    PING = 3  # -> nothing more than a header
    FETCH = 4  # -> text: weights and state of the optimizer, safetensors
    RESTORE = 5  # size; as many bytes follow, the same as FETCH gives. There is no answer
    STATISTICS = 6  # -> text: JSON of the pushes since it was last asked
    GOODBYE = 7  # the stop request this worker leaves with, 0 for having done its work. There is no answer


def make_header(first: float, second: float = 0.0, third: float = 0.0) -> Tensor:
    """Return the float64 (HEADER_SIZE,) that a message begins with."""
    return torch.tensor([first, second, third, 0.0], dtype=torch.float64)


def empty_header() -> Tensor:
    """Return a header to receive into."""
    return torch.zeros(HEADER_SIZE, dtype=torch.float64)


def to_tensor(content: bytes) -> Tensor:
    """Return a text as uint8 (n,), to send."""
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def receive_bytes(group: Any, size: int, source: int) -> bytes:
    """Receive a text of that size in bytes."""
    # the size came in the header
    content = torch.empty(size, dtype=torch.uint8)
    group.recv([content], source, TAG).wait()
    return content.numpy().tobytes()


def connect(store: Any, token: str, server: int, worker: int, rank: int, timeout_s: float) -> Any:
    """Return the gloo group of one worker (rank 0) and one server (rank 1); waits for the other one.

    `token` is the job's own: an earlier attempt may have left keys in the store.
    """
    pair_store = dist.PrefixStore(f"{token}/{server}/{worker}", store)
    # not a torch group of the whole job: each pair may break without the others
    return dist.ProcessGroupGloo(pair_store, rank, 2, timedelta(seconds=timeout_s))


def gloo_reason(error: RuntimeError) -> str:
    """Return what gloo says, without the line of its sources and the advice."""
    return re.sub(r"^(\[[^]]*\.cc:\d+\] *)", "", first_line(error)).split(". ")[0]


def in_parallel(work: Callable[[int], T], count: int) -> list[T]:
    """Return work(0) .. work(count - 1), each run in a thread of its own; the first error is raised here."""
    with ThreadPoolExecutor(max_workers=count) as pool:
        return list(pool.map(work, range(count)))
