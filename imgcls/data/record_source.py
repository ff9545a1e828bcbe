"""Samples in `.rec` files: local, copied into the cache, or read in chunks where they are too large for it.

`sources.open_source` decides which. Class names are those that were packed with the first file. Records are
found and read here; their images are decoded by the loader.
"""

from __future__ import annotations

import bisect
import copy
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from imgcls.data import chunks
from imgcls.data.bad_samples import check_bad_samples, is_class_number
from imgcls.data.early_records import EarlyReader, open_early
from imgcls.data.packed.files import fetched, remote_bytes
from imgcls.errors import DataError, UsageError, verbatim
from imgcls.formats import lists, recordio
from imgcls.formats.ranges import RangedReader
from imgcls.formats.recordio import names_cache
from imgcls.storage.paths import AnyPath
from imgcls.storage.reading import version_of
from imgcls.storage.remote import RemotePath

#: bytes of a record before its image: 24 of header, and 4 for each label that does not stand in the header
_HEADER_BYTES, _LABEL_BYTES = 24, 4


class RecordSource:
    """The image records of one or several `.rec` files, one label each.

    With `on_bad` "skip" damaged records are left out, as long as they are few, and listed in `problems`; with
    "stop" the first is raised. Damage inside an image is found only when it is decoded.
    """

    #: how much of the cache the copies of remote files take
    copied_bytes = 0

    def __init__(self, files: Sequence[AnyPath], *, index: str = "", on_bad: str = "skip",
                 cache_gb: float | None = None) -> None:
        """`index` names the `.idx` of a single file; `cache_gb` is the limit of the cache."""
        # an index holds offsets of one file and does not say which
        if index and len(files) > 1:
            raise UsageError(f"{verbatim(index)}: an .idx belongs to one .rec file, here are {len(files)}")
        self.readers: list[Any] = self._open(files, index, on_bad, cache_gb)
        #: of the first file
        self.path = files[0]
        self.description = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
        self.class_names = lists.class_names(files[0])
        if not self.class_names and isinstance(self.readers[0], recordio.RecordReader):
            self.class_names = names_cache.recall(self.readers[0])
        #: what is damaged and was left out
        self.problems: list[DataError] = []
        usable = [self._usable(reader) for reader in self.readers]
        check_bad_samples(self.problems, sum(map(len, self.readers)), self.description, on_bad)
        # Arrays and no objects, as narrow as they can be: fourteen million samples take 184 MB this way.
        # number in its file of each sample's record, and the byte in the record where its image begins
        self._numbers = _joined([numbers for numbers, _, _ in usable])
        self._image_offsets = _joined([offsets for _, offsets, _ in usable])
        self.labels = _joined([labels for _, _, labels in usable])
        # index of the first sample of each file
        self._firsts = np.cumsum([0, *(len(numbers) for numbers, _, _ in usable)]).tolist()

    def _open(self, files: Sequence[AnyPath], index: str, on_bad: str, cache_gb: float | None) -> list[Any]:
        """Return a reader of each file.

        Remote ones are read while they are copied, or where that is not possible, each is fetched while those
        before it are scanned.
        """
        self.copied_bytes = remote_bytes(files)
        # a command that counts damage needs all of it at the start
        early = {} if on_bad == "count" else open_early(files, index, cache_gb)
        others = [file for file in files if file not in early]
        # the reader finds the copy in the cache
        readers = {file: recordio.RecordReader(file, resync=on_bad == "skip", index=index or None,
                                               cache_gb=cache_gb)
                   for file in fetched(others, cache_gb, None if index else recordio.index_path)}
        return [early.get(file) or readers[file] for file in files]

    @property
    def is_copied(self) -> bool:
        """Whether all records are on this machine: false while remote files are read as they are copied."""
        return all(reader.copy.is_complete for reader in self.readers if isinstance(reader, EarlyReader))

    def expect(self, indices: np.ndarray) -> None:
        """Fetch the records of these samples first, in this order: they will be read next."""
        files = np.searchsorted(self._firsts, indices, side="right") - 1
        begins, ends = np.zeros(len(indices), np.int64), np.zeros(len(indices), np.int64)
        early = [(i, reader) for i, reader in enumerate(self.readers) if isinstance(reader, EarlyReader)]
        # which of the early files each sample is in; -1 for the others
        numbers = np.full(len(indices), -1)
        for number, (file, reader) in enumerate(early):
            rows = np.flatnonzero(files == file)
            numbers[rows] = number
            begins[rows], ends[rows] = reader.extents(self._numbers[indices[rows]])
        wanted = numbers >= 0  # what is copied already is read where it stands
        if early and early[0][1].ahead:
            early[0][1].ahead.expect(numbers[wanted], begins[wanted], ends[wanted])

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes | memoryview:
        """Return the encoded image of sample `index`; a DataError where its record is damaged."""
        reader, number = self._record(index)
        return reader.payload(number)[self._image_offsets.item(index):]

    def whole_record(self, index: int) -> bytes | memoryview:
        """Return the record of sample `index` as it was packed: header, labels and image."""
        reader, number = self._record(index)
        return reader.payload(number)

    def problem(self, index: int, reason: str) -> DataError:
        """Return the error that names sample `index` by file, offset, record number and id."""
        reader, number = self._record(index)
        return DataError(reader.path, f"record {number} (id {reader.image_id(number)}) {reason}",
                         reader.offsets.item(number))

    def subset(self, indices: np.ndarray) -> RecordSource:
        """Return a source of these samples only; int64 (M,) rising, since files follow one another."""
        part = copy.copy(self)
        part._numbers = self._numbers[indices]
        part._image_offsets = self._image_offsets[indices]
        part.labels = self.labels[indices]
        part._firsts = np.searchsorted(indices, self._firsts).tolist()
        return part

    def fingerprint(self) -> str | None:
        """Return a digest of the files, their sizes and times, and of which records are samples."""
        digest = hashlib.blake2b()
        for reader in self.readers:
            digest.update(f"{reader.path} {version_of(reader.path)}\n".encode("utf-8", "surrogateescape"))
            # an .idx of other records leaves the .rec as it is
            digest.update(np.ascontiguousarray(reader.offsets).tobytes())
        # which records are samples: `subset` takes some, and labels leave some out
        for array in (self._numbers, self._image_offsets, np.asarray(self._firsts)):
            digest.update(array.tobytes())
        return digest.hexdigest()

    def _record(self, index: int) -> tuple[Any, int]:
        """Return the reader of sample `index`, and the number of its record there."""
        # `item`: an int of numpy's would make all arithmetic that follows several times slower
        file = bisect.bisect_right(self._firsts, index) - 1 if len(self.readers) > 1 else 0
        return self.readers[file], self._numbers.item(index)

    def _usable(self, reader: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return numbers, image offsets and labels of the undamaged records whose one label is a class."""
        self.problems += reader.problems
        labels, flags = reader.labels(strict=False), reader.flags()
        # Given back before more is taken: of 14 million records each array here is 57 MB and more.
        reader.forget_headers()
        is_class = is_class_number(labels)
        for number in np.flatnonzero(~is_class).tolist():
            label = labels[number]
            self.problems.append(reader.label_problem(number, 1) if np.isnan(label) else DataError(
                reader.path, f"record {number} has the label {label:g}, which is no class number",
                reader.offsets.item(number)))
        # A flag above 0 is the number of labels behind the header (MXNet src/io/image_recordio.h).
        most = _HEADER_BYTES + _LABEL_BYTES * int(flags[is_class].max(initial=0))
        # The byte in a record where its image begins: nearly always the same, and below 256.
        offsets = (_HEADER_BYTES + _LABEL_BYTES * flags).astype(np.min_scalar_type(most))
        del flags
        reader.forget_headers()  # a problem has read them again
        numbers = np.arange(len(reader), dtype=np.min_scalar_type(len(reader)))
        if is_class.all():
            return numbers, offsets, labels.astype(np.int64)
        return numbers[is_class], offsets[is_class], labels[is_class].astype(np.int64)


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    """Return them one behind the other; a single one as it is, since it may be large."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


class ChunkedSource(RecordSource):
    """A RecordSource of remote files that are not copied: read in chunks, in an order that suits that."""

    def __init__(self, files: Sequence[RemotePath], *, on_bad: str = "skip", cache_gb: float) -> None:
        super().__init__(files, on_bad=on_bad, cache_gb=cache_gb)
        counts = np.diff(self._firsts)
        #: what is fetched and when; see `chunks.py`
        self.chunks = chunks.Chunks(self.readers, np.repeat(np.arange(len(counts)), counts), self._numbers)
        total = sum(reader.size for reader in self.readers)
        #: what to tell the user about the way these files are read
        self.notes = (chunks.about_chunks(self.description, total, cache_gb),)

    def _open(self, files: Sequence[AnyPath], index: str, on_bad: str, cache_gb: float | None) -> list[Any]:
        return [RangedReader(file, resync=on_bad == "skip", cache_gb=cache_gb)
                for file in files if isinstance(file, RemotePath)]

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Return int64 (N,): the samples in the order of the epoch, by windows of chunks."""
        return self.chunks.order(seed, epoch)

    def fingerprint(self) -> None:
        """Return None: what is read in chunks is not kept."""

    def prefetch(self, indices: np.ndarray) -> None:
        """Begin to fetch the chunks of these samples, to be read each once and about in this order."""
        self.chunks.prefetch(indices)

    def read(self, index: int) -> bytes | memoryview:
        """Return the encoded image of sample `index`, out of its chunk."""
        return self.chunks.read(index)[self._image_offsets.item(index):]
