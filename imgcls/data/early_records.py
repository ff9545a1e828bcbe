"""Remote record files that are read while they are copied: their index and list say what they hold.

The order of an epoch is drawn over all records, and needs their number and labels. Where `X.idx` and `X.lst`
stand beside `X.rec`, as im2rec leaves them, these give both, and the first batch needs no more than its own
records. A few records are compared with index and list at the start, every other when it is read. A
difference ends the run, and the next one copies the file first, scans it and leaves out what is damaged, as
is done without a list. So the samples and their order are the same in both ways. `record_source` opens its
files through this.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from imgcls.data.bad_samples import is_class_number
from imgcls.errors import DataError, ImgclsError, LostDataError, RunError, verbatim
from imgcls.formats import lists
from imgcls.formats.recordio import index_path
from imgcls.formats.recordio.framing import HEAD
from imgcls.formats.recordio.index import Index
from imgcls.formats.recordio.reader import RecordReader
from imgcls.formats.recordio.record_file import RecordFile
from imgcls.formats.recordio.scan import describe_mismatch, sampled
from imgcls.storage.atomic import write_bytes
from imgcls.storage.cache import Cache
from imgcls.storage.partial_copy import PartialCopy
from imgcls.storage.paths import AnyPath
from imgcls.storage.read_ahead import ReadAhead
from imgcls.storage.reading import open_read
from imgcls.storage.remote import RemotePath
from imgcls.storage.thread_pool import DaemonPool

#: fewer bytes than this are copied before their first index is read
MIN_BYTES = 16 << 20
#: records of all files together that are compared before the first is used
_NUM_SAMPLED = 32
#: files that are opened at a time, and records that are compared at a time
_AT_ONCE = 16
#: of an image record: flag, label, id (dmlc-core's layout)
_HEADER = struct.Struct("<IfQ")
_HEAD_BYTES = HEAD.size + _HEADER.size
#: name of the note in the cache that the index or list of a version of a file is wrong
_COPY_FIRST = "copy-first"


class EarlyReader(RecordReader):
    """A record file whose copy is not complete; labels are those of its list, and are checked on reading."""

    def __init__(self, path: RemotePath, copy: PartialCopy, index: Index, labels: np.ndarray,
                 keys: np.ndarray, cache: Cache) -> None:
        """`labels` float32 (N,) and `keys` int64 (N,) are of the records in the order of the file."""
        self.copy = copy
        self._labels = labels
        self._ids = keys
        self._note = cache.note_path(path, path.stat(), _COPY_FIRST)
        #: set when all files are open
        self.ahead: ReadAhead | None = None
        super().__init__(path, opened=(RecordFile(path, partial=copy), index))
        self._ends = np.append(self.offsets[1:], self.size)

    def labels(self, width: int = 1, *, strict: bool = True) -> np.ndarray:
        """Return float32 (N,): what the list says."""
        return self._labels if width == 1 else super().labels(width, strict=strict)

    def flags(self) -> np.ndarray:
        """Return u32 (N,) zeros: each label stands in its header."""
        return np.zeros(len(self), np.uint32)

    def extents(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return int64 (M,), int64 (M,): the first byte of each of these records, and the byte behind it."""
        return self.offsets[numbers], self._ends[numbers]

    def agrees(self, num_sampled: int) -> bool:
        """Return whether `num_sampled` of the records are what index and list say."""
        numbers = sampled(len(self), num_sampled)
        # spread over the file: an index of other records agrees nowhere, or at its beginning alone
        begins, ends = (values.tolist() for values in self.extents(numbers))
        # the first block of each has its header; all at once, as each is a request
        with DaemonPool(min(_AT_ONCE, len(numbers)), "imgcls-look") as pool:
            for head in [pool.submit(self.copy.require, begin, min(begin + _HEAD_BYTES, end))
                         for begin, end in zip(begins, ends, strict=True)]:
                head.result()
        if describe_mismatch(self._file, self.size, self.offsets, num_sampled):
            return False
        # a record in parts, or too short for a header, gives other values or none: then the lists differ
        heads = [_HEADER.unpack(self._file.read(begin + HEAD.size, begin + _HEAD_BYTES))
                 for begin, end in zip(begins, ends, strict=True) if end - begin >= _HEAD_BYTES]
        return heads == [(0, self._labels.item(i), self._ids.item(i)) for i in numbers.tolist()]

    def payload(self, i: int) -> memoryview | bytes:
        """Return the bytes of record `i`; a RunError where they are not those of index and list."""
        try:
            data = super().payload(i)
        except LostDataError:
            raise
        except DataError as error:
            raise self._not_as_told(i, error.reason) from error
        if problem := self.describe_difference(i, data):
            raise self._not_as_told(i, problem)
        if self.ahead is not None and not self.copy.is_complete:
            self.ahead.note_read(len(data))
        return data

    def describe_difference(self, i: int, data: memoryview | bytes) -> str:
        """Return how record `i`, with this payload, differs from what index and list say of it; or ""."""
        i %= len(self)
        if len(data) < _HEADER.size:
            return "has no image header"
        flag, label, number = _HEADER.unpack_from(data)
        if flag or label != self._labels.item(i) or number != self._ids.item(i):
            found = f"{flag} labels" if flag else f"the label {label:g}"
            return (f"has the id {number} and {found}, the list the id {self._ids.item(i)} and the label "
                    f"{self._labels.item(i):g}")
        # a view: the record is in one part, and so ends where its length says
        end = self.offsets.item(i) + HEAD.size + len(data) + -len(data) % 4
        if isinstance(data, memoryview) and end != self._ends.item(i):
            return f"ends at byte {end} and the next one begins at byte {self._ends.item(i)}"
        return ""

    def __reduce__(self) -> tuple[type[RecordReader], tuple[str]]:
        """Have another process open the complete copy, for which it waits."""
        return RecordReader, (str(self.path),)

    def _not_as_told(self, i: int, problem: str) -> RunError:
        with contextlib.suppress(ImgclsError):
            write_bytes(self._note)
        return RunError(f"{verbatim(self.path)}: record {i} {problem}: the .idx or .lst beside it does not "
                        "belong to it, or it is damaged; start again: it will be copied and searched before "
                        "it is used")


