"""Tar shards as WebDataset has them: files of one key stand one behind the other and make a sample.

`000017.jpg` and `000017.cls` are an image and the text of its label; `.json` with a `label` serves as well.
A key is the path up to the first dot of its last part. The tar is read as any other (`archives`), never
trusted.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from typing import IO, NamedTuple

from imgcls.errors import DataError, verbatim
from imgcls.formats import json_text
from imgcls.formats.archives import Member, MemberReader, iter_members

#: endings of members that are images
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "bmp", "ppm")
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
    key, image, label = "", None, None
    for member in iter_members(path):
        if isinstance(member, DataError):
            raise member
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


def read_label(reader: MemberReader, sample: ShardSample) -> int:
    """Return the label of a sample; a DataError where it has none."""
    if sample.label is None or sample.label.size > _MAX_LABEL_BYTES:
        raise DataError(reader.path, f"{verbatim(sample.key)} has no label (.cls or "
                                     f".json)", sample.image.offset)
    text = reader.read(sample.label)
    try:
        if sample.label.path.lower().endswith(".json"):
            found = json_text.loads(text, reader.path, "a label")
            label = found.get("label") if isinstance(found, dict) else found
            if isinstance(label, int) and not isinstance(label, bool):
                return label
        elif len(text) < 40:
            return int(text)
    except (ValueError, DataError):
        pass
    raise DataError(reader.path, f"{verbatim(sample.key)}: its label is no whole number", sample.label.offset)


def read_image(reader: MemberReader, sample: ShardSample) -> bytes:
    """Return the bytes of a sample's image; a DataError for more than a record can hold."""
    if sample.image.size > _MAX_IMAGE_BYTES:
        raise DataError(reader.path, f"{verbatim(sample.key)}: {sample.image.size} bytes are too many for "
                                     f"an image",
                        sample.image.offset)
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
