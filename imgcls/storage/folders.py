"""Name the folders of a user's data and of our own cache.

`IMGCLS_CACHE` is the folder of all that is downloaded or kept for later (default: `imgcls` in
`XDG_CACHE_HOME` or in `~/.cache`); each kind of file has a separate folder in it. Used by `datasets`,
`pretrained`, `formats` and the rest of `storage`. Nothing here makes a folder.

Ours and not `platformdirs`: it has no variable like IMGCLS_CACHE, and the rest of it is one line here.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from imgcls.errors import UsageError
from imgcls.storage.paths import AnyPath, to_local_path, to_path
from imgcls.storage.remote import RemotePath

CACHE_VARIABLE = "IMGCLS_CACHE"


def cache_folder(name: str) -> Path:
    """Return the folder for files of the kind `name` in the user's cache; UsageError where none is known."""
    # An empty variable is as good as none, for both: `IMGCLS_CACHE= imgcls-train` is how a shell unsets one.
    if os.environ.get(CACHE_VARIABLE):
        return to_local_path(os.environ[CACHE_VARIABLE], CACHE_VARIABLE) / name
    parent = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    # an error names the variable that helps: in a container the user may have no home folder
    return to_local_path(parent, f"{CACHE_VARIABLE} is not set, and") / "imgcls" / name


def data_folder(data_dir: str, name: str) -> AnyPath:
    """Return the folder of the data set `name`: `data_dir`, which may be a URL, or its folder in the cache.

    A UsageError where `data_dir` is a file.
    """
    if not data_dir:
        return cache_folder(name)
    folder = to_path(data_dir, "`data_dir`")
    if isinstance(folder, RemotePath):
        folder.iterdir()  # one request lists all files in it: the readers look for each of them next
    elif folder.exists() and not folder.is_dir():
        raise UsageError(f"`data_dir` {data_dir}: is a file, not a folder")
    return folder


def remove_oldest(newest: Path, max_bytes: int) -> None:
    """Remove the oldest files beside `newest` that end like it, until they all take `max_bytes` at most."""
    # another process may remove the same ones
    with contextlib.suppress(OSError):
        entries = sorted((p.stat().st_mtime_ns, p.stat().st_size, p)
                         for p in newest.parent.glob(f"*{newest.suffix}"))
        total = sum(size for _, size, _ in entries)
        for _, size, entry in entries:
            if total > max_bytes and entry != newest:
                entry.unlink(missing_ok=True)
                total -= size
