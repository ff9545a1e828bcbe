"""Read images from archives behind URLs by range requests, ahead of the packer and without a local copy.

`image_trees` gives the packer a `RemoteImageReader` for such a tree. It looks ahead some entries of the list,
reads neighbouring members in one request, and keeps many requests in flight: a list in the order of the
archive is read as a stream, a shuffled one by a request for each image.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import NamedTuple, Protocol, TypeVar

from imgcls.formats.archives import ArchiveIndex, Member, RemoteMemberReader
from imgcls.formats.recordio import MAX_PAYLOAD_BYTES
from imgcls.storage.remote import PART_BYTES
from imgcls.storage.remote_file import check_unchanged, read_range
from imgcls.storage.thread_pool import DaemonPool

#: returns memory for an image of at most so many bytes
Reserve = Callable[[int], memoryview]
#: most entries, and bytes, of a group that is requested ahead
_WINDOW_ENTRIES = 1024
_WINDOW_BYTES = 32 << 20
#: members no farther apart are read in one request: the bytes between them cost less than a round trip
_GAP_BYTES = 64 << 10
#: requests in flight: the drivers of stores keep about so many connections
_REQUESTS_AT_ONCE = 24


class _HasPath(Protocol):
    @property
    def path(self) -> str: ...


Entry = TypeVar("Entry", bound=_HasPath)


class _MemberRequest(NamedTuple):
    """A member to be read, and the range of bytes to request."""

    reader: RemoteMemberReader
    begin: int
    end: int
    path: str


class _Block(NamedTuple):
    """Bytes of an archive from `begin` on, requested but perhaps not here yet."""

    begin: int
    data: Future[bytes]


class RemoteImageReader:
    """Reads images by their paths, as `image_trees.ImageReader` does; threads may share it."""

    def __init__(self, index: ArchiveIndex) -> None:
        self._index = index
        self._lock = threading.Lock()
        self._blocks: dict[str, _Block] = {}  # by path, until the image is read
        self._pool: DaemonPool | None = None

    def read(self, path: str) -> bytes:
        """Return the content of a member; a ValueError says why there is none."""
        return bytes(self.read_into(path, lambda size: memoryview(bytearray(size))))

    def read_into(self, path: str, reserve: Reserve) -> memoryview:
        """Read a member straight into the memory that `reserve` gives for its size."""
        with self._lock:
            block = self._blocks.pop(path, None)
        reader, member = self._find(path)
        image = reserve(member.size)
        # none if the list names it twice, or if it was not read ahead
        if block:
            reader.extract(member, block.data.result(), block.begin, image)
        else:
            reader.read_into(member, image)
        return image

    def read_ahead(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Yield the entries, their images requested; each is to be read once, in about this order.

        Raise DataError at the end if an archive has changed meanwhile.
        """
        readers: set[RemoteMemberReader] = set()
        windows = self._windows(iter(entries), readers)
        window = next(windows, None)
        while window is not None:
            following = next(windows, None)  # requested while the current window is packed
            yield from window
            window = following
        # after the last byte has come: a later change cannot have touched any of them
        self._wait()
        check_unchanged((reader.path, reader.version) for reader in readers)

    def _find(self, path: str) -> tuple[RemoteMemberReader, Member]:
        found = self._index.find(path)
        if found is None:
            raise ValueError("no such member in the archive")
        reader, member = found
        assert isinstance(reader, RemoteMemberReader)
        # refused before memory is taken: the number comes from the archive
        if member.size > MAX_PAYLOAD_BYTES:
            raise ValueError(f"{member.size} bytes are more than a record holds")
        return reader, member

    def _windows(self, entries: Iterator[Entry], readers: set[RemoteMemberReader]) -> Iterator[list[Entry]]:
        """Request the images of the entries, group by group; yield each group."""
        group: list[Entry] = []
        wanted: list[_MemberRequest] = []
        num_bytes = 0
        for entry in entries:
            group.append(entry)
            try:
                reader, member = self._find(entry.path)
            except ValueError:
                pass  # reported when it is read
            else:
                wanted.append(_MemberRequest(reader, *reader.span(member), entry.path))
                readers.add(reader)
                num_bytes += member.stored_size
            if len(group) >= _WINDOW_ENTRIES or num_bytes >= _WINDOW_BYTES:
                self._request(wanted)
                yield group
                group, wanted, num_bytes = [], [], 0
        self._request(wanted)
        if group:
            yield group

    def _request(self, wanted: list[_MemberRequest]) -> None:
        """Request the members, neighbours together."""
        # sorted by archive and offset: a list in another order has neighbours too
        wanted.sort(key=lambda item: (id(item.reader), item.begin))
        first = 0
        for last, item in enumerate(wanted):
            following = wanted[last + 1] if last + 1 < len(wanted) else None
            if (following and following.reader is item.reader and following.begin <= item.end + _GAP_BYTES
                    and following.end - wanted[first].begin <= PART_BYTES):
                continue
            self._fetch(wanted[first:last + 1])
            first = last + 1

    def _fetch(self, group: list[_MemberRequest]) -> None:
        if self._pool is None:
            self._pool = DaemonPool(_REQUESTS_AT_ONCE, "imgcls-members")
            # the packer closes no reader: the threads end when this one is collected
            weakref.finalize(self, self._pool.close, wait=False)
        # ranges in a zip leave room for headers and may overlap: the last need not end last
        begin, end = group[0].begin, max(item.end for item in group)
        block = _Block(begin, self._pool.submit(read_range, group[0].reader.path, begin, end))
        with self._lock:
            for item in group:
                self._blocks[item.path] = block

    def _wait(self) -> None:
        """Wait for all requests; a failed one is reported where its image is read."""
        with self._lock:
            blocks = list(self._blocks.values())
        for block in blocks:
            block.data.exception()
