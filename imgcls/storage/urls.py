"""Tell a URL from a local path."""

from __future__ import annotations

import re

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*(?:::[A-Za-z][A-Za-z0-9+.-]*)*)://")


def url_scheme(path: object) -> str:
    """Return the scheme of a URL in lower case, "" for a local path."""
    # Not urllib.parse: it takes `a:b` for a URL, and file names may have colons.
    match = _URL.match(str(path))
    return match[1].lower() if match else ""
