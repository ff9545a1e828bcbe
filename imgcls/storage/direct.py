"""Read ranges of files by plain requests over connections that stay open: S3's, signed by s3fs, and http's.

s3fs builds, signs and sends every request in Python, in one thread for all. Records are read by many small
requests: here a file is signed once, and each request is sent by the thread that needs it (`connections`).
`remote` tries this first. What else s3fs may be set up to do (a proxy, another certificate, encryption keys)
is left to it, and so is every answer other than the bytes or an error that may pass. No torch.
"""

from __future__ import annotations

import math
import os
import ssl
import time
from typing import Any

from imgcls.storage import connections, http
from imgcls.storage.http import HttpFileSystem, HttpStatusError

#: seconds: how long a signature is valid, and how long it is used
_SIGNED_S, _USED_S = 3600, 1200
#: files whose signature is remembered
_MAX_SIGNED = 10_000
#: environment variables that name other certificates for botocore
_CERTIFICATE_VARIABLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")

#: name of the attribute that keeps the `_State` on the driver's file-system object
_STATE = "imgcls_direct"


class _State:
    """What is remembered about a file system."""

    def __init__(self) -> None:
        #: whether the store refused a signed URL: the driver may have settings that are not part of one
        self.has_refused = False
        #: when each path was signed, and the URL; only added to, or forgotten as a whole
        self.signed: dict[str, tuple[float, str]] = {}


def read_direct(fs: Any, path: str, begin: int, buffer: memoryview) -> int | None:
    """Fill the buffer with the bytes of `path` from `begin` on, in a driver's file system or our own.

    Return how many came, fewer where the connection ends before; None where the driver has to read.
    HttpStatusError or an OSError for an error that may pass.
    """
    if isinstance(fs, HttpFileSystem):
        return fs.read_into(path, begin, buffer)
    if not _is_plain(fs):
        return None
    state: _State = fs.__dict__.setdefault(_STATE, _State())
    if state.has_refused or not connections.can_read(url := _sign(fs, path, state)):
        return None
    try:
        answer = connections.read_range(url, begin, buffer, timeout_s=http.READ_TIMEOUT_S,
                                        certificates=_certificates())
    except ssl.SSLError:  # s3fs may have been given another certificate
        state.has_refused = True
        return None
    if answer.num_bytes is None:
        if answer.status >= 500 or answer.status == 429:
            raise HttpStatusError(answer.status, answer.reason)
        if answer.status != 404:  # the driver reports a missing file
            state.has_refused = True
    return answer.num_bytes


def _is_plain(fs: Any) -> bool:
    """Return whether a file system is s3fs's, with nothing set up that a signed URL does not carry."""
    if type(fs).__module__.partition(".")[0] != "s3fs":  # it may not be installed
        return False
    return not (fs.anon or fs.req_kw or fs.s3_additional_kwargs or fs.version_aware
                or "verify" in fs.client_kwargs or "proxies" in fs.config_kwargs)


def _sign(fs: Any, path: str, state: _State) -> str:
    """Return a signed URL that is valid for 40 minutes at least."""
    now = time.monotonic()
    signed_at, url = state.signed.get(path, (-math.inf, ""))
    if now - signed_at >= _USED_S:
        if len(state.signed) >= _MAX_SIGNED:
            state.signed.clear()
        url = fs.sign(path, expiration=_SIGNED_S)
        state.signed[path] = now, url
    return url


def _certificates() -> str:
    """Return the file of certificates that the environment names for botocore, "" for the system's."""
    return next((os.environ[name] for name in _CERTIFICATE_VARIABLES if os.environ.get(name)), "")
