"""RecordIO files (`.rec`), the image records in them, their index (`.idx`): reading, writing, finding damage.

A `.rec` is a plain row of parts, all integers little-endian, no header, count or checksum:

    u32 magic 0xCED7230A | u32 word: 3 bits kind, 29 bits length n | n bytes | zeros up to a multiple of 4

Kind 0 is a whole record; 1, 2, 3 are the first, middle and last part of one that holds the magic at a
multiple of 4: those 4 bytes are left out on writing and put back between the parts on reading. So every
aligned magic is a head, and a file is searched at the speed of memory, without an index. An image record is
`ImageHeader`, `flag` more labels (f32) and the bytes of a JPEG or PNG. An index has a line `key TAB offset`
per record.

Used by the packer, the sources of `data/` and the tools; it needs numpy only and keeps no more of a file in
memory than the offsets. It never trusts a number from a file before comparing it with the file's size.
"""

from __future__ import annotations

import contextlib
import fnmatch
import logging
import mmap
import os
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Union

import numpy as np

from imgcls.errors import DataError, ImgclsError, RunError, UsageError
from imgcls.storage import atomic_write, local, write_bytes

MAGIC = 0xCED7230A
MAX_PAYLOAD_BYTES = (1 << 29) - 1
WHOLE, FIRST, MIDDLE, LAST = range(4)

#: the header of an image record as it stands in the file: 24 bytes
HEADER_DTYPE = np.dtype([("flag", "<u4"), ("label", "<f4"), ("id", "<u8"), ("id2", "<u8")])

_MAGIC_BYTES = struct.pack("<I", MAGIC)
_HEAD = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")
_LENGTH = MAX_PAYLOAD_BYTES
_WINDOW_WORDS = 1 << 20
_CHUNK_RECORDS = 1 << 16
_ITER_RECORDS = 1 << 10
_UNFINISHED = "the record in parts that begins here is not finished: its next part is missing at byte "
#: smaller files are searched in a few milliseconds: a file beside them would only be litter
_CACHE_FROM_BYTES = 1 << 24
#: what is kept: magic, size and time of the .rec, how many offsets (i64) and how many headers (or none) follow
_CACHE_HEAD = struct.Struct("<8sQQQQ")
_CACHE_MAGIC = b"imgclsX1"

_log = logging.getLogger(__name__)

StrPath = Union[str, "os.PathLike[str]"]


class ImageHeader(NamedTuple):
    """In front of every image. `flag` labels (f32) follow it; with flag 0 the one label stands in `label`."""

    flag: int
    label: Any
    id: int
    id2: int = 0


def pack(header: ImageHeader, image: bytes) -> bytes:
    """The payload of an image record. A number as `header.label` is written into the header (flag 0), a
    sequence behind it (flag = its length, also for a single one); `header.flag` is not looked at, as in
    MXNet."""
    if isinstance(header.label, (int, float, np.number)):
        return _HEADER.pack(0, header.label, header.id, header.id2) + image
    labels = np.asarray(header.label, np.float32).ravel()
    return _HEADER.pack(len(labels), 0.0, header.id, header.id2) + labels.astype("<f4").tobytes() + image


def unpack(payload: bytes | memoryview) -> tuple[ImageHeader, np.ndarray, memoryview]:
    """An image record's header, its labels (float32, at least one) and its image bytes (not copied).

    A payload that is too short for what it says is a ValueError: whoever knows the file names it.
    """
    view = memoryview(payload)
    if len(view) < _HEADER.size:
        raise ValueError(f"is no image record: {len(view)} bytes, its header alone needs {_HEADER.size}")
    header = ImageHeader(*_HEADER.unpack_from(view))
    end = _HEADER.size + 4 * header.flag
    if end > len(view):
        raise ValueError(f"is no image record: it says {header.flag} labels but has {len(view)} bytes in all")
    if header.flag == 0:
        return header, np.array([header.label], np.float32), view[end:]
    return header, np.frombuffer(view[_HEADER.size:end], "<f4").astype(np.float32), view[end:]


class Record:
    """One record: `payload` (bytes), and what it means where it is an image record."""

    __slots__ = ("number", "offset", "path", "payload")

    def __init__(self, path: Path, number: int, offset: int, payload: bytes) -> None:
        self.path = path
        self.number = number
        self.offset = offset
        self.payload = payload

    @property
    def header(self) -> ImageHeader:
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
            raise DataError(self.path, f"record {self.number} {error}", self.offset) from None


