"""Open files for reading, wherever they are: a remote one through its copy in the cache (`cache.py`).

Only regular files are opened: an endless device or a pipe without a writer, under the name of an image or a
list, is an OSError that says so and never blocks the program.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

from imgcls.storage.cache import Cache
from imgcls.storage.paths import AnyPath
from imgcls.storage.remote import RemotePath

# O_NONBLOCK: to open a pipe for reading would wait for a writer. For a file it makes no difference.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_CLOEXEC", 0)
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device",
          stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}


def open_read(path: AnyPath, *, cache_gb: float | None = None) -> BinaryIO:
    """Open a file for reading; of a remote one its copy in the cache, which is fetched on first use.

    An OSError, as `open` raises it, where there is no such file, or where it is a device or a pipe; of a
    remote file the errors of `Cache.open`.
    """
    # A copy on the disk, even where all of it is read at once: readers seek in it and processes share it.
    if isinstance(path, RemotePath):
        return Cache(cache_gb).open(path)
    return open(path, "rb", opener=open_regular)


def read_all(path: AnyPath) -> bytes:
    """Return the content of the file, through the cache where it is remote. OSErrors as `open_read`."""
    with open_read(path) as stream:
        return stream.read()


def version_of(path: AnyPath) -> str:
    """Return a text that changes with the file: its size and time of change, or the version in its store.

    OSError where there is no such file.
    """
    if isinstance(path, RemotePath):
        return path.stat().version
    status = os.stat(path)
    return f"{status.st_size} {status.st_mtime_ns}"


def open_regular(path: str, flags: int = _FLAGS) -> int:
    """Return a descriptor of a regular file; an OSError for anything else. For `open` as its `opener`."""
    handle = os.open(path, flags | _FLAGS)
    kind = stat.S_IFMT(os.fstat(handle).st_mode)
    if kind != stat.S_IFREG:
        os.close(handle)
        raise OSError(errno.EINVAL, f"is {_KINDS.get(kind, 'of an unknown kind')} and no file", path)
    return handle


def read_bounded(path: str | os.PathLike[str], max_bytes: int, *, takes_pipes: bool = False) -> bytes:
    """Return the content of a local file of at most `max_bytes`; an OSError for a larger one.

    With `takes_pipes` that of a pipe as well, until its writer closes it: `... | command /dev/stdin`.
    """
    handle = os.open(path, _FLAGS)
    try:
        status = os.fstat(handle)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFIFO and takes_pipes:
            os.set_blocking(handle, True)
        elif kind != stat.S_IFREG:
            raise OSError(errno.EINVAL, f"is {_KINDS.get(kind, 'of an unknown kind')} and no file", str(path))
        # A byte more than its size, to see whether there is more: it may have grown, or report no size.
        size = min(status.st_size, max_bytes)
        pieces = [os.read(handle, size + 1)]
        num_read = len(pieces[0])
        while num_read != size and pieces[-1] and num_read <= max_bytes:
            pieces.append(os.read(handle, 1 << 20))
            num_read += len(pieces[-1])
    finally:
        os.close(handle)
    if num_read > max_bytes or status.st_size > max_bytes:
        raise OSError(errno.EFBIG, f"has {max(num_read, status.st_size)} bytes, more than the {max_bytes} "
                                   "that are read", str(path))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
