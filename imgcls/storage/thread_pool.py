"""Run jobs on a few threads that never hold up the end of the program.

Ours and not `concurrent.futures.ThreadPoolExecutor`, which at the exit of the interpreter waits for its
threads: a transfer that hangs would then keep an interrupted program alive. Files, chunks and uploads are
moved by these.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class DaemonPool:
    """Threads that run what is submitted, in its order.

    Used as a context it drops at the end what has not begun, and waits for what has.
    """

    def __init__(self, num_threads: int, name: str) -> None:
        # pairs of a future and its job; None ends the thread that takes it
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True)
                         for i in range(num_threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> Future[T]:
        """Return the Future of `function(*args, **kwargs)`."""
        future: Future[T] = Future()
        self._jobs.put((future, lambda: function(*args, **kwargs)))
        return future

    def close(self, wait: bool = True) -> None:
        """Cancel what has not begun; `wait` for what has."""
        with contextlib.suppress(queue.Empty):  # until the queue is empty: the threads take jobs too
            while True:
                job = self._jobs.get_nowait()
                if job:
                    job[0].cancel()
        for _ in self._threads:
            self._jobs.put(None)  # each thread takes one and ends
        if wait:
            for thread in self._threads:
                thread.join()

    def __enter__(self) -> DaemonPool:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, function = job
            if not future.set_running_or_notify_cancel():
                continue  # its owner cancelled it before it began
            try:
                future.set_result(function())
            except BaseException as error:  # raised where the result is asked for
                future.set_exception(error)
