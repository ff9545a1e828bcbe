"""The files that a run writes under its prefix: at once where that is local, in the background where it is a URL.

For a URL what is written goes into a local folder first; `send` hands all of it to a thread that uploads it, file by
file in the order of writing. One such batch is under way at a time: the next `send` waits for it, and raises what went
wrong with it. `checkpoint` and `reporter` write through this. No torch.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from imgcls.errors import RunError, reason
from imgcls.storage.atomic import write_bytes
from imgcls.storage.download import data_folder
from imgcls.storage.paths import AnyPath, to_path
from imgcls.storage.remote import Pool, RemotePath

#: no upload takes longer
_OLD_SECONDS = 7 * 24 * 3600


class Outbox:
    """Writes and removes files of one prefix, in order."""

    def __init__(self, prefix: str) -> None:
        """`prefix` is a local path or a URL that `to_path` took."""
        self.remote = isinstance(to_path(prefix), RemotePath)
        self._waiting: list[Callable[[], None]] = []
        self._names = itertools.count()
        self._under_way: Future[None] | None = None
        self._folder: Path | None = None
        self._pool: Pool | None = None

    def write(self, path: str, *pieces: bytes | memoryview) -> None:
        """Give `path` this content, whole or not at all. A remote one with the next `send`."""
        if not self.remote:
            write_bytes(path, *pieces)
            return
        file = self._aside(f"{next(self._names)}-{path.rpartition('/')[2]}")
        write_bytes(file, *pieces)
        self._waiting.append(lambda: _put(file, path))

    def remove(self, path: str) -> None:
        """Remove `path` if it is there."""
        target = to_path(path)
        if isinstance(target, RemotePath):
            self._waiting.append(lambda: _forget(target))
        else:
            target.unlink(missing_ok=True)

    def then(self, check: Callable[[], None]) -> None:
        """With the next `send`, at this place in the order, call `check`: what it raises ends the sending."""
        self._waiting.append(check)

    def send(self, *, wait: bool = False) -> None:
        """Upload what was written since the last time; waits for what is still under way from then, and with `wait`
        for this as well. Raises what went wrong, a RunError."""
        self.wait()
        if not self._waiting:
            return
        jobs, self._waiting = self._waiting, []
        self._pool = self._pool or Pool(1, "imgcls-upload")
        self._under_way = self._pool.submit(_do, jobs)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until everything sent has arrived; raises what went wrong with it."""
        future, self._under_way = self._under_way, None
        if future is not None:
            future.result()

    def close(self, wait: bool = True) -> None:
        """Send what is left and wait for it; without `wait` leave it, and what is under way, undone."""
        try:
            if wait:
                self.send(wait=True)
        finally:
            if self._pool is not None:
                self._pool.close(wait)
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)

    def _aside(self, name: str) -> Path:
        if self._folder is None:
            self._folder = _new_folder()
        return self._folder / name


class Twin:
    """A file that is written to line by line; behind a URL by way of a local one, which `push` copies there."""

    def __init__(self, place: AnyPath) -> None:
        self.place = place
        self._folder = _new_folder() if isinstance(place, RemotePath) else None
        self.path = self._folder / place.name if self._folder else Path(place)
        self._pushed = 0

    def push(self) -> str:
        """Copy what has come since; "" or what went wrong."""
        if isinstance(self.place, RemotePath) and self.path.exists():
            size = os.path.getsize(self.path)
            if size != self._pushed:
                try:
                    self.place.upload(self.path)
                except RunError as error:
                    return str(error)
                self._pushed = size
        return ""

    def close(self) -> str:
        """`push`, and take the local file away."""
        problem = self.push()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
        return problem


def _new_folder() -> Path:
    """A folder of this process in the cache. What runs that were killed left there long ago goes."""
    place = data_folder("", "upload")
    try:
        place.mkdir(parents=True, exist_ok=True)
        for old in place.iterdir():
            if time.time() - old.stat().st_mtime > _OLD_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
        return Path(tempfile.mkdtemp(dir=place))
    except OSError as error:
        raise RunError(f"cannot keep files to upload in {place}: {reason(error)}; "
                       "IMGCLS_CACHE names another folder") from error


def _forget(target: RemotePath) -> None:
    """Remove what is no longer needed; who may write but not remove keeps it."""
    with contextlib.suppress(RunError):
        target.unlink(missing_ok=True)


def _do(jobs: list[Callable[[], None]]) -> None:
    for job in jobs:
        job()


def _put(file: Path, path: str) -> None:
    target = to_path(path)
    assert isinstance(target, RemotePath)
    target.upload(file)
    with contextlib.suppress(OSError):
        file.unlink()
