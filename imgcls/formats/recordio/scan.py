"""Find the records of a file by searching it, and say what is wrong where it is damaged.

The reader and `formats/ranges.py` call it. The search works on the file's 4-byte words (a `RecordFile`, or an
array), whole arrays at a time, and returns offsets: bytes from the beginning of the file, int64, rising. Only
damaged places cost Python time, not records. Nothing here reads an index or opens a file.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from imgcls.errors import DataError
from imgcls.formats.recordio.framing import (
    FIRST,
    HEAD,
    KIND_SHIFT,
    LAST,
    LENGTH_BITS,
    MAGIC,
    MIDDLE,
    UNSPLIT,
    describe_cut,
    describe_unfinished,
)
from imgcls.formats.recordio.image_record import HEADER_DTYPE
from imgcls.formats.recordio.record_file import RecordFile
from imgcls.storage.paths import AnyPath

#: words compared at a time, a megabyte, which stays in the cache between reading and comparing
_WINDOW_WORDS = 1 << 18
#: records whose headers are gathered at a time, which bounds the memory of the index arrays
_CHUNK_RECORDS = 1 << 16
#: records of a file that are compared with an index, evenly spread
_SAMPLED_RECORDS = 64


class Words(Protocol):
    """The 4-byte words of a file, or an object that reads one of them on request."""

    def __len__(self) -> int: ...

    def item(self, i: int, /) -> int: ...


class SlicedWords(Words, Protocol):
    """The same, which also returns a slice of them."""

    def __getitem__(self, words: slice, /) -> np.ndarray: ...


class Heads(NamedTuple):
    """The heads of parts in a file, in its order: int64 (N,) each."""

    #: byte where the head begins, a multiple of 4
    starts: np.ndarray
    #: 0 to 3, see `framing`
    kinds: np.ndarray
    #: payload bytes that the head announces
    lengths: np.ndarray

    @property
    def ends(self) -> np.ndarray:
        """int64 (N,): the byte behind each part and its padding."""
        return self.starts + HEAD.size + self.lengths + -self.lengths % 4


def find_records(path: AnyPath, words: SlicedWords, size: int,
                 resync: bool) -> tuple[np.ndarray, list[DataError]]:
    """Return (byte offsets of the good records, what is wrong) of a file of `size` bytes, given as its words.

    Without `resync` the offsets end at the first damage, and that alone is reported.
    """
    return link_heads(path, words, size, find_heads(words), resync)


def link_heads(path: AnyPath, words: Words, size: int, heads: Heads,
               resync: bool) -> tuple[np.ndarray, list[DataError]]:
    """Return what `find_records` does, from known heads; words are read only where something is wrong."""
    starts, kinds, _ = heads
    ends = heads.ends
    is_linked = len(starts) and starts[0] == 0 and ends[-1] == size and (ends[:-1] == starts[1:]).all()
    # The common case: every part begins where the one before it ends, and no record is split.
    if is_linked and not kinds.any():
        return starts, []
    problems: list[DataError] = []
    if not is_linked:
        chain = _Chain(path, words, size, heads)
        is_part = chain.follow(resync)
        problems = chain.problems
        starts, kinds, ends = starts[is_part], kinds[is_part], ends[is_part]
    begins, incomplete = _find_complete(path, starts, kinds, ends)
    problems = sorted(problems + incomplete, key=lambda problem: problem.offset or 0)
    offsets = starts[begins]
    # Without `resync` the file ends for the caller where the first damage is.
    if problems and not resync:
        if incomplete:
            # The chain ended at its first damage, an incomplete record may lie before that.
            offsets = offsets[:np.searchsorted(offsets, problems[0].offset or 0)]
        problems = problems[:1]
    return offsets, problems


def find_heads(words: SlicedWords) -> Heads:
    """Return everything in the file that looks like the head of a part."""
    windows = []
    # The last word has no length behind it, so it is no head.
    for first in range(0, len(words) - 1, _WINDOW_WORDS):
        window = words[first:min(first + _WINDOW_WORDS, len(words) - 1) + 1]
        found_at = np.flatnonzero(window[:-1] == MAGIC)
        word = window[found_at + 1].astype(np.int64)
        is_head = word >> KIND_SHIFT <= LAST
        word = word[is_head]
        windows.append(np.stack([(found_at[is_head] + first) * 4, word >> KIND_SHIFT, word & LENGTH_BITS]))
    return Heads(*(np.concatenate(windows, axis=1) if windows else np.zeros((3, 0), np.int64)))


def gather_headers(words: RecordFile, size: int, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the image headers of the records at these offsets: (HEADER_DTYPE (N,), int64 indexes of odd
    records).

    Odd are those that are split, damaged or no image records; their headers are zeros.
    """
    headers = np.zeros(len(offsets), HEADER_DTYPE)
    is_odd = np.zeros(len(offsets), bool)
    for first in range(0, len(offsets), _CHUNK_RECORDS):
        chunk = slice(first, first + _CHUNK_RECORDS)
        word_index = offsets[chunk] // 4
        rows = words.rows(word_index, 8)
        # The second word of an unsplit record is its length; of any other it is larger than LENGTH_BITS.
        length = rows[:, 1].astype(np.int64)
        fits_file = word_index * 4 + HEAD.size + length <= size
        is_plain = (length >= 24) & (length <= LENGTH_BITS) & fits_file & (rows[:, 0] == MAGIC)
        gathered = np.ascontiguousarray(rows[is_plain, 2:]).view(HEADER_DTYPE)[:, 0]
        has_labels = 24 + 4 * gathered["flag"].astype(np.int64) <= length[is_plain]
        is_plain[is_plain] = has_labels
        headers[chunk][is_plain] = gathered[has_labels]
        is_odd[chunk] = ~is_plain
    return headers, np.flatnonzero(is_odd)


