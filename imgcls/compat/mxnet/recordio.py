"""`mx.recordio`: record files read and written one record at a time, and the image records in them.

MXNet's classes over `imgcls.formats.recordio`. What is different: every record is in the file when `write`
returns (MXNet keeps some of them in memory until `close`), damage is an MXNetError that names file and byte
(MXNet joins records or ends early), a reader may be used in a forked process, and pickling a reader leaves it
open.
"""

from __future__ import annotations

import contextlib
import os
from collections import namedtuple
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from imgcls.compat.mxnet.base import MXNetError, translated, translated_class
from imgcls.data.image_header import BadImageError
from imgcls.errors import DataError, RunError, first_line, reason, verbatim
from imgcls.formats import recordio
from imgcls.storage.paths import to_local_path

# MXNet's: its repr begins with HEADER
IRHeader = namedtuple("HEADER", ["flag", "label", "id", "id2"])
"""The header in front of every image: `label` is a number, or a sequence whose length is `flag`."""

#: file name suffixes -> the OpenCV option that `quality` sets
_JPEG_SUFFIXES = (".jpg", ".jpeg")
_PNG_SUFFIXES = (".png",)
_MAX_PNG_COMPRESSION = 9  # zlib's largest; `quality` is 95 by default, meant for JPEG


@translated_class
class MXRecordIO:
    """A `.rec` file to read (`flag` "r") or write ("w", which empties it), from its beginning to its end."""

    def __init__(self, uri: str | os.PathLike[str], flag: str) -> None:
        self.uri = os.fspath(uri)
        self.flag = flag
        self.is_open = False
        self.open()

    def open(self) -> None:
        """Open the file, which for writing empties it."""
        if self.flag not in ("r", "w"):
            raise ValueError(f"flag {self.flag!r} is not known: there is 'r' for reading and 'w' for writing")
        self.writable = self.flag == "w"
        #: the process that opened the file, as in MXNet
        self.pid = os.getpid()
        #: the record that is read next
        self._next = 0
        self._open_file()
        self.is_open = True

    def close(self) -> None:
        """Close the file; may be called more than once."""
        if self.is_open:
            self.is_open = False
            if self.writable:
                self._writer.close()
            else:
                # The file is closed when the reader is collected.
                del self._reader

    def reset(self) -> None:
        """Go back to the first record; for writing, the file is emptied."""
        self.close()
        self.open()

    def read(self) -> bytes | None:
        """Return the next record, None behind the last one.

        Damage ends the file: the records before it are returned first, then it is raised as an MXNetError.
        """
        self._check("r")
        # The reader has found the damage when it was opened; the records before it come first.
        if self._next >= len(self._reader):
            if self._reader.problems:
                raise self._reader.problems[0]
            return None
        self._next += 1
        # MXNet returns bytes.
        return bytes(self._reader.payload(self._next - 1))

    def write(self, buf: bytes | bytearray | memoryview) -> None:
        """Append a record, which is in the file when this returns."""
        self._check("w")
        # A forked process shares the file's position: both would write into each other's records.
        if os.getpid() != self.pid:
            raise RuntimeError(f"{self.uri} was opened for writing by another process: only that one can "
                               "write to it")
        if not isinstance(buf, (bytes, bytearray, memoryview)):
            raise TypeError(f"a record is bytes, not {type(buf).__name__}")
        self._writer.write(buf)

    def tell(self) -> int:
        """Return the byte where the next record will be written, or stands."""
        self._check(self.flag)
        if self.writable:
            return self._writer.size_bytes
        is_end = self._next >= len(self._reader)
        return self._reader.size if is_end else self._reader.offsets.item(self._next)

    def __del__(self) -> None:
        if getattr(self, "is_open", False):  # not where __init__ raised
            self.close()

    # Data loaders pickle their data set, with the reader in it, for worker processes.
    def __getstate__(self) -> dict[str, Any]:
        if self.is_open and self.writable:
            raise TypeError(f"{self.uri} is open for writing: only readers can be pickled, or handed to "
                            "other processes (opening it there again would empty it)")
        open_files = ("_reader", "_writer", "_lines")
        return {name: value for name, value in self.__dict__.items() if name not in open_files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the file again, at the first record, as in MXNet."""
        self.__dict__.update(state)
        if self.is_open:
            self.open()

    def _open_file(self) -> None:
        if self.writable:
            self._writer = _Appender(self.uri)
        else:
            self._reader = recordio.RecordReader(self.uri)

    def _check(self, flag: str) -> None:
        if not self.is_open:
            raise ValueError(f"{self.uri} is closed")
        if self.flag != flag:
            raise ValueError(f"{self.uri} is open for {'writing' if self.writable else 'reading'} only")


@translated_class
class MXIndexedRecordIO(MXRecordIO):
    """A `.rec` file and its `.idx`: `read_idx` and `write_idx` read and write records by key.

    `keys` are in the order of the `.idx`, each once; `idx` maps them to byte offsets.
    """

    def __init__(self, idx_path: str | os.PathLike[str], uri: str | os.PathLike[str], flag: str,
                 key_type: Callable[[Any], Any] = int) -> None:
        self.idx_path = os.fspath(idx_path)
        self.key_type = key_type
        self.idx: dict[Any, int] = {}
        self.keys: list[Any] = []
        super().__init__(uri, flag)

    def _open_file(self) -> None:
        if self.writable:
            if os.path.abspath(self.idx_path) == os.path.abspath(self.uri):
                raise MXNetError(f"{verbatim(self.uri)} cannot be the index of itself")
            self._writer = _Appender(self.uri)
            # Where the index cannot be written, the record file is closed again.
            with contextlib.ExitStack() as stack, _reporting(self.idx_path):
                stack.callback(self._writer.close)
                self._lines = open(to_local_path(self.idx_path), "wb")  # noqa: SIM115 - until close
                stack.pop_all()
            self.idx = {}
        else:
            self._reader = recordio.RecordReader(self.uri, index=self.idx_path)
            self.idx = self._typed(self._reader.key_to_offset())  # all in memory, as in MXNet
        self.keys = list(self.idx)

    def seek(self, idx: Any) -> None:
        """Let `read` continue with the record of this key. A key that is not in the `.idx` is a KeyError."""
        self._check("r")
        self._next = self._row_of(idx)

    def _row_of(self, idx: Any) -> int:
        """Return the number in the file of the record of a key; see `seek`."""
        offset = self.idx.get(idx)
        if offset is None:
            # Where the .idx does not fit the file, that is the reason.
            raise self._reader.index_problem or KeyError(idx)
        # The .idx may be older than the file: then the reader has searched the file itself.
        row = int(np.searchsorted(self._reader.offsets, offset))
        if row == len(self._reader) or self._reader.offsets[row] != offset:
            raise DataError(self.uri, f"no record begins here, where {self.idx_path} has that of key {idx}",
                            offset)
        return row

    # By its own row: the threads of a DataLoader share the reader, and with it the position.
    def read_idx(self, idx: Any) -> bytes:
        """Return the record of this key; `read` continues behind it."""
        self._check("r")
        row = self._row_of(idx)
        self._next = row + 1
        return bytes(self._reader.payload(row))

    def write_idx(self, idx: Any, buf: bytes | bytearray | memoryview) -> None:
        """Append a record and its line of the `.idx`."""
        key = self.key_type(idx)
        offset = self.tell()
        self.write(buf)
        # Flushed at once as well: other processes may already read the records by this index.
        with _reporting(self.idx_path):
            self._lines.write(f"{key}\t{offset}\n".encode())
            self._lines.flush()
        # A key that is written twice is in `keys` once; the later record counts.
        if key not in self.idx:
            self.keys.append(key)
        self.idx[key] = offset

    def close(self) -> None:
        """Close both files."""
        # A reader has no lines: the index was read when it was opened.
        try:
            if self.is_open and self.writable:
                with _reporting(self.idx_path):
                    self._lines.close()
        finally:
            super().close()

    def _typed(self, offsets: dict[Any, int]) -> dict[Any, int]:
        """Return key -> offset with keys of `key_type`."""
        if self.key_type is int and all(type(key) is int for key in offsets):
            return offsets
        try:
            # Other types are made from the file's text, which the reader has converted to int where it could.
            return {self.key_type(key if self.key_type is int else str(key)): offset
                    for key, offset in offsets.items()}
        except (ValueError, TypeError) as error:
            kind = getattr(self.key_type, "__name__", "key")
            raise DataError(self.idx_path, f"a key is no {kind}: {error}") from error


def pack(header: IRHeader | tuple[Any, ...], s: bytes) -> bytes:
    """Return an image record: a number as label goes into the header, a sequence behind it as float32."""
    return recordio.pack(recordio.ImageHeader(*IRHeader(*header)), s)


@translated
def unpack(s: bytes) -> tuple[IRHeader, bytes]:
    """Return (header, image bytes) of an image record; with `flag` above 0 `label` is float32 (flag,).

    A record that is too short is an MXNetError.
    """
    try:
        header, labels, image = recordio.unpack(s)
    except ValueError as error:
        raise DataError("a record", str(error)) from None
    label = labels if header.flag else header.label
    return IRHeader(header.flag, label, header.id, header.id2), bytes(image)


@translated
def pack_img(header: IRHeader | tuple[Any, ...], img: np.ndarray, quality: int = 95,
             img_fmt: str = ".jpg") -> bytes:
    """Return `pack` of uint8 (H, W) or (H, W, C), blue first, encoded.

    `quality` is JPEG's 1-100, or PNG's compression 0-9, where more counts as 9.
    """
    from imgcls.data.opencv import cv2

    # Other formats are encoded with OpenCV's own defaults.
    options: list[int] = []
    if img_fmt.lower() in _JPEG_SUFFIXES:
        options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    elif img_fmt.lower() in _PNG_SUFFIXES:
        options = [cv2.IMWRITE_PNG_COMPRESSION, min(_MAX_PNG_COMPRESSION, quality)]
    try:
        is_encoded, encoded = cv2.imencode(img_fmt, np.asarray(img), options)
    except cv2.error as error:
        raise RunError(f"cannot encode an image as {img_fmt}: {first_line(error)}") from error
    if not is_encoded:
        raise RunError(f"cannot encode an image as {img_fmt}")
    return pack(header, encoded.tobytes())


@translated
def unpack_img(s: bytes, iscolor: int = -1) -> tuple[IRHeader, np.ndarray | None]:
    """Return (header, uint8 (H, W) or (H, W, C), blue first) as OpenCV decodes it with the flag `iscolor`.

    None stands in place of an image that it cannot decode.
    """
    # imported here: only callers that need pixels wait for OpenCV, a tenth of a second
    from imgcls.data import opencv

    header, encoded = unpack(s)
    # MXNet returns what cv2.imdecode does, and callers test for None.
    with contextlib.suppress(BadImageError):
        return header, opencv.decode(encoded, iscolor)
    return header, None


class _Appender:
    """Writes records directly into the file, not into a temporary one, and no index.

    Other processes may read the records so far, and a process that is killed loses none.
    """

    def __init__(self, path: str) -> None:
        self._path = to_local_path(path)
        #: bytes of the records so far
        self.size_bytes = 0
        with _reporting(self._path):
            self._stream = open(self._path, "wb")  # noqa: SIM115 - until close

    def write(self, payload: bytes | bytearray | memoryview) -> None:
        """Append one record."""
        with _reporting(self._path):
            self.size_bytes += recordio.write_record(self._stream, payload, self._path)
            self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        # after a write that failed some bytes are left to be written
        with _reporting(self._path):
            self._stream.close()


@contextlib.contextmanager
def _reporting(path: object) -> Iterator[None]:
    """Raise an OSError as a RunError that names the file."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {verbatim(path)}: {reason(error)}") from error
