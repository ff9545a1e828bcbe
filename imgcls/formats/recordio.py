"""RecordIO files (`.rec`), the image records in them, their index (`.idx`): reading, writing, finding damage.

A `.rec` is a plain row of parts, all integers little-endian, no header, count or checksum:

    u32 magic 0xCED7230A | u32 word: 3 bits kind, 29 bits length n | n bytes | zeros up to a multiple of 4

Kind 0 is a whole record; 1, 2, 3 are the first, middle and last part of one that holds the magic at a multiple of 4:
those 4 bytes are left out on writing and put back between the parts on reading. So every aligned magic is a head, and a
file is searched at the speed of memory, without an index (`_scan.py`). An image record is `ImageHeader`, `flag` more
labels (f32) and the bytes of a JPEG or PNG. An index has a line `key TAB offset` per record.

Used by the packer, the sources of `data/` and the tools; it needs numpy only and keeps no more of a file in memory than
the offsets. It never trusts a number from a file before comparing it with the file's size.
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

from imgcls.errors import DataError, RunError, UsageError
from imgcls.formats import _scan
from imgcls.formats._scan import HEADER_DTYPE, LENGTH_BITS, MAGIC, Index
from imgcls.storage.atomic import atomic_write
from imgcls.storage.paths import AnyPath, to_local_path, to_path
from imgcls.storage.reading import open_read

MAX_PAYLOAD_BYTES = LENGTH_BITS

_HEAD = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")
_ITER_RECORDS = 1 << 10

_log = logging.getLogger(__name__)

StrPath = Union[str, "os.PathLike[str]"]


class ImageHeader(NamedTuple):
    """In front of every image. `flag` labels (f32) follow it; with flag 0 the one label stands in `label`."""

    flag: int
    label: Any
    id: int
    id2: int = 0


def pack(header: ImageHeader, image: bytes) -> bytes:
    """The payload of an image record. A number as `header.label` is written into the header (flag 0), a sequence
    behind it (flag = its length, also for a single one); `header.flag` is not looked at, as in MXNet."""
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

    def __init__(self, path: AnyPath, number: int, offset: int, payload: bytes) -> None:
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

    `X.idx` beside `X.rec` is used where it agrees with the file, otherwise the file is searched. Of a large file what
    was found, and the headers, are kept in the user's cache folder for the next time. Damage ends the good part: what
    stands before it is readable, `problems` says where and what, and iterating raises it at the end. With `resync`
    everything good behind it is found too, and iterating notes in `problems` what it passes over. With an `.idx`,
    damage shows on reading.
    """

    #: int64 (N,), rising: byte offset of each record
    offsets: np.ndarray
    #: what is wrong with the file, as far as it was looked at
    problems: list[DataError]
    #: why the index beside the file was not used
    index_problem: DataError | None

    def __init__(self, path: StrPath, *, resync: bool = False, use_index: bool = True,
                 index: StrPath | None = None, cache_gb: float | None = None) -> None:
        """`index` names an `.idx` elsewhere. Without `use_index` no index and no kept result is looked at. Of a URL the
        copy in the cache is read, fetched first where there is none; `cache_gb` is as in `reading.open_read`."""
        self.path = to_path(path)
        self._cache_gb = cache_gb
        self.resync = resync
        self.problems = []
        self.index_problem = None
        self._index: Index | None = None
        self._key_to_offset: dict[Any, int] | None = None
        self._use_index = use_index
        self._open()
        if use_index:
            self._read_index(to_path(index) if index else index_path(self.path), required=index is not None)
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
            for number, offset in enumerate(offsets.tolist(), first):
                try:
                    yield Record(path, number, offset, bytes(next(payloads)))
                except DataError as error:
                    if not self.resync:
                        raise
                    self.problems.append(error)
        if self.problems and not self.resync:
            raise self.problems[0]

    def payload(self, i: int) -> memoryview | bytes:
        """The bytes of record `i`: a view of the file (nothing is read before it is used), or joined bytes where the
        record was split. Damage is a DataError that names the offset."""
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
        whole = self._words[at + 1] <= LENGTH_BITS
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
        """What is wrong with the `.idx` beside the file, every line of it held against the records that this reader
        knows; None where nothing is, or where there is none."""
        path = index_path(self.path)
        try:
            reason = Index.read(path).difference(self.offsets) if path.exists() else ""
        except DataError as error:
            return error
        return DataError(path, reason) if reason else None

    def _open(self) -> None:
        """Map the file: `_view` its bytes, `_words` the whole 4-byte words of it."""
        try:
            with open_read(self.path, cache_gb=self._cache_gb) as stream:
                status = os.fstat(stream.fileno())
                self.size = status.st_size
                file = stream.name if isinstance(stream.name, str) else ""  # a copy that was too large to keep has none
                # An empty file cannot be mapped.
                self._mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if self.size else b""
        except OSError as error:
            raise DataError(self.path, (error.strerror or str(error)).lower()) from error
        self._view = memoryview(self._mapped)
        self._words = np.frombuffer(self._view[:self.size // 4 * 4], "<u4")
        self._cache = _scan.ScanCache(Path(file), self.size, status.st_mtime_ns, use=self._use_index and bool(file))

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
        if magic == MAGIC and word <= LENGTH_BITS and end <= self.size:
            return self._view[offset + 8:end]
        return _scan.join_parts(self.path, self._view, offset)

    def _slices(self, offsets: np.ndarray, source: Any) -> Iterator[Any] | None:
        """The payloads at these offsets as slices of `source` (of the mapped file: bytes; of its view:
        views). None where one of them is split or damaged and needs a closer look."""
        at = offsets // 4
        words = self._words[at + 1]
        ends = offsets + 8 + words
        if ((self._words[at] != MAGIC) | (words > LENGTH_BITS) | (ends > self.size)).any():
            return None
        return map(source.__getitem__, map(slice, (offsets + 8).tolist(), ends.tolist()))

    def _read_index(self, path: AnyPath, *, required: bool) -> None:
        """Take the offsets from an `.idx`. What is wrong with it is kept in `index_problem` and said once."""
        if not path.exists():
            if required:
                raise DataError(path, "no such file")
            return
        try:
            self._index = Index.read(path)
            self.offsets = _scan.rising(self._index.offsets)
            reason = _scan.disagreement(self._words, self.size, self.offsets)
            if reason:
                raise DataError(path, f"does not belong to {self.path.name} as it is: {reason}")
        except DataError as error:
            self.index_problem = error
            _log.warning("%s; not used, the file itself is searched", error)

    def _search(self) -> None:
        """Find the records in the file itself, or take what was found before."""
        kept = self._cache.load(self._words)
        if kept is not None:
            self.offsets = kept[0]
        else:
            self.offsets, self.problems = _scan.find_records(self.path, self._words, self.size, self.resync)
            if not self.problems:
                self._cache.save(self.offsets, np.zeros(0, HEADER_DTYPE))
        if self._index is not None:
            self._index = self._index.only(self.offsets)

    def _headers(self) -> tuple[np.ndarray, dict[int, DataError]]:
        found = self.__dict__.get("_found_headers")
        if found is None:
            kept = self._cache.load(self._words)
            if kept is not None and len(kept[1]) == len(self) and (kept[0] == self.offsets).all():
                found = kept[1], {}
            else:
                found = self._gather_headers()
                if not self.problems and not found[1]:
                    self._cache.save(self.offsets, found[0])
            self._found_headers = found
        return found

    def _gather_headers(self) -> tuple[np.ndarray, dict[int, DataError]]:
        """All headers in one sweep; records that are split or odd are looked at one by one."""
        headers, odd = _scan.gather_headers(self._words, self.size, self.offsets)
        problems: dict[int, DataError] = {}
        for i in odd.tolist():
            try:
                headers[i] = tuple(self[i].header)
            except DataError as error:
                problems[i] = error
        return headers, problems


class Block:
    """Image records laid out one behind the other as in a file, in memory that is used again.

    `reserve` memory for the next image, then `append` its record, or reserve again to drop it.
    """

    def __init__(self) -> None:
        self._bytes = bytearray(1 << 20)
        self._view = memoryview(self._bytes)
        self.clear()

    def clear(self) -> None:
        """Empty it; the memory stays."""
        #: of the records so far, in bytes
        self.size = 0
        #: where each begins, and its key
        self.offsets: list[int] = []
        self.keys: list[int] = []

    def reserve(self, head_size: int, size: int) -> memoryview:
        """Where the image of the next record goes, which may be of up to `size` bytes; the payload begins with
        `head_size` bytes."""
        begin = self.size + _HEAD.size + head_size
        if begin + size + 4 > len(self._bytes):
            larger = bytearray(max(begin + size + 4, 2 * len(self._bytes)))
            larger[:self.size] = self._view[:self.size]
            self._bytes, self._view = larger, memoryview(larger)
        return self._view[begin:begin + size]

    def append(self, head: bytes, size: int, key: int) -> None:
        """The record whose payload is `head` and the `size` bytes that stand where the last `reserve` was."""
        begin = self.size + _HEAD.size
        end = begin + len(head) + size
        _HEAD.pack_into(self._bytes, self.size, MAGIC, end - begin)
        self._view[begin:begin + len(head)] = head
        padding = -end % 4
        self._view[end:end + padding] = bytes(padding)
        self.offsets.append(self.size)
        self.keys.append(key)
        self.size = end + padding

    def payloads(self) -> Iterator[memoryview]:
        for offset in self.offsets:
            begin = offset + _HEAD.size
            yield self._view[begin:begin + _HEAD.unpack_from(self._bytes, offset)[1]]

    def bytes(self) -> memoryview | None:
        """All of it as it is to be written; None where a payload holds the magic and has to be split."""
        whole = self._view[:self.size]
        found = np.count_nonzero(np.frombuffer(whole, "<u4") == MAGIC)
        return whole if found == len(self.offsets) else None


class RecordWriter:
    """Writes `X.rec` and its index `X.idx`; both take their names only when `close` (or `with`) ends well."""

    def __init__(self, path: StrPath) -> None:
        self.path = to_local_path(path, "OUT.rec")
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
        """Append one record of up to 2^29 - 1 bytes and return its offset. `key` goes into the index; without one it is
        the record's number."""
        if not isinstance(payload, (bytes, bytearray)):
            payload = bytes(payload)
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise RunError(f"{self.path}: a record of {len(payload)} bytes is more than the format holds "
                           f"({MAX_PAYLOAD_BYTES})")
        offset = self._offset
        for kind, part in _scan.split_parts(payload):
            self._rec.write(_HEAD.pack(MAGIC, kind << 29 | len(part)))
            self._rec.write(part)
            self._rec.write(b"\0" * (-len(part) % 4))
            self._offset += 8 + len(part) + -len(part) % 4
        self._idx.write(f"{self.count if key is None else key}\t{offset}\n".encode())
        self.count += 1
        return offset

    def write_block(self, block: Block) -> None:
        """Append all its records, each with its key."""
        whole = block.bytes()
        if whole is None:
            for payload, key in zip(block.payloads(), block.keys, strict=True):
                self.write(payload, key)
            return
        self._rec.write(whole)
        offset = self._offset
        self._idx.write("".join(f"{key}\t{offset + at}\n" for key, at in zip(
            block.keys, block.offsets, strict=True)).encode())
        self._offset += len(whole)
        self.count += len(block.keys)

    def sync(self) -> None:
        """Have what was written on the disk, as far as it has left this process; from any thread. An OSError must not
        be passed over: the system tells it once, not again when the file is closed."""
        getattr(os, "fdatasync", os.fsync)(self._rec.fileno())

    @property
    def size_bytes(self) -> int:
        """Of the records so far."""
        return self._offset

    def close(self) -> None:
        self._stack.close()


def index_path(path: StrPath) -> AnyPath:
    """Where the index of a record file stands: `X.idx` for `X.rec`, `NAME.idx` for any other NAME."""
    path = to_path(path)
    return path.with_suffix(".idx") if path.suffix == ".rec" else path.with_name(path.name + ".idx")


def expand(pattern: StrPath | Sequence[StrPath], flag: str = "records") -> list[AnyPath]:
    """The record files meant by what a user wrote: a file, a folder (the `.rec` files in it), several of these joined
    by `;` or in a list, or a regular expression (or `*.rec`) as last component; sorted within each.

    Empty files are passed over. Nothing found is a UsageError that names `flag`.
    """
    items = [pattern] if isinstance(pattern, (str, os.PathLike)) else list(pattern)
    files: list[AnyPath] = []
    for item in [os.fspath(i) for i in items]:
        for text in [item] if os.path.exists(item) else filter(None, item.split(";")):
            found = _expand_one(to_path(text, flag))
            if not found:
                raise UsageError(f"{flag} {text}: no such file, no folder with .rec files, no pattern of any")
            files += found
    full = [f for f in files if f.stat().st_size]
    if not full:
        raise UsageError(f"{flag} {pattern}: " + ("all its files are empty" if files else "names no file"))
    return full


def part_range(readers: Sequence[RecordReader], num_parts: int, part_index: int, *, indexed: bool) -> range:
    """The records that belong to part `part_index` of `num_parts`, numbered through all `readers`, as MXNet deals them
    out: by count where it was given an index, otherwise by bytes. Either may leave parts empty."""
    if not 0 <= part_index < num_parts:
        raise UsageError(f"part_index {part_index} must be from 0 to num_parts - 1 = {num_parts - 1}")
    count = sum(map(len, readers))
    if indexed:
        step = -(-count // num_parts)
        return range(min(part_index * step, count), min((part_index + 1) * step, count))
    bases = np.cumsum([0, *(r.size for r in readers)]).tolist()
    offsets = np.concatenate([r.offsets + base for r, base in zip(readers, bases, strict=False)])
    step = -(-bases[-1] // (4 * num_parts)) * 4
    return range(*np.searchsorted(offsets, [part_index * step, (part_index + 1) * step]).tolist())


def _expand_one(path: AnyPath) -> list[AnyPath]:
    if path.is_file():
        return [path]
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.suffix == ".rec" and p.is_file())
    if not path.parent.is_dir():
        return []
    files = sorted(p for p in path.parent.iterdir() if p.is_file())
    matching: list[AnyPath] = []
    with contextlib.suppress(re.error):
        matching = [p for p in files if re.fullmatch(path.name, p.name)]
    matching = matching or [p for p in files if fnmatch.fnmatchcase(p.name, path.name)]
    # `train.*` means the records, not the index and the list beside them.
    return [p for p in matching if p.suffix == ".rec"] or matching
