"""Pack the images of a list: read, shrunk and encoded by threads, written to a `.rec` in the list's order.

`pack_list` is what im2rec does for each list, `make_seekable` for a record file. The bytes are those that
MXNet's im2rec.py writes. Files are read first and decoded from memory, so any file name works. What cannot be
packed is left out and listed in the result; it never ends the run.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

from imgcls.data.packing.config import PackConfig
from imgcls.data.packing.images import quiet_opencv, reencode
from imgcls.data.packing.jpeg import find_damage, with_restarts
from imgcls.data.packing.pipeline import BackgroundSync, map_in_order
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
from imgcls.storage.reading import open_regular, read_bounded

#: files that are stored as they are: so many go into a block, ...
_BLOCK_FILES = 16
#: ... and a thread is so many blocks ahead; each keeps its memory
_BLOCKS_AHEAD = 2
#: what a record may need beside the image and its head: to spare
_SPARE_BYTES = 64

#: called after each entry with how many there were
Progress = Callable[[int], object]


class SkippedEntry(NamedTuple):
    """An entry that was not packed, and why."""

    entry: ListEntry
    reason: str


@dataclass
class PackResult:
    """What became of a list."""

    num_records: int = 0
    size_bytes: int = 0
    skipped: list[SkippedEntry] = field(default_factory=list)


def pack_list(entries: Sequence[ListEntry], root: str, path: str | os.PathLike[str], config: PackConfig, *,
              progress: Progress = lambda count: None, join: bool = True) -> PackResult:
    """Write `path` (a `.rec`) and its `.idx` from the images under `root`, in the order of `entries`.

    Both appear when all is done, or not at all. Without `join`, root and path are put together as they are,
    with no separator.
    """
    # With the separator at its end, once for all: joining to it is then the cheap case.
    base = os.path.join(root, "") if join else root

    def file_of(entry: ListEntry) -> str:
        return os.path.join(base, entry.path) if join else base + entry.path

    # Files that are stored as they are need no decoder, nor the time to load one.
    with (nullcontext() if config.pass_through else quiet_opencv(), RecordWriter(path) as writer,
          BackgroundSync(writer) as sync):
        write = _store_files if config.pass_through and not config.seekable else _encode_files
        skipped = write(entries, file_of, config, writer, sync, progress)
        return PackResult(writer.count, writer.size_bytes, skipped)


def make_seekable(source: str | os.PathLike[str], path: str | os.PathLike[str], num_threads: int, *,
                  progress: Progress = lambda count: None) -> PackResult:
    """Write `path` with the records of another file, their JPEGs made seekable without loss of a coefficient.

    Labels, ids, keys and whatever is no JPEG stay as they are. A damaged file is a DataError. Needs
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
        # The image is the end of the payload: what stands before it is copied without being understood.
        return payload[:len(payload) - len(image)] + with_restarts(bytes(image))

    with (RecordWriter(path) as writer,
          map_in_order(convert, range(len(reader)), num_threads, len) as payloads):
        keys = reader.keys.tolist()
        for index, payload in enumerate(payloads):
            writer.write(payload, keys[index])
            progress(index + 1)
        return PackResult(writer.count, writer.size_bytes)


# Encoded anew


def _encode_files(entries: Sequence[ListEntry], file_of: Callable[[ListEntry], str], config: PackConfig,
                  writer: RecordWriter, sync: BackgroundSync, progress: Progress) -> list[SkippedEntry]:
    """Write a record for each file, encoded by threads; return what was left out."""
    def make_payload(entry: ListEntry) -> bytes | str:
        return _payload(entry, file_of(entry), config)

    skipped = []
    with map_in_order(make_payload, entries, config.num_threads, len) as payloads:
        for count, (entry, payload) in enumerate(zip(entries, payloads, strict=True), 1):
            if isinstance(payload, str):  # why there is none
                skipped.append(SkippedEntry(entry, payload))
            else:
                writer.write(payload, entry.id)
                sync.notify()
            progress(count)
    return skipped


def _payload(entry: ListEntry, file: str, config: PackConfig) -> bytes | str:
    """Return the payload of one record, or why there is none."""
    try:
        data = read_bounded(file, MAX_PAYLOAD_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
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


def _store_files(entries: Sequence[ListEntry], file_of: Callable[[ListEntry], str], config: PackConfig,
                 writer: RecordWriter, sync: BackgroundSync, progress: Progress) -> list[SkippedEntry]:
    """Write the files as they are; return what was left out.

    Threads read some at a time into a block, laid out as it will be in the `.rec`: no byte is copied again,
    and the blocks are used again and again, as fresh memory costs more than reading.
    """
    idle: deque[Block] = deque()  # append and pop of a deque need no lock between threads

    def read(group: Sequence[ListEntry]) -> tuple[Block, list[str]]:
        try:
            block = idle.pop()
            block.clear()
        except IndexError:
            block = Block()
        return block, [_read_into(block, entry, file_of(entry), config) for entry in group]

    groups = [entries[i:i + _BLOCK_FILES] for i in range(0, len(entries), _BLOCK_FILES)]
    skipped = []
    count = 0
    with map_in_order(read, groups, config.num_threads, lambda pair: pair[0].size, _BLOCKS_AHEAD) as blocks:
        for group, (block, problems) in zip(groups, blocks, strict=True):
            writer.write_block(block)
            idle.append(block)  # its bytes have left for the file: it may be filled again
            sync.notify()
            for entry, problem in zip(group, problems, strict=True):
                if problem:
                    skipped.append(SkippedEntry(entry, problem))
                count += 1
                progress(count)
    return skipped


def _read_into(block: Block, entry: ListEntry, file: str, config: PackConfig) -> str:
    """Append one file to the block; return why it was left out, or ""."""
    head = _head(entry, config)
    try:
        with open(file, "rb", buffering=0, opener=open_regular) as stream:
            size = os.fstat(stream.fileno()).st_size
            if problem := _too_large(head, size):
                return problem
            # One more than there should be, to see whether there is: a file may grow, or not know its size.
            image = block.reserve(len(head), size + 1)
            num_read = stream.readinto(image)
            # Rare, so it may cost a copy: what came is kept, as the block's memory may move below.
            content = b""
            if num_read != size:
                content = bytes(image[:num_read]) + (stream.read(MAX_PAYLOAD_BYTES) or b"")
    except (OSError, ValueError) as error:
        return reason(error)
    if num_read != size:
        size = len(content)
        if problem := _too_large(head, size):
            return problem
        image = block.reserve(len(head), size + 1)
        image[:size] = content
    damage = find_damage(image[:size])
    if not damage:  # else what was reserved is simply reserved again
        block.append(head, size, entry.id)
    return damage


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
    """Return what to say of an image that fits into no record, "" of any other."""
    if image_bytes > MAX_PAYLOAD_BYTES - len(head) - _SPARE_BYTES:
        return f"{image_bytes} bytes are more than a record holds"
    return ""
