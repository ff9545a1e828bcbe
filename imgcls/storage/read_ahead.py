"""Fetch what is absent of partial copies: first what will be read next, then all the rest in large parts.

`data.early_records` says what will be read. The records of an epoch are at random places of their files: one
request for each is what the first batches need, but far too many for a whole epoch. So most threads stay a
little ahead of the reader, and the others fill the files from their beginning, once the first batch has been
read: before that they would take bandwidth and cores from it. No torch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from imgcls.errors import ImgclsError
from imgcls.storage.partial_copy import PartialCopy

#: how many threads stay ahead of the reader (their small requests mostly wait), and how many fill the files
_NUM_NEAR, _NUM_FILLING = 32, 8
#: how many fill files below `_SMALL_BYTES`, in the order of reading: many small pieces
_NUM_FILLING_SMALL = 32
#: how far the threads stay ahead of the reader: about a batch of photographs
_NEAR_BYTES = 16 << 20
#: files of fewer bytes than this together are filled in the order of reading, once the first `_NEAR_BYTES`
#: were read, each record with what is absent around it: that takes a second or two, with fewer requests than
#: record by record
_SMALL_BYTES = 256 << 20
#: size of a request that fills a file: a reader may wait for it, so less than elsewhere
_FILL_BYTES = 2 << 20
#: seconds before looking again whether another process has fetched a file, or has died while it did
_PAUSE_S = 0.2
#: seconds that the reader has to read the first `_NEAR_BYTES` once they are there, before files are filled
_GRACE_S = 0.5
#: the share of those bytes that counts as all of them
_READ_SHARE = 0.95


class ReadAhead:
    """Threads that fetch what is absent of some copies, until they are complete."""

    def __init__(self, copies: Sequence[PartialCopy]) -> None:
        self._copies = list(copies)
        self._is_small = sum(copy.size for copy in self._copies) < _SMALL_BYTES
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        #: the threads that fill the files wait for it: the first bytes were read. They are many, woken once
        self._first_read = threading.Condition(lock)
        # what follows is shared by threads, under the lock: the ranges that will be read, the bytes up to the
        # end of each, the next range, and how many bytes have been read since `expect`
        self._expected: tuple[np.ndarray, np.ndarray, np.ndarray] = (
            np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))
        self._sums = np.zeros(0, np.int64)
        self._position = 0
        self._num_read = 0
        #: of the ranges in the first `_NEAR_BYTES`: how many are being fetched, and the bytes of all of them
        self._num_urgent = 0
        self._urgent_bytes = 0
        self._num_threads = 0
        self._has_failed = False

    @property
    def is_done(self) -> bool:
        """Whether all copies are complete."""
        return all(copy.is_complete for copy in self._copies)

    @property
    def _has_read_first(self) -> bool:
        # not all bytes: a record is read without its header
        return self._num_read >= self._urgent_bytes * _READ_SHARE

    def expect(self, numbers: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> None:
        """Begin to fetch: bytes begins[i] .. ends[i] - 1 of copy numbers[i] will be read, in this order.

        Three int64 arrays of one length. They replace those of the last call.
        """
        with self._changed:
            # what was expected before is forgotten: an epoch that was left is not continued
            self._expected = numbers, begins, ends
            self._sums = np.cumsum(ends - begins)
            self._urgent_bytes = int((ends - begins)[self._sums < _NEAR_BYTES].sum())
            self._position = self._num_read = 0
            self._has_failed = False
            self._start()
            self._changed.notify_all()
            self._first_read.notify_all()

    def note_read(self, num_bytes: int) -> None:
        """Count bytes that were read, so that the threads can move on."""
        with self._changed:
            self._num_read += num_bytes
            if self._has_read_first:
                self._first_read.notify_all()
            if not self._has_failed:  # reading what is absent raises an error; the next `expect` tries again
                self._start()
            self._changed.notify()

    def _start(self) -> None:
        if self._num_threads or self.is_done:
            return
        near = self._fetch_first if self._is_small else self._stay_ahead
        num_filling = _NUM_FILLING_SMALL if self._is_small else _NUM_FILLING
        works = [near] * _NUM_NEAR + [self._fill] * num_filling
        self._num_threads = len(works)
        for number, work in enumerate(works):
            # daemons, which do not delay the end of the program
            threading.Thread(target=self._run, args=(work,), name=f"imgcls-ahead-{number}",
                             daemon=True).start()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except ImgclsError:
            self._has_failed = True  # all others end too, and none begins until more is expected
        finally:
            with self._changed:
                self._num_threads -= 1

    def _stay_ahead(self) -> None:
        while not (self.is_done or self._has_failed):
            with self._changed:
                wanted = self._take(self._num_read + _NEAR_BYTES)
                if wanted is None:
                    self._changed.wait(_PAUSE_S)
            if wanted is not None:
                self._fetch(*wanted)

    def _fill(self) -> None:
        self._fetch_first()
        with self._changed:
            self._first_read.wait_for(lambda: not self._num_urgent)
            self._first_read.wait_for(lambda: self._has_read_first, _GRACE_S)
        while self._is_small and self._fetch_around_next():
            pass
        while not (self.is_done or self._has_failed):
            for copy in self._copies:
                if not copy.is_complete and copy.own() and copy.fetch_some(max_bytes=_FILL_BYTES):
                    break
            else:  # the rest is under way, here or in another process
                time.sleep(_PAUSE_S)
                for copy in self._copies:
                    copy.note_complete()

    def _fetch_first(self) -> None:
        """Fetch what will be read first; return when all of it is fetched or being fetched."""
        while True:
            with self._changed:
                wanted = self._take(_NEAR_BYTES)
                if wanted is None:
                    break
                self._num_urgent += 1
            try:
                self._fetch(*wanted)
            finally:
                with self._changed:
                    self._num_urgent -= 1
                    if not self._num_urgent:
                        self._first_read.notify_all()

    def _fetch_around_next(self) -> bool:
        """Fetch what will be read next with what is absent around it; False where nothing is left to take."""
        with self._changed:
            wanted = self._take(None)
        if wanted is None:
            return False
        number, begin, end = wanted
        if self._copies[number].own():
            self._copies[number].fetch_around(begin, end, _FILL_BYTES)
        return True

    def _take(self, limit: int | None) -> tuple[int, int, int] | None:
        """Take the next range that will be read, (copy, first byte, end); None beyond `limit` bytes."""
        # called under the lock
        i = self._position
        if i >= len(self._sums) or (limit is not None and self._sums[i] >= limit):
            return None
        self._position += 1
        numbers, begins, ends = self._expected
        return numbers.item(i), begins.item(i), ends.item(i)

    def _fetch(self, number: int, begin: int, end: int) -> None:
        self._copies[number].fetch(begin, end)
