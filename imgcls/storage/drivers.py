"""Open the file system behind a URL: fsspec's, or for http(s) our own reader.

`paths` checks whether a URL can be opened, `remote` opens it. fsspec and its drivers are loaded for the first
URL and not before, here and nowhere else. Options of a driver can be set by fsspec's own variables
(`FSSPEC_S3_ANON=true`).
"""

from __future__ import annotations

from typing import Any

from imgcls.errors import DataError, UsageError, nearest
from imgcls.storage.http import READ_TIMEOUT_S, HttpFileSystem
from imgcls.storage.retries import describe
from imgcls.storage.urls import url_scheme

#: a server that is up answers at once; `READ_TIMEOUT_S`, which is longer, is for what it sends
CONNECT_TIMEOUT_S = 5
#: how often S3's driver sends a request within each of our tries: of a large upload only the failed part
#: is sent again
DRIVER_ATTEMPTS = 2
_S3 = ("s3", "s3a")
#: stores where a written object appears at once or never; elsewhere it gets its name afterwards
_ATOMIC_STORES = frozenset({*_S3, "gs", "gcs", "abfs", "abfss", "az", "adl", "oci"})

#: what pip installs for a scheme whose driver is missing
_DRIVERS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hdfs": "pyarrow",
            "arrow_hdfs": "pyarrow", "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs", "sftp": "paramiko",
            "ssh": "paramiko", "oci": "ocifs", "hf": "huggingface_hub", "smb": "smbprotocol", "oss": "ossfs",
            "box": "boxfs", "lakefs": "lakefs-spec", "wandb": "wandbfs", "dropbox": "dropboxdrivefs",
            "root": "fsspec-xrootd", "dvc": "dvc", "tos": "tosfs", "git": "pygit2", "dask": "distributed"}
# fsspec has dozens of schemes; a misspelled one is compared with the common ones only
_USUAL_SCHEMES = ["s3", "gs", "hdfs", "http", "https", "file", "abfs", "az", "memory", "sftp"]


def check_url(url: str, setting: str = "") -> None:
    """Raise UsageError for a URL whose scheme is unknown or whose driver is not installed.

    `setting` is where the URL is from: the message begins with it.
    """
    scheme = url_scheme(url)
    subject = f"{setting} {url}".strip()
    if scheme in ("http", "https"):
        return
    # fsspec chains file systems like that (`zip::s3://`). An archive has no version or ranges to cache by.
    if "::" in scheme:
        raise UsageError(f"{subject}: URLs inside URLs (a::b://) are not taken")
    # The file system itself is not made: that may ask a server for credentials.
    from fsspec.registry import get_filesystem_class, known_implementations

    if scheme not in known_implementations:
        close = nearest(scheme, _USUAL_SCHEMES)
        hint = f"; did you mean {close[0]}://?" if close else ""
        raise UsageError(f"{subject}: there is no {scheme}://{hint}")
    try:
        get_filesystem_class(scheme)
    except ImportError as error:
        raise _missing_driver(subject, scheme, error) from error


def _missing_driver(subject: str, scheme: str, error: ImportError) -> UsageError:
    """Return the error for a driver, or a library that it needs, that is not installed: with pip's line."""
    package = _DRIVERS.get(scheme) or (error.name or "").partition(".")[0]
    if not package:
        return UsageError(f"{subject}: needs a driver: {' '.join(str(error).split())}")
    return UsageError(f"{subject}: {scheme}:// needs {package}: pip install {package}")


def has_atomic_writes(url: str) -> bool:
    """Return whether readers of the store never see half of a file that is being written."""
    return url_scheme(url) in _ATOMIC_STORES


def open_driver(url: str) -> tuple[Any, str]:
    """Return (file system, path in it); UsageError or DataError where the URL cannot be opened.

    fsspec makes a file system once for each process and set of options.
    """
    scheme = url_scheme(url)
    if scheme in ("http", "https"):
        return HttpFileSystem(), url  # no state: a new one costs nothing
    check_url(url)
    from fsspec.core import url_to_fs

    try:
        fs, path = url_to_fs(url, **(_s3_options() if scheme in _S3 else {}))
    except ImportError as error:  # some look for their library only here
        raise _missing_driver(url, scheme, error) from error
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
