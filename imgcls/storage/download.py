"""Download files completely or not at all: mirrors in turn, resumed, checked by hash, renamed into place.

`datasets` and `pretrained` fetch with it. `IMGCLS_MIRROR=http://host/path` is tried before all other mirrors:
it is asked for `http://host/path/<data set>/<file>`. What the files mean does not matter here.

Ours and not `pooch`: it resumes no download, tries no second mirror, takes no beginning of a hash, and does
not let one process wait for another's download.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from imgcls.errors import DataError, RunError, UsageError, tell, verbatim
from imgcls.storage.http import HttpStatusError, open_url, transport_errors
from imgcls.storage.locks import lock_file
from imgcls.storage.paths import to_local_path
from imgcls.storage.transfer import TIMEOUT_S, FileSpec, MirrorError, cannot_write, explain, transfer
from imgcls.storage.urls import url_scheme

MIRROR_VARIABLE = "IMGCLS_MIRROR"
#: largest file of hashes; a longer answer is something else
_MAX_HASHES_BYTES = 1 << 20


def fetch(urls: Sequence[str], target: str | os.PathLike[str], *, sha256: str | None = None,
          md5: str | None = None, max_bytes: int = 1 << 34, collection: str | None = "",
          advice: str = "") -> Path:
    """Make `target` exist: at once if it does, otherwise from the first of `urls` that has the right content.

    When all fail, what arrived of a file whose hash is known stays beside it as `<name>.part`, and the next
    call resumes from there. A second process that wants the same file waits for the first. `collection` names
    the data set that the file belongs to: its folder in `IMGCLS_MIRROR`; None: that mirror is not tried. Of a
    hash its beginning may be given: then only that much is compared. A file of more than `max_bytes` is
    refused.

    RunError with a line for each mirror and `advice`, which tells a person how to do without; DataError where
    `target` is a URL, UsageError for a wrong `IMGCLS_MIRROR`.
    """
    if url_scheme(target):
        reasons = ["no such file, and nothing is downloaded to a URL", *([advice] if advice else [])]
        raise DataError(os.fspath(target), "; ".join(reasons))
    target = to_local_path(target)
    if target.exists():
        return target  # the user's own file, or ours, which was checked before it got its name
    mirrors = [*user_mirror(collection, target.name), *urls]
    spec = FileSpec(target.name, sha256, md5, max_bytes)
    failures: list[str] = []
    with _part_file(target) as part:
        if part is None:
            return target
        # Before the first request: so the user sees what a server that hangs was asked for.
        tell(f"downloading {target.name} to {target.parent}")
        for url in mirrors:
            try:
                transfer(url, part, spec)
            except MirrorError as error:
                failures.append(f"  {url}: {error}")
                continue
            _rename(part, target)
            return target
        # All mirrors failed. What has arrived stays for the next call, which may be tomorrow's.
        if not part.seek(0, os.SEEK_END):
            os.unlink(part.name)  # nothing to resume from
    raise RunError("\n".join([f"cannot download {target.name}:", *failures, *([advice] if advice else [])]))


def user_mirror(collection: str | None, name: str) -> list[str]:
    """Return the URL that `IMGCLS_MIRROR` makes of a file, an empty list where there is no such mirror."""
    # Read at each call: tests and long-lived programs change the environment.
    base = os.environ.get(MIRROR_VARIABLE, "").strip().rstrip("/")
    if not base or collection is None:
        return []
    if not base.lower().startswith(("http://", "https://")):
        raise UsageError(f"{MIRROR_VARIABLE}={verbatim(base)}: must start with http:// or https://")
    return ["/".join(part for part in (base, collection, name) if part)]


def read_url(url: str, max_bytes: int) -> bytes | None:
    """Return the content of a small file; None where the server has none or a larger one.

    RunError where there is no server.
    """
    try:
        with open_url(url, timeout_s=TIMEOUT_S) as answer:
            # One byte more than allowed tells a larger file from one that just fits.
            content = answer.read(max_bytes + 1) if answer.status == 200 else b""
    except HttpStatusError:
        return None
    except transport_errors() as error:
        raise RunError(f"{verbatim(url)}: {explain(error)}") from error
    return content if 0 < len(content) <= max_bytes else None


def published_sha256(url: str) -> str | None:
    """Return the hash that is published beside a file, None where there is none.

    It is looked for in `<url>.sha256` and in the SHA256SUMS of the folder, as sha256sum writes them. RunError
    where there is no server.
    """
    folder, _, name = url.rpartition("/")
    sums = f"{folder}/SHA256SUMS"
    for address in (f"{url}.sha256", sums):
        for line in (read_url(address, _MAX_HASHES_BYTES) or b"").decode("utf-8", "replace").splitlines():
            digest, _, file = line.strip().partition(" ")
            file = file.strip()
            # a .sha256 may hold the digest alone; a star before the name says that it was read as binary
            is_ours = file.lstrip("*").rpartition("/")[2] == name or (not file and address != sums)
            if is_ours and re.fullmatch("[0-9a-fA-F]{64}", digest):
                return digest.lower()
    return None


@contextlib.contextmanager
def _part_file(target: Path) -> Iterator[IO[bytes] | None]:
    """Open `<target>.part` for appending and lock it; None if another process has finished the target."""
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        stream = _open_locked(part, target)
    except OSError as error:
        raise cannot_write(part, error) from error
    with stream or contextlib.nullcontext():
        yield stream


def _open_locked(part: Path, target: Path) -> IO[bytes] | None:
    # The lock is on the part itself, so that a killed process leaves nothing to clean up. The price: after
    # waiting, the file that was opened may have been renamed or removed, and this has to be checked.
    while True:
        stream = open(part, "a+b")  # noqa: SIM115 - closed by _part_file, or below
        if not lock_file(stream):
            tell(f"waiting for another process that downloads {target}")
            lock_file(stream, wait=True)
        is_current = part.exists() and os.path.samestat(os.fstat(stream.fileno()), part.stat())
        if is_current and not target.exists():
            return stream
        # The other process finished (the file we opened is the target now) or gave up and removed it.
        stream.close()
        if target.exists():
            if is_current:
                part.unlink()
            return None


def _rename(part: IO[bytes], target: Path) -> None:
    """Give the finished file its name, once its content is on the disk."""
    try:
        os.fsync(part.fileno())  # else a crash may leave the name without the content
        os.replace(part.name, target)
    except OSError as error:
        raise cannot_write(target, error) from error
