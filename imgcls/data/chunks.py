"""Records of remote files that do not fit on the disk: read in chunks, shuffled chunk-wise, fetched ahead.

A chunk is a row of whole records, about 16 MB. An epoch's order is a pure function of (seed, epoch): the chunks of all
files in random order, and within every 16 neighbours (256 MB) all their records in random order. So each record comes
once an epoch, in large requests, and what is under way are two such windows. `RecordSource` reads through this.

A chunk is kept in the cache like any other piece of a remote file while there is room, so that the processes of one
machine fetch it once; where the cache is too small even for that, in memory.
"""

from __future__ import annotations

import mmap
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np

from imgcls.data import order
from imgcls.errors import DataError
from imgcls.formats.ranges import RangedReader
from imgcls.storage.remote import PARTS_AT_ONCE
from imgcls.storage.thread_pool import DaemonPool

#: a chunk has this many bytes, or one record
CHUNK_BYTES = 16 << 20
#: as many chunks are shuffled together
WINDOW_CHUNKS = 16


class Chunks:
    """The records of several files by number, from 0 through all of them."""

    def __init__(self, readers: Sequence[RangedReader], files: np.ndarray, numbers: np.ndarray) -> None:
        """Sample i is record `numbers[i]` of `readers[files[i]]`; both int64 (N,), files rising."""
        self._readers, self._files, self._numbers = readers, files, numbers
        begins = np.concatenate([reader.offsets for reader in readers]) if len(readers) else np.zeros(0, np.int64)
        bases = np.cumsum([0, *(len(reader) for reader in readers)])
        offsets = begins[bases[files] + numbers]
        #: chunk of each sample; (file, first byte, end) of each chunk
        keys = np.stack([files, offsets // CHUNK_BYTES])
        new = np.append(True, (keys[:, 1:] != keys[:, :-1]).any(0)) if len(files) else np.zeros(0, bool)
        self.of_sample = np.cumsum(new) - 1
        firsts = np.flatnonzero(new)
        lasts = np.append(firsts[1:], len(files))[:len(firsts)] - 1
        self._ranges = [(int(files[a]), int(offsets[a]), readers[int(files[b])].ends.item(int(numbers[b])))
                        for a, b in zip(firsts, lasts, strict=True)]
        self._in_memory = any(reader.cache.limit_bytes < 4 * WINDOW_CHUNKS * CHUNK_BYTES for reader in readers)
        self._lock = threading.Lock()
        self._pool: DaemonPool | None = None
        self._held: dict[int, Future[memoryview]] = {}
        self._remaining = np.zeros(len(self._ranges), np.int64)
        self._ahead: deque[int] = deque()
        self._singles: dict[int, int] = {}

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """int64 (N,): the samples in the order of the epoch, each once."""
        count = len(self.of_sample)
        place = np.empty(len(self._ranges), np.int64)
        place[order.permutation(seed, epoch, len(self._ranges))] = np.arange(len(self._ranges))
        window = place[self.of_sample] // WINDOW_CHUNKS
        mixed = order.permutation(seed, epoch, count)
        return mixed[np.argsort(window[mixed], kind="stable")]

    def prefetch(self, samples: np.ndarray) -> None:
        """From now on these are read, each once and about in this order: begin to fetch."""
        chunks = self.of_sample[samples]
        wanted, firsts = np.unique(chunks, return_index=True)
        with self._lock:
            self._remaining[:] = np.bincount(chunks, minlength=len(self._remaining))
            self._held = {chunk: future for chunk, future in self._held.items() if self._remaining[chunk]}
            self._ahead = deque(wanted[np.argsort(firsts)].tolist())
            self._singles = {}
            self._fetch_ahead()

    def read(self, i: int) -> memoryview | bytes:
        """The payload of sample `i`."""
        chunk = int(self.of_sample[i])
        reader, number = self._readers[int(self._files[i])], int(self._numbers[i])
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
                self._held.pop(chunk, None)
                self._fetch_ahead()
        return payload

    def _should_cache(self, chunk: int) -> bool:
        """Whether an unexpected read of the chunk is not the first: then it is worth having the whole. Of such chunks
        a few are kept."""
        self._singles[chunk] = self._singles.get(chunk, 0) + 1
        if self._singles[chunk] < 2:
            return False
        unexpected = [held for held in self._held if self._remaining[held] <= 0]
        for held in unexpected[:-PARTS_AT_ONCE + 1]:
            del self._held[held]
        return True

    def _fetch_ahead(self) -> None:
        while self._ahead and len(self._held) < 2 * WINDOW_CHUNKS:
            chunk = self._ahead.popleft()
            if chunk not in self._held and self._remaining[chunk] > 0:
                self._submit(chunk)

    def _submit(self, chunk: int) -> Future[memoryview]:
        self._pool = self._pool or DaemonPool(PARTS_AT_ONCE, "imgcls-chunks")
        self._held[chunk] = future = self._pool.submit(self._fetch, chunk)
        return future

    def _fetch(self, chunk: int) -> memoryview:
        file, begin, end = self._ranges[chunk]
        reader = self._readers[file]
        if self._in_memory:
            return memoryview(reader.path.read_range(begin, end))
        with reader.cache.open(reader.path, begin, end, info=reader.info, announce=False) as stream:
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
