"""Files behind a URL: s3://, gs://, hdfs://, memory:// and whatever else fsspec has a driver for, and http(s)://.

`RemotePath` has the face of a `pathlib.Path`, as far as the readers of data and checkpoints need it: `storage.place`
gives one or the other. Every request is tried several times with growing pauses where the trouble may pass (a server's
5xx, a reset, a time-out, a body that was cut), and what fails for good is one line that names the URL. A write is whole
or not at all.

fsspec is loaded where a URL is opened and not before. For http(s) there is a small reader of our own, which needs no
driver and has time-outs. Options of a driver can be set by fsspec's own variables (`FSSPEC_S3_ANON=true`).
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import queue
import random
import re
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from imgcls.errors import DataError, RunError, UsageError, nearest

T = TypeVar("T")

#: how often a request is tried, and the longest pause between two tries; the first is half a second
ATTEMPTS = 4
#: how often S3's driver sends one request, at each of those: of a large upload only what failed is sent again
DRIVER_ATTEMPTS = 2
PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 8.0
#: longest silence of a server, in connecting and between two pieces
CONNECT_SECONDS, READ_SECONDS = 5, 30
#: what one request asks for at most, and how many are under way for one file
PART_BYTES, PARTS_AT_ONCE = 16 << 20, 4

#: what pip installs for a scheme whose driver is missing
_DRIVERS = {"s3": ("s3fs", "imgcls[s3]"), "s3a": ("s3fs", "imgcls[s3]"), "gs": ("gcsfs", "gcsfs"),
            "gcs": ("gcsfs", "gcsfs"), "hdfs": ("pyarrow", "pyarrow"), "abfs": ("adlfs", "adlfs"),
            "abfss": ("adlfs", "adlfs"), "az": ("adlfs", "adlfs"), "sftp": ("paramiko", "paramiko"),
            "ssh": ("paramiko", "paramiko"), "oci": ("ocifs", "ocifs"), "hf": ("huggingface_hub", "huggingface_hub")}
#: stores where a written object appears whole or not at all; elsewhere it is written aside and renamed
_WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci"})
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*(?:::[A-Za-z][A-Za-z0-9+.-]*)*)://")
#: what says of a version of a file that it is that one, by the words of the various drivers
_VERSION_WORDS = ("ETag", "etag", "md5Hash", "crc32c", "content_md5", "checksum", "generation", "mtime", "modified",
                  "LastModified", "last_modified", "updated", "created")
#: classes of errors of drivers, by name since drivers may not be there: a connection that broke or was not made
_PASSING = frozenset({"HTTPClientError", "ClientConnectionError", "ClientPayloadError", "ServerDisconnectedError",
                      "ClientOSError", "ResponseStreamingError", "IncompleteReadError", "TimeoutError",
                      "EndpointConnectionError", "ConnectionClosedError", "IncompleteRead", "HTTPException"})
#: S3's words for an upload that was spoilt on its way
_SPOILT = frozenset({"BadDigest", "IncompleteBody", "RequestTimeout", "InternalError", "SlowDown"})
_FINAL_NUMBERS = frozenset({errno.ENOENT, errno.EINVAL, errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTDIR,
                            errno.EISDIR, errno.ENOSPC, errno.EROFS})


def scheme(path: object) -> str:
    """The scheme of a URL, "" for a local path."""
    match = _URL.match(str(path))
    return match[1].lower() if match else ""


def check(url: str, flag: str = "") -> None:
    """UsageError for a URL of a scheme that nobody knows or whose driver is not installed; `flag` is where it is
    from."""
    name, said = scheme(url), f"{flag} {url}".strip()
    if name in ("http", "https"):
        return
    if "::" in name:
        raise UsageError(f"{said}: URLs inside URLs (a::b://) are not taken")
    from fsspec.registry import get_filesystem_class, known_implementations

    if name not in known_implementations:
        close = nearest(name, ["s3", "gs", "hdfs", "http", "https", "file", "abfs", "az", "memory", "sftp"])
        raise UsageError(f"{said}: there is no {name}://" + (f"; did you mean {close[0]}://?" if close else ""))
    try:
        get_filesystem_class(name)
    except ImportError as error:
        driver, package = _DRIVERS.get(name, ("a driver", ""))
        how = f"pip install {package}" if package else " ".join(str(error).split())
        raise UsageError(f"{said}: needs {driver}: {how}") from error


class CutError(OSError):
    """Fewer bytes came than were asked for."""


@dataclass(frozen=True)
class Info:
    """What a store says of a file or folder: `version` is another one after every change."""

    size: int
    version: str
    is_folder: bool

    @property
    def st_size(self) -> int:
        """As os.stat calls it."""
        return self.size


class RemotePath:
    """A URL with the face of a Path. Nothing is asked of the store before a method needs it."""

    __slots__ = ("_known", "_scheme", "url")

    def __init__(self, url: str) -> None:
        root, _, rest = url.partition("://")
        self.url = f"{root}://{rest.rstrip('/')}"
        self._scheme = root.lower()
        self._known: Info | None = None

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"RemotePath({self.url!r})"

    def __fspath__(self) -> str:
        return self.url

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and other.url == self.url

    def __lt__(self, other: RemotePath) -> bool:
        return self.url < other.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __truediv__(self, name: str | os.PathLike[str]) -> RemotePath:
        text = os.fspath(name).replace(os.sep, "/").strip("/")
        return RemotePath(f"{self.url}/{text}" if text else self.url)

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

    def info(self, *, fresh: bool = False) -> Info | None:
        """What is there, None where nothing is. What was there when this object or `iterdir` of its folder was asked
        before is believed, unless it is to be `fresh`."""
        if self._known and not fresh:
            return self._known

        def look(fs: Any, path: str) -> dict[str, Any]:
            if fresh:
                fs.invalidate_cache(path)
            return fs.info(path)

        try:
            found = self._try("be read", look)
        except FileNotFoundError as error:
            _name_missing_bucket(self.url, error)
            return None
        version = next((str(found[word]) for word in _VERSION_WORDS if found.get(word)), "")
        self._known = Info(int(found.get("size") or 0), version, found.get("type") == "directory")
        return self._known

    def stat(self, *, fresh: bool = False) -> Info:
        """`info`, a FileNotFoundError where nothing is there."""
        found = self.info(fresh=fresh)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", self.url)
        return found

    def exists(self) -> bool:
        return self.info() is not None

    def is_file(self) -> bool:
        found = self.info()
        return found is not None and not found.is_folder

    def is_dir(self) -> bool:
        found = self.info()
        return found is not None and found.is_folder

    def iterdir(self) -> list[RemotePath]:
        """What is in the folder now, sorted; nothing where there is no such folder."""
        def listed(fs: Any, path: str) -> list[str]:
            fs.invalidate_cache(path)  # others may have written meanwhile
            return [str(name) for name in fs.ls(path, detail=False)]

        try:
            names = self._try("be listed", listed)
        except (FileNotFoundError, NotADirectoryError) as error:
            _name_missing_bucket(self.url, error)
            return []
        return [self / name for name in sorted({n.rstrip("/").rpartition("/")[2] for n in names}) if name]

    def glob(self, pattern: str) -> list[RemotePath]:
        """Of `iterdir`, the names that fit."""
        return [path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern)]

    def read_range(self, begin: int, end: int) -> bytes:
        """Bytes begin .. end - 1, which must be there."""
        def read(fs: Any, path: str) -> bytes:
            data = fs.cat_file(path, start=begin, end=end)
            if len(data) != end - begin:
                raise CutError(f"{len(data)} of {end - begin} bytes came")
            return data

        return self._try("be read", read) if end > begin else b""

    def read_bytes(self, limit: int | None = None) -> bytes:
        """The whole file. One of more than `limit` bytes is a DataError before memory is taken."""
        size = self.stat(fresh=True).size
        if limit is not None and size > limit:
            raise DataError(self.url, f"has {size} bytes, where {limit} are the most there can be")
        ends = [*range(PART_BYTES, size, PART_BYTES), size]
        return b"".join(self.read_range(begin, end) for begin, end in zip([0, *ends], ends, strict=False))

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def download(self, stream: Any, begin: int, end: int) -> None:
        """Write bytes begin .. end - 1 into the file `stream` (from its start), several parts at a time."""
        lock = threading.Lock()

        def fetch(start: int) -> None:
            data = self.read_range(start, min(start + PART_BYTES, end))
            with lock:
                stream.seek(start - begin)
                stream.write(data)

        starts = list(range(begin, end, PART_BYTES))
        for start in starts[:1] if len(starts) == 1 else ():
            fetch(start)
        if len(starts) > 1:
            with Pool(min(PARTS_AT_ONCE, len(starts)), "imgcls-fetch") as pool:
                for future in [pool.submit(fetch, start) for start in starts]:
                    future.result()

    def upload(self, file: str | os.PathLike[str]) -> None:
        """Make the local `file` the content of this URL: readers see what was there before, or all of it."""
        self._known = None

        def put(fs: Any, path: str) -> None:
            if self._scheme in _WHOLE:
                fs.put_file(os.fspath(file), path)
                return
            folder, aside = path.rpartition("/")[0], f"{path}.{uuid.uuid4().hex[:8]}.tmp"
            if folder:
                fs.makedirs(folder, exist_ok=True)
            try:
                fs.put_file(os.fspath(file), aside)
                if fs.info(aside)["size"] != os.path.getsize(file):
                    raise CutError("what arrived is shorter than what was sent")
                fs.mv(aside, path)
            except BaseException:
                with contextlib.suppress(Exception):
                    fs.rm_file(aside)
                raise

        self._try("be written", put, writing=True)

    def write_bytes(self, data: bytes) -> None:
        """`upload` of bytes."""
        with tempfile.NamedTemporaryFile(prefix="imgcls-") as stream:
            stream.write(data)
            stream.flush()
            self.upload(stream.name)

    def unlink(self, missing_ok: bool = False) -> None:
        self._known = None
        try:
            self._try("be removed", lambda fs, path: fs.rm_file(path), writing=True)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def _try(self, what: str, call: Callable[[Any, str], T], *, writing: bool = False) -> T:
        """`call(driver, path)`, again and again where the trouble may pass. FileNotFoundError and NotADirectoryError
        come through; else what the store refuses is a DataError, and all other trouble, or when writing, a RunError."""
        fs, path = _driver(self.url)
        for attempt in range(ATTEMPTS):
            try:
                return call(fs, path)
            except FileNotFoundError as error:
                raise FileNotFoundError(errno.ENOENT, "no such file", self.url) from error
            except NotADirectoryError:
                raise
            except Exception as error:
                times = "" if _is_final(error) else f" ({attempt + 1} times tried)"
                if _is_final(error) or attempt + 1 == ATTEMPTS:
                    reason = f"cannot {what}: {_reason(error)}{times}"
                    if writing or times:  # not the fault of what is there: no damaged sample to be left out
                        raise RunError(f"{self.url}: {reason}") from error
                    raise DataError(self.url, reason) from error
            time.sleep(min(PAUSE_SECONDS * 2 ** attempt, LONGEST_PAUSE_SECONDS) * random.uniform(0.5, 1.0))
        raise AssertionError("not reached")


class Pool:
    """A few threads that do what is submitted, in order, and that nobody has to wait for at the end of the program.

    As a context it drops at the end what was not begun, and waits for what was.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[..., T], *arguments: Any, **named: Any) -> Future[T]:
        """The Future of `function(*arguments, **named)`."""
        future: Future[T] = Future()
        self._jobs.put((future, lambda: function(*arguments, **named)))
        return future

    def close(self, wait: bool = True) -> None:
        """Begin nothing more; `wait` for what is under way."""
        with contextlib.suppress(queue.Empty):
            while True:
                job = self._jobs.get_nowait()
                if job:
                    job[0].cancel()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, function = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)


