"""Try a request again where its error may pass, and describe in one line an error that did not.

`remote` sends every request through `retry`. A server's 5xx, a reset, a time-out and a body that was cut may
pass; a refusal does not. The loop is tenacity's; which errors of fsspec's drivers may pass is decided here.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeVar

from imgcls.errors import DataError, RunError, verbatim
from imgcls.storage.http import HttpStatusError

T = TypeVar("T")

#: how often a request is tried
ATTEMPTS = 4
#: seconds: the pause after the first try; each is twice as long as the one before, up to the longest
PAUSE_S = 0.5
LONGEST_PAUSE_S = 8.0

#: the drivers' errors for a connection that failed, by name: their packages may not be installed
_TRANSIENT_ERRORS = frozenset({"HTTPClientError", "ClientConnectionError", "ClientPayloadError",
                               "ServerDisconnectedError", "ClientOSError", "ResponseStreamingError",
                               "IncompleteReadError", "TimeoutError", "EndpointConnectionError",
                               "ConnectionClosedError", "IncompleteRead", "HTTPException"})
#: what S3 answers to an upload that was spoilt on its way: 4xx, and yet the next one may arrive
_TRANSIENT_S3_CODES = frozenset({"BadDigest", "IncompleteBody", "RequestTimeout", "InternalError",
                                 "SlowDown"})
#: too early, too many requests, and a request that took the client too long
_TRANSIENT_STATUS = (408, 425, 429)
#: errors of the system that do not pass by waiting some seconds
_PERMANENT_ERRNOS = frozenset({errno.ENOENT, errno.EINVAL, errno.EPERM, errno.EACCES, errno.ENOSYS,
                               errno.ENOTDIR, errno.EISDIR, errno.ENOSPC, errno.EROFS})


class ShortReadError(OSError):
    """Fewer bytes came than were requested."""


def retry(call: Callable[[], T], url: str, action: str, *, writing: bool = False) -> T:
    """Return `call()`, tried again with growing pauses where the error may pass.

    FileNotFoundError (with the URL for its name) and NotADirectoryError come through. Else an error that may
    pass, and any error when `writing`, is a RunError: "URL: cannot `action`: ..."; what the store refuses
    when reading is a DataError with the same words.
    """
    import tenacity  # here, since it takes 0.1 s and only URLs are retried

    # The random part keeps the workers of a job from sending all at the same moment.
    attempts = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(ATTEMPTS), reraise=True,
        retry=tenacity.retry_if_exception(is_transient),
        wait=tenacity.wait_exponential(PAUSE_S, LONGEST_PAUSE_S) + tenacity.wait_random(0, PAUSE_S / 2))
    try:
        return attempts(call)
    except FileNotFoundError as error:
        # An answer, not a failure. Drivers name the file in ways of their own; here it is the URL.
        raise FileNotFoundError(errno.ENOENT, "no such file", url) from error
    except NotADirectoryError:
        raise
    except Exception as error:  # whatever a driver raises is reported in one line, not as a stack trace
        times = f" (tried {ATTEMPTS} times)" if is_transient(error) else ""
        text = f"cannot {action}: {describe(error)}{times}"
        if writing or times:  # the data are not at fault: this must not count as a damaged sample
            raise RunError(f"{verbatim(url)}: {text}") from error
        raise DataError(url, text) from error


def is_transient(error: BaseException) -> bool:
    """Return whether the same request may succeed later."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError)) or not isinstance(error, Exception):
        return False
    # s3fs turns botocore's errors into OSErrors; what S3 said is in their cause
    response = getattr(error.__cause__, "response", None) or {}
    if isinstance(response, dict) and str(response.get("Error", {}).get("Code")) in _TRANSIENT_S3_CODES:
        return True
    # aiohttp's errors and ours say `status`, gcsfs's say `code`
    status = getattr(error, "status", None) or getattr(error, "code", None)
    if isinstance(status, int):
        return status >= 500 or status in _TRANSIENT_STATUS
    # Drivers raise these without a number: they go before the rule for numbers.
    if isinstance(error, (PermissionError, FileExistsError, IsADirectoryError)):
        return False
    if isinstance(error, (TimeoutError, ConnectionError, ShortReadError, EOFError)):
        return True
    if isinstance(error, OSError):
        return error.errno not in _PERMANENT_ERRNOS
    return any(base.__name__ in _TRANSIENT_ERRORS for base in type(error).__mro__)


def describe(error: BaseException) -> str:
    """Return one line about a driver's error, with what to do where that is known."""
    kind = type(error).__name__  # by name, as above: botocore may not be installed
    text = " ".join((getattr(error, "strerror", None) or str(error) or kind).split())[:200]
    # It follows a colon: no capital, unless it begins with an abbreviation.
    text = text[:1].lower() + text[1:] if not text[:2].isupper() else text
    if kind in ("NoCredentialsError", "PartialCredentialsError"):
        return (f"{text}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, "
                "or FSSPEC_S3_ANON=true for public data")
    if isinstance(error, PermissionError):
        return f"access denied ({text})"
    if isinstance(error, TimeoutError) or "Timeout" in kind:
        return f"no answer in time ({text})"
    return text.rstrip(".") if isinstance(error, (OSError, HttpStatusError)) else f"{text} ({kind})"
