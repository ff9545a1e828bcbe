"""Lock a file against other processes: one rule for prefixes, caches and downloads.

The lock belongs to the open file and ends with it, however its process dies; a mapping of the file keeps it
too. Callers are `cache`, `download`, `atomic`, `uploads`, and `training.checkpoint` for its prefix. Nothing
here removes a file.

Ours and not `filelock`: its lock of an open file (3.30 and later) is exclusive, and its shared lock is on an
SQLite file, not on the file that is mapped.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import stat
from typing import IO, cast


def open_lock(path: str | os.PathLike[str], *, must_exist: bool = False) -> IO[bytes]:
    """Open a file only to lock it; its content is not changed.

    A missing file is made, unless it `must_exist`. OSError where it is no plain file (a folder, a pipe, a
    symbolic link), and where it may neither be read nor written. Never waits.
    """
    # An existing file, whoever made it, can be locked by everybody who may read it. Without O_NONBLOCK a pipe
    # would wait for its other end; without O_NOFOLLOW a link would lead to a file that is not ours.
    flags = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, os.O_RDWR | (0 if must_exist else os.O_CREAT) | flags, 0o666)
    except PermissionError:
        handle = os.open(path, os.O_RDONLY | flags)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, "it is a symbolic link", os.fspath(path)) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is not a plain file", os.fspath(path))
    return cast(IO[bytes], os.fdopen(handle, "rb", buffering=0))


def lock_file(stream: IO[bytes] | IO[str], *, shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file until it is closed; return False where another process holds it.

    A shared lock keeps out exclusive ones alone. With `wait`, wait until the lock is free. True is also the
    answer where there are no locks (Windows, some network file systems): there only the renaming guards what
    is written.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        return True
    # flock and not lockf: it belongs to the open file. A lockf lock belongs to the process, which loses it as
    # soon as it closes any other handle of the same file.
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(stream, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # ENOLCK or EOPNOTSUPP of a network file system
        return True
    return True


def has_locks() -> bool:
    """Return whether this system can lock files at all."""
    return importlib.util.find_spec("fcntl") is not None


def lock_folder(path: str | os.PathLike[str]) -> int | None:
    """Open a folder and lock it until the handle that is returned is closed.

    None where another process holds it, where `path` is no folder, and where folders cannot be locked.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def is_abandoned(path: str | os.PathLike[str]) -> bool:
    """Return whether a file that its writer keeps locked has no writer any more; False where that is unknown.

    For removing what killed processes left: where there are no locks it returns False, where `lock_file`
    returns True.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        with open_lock(path, must_exist=True) as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # someone holds it, it is gone or no plain file, or there are no locks here
        return False
    return True
