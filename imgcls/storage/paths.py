"""Turn what a user wrote, a path or a URL, into an object that can be opened.

All code that takes a path from a setting calls `to_path`. Nothing here reads a disk or sends a request.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote

from imgcls.errors import UsageError, verbatim
from imgcls.storage.drivers import check_url
from imgcls.storage.remote import RemotePath
from imgcls.storage.urls import url_scheme

#: where something is: on this machine, or behind a URL
AnyPath = Path | RemotePath


def to_path(path: str | os.PathLike[str], setting: str = "") -> AnyPath:
    """Return `path` as a local Path with `~` expanded, or as a RemotePath; `file://` is local.

    A URL that cannot be opened (an unknown scheme, a driver that is not installed), a zero byte and `~` where
    there is no home folder are a UsageError that names `setting`.
    """
    text = os.fspath(path)
    if "\0" in text:  # a configuration file can hold one, and no call of the system takes it
        raise UsageError(f"{setting} {verbatim(text)}: a path holds no zero byte".strip())
    scheme = url_scheme(text)
    if not scheme:
        return _expanded(text, setting)
    if scheme in ("file", "local"):  # fsspec has both words for it
        # A URL writes a space as %20, and may name this machine before the path.
        rest = text.partition("://")[2]
        return Path(unquote(rest.removeprefix("localhost") if rest.startswith("localhost/") else rest))
    check_url(text, setting)
    return RemotePath(text)


def _expanded(text: str, setting: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~name of no one, or ~ without a home folder: a folder called ~ is not meant
        user = text.partition("/")[0]
        message = f"{setting} {verbatim(text)}: there is no home folder {verbatim(user)}"
        raise UsageError(message.strip()) from None


def to_local_path(path: str | os.PathLike[str], setting: str = "path") -> Path:
    """Return `path` as a local Path with `~` expanded; a URL other than file:// is a UsageError."""
    local = to_path(path, setting)
    if isinstance(local, RemotePath):
        raise UsageError(f"{setting} {verbatim(local)}: must be on this machine, not a URL")
    return local
