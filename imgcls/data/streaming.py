"""Batches from encoded images, decoded as they are needed: the loader for data sets of any size.

Threads take jobs of a few images each and write them into the slots of a few uint8 batches, which are used again and
again: memory does not grow, and no more is prepared than these hold. What a batch holds is a pure function of (seed,
epoch, position): any number of threads gives the same bytes, and an epoch can begin at any batch.

`make_loader` is what the commands call: it decodes a small set of small images once and for all, if its augmentation
allows it, and gives it to the resident loader. With `--data-nthreads 0` all is done in the caller, with plain
tracebacks. This is the alternative to torch's DataLoader, whose processes copy every batch once more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imgcls.data import augment, decode, order
from imgcls.data.decode import BadImageError, Decoder, Info
from imgcls.data.loader import Batch, Loader, ResidentLoader
from imgcls.data.plan import Planner, Size
from imgcls.data.sources import ArraySource, Source, allowed_bad, too_many_bad
from imgcls.errors import DataError, UsageError
from imgcls.formats import params
from imgcls.sections import AugmentConfig

#: images that a thread takes at a time: enough to plan them in one go, few enough to share a batch
JOB_IMAGES = 16
#: batches under way, at least; more where batches are small
SLOTS, SLOTS_BYTES = 4, 1 << 28
#: decoded sets up to this size are kept in memory
RESIDENT_BYTES = 1 << 30
MOST_THREADS = 16
#: damaged samples that are named one by one
_NAMED = 5

_log = logging.getLogger(__name__)


@dataclass
class Filled:
    """A batch on its way: `pixels` uint8 (n, H, W, C), RGB, of `samples` (n,); good until the next one is taken."""

    number: int
    samples: np.ndarray
    pixels: torch.Tensor
    slot: int
    #: which of the n are mirrored, enlarged to hold the crop, and good
    mirrored: np.ndarray
    enlarged: np.ndarray
    good: np.ndarray
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
                 exact: bool = False) -> None:
        """`threads` None: one per core, at most 16; 0: none. With `exact` nothing is decoded at less than full size."""
        if not len(source):
            raise UsageError(f"{source.description}: holds no images")
        if len(image_shape) != 3 or image_shape[0] not in (1, 3, 4):
            raise UsageError(f"--image-shape {','.join(map(str, image_shape))}: images are decoded to C,H,W with 1, 3 or "
                             "4 channels")
        decode.prepare()
        self.num_samples, self.batch_size = len(source), batch_size
        self.batches_per_epoch = -(-self.num_samples // batch_size)
        self.seconds = 0.0
        self.note = ""
        self.threads = cores() if threads is None else threads
        self.shape: tuple[int, int, int] = (image_shape[0], image_shape[1], image_shape[2])
        self.planner = Planner(augment_config, self.shape[1:], self.shape[0], seed=seed, train=train)
        self.source, self._train, self._seed, self._device, self._on_bad = source, train, seed, device, on_bad
        self._decoder = Decoder(self.shape, pad=self.planner.pad, fill_value=augment_config.fill_value, exact=exact)
        self._normalize = augment.Normalizer(augment_config, self.shape[0], device, self.shape)
        self._labels = np.asarray(source.labels, dtype=np.int64)
        #: what the headers say of every sample, as far as they were looked at: 0 in the last column where not
        self._infos = np.zeros((len(source), 6), np.int32)
        self._slots: list[torch.Tensor] = []
        self._bad: dict[int, DataError] = {}
        self._enlarged: set[int] = set()
        self._told = False

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from `first_batch` on, float32 on the device, the same for any number of threads."""
        with _Crew(self, epoch, first_batch) as crew, contextlib.ExitStack() as stack:
            copies: deque[tuple[Filled, torch.cuda.Event]] = deque()
            stack.callback(lambda: [event.synchronize() for _, event in copies])
            for _ in range(first_batch, self.batches_per_epoch):
                started = time.perf_counter()
                filled = crew.take()
                batch = self._to_device(filled)
                if self._device.type == "cuda":
                    copies.append((filled, torch.cuda.current_stream(self._device).record_event()))
                    if len(copies) > 1:  # a slot is free when its copy has left it
                        done, event = copies.popleft()
                        event.synchronize()
                        crew.release(done)
                else:
                    crew.release(filled)  # on the CPU the normalised batch is a copy
                self.seconds += time.perf_counter() - started
                if batch.valid:
                    yield batch
        self._tell_enlarged()

    def filled(self, epoch: int, first_batch: int = 0) -> Iterator[Filled]:
        """The same batches as bytes, damaged samples in their place: for benchmarks and for keeping."""
        with _Crew(self, epoch, first_batch) as crew:
            for _ in range(first_batch, self.batches_per_epoch):
                filled = crew.take()
                yield filled
                crew.release(filled)

    def info(self, index: int, data: bytes | memoryview | None = None) -> Info:
        """What the header of sample `index` says; read once. Raises BadImageError and DataError."""
        row = self._infos[index]
        if row[5]:
            height, width, rows_at, block, is_jpeg, _ = row.tolist()
            return Info(height, width, rows_at, block, bool(is_jpeg))
        found = self.source.read(index) if data is None else data
        info = Info(*found.shape[:2]) if isinstance(found, np.ndarray) else decode.inspect(found)
        row[:5] = info
        row[5] = 1  # last: another thread may be looking
        return info

    def sizes(self, indices: Sequence[int]) -> np.ndarray:
        """int64 (n, 2): height and width of those samples whose header tells them."""
        found = []
        for index in indices:
            try:
                info = self.info(index)
            except (BadImageError, DataError):
                continue
            if info.height:
                found.append(info[:2])
        return np.array(found, np.int64).reshape(-1, 2)

    def begin(self, number: int, samples: np.ndarray, slot: int) -> Filled:
        """Batch `number` with nothing in it yet."""
        count = len(samples)
        return Filled(number, samples, self._slots[slot][:count], slot, *(np.zeros(count, bool) for _ in range(2)),
                      np.ones(count, bool))

    def fill(self, filled: Filled, epoch: int, first: int, last: int) -> None:
        """Prepare samples first .. last-1 of the batch. A damaged one is noted, and its place left as it is."""
        samples = filled.samples[first:last]
        datas: list[bytes | memoryview | np.ndarray | None] = []
        infos: list[Info] = []
        for place, index in enumerate(samples.tolist(), first):
            try:
                data = self.source.read(index)
                infos.append(self.info(index, data))
                datas.append(data)
            except (BadImageError, DataError) as error:
                self._note(filled, place, index, error)
                infos.append(Info())
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

    def allocate(self, count: int) -> None:
        """Have `count` slots; those that there are stay."""
        channels, height, width = self.shape
        while len(self._slots) < count:
            self._slots.append(torch.empty((self.batch_size, height, width, channels), dtype=torch.uint8,
                                           pin_memory=self._device.type == "cuda"))

    def samples_of(self, epoch: int) -> np.ndarray:
        """int64 (N,): the order of the epoch."""
        if self._train:
            return order.permutation(self._seed, epoch, self.num_samples)
        return np.arange(self.num_samples)

    def take_up(self, filled: Filled) -> None:
        """Count what was damaged or small in a batch that is handed on, in the order of the batches: so the end of
        patience comes at the same batch in every run."""
        for index, problem in sorted(filled.problems, key=lambda pair: pair[0]):
            if self._on_bad == "stop":
                raise problem
            if index not in self._bad:
                self._bad[index] = problem
                if len(self._bad) <= _NAMED:
                    _log.warning("left out: %s", problem)
                if len(self._bad) > allowed_bad(self.num_samples):
                    raise too_many_bad(list(self._bad.values()), self.num_samples, self.source.description)
        if filled.enlarged.any():
            self._enlarged.update(filled.samples[filled.enlarged].tolist())

    def _note(self, filled: Filled, place: int, index: int, error: BadImageError | DataError) -> None:
        problem = error if isinstance(error, DataError) else self.source.problem(index, str(error))
        filled.good[place] = False
        filled.problems.append((index, problem))

    def _to_device(self, filled: Filled) -> Batch:
        pixels, samples, mirrored = filled.pixels, filled.samples, filled.mirrored
        good = filled.good
        if not good.all():
            pixels, samples, mirrored = pixels[torch.from_numpy(good)], samples[good], mirrored[good]
        labels = torch.from_numpy(self._labels[samples])
        pixels = pixels.to(self._device, non_blocking=True)
        return Batch(self._normalize(pixels, mirrored), labels.to(self._device, non_blocking=True), len(samples))

    def _tell_enlarged(self) -> None:
        """After the first whole epoch: how many images were smaller than the crop."""
        if self._enlarged and not self._told:
            _, height, width = self.shape
            _log.warning("%s: %d of %d images are smaller than the crop of %dx%d and were enlarged",
                         self.source.description, len(self._enlarged), self.num_samples, height, width)
        self._told = True


