"""Write files atomically: a name is given to a complete file, or not at all.

A reader never sees half a file: bytes go to a temporary name in the same folder, are flushed to the disk and
renamed over the target. A remote file is uploaded whole (`remote.py`). All code that writes a file which must
be complete calls `atomic_write` or `write_bytes`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from imgcls.errors import RunError, UsageError, reason, verbatim
from imgcls.storage.locks import is_abandoned, lock_file, lock_folder
from imgcls.storage.paths import to_local_path, to_path
from imgcls.storage.remote import RemotePath

#: what `atomic_write` calls a file until it is complete: the target's name between these
_TEMPORARY = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.tmp")
#: the same for files that a later run may continue with
UNFINISHED_SUFFIX = ".partial_.tmp"


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], *, is_durable: bool = True,
                 partial: str = "") -> Iterator[IO[bytes]]:
    """Open a binary file that takes the name `path` only when the block ends without an exception.

    With `is_durable` false readers never see half of it either, but the file may be gone after a crash of the
    machine: for what is written again soon. With `partial`, a path in the same folder, what was written
    before an exception gets that name; of a file behind a URL nothing stays.

    Missing folders are made. On any failure the target is untouched and the temporary file is removed; a full
    or read-only disk is a RunError that names the file, a device or a pipe a UsageError. A file behind a URL
    is uploaded as a whole after the block; a failed upload is a RunError.
    """
    target = to_path(path)
    if isinstance(target, RemotePath):
        # On this disk first: a block that fails half-way must not have begun an upload.
        with tempfile.NamedTemporaryFile(prefix="imgcls-") as local:
            yield local
            local.flush()
            target.upload(local.name)
        return
    _refuse_device(target)
    temporary = ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # In the target's folder, as a rename never crosses file systems; hidden from globs.
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        with os.fdopen(handle, "wb") as stream:
            lock_file(stream)  # held while it is open: so `remove_leftovers` sees that it has a writer
            # mkstemp lets only its owner read; the file is to be as `open` would have made it.
            os.fchmod(stream.fileno(), 0o666 & ~_umask())
            yield stream
            stream.flush()
            if is_durable:  # before the rename: else a crash can leave the name with nothing in it
                os.fsync(stream.fileno())
        os.replace(temporary, target)
        if is_durable:
            sync_folder(target.parent)
    except OSError as error:
        _remove(temporary, partial)
        raise RunError(f"cannot write {target}: {reason(error)}") from error
    except BaseException:  # an interruption too: no one else would remove the file
        _remove(temporary, partial)
        raise


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[str]:
    """Make a folder that gets the name `path` only when the block ends without an exception.

    Yield its temporary path. What has the name already may only be an empty folder. On any failure the new
    folder is removed with all that is in it; a full or read-only disk is a RunError.
    """
    target = to_local_path(path)
    temporary = ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # beside its final place: taking the name is one rename, all of it or nothing
        temporary = tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        handle = lock_folder(temporary)  # held while it is written: so `remove_leftovers` leaves it alone
        try:
            yield temporary
            os.chmod(temporary, 0o777 & ~_umask())
            os.rename(temporary, target)
        finally:
            if handle is not None:
                os.close(handle)
    except OSError as error:
        raise RunError(f"cannot write {verbatim(target)}: {reason(error)}") from error
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path: str | os.PathLike[str], *pieces: bytes | memoryview) -> None:
    """Make the pieces, one after the other, the content of `path`, atomically."""
    with atomic_write(path) as stream:
        for piece in pieces:
            stream.write(piece)


def remove_leftovers(folder: Path, names: re.Pattern[str], *, unfinished: bool = True,
                     folders: bool = False) -> None:
    """Remove temporary files that killed processes left of targets in `folder` whose names match `names`.

    With `folders` also what `atomic_folder` left. Files of a process that still writes are kept: it holds a
    lock on them. With `unfinished` false, files that a later run may continue with (`UNFINISHED_SUFFIX`) are
    kept too. Errors of the system are ignored.
    """
    with contextlib.suppress(OSError):  # tidying up is no reason to end anything
        for entry in os.listdir(folder):
            match = _TEMPORARY.fullmatch(entry)
            if not unfinished and entry.endswith(UNFINISHED_SUFFIX):
                continue
            if not match or not names.fullmatch(match[1]):
                continue
            if folders and (handle := lock_folder(folder / entry)) is not None:
                shutil.rmtree(folder / entry, ignore_errors=True)
                os.close(handle)
            elif is_abandoned(folder / entry):
                _remove(str(folder / entry))


def check_writable(prefix: str, setting: str) -> None:
    """Raise now what would be raised at the first save: a folder that cannot be made or written to.

    A URL is not tried: a run writes its first files there before its first step.
    """
    path = to_path(prefix, setting)
    if isinstance(path, RemotePath):
        return
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A check of permissions would not notice a read-only disk; making a file does.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunError(f"{setting} {verbatim(prefix)}: cannot write to the folder {verbatim(folder)}: "
                       f"{reason(error)}") from error


def check_outputs(outputs: Iterable[str | os.PathLike[str]],
                  inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Raise UsageError where an output is one of the inputs, a folder, a device or a pipe. URLs pass."""
    read = {_real_name(path): path for path in inputs if isinstance(to_path(path), Path)}
    for output in outputs:
        path = to_path(output)
        if not isinstance(path, Path):
            continue
        if _real_name(path) in read:
            raise UsageError(f"{verbatim(path)} is read here: it cannot be written as well")
        _refuse_device(path)
        if os.path.isdir(path) and not os.path.islink(path):
            raise UsageError(f"{verbatim(path)} is a folder: it cannot be written as a file")


def _refuse_device(path: Path) -> None:
    # The renamed file would take its place: as root, an output to /dev/null would replace the device.
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise UsageError(f"{verbatim(path)} is a device or a pipe: it cannot be written as a file")


def _real_name(path: str | os.PathLike[str]) -> str:
    # A symbolic link is replaced by the new file, not followed: only the folder that it is in is resolved.
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(folder), name)


def _umask() -> int:
    # The system has no call that only reads the mask.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Flush a folder to the disk, so that a rename in it survives a crash of the machine."""
    # Not every file system allows it; those that refuse lose the new name at worst, never the content.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove(temporary: str, partial: str = "") -> None:
    """Remove a temporary file, or call it `partial` if that is given and it is not empty."""
    if temporary and partial:
        with contextlib.suppress(OSError):
            if os.path.getsize(temporary):
                os.replace(temporary, partial)
                return
    if temporary:
        with contextlib.suppress(OSError):
            os.unlink(temporary)

