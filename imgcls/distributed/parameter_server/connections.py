"""A worker's connections to the servers of dist_async: one request at a time, and pings between.

`client` decides what is sent; here it is sent, and gloo's errors become LostContact.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from imgcls.distributed.parameter_server.protocol import (
    SERVER_RANK,
    TAG,
    WORKER_RANK,
    Meeting,
    Request,
    connect,
    empty_header,
    gloo_reason,
    in_parallel,
    make_header,
    receive_bytes,
    to_tensor,
)
from imgcls.distributed.process_group import LostContact
from imgcls.distributed.rank_info import host_name
from imgcls.errors import RunError


class ServerConnections:
    """A gloo group of two for each server; every method may raise LostContact."""

    def __init__(self, groups: Sequence[Any], rank: int) -> None:
        self._groups = list(groups)
        self._rank = rank
        #: the largest stop request of workers that have left, 0: none
        self.peer_request = 0
        #: version of the weights that each server sent last
        self._versions = [0.0] * len(self._groups)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._last_talk = time.monotonic()
        #: the error of a ping: raised by the next request
        self._problem: LostContact | None = None
        self._pinger: threading.Thread | None = None

    def request_weights(self, request: Request, weights: Sequence[Tensor], lr: float = 0.0,
                        gradients: Sequence[Tensor] = ()) -> None:
        """Send a request to all servers at once; receive each one's weights into its part of `weights`."""
        with self._lock, self._translate_errors():
            works = []
            answers = []
            for index, group in enumerate(self._groups):
                # all sends and receives at once: the slowest server decides, not the sum of all
                works.append(group.send([make_header(request, lr, self._versions[index])], SERVER_RANK, TAG))
                if gradients:
                    works.append(group.send([gradients[index]], SERVER_RANK, TAG))
                answer = empty_header()
                answers.append(answer)
                works.append(group.recv([answer], SERVER_RANK, TAG))
                works.append(group.recv([weights[index]], SERVER_RANK, TAG))
            for work in works:
                work.wait()
            for index, answer in enumerate(answers):
                self._note_answer(answer)
                self._versions[index] = float(answer[0])

    def request_text(self, request: Request, server: int) -> bytes:
        """Return the text with which a server answers."""
        with self._lock, self._translate_errors():
            group = self._groups[server]
            answer = self._exchange_headers(group, request)
            if request == Request.FETCH:  # the text holds the weights of that version
                self._versions[server] = float(answer[0])
            return receive_bytes(group, float(answer[2]), SERVER_RANK)

    def send_text(self, request: Request, server: int, content: bytes) -> None:
        """Send a text to a server, which does not answer."""
        with self._lock, self._translate_errors():
            self._groups[server].send([make_header(request, len(content))], SERVER_RANK, TAG).wait()
            self._groups[server].send([to_tensor(content)], SERVER_RANK, TAG).wait()

    def start_pings(self, interval_s: float) -> None:
        """Ping every server when nothing was sent for so long (evaluation, the first batch).

        So a server can tell a busy worker from one that is gone.
        """
        self._pinger = threading.Thread(target=self._ping, args=(interval_s,), daemon=True)
        self._pinger.start()

    def say_goodbye(self, stop_request: int) -> None:
        """Tell the servers that this worker is done; they pass `stop_request` on to the others."""
        # first: a ping that waits for the lock must not follow the good-bye
        self._closing.set()
        with self._lock, self._translate_errors():
            for group in self._groups:
                group.send([make_header(Request.GOODBYE, stop_request)], SERVER_RANK, TAG).wait()
        if self._pinger is not None:
            self._pinger.join()

    def close(self) -> None:
        """Close the connections; the servers notice that."""
        self._closing.set()
        self._groups = []  # so their threads end here, not at some moment while the interpreter ends

    def _ping(self, interval_s: float) -> None:
        while not self._closing.wait(max(self._last_talk + interval_s - time.monotonic(), 0.01)):
            # a request was sent while this thread waited
            if time.monotonic() - self._last_talk < interval_s:
                continue
            try:
                with self._lock, self._translate_errors():
                    for group in self._groups:
                        self._note_answer(self._exchange_headers(group, Request.PING))
            except LostContact as error:
                # this is a thread: the trainer raises it at its next step
                self._problem = error
                return

    def _exchange_headers(self, group: Any, request: Request) -> Tensor:
        group.send([make_header(request)], SERVER_RANK, TAG).wait()
        answer = empty_header()
        group.recv([answer], SERVER_RANK, TAG).wait()
        return answer

    def _note_answer(self, answer: Tensor) -> None:
        self.peer_request = max(self.peer_request, int(answer[1]))
        self._last_talk = time.monotonic()

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        if self._problem:
            raise self._problem
        with translate_errors(self._rank):
            yield


def connect_to_servers(meeting: Meeting, num_servers: int, rank: int) -> ServerConnections:
    """Connect to all servers, some of which other workers may still have to start."""
    with translate_errors(rank):
        groups = in_parallel(lambda index: connect(meeting, index, rank, WORKER_RANK), num_servers)
    return ServerConnections(groups, rank)


@contextlib.contextmanager
def translate_errors(rank: int) -> Iterator[None]:
    """Turn gloo's errors, which have no class of their own, into a LostContact."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, RunError):
            raise
        raise LostContact(f"rank {rank} ({host_name()}): `kv_store` dist_async: a server does not answer, "
                          f"or has ended because it lost a worker ({gloo_reason(error)})") from error
