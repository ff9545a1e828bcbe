"""The offsets and headers found in a large record file, kept in the user's cache folder for the next reader.

`reader.py` looks here before it searches. What is read back is compared with the file: with a stale or
damaged entry the file is searched again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from imgcls.errors import ImgclsError
from imgcls.formats.recordio.image_record import HEADER_DTYPE
from imgcls.formats.recordio.scan import SlicedWords, describe_mismatch
from imgcls.storage.atomic import write_bytes
from imgcls.storage.folders import cache_folder

#: an entry's head: magic, size and time (ns) of the .rec, number of offsets (i64) and of headers behind it
HEAD = struct.Struct("<8sQQQQ")
MAGIC = b"imgclsX1"
#: smaller files are searched in a few milliseconds: they get no entry
MIN_FILE_BYTES = 1 << 24
#: of all entries together; the oldest are removed when they are more
MAX_TOTAL_BYTES = 1 << 30
#: headers that are read at a time
_RECORDS_AT_ONCE = 1 << 16
#: how many characters of the record file's name an entry's name begins with
_SHOWN_CHARACTERS = 32


class ScanCache:
    """The entry of one large file: its records' offsets and, once they were gathered, all headers.

    It is in the user's cache folder and not beside the file, where MXNet would take it for records: of a
    folder it reads every file. It is used only for a file of the same path, size and modification time.
    """

    def __init__(self, path: Path, size: int, mtime_ns: int, *, enabled: bool) -> None:
        """Without `enabled`, or for a file of fewer than `MIN_FILE_BYTES`, nothing is loaded or saved."""
        self._path = path
        self._size = size
        # as 64 bits without a sign: a file may be dated before 1970
        self._mtime_ns = mtime_ns % (1 << 64)
        self._enabled = enabled and size >= MIN_FILE_BYTES

    def load(self, words: SlicedWords) -> np.ndarray | None:
        """Return the offsets, int64; None where there is no entry, or it is damaged or of another file."""
        with self._open() as (stream, count, _):
            if stream is None:
                return None
            offsets = np.fromfile(stream, "<i8", count).astype(np.int64, copy=False)
        # A spoilt entry is not used: its offsets are not checked again before records are read there.
        is_spoilt = (offsets[1:] <= offsets[:-1]).any() or (offsets % 4).any()
        return None if is_spoilt or describe_mismatch(words, self._size, offsets) else offsets

    def headers(self, offsets: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the headers of the records at these offsets, some at a time; none if the entry has others."""
        with self._open() as (stream, count, num_headers):
            if stream is None or not len(offsets) == count == num_headers:
                return
            blocks = range(0, count, _RECORDS_AT_ONCE)
            for first in blocks:
                kept = np.fromfile(stream, "<i8", min(_RECORDS_AT_ONCE, count - first))
                if not np.array_equal(kept, offsets[first:first + _RECORDS_AT_ONCE]):
                    return
            for first in blocks:
                yield np.fromfile(stream, HEADER_DTYPE, min(_RECORDS_AT_ONCE, count - first))

    @contextlib.contextmanager
    def _open(self) -> Iterator[tuple[BinaryIO | None, int, int]]:
        """Open the entry behind its head: (the file, number of offsets, number of headers).

        (None, 0, 0) where there is no entry of this file.
        """
        if not self._enabled:
            yield None, 0, 0
            return
        try:
            stream = open(self._entry(), "rb")  # noqa: SIM115 - closed below
        # No entry, no home folder, a URL as cache folder.
        except (OSError, RuntimeError, ImgclsError):
            yield None, 0, 0
            return
        with stream:
            head = stream.read(HEAD.size)
            fields = HEAD.unpack(head) if len(head) == HEAD.size else (b"", 0, 0, 0, 0)
            magic, size, mtime_ns, count, num_headers = fields
            # The counts are only claimed: compared with the entry's size before memory is taken for them.
            end = HEAD.size + 8 * count + HEADER_DTYPE.itemsize * num_headers
            is_ours = (magic, size, mtime_ns) == (MAGIC, self._size, self._mtime_ns) and (
                end == os.fstat(stream.fileno()).st_size)
            yield (stream, count, num_headers) if is_ours else (None, 0, 0)

    def save(self, offsets: np.ndarray, headers: np.ndarray) -> None:
        """Write the entry: the offsets, and all headers or none."""
        if not self._enabled:
            return
        head = HEAD.pack(MAGIC, self._size, self._mtime_ns, len(offsets), len(headers))
        # No home or a full disk only means that the next reader searches again.
        with contextlib.suppress(ImgclsError, OSError, RuntimeError):
            # as memory and not as bytes of it: 450 MB with 14 million records
            write_bytes(self._entry(), head, np.ascontiguousarray(offsets, "<i8").data.cast("B"),
                        np.ascontiguousarray(headers).view(np.uint8).data)
            self._remove_oldest()

    def _entry(self) -> Path:
        # By the resolved path: links to one file share an entry, files of one name in other folders do not.
        key = hashlib.sha256(os.fsencode(self._path.resolve())).hexdigest()[:32]
        return cache_folder("records") / f"{self._path.stem[:_SHOWN_CHARACTERS]}-{key}.kept"

    def _remove_oldest(self) -> None:
        folder = self._entry().parent
        entries = sorted((p.stat().st_mtime_ns, p.stat().st_size, p) for p in folder.glob("*.kept"))
        total = sum(size for _, size, _ in entries)
        for _, size, entry in entries[:-1]:  # never the newest: that is ours
            if total > MAX_TOTAL_BYTES:
                entry.unlink(missing_ok=True)
                total -= size
