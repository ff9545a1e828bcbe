"""Read archives: their members, and the content of one of them, from any thread."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from imgcls.errors import DataError, reason
from imgcls.formats.archives.member import DEFLATED, ZIP_SUFFIX, Member
from imgcls.formats.archives.tar import Progress, iter_tar
from imgcls.formats.archives.zips import content_offset, iter_zip
from imgcls.storage.reading import open_regular
from imgcls.storage.remote import RemotePath
from imgcls.storage.remote_file import RemoteFile, read_range

_LOCAL_HEADER_BYTES = 30
#: what the local header of a member may have beside its name, and mostly has not
_EXTRA_BYTES = 512


def iter_members(path: str | os.PathLike[str], progress: Progress = lambda offset: None,
                 ) -> Iterator[Member | DataError]:
    """Yield the files in a tar or zip in the archive's order, and a DataError for each refused member.

    Paths use `/`; an inner `X.tar` is a folder X. A file that is cut, damaged or no archive raises a
    DataError with the byte where that shows. Of an archive behind a URL only what this needs is fetched.
    """
    try:
        if isinstance(path, RemotePath):
            with RemoteFile(path) as stream:
                yield from iter_stream(stream, path, progress)  # pyright: ignore[reportArgumentType]
            return
        # no buffer: every header would fill it
        with open(path, "rb", buffering=0, opener=open_regular) as stream:
            yield from iter_stream(stream, path, progress)  # pyright: ignore[reportArgumentType]
    except OSError as error:
        raise DataError(path, reason(error)) from error


def iter_stream(stream: BinaryIO, path: str | os.PathLike[str], progress: Progress = lambda offset: None,
                ) -> Iterator[Member | DataError]:
    """Yield the files in an archive that is open already; `path` is what messages call it."""
    if os.fspath(path).lower().endswith(ZIP_SUFFIX):
        yield from iter_zip(stream, path)
    else:
        yield from iter_tar(stream, path, progress)


class MemberReader:
    """Reads members of one archive; threads may share it. Close it, or use it as a context."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the archive; a DataError where it cannot be."""
        self.path = path
        try:
            self._handle = open_regular(os.fspath(path))
        except OSError as error:
            raise DataError(path, reason(error)) from error

    def __enter__(self) -> MemberReader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the archive."""
        handle, self._handle = getattr(self, "_handle", -1), -1
        if handle >= 0:
            with contextlib.suppress(OSError):
                os.close(handle)

    def read(self, member: Member) -> bytes:
        """Return the content of a member; a ValueError or OSError says why it could not be read.

        No more than `member.size` bytes are taken, which the caller bounds.
        """
        content = bytearray(member.size)
        self.read_into(member, memoryview(content))
        return bytes(content)

    def read_into(self, member: Member, target: memoryview) -> None:
        """Read the content into `target`, which must have `member.size` bytes; errors as in `read`."""
        offset = member.offset
        if member.is_zipped:
            offset = content_offset(os.pread(self._handle, _LOCAL_HEADER_BYTES, offset), offset)
        if member.method == DEFLATED:
            # stored bytes are bounded by the file, unpacked ones by what the directory says
            _inflate_into(member, os.pread(self._handle, member.stored_size, offset), target)
        else:
            num_read = 0
            while num_read < member.size:
                # at an explicit offset: threads share the handle, and with it the file's position
                count = os.preadv(self._handle, [target[num_read:]], offset + num_read)
                if not count:
                    raise ValueError(f"{num_read} of {member.size} bytes are there: the archive is cut")
                num_read += count
        _check_crc(member, target)


class RemoteMemberReader(MemberReader):
    """Reads members of an archive behind a URL, each by a request, or out of bytes that are there already."""

    def __init__(self, path: RemotePath) -> None:
        self.path: RemotePath = path
        info = path.stat()
        self._size = info.size
        #: of the archive that is read
        self.version = info.version

    def span(self, member: Member) -> tuple[int, int]:
        """Return (first byte, end) of the range to request for a member."""
        end = member.offset + member.stored_size
        if member.is_zipped:
            end += _LOCAL_HEADER_BYTES + len(os.fsencode(member.path)) + _EXTRA_BYTES
        return member.offset, min(end, self._size)

    def read_into(self, member: Member, target: memoryview) -> None:
        """Read the content into `target`; see `MemberReader`. A RunError where the server is lost."""
        begin, end = self.span(member)
        self.extract(member, read_range(self.path, begin, end), begin, target)

    def extract(self, member: Member, data: bytes, first: int, target: memoryview) -> None:
        """Read the content out of the archive's bytes from `first` on, which hold the member's span."""
        offset = member.offset
        if member.is_zipped:
            begin = offset - first
            offset = content_offset(data[begin:begin + _LOCAL_HEADER_BYTES], offset)
        # a view: of a stored member no byte is copied but into the target
        stored = memoryview(data)[offset - first:offset - first + member.stored_size]
        if len(stored) < member.stored_size:  # an unusually long header stands in front of it
            end = min(offset + member.stored_size, self._size)
            stored = memoryview(read_range(self.path, offset, end))
        if member.method == DEFLATED:
            _inflate_into(member, stored, target)
        elif len(stored) < member.size:
            raise ValueError(f"{len(stored)} of {member.size} bytes are there: the archive is cut")
        else:
            target[:] = stored
        _check_crc(member, target)


def open_reader(path: str | os.PathLike[str]) -> MemberReader:
    """Return a reader of the members of an archive, local or behind a URL."""
    return RemoteMemberReader(path) if isinstance(path, RemotePath) else MemberReader(path)


def _inflate_into(member: Member, stored: bytes | memoryview, target: memoryview) -> None:
    # negative: deflated bytes in a zip have no header of zlib's own
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        # a byte more than there should be, to see whether there is
        content = inflater.decompress(stored, member.size + 1)
    except zlib.error:
        raise ValueError("its compressed bytes are damaged") from None
    if len(content) != member.size:
        raise ValueError(f"it has not the {member.size} bytes that the directory says: the archive is "
                         "damaged")
    target[:] = content


def _check_crc(member: Member, content: memoryview) -> None:
    if member.is_zipped and zlib.crc32(content) != member.crc:
        raise ValueError("its checksum differs: the archive is damaged")


def read_member(path: str | os.PathLike[str], member: Member) -> bytes:
    """Return the content of one member; see `MemberReader.read`."""
    with open_reader(path) as reader:
        return reader.read(member)
