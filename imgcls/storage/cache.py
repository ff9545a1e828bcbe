"""Keep copies of remote files on this machine: fetched once for all processes, within a limit of bytes.

An entry is a file, or a range of one, in one version (the store's ETag or what it has for one): a file that
changes gets another entry. It is in the folder `remote` of `IMGCLS_CACHE`, is fetched under a lock into
`NAME.part` and then renamed, so what a killed fetch leaves is never used. What was used longest ago is
removed first; what a process has open stays (a process that opens an entry holds a shared lock on it as long
as the file or a mapping of it exists). A `NAME.partial` with `NAME.blocks` beside it is read while it is
fetched (`partial_copy`): as long as any process has it open, others join in.

`data` and `formats` open remote files through `reading.open_read`, which calls `Cache`. No torch.

Ours and not fsspec's `filecache`, which has no limit of size, and no lock that keeps two processes from
fetching the same file or from removing one that is in use.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

from imgcls.errors import DataError, RunError, UsageError, reason, tell, verbatim
from imgcls.storage import remote
from imgcls.storage.folders import CACHE_VARIABLE, cache_folder
from imgcls.storage.locks import has_locks, lock_file
from imgcls.storage.partial_copy import PartialCopy, num_blocks
from imgcls.storage.remote import FileInfo, RemotePath

LIMIT_VARIABLE = "IMGCLS_CACHE_GB"
DEFAULT_GB = 100.0
#: number of lock files. Entries that share one wait for each other: 256 make that rare, and so few files may
#: stay in the folder
_NUM_LOCKS = 256
#: the largest value of the setting `cache_gb`
_MAX_GB = 1e6
#: fetches of this size and more are announced on stderr
_ANNOUNCED_BYTES = 64 << 20
#: files without a version that this process has fetched, and servers of which it has printed that there are
#: such files
_unversioned: set[str] = set()
#: suffix of the lock files, which are empty and not counted
_LOCK_SUFFIX = ".lock"
#: suffixes of a file that is read while it is fetched, and of the one that says which of its blocks are there
_PARTIAL_SUFFIX, _BLOCKS_SUFFIX = ".partial", ".blocks"


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
        """The name of its entry: the same for the same bytes, ending with the remote file's own name."""
        key = f"{self.path}\n{self.info.version}\n{self.begin}-{self.end}/{self.info.size}"
        # 64 characters of the name: with hash and suffixes that is less than the 255 bytes of a file system
        return f"{hashlib.sha256(key.encode()).hexdigest()[:32]}-{self.path.name[-64:]}"

    @property
    def lock_index(self) -> int:
        """The number of the lock that is held while it is fetched: from the hash, so the same everywhere."""
        return int(self.name[:8], 16) % _NUM_LOCKS