def _driver(url: str) -> tuple[Any, str]:
    """(file system, path in it). The file system is made once a process and set of options, by fsspec."""
    name = scheme(url)
    if name in ("http", "https"):
        return _Http(), url
    check(url)
    from fsspec.config import conf
    from fsspec.core import url_to_fs

    options: dict[str, Any] = {}
    if name in ("s3", "s3a"):
        own = conf.get("s3", {}).get("config_kwargs", {})  # the user's, by FSSPEC_S3
        options["config_kwargs"] = {
            "connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS, "max_pool_connections": 32,
            "retries": {"total_max_attempts": DRIVER_ATTEMPTS, "mode": "standard"}, **own}
    try:
        fs, path = url_to_fs(url, **options)
    except Exception as error:
        raise DataError(url, f"cannot be opened: {_reason(error)}") from error
    if name in ("s3", "s3a"):
        fs.retries = 1  # ours are enough: each of its own would wait for the time-outs once more
    return fs, path


class _Http:
    """http(s) as a file system that can be read: what `RemotePath` asks of fsspec's, with urllib and time-outs."""

    def info(self, url: str) -> dict[str, Any]:
        with self._open(url, "HEAD") as answer:
            length = answer.headers.get("Content-Length", "")
            if not length.isdecimal():
                raise ValueError("the server does not tell its size")
            return {"size": int(length), "type": "file", "ETag": answer.headers.get("ETag"),
                    "LastModified": answer.headers.get("Last-Modified")}

    def cat_file(self, url: str, start: int, end: int) -> bytes:
        with self._open(url, "GET", {"Range": f"bytes={start}-{end - 1}"}) as answer:
            if answer.status != 206:
                for skipped in range(0, start, 1 << 20):  # the server knows no ranges
                    answer.read(min(1 << 20, start - skipped))
            return answer.read(end - start)

    def ls(self, url: str, detail: bool) -> list[str]:
        raise NotADirectoryError(errno.ENOTDIR, "http has no folders", url)

    def invalidate_cache(self, url: str) -> None:
        """Nothing is kept."""

    def put_file(self, *_: object, **__: object) -> None:
        raise PermissionError("what is behind http can only be read")

    rm_file = makedirs = put_file

    @contextlib.contextmanager
    def _open(self, url: str, method: str, headers: dict[str, str] | None = None) -> Iterator[Any]:
        import urllib.error
        import urllib.request

        request = urllib.request.Request(url, method=method, headers={
            "User-Agent": "imgcls", "Accept-Encoding": "identity", **(headers or {})})
        try:
            with urllib.request.urlopen(request, timeout=READ_SECONDS) as answer:
                yield answer
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (404, 410):
                raise FileNotFoundError(errno.ENOENT, "no such file", url) from None
            raise _HttpStatusError(error.code, f"the server answers {error.code} {error.reason}") from None
        except urllib.error.URLError as error:
            raise error.reason if isinstance(error.reason, OSError) else OSError(str(error.reason)) from None


