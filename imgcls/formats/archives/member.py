"""The description of one member of an archive, and which names and files are refused."""

from __future__ import annotations

import os
from typing import NamedTuple

from imgcls.errors import DataError, verbatim

#: an archive of more members is noise, or an attack: ImageNet's largest has 14 million
MAX_MEMBERS = 200_000_000
#: bytes of a path in an archive, as Linux bounds them
MAX_PATH_BYTES = 4096
#: levels of tars inside tars: ImageNet has two
MAX_DEPTH = 4
#: of a refused member's name, at most this many characters are shown
_SHOWN_CHARACTERS = 120

TAR_SUFFIX = ".tar"
ZIP_SUFFIX = ".zip"
#: how the content is stored: as it is, or by zlib
STORED, DEFLATED = 0, 8


class Member(NamedTuple):
    """A regular file in an archive."""

    #: `/` between its parts; an inner tar is a folder of its name without .tar
    path: str
    #: byte of the archive where the content begins; in a zip, where its local header begins
    offset: int
    #: bytes of the content, and as they are stored
    size: int
    stored_size: int
    #: STORED or DEFLATED
    method: int = STORED
    #: CRC-32 of the content, which a zip has and a tar has not (-1)
    crc: int = -1

    @property
    def is_zipped(self) -> bool:
        """Whether a local header stands in front of the content."""
        return self.crc >= 0


def is_archive_name(path: str) -> bool:
    """Return whether a file is called as an archive that is read here."""
    return path.lower().endswith((TAR_SUFFIX, ZIP_SUFFIX))


def is_other_archive_name(path: str) -> bool:
    """Return whether a file is called as an archive that is not read here."""
    return path.lower().endswith((".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst",
                                  ".7z", ".rar"))


def refused(archive: object, path: str, offset: int, why: str) -> DataError:
    """Return the error for a member that is left out: its name, the byte where it stands, and `why`."""
    shown = path if len(path) <= _SHOWN_CHARACTERS else path[:_SHOWN_CHARACTERS] + "..."
    return DataError(archive, f"{verbatim(shown)} is left out: {why}", offset)


def clean_path(path: str) -> str:
    """Return a member's path without `./` and doubled slashes; a ValueError says why it is not safe."""
    if not path or "\0" in path:
        raise ValueError("its name is empty or holds a zero byte")
    if len(path) > MAX_PATH_BYTES or len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise ValueError(f"its name has more than {MAX_PATH_BYTES} bytes")
    if path.startswith("/"):
        raise ValueError("its name begins at the root of the file system")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError("its name leads out of the archive")
    if not parts:
        raise ValueError("its name is empty or holds a zero byte")
    return "/".join(parts)
