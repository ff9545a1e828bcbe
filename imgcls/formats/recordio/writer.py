"""Write `X.rec` and `X.idx`: record by record, or in blocks that threads have laid out.

The packer uses both. A file gets its name only when it is complete and on the disk. What a record contains is
up to the caller.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from imgcls.errors import RunError, reason, verbatim
from imgcls.formats.recordio.framing import HEAD, MAGIC, write_record
from imgcls.formats.recordio.index import index_path
from imgcls.storage.atomic import atomic_write
from imgcls.storage.paths import to_local_path

#: memory that a block begins with; it doubles when it is full
_BLOCK_BYTES = 1 << 20
#: padding behind a record is at most 3 bytes, a whole word is reserved for it
_PADDING_BYTES = 4


class Block:
    """Image records laid out one behind the other as in a file, in memory that is used again.

    `reserve` memory for the next image, then `append` its record, or reserve again to drop it.
    """

    def __init__(self) -> None:
        self._bytes = bytearray(_BLOCK_BYTES)
        self._view = memoryview(self._bytes)
        self.clear()

    def clear(self) -> None:
        """Empty it; the memory stays."""
        #: bytes of the records so far
        self.size = 0
        #: byte in the block where each begins, and its key
        self.offsets: list[int] = []
        self.keys: list[int] = []

    def reserve(self, head_size: int, size: int) -> memoryview:
        """Return memory for the image of the next record, `size` bytes at most.

        The payload begins with `head_size` bytes in front of the image: header and labels.
        """
        begin = self.size + HEAD.size + head_size
        if begin + size + _PADDING_BYTES > len(self._bytes):
            # A new bytearray: this one cannot grow while views of it are in use.
            larger = bytearray(max(begin + size + _PADDING_BYTES, 2 * len(self._bytes)))
            larger[:self.size] = self._view[:self.size]
            self._bytes = larger
            self._view = memoryview(larger)
        return self._view[begin:begin + size]

    def append(self, head: bytes, size: int, key: int) -> None:
        """Append the record whose payload is `head` and the first `size` bytes that were last reserved."""
        begin = self.size + HEAD.size
        end = begin + len(head) + size
        # An unsplit record, kind 0: `bytes` finds out whether one has to be split.
        HEAD.pack_into(self._bytes, self.size, MAGIC, end - begin)
        self._view[begin:begin + len(head)] = head
        padding = -end % 4
        self._view[end:end + padding] = bytes(padding)  # the memory was used before: it holds anything
        self.offsets.append(self.size)
        self.keys.append(key)
        # Set last: a record that failed halfway leaves the block as it was.
        self.size = end + padding

    def payloads(self) -> Iterator[memoryview]:
        """Yield each payload, a view of the block."""
        for offset in self.offsets:
            begin = offset + HEAD.size
            yield self._view[begin:begin + HEAD.unpack_from(self._bytes, offset)[1]]

    def bytes(self) -> memoryview | None:
        """Return all of it as it is written; None where a payload holds the magic and has to be split."""
        written = self._view[:self.size]
        # Each record has one magic of its own; any other is inside of a payload.
        num_magics = np.count_nonzero(np.frombuffer(written, "<u4") == MAGIC)
        return written if num_magics == len(self.offsets) else None


class RecordWriter:
    """Writes `X.rec` and its index `X.idx`; both get their names only when `close` (or `with`) succeeds."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = to_local_path(path, "OUT.rec")
        #: records written so far
        self.count = 0
        self._offset = 0
        self._stack = contextlib.ExitStack()
        try:
            # Closed in the opposite order: the records have their name before the index has.
            self._idx = self._stack.enter_context(atomic_write(index_path(self.path)))
            self._rec = self._stack.enter_context(atomic_write(self.path))
        except BaseException as error:
            # with the error: an index that is closed without one takes its name, empty, over a good one
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        if exc_info[0] is None:
            self._sync_both()
        self._stack.__exit__(*exc_info)

    def write(self, payload: bytes | bytearray | memoryview, key: Any = None) -> int:
        """Append one record of up to 2^29 - 1 bytes and return its offset.

        `key` goes into the index; without one it is the record's index.
        """
        offset = self._offset
        self._offset += write_record(self._rec, payload, self.path)
        self._idx.write(f"{self.count if key is None else key}\t{offset}\n".encode())
        self.count += 1
        return offset

    def write_block(self, block: Block) -> None:
        """Append all its records, each with its key."""
        content = block.bytes()
        if content is None:
            for payload, key in zip(block.payloads(), block.keys, strict=True):
                self.write(payload, key)
            return
        # One write for the whole block: the interpreter is not held while the system copies it.
        self._rec.write(content)
        base = self._offset
        lines = [f"{key}\t{base + offset}\n" for key, offset in zip(block.keys, block.offsets, strict=True)]
        self._idx.write("".join(lines).encode())
        self._offset += len(content)
        self.count += len(block.keys)

    def sync(self) -> None:
        """Force what has left this process onto the disk; from any thread.

        An OSError must not be ignored: the system reports it once, not again when the file is closed.
        """
        getattr(os, "fdatasync", os.fsync)(self._rec.fileno())  # macOS has no fdatasync

    def mark(self) -> object:
        """Return what `commit` notes once everything written so far is on the disk; here nothing."""
        return None

    def commit(self, mark: object) -> None:
        """Note that what was written before `mark` is on disk, for a writer that can resume from there."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the records so far."""
        return self._offset

    def close(self) -> None:
        """Complete both files and give them their names."""
        self.__exit__(None, None, None)

    def _sync_both(self) -> None:
        """Force both onto the disk before either gets its name: so an index never has the wrong records."""
        for stream, path in ((self._rec, self.path), (self._idx, index_path(self.path))):
            try:
                stream.flush()
                os.fsync(stream.fileno())
            except OSError as error:
                failure = RunError(f"cannot write {verbatim(path)}: {reason(error)}")
                self._stack.__exit__(type(failure), failure, None)  # removes both
                raise failure from error
