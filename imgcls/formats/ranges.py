"""A `.rec` behind a URL that is too large to be copied: read in ranges of bytes, whole records at a time.

`RangedReader` has of every record its offset and its header. To find these, the file is read once from end to
end, in large pieces of which nothing else is kept. They are stored in the cache under the version of the
file, so that later runs on the machine need not read it again. `data/chunks.py` reads the images.
"""

from __future__ import annotations

import contextlib
import struct
from collections import deque
from collections.abc import Iterator

import numpy as np

from imgcls.errors import DataError, ImgclsError
from imgcls.formats.recordio.framing import LENGTH_BITS, UNSPLIT, Bytes, join_parts
from imgcls.formats.recordio.image_record import HEADER_DTYPE, unpack
from imgcls.formats.recordio.reader import describe_label_count
from imgcls.formats.recordio.scan import Heads, find_heads, link_heads
from imgcls.storage.atomic import write_bytes
from imgcls.storage.cache import Cache
from imgcls.storage.remote import PARTS_AT_ONCE, FileInfo, RemotePath
from imgcls.storage.thread_pool import DaemonPool

#: bytes read at a time to find the records
PIECE_BYTES = 16 << 20
#: how far behind its beginning the header and first label of a record end: 8 + 24 + 4, and to spare
_OVERLAP = 64
#: head of what is kept: magic, size of the file, number of records; offsets, headers, labels (f32) follow
_CACHE_HEAD = struct.Struct("<8sQQ")
_CACHE_MAGIC = b"imgclsR1"
#: stands for the label of a record whose header has to be read on its own
_UNREAD = -np.inf


