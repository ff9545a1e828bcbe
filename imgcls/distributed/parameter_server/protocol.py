"""What workers and servers of dist_async send to each other.

Every message begins with `HEADER_SIZE` float64: the request, learning rate, version of the weights and so on.
Then come float32 gradients or weights, or a safetensors or JSON text. Nothing is pickled. Each worker has a
connection of its own to each server, a gloo group of two.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
#: a longer text is refused: weights and state of a server are less
MAX_TEXT_BYTES = 1 << 42
#: gloo tells messages of one pair apart by a tag; ours come one after the other
TAG = 0


class Request(IntEnum):
    """What a worker requests, and how its header continues after this number.

    The header of an answer: version of the weights, the largest stop request of workers that have left, size
    in bytes of the text that follows.
    """

    PUSH = 1  # learning rate, version of the weights; gradients follow -> weights
    PULL = 2  # -> weights
    PING = 3  # -> nothing more than a header
    FETCH = 4  # -> text: weights and state of the optimizer, safetensors
    RESTORE = 5  # size; as many bytes follow, the same as FETCH gives. There is no answer
    STATISTICS = 6  # -> text: JSON of the pushes since the last such request
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


def receive_bytes(group: Any, size: float, source: int) -> bytes:
    """Receive a text of that size in bytes; RuntimeError for a size that cannot be."""
    # the size came in the header, and may be anything, nan too
    if not 0 <= size <= MAX_TEXT_BYTES:
        raise RuntimeError(f"a message of {size:g} bytes was announced")
    size = int(size)
    content = torch.empty(size, dtype=torch.uint8)
    group.recv([content], source, TAG).wait()
    return content.numpy().tobytes()


@dataclass(frozen=True)
class Meeting:
    """Where workers and servers of one attempt find each other, and the secret that they prove to share."""

    #: torch's store, which others may read and write as well
    store: Any
    #: the attempt's own name: an earlier one may have left keys in the store
    token: str
    #: known to the processes of the job only: it is sent through pipes and their own connections, no store
    secret: bytes
    timeout_s: float


def connect(meeting: Meeting, server: int, worker: int, rank: int) -> Any:
    """Return the gloo group of one worker (rank 0) and one server (rank 1); waits for the other one.

    RuntimeError where the other one is late, or does not know the job's secret.
    """
    store, timeout_s = meeting.store, meeting.timeout_s
    pair_store = dist.PrefixStore(f"{meeting.token}/{server}/{worker}", store)
    # not a torch group of the whole job: each pair may break without the others
    group: Any = dist.ProcessGroupGloo(pair_store, rank, 2, timedelta(seconds=timeout_s))
    # each shows another digest, so that none can send back what it received
    shown = [hashlib.sha256(role + meeting.secret).digest() for role in (b"worker", b"server")]
    sent, answer = to_tensor(shown[rank]), torch.zeros(len(shown[rank]), dtype=torch.uint8)
    # both at once: a send of gloo's ends when the other side receives
    for work in (group.send([sent], 1 - rank, TAG), group.recv([answer], 1 - rank, TAG)):
        work.wait()
    if not hmac.compare_digest(answer.numpy().tobytes(), shown[1 - rank]):
        raise RuntimeError("the peer that answered does not know the secret of this job")
    return group


def gloo_reason(error: RuntimeError) -> str:
    """Return what gloo says, without the line of its sources and the advice."""
    return re.sub(r"^(\[[^]]*\.cc:\d+\] *)", "", first_line(error)).split(". ")[0]


def in_parallel(work: Callable[[int], T], count: int) -> list[T]:
    """Return work(0) .. work(count - 1), each run in a separate thread; the first error is raised here."""
    with ThreadPoolExecutor(max_workers=count) as pool:
        return list(pool.map(work, range(count)))
