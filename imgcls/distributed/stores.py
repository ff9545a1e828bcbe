"""Stores where processes meet: served on one address only, with a time limit on every wait.

A torch store has no authentication, and one that serves listens on all addresses of its machine. So one that
we serve listens on the given address and no other; processes of one machine use loopback or a file.
`process_group` and the agents (`launch/rendezvous`) open their stores here.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from imgcls.distributed.addresses import listen

T = TypeVar("T")

#: seconds added, so that torch's own limits, where it has some, come first: a thread that wakes up in torch
#: while the program ends would abort it
_GRACE_S = 2.0


def open_tcp_store(host: str, port: int, timeout_s: float, *, serves: bool = False,
                   is_one_machine: bool = False) -> Any:
    """Return the TCPStore at that address, served by this process where `serves`.

    RuntimeError or OSError, of torch and the system, where that fails; TimeoutError where something is there
    and does not answer within `timeout_s`.
    """
    host = host.strip("[]")
    # a socket of ours: torch's own would listen on all addresses
    descriptor = listen(host, port, is_one_machine=is_one_machine).detach() if serves else None

    def connect() -> Any:
        # without a number of clients the store takes any
        store = dist.TCPStore(host, port, None, is_master=serves, timeout=timedelta(seconds=timeout_s),
                              wait_for_workers=False, master_listen_fd=descriptor)
        store.add("imgcls/answers", 0)  # a connection alone says nothing about who is there
        return store

    return within(timeout_s, connect)


def within(timeout_s: float, work: Callable[[], T]) -> T:
    """Return `work()`; TimeoutError where that takes longer than `timeout_s`.

    torch reads from a store without a time limit: a server that accepts a connection and is silent would hold
    a process for ever. The thread that waits is left behind, and does not keep the program alive.
    """
    box: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            box.put((work(), None))
        except BaseException as error:
            box.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        value, error = box.get(timeout=timeout_s + _GRACE_S)
    except queue.Empty:
        raise TimeoutError(f"no answer within {timeout_s:g} s") from None
    if error is not None:
        raise error
    return value
