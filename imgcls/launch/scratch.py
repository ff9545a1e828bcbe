"""An agent's folder for the files of its workers, and the folders that killed agents have left.

The agent holds a lock in its folder as long as it runs, so that a later one can tell an abandoned folder from
one in use.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "imgcls-agent-"
_LOCK = "lock"


@contextlib.contextmanager
def locked_folder() -> Iterator[str]:
    """Yield a new folder that only this user can enter, and remove it."""
    folder = tempfile.mkdtemp(prefix=PREFIX)
    # under another name until it is locked: another agent would take the unlocked one for abandoned
    stream = os.open(os.path.join(folder, "new"), os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        if _lock(stream):
            os.rename(os.path.join(folder, "new"), os.path.join(folder, _LOCK))
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(stream)


def remove_abandoned() -> None:
    """Remove the folders that killed agents of this user have left."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        # another agent may be removing it, too; and a symbolic link is none of ours
        with contextlib.suppress(OSError):
            status = folder.lstat()
            if folder.is_symlink() or status.st_uid != os.getuid() or not (folder / _LOCK).is_file():
                continue
            stream = os.open(folder / _LOCK, os.O_WRONLY | os.O_NOFOLLOW)
            try:
                if _lock(stream):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(stream)


def _lock(stream: int) -> bool:
    """Return whether the file is locked now, by this process, with which the lock ends.

    Unlike `storage.locks`, which works without where a file system has no locks: here a folder in use would
    be removed.
    """
    import fcntl  # not on Windows, where agents do not run

    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