class RangedReader:
    """Where the records of a remote `.rec` are and what their headers say; `payload` and `extract` give the
    images.

    Records behind the first damage are not found, unless `resync` is set; `problems` describes the damage.
    """

    #: int64 (N,), rising: byte offset of each record
    offsets: np.ndarray
    #: int64 (N,): where the next record begins, or the file ends
    ends: np.ndarray
    #: what is wrong with the file, in its order
    problems: list[DataError]
    #: index -> why the record is no image record
    _odd: dict[int, DataError]

    def __init__(self, path: RemotePath, *, resync: bool = False, cache_gb: float | None = None) -> None:
        self.path = path
        self.resync = resync
        self.info: FileInfo = path.stat()
        self.size = self.info.size
        self.problems = []
        self.cache = Cache(cache_gb)
        if not self._load_cached():
            self._search()
            # A damaged file is searched by every run: its problems are reported each time.
            if not self.problems and not self._odd:
                self._save_cached()

    def __len__(self) -> int:
        return len(self.offsets)

    # The methods of RecordReader that sources call: they work the same for local and for remote files.
    def headers(self) -> np.ndarray:
        """Return HEADER_DTYPE (N,)."""
        return self._headers

    def flags(self) -> np.ndarray:
        """Return u32 (N,): how many labels stand behind each header, 0 for a single one inside of it."""
        return self._headers["flag"]

    def labels(self, *, strict: bool = True) -> np.ndarray:
        """Return float32 (N,): the one label of each record.

        NaN where a record has none or several; with `strict` the first of these is a DataError.
        """
        is_finite = np.isfinite(self._labels)
        if strict and not is_finite.all():
            raise self.label_problem(int(np.argmin(is_finite)), 1)
        return self._labels

    def image_id(self, i: int) -> int:
        """Return the id in the header of record `i`, 0 where it has none."""
        return self._headers["id"].item(i)

    def forget_headers(self) -> None:
        """Do nothing, where RecordReader frees memory: the headers would need all of the file once more."""

    def label_problem(self, i: int, width: int) -> DataError:
        """Return the error for record `i`, which does not hold `width` labels."""
        return self._odd[i] if i in self._odd else describe_label_count(
            self.path, i, self.image_id(i), self._headers["flag"].item(i), width, self.offsets.item(i))

    def payload(self, i: int) -> memoryview | bytes:
        """Return the payload of record `i`, by a request of its own. Damage is a DataError."""
        begin = self.offsets.item(i)
        return self.extract(i, memoryview(self.path.read_range(begin, self.ends.item(i))), begin)

    def extract(self, i: int, view: Bytes, first: int) -> memoryview | bytes:
        """Return the payload of record `i` out of the file's bytes from `first` on.

        Damage is a DataError that names the offset in the file.
        """
        offset = self.offsets.item(i)
        try:
            return join_parts(self.path, view[offset - first:self.ends.item(i) - first], 0)
        except DataError as error:
            # Its offset counts from the beginning of the record.
            raise DataError(self.path, error.reason, offset) from None

    def _search(self) -> None:
        """Read the file through, and find the records and their headers."""
        pieces, headers, labels = [], [], []
        for first, words in self._pieces():
            heads = find_heads(words)
            is_own = heads.starts < PIECE_BYTES  # those behind it are the next piece's
            heads = Heads(*(column[is_own] for column in heads))
            # While the piece is here: nothing but offsets, headers and labels stays in memory.
            piece_headers, piece_labels = _headers_at(words, heads)
            pieces.append(np.stack([heads.starts + first, heads.kinds, heads.lengths]))
            headers.append(piece_headers)
            labels.append(piece_labels)
        heads = Heads(*(np.concatenate(pieces, axis=1) if pieces else np.zeros((3, 0), np.int64)))
        remote_words = _RemoteWords(self.path, self.size)
        self.offsets, self.problems = link_heads(self.path, remote_words, self.size, heads, self.resync)
        self._set_ends()
        # Of all heads only those that begin a record have a header behind them.
        rows = np.searchsorted(heads.starts, self.offsets)
        self._headers = np.concatenate(headers)[rows] if headers else np.zeros(0, HEADER_DTYPE)
        self._labels = np.concatenate(labels)[rows] if labels else np.zeros(0, np.float32)
        self._odd = {}
        for i in np.flatnonzero(self._labels == _UNREAD).tolist():
            self._read_header(i)

    def _set_ends(self) -> None:
        self.ends = np.append(self.offsets[1:], self.size)

    def _read_header(self, i: int) -> None:
        """Read a record whose header did not stand in one piece: it is split, damaged or no image record."""
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
        """Yield (first byte, 4-byte words) of each piece of the file; it overlaps the next one."""
        firsts = list(range(0, self.size, PIECE_BYTES))

        def read(first: int) -> bytes:
            return self.path.read_range(first, min(first + PIECE_BYTES + _OVERLAP, self.size))

        # Enough pieces are requested at a time to use the network; memory holds no more than these.
        with DaemonPool(min(PARTS_AT_ONCE, max(len(firsts), 1)), "imgcls-search") as pool:
            reads = deque(pool.submit(read, first) for first in firsts[:PARTS_AT_ONCE])
            for number, first in enumerate(firsts):
                data = reads.popleft().result()  # in the file's order, whichever arrived first
                if number + PARTS_AT_ONCE < len(firsts):
                    reads.append(pool.submit(read, firsts[number + PARTS_AT_ONCE]))
                yield first, np.frombuffer(data, "<u4", len(data) // 4)

    def _load_cached(self) -> bool:
        """Take what an earlier run found in this version of the file; return whether there is such a note."""
        # The name contains the file's version: for a file that changed, no note is found.
        note = self.cache.note_path(self.path, self.info, "records")
        try:
            data = note.read_bytes()
            magic, size, count = _CACHE_HEAD.unpack_from(data)
            # frombuffer refuses a count that is more than the note holds, before memory is taken.
            offsets = np.frombuffer(data, "<i8", count, _CACHE_HEAD.size).astype(np.int64)
            self._headers = np.frombuffer(data, HEADER_DTYPE, count, _CACHE_HEAD.size + 8 * count)
            self._labels = np.frombuffer(data, "<f4", count, _CACHE_HEAD.size + 32 * count).astype(np.float32)
        except (OSError, struct.error, ValueError, OverflowError):
            return False
        self.cache.touch(note)
        # The note is not trusted either: its offsets are checked before a record is requested.
        is_rising = (offsets[1:] > offsets[:-1]).all()
        is_inside = not count or (offsets[0] >= 0 and offsets[-1] + 8 <= self.size)
        self.offsets = offsets
        self._odd = {}
        self._set_ends()
        return bool(magic == _CACHE_MAGIC and size == self.size and is_inside and is_rising)

    def _save_cached(self) -> None:
        with contextlib.suppress(ImgclsError):  # without it the next run searches again
            write_bytes(self.cache.note_path(self.path, self.info, "records"),
                        _CACHE_HEAD.pack(_CACHE_MAGIC, self.size, len(self)),
                        self.offsets.astype("<i8").tobytes(), self._headers.tobytes(),
                        self._labels.astype("<f4").tobytes())


class _RemoteWords:
    """The words of a remote file, one request each: `link_heads` reads them only where something is wrong."""

    def __init__(self, path: RemotePath, size: int) -> None:
        self._path = path
        self._size = size

    def __len__(self) -> int:
        return self._size // 4

    def item(self, i: int, /) -> int:
        return int.from_bytes(self._path.read_range(4 * i, 4 * i + 4), "little")


def _headers_at(words: np.ndarray, heads: Heads) -> tuple[np.ndarray, np.ndarray]:
    """Return (HEADER_DTYPE (n,), float32 (n,) the one label) of the records that begin at these heads.

    The label is NaN where a record has another number of them. Records that have to be read on their own have
    zeros and `_UNREAD`.
    """
    headers = np.zeros(len(heads.starts), HEADER_DTYPE)
    labels = np.full(len(heads.starts), _UNREAD, np.float32)
    word_index = heads.starts // 4
    # Head and header are 8 words; where the file ends before that nothing can be gathered.
    is_plain = (heads.kinds == UNSPLIT) & (heads.lengths >= 24) & (heads.lengths <= LENGTH_BITS)
    is_plain &= word_index + 8 <= len(words)
    headers[is_plain] = words[word_index[is_plain][:, None] + np.arange(2, 8)].view(HEADER_DTYPE)[:, 0]
    flags = headers["flag"].astype(np.int64)
    is_plain &= 24 + 4 * flags <= heads.lengths
    # Those that hold fewer labels than they say were gathered as well: they are read on their own.
    headers[~is_plain] = np.zeros(1, HEADER_DTYPE)[0]
    labels[is_plain] = np.where(flags[is_plain] == 0, headers["label"][is_plain], np.nan)
    # One label behind the header: the ninth word.
    is_behind = is_plain & (flags == 1) & (word_index + 9 <= len(words))
    labels[is_behind] = words[word_index[is_behind] + 8].view("<f4")
    return headers, labels