def describe_mismatch(words: SlicedWords, size: int, offsets: np.ndarray,
                      num_sampled: int = _SAMPLED_RECORDS) -> str:
    """Return why these rising offsets cannot be the file's records, by a sample; "" if they may be."""
    if not len(offsets):
        return "it names no record" if size else ""
    if size % 4:
        return f"{size} bytes are no multiple of 4, the file's end is cut"
    if offsets[0] != 0 or offsets[-1] + HEAD.size > size:
        return f"its records lie at bytes {offsets[0]} to {offsets[-1]}, the file has {size}"
    sample = sampled(len(offsets), num_sampled)
    ends = np.append(offsets, size)
    # 64 records and not all: this is done at every start, and a wrong index is wrong in more than one place.
    for i in sample.tolist():
        offset = ends.item(i)
        end = ends.item(i + 1)
        magic, word = words[offset // 4:offset // 4 + 2].tolist()
        kind = word >> KIND_SHIFT
        length = word & LENGTH_BITS
        if offset % 4 or magic != MAGIC or kind not in (UNSPLIT, FIRST):
            return f"there is no record at byte {offset}"
        # A split record's length is that of its first part: only the others can be compared with the index.
        if kind == UNSPLIT and offset + HEAD.size + length + -length % 4 != end:
            return f"the record at byte {offset} does not end at byte {end}"
    return ""


def sampled(num_records: int, num_sampled: int) -> np.ndarray:
    """Return int64, rising: the indexes of up to `num_sampled` records, evenly spread, first and last too."""
    return np.unique(np.linspace(0, num_records - 1, num_sampled).astype(np.int64))


class _Chain:
    """Follows the parts of a file in which some do not end where the next begins, and finds out why.

    `problems` says in order what is wrong.
    """

    def __init__(self, path: AnyPath, words: Words, size: int, heads: Heads) -> None:
        self.path = path
        self.words = words
        self.size = size
        self.starts = heads.starts
        self.lengths = heads.lengths
        self.ends = heads.ends
        self.problems: list[DataError] = []

    def follow(self, resync: bool) -> np.ndarray:
        """Return bool (heads,): which heads are parts, up to the first damage; with `resync` all."""
        starts = self.starts
        is_part = np.zeros(len(starts), bool)
        # Runs of parts that touch are taken at once: a break is a part with something else behind it.
        breaks = np.append(np.flatnonzero(self.ends[:-1] != starts[1:]), len(starts) - 1)
        position = 0
        while position < self.size:
            i = int(np.searchsorted(starts, position))
            if i == len(starts) or starts[i] != position:
                self._add_problem(position, self._describe_no_head(position))
                position = starts.item(i) if i < len(starts) else self.size
            else:
                last = breaks.item(int(np.searchsorted(breaks, i)))
                is_part[i:last + 1] = True
                position, is_part[last] = self._resume_behind(last)
            if self.problems and not resync:
                break
        return is_part

    def _resume_behind(self, i: int) -> tuple[int, bool]:
        """Return (where to continue, whether part `i` is good) for one that does not end at the next head."""
        start = self.starts.item(i)
        end = self.ends.item(i)
        length = self.lengths.item(i)
        next_head = self.starts.item(i + 1) if i + 1 < len(self.starts) else self.size
        # The last part of the file, cut.
        if end > self.size:
            if start + HEAD.size + length <= self.size:
                self._add_problem(start, "the file ends inside the padding of the record here: nothing of "
                                         "it is lost, but the size is no multiple of 4")
                return self.size, True
            self._add_problem(start, describe_cut(length, start, self.size))
            return next_head, False
        head_index = int(np.searchsorted(self.starts, end))
        if end == self.size or (head_index < len(self.starts) and self.starts[head_index] == end):
            # Heads inside a payload, which another program's writer did not split: the lengths are right.
            return end, True
        # The next head stands inside of what this part announces, and nothing stands where it ends.
        if next_head < end:
            self._add_problem(start, f"the record here says {length} bytes but the next begins already "
                                     f"at byte {next_head}: its length is wrong")
            return next_head, False
        # Does what lies between span exactly to the next head, as a record whose magic is spoilt?
        gap_end = end + HEAD.size + (self._word(end + 4) & LENGTH_BITS)
        if next_head == self.size or gap_end + -gap_end % 4 == next_head:
            return end, True  # what comes next is no record: `follow` says so, this one is good
        self._add_problem(start, f"the record here ends at byte {end} but the next begins at byte "
                                 f"{next_head}: its length is wrong, or what is between them is no record")
        return next_head, False

    def _describe_no_head(self, position: int) -> str:
        # The words as numbers: what a hex editor shows.
        if self.size - position < HEAD.size:
            return f"the file ends inside the head of a record: {self.size - position} of 8 bytes"
        if self._word(position) == MAGIC:
            kind = self._word(position + 4) >> KIND_SHIFT
            return f"the record here is of kind {kind}, which does not exist"
        return f"no record begins here: {self._word(position):#010x} in place of {MAGIC:#010x}"

    def _word(self, position: int) -> int:
        # The last bytes of a file whose size is no multiple of 4 are no word.
        return self.words.item(position // 4) if position // 4 < len(self.words) else 0

    def _add_problem(self, offset: int, reason: str) -> None:
        self.problems.append(DataError(self.path, reason, offset))


def _find_complete(path: AnyPath, starts: np.ndarray, kinds: np.ndarray,
                   ends: np.ndarray) -> tuple[np.ndarray, list[DataError]]:
    """Return (int64 indexes of the parts that begin a complete record, what is wrong with the others)."""
    if not len(kinds):
        return np.zeros(0, np.int64), []
    is_begin = kinds <= FIRST
    is_good = is_begin.copy()
    # Each array has one item more than there are parts: the last stands for the end of the file.
    is_unfinished = np.append((kinds == FIRST) | (kinds == MIDDLE), False)
    is_open_before = np.concatenate([[False], is_unfinished[:-1]])
    is_continuation = np.append(~is_begin, False)
    # Item i: parts i - 1 and i touch; nothing touches the first part from before or the last from behind.
    touches = np.concatenate([[False], ends[:-1] == starts[1:], [False]])
    wrong = np.flatnonzero((is_open_before != is_continuation) | (is_open_before & ~touches))
    begins = np.flatnonzero(is_begin)
    problems = []
    done = 0  # parts before this one have been reported
    for i in wrong.tolist():
        # A record that was begun before part i, and is not continued there.
        if is_open_before[i] and i > done:
            begin = int(begins[np.searchsorted(begins, i) - 1])
            is_good[begin] = False
            problems.append(DataError(path, describe_unfinished(ends.item(i - 1)), starts.item(begin)))
        # Part i continues with a record that was not begun.
        if is_continuation[i] and i >= done:
            problems.append(DataError(path, f"a part of kind {kinds[i]} (of a record in parts) without its "
                                            "beginning", starts.item(i)))
            # The parts up to the next beginning belong to the same lost record.
            next_begin = np.searchsorted(begins, i)
            done = int(begins[next_begin]) if next_begin < len(begins) else len(kinds)
    return np.flatnonzero(is_good), problems
