"""Images out of archives behind URLs: read by ranges, ahead of whoever packs them, and never copied.

`image_trees` gives the packer a `RemoteReader` for such a tree. It looks some entries of the list ahead,
asks for what stands side by side in one request, and has many requests under way: a list in the order of the
archive is a stream, and a shuffled one a request for each image.
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
#: entries that are asked for together: so many, or so many bytes
_WINDOW_ENTRIES = 1024
_WINDOW_BYTES = 32 << 20
#: members that are no farther apart come with one request: what lies between is less than a round trip
_GAP_BYTES = 64 << 10
#: requests that are under way: the drivers of stores keep about so many connections
_REQUESTS_AT_ONCE = 24


class _HasPath(Protocol):
    @property
    def path(self) -> str: ...


Entry = TypeVar("Entry", bound=_HasPath)


class _Wanted(NamedTuple):
    """A member that is to be read, and where its bytes are asked for."""

    reader: RemoteMemberReader
    begin: int
    end: int
    path: str


class _Block(NamedTuple):
    """Bytes of an archive from `begin` on that are on their way."""

    begin: int
    data: Future[bytes]


class RemoteReader:
    """Reads images by their paths, as `image_trees.ImageReader`; threads may share it."""

    def __init__(self, index: ArchiveIndex) -> None:
        self._index = index
        self._lock = threading.Lock()
        self._blocks: dict[str, _Block] = {}  # by path, until the image is read
        self._pool: DaemonPool | None = None

    def read(self, path: str) -> bytes:
        """Return the content of a member; a ValueError says why there is none."""
        return bytes(self.read_into(path, lambda size: memoryview(bytearray(size))))

    def read_into(self, path: str, reserve: Reserve) -> memoryview:
        """Read a member without a copy more."""
        with self._lock:
            block = self._blocks.pop(path, None)
        reader, member = self._find(path)
        image = reserve(member.size)
        # without one it is of a list that names it twice, or of nobody who looked ahead
        if block:
            reader.extract(member, block.data.result(), block.begin, image)
        else:
            reader.read_into(member, image)
        return image

    def read_ahead(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Yield the entries, whose images are read then, each once and about in this order.

        A DataError at the end where an archive is another by then.
        """
        readers: set[RemoteMemberReader] = set()
        windows = self._windows(iter(entries), readers)
        window = next(windows, None)
        while window is not None:
            following = next(windows, None)  # asked for while those before it are used
            yield from window
            window = following
        # all bytes are here by now: a change that comes later changes none of them
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
        """Yield the entries in groups, whose images have been asked for by then."""
        group: list[Entry] = []
        wanted: list[_Wanted] = []
        num_bytes = 0
        for entry in entries:
            group.append(entry)
            try:
                reader, member = self._find(entry.path)
            except ValueError:
                continue  # told when it is read
            wanted.append(_Wanted(reader, *reader.span(member), entry.path))
            readers.add(reader)
            num_bytes += member.stored_size
            if len(group) >= _WINDOW_ENTRIES or num_bytes >= _WINDOW_BYTES:
                self._request(wanted)
                yield group
                group, wanted, num_bytes = [], [], 0
        self._request(wanted)
        if group:
            yield group

    def _request(self, wanted: list[_Wanted]) -> None:
        """Have the members fetched, those side by side together."""
        # by archive and place: a list in another order has neighbours too
        wanted.sort(key=lambda item: (id(item.reader), item.begin))
        first = 0
        for last, item in enumerate(wanted):
            following = wanted[last + 1] if last + 1 < len(wanted) else None
            if (following and following.reader is item.reader and following.begin <= item.end + _GAP_BYTES
                    and following.end - wanted[first].begin <= PART_BYTES):
                continue
            self._fetch(wanted[first:last + 1])
            first = last + 1

    def _fetch(self, group: list[_Wanted]) -> None:
        if self._pool is None:
            self._pool = DaemonPool(_REQUESTS_AT_ONCE, "imgcls-members")
            # readers are not closed: the threads end when the last one goes
            weakref.finalize(self, self._pool.close, wait=False)
        # of a zip the room for headers may reach into the next member: the last need not end last
        begin, end = group[0].begin, max(item.end for item in group)
        block = _Block(begin, self._pool.submit(read_range, group[0].reader.path, begin, end))
        with self._lock:
            for item in group:
                self._blocks[item.path] = block

    def _wait(self) -> None:
        """Wait until nothing is on its way; what failed is told where it is read."""
        with self._lock:
            blocks = list(self._blocks.values())
        for block in blocks:
            block.data.exception()
