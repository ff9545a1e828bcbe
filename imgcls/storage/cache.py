"""Keep copies of remote files on this machine: fetched once for all processes, within a limit of bytes.

An entry is a file, or a range of one, in one version (the store's ETag or what it has for one): a file that
changes gets another entry. It lies in the folder `remote` of `IMGCLS_CACHE`, is fetched under a lock into
`NAME.part` and then renamed, so a killed fetch leaves nothing that counts. What was used longest ago is
removed first; what a process has open stays (whoever opens an entry holds a shared lock on it for as long as
the file or its mapping lives).

`data` and `formats` open remote files through `reading.open_read`, which asks here. No torch.

Ours and not fsspec's `filecache`, which has no limit of size, and no lock that keeps two processes from
fetching the same file or from removing one that is in use.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

from imgcls.errors import DataError, RunError, UsageError, reason, tell, verbatim
from imgcls.storage import remote
from imgcls.storage.folders import CACHE_VARIABLE, cache_folder
from imgcls.storage.locks import lock_file
from imgcls.storage.remote import FileInfo, RemotePath

LIMIT_VARIABLE = "IMGCLS_CACHE_GB"
DEFAULT_GB = 100.0
#: entries that share a lock wait for each other: so many that this is rare, so few that they may be left
#: lying
_NUM_LOCKS = 256
#: the bound of the setting `cache_gb`; not a number is not below it
_MAX_GB = 1e6
#: fetches of this size and more are announced on stderr
_ANNOUNCED_BYTES = 64 << 20
#: ends the names of the locks, which hold no byte and are not counted
_LOCK_SUFFIX = ".lock"


def default_gb() -> float:
    """Return the limit where no flag gives one: `IMGCLS_CACHE_GB`, or 100."""
    text = os.environ.get(LIMIT_VARIABLE, "").strip()
    try:
        value = float(text) if text else DEFAULT_GB
    except ValueError:
        value = -1.0
    if not 0 <= value <= _MAX_GB:
        raise UsageError(f"{LIMIT_VARIABLE}={text}: must be a number of gigabytes")
    return value


class _Range(NamedTuple):
    """Bytes begin .. end - 1 of one version of a remote file: what an entry holds."""

    path: RemotePath
    info: FileInfo
    begin: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.begin

    @property
    def name(self) -> str:
        """The name of its entry: the same for the same bytes, readable at its end."""
        key = f"{self.path}\n{self.info.version}\n{self.begin}-{self.end}/{self.info.size}"
        # 64 characters of the name: with hash and suffixes a file system's 255 are never reached
        return f"{hashlib.sha256(key.encode()).hexdigest()[:32]}-{self.path.name[-64:]}"


class Cache:
    """The folder of the copies, and the limit that fetching through this object keeps it to."""

    def __init__(self, limit_gb: float | None = None) -> None:
        """`limit_gb` in units of 10^9 bytes; None: `default_gb`."""
        self.limit_bytes = int((default_gb() if limit_gb is None else limit_gb) * 1e9)
        self.folder = cache_folder("remote")

    def open(self, path: RemotePath, begin: int = 0, end: int | None = None, *, info: FileInfo | None = None,
             announce: bool = True) -> BinaryIO:
        """Open a local copy of bytes begin .. end - 1 of the file (all, if None) for reading.

        A mapping of it may be kept after it is closed. `info` is what the caller already knows of the file.
        FileNotFoundError where there is no such file. What is larger than the limit becomes a file without a
        name, which is gone when it is closed. `announce` large fetches on stderr.
        """
        info = info or path.stat()
        piece = _Range(path, info, begin, info.size if end is None else end)
        entry = self.folder / piece.name
        if piece.size > self.limit_bytes:
            return _open_unnamed(piece)
        for _ in range(3):  # another process may remove it between the fetch and the opening
            with contextlib.suppress(FileNotFoundError):
                return self._open_entry(entry, piece.size)
            self._fetch(piece, entry, announce)
        raise RunError(f"{verbatim(path)}: its copy in {verbatim(self.folder)} vanishes as soon as it is "
                       "there; is the folder shared with a run of a smaller `cache_gb`?")

    def note_path(self, path: RemotePath, info: FileInfo, kind: str) -> Path:
        """Return where to keep notes about this version of the file, such as where its records begin."""
        return self.folder / f"{_Range(path, info, 0, info.size).name}.{kind}"

    def touch(self, entry: Path) -> None:
        """Note that the entry is in use: it is the last to be removed."""
        # Set by hand: most disks are mounted so that reading does not change the time of access.
        with contextlib.suppress(OSError):
            os.utime(entry, ns=(time.time_ns(), entry.stat().st_mtime_ns))

    def _open_entry(self, entry: Path, size: int) -> BinaryIO:
        stream = open(entry, "rb")  # noqa: SIM115 - the caller's
        if os.fstat(stream.fileno()).st_size != size:  # not ours: nothing of a wrong size is ever renamed
            stream.close()
            entry.unlink(missing_ok=True)  # a disk that lost bytes, or somebody's hands
            raise FileNotFoundError(errno.ENOENT, "cut short", str(entry))
        lock_file(stream, shared=True)
        self.touch(entry)
        return stream

    def _fetch(self, piece: _Range, entry: Path, announce: bool) -> None:
        part = entry.with_name(entry.name + ".part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # The hash in its name chooses the lock, the same one in all processes.
            with self._locked(int(entry.name[:8], 16) % _NUM_LOCKS):
                if not entry.exists():  # else another process fetched it while we waited
                    if announce and piece.size >= _ANNOUNCED_BYTES:
                        size = f"{piece.size / 1e6:,.0f} MB"
                        tell(f"fetching {piece.path} ({size}) to {self.folder}")
                    self._fetch_into(part, entry, piece)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and error.filename == str(piece.path):
                raise  # the remote file is missing, not our folder
            part.unlink(missing_ok=True)
            raise _cannot_keep(piece, self.folder, error) from error
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def _fetch_into(self, part: Path, entry: Path, piece: _Range) -> None:
        with self._locked(_NUM_LOCKS):  # one more lock, for the sum of all sizes
            self._make_room(piece.size)
            stream = open(part, "w+b")  # noqa: SIM115 - closed below
            try:
                lock_file(stream, shared=True)
                stream.truncate(piece.size)  # others count it as soon as it is begun
            except BaseException:  # a full disk
                stream.close()
                raise
        with stream:  # open, and so safe from `_make_room` of other processes, until it has its name
            piece.path.download(stream, piece.begin, piece.end)
            stream.flush()
            # One request is of one version. Several may be of two, and nothing else would tell.
            if piece.size > remote.PART_BYTES and piece.path.stat(fresh=True).version != piece.info.version:
                raise DataError(piece.path, "changed while it was fetched")
            os.replace(part, entry)

    def _make_room(self, num_bytes: int) -> None:
        """Remove what was used longest ago and is not open, until `num_bytes` more are within the limit."""
        entries = []
        for file in self.folder.iterdir():
            with contextlib.suppress(OSError):  # another process removed it
                if file.suffix != _LOCK_SUFFIX:
                    status = file.stat()
                    entries.append((status.st_atime_ns, status.st_size, file))
        total = num_bytes + sum(size for _, size, _ in entries)
        for _, size, file in sorted(entries):
            if total <= self.limit_bytes:
                break
            with contextlib.suppress(OSError), open(file, "rb") as stream:
                if lock_file(stream):  # whoever has it open shares a lock on it
                    file.unlink()
                    total -= size

    @contextlib.contextmanager
    def _locked(self, lock_index: int) -> Iterator[None]:
        """Wait for, and hold, one of the locks of the folder."""
        with open(self.folder / f"{lock_index:03d}{_LOCK_SUFFIX}", "wb") as stream:
            lock_file(stream, wait=True)
            yield


def _open_unnamed(piece: _Range) -> BinaryIO:
    """Return a copy in a file that nobody else sees and that is gone when it is closed."""
    try:
        stream: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - the caller's
        piece.path.download(stream, piece.begin, piece.end)
        stream.seek(0)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _cannot_keep(piece, tempfile.gettempdir(), error) from error
    return stream  # type: ignore[return-value]


def _cannot_keep(piece: _Range, folder: object, error: OSError) -> RunError:
    size = f"{piece.size / 1e9:.2f} GB"
    return RunError(f"cannot keep a copy of {verbatim(piece.path)} ({size}) in {verbatim(folder)}: "
                    f"{reason(error)}; "
                    f"`cache_gb` (or {LIMIT_VARIABLE}) says how much may be kept, {CACHE_VARIABLE} where")