class Cache:
    """The folder of the copies; what is fetched through this object keeps it within the limit."""

    def __init__(self, limit_gb: float | None = None) -> None:
        """`limit_gb` in units of 10^9 bytes; None: `default_gb`."""
        self.limit_bytes = int((default_gb() if limit_gb is None else limit_gb) * 1e9)
        self.folder = cache_folder("remote")

    def open(self, path: RemotePath, begin: int = 0, end: int | None = None, *, info: FileInfo | None = None,
             announce: bool = True) -> BinaryIO:
        """Open a local copy of bytes begin .. end - 1 of the file (all, if None) for reading.

        A mapping of it may be kept after it is closed. `info` is what the caller already knows of the file.
        What is larger than the limit becomes a file without a name, which is gone when it is closed. With
        `announce` a fetch of 64 MiB or more is reported on stderr. FileNotFoundError where there is no such
        file; RunError where the copy cannot be kept, RunError or DataError where it cannot be fetched.
        """
        info = info or path.stat()
        piece = _Range(path, info, begin, info.size if end is None else end)
        entry = self.folder / piece.name
        if piece.size > self.limit_bytes:
            return _open_unnamed(piece)
        for _ in range(3):  # another process may remove it between the fetch and the opening
            with contextlib.suppress(FileNotFoundError):
                stream = self._open_entry(entry, piece.size)
                self._note_unversioned(piece)
                return stream
            self._fetch(piece, entry, announce)
            if not info.version:
                _unversioned.add(path.url)
        raise RunError(f"{verbatim(path)}: its copy in {verbatim(self.folder)} is removed as soon as it is "
                       "written; is the folder shared with a run of a smaller `cache_gb`?")

    def has(self, path: RemotePath) -> bool:
        """Return whether there is a complete copy of the file's present version.

        FileNotFoundError where there is no such file.
        """
        info = path.stat()
        return (self.folder / _Range(path, info, 0, info.size).name).exists()

    def open_partial(self, path: RemotePath) -> PartialCopy | None:
        """Open a copy of the file that is read while it is fetched; nothing is fetched yet.

        None where it is there already, is empty or larger than the limit, or where files cannot be locked:
        then use `open`. Processes of the machine share one copy. FileNotFoundError where there is no such
        file, RunError where there is no space for it.
        """
        info = path.stat()
        piece = _Range(path, info, 0, info.size)
        entry = self.folder / piece.name
        if not 0 < piece.size <= self.limit_bytes or not has_locks():
            return None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._locked(piece.lock_index):
                if entry.exists():
                    return None
                # others who have it open: it continues with what they fetched
                files = _open_shared(entry) or self._begin_partial(entry, piece)
        except OSError as error:
            raise _cannot_keep(piece, self.folder, error) from error
        return self._partial(entry, piece, *files)

    def _partial(self, entry: Path, piece: _Range, stream: BinaryIO, blocks: BinaryIO) -> PartialCopy:
        inode = os.fstat(stream.fileno()).st_ino
        return PartialCopy(piece.path, piece.size, stream, blocks,
                           finish=lambda: self._finish(entry, piece, inode),
                           explain=lambda error: _cannot_keep(piece, self.folder, error))

    def _begin_partial(self, entry: Path, piece: _Range) -> tuple[BinaryIO, BinaryIO]:
        """Return the two files of a new partial copy, in place of those that killed processes left."""
        if piece.size >= _ANNOUNCED_BYTES:
            tell(f"fetching {piece.path} ({piece.size / 1e6:,.0f} MB) to {self.folder} while it is read")
        with self._locked(_NUM_LOCKS):
            self._make_room(piece.size)
            if shutil.disk_usage(self.folder).free < piece.size:  # now and not in the middle of an epoch
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            files = []
            sizes = {_PARTIAL_SUFFIX: piece.size, _BLOCKS_SUFFIX: num_blocks(piece.size)}
            for suffix, size in sizes.items():
                # a new file: a handle that someone has of the old one stays valid
                name = entry.with_name(entry.name + suffix)
                name.unlink(missing_ok=True)
                stream = open(name, "w+b")  # noqa: SIM115 - closed by the copy
                files.append(stream)
                if suffix == _PARTIAL_SUFFIX:
                    lock_file(stream, shared=True)  # it stays as long as someone has it open
                stream.truncate(size)  # all zeros: nothing is there
        return files[0], files[1]

    def _finish(self, entry: Path, piece: _Range, inode: int) -> None:
        """Give a partial copy whose blocks are all there its name, unless another process did."""
        partial = entry.with_name(entry.name + _PARTIAL_SUFFIX)
        try:
            with self._locked(piece.lock_index):
                if entry.exists():
                    return
                # Each block came by a separate request: only this shows that all are of one version.
                now = piece.path.info(fresh=True)
                if now is None or now.version != piece.info.version:
                    raise RunError(f"{verbatim(piece.path)}: changed while it was fetched")
                if partial.stat().st_ino != inode:  # where locks do nothing, another process has its own
                    return
                os.replace(partial, entry)
                entry.with_name(entry.name + _BLOCKS_SUFFIX).unlink(missing_ok=True)
        except OSError as error:  # a folder that was removed meanwhile, too
            raise _cannot_keep(piece, self.folder, error) from error

    def note_path(self, path: RemotePath, info: FileInfo, kind: str) -> Path:
        """Return where to keep notes about this version of the file, such as where its records begin."""
        return self.folder / f"{_Range(path, info, 0, info.size).name}.{kind}"

    def touch(self, entry: Path) -> None:
        """Note that the entry is in use: it is the last to be removed."""
        # Set by hand: most disks are mounted so that reading does not change the time of access.
        with contextlib.suppress(OSError):
            os.utime(entry, ns=(time.time_ns(), entry.stat().st_mtime_ns))

    def _open_entry(self, entry: Path, size: int) -> BinaryIO:
        stream = open(entry, "rb")  # noqa: SIM115 - closed by the caller
        if os.fstat(stream.fileno()).st_size != size:  # no fetch of ours renames a file of a wrong size
            stream.close()
            entry.unlink(missing_ok=True)  # a disk lost bytes, or someone changed the file
            raise FileNotFoundError(errno.ENOENT, "cut short", str(entry))
        lock_file(stream, shared=True)
        self.touch(entry)
        return stream

    def _note_unversioned(self, piece: _Range) -> None:
        """Print, once for each server, that nothing shows whether a copy that was there is still right."""
        scheme, _, rest = piece.path.url.partition("://")
        server = f"{scheme}://{rest.partition('/')[0]}"
        if piece.info.version or piece.path.url in _unversioned or server in _unversioned:
            return
        _unversioned.add(server)
        tell(f"note: {server} sends no version of its files (neither ETag nor Last-Modified): the copy of "
             f"{piece.path.name} in {self.folder} is used, and a change since then is not noticed")

    def _fetch(self, piece: _Range, entry: Path, announce: bool) -> None:
        part = entry.with_name(entry.name + ".part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._locked(piece.lock_index):
                if entry.exists():  # another process fetched it while we waited
                    return None
                if announce and piece.size >= _ANNOUNCED_BYTES:
                    size = f"{piece.size / 1e6:,.0f} MB"
                    tell(f"fetching {piece.path} ({size}) to {self.folder}")
                # What is read while it is fetched is completed, and not fetched a second time.
                files = _open_shared(entry)
                if files is None:
                    return self._fetch_into(part, entry, piece)
            return self._partial(entry, piece, *files).complete()
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
        with stream:  # open until it has its name, so that `_make_room` of other processes leaves it alone
            piece.path.download(stream, piece.begin, piece.end)
            stream.flush()
            # One request is of one version. Several may be of two, and only this check shows it.
            if piece.size > remote.PART_BYTES and piece.path.stat(fresh=True).version != piece.info.version:
                raise DataError(piece.path, "changed while it was fetched")
            os.replace(part, entry)

    def _make_room(self, num_bytes: int) -> None:
        """Remove what was used longest ago and is not open, until `num_bytes` more are within the limit."""
        entries = []
        for file in self.folder.iterdir():
            with contextlib.suppress(OSError):  # another process removed it
                if file.suffix not in (_LOCK_SUFFIX, _BLOCKS_SUFFIX):
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
                    if file.suffix == _PARTIAL_SUFFIX:
                        file.with_suffix(_BLOCKS_SUFFIX).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self, lock_index: int) -> Iterator[None]:
        """Wait for, and hold, one of the locks of the folder."""
        with open(self.folder / f"{lock_index:03d}{_LOCK_SUFFIX}", "wb") as stream:
            lock_file(stream, wait=True)
            yield


def _open_shared(entry: Path) -> tuple[BinaryIO, BinaryIO] | None:
    """Open the two files of a partial copy that some process has open; None where none has."""
    part, blocks = (entry.with_name(entry.name + suffix) for suffix in (_PARTIAL_SUFFIX, _BLOCKS_SUFFIX))
    try:
        stream = open(part, "r+b")  # noqa: SIM115 - closed by the copy
        if lock_file(stream):  # no process has it open: left by a killed one
            stream.close()
            part.unlink()
            blocks.unlink(missing_ok=True)
            return None
        lock_file(stream, shared=True)
        return stream, open(blocks, "r+b")
    except FileNotFoundError:
        return None


def _open_unnamed(piece: _Range) -> BinaryIO:
    """Return a copy in a file that no one else sees and that is gone when it is closed."""
    try:
        stream: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the caller
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