class _Crew:
    """The threads of one epoch, and the batches they are at. `with` ends them, whatever happened."""

    def __init__(self, loader: StreamingLoader, epoch: int, first_batch: int) -> None:
        self._loader, self._epoch = loader, epoch
        self._order = loader.samples_of(epoch)
        self._next_batch = first_batch
        per_thread = -(-2 * loader.threads * JOB_IMAGES // loader.batch_size)
        batch_bytes = loader.batch_size * math.prod(loader.shape)
        slots = max(per_thread + 2, SLOTS if SLOTS * batch_bytes < SLOTS_BYTES else 3) if loader.threads else 1
        slots = min(slots, max(loader.batches_per_epoch - first_batch, 1))
        loader.allocate(slots)
        self._free = list(range(slots))
        self._jobs: deque[tuple[Filled, int, int]] = deque()
        self._under_way: deque[Filled] = deque()
        self._stopped = False
        lock = threading.Lock()
        self._changed, self._finished = threading.Condition(lock), threading.Condition(lock)
        self._threads = [threading.Thread(target=self._work, name=f"imgcls-loader-{i}", daemon=True)
                         for i in range(loader.threads)]

    def __enter__(self) -> _Crew:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def take(self) -> Filled:
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
        self._loader.take_up(filled)
        return filled

    def release(self, filled: Filled) -> None:
        """The slot of a batch that was taken may be used again."""
        with self._changed:
            self._free.append(filled.slot)
            self._open_batches()

    def _open_batches(self) -> None:
        """Lay out the jobs of as many batches as there are free slots."""
        loader = self._loader
        while self._free and self._next_batch < loader.batches_per_epoch:
            samples = self._order[self._next_batch * loader.batch_size:(self._next_batch + 1) * loader.batch_size]
            filled = loader.begin(self._next_batch, samples, self._free.pop())
            self._next_batch += 1
            starts = range(0, len(samples), JOB_IMAGES)
            filled.jobs_left = len(starts)
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


def make_loader(source: Source, *, batch_size: int, image_shape: Sequence[int], augment_config: AugmentConfig,
                train: bool, seed: int, device: torch.device, threads: int | None = None,
                on_bad: str = "skip") -> Loader:
    """The loader that suits the source and the augmentation; its `note` says what is done to the images.

    Arrays, and encoded images that are all of one size and fit in memory, go to the resident loader where it can do
    what is asked for; everything else is streamed.
    """
    whole: dict[str, Any] = {"batch_size": batch_size, "image_shape": image_shape, "train": train, "seed": seed,
                             "device": device}
    config, note = augment_config, ""
    if isinstance(source, ArraySource):
        if _resident(config, source, image_shape, train):
            return ResidentLoader(source, augment_config=config, **whole)
        if source.images.ndim != 4 or source.images.dtype != np.uint8:
            raise UsageError(f"{source.description}: of the augmentation only border, crop and mirror are for numbers "
                             f"like these ({source.images.dtype}, {source.images.ndim} dimensions)")
    else:
        config, note = _sized(config, source, image_shape, train)
    if train and config.mean_image and not Path(config.mean_image).exists():
        make_mean_image(config.mean_image, source, image_shape, config, threads, on_bad)
    kept = None
    if not isinstance(source, ArraySource) and _resident(config, source, image_shape, train):
        kept = _decoded(source, image_shape, threads, on_bad)
    if kept is not None:
        loader: Loader = ResidentLoader(kept, augment_config=config, **whole)
        loader.note = ", ".join(filter(None, (
            loader.note, f"decoded once and kept in memory ({kept.images.nbytes / 1e6:.0f} MB)")))
        return loader
    loader = StreamingLoader(source, augment_config=config, threads=threads, on_bad=on_bad, **whole)
    loader.note = note
    return loader


def cores() -> int:
    """Threads that prepare batches where the user said nothing: one for each core that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, MOST_THREADS)


def make_mean_image(path: str, source: Source, image_shape: Sequence[int], config: AugmentConfig,
                    threads: int | None, on_bad: str) -> None:
    """Write the mean of the centre crops of all images, as MXNet does where `mean_img` names no file yet."""
    plain = AugmentConfig(val_resize=config.resize, interpolation=config.interpolation)
    loader = StreamingLoader(source, batch_size=128, image_shape=image_shape, augment_config=plain, train=False, seed=0,
                             device=torch.device("cpu"), threads=threads, on_bad=on_bad)
    total, count = torch.zeros(image_shape[1], image_shape[2], image_shape[0], dtype=torch.int64), 0
    for filled in loader.filled(0):
        good = torch.from_numpy(filled.good)
        total += filled.pixels[good].sum(0)
        count += int(good.sum())
    mean = (total.double() / max(count, 1)).permute(2, 0, 1).float().contiguous().numpy()
    params.save(path, {"mean_img": mean})
    _log.warning("%s: made the mean image %s", source.description, path)


def _resident(config: AugmentConfig, source: Source, image_shape: Sequence[int], train: bool) -> bool:
    """Whether the resident loader can do what is asked for."""
    if config.mean_image:
        return False
    if isinstance(source, ArraySource) and (not train or len(image_shape) != 3):
        return not config.val_resize
    return Planner(config, (image_shape[1], image_shape[2]), image_shape[0], seed=0, train=train).simple


def _sized(config: AugmentConfig, source: Source, image_shape: Sequence[int],
           train: bool) -> tuple[AugmentConfig, str]:
    """Decide on --val-resize where the user did not, by the size of the images; the text says what is done and why."""
    crop = max(image_shape[1:])
    edge = _typical_edge(source)
    if train:
        shrunk = config.resize or config.random_resized_crop or config.max_crop_size != -1
        if edge > 1.5 * crop and not shrunk and config.max_random_scale == 1:
            return config, (f"cut at {image_shape[1]}x{image_shape[2]} from images whose short edge is about {edge}: "
                            f"--resize {round(crop / 0.875)} shrinks them first")
        return config, ""
    resize = config.val_resize
    if resize is None:
        resize = config.resize or (round(crop / 0.875) if edge > 1.25 * crop else 0)
    note = f"resized to a short edge of {resize} before the centre {image_shape[1]}x{image_shape[2]} is cut (--val-resize)"
    return dataclasses.replace(config, val_resize=resize), note if resize else ""


def _typical_edge(source: Source) -> int:
    """The median short edge of some of the images, 0 where no header tells it."""
    edges = []
    for index in np.unique(np.linspace(0, len(source) - 1, 64).astype(int)).tolist():
        with contextlib.suppress(BadImageError, DataError):
            data = source.read(index)
            edges.append(min(data.shape[:2] if isinstance(data, np.ndarray) else decode.inspect(data)[:2]))
    return int(np.median([edge for edge in edges if edge] or [0]))


def _decoded(source: Source, image_shape: Sequence[int], threads: int | None, on_bad: str) -> ArraySource | None:
    """All images decoded, or None where they differ in size, need to be enlarged, or are too much for memory."""
    channels = image_shape[0]
    size = (0, 0)
    for index in range(len(source)):
        try:
            data = source.read(index)
            info = decode.inspect(data) if not isinstance(data, np.ndarray) else Info(*data.shape[:2])
        except (BadImageError, DataError):
            continue
        size = size if any(size) else info[:2]
        if info[:2] != size or size[0] < image_shape[1] or size[1] < image_shape[2]:
            return None
        if not size[0] or len(source) * size[0] * size[1] * channels > RESIDENT_BYTES:
            return None
    loader = StreamingLoader(source, batch_size=256, image_shape=(channels, *size), augment_config=AugmentConfig(),
                             train=False, seed=0, device=torch.device("cpu"), threads=threads, on_bad=on_bad)
    images = np.empty((len(source), *size, channels), np.uint8)
    good = np.ones(len(source), bool)
    for filled in loader.filled(0):
        images[filled.samples] = filled.pixels.numpy()
        good[filled.samples] = filled.good
    if not good.all():
        images = images[good]
    return ArraySource(images.transpose(0, 3, 1, 2), np.asarray(source.labels)[good], source.class_names,
                       source.description)
