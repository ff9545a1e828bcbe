"""Threads that fill the batches of an epoch ahead of their use.

A `Prefetcher` gets the samples of each batch, some buffers, and a callable that fills rows of a batch. It
depends on no loader, source or image. All its methods are called from one thread, the loader's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future

import torch

from imgcls.data.loaders.host_batch import HostBatch, host_batch
from imgcls.data.order import LocalBatch
from imgcls.storage.thread_pool import DaemonPool

#: prepares rows first .. end-1 of a batch
FillRows = Callable[[HostBatch, int, int], None]
#: images that a thread takes at a time: enough to draw their crops in one call, few enough to share a batch
JOB_IMAGES = 16
#: the same for images that are kept decoded, which are cut in less time than their crops are drawn
JOB_KEPT_IMAGES = 64


class Prefetcher:
    """The batches of an epoch, in order, prepared by threads as far ahead as there are buffers.

    With no threads each batch is prepared when it is requested, by the caller. Leaving its `with` block ends
    the threads, also after an error.
    """

    def __init__(self, fill: FillRows, local_batches: Iterable[LocalBatch],
                 buffers: Sequence[torch.Tensor], num_threads: int, job_images: int = JOB_IMAGES) -> None:
        """Many threads call `fill` at a time, each for other rows, at most `job_images`."""
        self._job_images = job_images
        self._fill = fill
        self._local_batches = iter(local_batches)
        self._free = list(buffers)
        self._started: deque[tuple[HostBatch, list[Future[None]]]] = deque()
        # An epoch has its own threads, so that leaving it in the middle leaves nothing behind.
        self._pool = DaemonPool(num_threads, "imgcls-loader") if num_threads else None

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._pool:
            self._pool.close()

    def next_batch(self) -> HostBatch:
        """Return the next batch of the epoch, all rows filled; raise the error of filling it.

        To be called once for each of the local batches.
        """
        self._start_batches()
        batch, jobs = self._started.popleft()
        for job in jobs:  # in the order of the rows: of several errors always the same one is raised
            job.result()
        return batch

    def recycle(self, batch: HostBatch) -> None:
        """Use the buffer of a batch again, which nothing reads any more."""
        self._free.append(batch.buffer)
        if self._pool:  # the threads have something to do while the caller trains
            self._start_batches()

    def _start_batches(self) -> None:
        """Begin with as many batches as there are free buffers."""
        while self._free:
            local = next(self._local_batches, None)
            if local is None:
                return
            batch = host_batch(local, self._free.pop())
            count = len(batch.indices)
            jobs = []
            for first in range(0, count, self._job_images):
                end = min(first + self._job_images, count)
                if self._pool:
                    jobs.append(self._pool.submit(self._fill, batch, first, end))
                else:  # in the caller, with a plain traceback
                    self._fill(batch, first, end)
            self._started.append((batch, jobs))
