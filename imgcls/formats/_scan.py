"""Where the records of a `.rec` lie: found by searching the file, read from an `.idx`, or kept from the last time.

`recordio.py` tells what the format looks like, and alone uses this. What searches here works on the file's 4-byte words
(a view of the mapped file), whole arrays at a time, and gives offsets: bytes from the beginning of the file, int64,
rising. Joining and splitting the payloads that are written in parts is here too.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from imgcls.errors import DataError, ImgclsError
from imgcls.storage.atomic import write_bytes
from imgcls.storage.folders import cache_folder
from imgcls.storage.paths import AnyPath
from imgcls.storage.reading import read_all

MAGIC = 0xCED7230A
#: the bits of a head's second word that are the length; the others are the kind
LENGTH_BITS = (1 << 29) - 1
WHOLE, FIRST, MIDDLE, LAST = range(4)

#: the header of an image record as it stands in the file: 24 bytes
HEADER_DTYPE = np.dtype([("flag", "<u4"), ("label", "<f4"), ("id", "<u8"), ("id2", "<u8")])

_HEAD = struct.Struct("<II")
_MAGIC_BYTES = struct.pack("<I", MAGIC)
_WINDOW_WORDS = 1 << 20
_CHUNK_RECORDS = 1 << 16
_UNFINISHED = "the record in parts that begins here is not finished: its next part is missing at byte "
#: what is kept: magic, size and time of the .rec, how many offsets (i64) and how many headers (or none) follow
_CACHE_HEAD = struct.Struct("<8sQQQQ")
_CACHE_MAGIC = b"imgclsX1"
#: smaller files are searched in a few milliseconds: to keep what was found would only be litter
_CACHE_FROM_BYTES = 1 << 24
#: of all that is kept, for all files together, the oldest goes when it is more
_CACHE_BYTES = 1 << 30


class Words(Protocol):
    """The 4-byte words of a file, or what gives one of them on request."""

    def __len__(self) -> int: ...

    def item(self, i: int, /) -> int: ...


def find_records(path: AnyPath, words: np.ndarray, size: int, resync: bool) -> tuple[np.ndarray, list[DataError]]:
    """(byte offsets of the good records, what is wrong) of a whole file given as its 4-byte words."""
    return link_heads(path, words, size, find_heads(words), resync)


def link_heads(path: AnyPath, words: Words, size: int, heads: tuple[np.ndarray, np.ndarray, np.ndarray],
               resync: bool) -> tuple[np.ndarray, list[DataError]]:
    """`find_records` where the heads are known; of the words only those where something is wrong are looked at."""
    starts, kinds, lengths = heads
    ends = starts + 8 + lengths + -lengths % 4
    linked = len(starts) and starts[0] == 0 and ends[-1] == size and (ends[:-1] == starts[1:]).all()
    if linked and not kinds.any():
        return starts, []
    problems: list[DataError] = []
    if not linked:
        chain = _Chain(path, words, size, starts, lengths, ends)
        kept = chain.follow(resync)
        problems = chain.problems
        starts, kinds, ends = starts[kept], kinds[kept], ends[kept]
    good, broken = _whole_records(path, starts, kinds, ends)
    problems = sorted(problems + broken, key=lambda p: p.offset or 0)
    offsets = starts[good]
    if problems and not resync:
        offsets = offsets[:np.searchsorted(offsets, problems[0].offset or 0)] if broken else offsets
        problems = problems[:1]
    return offsets, problems


def find_heads(words: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int64 (byte offset, kind 0-3, length) of everything in the file that looks like a part's head."""
    found = []
    for first in range(0, len(words) - 1, _WINDOW_WORDS):
        at = np.flatnonzero(words[first:min(first + _WINDOW_WORDS, len(words) - 1)] == MAGIC) + first
        word = words[at + 1].astype(np.int64)
        real = word >> 29 <= LAST
        found.append(np.stack([at[real] * 4, word[real] >> 29, word[real] & LENGTH_BITS]))
    starts, kinds, lengths = np.concatenate(found, axis=1) if found else np.zeros((3, 0), np.int64)
    return starts, kinds, lengths


