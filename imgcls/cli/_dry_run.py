"""What --dry-run of the commands that prepare data prints: what would be done, how long, how much disk."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice

from imgcls.data.conversion.readers import Sample, SampleReader
from imgcls.data.packing.estimate import MAX_SAMPLED, Measure, measure
from imgcls.errors import RunError, tell, verbatim
from imgcls.report.axes import show_time

#: how much more than the needed bytes must be free: a disk filled to the last byte stops other programs
_SPARE = 1.02


def print_plan(lines: Mapping[str, str]) -> None:
    """Print a line for each part of the plan on stdout, as imgcls-train --dry-run does."""
    for name, text in lines.items():
        tell(f"{name + ':':<14}{text}", sys.stdout)


def measure_samples(readers: Sequence[SampleReader], work: Callable[[Sample], int | None],
                    num_threads: int) -> Measure:
    """Measure `work` on the first samples of each reader, equally many of each.

    `work` returns how many bytes would be written for a sample, None where it would be left out.
    """
    # the first of each, since readers go forward only; records are mostly shuffled
    share = -(-MAX_SAMPLED // len(readers))
    return measure(work, chain.from_iterable(islice(reader, share) for reader in readers), num_threads)


def about_measure(measured: Measure) -> str:
    """Return the words that say how many images the figures come from."""
    return f"nothing was written; the figures are from {measured.num_images:,} images that were read"


def about_time(measured: Measure, count: int, num_threads: int) -> str:
    """Return, in words, how long `count` images take."""
    threads = f"{num_threads} thread{'s' if num_threads > 1 else ''}"
    return (f"about {show_time(count / measured.images_per_s)} at {measured.images_per_s:,.0f} images/s with "
            f"{threads}")


def about_bytes(size: float) -> str:
    """Return a size for people, in units of 1000: 380 bytes, 12.3 MB, 1.02 TB."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} bytes"


def about_disk(folder: str | os.PathLike[str], needed: int) -> str:
    """Return how much disk is needed in a folder that may not be there yet, and how much is free."""
    return (f"{about_bytes(needed)} are needed in {verbatim(os.fspath(folder))}, "
            f"{about_bytes(free_bytes(folder))} are free")


def check_disk(folder: str | os.PathLike[str], needed: int) -> None:
    """Raise RunError where less than `needed` bytes, and 2 % more, are free on the folder's disk."""
    free = free_bytes(folder)
    if needed * _SPARE > free:
        raise RunError(f"{verbatim(os.fspath(folder))}: {about_bytes(needed)} are needed and "
                       f"{about_bytes(free)} are free")


def free_bytes(folder: str | os.PathLike[str]) -> int:
    """Return how many bytes this user may still write where a folder is or would be."""
    # a folder that is yet to be made will be on the disk of its nearest existing parent
    place = os.path.abspath(folder)
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    return shutil.disk_usage(place).free
