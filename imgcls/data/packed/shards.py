"""Tar shards as WebDataset has them: indexed once, then read by number like records."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import numpy as np

from imgcls.errors import DataError, verbatim
from imgcls.formats import kept_arrays
from imgcls.formats.kept_arrays import Arrays
from imgcls.formats.recordio.record_file import RecordFile
from imgcls.formats.shards import index_shard, member_name
from imgcls.storage.paths import AnyPath
from imgcls.storage.reading import version_of
from imgcls.storage.remote import RemotePath

#: a new number wherever the rules of samples and labels change
_VERSION = 1
#: smaller shards are indexed again: an entry for them would only be litter
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
            # a list with problems is made again, so that they are told again
            arrays, _ = kept_arrays.recall(
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
        """Return the error that names a sample by its member and byte."""
        offset = self._offsets.item(number)
        return DataError(self.path, f"{verbatim(member_name(self._file, offset))} {reason}", offset)

    def version(self) -> str:
        """Return what tells this tar from another under its name."""
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
        # never believed: an offset behind the end would be a lost file in the middle of a run
        offsets, sizes = arrays["offsets"], arrays["sizes"]
        return bool((offsets >= 0).all() and (sizes >= 0).all()
                    and (offsets <= self._file.size - sizes).all() and len(arrays["labels"]) == len(offsets)
                    and np.isfinite(arrays["labels"]).all())
