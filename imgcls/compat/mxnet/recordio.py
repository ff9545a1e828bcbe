"""`mx.recordio`: record files read and written one record at a time, and the image records in them.

MXNet's classes on `imgcls.formats.recordio`. What is different: every record is in the file when `write` returns (MXNet
keeps some of them in memory until `close`), damage is a DataError that names file and byte where MXNet glued records
together or ended early, a reader may be used in a forked process, and pickling a reader leaves it open.
"""

from __future__ import annotations

import contextlib
import os
from collections import namedtuple
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from imgcls.errors import DataError, RunError
from imgcls.formats import recordio
from imgcls.storage.paths import to_local_path

# MXNet's: its repr begins with HEADER
IRHeader = namedtuple("HEADER", ["flag", "label", "id", "id2"])
"""In front of every image: `label` is a number, or a sequence of which `flag` is the length."""

_JPEG, _PNG = (".jpg", ".jpeg"), (".png",)


class MXRecordIO:
    """A `.rec` file for reading (`flag` "r") or writing ("w", which empties it), from its beginning to its end."""

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
        self.pid = os.getpid()
        self._at = 0
        self._open_file()
        self.is_open = True

    def close(self) -> None:
        """Close the file; more than once does no harm."""
        if self.is_open:
            self.is_open = False
            if self.writable:
                self._writer.close()
            else:
                del self._reader

    def reset(self) -> None:
        """Back to the first record; for writing, the file is emptied."""
        self.close()
        self.open()

    def read(self) -> bytes | None:
        """The next record, None behind the last one. Damage ends the file: what stands before it is read, then it is
        raised as a DataError."""
        self._check("r")
        if self._at >= len(self._reader):
            if self._reader.problems:
                raise self._reader.problems[0]
            return None
        self._at += 1
        return bytes(self._reader.payload(self._at - 1))

    def write(self, buf: bytes | bytearray | memoryview) -> None:
        """Append a record, which is in the file when this returns."""
        self._check("w")
        if os.getpid() != self.pid:
            raise RuntimeError(f"{self.uri} was opened for writing by another process: only that one can write to it")
        if not isinstance(buf, (bytes, bytearray, memoryview)):
            raise TypeError(f"a record is bytes, not {type(buf).__name__}")
        self._writer.write(buf)

    def tell(self) -> int:
        """The byte where the next record will be written, or stands."""
        self._check(self.flag)
        if self.writable:
            return self._writer.size_bytes
        return self._reader.offsets.item(self._at) if self._at < len(self._reader) else self._reader.size

    def __del__(self) -> None:
        if getattr(self, "is_open", False):  # not where __init__ raised
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        if self.is_open and self.writable:
            raise TypeError(f"{self.uri} is open for writing: only readers can be pickled, or handed to other "
                            "processes (opening it there again would empty it)")
        return {name: value for name, value in self.__dict__.items() if name not in ("_reader", "_writer", "_lines")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As MXNet: it stands at the first record again."""
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


class MXIndexedRecordIO(MXRecordIO):
    """A `.rec` file and its `.idx`: `read_idx` and `write_idx` find records by key. `keys` are in the order of the
    `.idx`, a key that it names twice stands there once; `idx` maps them to byte offsets."""

    def __init__(self, idx_path: str | os.PathLike[str], uri: str | os.PathLike[str], flag: str,
                 key_type: Callable[[Any], Any] = int) -> None:
        self.idx_path = os.fspath(idx_path)
        self.key_type = key_type
        self.idx: dict[Any, int] = {}
        self.keys: list[Any] = []
        super().__init__(uri, flag)

    def _open_file(self) -> None:
        if self.writable:
            self._writer = _Appender(self.uri)
            with contextlib.ExitStack() as stack, _told(self.idx_path):
                stack.callback(self._writer.close)
                self._lines = open(to_local_path(self.idx_path), "wb")  # noqa: SIM115 - until close
                stack.pop_all()
            self.idx = {}
        else:
            self._reader = recordio.RecordReader(self.uri, index=self.idx_path)
            self.idx = self._typed(self._reader.key_to_offset())
        self.keys = list(self.idx)

    def seek(self, idx: Any) -> None:
        """`read` goes on with the record of this key. A key that the `.idx` has not is a KeyError."""
        self._check("r")
        offset = self.idx.get(idx)
        if offset is None:
            # where the .idx says more than the file holds, that is the reason
            raise self._reader.index_problem or KeyError(idx)
        at = int(np.searchsorted(self._reader.offsets, offset))
        if at == len(self._reader) or self._reader.offsets[at] != offset:
            raise DataError(self.uri, f"no record begins here, where {self.idx_path} has that of key {idx}", offset)
        self._at = at

    def read_idx(self, idx: Any) -> bytes:
        """The record of this key."""
        self.seek(idx)
        record = self.read()
        assert record is not None
        return record

    def write_idx(self, idx: Any, buf: bytes | bytearray | memoryview) -> None:
        """Append a record and its line of the `.idx`."""
        key, offset = self.key_type(idx), self.tell()
        self.write(buf)
        with _told(self.idx_path):
            self._lines.write(f"{key}\t{offset}\n".encode())
            self._lines.flush()
        if key not in self.idx:
            self.keys.append(key)
        self.idx[key] = offset

    def close(self) -> None:
        """Close both files."""
        if self.is_open and self.writable:
            self._lines.close()
        super().close()

    def _typed(self, offsets: dict[Any, int]) -> dict[Any, int]:
        if self.key_type is int and all(type(key) is int for key in offsets):
            return offsets
        try:
            return {self.key_type(key if self.key_type is int else str(key)): at for key, at in offsets.items()}
        except (ValueError, TypeError) as error:
            raise DataError(self.idx_path, f"a key is no {getattr(self.key_type, '__name__', 'key')}: {error}"
                            ) from error


def pack(header: IRHeader | tuple[Any, ...], s: bytes) -> bytes:
    """The bytes of an image record: a number as label goes into the header, anything else behind it, as float32."""
    return recordio.pack(recordio.ImageHeader(*IRHeader(*header)), s)


def unpack(s: bytes) -> tuple[IRHeader, bytes]:
    """(header, image bytes) of an image record; `label` is a float, or with `flag` above 0 float32 (flag,)."""
    try:
        header, labels, image = recordio.unpack(s)
    except ValueError as error:
        raise DataError("a record", str(error)) from None
    return IRHeader(header.flag, labels if header.flag else header.label, header.id, header.id2), bytes(image)


def pack_img(header: IRHeader | tuple[Any, ...], img: np.ndarray, quality: int = 95, img_fmt: str = ".jpg") -> bytes:
    """`pack` of uint8 (H, W) or (H, W, C), blue first, encoded as JPEG (`quality` 1-100) or PNG (compression 0-9, more
    counts as 9)."""
    import cv2

    options: list[int] = []
    if img_fmt.lower() in _JPEG:
        options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    elif img_fmt.lower() in _PNG:
        options = [cv2.IMWRITE_PNG_COMPRESSION, min(9, quality)]
    try:
        done, encoded = cv2.imencode(img_fmt, np.asarray(img), options)
    except cv2.error as error:
        raise RunError(f"cannot encode an image as {img_fmt}: {error.err}") from error
    if not done:
        raise RunError(f"cannot encode an image as {img_fmt}")
    return pack(header, encoded.tobytes())


def unpack_img(s: bytes, iscolor: int = -1) -> tuple[IRHeader, np.ndarray | None]:
    """(header, uint8 (H, W) or (H, W, C), blue first) as OpenCV decodes it with the flag `iscolor`; None in place of an
    image that it cannot."""
    import cv2

    header, encoded = unpack(s)
    return header, cv2.imdecode(np.frombuffer(encoded, np.uint8), iscolor) if encoded else None


class _Appender(recordio.RecordWriter):
    """Writes in place, not to a file aside that takes the name at the end, and no index: others may read what is there
    so far, and a process that is killed loses nothing."""

    def __init__(self, path: str) -> None:
        self.path = to_local_path(path)
        self.count = 0
        self._offset = 0
        self._stack = contextlib.ExitStack()
        with _told(self.path):
            self._rec = self._stack.enter_context(open(self.path, "wb"))  # noqa: SIM115
            self._idx = self._stack.enter_context(open(os.devnull, "wb"))  # noqa: SIM115

    def write(self, payload: bytes | bytearray | memoryview, key: Any = None) -> int:
        with _told(self.path):
            offset = super().write(payload, key)
            self._rec.flush()
        return offset


@contextlib.contextmanager
def _told(path: object) -> Iterator[None]:
    """What the system says against writing becomes a RunError that names the file."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from error
