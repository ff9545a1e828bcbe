"""Read ranges of S3's objects by plain requests over connections that stay open, signed by s3fs.

s3fs builds, signs and sends every request in Python, 2 ms each and 6 ms a megabyte, in one thread for all.
Records are read by many small requests: here one costs a fifth of that, in the thread that asks. `remote`
asks here first; whatever s3fs may be set up to do otherwise (a proxy, another certificate, encryption keys)
is left to it, as is an answer that is neither the bytes nor a trouble that may pass. No torch.
"""

from __future__ import annotations

import functools
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
_SCHEMES = frozenset({"s3", "s3a"})

#: open connections, each used by one thread: of a thread by scheme and host
_of_thread = threading.local()
# what follows is only ever added to, or forgotten as a whole: no thread sees half of it
_signed: dict[tuple[int, str], tuple[float, str]] = {}
#: file systems that refused: their driver knows more than a signature tells
_refused: set[int] = set()


def read_direct(fs: Any, path: str, start: int, end: int) -> bytes | None:
    """Return bytes start .. end - 1 of `path` in a driver's file system; None where the driver has to read.

    HttpStatusError or an OSError for what may pass.
    """
    if not _is_plain(fs):
        return None
    url = _sign(fs, path)
    if _has_proxy(url):
        return None
    try:
        status, reason, data = _get(url, start, end)
    except ssl.SSLError:  # a certificate that s3fs may know of
        _refused.add(id(fs))
        return None
    if status == 206:
        return data
    if status >= 500 or status == 429:
        raise HttpStatusError(status, reason)
    if status != 404:  # of a missing file the driver says so
        _refused.add(id(fs))
    return None


def _is_plain(fs: Any) -> bool:
    """Return whether a file system is S3's, with nothing set up that a signed URL does not carry."""
    protocol = getattr(fs, "protocol", "")
    if not _SCHEMES.intersection([protocol] if isinstance(protocol, str) else protocol) or id(fs) in _refused:
        return False
    return not (fs.req_kw or fs.s3_additional_kwargs or fs.version_aware or "verify" in fs.client_kwargs
                or "proxies" in fs.config_kwargs)


@functools.lru_cache(64)
def _has_proxy_for(scheme: str, host: str) -> bool:
    import urllib.request

    return scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host)


def _has_proxy(url: str) -> bool:
    parts = urlsplit(url)
    return _has_proxy_for(parts.scheme, parts.netloc)


def _sign(fs: Any, path: str) -> str:
    """Return a URL that may be read for a while."""
    now = time.monotonic()
    signed_at, url = _signed.get((id(fs), path), (-_USED_S, ""))
    if now - signed_at >= _USED_S:
        if len(_signed) >= _MAX_SIGNED:
            _signed.clear()
        url = fs.sign(path, expiration=_SIGNED_S)
        _signed[id(fs), path] = now, url
    return url


@functools.lru_cache(1)
def _tls() -> ssl.SSLContext:
    """Return what checks certificates, by those that botocore is told of, or the system's."""
    told = [os.environ[name] for name in _CERTIFICATE_VARIABLES if os.environ.get(name)]
    return ssl.create_default_context(cafile=told[0] if told else None)


def _get(url: str, start: int, end: int) -> tuple[int, str, bytes]:
    """Return (status, its name, body) of a request for a range, over this thread's connection to the host."""
    from http.client import BadStatusLine, HTTPConnection, HTTPSConnection

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
            # all of it, or the connection could not be used again
            return answer.status, answer.reason, answer.read()
        except BaseException as error:
            connections.pop(key).close()
            # a server closes what was long unused: that is noticed with the next request only
            if not (is_old and isinstance(error, (ConnectionError, BadStatusLine))):
                raise
