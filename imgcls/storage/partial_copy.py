"""A copy of a remote file that is read while it is fetched: a reader fetches the bytes that are still absent.

The file has its full size from the beginning, and beside it a byte for each block says whether the block is
there. Both are shared by the processes of a machine. `cache.Cache.open_partial` makes them, `read_ahead`
fetches what is not needed yet, and `formats.recordio.record_file` reads. No torch.

A byte is set only after its block was written, so what a killed process leaves is right as far as its bytes
say. An incomplete copy that no process has open is fetched anew: the machine may have crashed, and then its
bytes may say too much.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections.abc import Callable
from typing import BinaryIO

from imgcls.errors import ImgclsError, RunError, verbatim
from imgcls.storage import remote
from imgcls.storage.locks import lock_file
from imgcls.storage.remote import RemotePath
from imgcls.storage.thread_pool import DaemonPool

#: the smallest part that is fetched: a record of an image mostly has several of them
BLOCK_BYTES = 1 << 14
#: a thread keeps its buffer for the next request up to this size
_KEPT_BYTES = 2 << 20

_of_thread = threading.local()


class PartialCopy:
    """Some blocks of a remote file of `size` bytes, and methods to fetch the others, for any thread."""

    def __init__(self, path: RemotePath, size: int, stream: BinaryIO, blocks: BinaryIO,
                 finish: Callable[[], None], explain: Callable[[OSError], RunError]) -> None:
        """Take over two open files: of `size` bytes, and of a byte for each block.

        `finish` is called when all blocks are there and gives the file its name; `explain` returns the error
        to raise where a block cannot be written.
        """
        self.path = path
        self.size = size
        #: whether all blocks are there; once true it stays so
        self.is_complete = False
        self._stream = stream
        self._blocks_file = blocks
        self._finish = finish
        self._explain = explain
        self._num_blocks = num_blocks(size)
        #: 1 for each block that is there, shared with other processes
        self._there = mmap.mmap(blocks.fileno(), self._num_blocks)
        # 1 for each block that a thread of this process fetches now
        self._fetching = bytearray(self._num_blocks)
        self._changed = threading.Condition()
        self._failure: ImgclsError | None = None
        self._is_owner = False
        # A thread that fetches refers to this object, so the handle stays open and is not another file's.
        weakref.finalize(self, _close, stream, blocks)

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._stream.fileno()

    def own(self) -> bool:
        """Return whether this process fetches what is not needed yet, as one process of the machine does.

        The first that asks does, and when it has ended, the next.
        """
        self._is_owner = self._is_owner or lock_file(self._blocks_file)
        return self._is_owner

    def require(self, begin: int, end: int) -> None:
        """Return when bytes begin .. end - 1 are there, fetching those that no other thread fetches.

        RunError or DataError where they cannot be fetched.
        """
        first, last = begin // BLOCK_BYTES, num_blocks(min(end, self.size))
        while not self.is_complete and self._there.find(b"\0", first, last) >= 0:
            if not self.fetch_some(first, last):
                with self._changed:
                    # another thread fetches the rest; a while at most, as it may be done already
                    self._changed.wait(0.1)

    def fetch(self, begin: int, end: int) -> None:
        """Fetch those of bytes begin .. end - 1 that are absent, but not what other threads are fetching."""
        while not self.is_complete and self.fetch_some(begin // BLOCK_BYTES, num_blocks(min(end, self.size))):
            pass

    def complete(self) -> None:
        """Fetch all that is absent; return when the file is complete and has its final name."""
        # this waits for what other threads are fetching
        with DaemonPool(remote.PARTS_AT_ONCE, "imgcls-fetch") as pool:
            step = max(remote.PART_BYTES, BLOCK_BYTES)
            for future in [pool.submit(self.require, begin, begin + step)
                           for begin in range(0, self.size, step)]:
                future.result()
        self.note_complete()

    def fetch_some(self, first: int = 0, last: int | None = None, *, max_bytes: int | None = None) -> bool:
        """Fetch one run of absent blocks in first .. last - 1 (all, if None); False where there is none.

        No more than `max_bytes` of it, or `remote.PART_BYTES`.
        """
        return self._fetch_run(lambda: self._absent_run(first, self._num_blocks if last is None else last,
                                                        max_bytes or remote.PART_BYTES))

    def fetch_around(self, begin: int, end: int, max_bytes: int) -> bool:
        """Fetch what is absent of bytes begin .. end - 1 with what is absent around it, up to `max_bytes`.

        One row of absent blocks; False where there is none: all of it is there, or being fetched.
        """
        first, last = begin // BLOCK_BYTES, num_blocks(min(end, self.size))
        return self._fetch_run(lambda: self._run_around(first, last, max(max_bytes // BLOCK_BYTES, 1)))

    def _fetch_run(self, choose: Callable[[], tuple[int, int] | None]) -> bool:
        """Fetch the blocks that are chosen under the lock; False where there are none."""
        with self._changed:
            if self._failure:
                raise self._failure
            run = choose()
            if run is None:
                return False
            self._mark_fetching(*run, value=1)
        try:
            self._fetch_blocks(*run)
        finally:
            with self._changed:
                self._mark_fetching(*run, value=0)
                self._changed.notify_all()
        self.note_complete()
        return True

    def note_complete(self) -> None:
        """Give the file its name once every block is there, whichever process fetched it."""
        if self.is_complete or self._there.find(b"\0") >= 0:
            return
        try:
            self._finish()
        except ImgclsError as error:
            self._failure = error  # what was read so far may be of two versions: no more is read
            raise
        self.is_complete = True

    def _absent_run(self, first: int, last: int, max_bytes: int) -> tuple[int, int] | None:
        """Return the first blocks in a row that are absent and not fetched, at most so many bytes of them."""
        begin = self._there.find(b"\0", first, last)
        while begin >= 0 and self._fetching[begin]:  # go past all blocks in this row that are being fetched
            begin = self._fetching.find(b"\0", begin, last)
            begin = self._there.find(b"\0", begin, last) if begin >= 0 else -1
        if begin < 0:
            return None
        most = min(last, begin + max(max_bytes // BLOCK_BYTES, 1))
        ends = (self._there.find(b"\1", begin, most), self._fetching.find(b"\1", begin, most))
        return begin, min(end if end >= 0 else most for end in ends)

    def _run_around(self, first: int, last: int, most: int) -> tuple[int, int] | None:
        """Return absent blocks in a row, `most` at most, with the first absent one of first .. last - 1."""
        absent = self._absent_run(first, last, BLOCK_BYTES)
        if absent is None:
            return None
        # half of them before it: those would be a small request of their own later
        block = absent[0]
        lowest = max(block - most // 2, 0)
        begin = max(lowest, *(blocks.rfind(b"\1", lowest, block) + 1
                              for blocks in (self._there, self._fetching)))
        return self._absent_run(begin, self._num_blocks, most * BLOCK_BYTES)

    def _mark_fetching(self, first: int, last: int, *, value: int) -> None:
        self._fetching[first:last] = bytes([value]) * (last - first)

    def _fetch_blocks(self, first: int, last: int) -> None:
        begin, end = first * BLOCK_BYTES, min(last * BLOCK_BYTES, self.size)
        data = _buffer(end - begin)
        try:
            self.path.read_into(data, begin)
        except FileNotFoundError:
            # not a DataError: no damage of the sample that happened to be asked for
            raise RunError(f"{verbatim(self.path)}: is there no longer") from None
        try:
            _write(self.fileno(), data, begin)
        except OSError as error:
            raise self._explain(error) from error
        self._there[first:last] = b"\1" * (last - first)  # only after the write: see the top of this file


def num_blocks(size: int) -> int:
    """Return how many blocks the first `size` bytes of a file take."""
    return -(-size // BLOCK_BYTES)


def _buffer(size: int) -> memoryview:
    """Return `size` bytes of memory, which the thread's next call uses again."""
    if size > _KEPT_BYTES:
        return memoryview(bytearray(size))
    # new memory would come from the system page by page, which costs as much as filling it
    if len(getattr(_of_thread, "buffer", b"")) < size:
        _of_thread.buffer = bytearray(size)
    return memoryview(_of_thread.buffer)[:size]


def _write(handle: int, view: memoryview, offset: int) -> None:
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written


def _close(*streams: BinaryIO) -> None:
    for stream in streams:
        stream.close()
