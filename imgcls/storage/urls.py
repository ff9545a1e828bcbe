"""Tell a URL from a local path, and whether this installation can open it."""

from __future__ import annotations

import re

from imgcls.errors import UsageError, nearest

#: what pip installs for a scheme whose driver is missing: scheme -> (driver, package)
_DRIVERS = {"s3": ("s3fs", "imgcls[s3]"), "s3a": ("s3fs", "imgcls[s3]"), "gs": ("gcsfs", "gcsfs"),
            "gcs": ("gcsfs", "gcsfs"), "hdfs": ("pyarrow", "pyarrow"), "abfs": ("adlfs", "adlfs"),
            "abfss": ("adlfs", "adlfs"), "az": ("adlfs", "adlfs"), "sftp": ("paramiko", "paramiko"),
            "ssh": ("paramiko", "paramiko"), "oci": ("ocifs", "ocifs"),
            "hf": ("huggingface_hub", "huggingface_hub")}
# fsspec knows dozens; a guess at a misspelled one is made among those that people have
_USUAL_SCHEMES = ["s3", "gs", "hdfs", "http", "https", "file", "abfs", "az", "memory", "sftp"]
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*(?:::[A-Za-z][A-Za-z0-9+.-]*)*)://")


def url_scheme(path: object) -> str:
    """Return the scheme of a URL in lower case, "" for a local path."""
    # Not urllib.parse: it takes `a:b` for a URL, and file names may have colons.
    match = _URL.match(str(path))
    return match[1].lower() if match else ""


def check_url(url: str, setting: str = "") -> None:
    """Raise UsageError for a URL whose scheme nobody knows or whose driver is not installed.

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
        driver, package = _DRIVERS.get(scheme, ("a driver", ""))
        how = f"pip install {package}" if package else " ".join(str(error).split())
        raise UsageError(f"{subject}: needs {driver}: {how}") from error
