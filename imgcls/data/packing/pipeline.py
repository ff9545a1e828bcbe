"""Work on a sequence with threads and take the results in its order; sync the disk in the background.

`pack` and `imgcls-verify` use it, among others. Nothing here depends on images.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from imgcls.formats.recordio import RecordWriter

Item = TypeVar("Item")
Result = TypeVar("Result")

#: size of the results that wait to be taken: above it the threads wait too
MAX_WAITING_BYTES = 256 << 20
#: the same, counted: one slow item in front must not let the others run ahead without end
MAX_AHEAD_PER_THREAD = 64
#: a sync begins when so many bytes were written since the last one began ...
SYNC_BYTES = 48 << 20
#: ... or, where images come slowly, after so long
SYNC_INTERVAL_S = 5.0


@contextlib.contextmanager
def map_in_order(function: Callable[[Item], Result], items: Iterable[Item], num_threads: int,
                 size_of: Callable[[Result], int] = lambda result: 0,
                 max_ahead: int = MAX_AHEAD_PER_THREAD) -> Iterator[Iterator[Result]]:
    """Give an iterator of `function(item)` of each item, in the items' order, computed by threads ahead.

    A context, and not only an iterator: its end waits for the threads. One that still decodes while the
    interpreter ends, because the disk was full, would abort the process. Each thread is `max_ahead` items
    ahead at most, and they wait when the results that are not taken yet have more than `MAX_WAITING_BYTES`
    (`size_of`: bytes of a result). With one thread the caller does the work when it takes a result. An error
    in `function` is raised where its result is taken.
    """
    if num_threads <= 1:
        yield map(function, items)
        return
    workers = _Workers(function, items, num_threads, size_of, max_ahead)
    try:
        workers.start()  # here: Ctrl-C may come between any two of them
        yield workers.results()
    finally:
        workers.stop()


class _Workers(Generic[Item, Result]):
    """Threads that each take the next item; the results wait by index until they are requested in order.

    Ours and not `ThreadPoolExecutor.map`, which begins everything at once: while the disk is slow, results
    would fill the memory.
    """

    def __init__(self, function: Callable[[Item], Result], items: Iterable[Item], num_threads: int,
                 size_of: Callable[[Result], int], max_ahead: int) -> None:
        self._function = function
        self._items = iter(items)
        self._size_of = size_of
        self._max_ahead = num_threads * max_ahead
        self._lock = threading.Lock()
        self._is_ready = threading.Condition(self._lock)    # for the taker: the next result is there
        self._has_room = threading.Condition(self._lock)    # for the threads: results were taken
        self._results: dict[int, Result] = {}  # by index of the item, until they are taken
        self._errors: dict[int, BaseException] = {}
        self._num_started = 0
        self._num_taken = 0
        self._waiting_bytes = 0
        self._is_stopped = False
        self._is_exhausted = False  # no item is left to begin with
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(num_threads)]

    def start(self) -> None:
        """Begin to work."""
        for thread in self._threads:
            thread.start()

    def results(self) -> Iterator[Result]:
        """Yield the results in order, each as soon as it is there; raise an error in its place."""
        while True:
            with self._lock:
                while self._num_taken not in self._results:
                    if self._num_taken in self._errors:
                        raise self._errors[self._num_taken]
                    if self._is_exhausted and self._num_taken == self._num_started:
                        return
                    self._is_ready.wait()
                result = self._results.pop(self._num_taken)
                self._num_taken += 1
                self._waiting_bytes -= self._size_of(result)
                self._has_room.notify()  # one result less makes room for one thread
            yield result

    def stop(self) -> None:
        """Begin no more items, and wait for those that are begun, however often Ctrl-C is pressed."""
        interruption = None
        with self._lock:
            self._is_stopped = True
            self._has_room.notify_all()
        for thread in self._threads:
            while thread.is_alive():
                try:
                    thread.join()
                except KeyboardInterrupt as error:
                    interruption = error
        if interruption:
            raise interruption

    def _work(self) -> None:
        while True:
            started = self._next_item()
            if started is None:
                return
            index, item = started
            try:
                result = self._function(item)
            except BaseException as error:
                with self._lock:
                    self._errors[index] = error
                    self._is_ready.notify()
                return  # the others continue: items before this one are still to be taken
            with self._lock:
                self._results[index] = result
                self._waiting_bytes += self._size_of(result)
                if index == self._num_taken:  # the taker waits for this one only
                    self._is_ready.notify()

    def _next_item(self) -> tuple[int, Item] | None:
        """Wait for room for a result more, and return (index, item) to work on; None at the end."""
        with self._lock:
            # The item that the taker waits for was always started before, so waiting here never blocks it.
            while not self._is_stopped and (self._waiting_bytes > MAX_WAITING_BYTES
                                            or self._num_started - self._num_taken >= self._max_ahead):
                self._has_room.wait()
            if self._is_stopped or self._is_exhausted:
                return None
            index = self._num_started
            try:
                item = next(self._items)
            except BaseException as error:
                self._is_exhausted = True
                if not isinstance(error, StopIteration):
                    self._errors[index] = error  # raised where the item's result would be taken
                self._is_ready.notify()
                self._has_room.notify_all()
                return None
            self._num_started += 1
            return index, item


class BackgroundSync:
    """A thread that syncs a file while more is written to it, so that less is left to wait for at the end.

    A context manager: at its end the thread ends, and an error that `notify` did not raise yet is raised.
    """

    def __init__(self, writer: RecordWriter) -> None:
        self._writer = writer
        self._begun_bytes = 0  # how much was written when the last sync began, and when that was
        self._begun_s = time.monotonic()
        self._mark: object = None  # passed to `writer.commit` after the next sync
        self._is_due = threading.Event()
        self._is_stopped = False
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> BackgroundSync:
        return self

    def __exit__(self, *exc_info: object) -> None:
        # The rest is synced by `atomic_write`, before the file gets its name.
        self._is_stopped = True
        self._is_due.set()  # to wake it
        if self._thread.is_alive():
            self._thread.join()
        if self._error and exc_info[0] is None:
            raise self._error

    def notify(self) -> None:
        """Begin a sync if it is due, or raise the error of an earlier one; call it after each write."""
        if self._error:
            raise self._error
        is_due = self._writer.size_bytes - self._begun_bytes >= SYNC_BYTES
        if is_due or time.monotonic() - self._begun_s >= SYNC_INTERVAL_S:
            self._begun_bytes = self._writer.size_bytes
            self._begun_s = time.monotonic()
            self._mark = self._writer.mark()
            if not self._thread.ident:  # small files need no thread
                self._thread.start()
            self._is_due.set()

    def _run(self) -> None:
        while True:
            self._is_due.wait()
            self._is_due.clear()
            if self._is_stopped:
                return
            mark = self._mark
            try:
                self._writer.sync()
                self._writer.commit(mark)
            except OSError as error:  # the system reports it only once: it must not be lost
                self._error = error
                return
