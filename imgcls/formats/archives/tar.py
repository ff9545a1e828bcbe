"""List the members of a tar and of the tars in it, header by header, without reading their contents.

Single headers are parsed by the standard library's `tarfile.TarInfo.frombuf`. The walk over them is ours:
`TarFile` keeps every member in memory, reads long names of any length, and gives no offsets in a tar of tars.
Formats are ustar, GNU and pax (POSIX.1-2001); sparse files are refused.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from typing import BinaryIO

from imgcls.errors import DataError, verbatim
from imgcls.formats.archives.member import (
    MAX_DEPTH,
    MAX_MEMBERS,
    TAR_SUFFIX,
    Member,
    clean_path,
    is_archive_name,
    is_other_archive_name,
    refused,
)

BLOCK = tarfile.BLOCKSIZE
#: a long name or a pax header of more bytes is refused
_MAX_HEADER_BYTES = 1 << 20
#: types of members that describe the next one
_LONG_NAME, _LONG_LINK, _PAX, _SOLARIS_PAX, _GLOBAL_PAX = b"L", b"K", b"x", b"X", b"g"
#: GNU's label of a volume: it names nothing
_LABEL = b"V"
_REFUSED = {tarfile.LNKTYPE: "a hard link", tarfile.SYMTYPE: "a symbolic link", tarfile.CHRTYPE: "a device",
            tarfile.BLKTYPE: "a device", tarfile.FIFOTYPE: "a pipe", tarfile.GNUTYPE_SPARSE: "a sparse file"}
#: first bytes of files that are compressed, and the command that makes a plain tar of them
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
#: what is behind the end is looked through in such steps
_STEP = 1 << 20

#: called with the byte of the archive that has been reached
Progress = Callable[[int], object]


def iter_tar(stream: BinaryIO, archive: object, progress: Progress = lambda offset: None,
             ) -> Iterator[Member | DataError]:
    """Yield the regular files of a tar in their order, and a DataError for each member that is refused.

    `stream` is the open file; other readers may seek in it between two members. A tar that is cut, damaged or
    compressed raises a DataError with the byte where that shows.
    """
    # the size as it is now: members are compared with it
    end = stream.seek(0, 2)
    head = _read(stream, 0, 8)
    for magic, program in _COMPRESSED.items():
        if head.startswith(magic):
            raise DataError(archive, f"is compressed by {program}, so its members cannot be read where they "
                                     f"stand; `{program} -dk` makes a plain tar of it".replace("`", "'"))
    walk = _Walk(stream, archive, progress)
    yield from walk.members(0, end, "", 0)


def _read(stream: BinaryIO, offset: int, size: int) -> bytes:
    stream.seek(offset)
    return stream.read(size)


class _Walk:
    """A walk over the headers of one file. Its count of members includes those of inner tars."""

    def __init__(self, stream: BinaryIO, archive: object, progress: Progress) -> None:
        self._stream = stream
        self._archive = archive
        self._progress = progress
        self._num_members = 0

    def members(self, begin: int, end: int, folder: str, depth: int) -> Iterator[Member | DataError]:
        """Yield the members of the tar between two bytes, their paths below `folder`."""
        where = f" of the inner tar {verbatim(folder.rstrip('/'))}{TAR_SUFFIX}" if folder else ""
        offset, name, size = begin, "", -1  # name and size that a header before the member's own gives
        while True:
            info = self._header(offset, end, where)
            if info is None:
                self._check_end(offset, end, where)
                return
            header, offset = offset, offset + BLOCK
            if info.type in (_LONG_NAME, _LONG_LINK, _PAX, _SOLARIS_PAX, _GLOBAL_PAX):
                data = self._extension(info, offset, end, where)
                offset += _padded(info.size)
                if info.type == _LONG_NAME:
                    name = data.partition(b"\0")[0].decode("utf-8", "surrogateescape")
                elif info.type in (_PAX, _SOLARIS_PAX):
                    name, size = self._pax(data, header, name)
                continue
            # what an extension said holds for this member alone
            path, name = name or info.name, ""
            info.size, size = info.size if size < 0 else size, -1
            has_content = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
            if info.size < 0 or (has_content and info.size > end - offset):
                raise DataError(self._archive, f"{verbatim(path)} is to have {info.size} bytes, and "
                                f"{end - offset} are left{where}: the archive is cut or damaged", header)
            yield from self._member(info, path, folder, header, offset, depth)
            # links and devices have a size without bytes behind them
            offset += _padded(info.size) if has_content else 0
            self._progress(offset)

    def _member(self, info: tarfile.TarInfo, path: str, folder: str, header: int, offset: int,
                depth: int) -> Iterator[Member | DataError]:
        """Yield what one member gives: itself, the members of an inner tar, or the error that refuses it."""
        self._num_members += 1
        if self._num_members > MAX_MEMBERS:
            raise DataError(self._archive, f"more than {MAX_MEMBERS} members", header)
        if info.isdir() or info.type == _LABEL:
            return
        try:
            if not info.isreg() or info.type == tarfile.GNUTYPE_SPARSE:
                raise ValueError(_REFUSED.get(info.type, f"a member of the unknown kind {info.type!r}"))
            path = folder + clean_path(path)
            is_tar = path.lower().endswith(TAR_SUFFIX)
            if is_other_archive_name(path) or (is_archive_name(path) and not is_tar):
                raise ValueError("of the archives in a tar, only plain tars are read")
            if is_tar and not info.size:
                raise ValueError("it is empty")
            if is_tar and depth == MAX_DEPTH:
                raise ValueError(f"tars in tars are read {MAX_DEPTH} levels deep")
        except ValueError as error:
            yield refused(self._archive, folder + path if not path.startswith(folder) else path, header,
                          str(error))
            return
        if is_tar:
            yield from self.members(offset, offset + info.size, path[:-len(TAR_SUFFIX)] + "/", depth + 1)
        else:
            yield Member(path, offset, info.size, info.size)

    def _header(self, offset: int, end: int, where: str) -> tarfile.TarInfo | None:
        """Return the header at `offset`; None where the zeros that end a tar begin there."""
        if offset >= end:
            why = "is empty" if not end else (f"ends{where} without the two blocks of zeros that end a "
                                              f"tar: it is "
                                              "cut, or was written by a program that leaves them out (then "
                                              "'head -c 1024 /dev/zero >> FILE' adds them)")
            raise DataError(self._archive, why, offset)
        block = _read(self._stream, offset, min(BLOCK, end - offset))
        if len(block) < BLOCK:
            raise DataError(self._archive, f"ends within a header{where}: it is cut", offset)
        if (info := _plain_header(block)) is not None:
            return info
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.EOFHeaderError:  # pyright: ignore[reportAttributeAccessIssue]
            return None
        except (tarfile.HeaderError, ValueError, OverflowError):
            why = f"no header of a tar{where}: the archive is damaged" if offset else "is no tar"
            raise DataError(self._archive, why, offset) from None

    def _extension(self, info: tarfile.TarInfo, offset: int, end: int, where: str) -> bytes:
        """Return the content of a header that extends the next one."""
        if not 0 <= info.size <= min(_MAX_HEADER_BYTES, end - offset):
            raise DataError(self._archive, f"a long name or pax header{where} of {info.size} bytes: the "
                                           f"archive "
                                           "is cut or damaged", offset - BLOCK)
        return _read(self._stream, offset, info.size)

    def _pax(self, data: bytes, header: int, name: str) -> tuple[str, int]:
        """Return (path, size) of a pax header; without a path `name`, without a size -1."""
        size, position = -1, 0
        while position < len(data) and data[position]:
            length, _, _ = data[position:position + 20].partition(b" ")
            # a record is `LENGTH KEY=VALUE\n`, and counts itself
            is_number = length.isdigit() and len(length) + 5 <= int(length) <= len(data) - position
            record = data[position:position + int(length)] if is_number else b""
            key, equals, value = record[len(length) + 1:-1].partition(b"=")
            if not equals or not record.endswith(b"\n"):
                raise DataError(self._archive, "a damaged pax header", header)
            if key == b"path":
                name = value.decode("utf-8", "surrogateescape")
            elif key == b"size":
                size = int(value) if value.isdigit() and len(value) < 20 else 1 << 63
            elif key.startswith(b"GNU.sparse."):
                raise DataError(self._archive, "a sparse file, which is not read: make the tar without "
                                               "--sparse",
                                header)
            position += len(record)
        return name, size

    def _check_end(self, offset: int, end: int, where: str) -> None:
        """Refuse anything but zeros behind the end: a hole in the file would end the listing in silence."""
        position = offset
        while position < end:
            block = _read(self._stream, position, min(_STEP, end - position))
            if block.count(0) != len(block):
                raise DataError(self._archive, f"zeros where a header should be{where}, and more behind "
                                               f"them: a "
                                "hole in the file, or several tars one behind the other", offset)
            position += len(block) or _STEP


def _plain_header(block: bytes) -> tarfile.TarInfo | None:
    """Return the header of a regular file with a short name and an octal size, as nearly all images have it.

    None for all others, and for damage, which `frombuf` looks at: it takes four times as long.
    """
    if block[156:157] != tarfile.REGTYPE or block[345:346] != b"\0":
        return None
    size = block[124:136].rstrip(b" \0")
    checksum = block[148:156].rstrip(b" \0")
    if not size.isdigit() or not checksum.isdigit() or b"8" in size + checksum or b"9" in size + checksum:
        return None
    # the checksum counts its own field as blanks
    if sum(block) - sum(block[148:156]) + 8 * 32 != int(checksum, 8):
        return None
    info = tarfile.TarInfo(block[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape"))
    info.size = int(size, 8)
    return info


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
