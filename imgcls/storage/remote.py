"""Read and write files behind URLs: http(s)://, and whatever fsspec has a driver for (s3, gs, hdfs, memory).

`RemotePath` has the methods of a `pathlib.Path` that the readers of data and checkpoints need;
`paths.to_path` gives one or the other. Every request is tried several times where the trouble may pass
(`retries.py`), and what fails for good is one line that names the URL. A write is whole or not at all.

Ours and not `universal_pathlib`, whose requests are tried once, know no version of a file and raise a
driver's own errors.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import re
import tempfile
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from imgcls.errors import DataError, RunError
from imgcls.storage.direct import read_direct
from imgcls.storage.drivers import has_atomic_writes, open_driver
from imgcls.storage.retries import ShortReadError, retry
from imgcls.storage.thread_pool import DaemonPool

T = TypeVar("T")

#: what one request asks for at most: long enough to pay for its round trip, short enough to be sent again
PART_BYTES = 8 << 20
#: how many of them are under way for one file, and for all files that are copied: 128 MB of memory
PARTS_AT_ONCE = 8
_ALL_PARTS_AT_ONCE = 16
#: a range is read on after tries that failed, if they brought at least one in so many of its bytes
_LEAST_SHARE = 16
#: what changes with every change of a file, in the words of the various drivers, the surest first
_VERSION_WORDS = ("ETag", "etag", "md5Hash", "crc32c", "content_md5", "checksum", "generation", "mtime",
                  "modified", "LastModified", "last_modified", "modificationTime", "modify", "updated",
                  "created")

_parts = threading.BoundedSemaphore(_ALL_PARTS_AT_ONCE)


@dataclass(frozen=True)
class FileInfo:
    """What a store says of a file or folder. `version` is another one after every change."""

    size: int
    version: str
    is_folder: bool

    @property
    def st_size(self) -> int:
        """The size, as os.stat calls it."""
        return self.size


class RemotePath:
    """A URL with the methods of a Path. No request is sent before a method needs it.

    It remembers what the store said of the file, until it writes there or is asked for a fresh answer.
    """

    __slots__ = ("_entries", "_info", "url")  # a folder of shards makes thousands

    def __init__(self, url: str) -> None:
        root, _, rest = url.partition("://")
        self.url = f"{root}://{rest.rstrip('/')}"  # one spelling for each file, as it is compared and hashed
        self._info: FileInfo | None = None
        self._entries: list[RemotePath] | None = None

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"RemotePath({self.url!r})"

    def __fspath__(self) -> str:
        return self.url  # functions that take `str | os.PathLike` take this too, and give it to `to_path`

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and other.url == self.url

    def __lt__(self, other: RemotePath) -> bool:
        return self.url < other.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __truediv__(self, name: str | os.PathLike[str]) -> RemotePath:
        text = os.fspath(name).replace(os.sep, "/").strip("/")
        return RemotePath(f"{self.url}/{text}" if text else self.url)

    # The parts of the name, as pathlib gives them.

    @property
    def name(self) -> str:
        return self.url.partition("://")[2].rpartition("/")[2]

    @property
    def stem(self) -> str:
        return os.path.splitext(self.name)[0]

    @property
    def suffix(self) -> str:
        return os.path.splitext(self.name)[1]

    @property
    def parent(self) -> RemotePath:
        root, _, rest = self.url.partition("://")
        return RemotePath(f"{root}://{rest.rpartition('/')[0] or rest}")

    def with_name(self, name: str) -> RemotePath:
        return self.parent / name

    def with_suffix(self, suffix: str) -> RemotePath:
        return self.with_name(self.stem + suffix)

    def expanduser(self) -> RemotePath:
        return self

    # Requests

    def info(self, *, fresh: bool = False) -> FileInfo | None:
        """Return what is there, None where nothing is.

        The answer may be as old as this object's first or the driver's listing of the folder, unless `fresh`.
        """
        if self._info and not fresh:
            return self._info

        def ask(fs: Any, path: str) -> dict[str, Any]:
            if fresh:  # drivers remember what a folder held when they last listed it
                fs.invalidate_cache(path)
            return fs.info(path)

        try:
            answer = self._request("be read", ask)
        except FileNotFoundError as error:
            _raise_for_missing_bucket(self.url, error)
            return None
        version = next((str(answer[word]) for word in _VERSION_WORDS if answer.get(word)), "")
        self._info = FileInfo(int(answer.get("size") or 0), version, answer.get("type") == "directory")
        return self._info

    def stat(self, *, fresh: bool = False) -> FileInfo:
        """Return `info`; FileNotFoundError where nothing is there."""
        info = self.info(fresh=fresh)
        if info is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", self.url)
        return info

    def modified_s(self) -> float | None:
        """Return when the file was changed, in seconds since 1970; None where the store does not tell."""
        def ask(fs: Any, path: str) -> Any:
            try:
                return fs.modified(path)
            except NotImplementedError:
                return None

        when = self._request("be asked for its age", ask)
        return None if when is None else float(when.timestamp())

    def exists(self) -> bool:
        return self.info() is not None

    def is_file(self) -> bool:
        info = self.info()
        return info is not None and not info.is_folder

    def is_dir(self) -> bool:
        info = self.info()
        return info is not None and info.is_folder

    def iterdir(self) -> list[RemotePath]:
        """List what is in the folder now, sorted; nothing where there is no such folder."""
        def names_in(fs: Any, path: str) -> list[str]:
            fs.invalidate_cache(path)  # others may have written meanwhile
            return [str(name) for name in fs.ls(path, detail=False)]

        try:
            names = self._request("be listed", names_in)
        except (FileNotFoundError, NotADirectoryError) as error:
            _raise_for_missing_bucket(self.url, error)
            return []
        # Stores name a folder by its keys: with or without the bucket, with or without a slash at the end.
        names = sorted({name.rstrip("/").rpartition("/")[2] for name in names})
        self._entries = [self / name for name in names if name]
        return list(self._entries)

    def glob(self, pattern: str) -> list[RemotePath]:
        """List what of the folder fits the pattern, `*.rec` for example, as this object last listed it."""
        entries = self.iterdir() if self._entries is None else self._entries
        return [path for path in entries if fnmatch.fnmatchcase(path.name, pattern)]

    def read_range(self, begin: int, end: int) -> bytes:
        """Return bytes begin .. end - 1, which must be there."""
        data = bytearray(max(end - begin, 0))
        self.read_into(memoryview(data), begin)
        return bytes(data)

    def read_into(self, buffer: memoryview, begin: int) -> None:
        """Fill the buffer with the bytes from `begin` on, which must be there."""
        num_read = 0

        def read(fs: Any, path: str) -> None:
            nonlocal num_read
            # Drivers return what came before a connection or a file ended: the next try continues there.
            first, rest = begin + num_read, buffer[num_read:]
            num_new = read_direct(fs, path, first, rest)
            if num_new is None:
                data = fs.cat_file(path, start=first, end=begin + len(buffer))
                num_new = min(len(data), len(rest))
                rest[:num_new] = data[:num_new]
            num_read += num_new
            if num_read != len(buffer):
                raise ShortReadError(f"{num_read} of {len(buffer)} bytes came")

        while num_read < len(buffer):
            before = num_read
            try:
                self._request("be read", read)
            except RunError:
                # a bad connection that brings some of it with each try does not end the run
                if (num_read - before) * _LEAST_SHARE < len(buffer):
                    raise

    def has_ranges(self) -> bool:
        """Return whether a part of the file can be asked for; a web server may send nothing but all of it."""
        return self._request("be read", lambda fs, path: not hasattr(fs, "has_ranges") or fs.has_ranges(path))

    def read_bytes(self, limit: int | None = None) -> bytes:
        """Return the content; of more than `limit` bytes a DataError, before memory is taken."""
        size = self.stat(fresh=True).size
        if limit is not None and size > limit:
            raise DataError(self.url, f"has {size} bytes, where {limit} are the most there can be")
        starts = range(0, size, PART_BYTES)
        return b"".join(self.read_range(start, min(start + PART_BYTES, size)) for start in starts)

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def download(self, stream: Any, begin: int, end: int) -> None:
        """Write bytes begin .. end - 1 to the start of the file `stream`, several parts at a time."""
        lock = threading.Lock()  # a stream has one position for all threads

        def fetch(start: int) -> None:
            with _parts:
                data = memoryview(bytearray(min(PART_BYTES, end - start)))
                self.read_into(data, start)
                with lock:
                    stream.seek(start - begin)
                    stream.write(data)

        starts = list(range(begin, end, PART_BYTES))
        if len(starts) == 1:
            fetch(begin)  # small files are many: no threads for them
        elif starts and not self.has_ranges():
            self._download_whole(stream, begin, end)
        elif starts:
            with DaemonPool(min(PARTS_AT_ONCE, len(starts)), "imgcls-fetch") as pool:
                for future in [pool.submit(fetch, start) for start in starts]:
                    future.result()  # the first error ends it: the pool drops what has not begun

    def _download_whole(self, stream: Any, begin: int, end: int) -> None:
        """Do what `download` does by one request: without ranges each part would cost all bytes before it."""
        failures: list[OSError] = []

        def copy(fs: Any, path: str) -> None:
            stream.seek(0)
            for piece in fs.pieces(path, begin, end):
                try:
                    stream.write(piece)
                except OSError as error:  # of this disk: another try would not help
                    failures.append(error)
                    return

        self._request("be read", copy)
        if failures:
            raise failures[0]

    def upload(self, file: str | os.PathLike[str]) -> None:
        """Make the local `file` the content of this URL: readers see what was there before, or all of it."""
        self._info = None

        def put(fs: Any, path: str) -> None:
            if has_atomic_writes(self.url):
                fs.put_file(os.fspath(file), path)
                return
            # A temporary name of its own: two processes may write the same file at once.
            temporary = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
            folder = path.rpartition("/")[0]
            if folder:
                fs.makedirs(folder, exist_ok=True)
            try:
                fs.put_file(os.fspath(file), temporary)
                # Some drivers take a connection that ends for the end of the file.
                if fs.info(temporary)["size"] != os.path.getsize(file):
                    raise ShortReadError("what arrived is shorter than what was sent")
                fs.mv(temporary, path)
            except BaseException:
                with contextlib.suppress(Exception):  # the first error is the one to report
                    fs.rm_file(temporary)
                raise

        self._request("be written", put, writing=True)

    def write_bytes(self, data: bytes) -> None:
        """Make `data` the content of this URL, as `upload` does."""
        with tempfile.NamedTemporaryFile(prefix="imgcls-") as stream:
            stream.write(data)
            stream.flush()
            self.upload(stream.name)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file; FileNotFoundError where there is none, unless `missing_ok`."""
        self._info = None
        try:
            self._request("be removed", lambda fs, path: fs.rm_file(path), writing=True)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def _request(self, action: str, call: Callable[[Any, str], T], *, writing: bool = False) -> T:
        """Return `call(file system, path in it)`, retried; the errors are those of `retries.retry`."""
        fs, path = open_driver(self.url)
        return retry(lambda: call(fs, path), self.url, action, writing=writing)


def _raise_for_missing_bucket(url: str, error: Exception) -> None:
    """Raise DataError where the bucket is missing, not just the file."""
    if re.search(r"specified bucket|NoSuchBucket", str(error.__cause__ or error)):
        raise DataError(url, f"there is no bucket {url.partition('://')[2].partition('/')[0]}") from error
