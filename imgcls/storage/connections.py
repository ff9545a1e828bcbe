"""Read ranges of files from web servers, over connections that stay open, into the memory of the caller.

`direct` reads S3's objects with this, `http` the files of any server. An answer other than the requested
bytes ends the connection and is left to the caller: urllib is for redirections, logins and proxies.

Ours and not http.client or urllib3: records are many small ranges, and those parse the headers of each answer
with Python's e-mail parser, which costs as much processor time as fetching 50 kB. Here only the headers that
a range needs are read.
"""

from __future__ import annotations

import atexit
import functools
import os
import re
import socket
import threading
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import SplitResult, urlsplit

if TYPE_CHECKING:
    import ssl

#: a connection that was unused for so many seconds is not used again: servers and firewalls drop it
_IDLE_S = 50.0
#: unused connections that are kept for a server
_MAX_IDLE = 64
#: longest head of an answer (what comes before its body); a longer one is an error
_MAX_HEAD_BYTES = 64 << 10
#: bytes read at a time until the body begins; few, since those of the body among them are copied once more
_HEAD_PIECE_BYTES = 1 << 11
_PORTS = {"http": 80, "https": 443}
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) +(\d{3})(?: +(.*))?$")


class Answer(NamedTuple):
    """A server's answer: `num_bytes` of the range are in the buffer; None where it sent anything else."""

    status: int
    reason: str
    num_bytes: int | None


class _Head(NamedTuple):
    """The beginning of an answer."""

    status: int
    reason: str
    headers: dict[bytes, bytes]
    stays_open: bool
    #: the beginning of the body, which came with the head
    rest: bytes


