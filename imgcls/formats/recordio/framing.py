"""The parts that a record is written as: their heads, splitting a payload, joining it again.

Everything here works on bytes in memory; reader, writer and search use it. Layout and names follow
dmlc-core's recordio.h (`kMagic`, `EncodeLRec`) and `RecordIOWriter::WriteRecord`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO, Protocol

import numpy as np

from imgcls.errors import DataError, RunError, verbatim
from imgcls.storage.paths import AnyPath

#: head of a part: magic, then kind (upper 3 bits) and length (lower 29)
HEAD = struct.Struct("<II")
#: dmlc-core chose it so that its upper bits are no kind: the word behind a magic is never a magic
MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
#: where the kind begins in the second word, and the bits that are the length
KIND_SHIFT = 29
LENGTH_BITS = (1 << KIND_SHIFT) - 1
#: no part can be longer, and WriteRecord refuses a longer record even where it would be split
MAX_PAYLOAD_BYTES = LENGTH_BITS
#: kinds of parts; a record is one UNSPLIT part, or FIRST, any number of MIDDLE, LAST
UNSPLIT, FIRST, MIDDLE, LAST = range(4)

#: after so many parts of one record the file is read this many bytes at a time: each part may be a few bytes
_FEW_PARTS = 16
_BLOCK_BYTES = 1 << 12

_UNFINISHED = "the record in parts that begins here is not finished: its next part is missing at byte "


def split_parts(payload: bytes | bytearray) -> Iterator[tuple[int, bytes | bytearray]]:
    """Yield (kind, bytes) of each part that a payload is written as."""
    # Not bytes.find: only whole words at multiples of 4 count, and this compares eight times as fast.
    words = np.frombuffer(payload, "<u4", count=len(payload) // 4)
    cuts = (np.flatnonzero(words == MAGIC) * 4).tolist()
    if not cuts:
        yield UNSPLIT, payload
        return
    begin = 0
    for cut in cuts:
        # `begin` is 0 for the first part alone: the next one begins behind 4 bytes of magic at least.
        yield MIDDLE if begin else FIRST, payload[begin:cut]
        begin = cut + 4
    yield LAST, payload[begin:]


class Bytes(Protocol):
    """The bytes of a file, or an object that reads a slice of them on request."""

    def __len__(self) -> int: ...

    def __getitem__(self, bytes_: slice, /) -> memoryview: ...


def join_parts(path: AnyPath, view: Bytes, begin: int) -> bytes:
    """Return the payload of the split record that begins at byte `begin` of a file's bytes.

    Any damage is a DataError at `begin`. A record that is not split may be read this way too.
    """
    # Not a list of parts: an empty one takes 8 bytes of the file, and 200 as an object.
    payload = bytearray()
    num_parts = 0
    offset = begin
    size = len(view)
    while True:
        # Behind the end of the file there is no magic.
        magic, word = HEAD.unpack(view[offset:offset + HEAD.size]) if offset + HEAD.size <= size else (0, 0)
        kind = word >> KIND_SHIFT
        length = word & LENGTH_BITS
        if magic != MAGIC or kind not in ((MIDDLE, LAST) if num_parts else (UNSPLIT, FIRST)):
            raise DataError(path, _describe_wrong_head(magic, kind, begin, offset), begin)
        end = offset + HEAD.size + length
        if end > size:
            raise DataError(path, describe_cut(length, offset, size), begin)
        part = view[offset + HEAD.size:end]
        if kind == UNSPLIT:
            return bytes(part)
        # Between two parts there was a magic.
        if num_parts:
            payload += MAGIC_BYTES
        payload += part
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise DataError(path, f"the record here has parts of more than {MAX_PAYLOAD_BYTES} bytes "
                                  "together", begin)
        if kind == LAST:
            return bytes(payload)
        num_parts += 1
        if num_parts == _FEW_PARTS:
            view = _Buffered(view)
        # The next part begins behind the padding, at a multiple of 4 of the file.
        offset = end + -end % 4


class _Buffered:
    """The same bytes, read `_BLOCK_BYTES` at a time where fewer are requested."""

    def __init__(self, view: Bytes) -> None:
        self._view = view
        #: what was read last, and where in the file it begins
        self._block = memoryview(b"")
        self._begin = 0

    def __len__(self) -> int:
        return len(self._view)

    def __getitem__(self, bytes_: slice) -> memoryview:
        first, end, _ = bytes_.indices(len(self))
        if end - first >= _BLOCK_BYTES:
            return self._view[first:end]
        if not self._begin <= first <= end <= self._begin + len(self._block):
            self._block = self._view[first:first + _BLOCK_BYTES]
            self._begin = first
        return self._block[first - self._begin:end - self._begin]


def write_record(stream: IO[bytes], payload: bytes | bytearray | memoryview, path: object = "record") -> int:
    """Append one record to a stream and return the bytes that it takes there, heads and padding included.

    A payload of more than `MAX_PAYLOAD_BYTES` is a RunError that names `path`, and nothing is written.
    """
    if not isinstance(payload, (bytes, bytearray)):
        payload = bytes(payload)  # slicing a memoryview of another format would not count bytes
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise RunError(f"{verbatim(path)}: a record of {len(payload)} bytes is more than the format holds "
                       f"({MAX_PAYLOAD_BYTES})")
    size = 0
    for kind, part in split_parts(payload):
        padding = -len(part) % 4
        stream.write(HEAD.pack(MAGIC, kind << KIND_SHIFT | len(part)))
        stream.write(part)
        stream.write(b"\0" * padding)
        size += HEAD.size + len(part) + padding
    return size


def describe_cut(length: int, offset: int, size: int) -> str:
    """Return the message about a part at `offset` that announces more than a file of `size` bytes has."""
    return f"the record here is cut: it says {length} bytes, the file has {max(0, size - offset - 8)} more"


def describe_unfinished(offset: int) -> str:
    """Return the message about a split record whose next part should begin at byte `offset`."""
    return f"{_UNFINISHED}{offset}"


def _describe_wrong_head(magic: int, kind: int, begin: int, offset: int) -> str:
    # A missing first head means no record; with a later one missing, the record is good up to there.
    if magic != MAGIC:
        return "no record begins here" if begin == offset else describe_unfinished(offset)
    return f"the record here has a part of kind {kind} at byte {offset}, which cannot stand there"
