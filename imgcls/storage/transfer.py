"""Fetch a file from one web server: resumed where it broke, its size and hash checked.

`download` calls `transfer` for one mirror after the other. What has arrived stays in the caller's file.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from imgcls.errors import RunError, printable, reason, verbatim
from imgcls.storage.http import HttpStatusError, open_url, transport_errors

if TYPE_CHECKING:
    from http.client import HTTPResponse

#: longest silence of a server, in connecting and between two pieces
TIMEOUT_S = 15.0
#: how often a connection that broke in the middle is taken up again at the same mirror
_RESUMPTIONS = 3
#: what is read, hashed and written at a time
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class FileSpec:
    """What the file must be."""

    name: str
    sha256: str | None  # hexadecimal, or a beginning of it
    md5: str | None  # for files whose publisher gives no better one: it shows damage, not malice
    max_bytes: int  # more is not taken, whatever the server says

    @property
    def has_hash(self) -> bool:
        return bool(self.sha256 or self.md5)


class MirrorError(Exception):
    """This mirror does not have the file; the text says why."""


class _BrokenError(MirrorError):
    """The connection ended in the middle of the file: what came is good and may be continued."""


class _ContentError(MirrorError):
    """All bytes came, and they are not those of the file."""


def transfer(url: str, part: IO[bytes], spec: FileSpec) -> None:
    """Fill `part`, open for appending, until it is the complete, checked file; else raise MirrorError."""
    if not spec.has_hash:
        part.truncate(0)  # without a hash an old piece and a new one may be of different versions
    num_broken = 0
    while True:
        start = part.seek(0, os.SEEK_END)
        try:
            _request(url, part, start, spec)
            return _check_hash(part, spec)
        except _BrokenError:
            num_broken += 1
            # A server that cuts at the same byte each time would be asked for ever.
            has_grown = part.seek(0, os.SEEK_END) > start
            if not spec.has_hash or num_broken > _RESUMPTIONS or not has_grown:
                raise
        except _ContentError:
            part.truncate(0)
            if start == 0:
                raise
            # The piece that we started from may have been the wrong one: once more, from the beginning.


def append(part: IO[bytes], piece: bytes) -> None:
    """Write a piece to the end of the file. A full disk is a RunError: no fault of the mirror."""
    try:
        part.write(piece)
        part.flush()  # what has arrived is to survive a kill
    except OSError as error:
        raise cannot_write(part.name, error) from error


def cannot_write(path: object, error: OSError) -> RunError:
    """Return the error to raise for a file that the system does not let us write."""
    return RunError(f"cannot write {verbatim(path)}: {reason(error)}")


def explain(error: Exception) -> str:
    """Return one line about a request that failed."""
    if isinstance(error, TimeoutError):
        return f"no answer for {TIMEOUT_S:g} seconds"
    return " ".join((str(error) or type(error).__name__).split())


def _request(url: str, part: IO[bytes], start: int, spec: FileSpec) -> None:
    """Append what the server has from byte `start` on, or put all of it in place of what was there."""
    try:
        headers = {"Range": f"bytes={start}-"} if start else {}
        with open_url(url, headers=headers, timeout_s=TIMEOUT_S) as answer:
            _receive(answer, part, start, spec)
    except HttpStatusError as error:
        if error.status == 416 and start:
            return  # the file has no more bytes than we have: the hash decides whether they are right
        raise MirrorError(str(error)) from error
    except transport_errors() as error:
        raise MirrorError(explain(error)) from error


def _receive(answer: HTTPResponse, part: IO[bytes], start: int, spec: FileSpec) -> None:
    """Write the body of an answer to the file, from byte `start` on if that is what the server sends."""
    start = _first_byte(answer, part, start)
    # Without a length, as with a chunked answer, only the hash tells whether all came.
    length = answer.headers.get("Content-Length", "")
    total = start + int(length) if length.isdecimal() else None
    received = start
    with _progress_bar(spec.name, start, total) as bar:
        while True:
            # Before the first byte where the server gives the size, later where it does not or lied.
            if max(received, total or 0) > spec.max_bytes:
                part.truncate(0)
                raise MirrorError(f"larger than the {spec.max_bytes} bytes that the file can have")
            try:
                piece = answer.read1(_PIECE_BYTES)  # what has arrived by now, so that the bar moves
            except transport_errors() as error:
                raise _BrokenError(f"{explain(error)}, after {received} bytes") from error
            if not piece:
                break
            append(part, piece)
            received += len(piece)
            bar.update(len(piece))
    # urllib raises nothing for a body that ends early
    if total is not None and received < total:
        raise _BrokenError(f"the connection ended after {received} of {total} bytes")


def _first_byte(answer: HTTPResponse, part: IO[bytes], start: int) -> int:
    """Return where the body begins in the file; empties the file where the server sends all of it."""
    if answer.status == 206:
        if not answer.headers.get("Content-Range", "").strip().startswith(f"bytes {start}-"):
            raise _ContentError("the server sent another part than the one requested")
        return start
    if answer.status == 200:  # a server that does not support ranges sends the file from its beginning
        part.truncate(0)
        return 0
    raise MirrorError(f"the server answers {answer.status}")


def _check_hash(part: IO[bytes], spec: FileSpec) -> None:
    """Raise _ContentError where the content has another hash. Of a hash its beginning may be given."""
    for algorithm, expected in (("sha256", spec.sha256), ("md5", spec.md5)):
        if not expected:
            continue
        # Where the system runs in FIPS mode, md5 is refused unless it is declared not to be for security.
        digest = hashlib.new(algorithm, usedforsecurity=False)
        part.seek(0)
        beginning = part.read(_PIECE_BYTES)
        piece = beginning
        while piece:
            digest.update(piece)
            piece = part.read(_PIECE_BYTES)
        if not digest.hexdigest().startswith(expected.lower()):
            if beginning.lstrip()[:1] == b"<":  # a login page or an error that calls itself 200
                raise _ContentError("the server sent a web page, not the file")
            raise _ContentError(f"wrong content ({algorithm} {digest.hexdigest()}, not {expected.lower()})")


def _progress_bar(name: str, start: int, total: int | None) -> Any:
    """Return a progress bar on a terminal, something silent elsewhere."""
    from tqdm import tqdm

    return tqdm(desc=printable(name), initial=start, total=total, unit="B", unit_scale=True,
                unit_divisor=1024, disable=None, leave=False)
