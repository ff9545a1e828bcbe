"""A server for one network: a page to drop a photograph on, and `POST /predict`, which answers in JSON.

Meant for the user's own machine: no cookies, nothing is stored, and pages of other sites may not use it.
Requests are bounded before they are read, images before they are decoded, and so is the number that wait.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from imgcls.errors import DataError, ImgclsError, printable, tell
from imgcls.inference import server_page
from imgcls.inference.images import Image, as_image
from imgcls.inference.predictor import Prediction, Predictor
from imgcls.storage import tracebacks

#: at most so many images wait for the network, and at most so many times `max_bytes` are held of images that
#: arrive or wait; further requests are answered with 503
MAX_WAITING = 8  # of --max-mb 20 that is 160 MB of bodies
#: seconds in which the body of a request must arrive
_UPLOAD_S = 30
#: of every answer: it is not shown in frames, not stored, and its type is not guessed
_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin",
            "X-Frame-Options": "DENY"}


class TellError(Exception):
    """An answer that is an error: its status, and one line."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status
        self.line = line


def make_app(predictor: Predictor, *, is_loopback: bool, max_bytes: int) -> Starlette:
    """Return the application; with `is_loopback` requests must name this machine as their host.

    Otherwise a page of another site, whose name then leads to 127.0.0.1 (DNS rebinding), could send requests.
    """
    server = _Server(predictor, is_loopback=is_loopback, max_bytes=max_bytes)
    routes = [Route("/", server.page, methods=["GET"]), Route("/predict", server.predict, methods=["POST"])]
    app = Starlette(routes=routes, exception_handlers={
        TellError: _tell, HTTPException: _tell_http, Exception: _tell_bug})
    # Before the routes: pages of other sites do not even learn which addresses there are.
    app.add_middleware(_Gate, check=server.check)
    return app


class _Gate:
    """ASGI middleware: a request that is refused is answered before anything of its body is read."""

    def __init__(self, app: Any, check: Callable[[Request], None]) -> None:
        self._app = app
        self._check = check

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check(Request(scope))  # of the headers alone: without `receive` nothing can be read
        except TellError as error:
            await _answer(error.status, {"error": error.line})(scope, receive, send)
            return
        await self._app(scope, receive, send)


