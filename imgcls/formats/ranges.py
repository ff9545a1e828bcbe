"""A `.rec` behind a URL that is too large to be copied: read in ranges of bytes, whole records at a time.

`RangedReader` knows of every record where it begins and what its header says. To find out, the file is read once from
end to end, in large pieces of which nothing is kept; what was found is noted in the cache for the next time, under the
version of the file, so one run in one process on a machine pays for it. `data/chunks.py` reads the records.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator

import numpy as np

from imgcls.errors import DataError, ImgclsError
from imgcls.formats import _scan
from imgcls.formats._scan import HEADER_DTYPE, LENGTH_BITS, WHOLE
from imgcls.formats.recordio import unpack
from imgcls.storage.atomic import write_bytes
from imgcls.storage.cache import Cache
from imgcls.storage.remote import PARTS_AT_ONCE, FileInfo, RemotePath
from imgcls.storage.thread_pool import DaemonPool

#: what is read at a time to find the records
PIECE_BYTES = 16 << 20
#: how far behind the head of a record its header and first label end: 8 + 24 + 4, and to spare
_OVERLAP = 64
#: what is noted: this, the size of the file and how many records; then offsets (i64), headers, labels (f32)
_NOTE_HEAD = struct.Struct("<8sQQ")
_NOTE_MAGIC = b"imgclsR1"


class RangedReader:
    """Where the records of a remote `.rec` are and what their headers say; the images are read by `read`.

    Damage ends the good part, with `resync` it is passed over; `problems` tells of it.
    """

    #: int64 (N,), rising: byte offset of each record
    offsets: np.ndarray
    problems: list[DataError]

    def __init__(self, path: RemotePath, *, resync: bool = False, cache_gb: float | None = None) -> None:
        self.path, self.resync = path, resync
        self.info: FileInfo = path.stat()
        self.size = self.info.size
        self.problems = []
        self.cache = Cache(cache_gb)
        if not self._take_note():
            self._search()
            if not self.problems and not self._odd:
                self._write_note()
        #: the byte behind each record (and what may stand between it and the next)
        self.ends = np.append(self.offsets[1:], self.size)

    def __len__(self) -> int:
        return len(self.offsets)

    def headers(self) -> np.ndarray:
        """HEADER_DTYPE (N,)."""
        return self._headers

    def labels(self, *, strict: bool = True) -> np.ndarray:
        """float32 (N,): the one label of each record, NaN where it has none or several (with `strict` a DataError)."""
        if strict and not np.isfinite(self._labels).all():
            raise self.label_problem(int(np.argmin(np.isfinite(self._labels))), 1)
        return self._labels

    def label_problem(self, i: int, width: int) -> DataError:
        """What to say about record `i`, which does not hold `width` labels."""
        if i in self._odd:
            return self._odd[i]
        found = max(1, int(self._headers["flag"][i]))
        return DataError(self.path, f"record {i} (id {self._headers['id'][i]}) has {found} labels where {width} "
                                    f"{'is' if width == 1 else 'are'} expected", self.offsets.item(i))

    def payload(self, i: int) -> memoryview | bytes:
        """The bytes of record `i`, asked for on their own."""
        begin = self.offsets.item(i)
        return self.cut(i, memoryview(self.path.read_range(begin, self.ends.item(i))), begin)

    def cut(self, i: int, view: memoryview, first: int) -> memoryview | bytes:
        """The payload of record `i` out of the bytes from `first` on. Damage is a DataError that names the offset."""
        begin = self.offsets.item(i) - first
        try:
            joined = _scan.join_parts(self.path, view[begin:self.ends.item(i) - first], 0)
        except DataError as error:
            raise DataError(self.path, error.reason, self.offsets.item(i)) from None
        return joined

    def _search(self) -> None:
        """Read the file through, and find the records and their headers."""
        found, headers, labels = [], [], []
        for first, words in self._pieces():
            at = _scan.find_heads(words)
            inside = at[0] < min(PIECE_BYTES, self.size - first)
            starts, kinds, lengths = (part[inside] for part in at)
            header, label = _headers_at(words, starts, kinds, lengths)
            found.append(np.stack([starts + first, kinds, lengths]))
            headers.append(header)
            labels.append(label)
        heads = np.concatenate(found, axis=1) if found else np.zeros((3, 0), np.int64)
        self.offsets, self.problems = _scan.link_heads(self.path, _Words(self.path, self.size), self.size,
                                                       (heads[0], heads[1], heads[2]), self.resync)
        kept = np.searchsorted(heads[0], self.offsets)
        self._headers = np.concatenate(headers)[kept] if headers else np.zeros(0, HEADER_DTYPE)
        self._labels = np.concatenate(labels)[kept] if labels else np.zeros(0, np.float32)
        self.ends = np.append(self.offsets[1:], self.size)
        self._odd = {}
        for i in np.flatnonzero(self._labels == -np.inf).tolist():
            self._look_at(i)

    def _look_at(self, i: int) -> None:
        """A record whose header did not stand in one piece: it is split, damaged or no image record."""
        self._labels[i] = np.nan
        try:
            header, labels, _ = unpack(self.payload(i))
            self._headers[i] = tuple(header)
            self._labels[i] = labels[0] if len(labels) == 1 else np.nan
        except DataError as error:
            self._odd[i] = error
        except ValueError as error:
            self._odd[i] = DataError(self.path, f"record {i} {error}", self.offsets.item(i))

    def _pieces(self) -> Iterator[tuple[int, np.ndarray]]:
        """(byte it begins at, its 4-byte words) of each piece of the file, with the beginning of the next behind it."""
        firsts = list(range(0, self.size, PIECE_BYTES))

        def read(first: int) -> bytes:
            return self.path.read_range(first, min(first + PIECE_BYTES + _OVERLAP, self.size))

        with DaemonPool(min(PARTS_AT_ONCE, max(len(firsts), 1)), "imgcls-search") as pool:
            ahead = [pool.submit(read, first) for first in firsts[:PARTS_AT_ONCE]]
            for number, first in enumerate(firsts):
                data = ahead.pop(0).result()
                if number + PARTS_AT_ONCE < len(firsts):
                    ahead.append(pool.submit(read, firsts[number + PARTS_AT_ONCE]))
                yield first, np.frombuffer(data, "<u4", len(data) // 4)

    def _take_note(self) -> bool:
        """Whether the records were found before."""
        note = self.cache.note_path(self.path, self.info, "records")
        try:
            data = note.read_bytes()
            magic, size, count = _NOTE_HEAD.unpack_from(data)
            self.offsets = np.frombuffer(data, "<i8", count, _NOTE_HEAD.size).astype(np.int64)
            self._headers = np.frombuffer(data, HEADER_DTYPE, count, _NOTE_HEAD.size + 8 * count)
            self._labels = np.frombuffer(data, "<f4", count, _NOTE_HEAD.size + 32 * count).astype(np.float32)
        except (OSError, struct.error, ValueError, OverflowError):
            return False
        self._odd: dict[int, DataError] = {}
        self.cache.touch(note)
        rising = (self.offsets[1:] > self.offsets[:-1]).all()
        inside = not count or (self.offsets[0] >= 0 and self.offsets[-1] + 8 <= self.size)
        return bool(magic == _NOTE_MAGIC and size == self.size and inside and rising)

    def _write_note(self) -> None:
        with contextlib.suppress(ImgclsError):  # without a note the next run searches again
            write_bytes(self.cache.note_path(self.path, self.info, "records"),
                        _NOTE_HEAD.pack(_NOTE_MAGIC, self.size, len(self)), self.offsets.astype("<i8").tobytes(),
                        self._headers.tobytes(), self._labels.astype("<f4").tobytes())


class _Words:
    """The words of a remote file, one request each: only where something is wrong is one looked at."""

    def __init__(self, path: RemotePath, size: int) -> None:
        self._path, self._size = path, size

    def __len__(self) -> int:
        return self._size // 4

    def item(self, i: int, /) -> int:
        return int.from_bytes(self._path.read_range(4 * i, 4 * i + 4), "little")


def _headers_at(words: np.ndarray, starts: np.ndarray, kinds: np.ndarray,
                lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(HEADER_DTYPE (n,), float32 (n,) the one label, NaN for another number of them) of the heads at these bytes; of
    those that have to be looked at on their own zeros and -inf."""
    headers = np.zeros(len(starts), HEADER_DTYPE)
    labels = np.full(len(starts), -np.inf, np.float32)
    at = starts // 4
    plain = (kinds == WHOLE) & (lengths >= 24) & (lengths <= LENGTH_BITS) & (at + 8 <= len(words))
    headers[plain] = words[at[plain][:, None] + np.arange(2, 8)].view(HEADER_DTYPE)[:, 0]
    flags = headers["flag"].astype(np.int64)
    plain &= 24 + 4 * flags <= lengths
    headers[~plain] = np.zeros(1, HEADER_DTYPE)[0]
    labels[plain] = np.where(flags[plain] == 0, headers["label"][plain], np.nan)
    outside = plain & (flags == 1) & (at + 9 <= len(words))
    labels[outside] = words[at[outside] + 8].view("<f4")
    return headers, labels
