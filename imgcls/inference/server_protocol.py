"""The connections of imgcls-serve: uvicorn's HTTP/1.1, which closes connections without a request."""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http.h11_impl import H11Protocol

#: seconds that the headers of a request may take; uvicorn itself waits for ever, and its limit of connections
#: counts those that wait
REQUEST_S = 10.0


class BoundedProtocol(H11Protocol):
    """One connection; it is closed where no request comes within `REQUEST_S` to twice that."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to watch the connection."""
        super().connection_made(transport)
        # no request yet: where that is still so at the first check, the connection is closed
        self._was_idle = True
        self._watch = self.loop.call_later(REQUEST_S, self._end_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching."""
        self._watch.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP as other errors are answered: with one line of JSON."""
        body = json.dumps({"error": msg.rstrip(".")}).encode() + b"\n"
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
                             b"X-Content-Type-Options: nosniff\r\nConnection: close\r\n"
                             b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self.transport.close()

    def _end_if_idle(self) -> None:
        # not while a request is being answered: an upload has a limit of its own, and the network takes time
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self._was_idle:
            self.transport.close()
            return
        self._was_idle = is_idle
        self._watch = self.loop.call_later(REQUEST_S, self._end_if_idle)
