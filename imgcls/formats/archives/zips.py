"""List the members of a zip from its directory at the end, by the standard library's `zipfile`.

Members that are stored or deflated are read; encrypted ones, other methods and links are refused.
"""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

from imgcls.errors import DataError
from imgcls.formats.archives.member import (
    DEFLATED,
    STORED,
    Member,
    clean_path,
    is_archive_name,
    is_other_archive_name,
    refused,
)

#: zipfile keeps the directory in memory, about a kilobyte an entry
_MAX_DIRECTORY_BYTES = 256 << 20
#: the end record: signature, 8 bytes of counts, size of the directory; a comment of 64 KiB may follow
_END = struct.Struct("<4s8xI6x")
_END_MAGIC = b"PK\x05\x06"
#: that of a zip64, whose size counts in place of the other's, and the locator between the two
_END64 = struct.Struct("<4s36xQ8x")
_END64_MAGIC = b"PK\x06\x06"
_LOCATOR = struct.Struct("<4s4xQ4x")
_LOCATOR_MAGIC = b"PK\x06\x07"
_MAX_COMMENT_BYTES = 1 << 16
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_LOCAL_MAGIC = b"PK\x03\x04"
#: no deflated content is larger than so many times its stored form
_MAX_RATIO = 1032
_IS_ENCRYPTED = 1
#: what zipfile raises for damage, beside its own error
_DAMAGE = (zipfile.BadZipFile, zipfile.LargeZipFile, struct.error, NotImplementedError, ValueError,
           IndexError, OverflowError, EOFError)


def iter_zip(stream: BinaryIO, archive: object) -> Iterator[Member | DataError]:
    """Yield the files of a zip in the order of its directory, and a DataError for each that is refused.

    A zip that is cut or damaged raises a DataError.
    """
    size = stream.seek(0, 2)
    # before zipfile, which reads all of the directory at once
    _check_directory(stream, archive, size)
    try:
        infos = zipfile.ZipFile(stream).infolist()
    except _DAMAGE as error:
        raise DataError(archive, f"is cut or damaged: {str(error) or type(error).__name__}") from None
    end = 0
    # in the order of their places, to see whether two share bytes, as in a zip bomb
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < 0:
            raise DataError(archive, "is cut: its first bytes are missing")
        if info.header_offset < end or info.header_offset + info.compress_size > size:
            raise DataError(archive, f"{clean_name(info)!r} overlaps another member or the end: the zip is "
                                     "damaged", info.header_offset)
        end = info.header_offset + _LOCAL_HEADER.size + info.compress_size
    # only now, in the directory's own order
    for info in infos:
        if info.is_dir():
            continue
        try:
            yield _member(info)
        except ValueError as error:
            yield refused(archive, info.filename, info.header_offset, str(error))


def clean_name(info: zipfile.ZipInfo) -> str:
    """Return a name short enough for a message."""
    return info.filename[:120]


def _check_directory(stream: BinaryIO, archive: object, size: int) -> None:
    """Refuse a directory that is not there or too large for the memory."""
    begin = stream.seek(max(0, size - _MAX_COMMENT_BYTES - 1000))
    tail = stream.read()
    # the last one: a comment behind it may not hold another
    place = tail.rfind(_END_MAGIC)
    if place < 0 or place + _END.size > len(tail):
        raise DataError(archive, "is empty" if not size else "is no zip, or cut: the directory at its end is "
                                                             "missing")
    directory_bytes = _END.unpack_from(tail, place)[1]
    locator = place - _LOCATOR.size
    if locator >= 0 and tail.startswith(_LOCATOR_MAGIC, locator):
        # zipfile takes the record in front of the locator, or, in newer versions, where the locator says
        places = {begin + locator - _END64.size, _LOCATOR.unpack_from(tail, locator)[1]}
        sizes64 = [_directory_bytes(stream, offset) for offset in places if 0 <= offset < size]
        directory_bytes = max((found for found in sizes64 if found is not None), default=directory_bytes)
    if directory_bytes > _MAX_DIRECTORY_BYTES:
        raise DataError(archive, f"a directory of {directory_bytes >> 20} MiB, more than the "
                                 f"{_MAX_DIRECTORY_BYTES >> 20} that are read: a tar has no such bound")


def _directory_bytes(stream: BinaryIO, offset: int) -> int | None:
    """Return what the end record of a zip64 at `offset` says; None where there is none."""
    stream.seek(offset)
    record = stream.read(_END64.size)
    is_record = len(record) == _END64.size and record.startswith(_END64_MAGIC)
    return _END64.unpack(record)[1] if is_record else None


def _member(info: zipfile.ZipInfo) -> Member:
    """Return a file of the directory; a ValueError says why it is refused."""
    path = clean_path(info.filename)
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise ValueError("a symbolic link" if stat.S_ISLNK(mode) else "a device, a pipe or a socket")
    if info.flag_bits & _IS_ENCRYPTED:
        raise ValueError("it is encrypted")
    if info.compress_type not in (STORED, DEFLATED):
        raise ValueError(f"compression method {info.compress_type}; stored and deflated ones are read")
    if info.compress_type == STORED and info.file_size != info.compress_size:
        raise ValueError(f"it is to have {info.file_size} bytes, and {info.compress_size} are stored")
    # a bomb says so itself: refused before memory is taken for it
    if info.file_size > _MAX_RATIO * info.compress_size:
        raise ValueError(f"it is to become {info.file_size} bytes from {info.compress_size}, which cannot be")
    # reading one would mean to unpack it first, to memory or disk
    if is_archive_name(path) or is_other_archive_name(path):
        raise ValueError("archives in a zip are not read")
    return Member(path, info.header_offset, info.file_size, info.compress_size, info.compress_type,
                  info.CRC & 0xFFFFFFFF)


def content_offset(header: bytes, offset: int) -> int:
    """Return where the content begins behind the local header at `offset`; ValueError where there is none."""
    if len(header) < _LOCAL_HEADER.size or not header.startswith(_LOCAL_MAGIC):
        raise ValueError("no local header of a zip: the archive is damaged")
    _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack_from(header)
    return offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