class _Pool:
    """The open connections of this process that are not in use."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        # by server: the time of last use and the socket of each connection, the newest last
        self.idle: dict[tuple[str, str, str], list[tuple[float, socket.socket]]] = {}

    def take(self, key: tuple[str, str, str]) -> socket.socket | None:
        with self.lock:
            idle = self.idle.get(key)
            if not idle:
                return None
            used_at, connection = idle.pop()
            if time.monotonic() - used_at < _IDLE_S:
                return connection
        connection.close()
        self.drop(key)  # all others are older
        return None

    def give(self, key: tuple[str, str, str], connection: socket.socket) -> None:
        if key not in self.idle:  # a new server: the time to drop those that were long unused
            self.drop(*[other for other, idle in list(self.idle.items())
                        if not idle or time.monotonic() - idle[-1][0] >= _IDLE_S])
        with self.lock:
            idle = self.idle.setdefault(key, [])
            if len(idle) < _MAX_IDLE:
                idle.append((time.monotonic(), connection))
                return
        connection.close()

    def drop(self, *keys: tuple[str, str, str]) -> None:
        with self.lock:
            old = [entry for key in keys for entry in self.idle.pop(key, [])]
        for _, connection in old:
            connection.close()


_pool = _Pool()


def _close_all() -> None:
    _pool.drop(*list(_pool.idle))


def _forget_connections() -> None:
    _pool.lock = threading.Lock()  # another thread of the parent may have held it
    _close_all()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):  # else two processes would send over the same connections
    os.register_at_fork(after_in_child=_forget_connections)


def can_read(url: str) -> bool:
    """Return whether `read_range` may be used: a plain http(s) URL, and no proxy before its server."""
    try:
        parts = _split(url)
        is_plain = parts.scheme in _PORTS and parts.hostname and "@" not in parts.netloc
        is_plain = is_plain and (parts.port is None or parts.port > 0)
    except ValueError:  # the port is no number: urllib reports it
        return False
    # a URL that would have to be quoted is left to urllib: a signature is of the text as it is
    return bool(is_plain and re.fullmatch(r"[!-~]+", url) and not _has_proxy(parts.scheme, parts.netloc))


def read_range(url: str, begin: int, buffer: memoryview, *, timeout_s: float,
               certificates: str = "") -> Answer:
    """Fill the buffer with the bytes of `url` from `begin` on, for a URL that `can_read`.

    Fewer where the file or the connection ends before. A server may be silent for `timeout_s`, in connecting
    and between two pieces. `certificates` names a file of those to trust, in place of the system's. An
    OSError where there is no answer.
    """
    parts = _split(url)
    key = (parts.scheme, parts.netloc, certificates)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    last = begin + len(buffer) - 1
    request = (f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: imgcls\r\n"
               f"Accept-Encoding: identity\r\nRange: bytes={begin}-{last}\r\n\r\n").encode()
    while True:
        old = _pool.take(key)
        connection = old or _connect(parts, timeout_s, certificates)
        is_kept = False
        try:
            connection.sendall(request)
            head = _read_head(connection)
            num_bytes = _body_size(head, begin, len(buffer))
            if num_bytes is None:  # another answer than the range: its body is not read
                return Answer(head.status, head.reason, None)
            num_read = _read_body(connection, head.rest, buffer[:num_bytes])
            is_kept = head.stays_open and num_read == num_bytes
            return Answer(head.status, head.reason, num_read)
        except OSError as error:
            # a server closes a connection that was long unused: noticed only by the next request
            if old is None or isinstance(error, TimeoutError):
                raise
            _pool.drop(key)
        finally:
            if is_kept:
                _pool.give(key, connection)
            else:
                connection.close()


def _connect(parts: SplitResult, timeout_s: float, certificates: str) -> socket.socket:
    host = parts.hostname or ""
    connection = socket.create_connection((host, parts.port or _PORTS[parts.scheme]), timeout_s)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection if parts.scheme == "http" else _tls(certificates).wrap_socket(
            connection, server_hostname=host)
    except BaseException:
        connection.close()
        raise


def _read_head(connection: socket.socket) -> _Head:
    """Read an answer up to its body; a ConnectionError where it ends before that or is not HTTP."""
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        piece = connection.recv(_HEAD_PIECE_BYTES)
        if not piece or len(data) > _MAX_HEAD_BYTES:
            raise ConnectionError("the server sent no answer" if not piece else "the answer is none of http")
        data += piece
    first, *lines = data[:end].split(b"\r\n")
    status = _STATUS_LINE.match(first)
    if not status:
        raise ConnectionError("the answer is none of http")
    pairs = (line.partition(b":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    stays_open = status[1] == b"1" and headers.get(b"connection", b"").lower() != b"close"
    reason = (status[3] or b"").decode("latin-1")
    return _Head(int(status[2]), reason, headers, stays_open, data[end + 4:])


def _body_size(head: _Head, begin: int, size: int) -> int | None:
    """Return the length of the body; None where it is not bytes from `begin` on, at most `size` of them."""
    length = head.headers.get(b"content-length", b"")
    place = b"bytes %d-" % begin
    is_range = (head.status == 206 and length.isdigit() and int(length) <= size
                and b"transfer-encoding" not in head.headers
                and head.headers.get(b"content-range", place).startswith(place))
    return int(length) if is_range else None


def _read_body(connection: socket.socket, rest: bytes, buffer: memoryview) -> int:
    """Fill the buffer; return how many bytes came, fewer where the connection broke in the middle."""
    num_read = min(len(rest), len(buffer))
    buffer[:num_read] = rest[:num_read]
    try:
        while num_read < len(buffer):
            num_new = connection.recv_into(buffer[num_read:])
            if not num_new:
                break
            num_read += num_new
    except OSError:
        if not num_read:
            raise
    return num_read


@functools.lru_cache(1 << 12)
def _split(url: str) -> SplitResult:
    return urlsplit(url)


@functools.lru_cache(64)
def _has_proxy(scheme: str, host: str) -> bool:
    import urllib.request

    return scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host)


@functools.lru_cache(4)
def _tls(certificates: str) -> ssl.SSLContext:
    import ssl

    return ssl.create_default_context(cafile=certificates or None)