class RecordReader:
    """One `.rec` file: `len`, `[i]`, iteration, all from any thread.

    `X.idx` beside `X.rec` is used where it agrees with the file, otherwise the file is searched. Of a large
    file what was found, and the headers, are kept in `X.rec.imgcls-idx` for the next time. Damage ends the good part:
    what stands before it is readable, `problems` says where and what, and iterating raises it at the end. With
    `resync` everything good behind it is found too, and iterating notes in `problems` what it passes over. With an
    `.idx`, damage shows on reading.
    """

    #: int64 (N,), rising: byte offset of each record
    offsets: np.ndarray
    #: what is wrong with the file, as far as it was looked at
    problems: list[DataError]
    #: why the index beside the file was not used
    index_problem: DataError | None

    def __init__(self, path: StrPath, *, resync: bool = False, use_index: bool = True,
                 index: StrPath | None = None) -> None:
        """`index` names an `.idx` elsewhere. Without `use_index` no index and no kept result is looked at."""
        self.path = local(path)
        self.resync = resync
        self._cache_path = self.path.with_name(self.path.name + ".imgcls-idx")
        self.problems = []
        self.index_problem = None
        self._index: _Index | None = None
        self._key_to_offset: dict[Any, int] | None = None
        self._open()
        self._caches = use_index and self.size >= _CACHE_FROM_BYTES
        if use_index:
            self._read_index(local(index) if index else index_path(self.path), required=index is not None)
        if self._index is None or self.index_problem:
            self._search()

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, i: int) -> Record:
        payload = bytes(self.payload(i))
        return Record(self.path, i if i >= 0 else i + len(self), self.offsets.item(i), payload)

    def __iter__(self) -> Iterator[Record]:
        path = self.path
        for first in range(0, len(self), _ITER_RECORDS):
            offsets = self.offsets[first:first + _ITER_RECORDS]
            payloads = self._slices(offsets, self._mapped) or map(self._payload, offsets.tolist())
            number = first
            for offset in offsets.tolist():
                try:
                    yield Record(path, number, offset, bytes(next(payloads)))
                except DataError as error:
                    if not self.resync:
                        raise
                    self.problems.append(error)
                number += 1
        if self.problems and not self.resync:
            raise self.problems[0]

    def payload(self, i: int) -> memoryview | bytes:
        """The bytes of record `i`: a view of the file (nothing is read before it is used), or joined bytes
        where the record was split. Damage is a DataError that names the offset."""
        return self._payload(self.offsets.item(i))

    def payloads(self, numbers: Sequence[int] | np.ndarray) -> list[memoryview | bytes]:
        """`payload` of each of these records, several times as fast where records are small."""
        offsets = self.offsets[numbers]
        return list(self._slices(offsets, self._view) or map(self._payload, offsets.tolist()))

    @property
    def keys(self) -> np.ndarray:
        """(N,), one key per record, from the `.idx`: int64, or objects where they are no such numbers.
        Records that it does not name, and all without an `.idx`, have their number."""
        if self._index is None:
            return np.arange(len(self), dtype=np.int64)
        keys: list[Any] = np.arange(len(self)).tolist()
        at = np.searchsorted(self.offsets, self._index.offsets)
        for number, key in zip(at.tolist(), self._index.keys.tolist(), strict=True):
            if number < len(keys):
                keys[number] = key
        return np.array(keys, self._index.keys.dtype if len(keys) else np.int64)

    def key_to_offset(self) -> dict[Any, int]:
        """Key -> byte offset; of a repeated key the last. Without an `.idx` the keys are the numbers."""
        if self._key_to_offset is None:
            keys, offsets = self._index or (np.arange(len(self)), self.offsets)
            self._key_to_offset = dict(zip(keys.tolist(), offsets.tolist(), strict=True))
        return self._key_to_offset

    def read_idx(self, key: Any) -> memoryview | bytes:
        """The payload of the record with this key; an unknown key is a KeyError."""
        return self._payload(self.key_to_offset()[key])

    def headers(self) -> np.ndarray:
        """HEADER_DTYPE (N,): the image header of every record; zeros where `header_problems` has an entry."""
        return self._headers()[0]

    def header_problems(self) -> dict[int, DataError]:
        """Record number -> why it is no image record."""
        return self._headers()[1]

    def labels(self, width: int = 1, *, strict: bool = True) -> np.ndarray:
        """float32 (N,) for width 1, otherwise (N, width). A record must hold exactly `width` labels: the
        first that does not is a DataError, or with `strict` off its labels are NaN."""
        headers, problems = self._headers()
        table = np.full((len(self), width), np.nan, np.float32)
        fits = headers["flag"] == width
        fits[list(problems)] = False
        rows = np.flatnonzero(fits)
        at = self.offsets[rows] // 4
        whole = self._words[at + 1] <= _LENGTH
        table[rows[whole]] = self._words[at[whole][:, None] + np.arange(8, 8 + width)].view("<f4")
        for i in rows[~whole].tolist():
            table[i] = self[i].labels
        if width == 1:
            inside = headers["flag"] == 0
            inside[list(problems)] = False
            table[inside, 0] = headers["label"][inside]
            fits |= inside
        if strict and not fits.all():
            raise self.label_problem(int(np.argmin(fits)), width)
        return table[:, 0] if width == 1 else table

    def label_problem(self, i: int, width: int) -> DataError:
        """What to say about record `i`, which does not hold `width` labels."""
        headers, problems = self._headers()
        if i in problems:
            return problems[i]
        found = max(1, int(headers["flag"][i]))
        return DataError(self.path, f"record {i} (id {headers['id'][i]}) has {found} labels where {width} "
                                    f"{'is' if width == 1 else 'are'} expected", self.offsets.item(i))

    def check_index(self) -> DataError | None:
        """What is wrong with the `.idx` beside the file, every line of it held against the records that this
        reader knows; None where nothing is, or where there is none."""
        path = index_path(self.path)
        if not path.exists():
            return None
        try:
            named = _rising(_Index.read(path).offsets)
        except DataError as error:
            return error
        wrong = named[~np.isin(named, self.offsets)]
        if len(wrong):
            return DataError(path, f"{len(wrong)} of its offsets are no record's, the first is {wrong[0]}")
        missing = len(self) - len(named)
        return DataError(path, f"does not name {missing} of the {len(self)} records") if missing else None

    def _open(self) -> None:
        """Map the file: `_view` its bytes, `_words` the whole 4-byte words of it."""
        try:
            with open(self.path, "rb") as stream:
                self.size = os.fstat(stream.fileno()).st_size
                self._mtime_ns = os.fstat(stream.fileno()).st_mtime_ns
                # An empty file cannot be mapped.
                self._mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if self.size else b""
        except OSError as error:
            raise DataError(self.path, (error.strerror or str(error)).lower()) from error
        self._view = memoryview(self._mapped)
        self._words = np.frombuffer(self._view[:self.size // 4 * 4], "<u4")

    def __getstate__(self) -> dict[str, Any]:
        mapped = ("_mapped", "_view", "_words", "_found_headers")
        return {name: value for name, value in self.__dict__.items() if name not in mapped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()
        if self.size != state["size"]:
            raise DataError(self.path, f"changed while it was in use: {state['size']} bytes, now {self.size}")

    def _payload(self, offset: int) -> memoryview | bytes:
        magic, word = _HEAD.unpack_from(self._view, offset)
        end = offset + 8 + word
        if magic == MAGIC and word <= _LENGTH and end <= self.size:
            return self._view[offset + 8:end]
        return self._joined(offset)

    def _slices(self, offsets: np.ndarray, source: Any) -> Iterator[Any] | None:
        """The payloads at these offsets as slices of `source` (of the mapped file: bytes; of its view:
        views). None where one of them is split or damaged and needs a closer look."""
        at = offsets // 4
        words = self._words[at + 1]
        ends = offsets + 8 + words
        if ((self._words[at] != MAGIC) | (words > _LENGTH) | (ends > self.size)).any():
            return None
        return map(source.__getitem__, map(slice, (offsets + 8).tolist(), ends.tolist()))

    def _joined(self, begin: int) -> bytes:
        """The payload of the split record at `begin`; whatever is wrong with it is a DataError."""
        pieces = []
        offset = begin
        while True:
            magic, kind, length = self._head(offset)
            if magic != MAGIC or kind not in ((WHOLE, FIRST) if not pieces else (MIDDLE, LAST)):
                raise DataError(self.path, _wrong_head(magic, kind, begin, offset), begin)
            end = offset + 8 + length
            if end > self.size:
                raise DataError(self.path, _past_end(length, offset, self.size), begin)
            pieces.append(self._view[offset + 8:end])
            if kind in (WHOLE, LAST):
                return _MAGIC_BYTES.join(pieces)
            offset = end + -end % 4

    def _head(self, offset: int) -> tuple[int, int, int]:
        """(magic, kind, length) at `offset`; magic 0 behind the end of the file."""
        if offset + 8 > self.size:
            return 0, 0, 0
        magic, word = _HEAD.unpack_from(self._view, offset)
        return magic, word >> 29, word & _LENGTH

    def _read_index(self, path: Path, *, required: bool) -> None:
        """Take the offsets from an `.idx`. What is wrong with it is kept in `index_problem` and said once."""
        if not path.exists():
            if required:
                raise DataError(path, "no such file")
            return
        try:
            self._index = _Index.read(path)
            self.offsets = _rising(self._index.offsets)
            reason = self._disagrees(self.offsets)
            if reason:
                raise DataError(path, f"does not belong to {self.path.name} as it is: {reason}")
        except DataError as error:
            self.index_problem = error
            _log.warning("%s; not used, the file itself is searched", error)

    def _disagrees(self, offsets: np.ndarray) -> str:
        """Why these rising offsets cannot be those of this file's records, by a sample; empty: they may
        be."""
        if not len(offsets):
            return "it names no record" if self.size else ""
        if self.size % 4:
            return f"{self.size} bytes are no multiple of 4, the file's end is cut"
        if offsets[0] != 0 or offsets[-1] + 8 > self.size:
            return f"its records lie at bytes {offsets[0]} to {offsets[-1]}, the file has {self.size}"
        sample = np.unique(np.linspace(0, len(offsets) - 1, 64).astype(np.int64))
        ends = np.append(offsets, self.size)
        for i in sample.tolist():
            offset, end = ends.item(i), ends.item(i + 1)
            magic, kind, length = self._head(offset)
            if magic != MAGIC or kind not in (WHOLE, FIRST):
                return f"there is no record at byte {offset}"
            # A split record's length is that of its first part: only the others can be held against the
            # index.
            if kind == WHOLE and offset + 8 + length + -length % 4 != end:
                return f"the record at byte {offset} does not end at byte {end}"
        return ""

    def _search(self) -> None:
        """Find the records in the file itself, or take what was found before."""
        kept = self._load_cache()
        if kept is not None:
            self.offsets = kept[0]
        else:
            self.offsets, self.problems = _find_records(self.path, self._words, self.size, self.resync)
            if not self.problems:
                self._save_cache(np.zeros(0, HEADER_DTYPE))
        if self._index is not None:
            self._index = self._index.only(self.offsets)

    def _load_cache(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The (offsets, headers) kept beside the file; None where there are none that belong to it."""
        if not self._caches:
            return None
        try:
            data = self._cache_path.read_bytes()
            magic, size, mtime_ns, count, num_headers = _CACHE_HEAD.unpack_from(data)
            offsets = np.frombuffer(data, "<i8", count, _CACHE_HEAD.size).astype(np.int64)
            headers = np.frombuffer(data, HEADER_DTYPE, num_headers, _CACHE_HEAD.size + offsets.nbytes)
        except (OSError, struct.error, ValueError, OverflowError):
            return None
        if magic != _CACHE_MAGIC or (size, mtime_ns) != (self.size, self._mtime_ns):
            return None
        if (offsets[1:] <= offsets[:-1]).any() or (offsets % 4).any() or self._disagrees(offsets):
            return None
        return offsets, headers

    def _save_cache(self, headers: np.ndarray) -> None:
        """Keep the offsets and, once they were gathered, the headers, which lie all over the file."""
        if not self._caches or not os.access(self.path.parent, os.W_OK):
            return
        head = _CACHE_HEAD.pack(_CACHE_MAGIC, self.size, self._mtime_ns, len(self), len(headers))
        # A full disk only means that the next reader searches again.
        with contextlib.suppress(ImgclsError):
            write_bytes(self._cache_path, head, self.offsets.astype("<i8").tobytes(), headers.tobytes())

    def _headers(self) -> tuple[np.ndarray, dict[int, DataError]]:
        found = self.__dict__.get("_found_headers")
        if found is None:
            kept = self._load_cache()
            if kept is not None and len(kept[1]) == len(self) and (kept[0] == self.offsets).all():
                found = kept[1], {}
            else:
                found = self._gather_headers()
                if not self.problems and not found[1]:
                    self._save_cache(found[0])
            self._found_headers = found
        return found

    def _gather_headers(self) -> tuple[np.ndarray, dict[int, DataError]]:
        """All headers in one sweep; records that are split or odd are looked at one by one."""
        headers = np.zeros(len(self), HEADER_DTYPE)
        problems: dict[int, DataError] = {}
        for first in range(0, len(self), _CHUNK_RECORDS):
            at = self.offsets[first:first + _CHUNK_RECORDS] // 4
            length = self._words[at + 1].astype(np.int64)
            plain = (length >= 24) & (length <= _LENGTH) & (at * 4 + 8 + length <= self.size)
            plain &= self._words[at] == MAGIC
            gathered = self._words[at[plain][:, None] + np.arange(2, 8)].view(HEADER_DTYPE)[:, 0]
            rows = first + np.flatnonzero(plain)
            headers[rows] = gathered
            fits = 24 + 4 * gathered["flag"].astype(np.int64) <= length[plain]
            for i in [*rows[~fits].tolist(), *(first + np.flatnonzero(~plain)).tolist()]:
                headers[i] = 0
                try:
                    headers[i] = tuple(self[i].header)
                except DataError as error:
                    problems[i] = error
        return headers, problems


class RecordWriter:
    """Writes `X.rec` and its index `X.idx`; both take their names only when `close` (or `with`) ends well."""

    def __init__(self, path: StrPath) -> None:
        self.path = local(path)
        self.count = 0
        self._offset = 0
        self._stack = contextlib.ExitStack()
        try:
            # Closed in the opposite order: the records are there before an index speaks of them.
            self._idx = self._stack.enter_context(atomic_write(index_path(self.path)))
            self._rec = self._stack.enter_context(atomic_write(self.path))
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._stack.__exit__(*exc_info)

    def write(self, payload: bytes | bytearray | memoryview, key: Any = None) -> int:
        """Append one record of up to 2^29 - 1 bytes and return its offset. `key` goes into the index; without
        one it is the record's number."""
        if not isinstance(payload, (bytes, bytearray)):
            payload = bytes(payload)
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise RunError(f"{self.path}: a record of {len(payload)} bytes is more than the format holds "
                           f"({MAX_PAYLOAD_BYTES})")
        offset = self._offset
        for kind, part in _parts(payload):
            self._rec.write(_HEAD.pack(MAGIC, kind << 29 | len(part)))
            self._rec.write(part)
            self._rec.write(b"\0" * (-len(part) % 4))
            self._offset += 8 + len(part) + -len(part) % 4
        self._idx.write(f"{self.count if key is None else key}\t{offset}\n".encode())
        self.count += 1
        return offset

    @property
    def size_bytes(self) -> int:
        """Of the records so far."""
        return self._offset

    def close(self) -> None:
        self._stack.close()


def index_path(path: StrPath) -> Path:
    """Where the index of a record file stands: `X.idx` for `X.rec`, `NAME.idx` for any other NAME."""
    path = Path(path)
    return path.with_suffix(".idx") if path.suffix == ".rec" else path.with_name(path.name + ".idx")


def expand(pattern: StrPath | Sequence[StrPath], flag: str = "records") -> list[Path]:
    """The record files meant by what a user wrote: a file, a folder (the `.rec` files in it), several of
    these joined by `;` or in a list, or a regular expression (or `*.rec`) as last component; sorted within
    each.

    Empty files are passed over. Nothing found is a UsageError that names `flag`.
    """
    items = [pattern] if isinstance(pattern, (str, os.PathLike)) else list(pattern)
    files: list[Path] = []
    for item in [os.fspath(i) for i in items]:
        for text in [item] if os.path.exists(item) else filter(None, item.split(";")):
            found = _expand_one(local(text, flag))
            if not found:
                raise UsageError(f"{flag} {text}: no such file, no folder with .rec files, no pattern of any")
            files += found
    full = [f for f in files if f.stat().st_size]
    if not full:
        raise UsageError(f"{flag} {pattern}: " + ("all its files are empty" if files else "names no file"))
    return full


def part_range(readers: Sequence[RecordReader], num_parts: int, part_index: int, *, indexed: bool) -> range:
    """The records that belong to part `part_index` of `num_parts`, numbered through all `readers`, as MXNet
    deals them out: by count where it was given an index, otherwise by bytes. Either may leave parts empty."""
    if not 0 <= part_index < num_parts:
        raise UsageError(f"part_index {part_index} must be from 0 to num_parts - 1 = {num_parts - 1}")
    count = sum(map(len, readers))
    if indexed:
        step = -(-count // num_parts)
        return range(min(part_index * step, count), min((part_index + 1) * step, count))
    bases = np.cumsum([0, *(r.size for r in readers)]).tolist()
    offsets = np.concatenate([r.offsets + base for r, base in zip(readers, bases, strict=False)])
    step = -(-bases[-1] // num_parts)
    step += -step % 4
    first, last = np.searchsorted(offsets, [part_index * step, (part_index + 1) * step]).tolist()
    return range(first, last)


class _Index(NamedTuple):
    """The lines of an `.idx`."""

    keys: np.ndarray
    offsets: np.ndarray

    @classmethod
    def read(cls, path: Path) -> _Index:
        """All lines at once where they are plain numbers, otherwise one by one, to say which is wrong."""
        try:
            text = path.read_bytes()
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

    def only(self, offsets: np.ndarray) -> _Index:
        """Without the lines whose offset is none of `offsets` (rising)."""
        known = np.isin(self.offsets, offsets)
        return _Index(self.keys[known], self.offsets[known])


def _rising(offsets: np.ndarray) -> np.ndarray:
    """Sorted and each once; `numpy.unique` takes a third of a second for a million that are so already."""
    if (offsets[1:] > offsets[:-1]).all():
        return offsets
    offsets = np.sort(offsets)
    return offsets[np.append(True, offsets[1:] > offsets[:-1])]


def _key(text: bytes) -> int | str:
    """A key as MXNet's users made them: a number mostly, any word else."""
    try:
        return int(text)
    except ValueError:
        return text.decode("utf-8", "surrogateescape")


def _parts(payload: bytes | bytearray) -> Iterator[tuple[int, bytes | bytearray]]:
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


def _find_records(path: Path, words: np.ndarray, size: int,
                  resync: bool) -> tuple[np.ndarray, list[DataError]]:
    """(byte offsets of the good records, what is wrong) of a whole file given as its 4-byte words."""
    starts, kinds, lengths = _find_heads(words)
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


def _find_heads(words: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int64 (byte offset, kind 0-3, length) of everything in the file that looks like a part's head."""
    found = []
    for first in range(0, len(words) - 1, _WINDOW_WORDS):
        at = np.flatnonzero(words[first:min(first + _WINDOW_WORDS, len(words) - 1)] == MAGIC) + first
        word = words[at + 1].astype(np.int64)
        real = word >> 29 <= LAST
        found.append(np.stack([at[real] * 4, word[real] >> 29, word[real] & _LENGTH]))
    starts, kinds, lengths = np.concatenate(found, axis=1) if found else np.zeros((3, 0), np.int64)
    return starts, kinds, lengths


class _Chain:
    """Follows the parts of a file in which not each ends where the next begins, and finds out why.

    Only breaks cost time, not parts. `problems` tells them in order.
    """

    def __init__(self, path: Path, words: np.ndarray, size: int, starts: np.ndarray, lengths: np.ndarray,
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
        """(where to go on behind part `i`, whether it is good) where its end is not where the next head
        is."""
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
            # Heads inside a payload: a foreign writer did not split it there. The lengths are right: follow
            # them.
            return end, True
        if following < end:
            self._problem(start, f"the record here says {self.lengths.item(i)} bytes but the next begins "
                                 f"already at byte {following}: its length is wrong")
            return following, False
        lost_end = end + 8 + (self._word(end + 4) & _LENGTH)
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


def _whole_records(path: Path, starts: np.ndarray, kinds: np.ndarray,
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


def _wrong_head(magic: int, kind: int, begin: int, offset: int) -> str:
    if magic != MAGIC:
        return "no record begins here" if begin == offset else _UNFINISHED + str(offset)
    return f"the record here has a part of kind {kind} at byte {offset}, which cannot stand there"


def _past_end(length: int, offset: int, size: int) -> str:
    return f"the record here is cut: it says {length} bytes, the file has {max(0, size - offset - 8)} more"


def _expand_one(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.suffix == ".rec" and p.is_file())
    if not path.parent.is_dir():
        return []
    files = sorted(p for p in path.parent.iterdir() if p.is_file())
    matching: list[Path] = []
    with contextlib.suppress(re.error):
        matching = [p for p in files if re.fullmatch(path.name, p.name)]
    matching = matching or [p for p in files if fnmatch.fnmatchcase(p.name, path.name)]
    # `train.*` means the records, not the index and the list beside them.
    return [p for p in matching if p.suffix == ".rec"] or matching
