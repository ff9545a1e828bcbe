"""Tar shards as WebDataset has them: indexed once, then read by number like records.

Remote ones are copied into the cache, or where they are more than that may hold, read in chunks as record
files are (`data/chunks.py`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import numpy as np

from imgcls.data.chunks import Chunks, about_chunks
from imgcls.data.packed.source import PackedSource
from imgcls.errors import DataError, verbatim
from imgcls.formats import array_cache
from imgcls.formats.array_cache import Arrays
from imgcls.formats.recordio.framing import Bytes
from imgcls.formats.recordio.record_file import RecordFile
from imgcls.formats.shards import index_remote_shard, index_shard, member_name
from imgcls.storage.cache import Cache
from imgcls.storage.paths import AnyPath
from imgcls.storage.reading import version_of
from imgcls.storage.remote import RemotePath
from imgcls.storage.remote_file import read_range

#: increased whenever the rules of samples and labels change
_VERSION = 1
#: smaller shards are indexed again each time: keeping their index would save next to nothing
MIN_KEPT_BYTES = 1 << 24


class TarShard:
    """The samples of a tar, found by its headers; a Container.

    Where they stand is kept in the user's cache folder for a tar of the same path, size and time. A sample
    without a label, and a member that is refused, are problems; a tar that is cut or damaged is a DataError.
    """

    class_names: Sequence[str] = ()
    label_names: Sequence[str] = ()

    def __init__(self, path: AnyPath, cache_gb: float | None = None) -> None:
        self.path = path
        self._file = RecordFile(path, cache_gb)
        self._problems: list[DataError] = []
        self.problems: Sequence[DataError] = self._problems
        is_large = self._file.size >= MIN_KEPT_BYTES
        arrays: Arrays
        if is_large:
            # an index with problems is not kept, so that they are reported again
            arrays, _ = array_cache.load_or_make(
                "shards", path.name, self._about(), self._index, is_good=self._fits,
                is_worth_keeping=lambda arrays: not self.problems)
        else:
            arrays = self._index()
        self._offsets, self._sizes = arrays["offsets"], arrays["sizes"]
        self.labels = arrays["labels"]

    def read(self, number: int) -> bytes:
        """Return the encoded image of a sample."""
        # one read at a place, as of a record: threads share the handle
        offset = self._offsets.item(number)
        return self._file.read(offset, offset + self._sizes.item(number))

    def problem(self, number: int, reason: str) -> DataError:
        """Return the error that names a sample by its member and offset in bytes."""
        offset = self._offsets.item(number)
        return DataError(self.path, f"{verbatim(member_name(self._file.read, offset))} {reason}", offset)

    def version(self) -> str:
        """Return a text that changes when the tar is changed or replaced."""
        return version_of(self.path)

    def _about(self) -> str:
        # the copy of a remote file has the store's version in its name, and a new time with each fetch
        if isinstance(self.path, RemotePath):
            return json.dumps([_VERSION, os.path.basename(self._file.name), self._file.size])
        return json.dumps([_VERSION, os.path.realpath(self.path), self._file.size, self._file.mtime_ns])

    def _index(self) -> Arrays:
        self._problems.clear()
        return index_shard(self._file, self._problems)

    def _fits(self, arrays: Arrays) -> bool:
        return _fits(arrays, self._file.size)


class RangedShard:
    """The samples of a tar behind a URL that is read by ranges and not copied; a Container.

    To get the labels it is read through once; what is found is kept as for other tars.
    """

    class_names: Sequence[str] = ()
    label_names: Sequence[str] = ()

    def __init__(self, path: RemotePath, cache_gb: float | None = None) -> None:
        self.path = path
        self.info = path.stat()
        self.cache = Cache(cache_gb)
        self._problems: list[DataError] = []
        self.problems: Sequence[DataError] = self._problems
        about = json.dumps([_VERSION, path.url, self.info.version, self.info.size])
        # of small ones too: to index one again would be to fetch it again
        arrays: Arrays
        arrays, _ = array_cache.load_or_make(
            "shards", path.name, about, self._index, is_good=lambda arrays: _fits(arrays, self.info.size),
            is_worth_keeping=lambda arrays: not self.problems)
        #: int64 (N,), rising: the first byte of each image, and the byte behind it
        self.offsets = arrays["offsets"]
        self.ends = self.offsets + arrays["sizes"]
        self.labels = arrays["labels"]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, number: int) -> bytes:
        """Return the encoded image of a sample, read by a request for it alone."""
        return read_range(self.path, self.offsets.item(number), self.ends.item(number))

    payload = read

    def extract(self, number: int, view: Bytes, first: int) -> memoryview | bytes:
        """Return the encoded image of a sample out of the tar's bytes from `first` on."""
        return view[self.offsets.item(number) - first:self.ends.item(number) - first]

    def problem(self, number: int, reason: str) -> DataError:
        """Return the error that names a sample by its member and offset in bytes."""
        offset = self.offsets.item(number)
        name = member_name(lambda begin, end: read_range(self.path, begin, end), offset)
        return DataError(self.path, f"{verbatim(name)} {reason}", offset)

    def version(self) -> str:
        """Return a text that changes when the tar is replaced: the store's version of it."""
        return self.info.version

    def _index(self) -> Arrays:
        self._problems.clear()
        return index_remote_shard(self.path, self._problems)


class ChunkedShards(PackedSource):
    """A PackedSource of remote shards that are not copied: read in chunks, in an order that suits that."""

    def __init__(self, containers: Sequence[RangedShard], *, class_names: Sequence[str] = (),
                 on_bad: str = "skip") -> None:
        super().__init__(containers, class_names=class_names, on_bad=on_bad)
        # `Chunks` takes the file of each sample, and the sample's number in it
        firsts = np.asarray(self.firsts, np.int64)
        files = np.searchsorted(firsts, self._numbers, side="right") - 1
        #: what is fetched and when; see `chunks.py`
        self.chunks = Chunks(containers, files, self._numbers - firsts[files])
        total = sum(container.info.size for container in containers)
        self.notes = (about_chunks(self.description, total, containers[0].cache.limit_bytes / 1e9),)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Return int64 (N,): the samples in the order of the epoch, by windows of chunks."""
        return self.chunks.order(seed, epoch)

    def prefetch(self, indices: np.ndarray) -> None:
        """Begin to fetch the chunks of these samples, to be read each once and about in this order."""
        self.chunks.prefetch(indices)

    def read(self, index: int) -> bytes | memoryview:
        """Return the encoded image of sample `index`, out of its chunk."""
        return self.chunks.read(index)

    def fingerprint(self) -> None:
        """Return None: what is read in chunks is not kept."""


def _fits(arrays: Arrays, size: int) -> bool:
    """Return whether a kept index can be that of a tar of so many bytes."""
    # always checked: an offset behind the end would look like a lost file in the middle of a run
    offsets, sizes = arrays["offsets"], arrays["sizes"]
    return bool((offsets >= 0).all() and (sizes >= 0).all() and (offsets[1:] >= offsets[:-1]).all()
                and (offsets <= size - sizes).all() and len(arrays["labels"]) == len(offsets)
                and np.isfinite(arrays["labels"]).all())
