"""A web server on this machine that holds a few objects, or passes requests on to another one, and fails on
demand."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import http.server
import socket
import threading
from collections.abc import Callable, Iterator


class FaultyServer(http.server.ThreadingHTTPServer):
    """`objects` by path, or all that `upstream` (host:port) has; `seen` remembers (method, path, Range).

    `fault(method, path)` says how to fail: "500", "403", "reset", "cut" (half of the body), "hang" (until the
    server ends; of a PUT after half of its body went nowhere), or "" not to. `faults` is a list of such words
    for the next requests.
    """

    daemon_threads = True

    def __init__(self, upstream: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = upstream
        self.objects: dict[str, bytes] = {}
        self.seen: list[tuple[str, str, str]] = []
        #: each client's host and port: those of its connections
        self.clients: set[tuple[str, int]] = set()
        #: where a path has moved to
        self.moved: dict[str, str] = {}
        self.faults: list[str] = []
        self.fault: Callable[[str, str], str] = lambda method, path: self.faults.pop(0) if self.faults else ""
        self.ranges = True
        #: of bodies that were sent, so far
        self.num_bytes = 0
        self.ended = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def count(self, method: str, end: str = "") -> int:
        """Requests of this method for paths that end so."""
        return sum(1 for verb, path, _ in self.seen
                   if verb == method and path.partition("?")[0].endswith(end))

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone is no news."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: FaultyServer
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        with self.server.lock:
            self.server.clients.add(self.client_address[:2])
            self.server.seen.append((self.command, self.path, self.headers.get("Range", "")))
            fault = self.server.fault(self.command, self.path)
        length = int(self.headers.get("Content-Length") or 0)
        if fault == "hang":
            self.rfile.read(length // 2)
            self.server.ended.wait(60)
            self.close_connection = True
            return
        body = self.rfile.read(length)
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            self.connection.close()
            self.close_connection = True
        elif fault in ("500", "403"):
            self.send(int(fault), {"Content-Length": "0"}, b"")
        elif self.path in self.server.moved:
            self.send(302, {"Location": self.server.moved[self.path], "Content-Length": "0"}, b"")
        elif self.server.upstream:
            self.forward(body, fault)
        else:
            self.send_object(fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

    def send_object(self, fault: str) -> None:
        content = self.server.objects.get(self.path)
        if content is None:
            return self.send(404, {"Content-Length": "0"}, b"")
        headers = {"ETag": hashlib.md5(content).hexdigest()}
        byte_range = self.headers.get("Range", "")
        status = 200
        if byte_range and self.server.ranges:
            first, last = byte_range.removeprefix("bytes=").split("-")
            content = content[int(first):int(last) + 1]
            status = 206
        headers["Content-Length"] = str(len(content))
        return self.send(status, headers, content, cut=fault == "cut")

    def forward(self, body: bytes, fault: str) -> None:
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=30)
        with contextlib.closing(upstream):
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            content = answer.read()
            headers = {name: value for name, value in answer.getheaders()
                       if name.lower() not in ("transfer-encoding", "connection", "date", "server")}
            if self.command != "HEAD":
                headers = {name: value for name, value in headers.items() if name.lower() != "content-length"}
                headers["Content-Length"] = str(len(content))
            self.send(answer.status, headers, content, cut=fault == "cut")

    def send(self, status: int, headers: dict[str, str], content: bytes, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:len(content) // 2] if cut else content)
            with self.server.lock:
                self.server.num_bytes += len(content)
        if cut:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(upstream: str = "") -> Iterator[FaultyServer]:
    """A FaultyServer that runs in a thread."""
    server = FaultyServer(upstream)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
