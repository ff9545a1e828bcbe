"""Files from the web, whole or not at all: mirrors in turn, resumed, checked by hash, renamed into place.

`datasets/` fetch with it. `IMGCLS_MIRROR=http://host/path` is tried before all other mirrors: it is asked for
`http://host/path/<data set>/<file>`. `IMGCLS_CACHE` is the folder that downloads go to (default: `imgcls` in
`XDG_CACHE_HOME` or in `~/.cache`). Nothing here knows what the files mean.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from imgcls.errors import DataError, RunError, UsageError, reason
from imgcls.storage.paths import AnyPath, to_local_path, to_path
from imgcls.storage.remote import RemotePath, scheme

if TYPE_CHECKING:
    from http.client import HTTPResponse

MIRROR_VARIABLE = "IMGCLS_MIRROR"
CACHE_VARIABLE = "IMGCLS_CACHE"
#: longest silence of a server, in connecting and between two pieces
TIMEOUT_SECONDS = 15.0
#: how often a connection that broke in the middle is taken up again at the same mirror
_RESUMPTIONS = 3
_PIECE = 1 << 20


def data_place(data_dir: str, name: str) -> AnyPath:
    """The folder of the data set `name`: `data_dir` (the value of --data-dir, may be a URL), or `data_folder`."""
    if not data_dir:
        return data_folder("", name)
    found = to_path(data_dir, "`data_dir`")
    if isinstance(found, RemotePath):
        found.iterdir()  # asked once, this tells of all files in it
        return found
    return data_folder(data_dir, name)


def data_folder(data_dir: str, name: str) -> Path:
    """The local folder of the data set `name`: `data_dir` (the value of --data-dir), or its place in the cache."""
    if data_dir:
        folder = to_local_path(data_dir, "`data_dir`")
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"`data_dir` {data_dir}: is a file, not a folder")
        return folder
    if os.environ.get(CACHE_VARIABLE):
        return to_local_path(os.environ[CACHE_VARIABLE], CACHE_VARIABLE) / name
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "imgcls" / name


def fetch(urls: Sequence[str], target: str | os.PathLike[str], *, sha256: str | None = None,
          md5: str | None = None, max_bytes: int = 1 << 34, collection: str | None = "", advice: str = "") -> Path:
    """Make `target` exist: at once if it does, otherwise from the first of `urls` that has the right content.

    When all fails, what arrived of a file whose hash is known stays beside it as `<name>.part`, and the next
    call goes on from there. A second process that wants the same file waits for the first. `collection` names
    the data set that the file belongs to: its folder in `IMGCLS_MIRROR`; None: that is not asked. The beginning of a
    hash is enough, and checks as much as it is long. Raises RunError with a line for each mirror and `advice`, which
    tells a person how to do without.
    """
    if scheme(target):
        reasons = ["no such file, and nothing is downloaded to a URL", *([advice] if advice else [])]
        raise DataError(os.fspath(target), "; ".join(reasons))
    target = to_local_path(target)
    if target.exists():
        return target
    mirrors = [*own_mirror(collection, target.name), *urls]
    wanted = _Wanted(target.name, sha256, md5, max_bytes)
    failures: list[str] = []
    with _part_file(target) as part:
        if part is None:
            return target
        print(f"downloading {target.name} to {target.parent}", file=sys.stderr)
        for url in mirrors:
            try:
                _download(url, part, wanted)
            except _MirrorError as error:
                failures.append(f"  {url}: {error}")
                continue
            _finish(part, target)
            return target
        if not part.seek(0, os.SEEK_END):
            os.unlink(part.name)  # nothing to go on from
    raise RunError("\n".join([f"cannot download {target.name}:", *failures, *([advice] if advice else [])]))


def peek(url: str, max_bytes: int) -> bytes | None:
    """A small file whole, in memory; None where the server answers that it has none (or a larger one). RunError where
    there is no server."""
    import urllib.error
    import urllib.request
    from http.client import HTTPException

    try:
        request = urllib.request.Request(url, headers={"User-Agent": "imgcls", "Accept-Encoding": "identity"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            content = answer.read(max_bytes + 1) if answer.status == 200 else b""
    except urllib.error.HTTPError as error:
        error.close()
        return None
    except (OSError, HTTPException, ValueError) as error:
        raise RunError(f"{url}: {_reason(error)}") from error
    return content if 0 < len(content) <= max_bytes else None


def published_sha256(url: str) -> str | None:
    """The hash that stands beside a file, in `<url>.sha256` or in the SHA256SUMS of its folder, as sha256sum writes
    them; None where none does. RunError where there is no server."""
    folder, _, name = url.rpartition("/")
    for place in (f"{url}.sha256", f"{folder}/SHA256SUMS"):
        for line in (peek(place, 1 << 20) or b"").decode("utf-8", "replace").splitlines():
            digest, _, of = line.strip().partition(" ")
            alone = place != f"{folder}/SHA256SUMS" and not of.strip()
            if re.fullmatch("[0-9a-fA-F]{64}", digest) and (alone or of.strip().lstrip("*").rpartition("/")[2] == name):
                return digest.lower()
    return None


@dataclass(frozen=True)
class _Wanted:
    """What the file must be."""

    name: str
    sha256: str | None
    md5: str | None
    max_bytes: int

    @property
    def checked(self) -> bool:
        return bool(self.sha256 or self.md5)


class _MirrorError(Exception):
    """This mirror does not have the file; the text says why."""


class _BrokenError(_MirrorError):
    """The connection ended in the middle of the file: what came is good and may be continued."""


class _ContentError(_MirrorError):
    """All bytes came and they are not the wanted ones."""


def own_mirror(collection: str | None, name: str) -> list[str]:
    """The address that `IMGCLS_MIRROR` makes of a file, or nothing where there is no such mirror."""
    base = os.environ.get(MIRROR_VARIABLE, "").strip().rstrip("/")
    if not base or collection is None:
        return []
    if not base.lower().startswith(("http://", "https://")):
        raise UsageError(f"{MIRROR_VARIABLE}={base}: must start with http:// or https://")
    return ["/".join(part for part in (base, collection, name) if part)]


# The partial file


@contextlib.contextmanager
def _part_file(target: Path) -> Iterator[IO[bytes] | None]:
    """`<target>.part`, open for appending and locked; None if another process just finished the target."""
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        stream = _open_locked(part, target)
    except OSError as error:
        raise _cannot_write(part, error) from error
    with stream or contextlib.nullcontext():
        yield stream


def _open_locked(part: Path, target: Path) -> IO[bytes] | None:
    while True:
        stream = open(part, "a+b")  # noqa: SIM115  # closed by _part_file, or below
        _lock(stream, target)
        current = part.exists() and os.path.samestat(os.fstat(stream.fileno()), part.stat())
        if current and not target.exists():
            return stream
        # Whoever held the lock finished (the file we opened is the target now) or gave up and removed it.
        stream.close()
        if target.exists():
            if current:
                part.unlink()
            return None


def _lock(stream: IO[bytes], target: Path) -> None:
    """Wait until no other process has the file; where there are no locks, the hash alone guards it."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for another process that downloads {target}", file=sys.stderr)
        fcntl.flock(stream, fcntl.LOCK_EX)
    except OSError:
        return  # a network file system without locks


