"""Hold out images for validation where no validation data are named: `val_ratio`.

The bytes of an image decide, and nothing else: their hash is a number from 0 to 1, and an image whose number
lies below the ratio is for validation. So about this part of every class is held out. No image changes sides
when images or classes are added, renamed or reordered; a larger ratio only adds images; and equal files are
on the same side. No rule of this kind can give an exact number in every class: it would have to move an image
when another one is added.

Called by the run, and by imgcls-score, which finds the same images again. Files are read, never decoded.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imgcls.data.file_source import FolderSource, ListSource
from imgcls.data.packed.shards import ChunkedShards
from imgcls.data.packed.source import PackedSource
from imgcls.data.record_source import ChunkedSource, RecordSource
from imgcls.data.sources import Source
from imgcls.errors import DataError, UsageError, verbatim
from imgcls.storage.reading import open_regular
from imgcls.storage.thread_pool import DaemonPool

#: the ratio for a folder of images without validation data
DEFAULT_RATIO = 0.1
#: Of a larger image its size and three pieces of this length are hashed: the beginning, the middle and the
#: end. So a folder costs at most 48 KiB for each image, less than its first epoch reads, and nothing is kept
#: that could be out of date. Two images that differ elsewhere only would lie on one side, which does no harm.
_PIECE_BYTES = 1 << 14
#: threads that read and hash: reading waits for the disk, and hashing releases the interpreter's lock
_NUM_THREADS = 8
_JOB_IMAGES = 256
#: hashes of training images that the meta data of a run hold, to recognize them later
_NUM_NOTED = 32


def by_default(source: Source, ratio: float | None) -> float:
    """Return `ratio`, or where it is None the default: `DEFAULT_RATIO` for a folder, 0 for other sources."""
    if ratio is None:
        return DEFAULT_RATIO if isinstance(source, FolderSource) else 0.0
    return ratio


@dataclass(frozen=True)
class Division:
    """A source in two parts, each in its order, and a note by which a later command finds the same parts."""

    train: Source
    held_out: Source
    #: as JSON values: the ratio, how many images were held out, and the hashes of some that were not
    note: Mapping[str, Any]


def divide(source: Source, ratio: float) -> Division:
    """Return the images to train on and those that are held out.

    UsageError for a source that cannot be divided: arrays, and files that are read in chunks.
    """
    if isinstance(source, (ChunkedSource, ChunkedShards)) or not isinstance(
            source, (FolderSource, ListSource, RecordSource, PackedSource)):
        raise UsageError(f"`val_ratio` {ratio:g}: {verbatim(source.description)} cannot be divided; give "
                         "validation data (`data_val`), or raise `cache_gb` where they are remote files")
    fraction = fractions(source)
    is_held_out = choose(fraction, np.asarray(source.labels), ratio)
    # the smallest: images that are added later seldom come between them
    sample = np.unique(fraction[~is_held_out])[:_NUM_NOTED].tolist()
    note = {"ratio": ratio, "images": int(is_held_out.sum()), "trained_on": sample}
    return Division(source.subset(np.flatnonzero(~is_held_out)), source.subset(np.flatnonzero(is_held_out)),
                    note)


def was_trained_on(source: Source, note: Mapping[str, Any]) -> bool:
    """Return whether most of the images that a `Division.note` names are in the source, moved or not."""
    noted = np.array(note.get("trained_on") or [], np.float64)
    # a set that has only an image or two in common with the training data is another set
    return len(noted) > 0 and bool(np.isin(noted, fractions(source)).mean() > 0.5)


def choose(fraction: np.ndarray, labels: np.ndarray, ratio: float) -> np.ndarray:
    """Return bool (N,): which images of these hashes, float64 (N,), and labels are held out.

    Where all images of a class would be held out, the one with the largest hash stays in training, and with
    it every copy of that image, of other classes too.
    """
    is_held_out = fraction < ratio
    classes, class_of = np.unique(labels, return_inverse=True)
    largest = np.zeros(len(classes))
    np.maximum.at(largest, class_of, fraction)
    # by hash and not by index: every copy of the image
    kept = np.unique(largest[largest < ratio])
    return is_held_out & ~np.isin(fraction, kept)


def fractions(source: Source) -> np.ndarray:
    """Return float64 (N,): a number from 0 to below 1 for each image, by its bytes alone.

    An image that cannot be read gets 1, which is never held out: training reports what is wrong with it.
    """
    starts = range(0, len(source), _JOB_IMAGES)

    def hash_some(start: int) -> list[float]:
        return [_fraction(source, index) for index in range(start, min(start + _JOB_IMAGES, len(source)))]

    with DaemonPool(min(_NUM_THREADS, len(starts)), "imgcls-holdout") as pool:
        jobs = [pool.submit(hash_some, start) for start in starts]
        return np.array([fraction for job in jobs for fraction in job.result()], np.float64)


def missing_classes(source: Source, held_out: Source) -> Sequence[str]:
    """Return the names of the classes that have images, and none among those held out."""
    missing = np.setdiff1d(source.labels, held_out.labels).tolist()
    names = list(source.class_names)
    # lists and records may have labels without names
    return [names[label] if label < len(names) else str(label) for label in missing]


def _fraction(source: Source, index: int) -> float:
    try:
        path = source.path_of(index) if isinstance(source, (FolderSource, ListSource)) else None
        # only what is hashed is read of a file on disk
        pieces = _file_pieces(path) if isinstance(path, Path) else _pieces(_bytes(source, index))
    except (DataError, OSError):
        return 1.0
    digest = hashlib.blake2b(digest_size=8)
    for piece in pieces:
        digest.update(piece)
    # 53 bits: every one of these numbers is a float64
    return (int.from_bytes(digest.digest(), "big") >> 11) / (1 << 53)


def _bytes(source: Source, index: int) -> memoryview:
    data = source.read(index)
    return memoryview(data.tobytes() if isinstance(data, np.ndarray) else data)


def _spans(size: int) -> list[tuple[int, int]]:
    """Return (offset, length) of what is hashed of `size` bytes."""
    if size <= 3 * _PIECE_BYTES:
        return [(0, size)]
    return [(offset, _PIECE_BYTES) for offset in (0, (size - _PIECE_BYTES) // 2, size - _PIECE_BYTES)]


def _pieces(data: memoryview) -> list[bytes | memoryview]:
    return [len(data).to_bytes(8, "big"), *(data[start:start + count] for start, count in _spans(len(data)))]


def _file_pieces(path: Path) -> list[bytes]:
    # a list may name a pipe, which would be waited for
    with open(path, "rb", buffering=0, opener=open_regular) as file:
        size = os.fstat(file.fileno()).st_size
        pieces = [size.to_bytes(8, "big")]
        for start, count in _spans(size):
            pieces.append(os.pread(file.fileno(), count, start))
        return pieces
