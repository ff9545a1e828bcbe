"""The checksum of an export, inside the export: a damaged file is refused, and does not answer wrongly.

Weights are plain bytes in most formats, and a runtime computes with any bytes. A `.pt2` needs no such
checksum: it is an archive, which has one of each of its files.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
from pathlib import Path

from imgcls.errors import DataError

#: the description's entry, and its value before the checksum is known, with which the checksum is computed
NAME = "file_sha256"
UNKNOWN = "0" * 64
#: JSON, or JSON as a string inside of JSON, whose quotes are escaped
_ENTRY = re.compile(NAME.encode() + rb'\\?": ?\\?"([0-9a-f]{64})')


def seal(path: Path) -> None:
    """Write the checksum of a file over the UNKNOWN in its description."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        place = _place(content)
        assert place is not None
        content[place:place + len(UNKNOWN)] = _checksum(content, place)


def verify(path: str | os.PathLike[str]) -> None:
    """Raise DataError for a file that has a checksum, and another content than when that was written.

    It finds damage and no forgery: whoever changes a file on purpose can write a new checksum.
    """
    with Path(path).open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return  # an empty file cannot be mapped; the format's reader reports it
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            place = _place(content)
            # without one the file is from elsewhere, or damaged at that place, which its reader reports
            if place is not None and content[place:place + len(UNKNOWN)] != _checksum(content, place):
                raise DataError(path, "was changed or damaged after it was written: its checksum is another")


def _place(content: mmap.mmap) -> int | None:
    """Return the offset of the checksum, None where there is none."""
    # the first one: a description has it before the names of classes, which may be any text
    found = _ENTRY.search(content)
    return found.start(1) if found else None


def _checksum(content: mmap.mmap, place: int) -> bytes:
    """Return the SHA-256 of the content with UNKNOWN at `place`, in hexadecimal."""
    checksum = hashlib.sha256()
    # views, not slices: a file may have two gigabytes
    with memoryview(content) as view, view[:place] as before, view[place + len(UNKNOWN):] as behind:
        for part in (before, UNKNOWN.encode(), behind):
            checksum.update(part)
    return checksum.hexdigest().encode()
