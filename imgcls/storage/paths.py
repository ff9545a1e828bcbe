"""Turn a path or a URL into an object, and open it for reading.

`to_path` takes either. A remote file is read through the cache (`cache.py`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from imgcls.errors import UsageError
from imgcls.storage import remote
from imgcls.storage.remote import RemotePath

#: where something is: on this machine, or behind a URL
AnyPath = Path | RemotePath


def to_path(path: str | os.PathLike[str], flag: str = "") -> AnyPath:
    """`path` as a local Path with `~` expanded, or as a RemotePath; `file://` is local. A URL that nobody can open is
    a UsageError that names `flag`."""
    text = os.fspath(path)
    scheme = remote.scheme(text)
    if not scheme:
        return Path(text).expanduser()
    if scheme in ("file", "local"):
        return Path(unquote(text.partition("://")[2].removeprefix("localhost")))
    remote.check(text, flag)
    return RemotePath(text)


def to_local_path(path: str | os.PathLike[str], flag: str = "path") -> Path:
    """`path` as a local Path with `~` expanded; a URL other than file:// is a UsageError that names the flag."""
    found = to_path(path, flag)
    if isinstance(found, RemotePath):
        raise UsageError(f"{flag} {found}: must be on this machine, not a URL")
    return found


def open_read(path: AnyPath, *, cache_gb: float | None = None) -> BinaryIO:
    """Open the file for reading; of a remote one the copy in the cache, fetched first where there is none. An OSError,
    as `open` raises it, where there is no such file."""
    if isinstance(path, RemotePath):
        from imgcls.storage.cache import Cache

        return Cache(cache_gb).open(path)
    return open(path, "rb")


def read_all(path: AnyPath) -> bytes:
    """The whole file, through the cache where it is remote. OSErrors as `open_read`."""
    if isinstance(path, RemotePath):
        with open_read(path) as stream:
            return stream.read()
    return path.read_bytes()
