"""Read one `.rec` file: `RecordReader`, by index, by key, in order, in groups.

Records are read one by one or in groups (`record_file`), never the whole file; their offsets come from an
`.idx`, from the last search (`scan_cache`) or from a search (`scan`). The sources of `data/`, the tools and
`imgcls.compat` use it. It never writes to a folder of records.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import imgcls.formats.recordio.scan as scan
from imgcls.errors import DataError, verbatim
from imgcls.formats.recordio.framing import HEAD, LENGTH_BITS, MAGIC, join_parts
from imgcls.formats.recordio.image_record import HEADER_DTYPE, ImageHeader, unpack
from imgcls.formats.recordio.index import Index, index_path, sort_unique
from imgcls.formats.recordio.record_file import FileView, RecordFile
from imgcls.formats.recordio.scan_cache import ScanCache
from imgcls.storage.paths import AnyPath, to_path

#: records that iterating looks up at a time: enough that numpy's cost per call is lost among them
_ITER_RECORDS = 1 << 10
#: labels that are read at a time
_ROWS_AT_ONCE = 1 << 16
#: bytes from one record to the next that are read at once, at most: an index may name only few of the records
_READ_BYTES = 4 << 20

_log = logging.getLogger(__name__)


class Record:
    """One record: `payload` (bytes), and what it means where it is an image record."""

    # Iterating makes one for every record of a file, so it is made as cheaply as Python can.
    __slots__ = ("index", "offset", "path", "payload")

    def __init__(self, path: AnyPath, index: int, offset: int, payload: bytes) -> None:
        self.path = path
        self.index = index
        self.offset = offset
        self.payload = payload

    @property
    def header(self) -> ImageHeader:
        """The image header; a record without one is a DataError."""
        return self._unpack()[0]

    @property
    def labels(self) -> np.ndarray:
        """float32 (flag,), or (1,) where the header holds the label."""
        return self._unpack()[1]

    @property
    def image(self) -> memoryview:
        """The encoded image, as it was packed."""
        return self._unpack()[2]

    def _unpack(self) -> tuple[ImageHeader, np.ndarray, memoryview]:
        try:
            return unpack(self.payload)
        except ValueError as error:
            raise DataError(self.path, f"record {self.index} {error}", self.offset) from None


class RecordReader:
    """One `.rec` file: `len`, `[i]`, iteration, all from any thread.

    `X.idx` beside `X.rec` is used where it agrees with the file, otherwise the file is searched. The offsets
    found in a large file, and its headers, are kept in the user's cache folder for the next time. Records
    before the first damage are readable, `problems` says where it is and what is wrong, and iterating raises
    it at the end. With `resync` the good records behind it are found too, and iterating notes in `problems`
    what it passes over. With an `.idx`, damage shows only when the record is read.
    """

    #: int64 (N,), rising: byte offset of each record
    offsets: np.ndarray
    #: what is wrong with the file, as far as it was looked at
    problems: list[DataError]
    #: why the index beside the file was not used
    index_problem: DataError | None

    # Of an open file only: neither pickled nor copied.
    _file: RecordFile
    _header_columns: tuple[np.ndarray, np.ndarray, dict[int, DataError]] | None
    _OPEN_FILE = ("_file", "_cache", "_header_columns")

    def __init__(self, path: str | os.PathLike[str], *, resync: bool = False, use_index: bool = True,
                 index: str | os.PathLike[str] | None = None, cache_gb: float | None = None,
                 opened: tuple[RecordFile, Index] | None = None) -> None:
        """Open the file; a DataError where it cannot be opened. `index` names an `.idx` elsewhere.

        `opened` is (open file, checked index) to use instead of opening `path`. Without `use_index` neither
        an index nor an earlier search is used. Of a URL the copy in the cache is read, fetched first where
        there is none; `cache_gb` limits that cache as in `storage.reading.open_read`.
        """
        self.path = to_path(path)
        #: whether good records behind damage are searched
        self.resync = resync
        self.problems = []
        self.index_problem = None
        self._cache_gb = cache_gb
        self._use_index = use_index
        #: the `.idx`, where there is one that could be read
        self._index: Index | None = None
        #: made when it is first needed, in most readers never
        self._key_to_offset: dict[Any, int] | None = None
        self._open(opened[0] if opened else None)
        if opened:
            self._index, self.offsets = opened[1], sort_unique(opened[1].offsets)
        elif use_index:
            self._read_index(to_path(index) if index else index_path(self.path), required=index is not None)
        if self._index is None or self.index_problem:
            self._search()

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, i: int) -> Record:
        # A Record owns its bytes: it may outlive the reader.
        payload = bytes(self.payload(i))
        return Record(self.path, i if i >= 0 else i + len(self), self.offsets.item(i), payload)

    def __iter__(self) -> Iterator[Record]:
        path = self.path  # a local name: it is used once for each record
        for first in range(0, len(self), _ITER_RECORDS):
            rows = range(first, min(first + _ITER_RECORDS, len(self)))
            offsets = self.offsets[rows.start:rows.stop].tolist()
            # Where one of these records is split, damaged or large, all of them take the slow path.
            payloads = self._read_together(rows) or map(self.payload, rows)
            for index, offset in zip(rows, offsets, strict=True):
                try:
                    yield Record(path, index, offset, bytes(next(payloads)))
                except DataError as error:
                    if not self.resync:
                        raise
                    self.problems.append(error)
        # All good records have been yielded: only now is the damage raised.
        if self.problems and not self.resync:
            raise self.problems[0]

    def payload(self, i: int) -> memoryview | bytes:
        """Return the bytes of record `i`. Damage is a DataError that names the offset.

        A file that has become shorter since it was opened is a LostDataError.
        """
        offset = self.offsets.item(i)
        # Up to the next record, in one read: its own head need not be known before.
        end = self.offsets.item(i + 1) if -1 != i < len(self.offsets) - 1 else self.size
        if end - offset > _READ_BYTES:
            return self._payload(offset)
        data = self._file.read(offset, end)
        if len(data) >= HEAD.size:
            magic, word = HEAD.unpack_from(data)
            # An unsplit record's second word is its length. All others, damaged ones too, are looked at
            # again, against the whole file.
            if magic == MAGIC and word <= LENGTH_BITS and word + HEAD.size <= len(data):
                return memoryview(data)[HEAD.size:HEAD.size + word]
        return join_parts(self.path, FileView(self._file), offset)

    def payloads(self, indexes: Sequence[int] | np.ndarray) -> list[memoryview | bytes]:
        """Return the `payload` of each of these records."""
        return list(map(self.payload, map(int, indexes)))

    @property
    def keys(self) -> np.ndarray:
        """(N,), one key per record, from the `.idx`: int64, or objects where they are no such numbers.

        Records that it does not name, and all without an `.idx`, have their index as key.
        """
        keys = np.arange(len(self), dtype=np.int64)
        if self._index is None:
            return keys
        rows = np.searchsorted(self.offsets, self._index.offsets)
        # an index that is not used may name bytes behind the last record
        is_inside = rows < len(self)
        if self._index.keys.dtype == object:
            keys = keys.astype(object)
        keys[rows[is_inside]] = self._index.keys[is_inside]
        return keys

    def key_to_offset(self) -> dict[Any, int]:
        """Return key -> byte offset; of a repeated key the last. Without an `.idx` keys are the indexes."""
        if self._key_to_offset is None:
            keys, offsets = self._index or (np.arange(len(self)), self.offsets)
            self._key_to_offset = dict(zip(keys.tolist(), offsets.tolist(), strict=True))
        return self._key_to_offset

    def read_idx(self, key: Any) -> memoryview | bytes:
        """Return the payload of the record with this key; an unknown key is a KeyError."""
        offset = self.key_to_offset()[key]
        row = int(np.searchsorted(self.offsets, offset))
        is_known = row < len(self) and self.offsets.item(row) == offset
        return self.payload(row) if is_known else self._payload(offset)

    def headers(self) -> np.ndarray:
        """Return HEADER_DTYPE (N,): every record's image header; zeros where `header_problems` names it."""
        headers = np.zeros(len(self), HEADER_DTYPE)
        is_kept = self._copy_kept({name: headers[name] for name in HEADER_DTYPE.names or ()})
        return headers if is_kept else self._gather_headers()[0]

    def header_problems(self) -> dict[int, DataError]:
        """Return index of a record -> why it is no image record."""
        return self._columns()[2]

    def flags(self) -> np.ndarray:
        """Return u32 (N,): how many labels stand behind each header, 0 for a single one inside of it."""
        return self._columns()[0]

    def labels(self, width: int = 1, *, strict: bool = True) -> np.ndarray:
        """Return float32 (N,) for width 1, otherwise (N, width).

        A record must hold exactly `width` labels: the first that does not is a DataError, or with `strict`
        off its labels are NaN.
        """
        flags, header_labels, problems = self._columns()
        # NaN stands for labels that a record does not have, so nothing is ever trained on them.
        table = np.full((len(self), width), np.nan, np.float32)
        has_width = flags == width
        has_width[list(problems)] = False
        rows = np.flatnonzero(has_width)
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            self._read_labels(rows[first:first + _ROWS_AT_ONCE], table)
        # The one label of most files stands in the header itself.
        if width == 1:
            in_header = flags == 0
            in_header[list(problems)] = False
            np.copyto(table[:, 0], header_labels, where=in_header)
            has_width |= in_header
        if strict and not has_width.all():
            raise self.label_problem(int(np.argmin(has_width)), width)
        return table[:, 0] if width == 1 else table

    def image_id(self, i: int) -> int:
        """Return the id in the header of record `i`, 0 where it has none."""
        try:
            return self[i].header.id
        except DataError:
            return 0

    def forget_headers(self) -> None:
        """Free the memory of `labels` and `flags`; they are read again when they are next requested."""
        self._header_columns = None

    def label_problem(self, i: int, width: int) -> DataError:
        """Return the error for record `i`, which does not hold `width` labels."""
        problems = self.header_problems()
        return problems[i] if i in problems else describe_label_count(
            self.path, i, self.image_id(i), self.flags().item(i), width, self.offsets.item(i))

    def check_index(self) -> DataError | None:
        """Return what is wrong with the `.idx` beside the file; None if nothing is, or if there is no `.idx`.

        Every line of it is compared with the records that this reader has found.
        """
        # Read again: the reader may have been made without `use_index`.
        path = index_path(self.path)
        try:
            difference = Index.read(path).describe_difference(self.offsets) if path.exists() else ""
        except DataError as error:
            return error
        return DataError(path, difference) if difference else None

    def _open(self, file: RecordFile | None = None) -> None:
        self._file = file or RecordFile(self.path, self._cache_gb)
        self.size = self._file.size
        self._header_columns = None
        self._cache = ScanCache(Path(self._file.name), self.size, self._file.mtime_ns,
                                enabled=self._use_index and bool(self._file.name))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in self._OPEN_FILE}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()
        # The offsets were pickled: they are those of the file as it was then.
        if self.size != state["size"]:
            raise DataError(self.path, f"changed while it was in use: {state['size']} bytes, now {self.size}")

    def _payload(self, offset: int) -> memoryview | bytes:
        """Return the payload of the record at `offset`, head first: it is large, or not one of `offsets`."""
        if offset + HEAD.size > self.size:  # from an index that belongs to another file
            return join_parts(self.path, FileView(self._file), offset)
        magic, word = HEAD.unpack(self._file.read(offset, offset + HEAD.size))
        end = offset + HEAD.size + word
        if magic == MAGIC and word <= LENGTH_BITS and end <= self.size:
            return memoryview(self._file.read(offset + HEAD.size, end))
        return join_parts(self.path, FileView(self._file), offset)

    def _read_together(self, rows: range) -> Iterator[bytes] | None:
        """Return the payloads of neighbouring records out of one read.

        None where they are many bytes, or one of them is split or damaged and needs a closer look.
        """
        begin = self.offsets.item(rows.start)
        last = self.offsets.item(rows.stop) if rows.stop < len(self) else self.size
        if last - begin > _READ_BYTES:
            return None
        data = self._file.read(begin, last)
        offsets = self.offsets[rows.start:rows.stop] - begin
        words = np.frombuffer(data, "<u4", len(data) // 4)
        word_index = offsets // 4
        if word_index[-1] + 1 >= len(words) or (offsets % 4).any():
            return None
        lengths = words[word_index + 1].astype(np.int64)
        ends = offsets + HEAD.size + lengths
        if ((words[word_index] != MAGIC) | (lengths > LENGTH_BITS) | (ends > len(data))).any():
            return None
        # map over C functions: no Python code runs per record.
        return map(data.__getitem__, map(slice, (offsets + HEAD.size).tolist(), ends.tolist()))

    def _read_labels(self, rows: np.ndarray, table: np.ndarray) -> None:
        """Set these rows of `table`, float32 (N, width), to the labels behind the headers of records."""
        # Behind 2 words of head and 6 of header, unless a split record's were torn apart.
        words = self._file.rows(self.offsets[rows] // 4, 8 + table.shape[1])
        is_unsplit = words[:, 1] <= LENGTH_BITS
        table[rows[is_unsplit]] = np.ascontiguousarray(words[is_unsplit, 8:]).view("<f4")
        for row in rows[~is_unsplit].tolist():
            table[row] = self[row].labels

    def _read_index(self, path: AnyPath, *, required: bool) -> None:
        """Take the offsets from an `.idx`; what is wrong with it goes into `index_problem` and the log."""
        if not path.exists():
            if required:  # the user named it
                raise DataError(path, "no such file")
            return
        try:
            self._index = Index.read(path)
            self.offsets = sort_unique(self._index.offsets)
            mismatch = scan.describe_mismatch(self._file, self.size, self.offsets)
            if mismatch:
                raise DataError(path, f"does not belong to {verbatim(self.path.name)} as it is: {mismatch}")
        except DataError as error:
            self.index_problem = error
            _log.warning("%s; not used, the file itself is searched", error)

    def _search(self) -> None:
        """Find the records in the file itself, or take those that an earlier search has found."""
        kept = self._cache.load(self._file)
        if kept is not None:
            self.offsets = kept
        else:
            self.offsets, self.problems = scan.find_records(self.path, self._file, self.size, self.resync)
            # A damaged file is searched each time, so that its problems are reported each time.
            if not self.problems:
                self._cache.save(self.offsets, np.zeros(0, HEADER_DTYPE))
        # The keys of a wrong index are still used for those of its records that exist.
        if self._index is not None:
            self._index = self._index.restricted_to(self.offsets)

    def _columns(self) -> tuple[np.ndarray, np.ndarray, dict[int, DataError]]:
        """Return flags u32 (N,) and labels float32 (N,) of all headers, and index -> problem.

        They take a third of the headers' memory, and are all that a training needs.
        """
        if self._header_columns is None:
            flags, labels = np.zeros(len(self), np.uint32), np.zeros(len(self), np.float32)
            problems: dict[int, DataError] = {}
            if not self._copy_kept({"flag": flags, "label": labels}):
                headers, problems = self._gather_headers()
                flags, labels = headers["flag"].copy(), headers["label"].copy()
            self._header_columns = flags, labels, problems
        return self._header_columns

    def _copy_kept(self, columns: dict[str, np.ndarray]) -> bool:
        """Fill these fields of all headers from the last search; return whether there was one."""
        num_copied = 0
        for headers in self._cache.headers(self.offsets):
            for name, column in columns.items():
                column[num_copied:num_copied + len(headers)] = headers[name]
            num_copied += len(headers)
        return num_copied == len(self)

    def _gather_headers(self) -> tuple[np.ndarray, dict[int, DataError]]:
        """Return all headers from one sweep, and keep them; odd records are looked at one by one."""
        # Python sees only those that need a closer look, in most files none.
        headers, odd = scan.gather_headers(self._file, self.size, self.offsets)
        problems: dict[int, DataError] = {}
        for i in odd.tolist():
            try:
                headers[i] = tuple(self[i].header)
            except DataError as error:
                problems[i] = error
        if not self.problems and not problems:
            self._cache.save(self.offsets, headers)
        return headers, problems


def describe_label_count(path: AnyPath, i: int, image_id: int, flag: int, width: int,
                         offset: int) -> DataError:
    """Return the error for record `i` at byte `offset`, an image record whose labels are not `width`."""
    num_labels = max(1, flag)
    return DataError(path, f"record {i} (id {image_id}) has {num_labels} labels where {width} "
                           f"{'is' if width == 1 else 'are'} expected", offset)