def gather_headers(words: np.ndarray, size: int, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(HEADER_DTYPE (N,), numbers of the records that are split, damaged or no image records: zeros there)."""
    headers = np.zeros(len(offsets), HEADER_DTYPE)
    odd = np.zeros(len(offsets), bool)
    for first in range(0, len(offsets), _CHUNK_RECORDS):
        chunk = slice(first, first + _CHUNK_RECORDS)
        at = offsets[chunk] // 4
        length = words[at + 1].astype(np.int64)
        plain = (length >= 24) & (length <= LENGTH_BITS) & (at * 4 + 8 + length <= size) & (words[at] == MAGIC)
        gathered = words[at[plain][:, None] + np.arange(2, 8)].view(HEADER_DTYPE)[:, 0]
        fits = 24 + 4 * gathered["flag"].astype(np.int64) <= length[plain]
        plain[plain] = fits
        headers[chunk][plain] = gathered[fits]
        odd[chunk] = ~plain
    return headers, np.flatnonzero(odd)


def disagreement(words: np.ndarray, size: int, offsets: np.ndarray) -> str:
    """Why these rising offsets cannot be those of this file's records, by a sample; empty: they may be."""
    if not len(offsets):
        return "it names no record" if size else ""
    if size % 4:
        return f"{size} bytes are no multiple of 4, the file's end is cut"
    if offsets[0] != 0 or offsets[-1] + 8 > size:
        return f"its records lie at bytes {offsets[0]} to {offsets[-1]}, the file has {size}"
    sample = np.unique(np.linspace(0, len(offsets) - 1, 64).astype(np.int64))
    ends = np.append(offsets, size)
    for i in sample.tolist():
        offset, end = ends.item(i), ends.item(i + 1)
        magic, word = words[offset // 4:offset // 4 + 2].tolist()
        kind, length = word >> 29, word & LENGTH_BITS
        if offset % 4 or magic != MAGIC or kind not in (WHOLE, FIRST):
            return f"there is no record at byte {offset}"
        # A split record's length is that of its first part: only the others can be held against the index.
        if kind == WHOLE and offset + 8 + length + -length % 4 != end:
            return f"the record at byte {offset} does not end at byte {end}"
    return ""


def join_parts(path: AnyPath, view: memoryview, begin: int) -> bytes:
    """The payload of the split record at `begin` of a file's bytes; whatever is wrong with it is a DataError."""
    pieces = []
    offset, size = begin, len(view)
    while True:
        # behind the end of the file there is no magic
        magic, word = _HEAD.unpack_from(view, offset) if offset + 8 <= size else (0, 0)
        kind, length = word >> 29, word & LENGTH_BITS
        if magic != MAGIC or kind not in ((WHOLE, FIRST) if not pieces else (MIDDLE, LAST)):
            raise DataError(path, _wrong_head(magic, kind, begin, offset), begin)
        end = offset + 8 + length
        if end > size:
            raise DataError(path, _past_end(length, offset, size), begin)
        pieces.append(view[offset + 8:end])
        if kind in (WHOLE, LAST):
            return _MAGIC_BYTES.join(pieces)
        offset = end + -end % 4


def split_parts(payload: bytes | bytearray) -> Iterator[tuple[int, bytes | bytearray]]:
    """(kind, bytes) of each part that a payload is written as."""
    # In place of bytes.find: only whole words at multiples of 4 count, and this compares eight times as fast.
    words = np.frombuffer(payload, "<u4", count=len(payload) // 4)
    cuts = (np.flatnonzero(words == MAGIC) * 4).tolist()
    if not cuts:
        yield WHOLE, payload
        return
    begin = 0
    for cut in cuts:
        yield MIDDLE if begin else FIRST, payload[begin:cut]
        begin = cut + 4
    yield LAST, payload[begin:]


class Index(NamedTuple):
    """The lines of an `.idx`."""

    keys: np.ndarray
    offsets: np.ndarray

    @classmethod
    def read(cls, path: AnyPath) -> Index:
        """All lines at once where they are plain numbers, otherwise one by one, to say which is wrong."""
        try:
            text = read_all(path)
        except OSError as error:
            raise DataError(path, (error.strerror or str(error)).lower()) from error
        text = text.replace(b"\r\n", b"\n").strip(b"\n") + b"\n"
        table = cls._plain(text)
        if table is not None:
            return cls(table[:, 0], table[:, 1])
        keys: list[Any] = []
        offsets = []
        at = 0
        for number, line in enumerate(text.split(b"\n"), 1):
            key, _, offset = line.rpartition(b"\t")
            if line.strip() and not (offset.strip().isdigit() and len(offset) < 19):
                shown = line[:40].decode("utf-8", "replace")
                raise DataError(path, f"line {number} is no key, tab and offset: {shown!r}", at)
            if line.strip():
                keys.append(_key(key))
                offsets.append(int(offset))
            at += len(line) + 1
        small = all(isinstance(k, int) and abs(k) < 1 << 63 for k in keys)
        table_keys = np.array(keys, np.int64) if small else np.fromiter(keys, object, len(keys))
        return cls(table_keys, np.array(offsets, np.int64))

    @staticmethod
    def _plain(text: bytes) -> np.ndarray | None:
        """int64 (lines, 2), or None where the text is anything but lines of two numbers that fit."""
        codes = np.frombuffer(text, np.uint8)
        breaks = np.flatnonzero(codes < ord("0"))
        if len(breaks) % 2 or (codes > ord("9")).any():
            return None
        digits = np.diff(breaks, prepend=-1) - 1
        if (codes[breaks[::2]] != 9).any() or (codes[breaks[1::2]] != 10).any() or not len(breaks):
            return None
        if digits.min() < 1 or digits.max() > 18:
            return None
        return np.fromstring(text, np.int64, sep=" ").reshape(-1, 2)

    def only(self, offsets: np.ndarray) -> Index:
        """Without the lines whose offset is none of `offsets` (rising)."""
        known = np.isin(self.offsets, offsets)
        return Index(self.keys[known], self.offsets[known])

    def difference(self, offsets: np.ndarray) -> str:
        """What is wrong with it where these (rising) are the records' offsets; empty: nothing."""
        named = rising(self.offsets)
        wrong = named[~np.isin(named, offsets)]
        if len(wrong):
            return f"{len(wrong)} of its offsets are no record's, the first is {wrong[0]}"
        missing = len(offsets) - len(named)
        return f"does not name {missing} of the {len(offsets)} records" if missing else ""


def rising(offsets: np.ndarray) -> np.ndarray:
    """Sorted and each once; `numpy.unique` takes a third of a second for a million that are so already."""
    if (offsets[1:] > offsets[:-1]).all():
        return offsets
    offsets = np.sort(offsets)
    return offsets[np.append(True, offsets[1:] > offsets[:-1])]


class ScanCache:
    """What was found in a large file: offsets and, once they were gathered, headers, for the next time.

    It lies in the user's cache folder and not beside the file, where MXNet would take it for records: of a folder it
    reads every file. It counts only for a file of the same place, size and time.
    """

    def __init__(self, path: Path, size: int, mtime_ns: int, *, use: bool) -> None:
        """Without `use`, or for a small file, nothing is looked for or kept."""
        self._path, self._size, self._mtime_ns = path, size, mtime_ns
        self._use = use and size >= _CACHE_FROM_BYTES

    def load(self, words: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """(offsets, headers: all or none) of the file with these words; None where none are kept that can be its."""
        if not self._use:
            return None
        try:
            data = self._file().read_bytes()
            magic, size, mtime_ns, count, num_headers = _CACHE_HEAD.unpack_from(data)
            offsets = np.frombuffer(data, "<i8", count, _CACHE_HEAD.size).astype(np.int64)
            headers = np.frombuffer(data, HEADER_DTYPE, num_headers, _CACHE_HEAD.size + offsets.nbytes)
        except (OSError, RuntimeError, ImgclsError, struct.error, ValueError, OverflowError):
            return None
        if magic != _CACHE_MAGIC or (size, mtime_ns) != (self._size, self._mtime_ns):
            return None
        if (offsets[1:] <= offsets[:-1]).any() or (offsets % 4).any() or disagreement(words, size, offsets):
            return None
        return offsets, headers

    def save(self, offsets: np.ndarray, headers: np.ndarray) -> None:
        """Keep the offsets and all headers or none."""
        if not self._use:
            return
        head = _CACHE_HEAD.pack(_CACHE_MAGIC, self._size, self._mtime_ns, len(offsets), len(headers))
        # No home or a full disk only means that the next reader searches again.
        with contextlib.suppress(ImgclsError, OSError, RuntimeError):
            write_bytes(self._file(), head, offsets.astype("<i8").tobytes(), headers.tobytes())
            self._make_room()

    def _file(self) -> Path:
        place = hashlib.sha256(os.fsencode(self._path.resolve())).hexdigest()[:32]
        return cache_folder("records") / f"{self._path.stem[:32]}-{place}.kept"

    def _make_room(self) -> None:
        """Remove what was kept longest ago while all together is too much."""
        files = sorted((p.stat().st_mtime_ns, p.stat().st_size, p) for p in self._file().parent.glob("*.kept"))
        total = sum(size for _, size, _ in files)
        for _, size, path in files[:-1]:
            if total > _CACHE_BYTES:
                path.unlink(missing_ok=True)
                total -= size


class _Chain:
    """Follows the parts of a file in which not each ends where the next begins, and finds out why.

    Only breaks cost time, not parts. `problems` tells them in order.
    """

    def __init__(self, path: AnyPath, words: Words, size: int, starts: np.ndarray, lengths: np.ndarray,
                 ends: np.ndarray) -> None:
        self.path, self.words, self.size = path, words, size
        self.starts, self.lengths, self.ends = starts, lengths, ends
        self.problems: list[DataError] = []

    def follow(self, resync: bool) -> np.ndarray:
        """bool (heads,): which heads are parts. Ends at the first damage; with `resync` goes on behind it."""
        starts, ends = self.starts, self.ends
        kept = np.zeros(len(starts), bool)
        breaks = np.append(np.flatnonzero(ends[:-1] != starts[1:]), len(starts) - 1)
        position = 0
        while position < self.size:
            i = int(np.searchsorted(starts, position))
            if i == len(starts) or starts[i] != position:
                self._problem(position, self._no_head(position))
                position = starts.item(i) if i < len(starts) else self.size
            else:
                last = breaks.item(int(np.searchsorted(breaks, i)))
                kept[i:last + 1] = True
                position, kept[last] = self._after_run(last)
            if self.problems and not resync:
                break
        return kept

    def _after_run(self, i: int) -> tuple[int, bool]:
        """(where to go on behind part `i`, whether it is good) where its end is not where the next head is."""
        start, end = self.starts.item(i), self.ends.item(i)
        following = self.starts.item(i + 1) if i + 1 < len(self.starts) else self.size
        if end > self.size:
            if start + 8 + self.lengths.item(i) <= self.size:
                self._problem(start, "the file ends inside the padding of the record here: nothing of it is "
                                     "lost, but the size is no multiple of 4")
                return self.size, True
            self._problem(start, _past_end(self.lengths.item(i), start, self.size))
            return following, False
        at = int(np.searchsorted(self.starts, end))
        if end == self.size or (at < len(self.starts) and self.starts[at] == end):
            # Heads inside a payload: a foreign writer did not split it there. The lengths are right: follow them.
            return end, True
        if following < end:
            self._problem(start, f"the record here says {self.lengths.item(i)} bytes but the next begins "
                                 f"already at byte {following}: its length is wrong")
            return following, False
        lost_end = end + 8 + (self._word(end + 4) & LENGTH_BITS)
        if following == self.size or lost_end + -lost_end % 4 == following:
            return end, True    # what comes next is no record: `follow` says so, this one is good
        self._problem(start, f"the record here ends at byte {end} but the next begins at byte {following}: "
                             "its length is wrong, or what is between them is no record")
        return following, False

    def _no_head(self, position: int) -> str:
        if self.size - position < 8:
            return f"the file ends inside the head of a record: {self.size - position} of 8 bytes"
        if self._word(position) == MAGIC:
            return f"the record here is of kind {self._word(position + 4) >> 29}, which does not exist"
        return f"no record begins here: {self._word(position):#010x} in place of {MAGIC:#010x}"

    def _word(self, position: int) -> int:
        return self.words.item(position // 4) if position // 4 < len(self.words) else 0

    def _problem(self, offset: int, reason: str) -> None:
        self.problems.append(DataError(self.path, reason, offset))


def _whole_records(path: AnyPath, starts: np.ndarray, kinds: np.ndarray,
                   ends: np.ndarray) -> tuple[np.ndarray, list[DataError]]:
    """(numbers of the parts that begin a good record, what is wrong with the others)."""
    if not len(kinds):
        return np.zeros(0, np.int64), []
    begins = kinds <= FIRST
    good = begins.copy()
    unfinished = np.append((kinds == FIRST) | (kinds == MIDDLE), False)
    # joined[i]: parts i - 1 and i touch; nothing touches the first part from before or the last from behind.
    joined = np.concatenate([[False], ends[:-1] == starts[1:], [False]])
    open_before = np.concatenate([[False], unfinished[:-1]])
    continues = np.append(~begins, False)
    wrong = np.flatnonzero((open_before != continues) | (open_before & ~joined))
    begin_numbers = np.flatnonzero(begins)
    problems = []
    done = 0
    for i in wrong.tolist():
        if open_before[i] and i > done:
            begin = int(begin_numbers[np.searchsorted(begin_numbers, i) - 1])
            good[begin] = False
            problems.append(DataError(path, _UNFINISHED + str(ends[i - 1]), starts.item(begin)))
        if continues[i] and i >= done:
            problems.append(DataError(path, f"a part of kind {kinds[i]} (of a record in parts) without its "
                                            "beginning", starts.item(i)))
            following = np.searchsorted(begin_numbers, i)
            done = int(begin_numbers[following]) if following < len(begin_numbers) else len(kinds)
    return np.flatnonzero(good), problems


def _key(text: bytes) -> int | str:
    """A key as MXNet's users made them: a number mostly, any word else."""
    try:
        return int(text)
    except ValueError:
        return text.decode("utf-8", "surrogateescape")


def _wrong_head(magic: int, kind: int, begin: int, offset: int) -> str:
    if magic != MAGIC:
        return "no record begins here" if begin == offset else _UNFINISHED + str(offset)
    return f"the record here has a part of kind {kind} at byte {offset}, which cannot stand there"


def _past_end(length: int, offset: int, size: int) -> str:
    return f"the record here is cut: it says {length} bytes, the file has {max(0, size - offset - 8)} more"
