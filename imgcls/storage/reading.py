"""Open files for reading, wherever they are: a remote one through its copy in the cache (`cache.py`)."""

from __future__ import annotations

from typing import BinaryIO

from imgcls.storage.cache import Cache
from imgcls.storage.paths import AnyPath
from imgcls.storage.remote import RemotePath


def open_read(path: AnyPath, *, cache_gb: float | None = None) -> BinaryIO:
    """Open a file for reading; of a remote one its copy in the cache, which is fetched on first use.

    An OSError, as `open` raises it, where there is no such file.
    """
    # A file, even where all of it is read at once: readers map it, seek in it and share it among processes.
    if isinstance(path, RemotePath):
        return Cache(cache_gb).open(path)
    return open(path, "rb")


def read_all(path: AnyPath) -> bytes:
    """Return the content of the file, through the cache where it is remote. OSErrors as `open_read`."""
    if isinstance(path, RemotePath):
        with open_read(path) as stream:
            return stream.read()
    return path.read_bytes()
