"""Samples of remote files that do not fit on the disk: read in chunks, shuffled chunk-wise, fetched ahead.

A chunk is a row of whole records, about 16 MB. An epoch's order is a pure function of (seed, epoch): the
chunks of all files in random order, and within every 16 neighbours (256 MB) all their records in random
order. So each record comes once an epoch, in large requests, and two such windows are held at a time.
`ChunkedSource` reads records through this, `ChunkedShards` the images of tar shards.

A chunk is kept in the cache on disk like any other part of a remote file, so that the processes of one
machine fetch it once; where the cache is too small even for that, chunks are held in memory.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

import numpy as np

from imgcls.data.order import EpochOrders, windowed_order
from imgcls.errors import DataError, verbatim
from imgcls.formats.recordio.framing import Bytes
from imgcls.formats.recordio.record_file import FileView, RecordFile
from imgcls.storage.cache import Cache
from imgcls.storage.remote import PARTS_AT_ONCE, FileInfo, RemotePath
from imgcls.storage.thread_pool import DaemonPool

#: a chunk has this many bytes, or one record
CHUNK_BYTES = 16 << 20
#: as many chunks are shuffled together
WINDOW_CHUNKS = 16
#: windows that are held at a time: the one that is read, and the next
_NUM_WINDOWS = 2


class Ranged(Protocol):
    """A remote file of samples, by number; `formats.ranges.RangedReader` is one."""

    @property
    def path(self) -> RemotePath: ...

    @property
    def info(self) -> FileInfo: ...

    @property
    def cache(self) -> Cache: ...

    @property
    def offsets(self) -> np.ndarray:
        """int64 (N,), rising: the first byte of each sample."""
        ...

    @property
    def ends(self) -> np.ndarray:
        """int64 (N,): the byte behind each sample."""
        ...

    def __len__(self) -> int: ...

    def payload(self, i: int, /) -> memoryview | bytes:
        """Return sample `i`, read by a request for it alone."""
        ...

    def extract(self, i: int, view: Bytes, first: int, /) -> memoryview | bytes:
        """Return sample `i` out of the file's bytes from `first` on."""
        ...


def about_chunks(description: str, size: int, cache_gb: float) -> str:
    """Return the note for the user about files that are read in chunks; `size` is in bytes."""
    return (f"{verbatim(description)}: {size / 1e9:.3g} GB are more than `cache_gb` {cache_gb:g} leaves room "
            f"for; read in chunks of {CHUNK_BYTES / 2**20:g} MB, for training {WINDOW_CHUNKS} shuffled "
            "together")


