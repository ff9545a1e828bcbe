"""Batches from encoded images, decoded as they are needed: the loader for data sets of any size.

Composed of parts: the order of the epoch (`order.py`), a `SamplePreparer` that fills rows of a batch, a
`Prefetcher` whose threads call it, a `BufferPool`, and a `BadSampleLog`. Memory does not grow, and no more is
prepared than the buffers hold. What a batch holds is a pure function of (seed, epoch, position): any number
of threads gives the same bytes, and an epoch can begin at any batch.

With `data_nthreads` 0 all is done in the caller, with plain tracebacks. `make.py` chooses between this loader
and the resident one. The alternative would be torch's DataLoader, whose processes copy every batch once more.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from imgcls.config.flags import show
from imgcls.config.sections import AugmentConfig
from imgcls.data import opencv, order
from imgcls.data.bad_samples import BadSampleLog, max_bad_samples
from imgcls.data.crops import CropSampler
from imgcls.data.decode import Decoder
from imgcls.data.decoded import crops, images
from imgcls.data.decoded.pixel_file import PixelFile
from imgcls.data.decoded.segment import Segment
from imgcls.data.erasing import erase
from imgcls.data.gpu_jpeg import GpuJpegDecoder
from imgcls.data.loaders.batch import Batch, rows_to_mix
from imgcls.data.loaders.host_batch import BufferPool, HostBatch
from imgcls.data.loaders.prefetcher import JOB_IMAGES, JOB_KEPT_IMAGES, FillRows, Prefetcher
from imgcls.data.loaders.preparer import SamplePreparer
from imgcls.data.normalize import Normalizer
from imgcls.data.sampling import EACH_ONCE, Sampling
from imgcls.data.sources import ArraySource, Copied, Ordered, Source
from imgcls.errors import UsageError, printable, verbatim
from imgcls.storage import cores

#: least number of batches in preparation: fewer where this many take more bytes, more where batches are small
MIN_BUFFERS, MAX_BUFFER_BYTES = 4, 1 << 28
#: the same for the largest batches: one is filled, one waits, one is copied to the device
_LEAST_BUFFERS = 3
#: more threads than this wait for memory and for each other
MAX_THREADS = 16

_log = logging.getLogger(__name__)


class StreamingLoader:
    """Batches of a Source of encoded images, or of uint8 arrays for what the resident loader does not do.

    Damaged samples are left out of their batch, which is then smaller: `num_valid` counts the good ones.
    Every sample comes once an epoch, unless `sampling` says otherwise, and the last batch may be smaller.
    """

    def __init__(self, source: Source, *, batch_size: int, image_shape: Sequence[int],
                 augment_config: AugmentConfig, train: bool, seed: int, device: torch.device,
                 threads: int | None = None, on_bad: str = "skip", exact: bool = False,
                 shard: order.Shard = order.NO_SHARD,
                 sampling: Sampling = EACH_ONCE) -> None:
        """`threads` None: one per core, at most 16; 0: none. With `exact` nothing is decoded smaller."""
        if not len(source):
            raise UsageError(f"{verbatim(source.description)}: holds no images")
        if len(image_shape) != 3 or image_shape[0] not in (1, 3, 4):
            raise UsageError(f"`image_shape` {show(image_shape)}: images are decoded to C,H,W, "
                             "C being 1, 3 or 4")
        opencv.prepare()
        self.source = source
        self.shard = shard
        self.num_samples = shard.num_of_epoch(len(source))
        self.batch_size = batch_size
        self.batches_per_epoch = -(-self.num_samples // batch_size)
        #: see `Loader`
        self.seconds = 0.0
        self.note = ""
        #: 0: everything in the caller
        self.threads = num_cores() if threads is None else threads
        self._train = train
        self._seed = seed
        self._device = device
        self._labels = np.asarray(source.labels, dtype=np.int64)
        sampling.check(source)
        self._orders = sampling.orders(self._labels, batch_size)
        channels, height, width = image_shape
        self._crops = CropSampler(augment_config, (height, width), channels, seed=seed, train=train)
        # MXNet's scripts never resized for validation: there are no numbers of theirs to repeat, so it is
        # done better there than by plain bilinear over every tenth pixel.
        decoder = Decoder((channels, height, width), pad=self._crops.pad, exact=exact,
                          pad_mode=augment_config.pad_mode, fill_value=augment_config.fill_value,
                          reduce_resized=not train,
                          keeps_resized=augment_config.interpolation in ("bilinear", "antialias", "nearest"))
        self.preparer = SamplePreparer(source, self._crops, decoder)
        self._normalize = Normalizer(augment_config, channels, device, image_shape)
        # rows of a buffer: the largest part of a batch
        num_rows = -(-batch_size // shard.parts_per_batch) + shard.has_extra_row
        self._buffer_shape = (num_rows, height, width, channels)
        #: kept between epochs: to allocate and pin them anew would take as long as some batches
        self.buffers = BufferPool(self._buffer_shape, pinned=device.type == "cuda")
        # each process counts its own: together they allow as many as one would
        self._bad_samples = BadSampleLog(
            description=source.description, num_samples=self.num_samples, on_bad=on_bad,
            limit=max_bad_samples(self.num_samples // shard.parts_per_batch))
        # indices instead of a count: a sample that comes in many epochs is one image
        self._enlarged: set[int] = set()
        self._has_told_enlarged = False

    @property
    def bad_indices(self) -> list[int]:
        """The samples that were found damaged so far, and are in no batch."""
        return self._bad_samples.indices

    @property
    def can_keep(self) -> bool:
        """Whether there is anything to keep decoded; records read in chunks are more than the disk holds."""
        return not isinstance(self.source, (ArraySource, Ordered))

    def kept_bytes(self) -> tuple[int, int]:
        """Return how many bytes the tables of a decoded cache of the source take, and about how many the
        pixels of each sample."""
        if self._train:
            return images.table_bytes(len(self.source)), self.preparer.typical_bytes()
        return crops.table_bytes(len(self.source)), math.prod(self._buffer_shape[1:])

    def decode_on_gpu(self) -> None:
        """Have the GPU decode what it can from now on, as `check_gpu_jpeg` allows."""
        _, height, width, channels = self._buffer_shape
        self.preparer.decode_on_gpu(GpuJpegDecoder((channels, height, width), self._device))

    def disk_table_bytes(self) -> tuple[int, int]:
        """Return what the tables of a cache on a disk take in memory, and how much of that is saved."""
        return (images if self._train else crops).disk_table_bytes(len(self.source))

    def kept_settings(self) -> str:
        """Return a text of the settings that the kept pixels depend on."""
        config = self._crops.config
        # a whole image depends on none of them, unless it is resized first; where it is cut is drawn anew
        method = config.interpolation if config.resize or not self._train else ""
        return f"{self._train} {self._buffer_shape[3 if self._train else 1:]} {config.resize} {method}"

    def keep_in(self, segment: Segment, file: PixelFile | None = None,
                limit: int = 0) -> images.ImageCache | crops.CropCache:
        """Keep what is decoded from now on in this memory, or in at most `limit` bytes of `file`.

        The batches stay the same.
        """
        _, height, width, channels = self._buffer_shape
        count = len(self.source)
        cache = (images.ImageCache(segment, count, channels, file, limit) if self._train else
                 crops.CropCache(segment, count, (height, width, channels), file, limit))
        self.preparer.keep(cache)
        return cache

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """Yield the batches from `first_batch` on, float32 on the device, alike for any number of threads."""
        with self._prefetcher(epoch, first_batch) as prefetcher, contextlib.ExitStack() as stack:
            copies: deque[tuple[HostBatch, Any]] = deque()
            # Buffers go back to the pool only when the device has read them, also where the epoch is left.
            stack.callback(lambda: [event.synchronize() for _, event in copies])
            for _ in range(first_batch, self.batches_per_epoch):
                started = time.perf_counter()
                host = self._next_batch(prefetcher)
                batch = self.to_device(host)
                if self._device.type == "cuda":
                    copies.append((host, torch.cuda.current_stream(self._device).record_event()))
                    if len(copies) > 1:  # waiting for the copy before: this one continues in the background
                        copied, event = copies.popleft()
                        event.synchronize()
                        prefetcher.recycle(copied)
                else:
                    prefetcher.recycle(host)  # on the CPU the normalised batch is a copy
                self.seconds += time.perf_counter() - started
                if batch.num_valid or self.shard.parts_per_batch > 1:  # several processes take the same steps
                    yield batch
        self._tell_enlarged()

    def host_batches(self, epoch: int, first_batch: int = 0) -> Generator[HostBatch, None, None]:
        """Yield the same batches as bytes, not normalised, with a black row for each damaged sample.

        Each is valid until the next one is requested.
        """
        with self._prefetcher(epoch, first_batch) as prefetcher:
            for _ in range(first_batch, self.batches_per_epoch):
                host = self._next_batch(prefetcher)
                yield host
                prefetcher.recycle(host)

    def epoch_indices(self, epoch: int) -> np.ndarray:
        """Return int64 (N,): the samples of this shard in the order of the epoch."""
        count = len(self.source)
        if not self._train:
            indices = np.arange(count)
        elif isinstance(self.source, Ordered):
            indices = self.source.order(self._seed, epoch)
        else:
            indices = self._orders.permutation(self._seed, epoch, count)
        return self.shard.of_epoch(indices)

    @contextlib.contextmanager
    def _prefetcher(self, epoch: int, first_batch: int) -> Iterator[Prefetcher]:
        """Lend the buffers to a prefetcher for the rest of an epoch."""
        indices = self.epoch_indices(epoch)
        numbers = range(first_batch, self.batches_per_epoch)

        def local_batches() -> Iterator[order.LocalBatch]:
            return (order.local_batch(indices, number, self.batch_size, self.shard) for number in numbers)

        # before the threads read the first sample: a remote source begins to fetch
        is_partial = isinstance(self.source, Copied) and not self.source.is_copied
        if is_partial or isinstance(self.source, Ordered):
            needed = np.concatenate([np.zeros(0, np.int64), *(local.indices for local in local_batches())])
            if isinstance(self.source, Ordered):
                self.source.prefetch(needed)
            elif isinstance(self.source, Copied):
                self.source.expect(needed)

        def fill(batch: HostBatch, first: int, end: int) -> None:
            self.preparer.prepare(batch, first, end, epoch)

        uses_torch = self.threads and self._crops.config.interpolation == "antialias"
        buffers = self.buffers.take(min(self._num_buffers(), max(len(numbers), 1)))
        try:
            with Prefetcher(_in_one_torch_thread(fill) if uses_torch else fill, local_batches(), buffers,
                            self.threads, self._job_images()) as prefetcher:
                yield prefetcher
        finally:
            self.buffers.put_back(buffers)

    def _num_buffers(self) -> int:
        """Return how many batches are in preparation at a time."""
        if not self.threads:
            return 1
        # two jobs a thread, so that none waits for a batch to be begun; and those that wait and are copied
        num_batches = -(-2 * self.threads * self._job_images() // self._buffer_shape[0]) + 2
        fits = MIN_BUFFERS * math.prod(self._buffer_shape) < MAX_BUFFER_BYTES
        return max(num_batches, MIN_BUFFERS if fits else _LEAST_BUFFERS)

    def _job_images(self) -> int:
        """Return how many images a thread takes at a time."""
        if not self.preparer.is_keeping:
            return JOB_IMAGES
        # each thread has something to do in every batch
        return min(max(self._buffer_shape[0] // max(self.threads, 1), JOB_IMAGES), JOB_KEPT_IMAGES)

    def _next_batch(self, prefetcher: Prefetcher) -> HostBatch:
        """Return the next batch, and count the damaged and the enlarged images in it."""
        batch = prefetcher.next_batch()
        # Here and not in the threads: batches come in order, so a run always stops at the same one.
        self._bad_samples.record(batch.problems)
        if batch.enlarged.any():
            self._enlarged.update(batch.indices[batch.enlarged].tolist())
        return batch

    def to_device(self, host: HostBatch) -> Batch:
        """Return the batch without its damaged samples, normalised on the device."""
        pixels, indices, mirrored, num_valid = host.pixels, host.indices, host.mirrored, host.num_valid
        good, partners, erased = host.good, host.partners, host.erased
        if num_valid and not good.all():
            num_valid = int(good[:num_valid].sum())
            partners = None if partners is None else order.remaining_partners(partners, good)
            if not num_valid:
                good = np.arange(len(good)) == 0  # one row that does not count, since a batch is never empty
            pixels, indices, mirrored = pixels[torch.from_numpy(good)], indices[good], mirrored[good]
            erased = erased[good]
        # bytes go to the device, a quarter of the floats that they become there
        labels = torch.from_numpy(self._labels[indices])
        normalized = self._normalize(pixels.to(self._device, non_blocking=True), mirrored)
        if erased.any():
            erase(normalized, erased)
        return Batch(normalized, labels.to(self._device, non_blocking=True), num_valid, host.global_size,
                     partners=rows_to_mix(partners, num_valid, self._device))

    def _tell_enlarged(self) -> None:
        """Log after the first full epoch how many images were smaller than the crop."""
        if self._enlarged and not self._has_told_enlarged:
            _, height, width, _ = self._buffer_shape
            _log.warning("%s: %d of %d images are smaller than the crop of %dx%d and were enlarged",
                         printable(self.source.description), len(self._enlarged), self.num_samples, height,
                         width)
        self._has_told_enlarged = True


def num_cores() -> int:
    """Return the default of `data_nthreads`: one for each core that the process may use, at most 16."""
    # not os.cpu_count: containers and batch systems give a process some of the machine's cores
    return min(cores.num_usable(), MAX_THREADS)


def _in_one_torch_thread(fill: FillRows) -> FillRows:
    """Return `fill` such that torch, which resizes with antialiasing, starts no threads beside ours in it."""

    def fill_in_one_thread(batch: HostBatch, first: int, end: int) -> None:
        torch.set_num_threads(1)  # of the calling thread; costs a microsecond where it is so already
        fill(batch, first, end)

    return fill_in_one_thread
