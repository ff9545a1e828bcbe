"""Read ranges of S3's objects by plain requests over connections that stay open, signed by s3fs.

s3fs builds, signs and sends every request in Python, in one thread for all. Records are read by many small
requests: here each is signed once a file, and sent by the thread that asks. `remote`
asks here first; whatever s3fs may be set up to do otherwise (a proxy, another certificate, encryption keys)
is left to it, as is an answer that is neither the bytes nor a trouble that may pass. No torch.
"""

from __future__ import annotations

import functools
import math
import os
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from imgcls.storage.http import READ_TIMEOUT_S, HttpStatusError

if TYPE_CHECKING:
    from http.client import HTTPConnection

#: how long a signature is good for, and how long it is used
_SIGNED_S, _USED_S = 3600, 1200
#: files whose signature is remembered
_MAX_SIGNED = 10_000
#: environment variables by which botocore takes other certificates
_CERTIFICATE_VARIABLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")

#: open connections, each used by one thread: of a thread by scheme and host
_of_thread = threading.local()
#: the attribute by which a file system carries what is known of it here, as long as it lives
_STATE = "imgcls_direct"


class _State:
    """What is known of a file system."""

    def __init__(self) -> None:
        #: whether it refused: its driver knows more than a signature tells
        self.has_refused = False
        #: when each path was signed, and the URL; only added to, or forgotten as a whole
        self.signed: dict[str, tuple[float, str]] = {}


def read_direct(fs: Any, path: str, start: int, end: int) -> bytes | None:
    """Return bytes start .. end - 1 of `path` in a driver's file system; None where the driver has to read.

    Fewer where the connection ends before. HttpStatusError or an OSError for what may pass.
    """
    if not _is_plain(fs):
        return None
    state: _State = fs.__dict__.setdefault(_STATE, _State())
    if state.has_refused or _has_proxy(url := _sign(fs, path, state)):
        return None
    try:
        status, reason, data = _get(url, start, end)
    except ssl.SSLError:  # a certificate that s3fs may know of
        state.has_refused = True
        return None
    if status == 206:
        return data
    if status >= 500 or status == 429:
        raise HttpStatusError(status, reason)
    if status != 404:  # of a missing file the driver says so
        state.has_refused = True
    return None


def _is_plain(fs: Any) -> bool:
    """Return whether a file system is s3fs's, with nothing set up that a signed URL does not carry."""
    if type(fs).__module__.partition(".")[0] != "s3fs":  # it may not be installed
        return False
    return not (fs.anon or fs.req_kw or fs.s3_additional_kwargs or fs.version_aware
                or "verify" in fs.client_kwargs or "proxies" in fs.config_kwargs)


@functools.lru_cache(64)
def _has_proxy_for(scheme: str, host: str) -> bool:
    import urllib.request

    return scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host)


def _has_proxy(url: str) -> bool:
    parts = urlsplit(url)
    return _has_proxy_for(parts.scheme, parts.netloc)


def _sign(fs: Any, path: str, state: _State) -> str:
    """Return a URL that may be read for a while."""
    now = time.monotonic()
    signed_at, url = state.signed.get(path, (-math.inf, ""))
    if now - signed_at >= _USED_S:
        if len(state.signed) >= _MAX_SIGNED:
            state.signed.clear()
        url = fs.sign(path, expiration=_SIGNED_S)
        state.signed[path] = now, url
    return url


@functools.lru_cache(1)
def _tls() -> ssl.SSLContext:
    """Return what checks certificates, by those that botocore is told of, or the system's."""
    told = [os.environ[name] for name in _CERTIFICATE_VARIABLES if os.environ.get(name)]
    return ssl.create_default_context(cafile=told[0] if told else None)


def _get(url: str, start: int, end: int) -> tuple[int, str, bytes]:
    """Return (status, its name, body of a 206) of a request, over this thread's connection to the host."""
    from http.client import BadStatusLine, HTTPConnection, HTTPSConnection, IncompleteRead

    parts = urlsplit(url)
    connections: dict[str, HTTPConnection] = _of_thread.__dict__
    key = f"{parts.scheme}://{parts.netloc}"
    while True:
        is_old = key in connections
        if not is_old:
            connections[key] = (
                HTTPSConnection(parts.netloc, timeout=READ_TIMEOUT_S, context=_tls())
                if parts.scheme == "https" else HTTPConnection(parts.netloc, timeout=READ_TIMEOUT_S))
        try:
            connections[key].request("GET", f"{parts.path}?{parts.query}",
                                     headers={"Range": f"bytes={start}-{end - 1}", "User-Agent": "imgcls"})
            answer = connections[key].getresponse()
            if answer.status == 206:
                return 206, "", answer.read()
            # of an answer that nobody wants, such as a whole file, not even the body is taken
            connections.pop(key).close()
            return answer.status, answer.reason, b""
        except IncompleteRead as error:  # the caller counts the bytes, and asks for the others
            connections.pop(key).close()
            return 206, "", error.partial
        except BaseException as error:
            connections.pop(key).close()
            # a server closes what was long unused: that is noticed with the next request only
            if not (is_old and isinstance(error, (ConnectionError, BadStatusLine))):
                raise