class Chunks:
    """The records of several files by index, from 0 through all of them."""

    def __init__(self, readers: Sequence[Ranged], files: np.ndarray, numbers: np.ndarray) -> None:
        """Sample i is record `numbers[i]` of `readers[files[i]]`; both int64 (N,), files rising."""
        self._readers = readers
        self._files = files
        self._numbers = numbers
        begins = np.concatenate([np.zeros(0, np.int64), *(reader.offsets for reader in readers)])
        bases = np.cumsum([0, *(len(reader) for reader in readers)])
        offsets = begins[bases[files] + numbers]
        # A chunk ends where the next 16 MB of a file begin. A record belongs to the chunk that it begins in.
        keys = np.stack([files, offsets // CHUNK_BYTES])
        is_first = np.append(True, (keys[:, 1:] != keys[:, :-1]).any(0)) if len(files) else np.zeros(0, bool)
        #: int64 (N,): the chunk of each sample
        self.of_sample = np.cumsum(is_first) - 1
        firsts = np.flatnonzero(is_first)
        lasts = np.append(firsts[1:], len(files))[:len(firsts)] - 1
        # (file, first byte, end) of each chunk
        self._ranges = [(int(files[a]), int(offsets[a]), readers[int(files[b])].ends.item(int(numbers[b])))
                        for a, b in zip(firsts, lasts, strict=True)]
        # In a cache of less than twice what is held at a time, chunks would be removed before they are read.
        least_bytes = 2 * _NUM_WINDOWS * WINDOW_CHUNKS * CHUNK_BYTES
        self._in_memory = any(reader.cache.limit_bytes < least_bytes for reader in readers)
        self._orders = EpochOrders()
        self._pool: DaemonPool | None = None
        self._lock = threading.Lock()
        # what follows is shared by the loader's threads, under the lock
        self._held: dict[int, Future[Bytes]] = {}
        self._remaining = np.zeros(len(self._ranges), np.int64)  # reads of each chunk that are still to come
        self._ahead: deque[int] = deque()
        self._num_singles: dict[int, int] = {}

    @property
    def num_chunks(self) -> int:
        """How many chunks the files are divided into."""
        return len(self._ranges)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Return int64 (N,): the samples in the order of the epoch, each once."""
        return windowed_order(self._orders, seed, epoch, self.of_sample, len(self._ranges), WINDOW_CHUNKS)

    def prefetch(self, indices: np.ndarray) -> None:
        """Begin to fetch what these samples need: they will be read, each once and about in this order."""
        chunks = self.of_sample[indices]
        needed, firsts = np.unique(chunks, return_index=True)
        with self._lock:
            self._remaining[:] = np.bincount(chunks, minlength=len(self._remaining))
            self._held = {chunk: future for chunk, future in self._held.items() if self._remaining[chunk]}
            self._ahead = deque(needed[np.argsort(firsts)].tolist())
            self._num_singles = {}
            self._fetch_ahead()

    def read(self, index: int) -> memoryview | bytes:
        """Return the payload of sample `index`."""
        chunk = int(self.of_sample[index])
        reader, number = self._readers[int(self._files[index])], int(self._numbers[index])
        with self._lock:
            future = self._held.get(chunk)
            if future is None and (self._remaining[chunk] > 0 or self._should_cache(chunk)):
                future = self._submit(chunk)
        if future is None:
            return reader.payload(number)
        try:
            payload = reader.extract(number, future.result(), self._ranges[chunk][1])
        except FileNotFoundError:
            raise DataError(reader.path, "is there no longer") from None
        with self._lock:
            self._remaining[chunk] -= 1
            if self._remaining[chunk] == 0:
                # payloads are views: they keep the chunk alive while they are used
                self._held.pop(chunk, None)
                self._fetch_ahead()
        return payload

    def _should_cache(self, chunk: int) -> bool:
        """Return whether to fetch the whole chunk for a read that `prefetch` did not announce.

        It is worth it from the second such read of a chunk on. Of the chunks held for such reads the older
        ones are dropped.
        """
        self._num_singles[chunk] = self._num_singles.get(chunk, 0) + 1
        if self._num_singles[chunk] < 2:
            return False
        unannounced = [held for held in self._held if self._remaining[held] <= 0]
        for held in unannounced[:-PARTS_AT_ONCE + 1]:
            del self._held[held]
        return True

    def _fetch_ahead(self) -> None:
        """Begin with the next chunks, as many as may be held."""
        while self._ahead and len(self._held) < _NUM_WINDOWS * WINDOW_CHUNKS:
            chunk = self._ahead.popleft()
            if chunk not in self._held and self._remaining[chunk] > 0:
                self._submit(chunk)

    def _submit(self, chunk: int) -> Future[Bytes]:
        # made with the first fetch: a source that is only inspected starts no threads
        self._pool = self._pool or DaemonPool(PARTS_AT_ONCE, "imgcls-chunks")
        self._held[chunk] = future = self._pool.submit(self._fetch, chunk)
        return future

    def _fetch(self, chunk: int) -> Bytes:
        """Return the bytes of a chunk, in memory or as a view that reads from the cache's file."""
        file, begin, end = self._ranges[chunk]
        reader = self._readers[file]
        if self._in_memory:
            return memoryview(reader.path.read_range(begin, end))
        # the view keeps the stream open, and with it the cache's lock on the part
        stream = reader.cache.open(reader.path, begin, end, info=reader.info, announce=False)
        return FileView(RecordFile(reader.path, stream=stream))
