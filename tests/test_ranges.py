"""Record files behind a URL read in ranges: the same as on the disk, above all at the ends of the pieces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from imgcls.errors import DataError
from imgcls.formats import ranges, recordio
from imgcls.formats.ranges import RangedReader
from imgcls.formats.recordio import ImageHeader, RecordReader, pack
from imgcls.storage.remote import RemotePath

URL = "memory://records"


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache of its own, and pieces of a few records."""
    from fsspec.implementations.memory import MemoryFileSystem

    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(ranges, "PIECE_BYTES", 128)
    yield
    MemoryFileSystem.store.clear()


def write(path: Path, payloads: list[bytes]) -> bytes:
    with recordio.RecordWriter(path) as writer:
        for payload in payloads:
            writer.write(payload)
    return path.read_bytes()


def image_record(index: int, labels: list[float], size: int) -> bytes:
    label = labels[0] if len(labels) == 1 else labels
    return pack(ImageHeader(0, label, index), bytes([index % 256]) * size)


def put(content: bytes, name: str = "x.rec") -> RemotePath:
    path = RemotePath(f"{URL}/{name}")
    path.write_bytes(content)
    return path


def outcome(reader: RangedReader | RecordReader, i: int) -> object:
    """Return the payload of record `i`, or what is said about its damage."""
    try:
        return bytes(reader.payload(i))
    except DataError as error:
        return error.reason, error.offset


def agree(remote: RangedReader, local: RecordReader) -> None:
    """Both say the same of the records, and of what is wrong with the file."""
    assert remote.offsets.tolist() == local.offsets.tolist()
    assert [(p.reason, p.offset) for p in remote.problems] == [(p.reason, p.offset) for p in local.problems]
    for i in range(len(local)):
        assert outcome(remote, i) == outcome(local, i)
    np.testing.assert_array_equal(remote.headers(), local.headers())
    np.testing.assert_array_equal(remote.labels(strict=False), local.labels(strict=False))
    for i, problem in local.header_problems().items():
        assert (remote.label_problem(i, 1).reason, remote.label_problem(i, 1).offset) == (
            problem.reason, problem.offset)


def test_a_record_may_begin_anywhere_before_the_end_of_a_piece(tmp_path: Path) -> None:
    """Its header and label then stand in the next piece, of which the first bytes are read along."""
    for padding in range(0, 132, 4):
        path = tmp_path / f"{padding}.rec"
        first = image_record(0, [5.0], padding)
        one_behind = pack(ImageHeader(0, [7.0], 1), b"abc")
        content = write(path, [first, one_behind, image_record(2, [3.0], 40), image_record(3, [1.0, 2.0], 9)])
        remote = RangedReader(put(content, path.name))
        agree(remote, RecordReader(path))
        assert remote.labels(strict=False)[:3].tolist() == [5, 7, 3]


def test_the_last_record_may_end_with_its_label(tmp_path: Path) -> None:
    """A file may end where the header ends, or where the one label behind it does."""
    for labels, last_label in (([4.0], 4.0), (np.array([6.0]), 6.0)):
        for padding in (0, 20, 64, 72):
            path = tmp_path / f"{padding}.rec"
            last = pack(ImageHeader(0, labels if isinstance(labels, np.ndarray) else labels[0], 9), b"")
            content = write(path, [image_record(0, [1.0], padding), last])
            assert RangedReader(put(content, f"{last_label}-{padding}.rec")).labels().tolist() == [1,
                                                                                                   last_label]


@pytest.mark.parametrize("resync", [False, True])
def test_a_file_cut_anywhere_is_read_like_one_on_the_disk(tmp_path: Path, resync: bool) -> None:
    magic = recordio.MAGIC.to_bytes(4, "little")
    payloads = [image_record(0, [1.0], 30), pack(ImageHeader(0, [2.0], 1), b"12345"), b"no image",
                image_record(3, [3.0], 8) + magic + b"behind",
                b"\x01" + bytes(23),  # says one label and ends before it
                pack(ImageHeader(0, [1.0, 2.0], recordio.MAGIC), b"z"),  # a header torn apart, two labels
                pack(ImageHeader(0, [4.0], 4), b"")]
    content = write(tmp_path / "full.rec", payloads)
    path = tmp_path / "cut.rec"
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        url = put(content[:size], f"{size}.rec")
        for _ in range(2):  # what is wrong is told each time
            agree(RangedReader(url, resync=resync), RecordReader(path, resync=resync, use_index=False))


def test_nothing_is_asked_for_behind_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store may refuse such a range, or send less than it, which looks like a broken connection."""
    asked: list[tuple[int, int]] = []
    original = RemotePath.read_range

    def read_range(self: RemotePath, begin: int, end: int) -> bytes:
        asked.append((begin, end))
        return original(self, begin, end)

    monkeypatch.setattr(RemotePath, "read_range", read_range)
    for count in (1, 2, 5):
        content = write(tmp_path / "x.rec", [image_record(i, [float(i)], 20) for i in range(count)])
        asked.clear()
        reader = RangedReader(put(content, f"{count}.rec"))
        assert [bytes(reader.payload(i)) for i in range(count)] == [
            record.payload for record in RecordReader(tmp_path / "x.rec")]
        assert max(end for _, end in asked) == len(content)


def test_what_was_found_is_kept_and_checked(tmp_path: Path) -> None:
    content = write(tmp_path / "x.rec", [image_record(i, [float(i)], 20) for i in range(5)])
    path = put(content)
    first = RangedReader(path)
    entry, = (tmp_path / "cache").rglob("*.records")
    found = entry.read_bytes()
    again = RangedReader(path)
    agree(again, RecordReader(tmp_path / "x.rec"))
    assert again.ends.tolist() == first.ends.tolist()
    # an offset behind the end of the file, offsets that do not rise, another size, half an entry
    for spoilt in (found[:24 + 32] + len(content).to_bytes(8, "little") + found[24 + 40:],
                   found[:24 + 8] + bytes(8) + found[24 + 16:],
                   found[:8] + bytes(8) + found[16:], found[:-1], b""):
        entry.write_bytes(spoilt)
        agree(RangedReader(path), RecordReader(tmp_path / "x.rec"))
