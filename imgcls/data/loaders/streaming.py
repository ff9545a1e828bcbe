"""Batches from encoded images, decoded as they are needed: the loader for data sets of any size.

Threads take jobs of a few images each and write them into the slots of a few uint8 batches, which are used again and
again: memory does not grow, and no more is prepared than these hold. What a batch holds is a pure function of (seed,
epoch, position): any number of threads gives the same bytes, and an epoch can begin at any batch.

With `--data-nthreads 0` all is done in the caller, with plain tracebacks. `make.py` chooses between this loader and the
resident one. The alternative would be torch's DataLoader, whose processes copy every batch once more.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from imgcls.config.sections import AugmentConfig
from imgcls.data import augment, decode, order
from imgcls.data.crops import CropSampler, Size
from imgcls.data.decode import BadImageError, Decoder, ImageInfo
from imgcls.data.loaders.batch import Batch
from imgcls.data.sources import Ordered, Source, allowed_bad, too_many_bad
from imgcls.errors import DataError, UsageError

#: images that a thread takes at a time: enough to plan them in one go, few enough to share a batch
JOB_IMAGES = 16
#: batches under way, at least; more where batches are small
SLOTS, SLOTS_BYTES = 4, 1 << 28
MOST_THREADS = 16
#: damaged samples that are named one by one
_NAMED = 5

_log = logging.getLogger(__name__)


@dataclass
class HostBatch:
    """A batch on its way: `pixels` uint8 (n, H, W, C), RGB, of `samples` (n,); good until the next one is taken."""

    indices: np.ndarray
    pixels: torch.Tensor
    slot: torch.Tensor
    #: which of the n are mirrored, enlarged to hold the crop, and good
    mirrored: np.ndarray
    enlarged: np.ndarray
    good: np.ndarray
    #: how many of the n count (0 where this process has nothing of a small batch), and of all processes together
    num_valid: int
    global_size: int
    problems: list[tuple[int, DataError]] = field(default_factory=list)
    jobs_left: int = 0
    error: BaseException | None = None


class StreamingLoader:
    """Batches of a Source of encoded images (or of uint8 arrays, for augmentation that the resident loader has not).

    Damaged samples are left out of their batch, which is then smaller: `valid` counts the good ones. Every sample comes
    once an epoch, and the last batch may be smaller.
    """

    def __init__(self, source: Source, *, batch_size: int, image_shape: Sequence[int], augment_config: AugmentConfig,
                 train: bool, seed: int, device: torch.device, threads: int | None = None, on_bad: str = "skip",
                 exact: bool = False, shard: order.Shard = order.NO_SHARD) -> None:
        """`threads` None: one per core, at most 16; 0: none. With `exact` nothing is decoded at less than full size."""
        if not len(source):
            raise UsageError(f"{source.description}: holds no images")
        if len(image_shape) != 3 or image_shape[0] not in (1, 3, 4):
            raise UsageError(f"`image_shape` {','.join(map(str, image_shape))}: images are decoded to C,H,W, "
                             "C being 1, 3 or 4")
        decode.prepare()
        self.shard = shard
        self.num_samples, self.batch_size = len(shard.of_epoch(np.arange(len(source)))), batch_size
        self.batches_per_epoch = -(-self.num_samples // batch_size)
        #: places of a slot: the largest piece of a batch
        self.largest = -(-batch_size // shard.num_parts)
        self.seconds = 0.0
        self.note = ""
        self.threads = cores() if threads is None else threads
        self.shape: tuple[int, int, int] = (image_shape[0], image_shape[1], image_shape[2])
        self.planner = CropSampler(augment_config, self.shape[1:], self.shape[0], seed=seed, train=train)
        self.source, self._train, self._seed, self._device, self._on_bad = source, train, seed, device, on_bad
        # MXNet's scripts never resized for validation: nobody's numbers change if we do it better than plain bilinear
        self._decoder = Decoder(self.shape, pad=self.planner.pad, fill_value=augment_config.fill_value, exact=exact,
                                reduce_resized=not train)
        self._normalize = augment.Normalizer(augment_config, self.shape[0], device, self.shape)
        self._labels = np.asarray(source.labels, dtype=np.int64)
        #: what the headers say of every sample, as far as they were looked at: 0 in the last column where not
        self._infos = np.zeros((len(source), 7), np.int32)
        self._slots: list[torch.Tensor] = []
        self._bad: dict[int, DataError] = {}
        self._enlarged: set[int] = set()
        self._told = False

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from `first_batch` on, float32 on the device, the same for any number of threads."""
        with Prefetcher(self, epoch, first_batch) as prefetcher, contextlib.ExitStack() as stack:
            copies: deque[tuple[HostBatch, Any]] = deque()
            stack.callback(lambda: [event.synchronize() for _, event in copies])
            for _ in range(first_batch, self.batches_per_epoch):
                started = time.perf_counter()
                filled = prefetcher.next_batch()
                batch = self._to_device(filled)
                if self._device.type == "cuda":
                    copies.append((filled, torch.cuda.current_stream(self._device).record_event()))
                    if len(copies) > 1:  # a slot is free when its copy has left it
                        done, event = copies.popleft()
                        event.synchronize()
                        prefetcher.recycle(done)
                else:
                    prefetcher.recycle(filled)  # on the CPU the normalised batch is a copy
                self.seconds += time.perf_counter() - started
                if batch.num_valid or self.shard.num_parts > 1:  # several processes take the same steps
                    yield batch
        self._tell_enlarged()

    def host_batches(self, epoch: int, first_batch: int = 0) -> Iterator[HostBatch]:
        """The same batches as bytes, damaged samples in their place: for benchmarks and for keeping."""
        with Prefetcher(self, epoch, first_batch) as prefetcher:
            for _ in range(first_batch, self.batches_per_epoch):
                filled = prefetcher.next_batch()
                yield filled
                prefetcher.recycle(filled)

    def info(self, index: int, data: bytes | memoryview | np.ndarray) -> ImageInfo:
        """What the header of sample `index` says, which is `data`; looked at once. Raises BadImageError."""
        row = self._infos[index]
        if row[6]:
            height, width, rows_at, block, is_jpeg, restarts, _ = row.tolist()
            return ImageInfo(height, width, rows_at, block, bool(is_jpeg), bool(restarts))
        info = ImageInfo(*data.shape[:2]) if isinstance(data, np.ndarray) else decode.inspect(data)
        row[:6] = info
        row[6] = 1  # last: another thread may be looking
        return info

    def fill(self, filled: HostBatch, epoch: int, first: int, last: int) -> None:
        """Prepare samples first .. last-1 of the batch. A damaged one is noted, and its place made black."""
        samples = filled.indices[first:last]
        datas: list[bytes | memoryview | np.ndarray | None] = []
        infos: list[ImageInfo] = []
        for place, index in enumerate(samples.tolist(), first):
            try:
                data = self.source.read(index)
                infos.append(self.info(index, data))
                datas.append(data)
            except (BadImageError, DataError) as error:
                self._note(filled, place, index, error)
                infos.append(ImageInfo())
                datas.append(None)
        sizes = np.array([info[:2] for info in infos], np.int64)
        known = np.flatnonzero(sizes[:, 0] > 0)
        plans = iter(self.planner.plans(epoch, samples[known], sizes[known])) if len(known) else iter(())
        slots = filled.pixels[first:last].numpy()
        for place, index in enumerate(samples.tolist(), first):
            data, info, slot = datas[place - first], infos[place - first], slots[place - first]
            plan = next(plans) if info.height else None
            if data is None:
                continue

            def replan(size: Size, index: int = index):
                return self.planner.plans(epoch, np.array([index]), np.array([size], np.int64))[0]

            try:
                plan = self._decoder(slot, data, info, plan, replan)
                filled.mirrored[place], filled.enlarged[place] = plan.mirror, plan.enlarge is not None
            except BadImageError as error:
                self._note(filled, place, index, error)

    def take_slots(self, count: int) -> list[torch.Tensor]:
        """`count` batches uint8 (batch_size, H, W, C) to write into, for the caller alone until they are given back."""
        channels, height, width = self.shape
        taken, self._slots = self._slots[:count], self._slots[count:]
        return taken + [torch.empty((self.largest, height, width, channels), dtype=torch.uint8,
                                    pin_memory=self._device.type == "cuda") for _ in range(count - len(taken))]

    def give_back_slots(self, slots: list[torch.Tensor]) -> None:
        self._slots += slots

    def epoch_indices(self, epoch: int) -> np.ndarray:
        """int64 (N,): the order of the epoch."""
        count = len(self.source)
        if not self._train:
            samples = np.arange(count)
        elif isinstance(self.source, Ordered):
            samples = self.source.order(self._seed, epoch)
        else:
            samples = order.permutation(self._seed, epoch, count)
        return self.shard.of_epoch(samples)

    def record_bad_samples(self, filled: HostBatch) -> None:
        """Count what was damaged or small in a batch that is handed on, in the order of the batches: so the end of
        patience comes at the same batch in every run."""
        for index, problem in sorted(filled.problems, key=lambda pair: pair[0]):
            if self._on_bad == "stop":
                raise problem
            if index not in self._bad:
                self._bad[index] = problem
                if len(self._bad) <= _NAMED:
                    _log.warning("left out: %s", problem)
                if len(self._bad) > allowed_bad(self.num_samples // self.shard.num_parts):
                    raise too_many_bad(list(self._bad.values()), self.num_samples, self.source.description)
        if filled.enlarged.any():
            self._enlarged.update(filled.indices[filled.enlarged].tolist())

    def _note(self, filled: HostBatch, place: int, index: int, error: BadImageError | DataError) -> None:
        problem = error if isinstance(error, DataError) else self.source.problem(index, str(error))
        filled.good[place] = False
        filled.pixels[place] = 0
        filled.problems.append((index, problem))

    def _to_device(self, filled: HostBatch) -> Batch:
        pixels, samples, mirrored = filled.pixels, filled.indices, filled.mirrored
        good, valid = filled.good, filled.num_valid
        if valid and not good.all():
            valid = int(good.sum())
            good = good if valid else np.arange(len(good)) == 0  # one that does not count, in place of nothing
            pixels, samples, mirrored = pixels[torch.from_numpy(good)], samples[good], mirrored[good]
        labels = torch.from_numpy(self._labels[samples])
        pixels = pixels.to(self._device, non_blocking=True)
        return Batch(self._normalize(pixels, mirrored), labels.to(self._device, non_blocking=True), valid, filled.global_size)

    def _tell_enlarged(self) -> None:
        """After the first whole epoch: how many images were smaller than the crop."""
        if self._enlarged and not self._told:
            _, height, width = self.shape
            _log.warning("%s: %d of %d images are smaller than the crop of %dx%d and were enlarged",
                         self.source.description, len(self._enlarged), self.num_samples, height, width)
        self._told = True


def cores() -> int:
    """Threads that prepare batches where the user said nothing: one for each core that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, MOST_THREADS)


class Prefetcher:
    """The threads of one epoch, and the batches they are at. `with` ends them, whatever happened."""

    def __init__(self, loader: StreamingLoader, epoch: int, first_batch: int) -> None:
        self._loader, self._epoch = loader, epoch
        self._order = loader.epoch_indices(epoch)
        self._next_batch = first_batch
        if isinstance(loader.source, Ordered):
            batches = range(first_batch, loader.batches_per_epoch)
            loader.source.prefetch(np.concatenate([np.zeros(0, np.int64), *(
                order.local_batch(self._order, number, loader.batch_size, loader.shard).indices for number in batches)]))
        per_thread = -(-2 * loader.threads * JOB_IMAGES // loader.largest)
        batch_bytes = loader.largest * math.prod(loader.shape)
        slots = max(per_thread + 2, SLOTS if SLOTS * batch_bytes < SLOTS_BYTES else 3) if loader.threads else 1
        slots = min(slots, max(loader.batches_per_epoch - first_batch, 1))
        self._slots = loader.take_slots(slots)
        self._free = list(self._slots)
        self._jobs: deque[tuple[HostBatch, int, int]] = deque()
        self._under_way: deque[HostBatch] = deque()
        self._stopped = False
        lock = threading.Lock()
        self._changed, self._finished = threading.Condition(lock), threading.Condition(lock)
        self._threads = [threading.Thread(target=self._work, name=f"imgcls-loader-{i}", daemon=True)
                         for i in range(loader.threads)]

    def __enter__(self) -> Prefetcher:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._loader.give_back_slots(self._slots)

    def next_batch(self) -> HostBatch:
        """The next batch of the epoch, ready; raises what went wrong while it was prepared."""
        with self._changed:
            self._open_batches()
        if not self._threads:
            while self._jobs:
                filled, first, last = self._jobs.popleft()
                self._loader.fill(filled, self._epoch, first, last)
                filled.jobs_left -= 1
        with self._finished:
            while self._under_way[0].jobs_left:
                self._finished.wait()
            filled = self._under_way.popleft()
        if filled.error:
            raise filled.error
        self._loader.record_bad_samples(filled)
        return filled

    def recycle(self, filled: HostBatch) -> None:
        """The slot of a batch that was taken may be used again."""
        with self._changed:
            self._free.append(filled.slot)
            self._open_batches()

    def _open_batches(self) -> None:
        """Lay out the jobs of as many batches as there are free slots."""
        loader = self._loader
        while self._free and self._next_batch < loader.batches_per_epoch:
            own = order.local_batch(self._order, self._next_batch, loader.batch_size, loader.shard)
            samples = own.indices
            self._next_batch += 1
            count, starts, slot = len(samples), range(0, len(samples), JOB_IMAGES), self._free.pop()
            filled = HostBatch(
                samples, slot[:count], slot, mirrored=np.zeros(count, bool), enlarged=np.zeros(count, bool),
                good=np.ones(count, bool), num_valid=own.num_valid, global_size=own.global_size, jobs_left=len(starts))
            self._under_way.append(filled)
            self._jobs += [(filled, first, min(first + JOB_IMAGES, len(samples))) for first in starts]
            self._changed.notify_all()

    def _work(self) -> None:
        if self._loader.planner.config.interpolation == "antialias":
            torch.set_num_threads(1)  # in this thread: it is torch that does it
        while True:
            with self._changed:
                while not self._jobs and not self._stopped:
                    self._changed.wait()
                if self._stopped:
                    return
                filled, first, last = self._jobs.popleft()
            error = None
            try:
                if not filled.error:
                    self._loader.fill(filled, self._epoch, first, last)
            except BaseException as raised:  # raised again where the batch is taken
                error = raised
            with self._changed:
                filled.error = filled.error or error
                filled.jobs_left -= 1
                if not filled.jobs_left:
                    self._finished.notify()
