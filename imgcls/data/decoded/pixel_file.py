"""Pixels in a file of a local disk, read and written by position.

Never mapped: with a mapping, a file that is cut short, a full disk or a broken one would end the process with
SIGBUS, where a read or a write returns an error. The system keeps what is read often in memory, one copy for
all processes of the machine.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import threading
import weakref

import numpy as np

from imgcls.errors import printable, reason

#: bytes that are written between two checks of the free space
_LOOK_BYTES = 64 << 20
#: this part of a disk stays free, but no more than so many bytes
_RESERVE_SHARE, _MAX_RESERVE_BYTES = 0.05, 10 * 10**9

_log = logging.getLogger(__name__)


def free_bytes(folder: str | os.PathLike[str]) -> int:
    """Return how much may be written to the disk of `folder`; a twentieth, at most 10 GB, stays free."""
    status = os.statvfs(folder)
    reserve = min(int(status.f_blocks * status.f_frsize * _RESERVE_SHARE), _MAX_RESERVE_BYTES)
    return max(status.f_bavail * status.f_frsize - reserve, 0)


def open_private(path: str | os.PathLike[str], *, must_exist: bool = False) -> int:
    """Return a handle of a file that this user alone has, created unless `must_exist`; else an OSError."""
    # a link could lead to another user's file, and a pipe would wait for its other end
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | (0 if must_exist else os.O_CREAT)
    handle = os.open(path, flags, 0o600)
    status = os.fstat(handle)
    # a second name could be anywhere, and what is written here would be written there
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink > 1:
        os.close(handle)
        raise OSError(errno.EPERM, "it is no plain file of this user alone", os.fspath(path))
    return handle


class PixelFile:
    """An open file of pixels, for many threads at once; closed when no one refers to it any more."""

    def __init__(self, path: str) -> None:
        """Open or create it. OSError where that fails, or where the file is not this user's alone."""
        self.path = path
        #: the error after which nothing more is written, "" before
        self.problem = ""
        self._handle = open_private(path)
        self._looked_bytes = _LOOK_BYTES
        self._buffers = threading.local()
        weakref.finalize(self, os.close, self._handle)

    def lock(self) -> bool:
        """Lock the file against other runs until it is closed; False where one has it, or locking fails."""
        import fcntl

        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # another run may have removed it in between, to make room
            return os.path.samestat(os.stat(self.path), os.fstat(self._handle))
        except OSError:
            return False

    @property
    def num_bytes(self) -> int:
        """How long the file is."""
        return os.fstat(self._handle).st_size

    @property
    def numbers(self) -> tuple[int, int]:
        """Device and inode number, which distinguish it from another file of the same name."""
        status = os.fstat(self._handle)
        return status.st_dev, status.st_ino

    def cut(self, num_bytes: int) -> None:
        """Cut the file to `num_bytes` if it is longer; an error is ignored."""
        with contextlib.suppress(OSError):
            if self.num_bytes > num_bytes:
                os.ftruncate(self._handle, num_bytes)

    def sync(self) -> None:
        """Wait until what was written, by any process, is on the disk. OSError where it cannot be."""
        os.fdatasync(self._handle)

    def write(self, offset: int, pixels: np.ndarray) -> bool:
        """Write C-contiguous uint8 pixels at `offset`; False where there is no room, and from then on."""
        if self.problem:
            return False
        view = pixels.reshape(-1).data
        try:
            self._look(len(view))
            # a disk with room for a part of it writes that part
            done = os.pwrite(self._handle, view, offset)
            while done < len(view):
                done += os.pwrite(self._handle, view[done:], offset + done)
        except OSError as error:
            if not self.problem:  # once, of many threads
                _log.warning("%s: nothing more is kept decoded: %s", printable(self.path), reason(error))
            self.problem = reason(error)
            return False
        return True

    def _look(self, num_bytes: int) -> None:
        """Raise OSError where the disk has no longer so much space: others write to it as well."""
        self._looked_bytes += num_bytes
        if self._looked_bytes >= _LOOK_BYTES:
            self._looked_bytes = 0
            if free_bytes(os.path.dirname(self.path)) < num_bytes:
                raise OSError(errno.ENOSPC, "hardly any space is left")

    def read(self, offset: int, shape: tuple[int, ...]) -> np.ndarray | None:
        """Return uint8 `shape` from `offset`; None where the file ends before that, or the disk fails.

        Valid until this thread reads again.
        """
        num_bytes = int(np.prod(shape))
        # one for each thread, used again: allocating such memory takes longer than filling it
        buffer: np.ndarray | None = getattr(self._buffers, "bytes", None)
        if buffer is None or len(buffer) < num_bytes:
            buffer = self._buffers.bytes = np.empty(num_bytes, np.uint8)
        image = buffer[:num_bytes].reshape(shape)
        return image if self.read_into(image, offset) else None

    def read_into(self, pixels: np.ndarray, offset: int) -> bool:
        """Fill C-contiguous uint8 `pixels` from `offset`; False where they are not all there."""
        view = pixels.reshape(-1).data
        done = 0
        # a read may give less than was requested, and gives nothing at the end of the file
        try:
            while done < len(view):
                count = os.preadv(self._handle, [view[done:]], offset + done)
                if not count:
                    return False
                done += count
        except OSError:
            return False
        return True
