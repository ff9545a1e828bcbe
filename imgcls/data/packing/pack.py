"""Pack the images of a list: read, shrunk and encoded by threads, written to a `.rec` in the list's order.

`pack_list` is what im2rec does for each list, `make_seekable` for a record file. The bytes are those that
MXNet's im2rec.py writes. Files are read first and decoded from memory, so any file name works. What cannot be
packed is left out and listed in the result; it never ends the run.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice

from imgcls.data.image_trees import FileReader, ImageReader
from imgcls.data.packing.config import PackConfig
from imgcls.data.packing.images import quiet_opencv, reencode
from imgcls.data.packing.jpeg import find_damage, with_restarts
from imgcls.data.packing.pipeline import BackgroundSync, map_in_order
from imgcls.data.packing.resumable import ResumableWriter, SkippedEntry
from imgcls.errors import reason
from imgcls.formats.lists import ListEntry
from imgcls.formats.recordio import (
    MAX_PAYLOAD_BYTES,
    Block,
    ImageHeader,
    RecordReader,
    RecordWriter,
    pack,
    unpack,
)

#: files that are stored as they are: so many go into a block, ...
_BLOCK_FILES = 16
#: ... and a thread is so many blocks ahead; each keeps its memory
_BLOCKS_AHEAD = 2
#: what a record may need beside the image and its head: to spare
_SPARE_BYTES = 64

#: called after each entry with how many there were
Progress = Callable[[int], object]


@dataclass
class PackResult:
    """The result of packing a list."""

    num_records: int = 0
    size_bytes: int = 0
    skipped: list[SkippedEntry] = field(default_factory=list)


def pack_list(entries: Iterable[ListEntry], root: str | ImageReader, path: str | os.PathLike[str],
              config: PackConfig, *, progress: Progress = lambda count: None, join: bool = True,
              writer: RecordWriter | None = None) -> PackResult:
    """Write `path` (a `.rec`) and its `.idx` from the images under `root`, in the order of `entries`.

    Both appear when all is done, or not at all. Without `join`, root and path are put together as they are,
    with no separator. A `writer` that resumes from an earlier run is given what that run did not write.
    """
    reader = FileReader(root, join=join) if isinstance(root, str) else root
    # Files that are stored as they are need no decoder, nor the time to load one.
    with (nullcontext() if config.pass_through else quiet_opencv(), writer or RecordWriter(path) as writer,
          BackgroundSync(writer) as sync):
        sink = _Sink(writer, sync, progress)
        write = _store_files if config.pass_through and not config.seekable else _encode_files
        write(reader.read_ahead(islice(entries, sink.count, None)), reader, config, sink)
        return PackResult(writer.count, writer.size_bytes, sink.skipped)


class _Sink:
    """Takes the result of each entry, in their order."""

    def __init__(self, writer: RecordWriter, sync: BackgroundSync, progress: Progress) -> None:
        self.writer = writer
        self._sync = sync
        self._progress = progress
        self._resumed = writer if isinstance(writer, ResumableWriter) else None
        #: entries so far, and those of them that were left out
        self.count = self._resumed.num_entries if self._resumed else 0
        self.skipped = list(self._resumed.skipped) if self._resumed else []
        if self.count:
            progress(self.count)

    def add(self, entry: ListEntry, problem: str) -> None:
        """Count an entry whose record is written, or that was left out because of a problem."""
        if problem:
            self.skipped.append(SkippedEntry(entry.path, problem))
        self.count += 1
        if self._resumed:
            self._resumed.add(self.skipped[-1] if problem else None)
        self._progress(self.count)

    def flush(self) -> None:
        """Sync if it is due; to be called when all that is written has been added."""
        self._sync.notify()


def make_seekable(source: str | os.PathLike[str], path: str | os.PathLike[str], num_threads: int, *,
                  progress: Progress = lambda count: None) -> PackResult:
    """Write `path` with the records of another file, their JPEGs made seekable without loss of a coefficient.

    Labels, ids, keys and images that are no JPEGs stay as they are. A damaged file is a DataError. Needs
    `jpegtran`.
    """
    reader = RecordReader(source)
    if reader.problems:
        raise reader.problems[0]  # a part of the records would be taken for all of them

    def convert(index: int) -> bytes:
        payload = bytes(reader.payload(index))
        try:
            image = unpack(payload)[2]
        except ValueError:  # no image record
            return payload
        # The image is the end of the payload: what stands before it is copied without being interpreted.
        return payload[:len(payload) - len(image)] + with_restarts(bytes(image))

    with (RecordWriter(path) as writer,
          map_in_order(convert, range(len(reader)), num_threads, len) as payloads):
        keys = reader.keys.tolist()
        for index, payload in enumerate(payloads):
            writer.write(payload, keys[index])
            progress(index + 1)
        return PackResult(writer.count, writer.size_bytes)


# Encoded anew


def _encode_files(entries: Iterable[ListEntry], reader: ImageReader, config: PackConfig, sink: _Sink) -> None:
    """Write a record for each image, encoded by threads."""
    def with_payload(entry: ListEntry) -> tuple[ListEntry, bytes | str]:
        return entry, make_payload(entry, reader, config)

    # in the list's order, whichever thread is done first
    with map_in_order(with_payload, entries, config.num_threads, lambda pair: len(pair[1])) as pairs:
        for entry, payload in pairs:
            if not isinstance(payload, str):
                sink.writer.write(payload, entry.id)
            sink.add(entry, payload if isinstance(payload, str) else "")  # why there is none
            sink.flush()


def make_payload(entry: ListEntry, reader: ImageReader, config: PackConfig) -> bytes | str:
    """Return the payload of one record, or why there is none."""
    try:
        data = reader.read(entry.path)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte, too
        return reason(error)
    if config.pass_through:
        damage = find_damage(data)
        image = damage or with_restarts(data)
    else:
        image = reencode(data, config, seed=entry.id)
    if isinstance(image, str):
        return image
    head = _head(entry, config)
    return _too_large(head, len(image)) or head + image


# Stored as they are


def _store_files(entries: Iterable[ListEntry], reader: ImageReader, config: PackConfig, sink: _Sink) -> None:
    """Write the images as they are.

    Threads read some at a time into a block, laid out as it will be in the `.rec`: no byte is copied again,
    and the blocks are used again and again, as allocating memory takes longer than reading.
    """
    idle: deque[Block] = deque()  # append and pop of a deque need no lock between threads

    def read(group: Sequence[ListEntry]) -> tuple[Block, Sequence[tuple[ListEntry, str]]]:
        try:
            block = idle.pop()
            block.clear()
        except IndexError:
            block = Block()
        return block, [(entry, _read_into(block, entry, reader, config)) for entry in group]

    with map_in_order(read, _groups(entries), config.num_threads, lambda pair: pair[0].size,
                      _BLOCKS_AHEAD) as blocks:
        for block, pairs in blocks:
            sink.writer.write_block(block)
            idle.append(block)  # its bytes have been written: it may be filled again
            for entry, problem in pairs:
                sink.add(entry, problem)
            sink.flush()


def _groups(entries: Iterable[ListEntry]) -> Iterator[list[ListEntry]]:
    """Yield the entries, so many at a time as go into a block."""
    rest = iter(entries)
    while group := list(islice(rest, _BLOCK_FILES)):
        yield group


def _read_into(block: Block, entry: ListEntry, reader: ImageReader, config: PackConfig) -> str:
    """Append one image to the block; return why it was left out, or ""."""
    head = _head(entry, config)
    try:
        image = reader.read_into(entry.path, lambda size: block.reserve(len(head), size))
    except (OSError, ValueError) as error:
        return reason(error)
    # without `append` the next image gets the same memory
    problem = _too_large(head, len(image)) or find_damage(image)
    if not problem:
        block.append(head, len(image), entry.id)
    return problem


# Of both


def _head(entry: ListEntry, config: PackConfig) -> bytes:
    """Return what stands before the image in the payload of a record."""
    first, *others = entry.labels
    if not (config.pack_label and others):
        return pack(ImageHeader(0, first, entry.id), b"")
    head = pack(ImageHeader(0, entry.labels, entry.id), b"")
    # MXNet's C++ tool fills the header's own label too, where im2rec.py leaves a zero
    return head[:4] + struct.pack("<f", first) + head[8:] if config.repeat_first_label else head


def _too_large(head: bytes, image_bytes: int) -> str:
    """Return the reason why an image fits into no record, "" if it fits."""
    if image_bytes > MAX_PAYLOAD_BYTES - len(head) - _SPARE_BYTES:
        return f"{image_bytes} bytes are more than a record holds"
    return ""