def _finish(part: IO[bytes], target: Path) -> None:
    try:
        os.fsync(part.fileno())
        os.replace(part.name, target)
    except OSError as error:
        raise _cannot_write(target, error) from error


def _append(part: IO[bytes], piece: bytes) -> None:
    try:
        part.write(piece)
        part.flush()
    except OSError as error:
        raise _cannot_write(part.name, error) from error


def _cannot_write(path: object, error: OSError) -> RunError:
    return RunError(f"cannot write {path}: {reason(error)}")


# One mirror


def _download(url: str, part: IO[bytes], wanted: _Wanted) -> None:
    """Bring `part` to the whole, checked content, or raise _MirrorError."""
    if not wanted.checked:
        part.truncate(0)  # nothing would tell whether an old piece and a new one belong together
    broken = 0
    while True:
        start = part.seek(0, os.SEEK_END)
        try:
            _transfer(url, part, start, wanted)
            return _check(part, wanted)
        except _BrokenError:
            broken += 1
            if not wanted.checked or broken > _RESUMPTIONS or part.seek(0, os.SEEK_END) == start:
                raise
        except _ContentError:
            part.truncate(0)
            if start == 0:
                raise
            # The piece that we started from may have been the wrong part: once more, from the beginning.


def _transfer(url: str, part: IO[bytes], start: int, wanted: _Wanted) -> None:
    """Append what the server has from byte `start` on, or put all of it in place of what was there."""
    import urllib.error  # 40 ms: only who downloads pays for them
    import urllib.request
    from http.client import HTTPException

    try:
        request = urllib.request.Request(url, headers={"User-Agent": "imgcls", "Accept-Encoding": "identity"})
        if start:
            request.add_header("Range", f"bytes={start}-")
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            _receive(answer, part, start, wanted)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and start:
            return  # there is nothing beyond what we have: the hash decides whether that is all
        raise _MirrorError(f"the server answers {error.code} {_one_line(str(error.reason))}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise _MirrorError(_reason(error)) from error


def _receive(answer: HTTPResponse, part: IO[bytes], start: int, wanted: _Wanted) -> None:
    from http.client import HTTPException

    if answer.status == 206:
        if not answer.headers.get("Content-Range", "").strip().startswith(f"bytes {start}-"):
            raise _ContentError("the server sent another part than the one asked for")
    elif answer.status == 200:
        part.truncate(0)
        start = 0
    else:
        raise _MirrorError(f"the server answers {answer.status}")
    length = answer.headers.get("Content-Length", "")
    total = start + int(length) if length.isdecimal() else None
    received = start
    with _bar(wanted.name, start, total) as bar:
        while True:
            if max(received, total or 0) > wanted.max_bytes:
                part.truncate(0)
                raise _MirrorError(f"larger than the {wanted.max_bytes} bytes that the file can have")
            try:
                piece = answer.read1(_PIECE)
            except (OSError, HTTPException) as error:
                raise _BrokenError(f"{_reason(error)}, after {received} bytes") from error
            if not piece:
                break
            _append(part, piece)
            received += len(piece)
            bar.update(len(piece))
    if total is not None and received < total:
        raise _BrokenError(f"the connection ended after {received} of {total} bytes")


def _check(part: IO[bytes], wanted: _Wanted) -> None:
    for name, expected in (("sha256", wanted.sha256), ("md5", wanted.md5)):
        if not expected:
            continue
        digest = hashlib.new(name, usedforsecurity=False)
        part.seek(0)
        start = part.read(_PIECE)
        piece = start
        while piece:
            digest.update(piece)
            piece = part.read(_PIECE)
        if not digest.hexdigest().startswith(expected.lower()):
            if start.lstrip()[:1] == b"<":
                raise _ContentError("the server sent a web page, not the file")
            raise _ContentError(f"wrong content ({name} {digest.hexdigest()}, not {expected.lower()})")


def _bar(name: str, start: int, total: int | None) -> Any:
    """A progress bar on a terminal, nothing elsewhere."""
    from tqdm import tqdm

    return tqdm(desc=name, initial=start, total=total, unit="B", unit_scale=True, unit_divisor=1024,
                disable=None, leave=False)


def _reason(error: Exception) -> str:
    inner = getattr(error, "reason", None)
    if isinstance(error, TimeoutError) or isinstance(inner, TimeoutError):
        return f"no answer for {TIMEOUT_SECONDS:g} seconds"
    text = str(inner if isinstance(inner, Exception) else error) or type(error).__name__
    return _one_line(text)


def _one_line(text: str) -> str:
    return " ".join(text.split())
