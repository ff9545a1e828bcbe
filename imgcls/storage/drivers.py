"""Open the file system behind a URL: fsspec's, or for http(s) our own reader.

`remote` alone asks here. fsspec and its drivers are loaded when the first URL is opened and not before.
Options of a driver can be set by fsspec's own variables (`FSSPEC_S3_ANON=true`).
"""

from __future__ import annotations

from typing import Any

from imgcls.errors import DataError
from imgcls.storage.http import READ_TIMEOUT_S, HttpFileSystem
from imgcls.storage.retries import describe
from imgcls.storage.urls import check_url, url_scheme

#: a server that is there answers at once; the rest of the patience is for what it sends
CONNECT_TIMEOUT_S = 5
#: how often S3's driver sends a request at each try of ours: of a large upload only what failed goes again
DRIVER_ATTEMPTS = 2
_S3 = ("s3", "s3a")
#: stores where a written object appears at once or never; elsewhere it is written under another name and
#: renamed
_ATOMIC_STORES = frozenset({*_S3, "gs", "gcs", "abfs", "abfss", "az", "adl", "oci"})


def has_atomic_writes(url: str) -> bool:
    """Return whether readers of the store never see half of a file that is being written."""
    return url_scheme(url) in _ATOMIC_STORES


def open_driver(url: str) -> tuple[Any, str]:
    """Return (file system, path in it); fsspec makes the file system once a process and set of options."""
    scheme = url_scheme(url)
    if scheme in ("http", "https"):
        return HttpFileSystem(), url  # no state: a new one costs nothing
    check_url(url)
    from fsspec.core import url_to_fs

    try:
        fs, path = url_to_fs(url, **(_s3_options() if scheme in _S3 else {}))
    except Exception as error:  # each driver has errors of its own for wrong options and missing credentials
        raise DataError(url, f"cannot be opened: {describe(error)}") from error
    if scheme in _S3:
        fs.retries = 1  # ours are enough: each of its own would wait for the time-outs once more
    return fs, path


def _s3_options() -> dict[str, Any]:
    """Return our time-outs and tries for botocore (its own: 60 s and 5); the user's FSSPEC_S3 wins."""
    from fsspec.config import conf

    return {"config_kwargs": {
        "connect_timeout": CONNECT_TIMEOUT_S, "read_timeout": READ_TIMEOUT_S,
        "max_pool_connections": 32,  # botocore's 10 would make chunks, shards and uploads wait for each other
        "retries": {"total_max_attempts": DRIVER_ATTEMPTS, "mode": "standard"},
        **conf.get("s3", {}).get("config_kwargs", {})}}
