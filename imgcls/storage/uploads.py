"""Write the files of a run's prefix: at once where that is local, in the background where it is a URL.

For a URL, what is written goes into a local folder first; `flush` gives all of it to a thread that uploads
it, file by file in the order of writing. One such group of files is under way at a time: the next `flush`
waits for it, and raises what went wrong with it. `training.checkpoint` and `training.reporter` write through
this. No torch.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future
from pathlib import Path

from imgcls.errors import RunError, reason, verbatim
from imgcls.storage.atomic import write_bytes
from imgcls.storage.folders import CACHE_VARIABLE, cache_folder
from imgcls.storage.locks import is_abandoned, lock_file, open_lock
from imgcls.storage.paths import AnyPath, to_path
from imgcls.storage.remote import RemotePath
from imgcls.storage.thread_pool import DaemonPool

#: in each folder: locked by the run that it belongs to
_LOCK = ".lock"
#: no run writes so seldom: what is older was left there, by another machine or where there are no locks
_ABANDONED_AFTER_S = 7 * 24 * 3600


class UploadQueue:
    """Writes and removes the files of one prefix, in the order of the calls."""

    def __init__(self, prefix: str) -> None:
        """`prefix` is a local path, or a URL that `to_path` accepts."""
        self.is_remote = isinstance(to_path(prefix), RemotePath)
        self._jobs: list[Callable[[], None]] = []  # for the next flush
        self._under_way: Future[None] | None = None  # the last flush
        # The others are made when the first remote file is written: most runs are local.
        self._numbers = itertools.count()
        self._folder: _Folder | None = None
        self._pool: DaemonPool | None = None

    def write(self, path: str, *pieces: bytes | memoryview) -> None:
        """Write the pieces to `path` atomically; a remote file is uploaded by the next `flush`."""
        if not self.is_remote:
            write_bytes(path, *pieces)
            return
        # On the disk, not in memory: a checkpoint is as large as the network, and training continues.
        file = self._local_file(path.rpartition("/")[2])
        write_bytes(file, *pieces)
        self._jobs.append(lambda: _upload(file, path))

    def remove(self, path: str) -> None:
        """Remove `path` if it is there; a remote file is removed by the next `flush`."""
        target = to_path(path)
        if isinstance(target, RemotePath):
            self._jobs.append(lambda: _remove(target))
        else:
            target.unlink(missing_ok=True)

    def add_check(self, check: Callable[[], None]) -> None:
        """Call `check` in the next `flush`, after what was written so far; an error of it ends the upload."""
        self._jobs.append(check)

    def flush(self, *, wait: bool = False) -> None:
        """Begin to upload what was written since the last call; with `wait`, return when all has arrived.

        Waits in any case for what is still under way from the last call. Raises what went wrong, a RunError.
        """
        self.wait()  # one group at a time: a slow network slows the run down, it does not fill the disk
        if not self._jobs:
            return
        jobs = self._jobs
        self._jobs = []
        self._pool = self._pool or DaemonPool(1, "imgcls-upload")
        # As one job: nothing after a failure may be done, since the last file says that a checkpoint is
        # complete.
        self._under_way = self._pool.submit(_run, jobs)
        if wait:
            self.wait()

    def is_busy(self, within_s: float) -> bool:
        """Wait up to `within_s` seconds for what was flushed; return whether it is still under way."""
        return self._under_way is not None and bool(futures.wait([self._under_way], within_s).not_done)

    def wait(self) -> None:
        """Wait until all that was flushed has arrived; raise what went wrong with it."""
        future = self._under_way
        self._under_way = None  # what went wrong is raised once
        if future is not None:
            future.result()

    def close(self, wait: bool = True) -> None:
        """Upload what is left and wait for it; with `wait` false drop it, and wait for nothing under way."""
        try:
            if wait:
                self.flush(wait=True)
        finally:
            if self._pool is not None:
                self._pool.close(wait)
            if self._folder is not None:
                self._folder.remove()

    def _local_file(self, name: str) -> Path:
        """Return a new name in this run's folder; the number tells versions of the same file apart."""
        if self._folder is None:
            self._folder = _Folder()
        return self._folder.path / f"{next(self._numbers)}-{name}"


class MirroredFile:
    """A file that is written line by line; for a URL a local file is written, which `sync` copies there."""

    def __init__(self, target: AnyPath) -> None:
        """`target` is where the file is to be in the end; the caller writes to the attribute `path`."""
        self.target = target
        self._folder = _Folder() if isinstance(target, RemotePath) else None
        self.path = self._folder.path / target.name if self._folder else Path(target)
        self._synced_bytes = 0

    def sync(self) -> str:
        """Copy the file if it has grown; return what went wrong, or ""."""
        if isinstance(self.target, RemotePath) and self.path.exists():
            # Stores cannot append: all of it is sent again, but only when there is something new.
            size = os.path.getsize(self.path)
            if size != self._synced_bytes:
                try:
                    self.target.upload(self.path)
                except RunError as error:
                    return str(error)  # a log that cannot be copied is no reason to end a run
                self._synced_bytes = size
        return ""

    def close(self) -> str:
        """Copy the file a last time and remove the local one; return what went wrong, or ""."""
        problem = self.sync()
        if self._folder:
            self._folder.remove()
        return problem


class _Folder:
    """A folder of this process in the cache, locked until `remove`."""

    def __init__(self) -> None:
        """Make the folder, and remove those that killed runs left; RunError where it cannot be made."""
        folder = cache_folder("upload")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # another machine's locks may not be seen here: each removes its own
            own = f"{_host_name()}-"
            for old in folder.iterdir():
                with contextlib.suppress(OSError):  # its process may rename or remove it meanwhile
                    is_old = time.time() - _last_change_s(old) > _ABANDONED_AFTER_S
                    if is_old or (old.name.startswith(own) and is_abandoned(old / _LOCK)):
                        shutil.rmtree(old, ignore_errors=True)
            # under a name of its own until it is locked
            made = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
            self._lock = open_lock(made / _LOCK)
            lock_file(self._lock)
            self.path = made.rename(folder / f"{own}{made.name.removeprefix('.new-')}")
        except OSError as error:
            raise RunError(f"cannot keep files to upload in {verbatim(folder)}: {reason(error)}; "
                           f"{CACHE_VARIABLE} names another folder") from error

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _last_change_s(folder: Path) -> float:
    """Return when a folder or a file in it was last written, in seconds since 1970."""
    # a log that grows for weeks does not change the time of its folder
    return max(path.stat().st_mtime for path in (folder, *folder.glob("*")))


def _host_name() -> str:
    """Return the name of this machine as a file name can have it."""
    return re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname())[:64]


def _run(jobs: list[Callable[[], None]]) -> None:
    for job in jobs:
        job()


def _upload(file: Path, path: str) -> None:
    target = to_path(path)
    assert isinstance(target, RemotePath)
    target.upload(file)
    with contextlib.suppress(OSError):
        file.unlink()  # at once: several epochs need not stay on the disk


def _remove(target: RemotePath) -> None:
    # Only what is no longer needed is removed: where writing is allowed and removing is not, it stays.
    with contextlib.suppress(RunError):
        target.unlink(missing_ok=True)