def open_early(files: Sequence[AnyPath], index: str, cache_gb: float | None) -> dict[AnyPath, EarlyReader]:
    """Return a reader of each file that can be read while it is copied; other files are not in the dict.

    `index` is as in `RecordSource`.
    """
    remote = [file for file in files if isinstance(file, RemotePath)]
    if sum(file.stat().size for file in remote) < MIN_BYTES:
        return {}
    cache = Cache(cache_gb)
    num_sampled = max(_NUM_SAMPLED // len(remote), 2)
    with DaemonPool(min(_AT_ONCE, len(remote)), "imgcls-open") as pool:
        # fetched at the same time as the index, which `_open` reads first
        for file in remote:
            pool.submit(_fetch, _list_path(file))
        opened = [pool.submit(_open, file, index, cache, num_sampled) for file in remote]
        readers: dict[AnyPath, EarlyReader] = {
            file: reader for file, future in zip(remote, opened, strict=True)
            if (reader := future.result()) is not None}
    # one for all files: an epoch takes records from all of them in turn
    ahead = ReadAhead([reader.copy for reader in readers.values()])
    for reader in readers.values():
        reader.ahead = ahead
    return readers


def _open(path: RemotePath, index: str, cache: Cache, num_sampled: int) -> EarlyReader | None:
    """Return a reader of the file; None where its records cannot be known before they are all here."""
    info = path.stat()
    list_path = _list_path(path)
    idx_path: Any = index or index_path(path)
    is_false = cache.note_path(path, info, _COPY_FIRST).exists()
    if is_false or cache.has(path) or not list_path.exists():
        return None
    try:
        read_index = Index.read(idx_path)
        labels = _labels(list_path, read_index)
        # without ranges each block would cost all bytes before it
        if labels is None or not path.has_ranges() or (copy := cache.open_partial(path)) is None:
            return None
        by_offset = np.argsort(read_index.offsets)
        reader = EarlyReader(path, copy, read_index, labels[by_offset],
                             read_index.keys[by_offset].astype(np.int64), cache)
        return reader if reader.agrees(num_sampled) else None
    except DataError:  # of the index or the list: reported when the file is opened in the usual way
        return None


def _list_path(path: RemotePath) -> RemotePath:
    return path.with_name(path.stem + ".lst")


def _fetch(path: RemotePath) -> None:
    """Fetch a small file into the cache, if it is there."""
    if path.exists():
        open_read(path).close()


def _labels(path: RemotePath, index: Index) -> np.ndarray | None:
    """Return float32 (N,), the labels of the records of the index by the list; None where it does not say."""
    has_numbers = index.keys.dtype != object and len(index.keys)
    if not has_numbers or len(np.unique(index.offsets)) < len(index.offsets):
        return None
    label_of_id: dict[int, float] = {}
    for entry in lists.iterate(path):
        if isinstance(entry, DataError):  # a line that the packer left out too
            continue
        # the same id twice, or several labels: the list does not determine what a record holds
        if entry.id in label_of_id or len(entry.labels) != 1:
            return None
        label_of_id[entry.id] = entry.labels[0]
    labels = np.array([label_of_id.get(key, np.nan) for key in index.keys.tolist()], np.float32)
    return labels if is_class_number(labels).all() else None