class _Server:
    """The handlers of the routes, and what they share."""

    def __init__(self, predictor: Predictor, *, is_loopback: bool, max_bytes: int) -> None:
        self._predictor = predictor
        self._is_loopback = is_loopback
        self._max_bytes = max_bytes
        self._num_waiting = 0
        self._num_held_bytes = 0
        # one at a time: torch uses all cores for each already
        self._executor: Executor = ThreadPoolExecutor(1, thread_name_prefix="imgcls-predict")
        self._page = server_page.make(predictor.image_shape, predictor.num_classes, max_bytes)

    def check(self, request: Request) -> None:
        """Raise TellError for a request of another site's page, or for this machine by another name."""
        # A page of evil.example whose name now points to 127.0.0.1 still sends its own name here.
        host = request.headers.get("host", "")
        if self._is_loopback and not _is_this_machine(host):
            raise TellError(403, f"host {host[:100]}: this server answers to localhost only")
        origin = request.headers.get("origin")
        # Browsers send it with every POST of a page; curl and programs send none, and are allowed.
        is_foreign = origin is not None and origin.lower().partition("://")[2] != host.lower()
        if is_foreign or (request.method != "GET" and request.headers.get("sec-fetch-site") == "cross-site"):
            raise TellError(403, "requests from pages of other sites are refused")

    async def page(self, request: Request) -> Response:
        """Return the page."""
        return Response(self._page.html, media_type="text/html; charset=utf-8",
                        headers=_HEADERS | {"Content-Security-Policy": self._page.policy})

    async def predict(self, request: Request) -> Response:
        """Return the classes of the image that is the body; `?top=K` says how many."""
        top = self._top(request)
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise TellError(415, "send the file itself as the body: curl --data-binary @FILE, not -F")
        # before a byte is taken; uploads do not count as waiting, so that slow ones do not block others
        self._refuse_where_busy()
        body = bytearray()
        try:
            await self._read(request, body)
            prediction = await self._when_free(bytes(body))
        finally:
            # in every case: bytes that stayed counted would make the server busy for ever
            self._num_held_bytes -= len(body)
        if isinstance(prediction, DataError):
            raise TellError(422, prediction.reason)
        if isinstance(prediction, ImgclsError):
            raise TellError(422, str(prediction))
        ranked = zip(prediction.classes, prediction.ranking, strict=True)
        found = [{"class": index, "name": name, "score": round(score, 7)} for index, (name, score) in ranked]
        return _answer(200, {"predictions": found[:top]})

    def _refuse_where_busy(self, num_bytes: int = 0) -> None:
        """Raise TellError where the allowed number of images wait, or of bytes are held."""
        # All on one thread, the event loop's: no lock is needed between the check and what follows.
        has_room = self._num_held_bytes + num_bytes <= MAX_WAITING * self._max_bytes
        if self._num_waiting >= MAX_WAITING or not has_room:
            raise TellError(503, "busy: try again")

    async def _when_free(self, data: bytes) -> Prediction | ImgclsError:
        self._refuse_where_busy()
        self._num_waiting += 1
        try:
            # In another thread: the event loop keeps answering, with "busy" if need be, while the network
            # computes.
            return await asyncio.get_running_loop().run_in_executor(
                self._executor, self._look, as_image(data))
        finally:
            self._num_waiting -= 1

    def _look(self, image: Image) -> Prediction | ImgclsError:
        (prediction,) = self._predictor.predict([image], threads=0)
        return prediction

    def _top(self, request: Request) -> int:
        text = request.query_params.get("top")
        most = min(self._predictor.top, self._predictor.num_classes)
        if text is None:
            return most
        # isdigit alone takes the digits of all scripts, raised ones too, which int() then refuses, as it does
        # thousands of digits.
        if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= most):
            raise TellError(400, f"top {text[:20]}: must be from 1 to {most}")
        return int(text)

    async def _read(self, request: Request, body: bytearray) -> None:
        """Read the image into `body`; TellError where it is too large, incomplete or too slow."""
        too_large = TellError(413, f"an image may have {self._max_bytes} bytes at most")
        length = request.headers.get("content-length", "")
        # Where the header says it, an image that is too large is refused before a byte of it is taken.
        if length.isascii() and length.isdigit() and (len(length) > 15 or int(length) > self._max_bytes):
            raise too_large

        async def read() -> None:
            async for piece in request.stream():
                # The header may lie or be missing (chunked): what has come is counted as well.
                if len(body) + len(piece) > self._max_bytes:
                    raise too_large
                self._refuse_where_busy(len(piece))
                body.extend(piece)
                self._num_held_bytes += len(piece)

        try:
            await asyncio.wait_for(read(), _UPLOAD_S)
        except asyncio.TimeoutError:
            raise TellError(408, f"the image was not received within {_UPLOAD_S} seconds") from None
        except ClientDisconnect:
            raise TellError(400, "the image was not received completely") from None


def is_loopback(address: str) -> bool:
    """Return whether an address (127.0.0.1, ::1) is reached from this machine only."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _is_this_machine(host: str) -> bool:
    """Return whether a Host header names this machine, with any port or none."""
    name, colon, port = host.lower().rpartition(":")
    if not colon or not port.isdigit():
        name = host.lower()
    return name == "localhost" or is_loopback(name.removeprefix("[").removesuffix("]"))


def _answer(status: int, content: dict[str, Any]) -> Response:
    headers = _HEADERS | ({"Retry-After": "1"} if status == 503 else {})
    # with a line end, for those who see it in a shell
    return Response(json.dumps(content) + "\n", status, headers, media_type="application/json")


async def _tell(request: Request, error: Exception) -> Response:
    assert isinstance(error, TellError)
    return _answer(error.status, {"error": printable(error.line)})


async def _tell_http(request: Request, error: Exception) -> Response:
    """Answer for an address or method that is not there."""
    assert isinstance(error, HTTPException)
    return _answer(error.status_code, {"error": f"{error.detail}: there is GET / and POST /predict"})


async def _tell_bug(request: Request, error: Exception) -> Response:
    """Answer for a bug of ours, or a lack of memory: the error is printed here and not sent to the client."""
    tell(f"error: {tracebacks.as_told(error)}")
    return _answer(500, {"error": "internal error; see the server's terminal"})
