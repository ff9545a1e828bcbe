"""Send requests to web servers: `open_url`, and `HttpFileSystem`, which reads files by range.

`drivers` gives the file system to `remote`, `download` uses `open_url`. No request is repeated here.

Ours and not fsspec's `HTTPFileSystem`: it needs aiohttp, which a plain installation has not, takes a server
that refuses for a file that is not there, and cannot read from one without ranges.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from imgcls.storage import connections

if TYPE_CHECKING:
    from http.client import HTTPResponse

#: longest silence of a server, in connecting and between two pieces
READ_TIMEOUT_S = 30
#: bodies are read in pieces of this size, so that what is skipped takes no memory
_SKIP_BYTES = 1 << 20
#: hosts that urllib reads: they answered a range with a redirection or with the whole file
_hosts_of_urllib: set[str] = set()


class HttpStatusError(Exception):
    """A web server answered with an error."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"the server answers {status} {reason}")
        self.status = status
        self.reason = reason


def transport_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that a request may raise: no connection, a broken answer, no URL (ValueError)."""
    from http.client import HTTPException  # behind `except`: imported only when something was raised

    return OSError, HTTPException, ValueError


@contextlib.contextmanager
def open_url(url: str, *, method: str = "GET", headers: Mapping[str, str] | None = None,
             timeout_s: float) -> Iterator[HTTPResponse]:
    """Send a request and yield the answer, whose body may be read until the block ends.

    HttpStatusError where the server refuses, else one of `transport_errors`. No compression is requested:
    ranges and sizes are those of the file.
    """
    import urllib.error  # 40 ms: only for programs that send requests
    import urllib.request

    # Some servers refuse urllib's own name.
    request = urllib.request.Request(url, method=method, headers={
        "User-Agent": "imgcls", "Accept-Encoding": "identity", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            yield answer
    except urllib.error.HTTPError as error:
        error.close()  # the error is the answer, and holds its socket
        raise HttpStatusError(error.code, " ".join(str(error.reason).split())) from error
    except urllib.error.URLError as error:  # only a wrapper: what happened is its reason
        raise error.reason if isinstance(error.reason, OSError) else OSError(str(error.reason)) from None


class HttpFileSystem:
    """Files of a web server, read only, with the methods of an fsspec file system that `RemotePath` calls.

    Ranges are read over connections that stay open (`connections`), where nothing is in the way.
    """

    def info(self, url: str) -> dict[str, Any]:
        """Return size and version of a file, under fsspec's keys; FileNotFoundError where there is none."""
        with self._open(url, "HEAD") as answer:
            # Without a size there are no ranges to ask for; pages made on request have none.
            length = answer.headers.get("Content-Length", "")
            if not length.isdecimal():
                raise ValueError("the server does not report its size")
            return {"size": int(length), "type": "file", "ETag": answer.headers.get("ETag"),
                    "LastModified": answer.headers.get("Last-Modified")}

    def read_into(self, url: str, begin: int, buffer: memoryview) -> int | None:
        """Fill the buffer with the bytes from `begin` on, over a connection that stays open; return how many.

        Fewer where the file or the connection ends before; None where `cat_file` has to be used.
        """
        host = urlsplit(url).netloc
        if host in _hosts_of_urllib or not connections.can_read(url):
            return None
        answer = connections.read_range(url, begin, buffer, timeout_s=READ_TIMEOUT_S)
        if answer.num_bytes is None:
            if answer.status >= 400:
                raise _refusal(url, answer.status, answer.reason)
            # the server has no ranges, or redirects, and would do so for every range
            _hosts_of_urllib.add(host)
        return answer.num_bytes

    def cat_file(self, url: str, start: int, end: int) -> bytes:
        """Return bytes start .. end - 1, fewer where the file or the connection ends before."""
        with self._open(url, "GET", {"Range": f"bytes={start}-{end - 1}"}) as answer:
            if answer.status != 206:  # the server does not support ranges and sends all of it
                for skipped in range(0, start, _SKIP_BYTES):
                    answer.read(min(_SKIP_BYTES, start - skipped))
            return _read_body(answer, end - start)

    def pieces(self, url: str, start: int, end: int) -> Iterator[bytes]:
        """Yield bytes start .. end - 1 in order, by one request for the whole file.

        ConnectionError where the connection ends before.
        """
        with self._open(url, "GET") as answer:
            for skipped in range(0, start, _SKIP_BYTES):
                answer.read(min(_SKIP_BYTES, start - skipped))
            num_left = end - start
            while num_left:
                piece = answer.read(min(_SKIP_BYTES, num_left))
                if not piece:
                    raise ConnectionError(f"the connection ended {num_left} bytes before the end")
                num_left -= len(piece)
                yield piece

    def has_ranges(self, url: str) -> bool:
        """Return whether the server sends a part of a file when it is asked for one."""
        try:
            with self._open(url, "GET", {"Range": "bytes=0-0"}) as answer:
                if answer.status != 206:  # remembered: no other request has to find out
                    _hosts_of_urllib.add(urlsplit(url).netloc)
                return answer.status == 206
        except HttpStatusError as error:
            if error.status == 416:  # an empty file has no first byte: the range was understood
                return True
            raise

    def ls(self, url: str, detail: bool) -> list[str]:
        """Refuse: a web server has files and no folders."""
        raise NotADirectoryError(errno.ENOTDIR, "http has no folders", url)

    def invalidate_cache(self, url: str) -> None:
        """Do nothing: no answer is kept."""

    def put_file(self, *_: object, **__: object) -> None:
        """Refuse: nothing is written to a web server."""
        raise PermissionError("what is behind http can only be read")

    # every way to write begins with one of these
    rm_file = makedirs = put_file

    @contextlib.contextmanager
    def _open(self, url: str, method: str,
              headers: Mapping[str, str] | None = None) -> Iterator[HTTPResponse]:
        try:
            with open_url(url, method=method, headers=headers, timeout_s=READ_TIMEOUT_S) as answer:
                yield answer
        except HttpStatusError as error:
            raise _refusal(url, error.status, error.reason) from None


def _refusal(url: str, status: int, reason: str) -> Exception:
    if status in (404, 410):  # not found, gone: the request itself has not failed
        return FileNotFoundError(errno.ENOENT, "no such file", url)
    return HttpStatusError(status, reason)


def _read_body(answer: HTTPResponse, size: int) -> bytes:
    """Return a body of `size` bytes, fewer where the connection breaks: the caller counts, and asks for the
    rest."""
    # piece by piece: what came before the connection broke is not lost
    pieces: list[bytes] = []
    num_read = 0
    try:
        while num_read < size and (piece := answer.read(min(_SKIP_BYTES, size - num_read))):
            pieces.append(piece)
            num_read += len(piece)
    except transport_errors():
        if not pieces:
            raise
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
