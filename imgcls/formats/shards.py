"""Tar shards as WebDataset has them: files of one key stand one behind the other and make a sample.

`000017.jpg` and `000017.cls` are an image and the text of its label; a `.json` may be there instead, with a
member `label` or as the number itself. A key is the path up to the first dot of its last part. The tar is
read as any other (`archives`), never trusted.
"""

from __future__ import annotations

import io
import os
import tarfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import IO, BinaryIO, NamedTuple

import numpy as np

from imgcls.errors import DataError, reason, verbatim
from imgcls.formats import json_text
from imgcls.formats.archives import Member, MemberReader, iter_members, iter_stream
from imgcls.formats.image_folders import SUFFIXES
from imgcls.formats.recordio.record_file import RecordFile
from imgcls.storage.paths import AnyPath
from imgcls.storage.remote import RemotePath
from imgcls.storage.remote_file import RemoteFile

#: endings of members that are images
IMAGE_SUFFIXES = frozenset(suffix[1:] for suffix in SUFFIXES)
#: endings of members that hold a label
_LABEL_SUFFIXES = ("cls", "json")
#: a label or image of more bytes is refused before it is read
_MAX_LABEL_BYTES = 1 << 20
_MAX_IMAGE_BYTES = 1 << 29


class ShardSample(NamedTuple):
    """The members of one key: its image, and its label where there is one."""

    key: str
    image: Member
    label: Member | None


def iter_shard(path: str | os.PathLike[str]) -> Iterator[ShardSample]:
    """Yield the samples of a shard that have an image, in their order; DataError as `iter_members`, and for a
    member that is refused."""
    problems: list[DataError] = []
    for sample in _samples(iter_members(path), problems):
        if problems:
            break
        yield sample
    if problems:
        raise problems[0]


def _samples(members: Iterable[Member | DataError], problems: list[DataError]) -> Iterator[ShardSample]:
    """Yield the samples that members make; what is refused is appended to `problems`."""
    key, image, label = "", None, None
    for member in members:
        if isinstance(member, DataError):
            problems.append(member)
            continue
        folder, _, name = member.path.rpartition("/")
        stem, _, suffix = name.partition(".")
        member_key = f"{folder}/{stem}" if folder else stem
        if member_key != key:
            if image is not None:
                yield ShardSample(key, image, label)
            key, image, label = member_key, None, None
        suffix = suffix.lower()
        if suffix in IMAGE_SUFFIXES and image is None:
            image = member
        elif suffix in _LABEL_SUFFIXES and label is None:
            label = member
    # the last sample has none behind it
    if image is not None:
        yield ShardSample(key, image, label)


def is_shard(path: str | os.PathLike[str]) -> bool:
    """Return whether the first sample of a tar has a label."""
    first = next(iter_shard(path), None)
    return first is not None and first.label is not None


def index_shard(file: RecordFile, problems: list[DataError]) -> dict[str, np.ndarray]:
    """Return where the images of a tar stand and their labels: `offsets` and `sizes` int64, `labels` float64.

    Samples without a label and members that are refused are appended to `problems`. DataError for a tar that
    is cut or damaged, and for one that holds no sample with a label.
    """
    def read(member: Member) -> bytes:
        return file.read(member.offset, member.offset + member.size)

    # the walk seeks, and samples are read at explicit offsets: the two do not disturb each other
    with os.fdopen(os.dup(file.handle), "rb", buffering=0) as stream:
        return _index(stream, file.path, read, problems)  # type: ignore[arg-type]


def index_remote_shard(path: RemotePath, problems: list[DataError]) -> dict[str, np.ndarray]:
    """Return what `index_shard` returns of a tar behind a URL, which is read through once and not copied."""
    with RemoteFile(path) as stream:
        def read(member: Member) -> bytes:
            stream.seek(member.offset)  # the walk seeks to its own offset before each read
            return stream.read(member.size)

        return _index(stream, path, read, problems)  # type: ignore[arg-type]


def _index(stream: BinaryIO, path: AnyPath, read: Callable[[Member], bytes],
           problems: list[DataError]) -> dict[str, np.ndarray]:
    # a shard may have millions of samples: numbers, no objects
    offsets, sizes, labels = array("q"), array("q"), array("d")
    # for the message about a tar that is no shard
    first: ShardSample | None = None
    try:
        for sample in _samples(iter_stream(stream, path), problems):
            first = first or sample
            try:
                _check_image(path, sample)
                label = _parse_label(path, sample, read)
            except DataError as error:
                problems.append(error)
                continue
            offsets.append(sample.image.offset)
            sizes.append(sample.image.size)
            labels.append(label)
    except OSError as error:
        raise DataError(path, reason(error)) from error
    if first is not None and not labels and first.label is None:
        raise DataError(path, f"no image of it has a label beside it ({verbatim(first.key)}.cls or "
                              ".json), as shards of WebDataset have; an archive of class folders is "
                              "packed by imgcls-im2rec")
    return {"offsets": np.array(offsets, np.int64), "sizes": np.array(sizes, np.int64),
            "labels": np.array(labels, np.float64)}


def member_name(read: Callable[[int, int], bytes], offset: int) -> str:
    """Return the name of the member whose content begins at a byte, for messages: its first 100 bytes.

    `read(begin, end)` gives the tar's bytes.
    """
    # its header is the block before, whatever extensions stand in front of that
    block = read(max(offset - tarfile.BLOCKSIZE, 0), offset)
    return block[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape")


def read_label(reader: MemberReader, sample: ShardSample) -> int:
    """Return the label of a sample; a DataError where it has none, or one that is no whole number."""
    return _parse_label(reader.path, sample, reader.read)


def _parse_label(path: object, sample: ShardSample, read: Callable[[Member], bytes]) -> int:
    """Return the label of a sample of the file `path`, of whose members `read` gives the content."""
    if sample.label is None or sample.label.size > _MAX_LABEL_BYTES:
        raise DataError(path, f"{verbatim(sample.key)} has no label (.cls or .json)", sample.image.offset)
    text = read(sample.label)
    try:
        if sample.label.path.lower().endswith(".json"):
            found = json_text.loads(text, path, "a label")
            label = found.get("label") if isinstance(found, dict) else found
            # of more than 64 bits it is none, and no float holds it
            if isinstance(label, int) and not isinstance(label, bool) and abs(label) < 1 << 63:
                return label
        elif len(text) < 40:
            return int(text)
    except (ValueError, DataError):
        pass
    raise DataError(path, f"{verbatim(sample.key)}: its label is no whole number", sample.label.offset)


def _check_image(path: object, sample: ShardSample) -> None:
    if sample.image.size > _MAX_IMAGE_BYTES:
        raise DataError(path, f"{verbatim(sample.key)}: {sample.image.size} bytes are too many for an image",
                        sample.image.offset)


def read_image(reader: MemberReader, sample: ShardSample) -> bytes:
    """Return the bytes of a sample's image; a DataError for more than a record can hold."""
    _check_image(reader.path, sample)
    return reader.read(sample.image)


class ShardWriter:
    """Writes samples into an open file; the same samples make the same bytes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._tar = tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT)  # noqa: SIM115

    def write(self, key: str, suffix: str, image: bytes, label: int) -> None:
        """Append an image, its file name ending in `suffix`, and its label."""
        for name, data in ((f"{key}.{suffix}", image), (f"{key}.cls", str(label).encode())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            self._tar.addfile(info, io.BytesIO(data))
        self._tar.members.clear()  # type: ignore[attr-defined]  # it would keep every name

    def close(self) -> None:
        """Write the end."""
        self._tar.close()