class _HttpStatusError(Exception):
    """An answer of a web server that is none."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def _is_final(error: Exception) -> bool:
    """Whether there is no use in trying again."""
    cause = getattr(error.__cause__, "response", None) or {}
    if isinstance(cause, dict) and str(cause.get("Error", {}).get("Code")) in _SPOILT:
        return False
    code = getattr(error, "code", None) or getattr(error, "status", None)
    if isinstance(code, int):
        return code < 500 and code not in (408, 425, 429)
    if isinstance(error, (PermissionError, FileExistsError, IsADirectoryError)):
        return True
    if isinstance(error, (TimeoutError, ConnectionError, CutError, EOFError)):
        return False
    if isinstance(error, OSError):
        return error.errno in _FINAL_NUMBERS
    return not any(base.__name__ in _PASSING for base in type(error).__mro__)


def _reason(error: BaseException) -> str:
    """One line of what a driver says, with what to do where that is known."""
    kind = type(error).__name__
    text = " ".join((getattr(error, "strerror", None) or str(error) or kind).split())[:200]
    text = text[:1].lower() + text[1:] if not text[:2].isupper() else text
    if kind in ("NoCredentialsError", "PartialCredentialsError"):
        return (f"{text}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or FSSPEC_S3_ANON=true for "
                "public data")
    if isinstance(error, PermissionError):
        return f"access denied ({text})"
    if isinstance(error, TimeoutError) or "Timeout" in kind:
        return f"no answer in time ({text})"
    return text.rstrip(".") if isinstance(error, (OSError, _HttpStatusError)) else f"{text} ({kind})"


def _name_missing_bucket(url: str, error: Exception) -> None:
    """A bucket that is not there is more than a missing file: say so."""
    if re.search(r"specified bucket|NoSuchBucket", str(error.__cause__ or error)):
        raise DataError(url, f"there is no bucket {url.partition('://')[2].partition('/')[0]}") from error
