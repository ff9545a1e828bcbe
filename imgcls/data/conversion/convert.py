"""Convert samples: from several readers to one file or several shards, images shrunk on the way."""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

import numpy as np

from imgcls.data.conversion.readers import Sample, SampleReader
from imgcls.data.conversion.writers import open_writer, write_class_names
from imgcls.data.image_header import BadImageError, inspect
from imgcls.data.packing.config import PackConfig
from imgcls.data.packing.images import decode, quiet_opencv, reencode
from imgcls.data.packing.pipeline import map_in_order
from imgcls.errors import DataError, UsageError, verbatim
from imgcls.formats import lists
from imgcls.storage import atomic


@dataclass
class ConversionResult:
    """The result of a conversion."""

    #: (path, samples) of each file or folder written
    written: list[tuple[str, int]] = field(default_factory=list)
    #: images that could not be decoded, with the reason
    skipped: list[DataError] = field(default_factory=list)
    #: samples whose id another one before them has
    num_repeated_ids: int = 0
    #: notes for the user
    notes: list[str] = field(default_factory=list)


def shared_class_names(readers: Sequence[SampleReader]) -> tuple[str, ...]:
    """Return the class names of all readers; a UsageError where two differ, as their labels would differ."""
    named = [reader for reader in readers if reader.class_names]
    for reader in named[1:]:
        if reader.class_names != named[0].class_names:
            raise UsageError(f"{verbatim(named[0].path)} and {verbatim(reader.path)} have other classes: "
                             f"label 0 "
                             f"is {verbatim(named[0].class_names[0])} in one and "
                             f"{verbatim(reader.class_names[0])} in the other, or later ones differ")
    return named[0].class_names if named else ()


def convert(readers: Sequence[SampleReader], out: str, kind: str, config: PackConfig, *,
            num_shards: int = 1, renumber: bool = False,
            progress: Callable[[int], object] = lambda count: None) -> ConversionResult:
    """Write the samples of all readers, in order, to `out` or to `num_shards` shards (`shard_path`).

    Images whose short edge is longer than `config.resize` are shrunk; all others, and all with 0, keep their
    bytes. With `renumber` ids count up from 0. Images that cannot be decoded are left out (`skipped`).
    """
    class_names = shared_class_names(readers)
    total = sum(map(len, readers))
    result = ConversionResult()
    # 8 bytes a sample, to count ids that repeat
    ids = array("Q")
    _remove_leftovers(out)

    def shrink(sample: Sample) -> tuple[Sample, bytes | str]:
        return sample, shrunk(sample.image, config)

    with quiet_opencv() if config.resize else nullcontext(), map_in_order(
            shrink, chain.from_iterable(readers), config.num_threads, lambda pair: len(pair[1])) as pairs:
        counted = _counted(pairs, progress)
        for shard in range(num_shards):
            # as many samples each, the first ones one more
            size = total // num_shards + (shard < total % num_shards)
            path = shard_path(out, shard, num_shards)
            with open_writer(path, kind, class_names) as writer:
                count = 0
                for sample, image in islice(counted, size):
                    if isinstance(image, str):
                        result.skipped.append(DataError(sample.name, image))
                        continue
                    # ids count over all shards
                    sample = _renumbered(sample, len(ids)) if renumber else sample
                    ids.append(sample.id)
                    writer.write(sample, image)
                    count += 1
            result.written.append((path, count))
            result.notes += filter(None, (writer.note,))
    if kind in ("rec", "tar", "lmdb"):
        write_class_names(out, class_names)
        # of an earlier file of this name, or intended for this one: readers of OUT would use these names
        first = result.written[0][0]
        if not class_names and (others := lists.class_names(first)):
            result.notes.append(f"no IN names its classes, and a file beside {verbatim(first)} does: label 0 "
                                f"is taken for {verbatim(others[0])} there, and so on")
    seen = np.sort(np.frombuffer(ids, np.uint64)) if ids else np.empty(0, np.uint64)
    result.num_repeated_ids = int((seen[1:] == seen[:-1]).sum())
    return result


def _remove_leftovers(out: str) -> None:
    """Remove what killed runs left half written of OUT and its shards."""
    path = Path(os.path.abspath(out))
    names = rf"{re.escape(path.stem)}(_\d+)?({re.escape(path.suffix)}|\.idx)"
    atomic.remove_leftovers(path.parent, re.compile(names), folders=True)


def _counted(pairs: Iterable[tuple[Sample, bytes | str]],
             progress: Callable[[int], object]) -> Iterator[tuple[Sample, bytes | str]]:
    for count, pair in enumerate(pairs, 1):
        yield pair
        progress(count)


def _renumbered(sample: Sample, number: int) -> Sample:
    # the id stands behind flag and label
    head = sample.head[:8] + number.to_bytes(8, "little") + sample.head[16:] if sample.head else b""
    return sample._replace(id=number, head=head)


def shard_path(out: str, shard: int, num_shards: int) -> str:
    """Return the name of a shard: OUT itself where there is one shard, else OUT_0.rec, OUT_1.rec, ..."""
    if num_shards == 1:
        return out
    stem, suffix = os.path.splitext(out)
    return f"{stem}_{shard}{suffix}"


def shrunk(image: bytes, config: PackConfig) -> bytes | str:
    """Return an image with a short edge of `config.resize` at most, or why it cannot be decoded."""
    if not config.resize:
        return image
    try:
        info = inspect(image)
    except BadImageError as error:
        return str(error)
    short_edge = min(info.height, info.width)
    # the header of other formats, and of a JPEG that EXIF turns by a quarter, is not read for the size
    if not short_edge:
        pixels = decode(image, config.color)
        if isinstance(pixels, str):
            return pixels
        short_edge = min(pixels.shape[:2])
    # what is small enough stays as it is: encoding it again would only lose
    return image if short_edge <= config.resize else reencode(image, config, 0)
