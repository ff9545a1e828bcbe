"""Measure work on a few images, to estimate what the whole set will take. The commands' `dry_run` calls it.

Nothing is written. What is measured is the work itself, on images from all over the set.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from imgcls.data.image_trees import ImageReader
from imgcls.data.packing.config import PackConfig
from imgcls.data.packing.images import quiet_opencv
from imgcls.data.packing.jpeg import find_damage
from imgcls.data.packing.pack import make_payload
from imgcls.data.packing.pipeline import map_in_order
from imgcls.formats.lists import ListEntry
from imgcls.formats.recordio.framing import HEAD
from imgcls.formats.recordio.image_record import HEADER_DTYPE

Item = TypeVar("Item")

#: most images that are measured, and how long they may take together
MAX_SAMPLED = 1024
MAX_SECONDS = 4.0
#: a line of an `.idx`: a key and an offset of eleven digits, on average
_INDEX_BYTES = 20


@dataclass(frozen=True)
class Measure:
    """What the work on some images took."""

    num_images: int
    num_skipped: int
    seconds: float
    #: of what would be written for those that were not skipped
    size_bytes: int

    @property
    def images_per_s(self) -> float:
        """How many images a second were done."""
        return self.num_images / max(self.seconds, 1e-9)

    def bytes_of(self, count: int) -> int:
        """Return about how many bytes `count` images become."""
        return round(self.size_bytes / max(self.num_images, 1) * count)


class Sample(Generic[Item]):
    """A random sample of the items that `show` was called with, each with equal chance, and their number."""

    def __init__(self, size: int = MAX_SAMPLED) -> None:
        self.items: list[Item] = []
        self._size = size
        self._count = 0
        self._random = random.Random(0)

    def __len__(self) -> int:
        return self._count

    def show(self, item: Item) -> None:
        """Count an item, and keep it or not."""
        self._count += 1
        if len(self.items) < self._size:
            self.items.append(item)
        elif (place := self._random.randrange(self._count)) < self._size:
            self.items[place] = item


def measure(work: Callable[[Item], int | None], items: Iterable[Item], num_threads: int) -> Measure:
    """Do the work for these items, with threads, until they or `MAX_SECONDS` end.

    `work` returns how many bytes would be written, None where the image would be left out.
    """
    count = num_skipped = size = 0
    start = time.perf_counter()
    with quiet_opencv(), map_in_order(work, items, num_threads, max_ahead=2) as results:
        for result in results:
            # what is left out takes time, too
            count += 1
            num_skipped += result is None
            size += result or 0
            if time.perf_counter() - start > MAX_SECONDS:
                break
        seconds = time.perf_counter() - start
    return Measure(count, num_skipped, seconds, size)


def measure_packing(entries: Iterable[ListEntry], reader: ImageReader, config: PackConfig) -> Measure:
    """Measure what `pack_list` would do with these entries; bytes are those of records and index."""
    def size_of(entry: ListEntry) -> int | None:
        if config.pass_through and not config.seekable:
            try:
                data = reader.read(entry.path)
            except (OSError, ValueError):
                return None
            # as `pack_list` stores it: checked, and not decoded
            size = None if find_damage(data) else len(data) + HEADER_DTYPE.itemsize
        else:
            payload = make_payload(entry, reader, config)
            size = None if isinstance(payload, str) else len(payload)
        # a record is filled up to whole words
        return None if size is None else HEAD.size + -(-size // 4) * 4 + _INDEX_BYTES

    return measure(size_of, reader.read_ahead(entries), config.num_threads)
