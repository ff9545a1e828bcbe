"""Copies of remote files on this machine's disk: fetched once for all processes, never more than a limit of bytes.

An entry is a file, or a range of one, in one version (the store's ETag or what it has for one): a file that changes is
another entry. It lies in the folder `remote` of `IMGCLS_CACHE`, fetched under a lock into `NAME.part` and then renamed,
so a killed fetch leaves nothing that counts. What was used longest ago goes first; what a process has open stays
(whoever opens an entry holds a shared lock on it for as long as the file or its mapping lives).

`data/` and `formats/` open remote files through `storage.open_read`, which asks here. No torch.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

from imgcls.errors import DataError, RunError, UsageError, reason
from imgcls.storage import remote
from imgcls.storage.remote import Info, RemotePath

LIMIT_VARIABLE = "IMGCLS_CACHE_GB"
DEFAULT_GB = 100.0
#: files that share a lock wait for each other: enough locks that this is rare, few enough to leave them lying about
_LOCKS = 256
#: larger ones are told about on stderr
_TOLD_BYTES = 64 << 20
#: a file of the cache that takes no room worth counting
_LOCK_SUFFIX = ".lock"


def default_gb() -> float:
    """The limit where no flag gives one: `IMGCLS_CACHE_GB`, or 100."""
    text = os.environ.get(LIMIT_VARIABLE, "").strip()
    try:
        value = float(text) if text else DEFAULT_GB
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise UsageError(f"{LIMIT_VARIABLE}={text}: must be a number of gigabytes")
    return value


class Cache:
    """The folder, and the limit that fetching through this object keeps it to."""

    def __init__(self, limit_gb: float | None = None) -> None:
        """`limit_gb` in units of 10^9 bytes; None: `default_gb`."""
        from imgcls.storage.download import data_folder

        self.limit_bytes = int((default_gb() if limit_gb is None else limit_gb) * 1e9)
        self.folder = data_folder("", "remote")

    def open(self, path: RemotePath, begin: int = 0, end: int | None = None, *, info: Info | None = None,
             tell: bool = True) -> BinaryIO:
        """A local copy of bytes begin .. end - 1 of the file (all, if None), open for reading; a mapping of it may be
        kept after it is closed. `info` is what the caller knows of the file already.

        FileNotFoundError where there is no such file. What is larger than the limit becomes a file without a name,
        which is gone when it is closed.
        """
        found = info or path.stat()
        end = found.size if end is None else end
        entry = self.folder / self._name(path, found.version, begin, end, found.size)
        if end - begin > self.limit_bytes:
            return self._unnamed(path, begin, end)
        for _ in range(3):  # another process may remove it between the fetch and the opening
            with contextlib.suppress(FileNotFoundError):
                return self._open_entry(entry, end - begin)
            self._fetch(path, found, entry, begin, end, tell)
        raise RunError(f"{path}: its copy in {self.folder} vanishes as soon as it is there; is the folder shared with "
                       "a run of a smaller `cache_gb`?")

    def kept(self, path: RemotePath, found: Info, kind: str) -> Path:
        """Where to keep what was found out about this version of the file."""
        return self.folder / f"{self._name(path, found.version, 0, found.size, found.size)}.{kind}"

    def touch(self, entry: Path) -> None:
        """Note that the entry is in use: it is the last to go."""
        with contextlib.suppress(OSError):
            os.utime(entry, ns=(time.time_ns(), entry.stat().st_mtime_ns))

    @staticmethod
    def _name(path: RemotePath, version: str, begin: int, end: int, size: int) -> str:
        key = hashlib.sha256(f"{path}\n{version}\n{begin}-{end}/{size}".encode()).hexdigest()[:32]
        return f"{key}-{path.name[-64:]}"

    def _open_entry(self, entry: Path, size: int) -> BinaryIO:
        stream = open(entry, "rb")  # noqa: SIM115 - the caller's
        if os.fstat(stream.fileno()).st_size != size:  # not ours: nothing of a wrong size is ever renamed
            stream.close()
            entry.unlink(missing_ok=True)
            raise FileNotFoundError(errno.ENOENT, "cut short", str(entry))
        _lock(stream, shared=True)
        self.touch(entry)
        return stream

    def _fetch(self, path: RemotePath, found: Info, entry: Path, begin: int, end: int, tell: bool) -> None:
        part = entry.with_name(entry.name + ".part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._locked(int(entry.name[:8], 16) % _LOCKS):
                if entry.exists():
                    return
                if tell and end - begin >= _TOLD_BYTES:
                    print(f"fetching {path} ({(end - begin) / 1e6:,.0f} MB) to {self.folder}", file=sys.stderr)
                with self._locked(_LOCKS):
                    self._make_room(end - begin)
                    stream = open(part, "w+b")  # noqa: SIM115 - closed below
                    _lock(stream, shared=True)
                    stream.truncate(end - begin)  # others count it as soon as it is begun
                with stream:
                    path.download(stream, begin, end)
                    stream.flush()
                    several = end - begin > remote.PART_BYTES
                    if several and path.stat(fresh=True).version != found.version:
                        raise DataError(path, "changed while it was fetched")
                    os.replace(part, entry)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and error.filename == str(path):
                raise
            part.unlink(missing_ok=True)
            raise _cannot_keep(path, end - begin, self.folder, error) from error
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def _unnamed(self, path: RemotePath, begin: int, end: int) -> BinaryIO:
        try:
            stream: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - the caller's
            path.download(stream, begin, end)
            stream.seek(0)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _cannot_keep(path, end - begin, tempfile.gettempdir(), error) from error
        return stream  # type: ignore[return-value]

    def _make_room(self, need: int) -> None:
        """Remove what was used longest ago and is not open, until `need` bytes more are within the limit."""
        found = []
        for file in self.folder.iterdir():
            with contextlib.suppress(OSError):
                if file.suffix != _LOCK_SUFFIX:
                    status = file.stat()
                    found.append((status.st_atime_ns, status.st_size, file))
        total = need + sum(size for _, size, _ in found)
        for _, size, file in sorted(found):
            if total <= self.limit_bytes:
                break
            with contextlib.suppress(OSError), open(file, "rb") as stream:
                if _lock(stream, shared=False):
                    file.unlink()
                    total -= size

    @contextlib.contextmanager
    def _locked(self, number: int) -> Iterator[None]:
        with open(self.folder / f"{number:03d}{_LOCK_SUFFIX}", "wb") as stream:
            _lock(stream, shared=False, wait=True)
            yield


def _lock(stream: IO[bytes], *, shared: bool, wait: bool = False) -> bool:
    """Lock an open file, until it and its mappings are closed. False where another has it; where there are no locks
    (a network file system) all is allowed, and only the renaming guards the entries."""
    try:
        import fcntl

        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(stream, kind if wait else kind | fcntl.LOCK_NB)
    except ImportError:
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _cannot_keep(path: RemotePath, size: int, folder: object, error: OSError) -> RunError:
    return RunError(f"cannot keep a copy of {path} ({size / 1e9:.2f} GB) in {folder}: {reason(error)}; `cache_gb` (or "
                    f"{LIMIT_VARIABLE}) says how much may be kept, IMGCLS_CACHE where")
