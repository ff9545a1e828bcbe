"""RecordIO against files that MXNet wrote, files made by hand, and files damaged in every way we know."""

import hashlib
import json
import logging
import os
import pickle
import random
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import mxnet_file, real_data

from imgcls.errors import DataError, RunError, UsageError
from imgcls.formats import recordio
from imgcls.formats.recordio import (
    ImageHeader,
    RecordReader,
    RecordWriter,
    expand,
    framing,
    pack,
    part_range,
    scan,
    scan_cache,
    unpack,
)

FIXTURES = Path(__file__).parent / "fixtures" / "records"
MAGIC = struct.pack("<I", recordio.MAGIC)
#: what framing.rec holds: MXNet wrote it from these
FRAMING = {4: b"", 0: b"a", 7: MAGIC, 2: MAGIC * 3, 3: b"abcd" + MAGIC + b"xy", 11: b"ab" + MAGIC + b"cdef",
           1: MAGIC + b"z", 8: b"abcdefgh" + MAGIC, 5: b"0123456789"}


def chunk(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", recordio.MAGIC, kind << 29 | len(data)) + data + b"\0" * (-len(data) % 4)


def image(i: int, data: bytes = b"image", label: object = None) -> bytes:
    return pack(ImageHeader(0, float(i) if label is None else label, 100 + i), data)


def write(path: Path, *contents: bytes) -> Path:
    path.write_bytes(b"".join(contents))
    return path


@pytest.mark.parametrize("use_index", [True, False])
def test_reads_what_mxnet_wrote(use_index: bool) -> None:
    reader = RecordReader(FIXTURES / "framing.rec", use_index=use_index)
    assert [r.payload for r in reader] == list(FRAMING.values())
    assert [bytes(reader.payload(i)) for i in range(len(reader))] == list(FRAMING.values())
    assert list(map(bytes, reader.payloads([8, 0, 3]))) == [b"0123456789", b"", MAGIC * 3]
    assert reader.offsets.tolist() == [0, 8, 20, 36, 68, 92, 112, 132, 156]
    assert reader.keys.tolist() == (list(FRAMING) if use_index else list(range(9)))
    assert bytes(reader.read_idx(11)) == FRAMING[11] if use_index else bytes(reader.read_idx(1)) == b"a"
    assert reader.problems == []
    assert reader[-1].index == 8
    with pytest.raises(IndexError):
        reader[9]


def test_writes_what_mxnet_wrote(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "out.rec") as writer:
        for key, payload in FRAMING.items():
            writer.write(payload, key)
    assert (tmp_path / "out.rec").read_bytes() == (FIXTURES / "framing.rec").read_bytes()
    assert (tmp_path / "out.idx").read_bytes() == (FIXTURES / "framing.idx").read_bytes()


def test_any_payload_comes_back(tmp_path: Path) -> None:
    rng = random.Random(1)
    payloads = [b"".join(rng.choice([MAGIC, b"\x0a", b"abcd", b"\x23\xd7"]) for _ in range(rng.randrange(9)))
                for _ in range(500)]
    with RecordWriter(tmp_path / "r.rec") as writer:
        for payload in payloads:
            writer.write(memoryview(payload))
    for use_index in (True, False):
        reader = RecordReader(tmp_path / "r.rec", use_index=use_index)
        assert [r.payload for r in reader] == payloads
        assert not reader.problems
    assert reader.check_index() is None


def test_a_record_of_many_parts_takes_memory_in_proportion(tmp_path: Path) -> None:
    """Magics that follow each other are empty parts: as a list of objects, 25 times the file."""
    payload = b"ab" * 2 + MAGIC * 200_000 + bytes(10_000) + MAGIC + b"tail" + MAGIC * 30 + b"x"
    with RecordWriter(tmp_path / "x.rec") as writer:
        writer.write(payload)
    (tmp_path / "x.idx").unlink()
    reader = RecordReader(tmp_path / "x.rec")
    tracemalloc.start()
    assert reader.payload(0) == payload
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_parts_of_more_bytes_than_the_format_has(monkeypatch: pytest.MonkeyPatch) -> None:
    data = memoryview(chunk(1, b"abcd") + chunk(2, b"efgh") + chunk(3, b"ijkl"))
    assert framing.join_parts("x", data, 0) == b"abcd" + MAGIC + b"efgh" + MAGIC + b"ijkl"
    monkeypatch.setattr(framing, "MAX_PAYLOAD_BYTES", 19)
    with pytest.raises(DataError, match="parts of more than 19 bytes together"):
        framing.join_parts("x", data, 0)


def test_nothing_appears_before_the_end(tmp_path: Path) -> None:
    def stopped_half_way() -> None:
        with RecordWriter(tmp_path / "x.rec") as writer:
            writer.write(b"abc")
            raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        stopped_half_way()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RunError, match="cannot write"):
        RecordWriter("/proc/no/x.rec")


def test_an_index_outlives_records_that_cannot_be_begun(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.rec")
    (tmp_path / "x.idx").write_text("0\t0\n")
    with pytest.raises(UsageError, match="a device or a pipe"):
        RecordWriter(tmp_path / "x.rec")
    assert (tmp_path / "x.idx").read_text() == "0\t0\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.idx", "x.rec"]


def test_a_payload_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "MAX_PAYLOAD_BYTES", 10)
    with pytest.raises(RunError, match="11 bytes"), RecordWriter(tmp_path / "x.rec") as writer:
        writer.write(b"0" * 11)


def test_image_headers(tmp_path: Path) -> None:
    assert pack(ImageHeader(9, 2.5, 7, 1), b"jpg").hex() == \
        "0000000000002040" "0700000000000000" "0100000000000000" "6a7067"
    assert pack(ImageHeader(0, [1.0], 3), b"").hex() == \
        "0100000000000000" "0300000000000000" "0000000000000000" "0000803f"
    header, labels, data = unpack(pack(ImageHeader(0, [1, 2.5, -3], 5), b"png"))
    assert (header.flag, header.id, labels.tolist(), bytes(data)) == (3, 5, [1, 2.5, -3], b"png")
    assert labels.dtype == np.float32
    with pytest.raises(ValueError, match="10 bytes"):
        unpack(b"0123456789")
    with pytest.raises(ValueError, match="4294967295 labels"):
        unpack(b"\xff" * 24)


def test_headers_and_labels_of_all_records_at_once(tmp_path: Path) -> None:
    split = pack(ImageHeader(0, 6.0, 106), MAGIC + b"behind")
    inside = pack(ImageHeader(0, 7.0, recordio.MAGIC), b"the magic is the id")
    payloads = [image(0), image(1, label=[1.0]), image(2, label=[2.0, 20.0]), b"short", split, inside,
                struct.pack("<IfQQ", 99, 0, 5, 0)]
    with RecordWriter(tmp_path / "x.rec") as writer:
        for payload in payloads:
            writer.write(payload)
    reader = RecordReader(tmp_path / "x.rec")
    assert reader.headers()["id"].tolist() == [100, 101, 102, 0, 106, recordio.MAGIC, 0]
    assert sorted(reader.header_problems()) == [3, 6]
    np.testing.assert_equal(reader.labels(strict=False), np.float32([0, 1, np.nan, np.nan, 6, 7, np.nan]))
    assert reader.labels(2, strict=False)[2].tolist() == [2, 20]
    with pytest.raises(DataError, match=r"record 2 \(id 102\) has 2 labels where 1 is expected") as caught:
        reader.labels()
    assert caught.value.offset == reader.offsets[2]
    with pytest.raises(DataError, match="record 0"):
        reader.labels(2)
    assert reader[1].labels.tolist() == [1]
    assert bytes(reader[4].image) == MAGIC + b"behind"
    with pytest.raises(DataError, match="record 3 is no image record"):
        _ = reader[3].header


def test_what_all_headers_say_is_read_again_once_it_was_forgotten(tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgcls.formats.recordio.reader._ROWS_AT_ONCE", 2)
    payloads = [pack(ImageHeader(0, label, 10 + i), b"image") for i, label in enumerate((3, [5], [7], [1, 2], [9]))]
    with RecordWriter(tmp_path / "x.rec") as writer:
        for payload in (*payloads, b"no image"):
            writer.write(payload)
    reader = RecordReader(tmp_path / "x.rec")
    for _ in range(2):
        assert reader.flags().tolist() == [0, 1, 1, 2, 1, 0]
        assert np.array_equal(reader.labels(strict=False), [3, 5, 7, np.nan, 9, np.nan], equal_nan=True)
        assert list(reader.header_problems()) == [5]
        assert "record 3 (id 13) has 2 labels where 1 is expected" in str(reader.label_problem(3, 1))
        assert [reader.image_id(i) for i in (0, 4, 5)] == [10, 14, 0]
        reader.forget_headers()


def test_labels_of_many_records_with_several_each(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "x.rec") as writer:
        for i in range(50):
            # every third is split, once in its labels
            magic = struct.unpack("<f", MAGIC)[0]
            writer.write(image(i, MAGIC if i % 3 else b"", label=[i, magic if i % 7 == 0 else 0.5]), i)
    labels = RecordReader(tmp_path / "x.rec").labels(2)
    assert labels[:, 0].tolist() == list(range(50))
    assert (labels[::7, 1].view(np.uint32) == recordio.MAGIC).all()


ONE, TWO, THREE = chunk(0, image(1)), chunk(0, image(2, b"longer image")), chunk(0, image(3))
SPLIT = chunk(1, image(4)[:24]) + chunk(2, b"four") + chunk(3, b"end")
AT = len(ONE)       # where the second record begins
#: name -> bytes, good records before the damage, good ones in all, offset of the damage, word of the message
DAMAGE = {
    "cut in the payload": (ONE + TWO[:-8], 1, 1, AT, "cut"),
    "cut, no multiple of 4": (ONE + TWO[:-7], 1, 1, AT, "cut"),
    "cut in the padding": (ONE + TWO + THREE[:-1], 3, 3, AT + len(TWO), "padding"),
    "cut in the head": (ONE + TWO[:4], 1, 1, AT, "head"),
    "cut in the magic": (ONE + TWO[:2], 1, 1, AT, "head"),
    "only a magic": (MAGIC, 0, 0, 0, "head"),
    "only a head": (ONE[:8], 0, 0, 0, "cut"),
    "magic flipped": (ONE + b"\x0b" + TWO[1:] + THREE, 1, 2, AT, "no record begins"),
    "first magic flipped": (b"\x0b" + ONE[1:] + TWO + THREE, 0, 2, 0, "no record begins"),
    "length far too big": (ONE + TWO[:6] + b"\xff\x1f" + TWO[8:] + THREE, 1, 2, AT, "cut"),
    "length too big": (ONE + TWO[:4] + b"\x2c" + TWO[5:] + THREE, 1, 2, AT, "length is wrong"),
    "length too small": (ONE + TWO[:4] + b"\x18" + TWO[5:] + THREE, 1, 2, AT, "length"),
    "length zero": (ONE + TWO[:4] + b"\0" + TWO[5:] + THREE, 1, 2, AT, "length"),
    "never finished": (ONE + chunk(1, image(2)) + THREE, 1, 2, AT, "not finished"),
    "orphan middle": (ONE + chunk(2, image(2)) + THREE, 1, 2, AT, "without its beginning"),
    "orphan last": (ONE + chunk(3, image(2)) + THREE, 1, 2, AT, "without its beginning"),
    "orphan middle and last": (ONE + chunk(2, b"") + chunk(3, b"") + THREE + SPLIT, 1, 3, AT,
                               "without its beginning"),
    "kind 5": (ONE + chunk(5, image(2)) + THREE, 1, 2, AT, "kind 5"),
    "zeros behind": (ONE + TWO + bytes(16), 2, 2, AT + len(TWO), "no record begins"),
    "text behind": (ONE + TWO + b"garbage!", 2, 2, AT + len(TWO), "no record begins"),
    "split, the rest missing": (ONE + SPLIT[:32], 1, 1, AT, "not finished"),
    "split, cut in the middle": (ONE + SPLIT[:44], 1, 1, AT, "not finished"),
    "split, hole inside": (ONE + SPLIT[:32] + b"hole" * 3 + SPLIT[32:] + THREE, 1, 2, AT, "length"),
    "all zeros": (bytes(4096), 0, 0, 0, "no record begins"),
    "all magics": (MAGIC * 100, 0, 0, 0, "kind 6"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_reported_and_good_records_are_read(name: str, tmp_path: Path) -> None:
    data, before, in_all, offset, word = DAMAGE[name]
    path = write(tmp_path / "x.rec", data)
    reader = RecordReader(path)
    assert len(reader) == before
    assert [p.offset for p in reader.problems] == [offset]
    assert word in reader.problems[0].reason
    assert f"x.rec at byte {offset}: " in str(reader.problems[0])
    read = []
    with pytest.raises(DataError, match=f"at byte {offset}"):
        read.extend(record.header.id for record in reader)
    assert read == list(range(101, 101 + before))

    through = RecordReader(path, resync=True)
    assert len([r.header for r in through]) == len(through) == in_all
    assert offset in [p.offset for p in through.problems]


def test_harmless_oddities_are_no_damage(tmp_path: Path) -> None:
    # padding that is not zero; heads inside a payload that a foreign writer did not split
    inner = b"----" + chunk(0, b"fake") + MAGIC
    path = write(tmp_path / "x.rec", ONE[:-1] + b"!", chunk(0, image(2, inner)), THREE)
    reader = RecordReader(path)
    assert [r.header.id for r in reader] == [101, 102, 103]
    assert bytes(reader[1].image) == inner
    assert len(RecordReader(write(tmp_path / "empty.rec"))) == 0


def test_random_damage_never_breaks_anything(tmp_path: Path) -> None:
    logging.disable(logging.WARNING)
    rng = random.Random(5)
    good = b"".join(chunk(0, image(i, bytes(rng.randrange(256) for _ in range(rng.randrange(40)))))
                    for i in range(30))
    good += SPLIT + THREE
    path = tmp_path / "x.rec"
    (tmp_path / "x.idx").write_bytes(b"0\t0\n1\t36\n")
    for round_number in range(300):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(0, len(data) - 8)
            change = rng.choice(["flip", "cut", "insert", "magic"])
            if change == "flip":
                data[at] ^= 1 << rng.randrange(8)
            elif change == "cut":
                del data[at:at + rng.randrange(1, 9)]
            else:
                data[at // 4 * 4:at // 4 * 4] = MAGIC if change == "magic" else bytes(rng.randrange(1, 9))
        path.write_bytes(data)
        for use_index in (False, bool(round_number % 2)):
            reader = RecordReader(path, resync=True, use_index=use_index)
            for record in reader:
                assert isinstance(record.payload, bytes)
            reader.labels(strict=False)
    logging.disable(logging.NOTSET)


def test_a_foreign_index_is_reported_and_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "x.rec", ONE, TWO, THREE)
    index = tmp_path / "x.idx"
    for text, word in ((f"0\t0\n1\t{AT}\n", "does not end"), ("0\t0\n", "does not end"), ("", "no record"),
                       (f"0\t0\n1\t{AT}\n2\t{AT + len(TWO)}\n3\t500\n", "to 500"), ("0\t4\n", "bytes 4"),
                       (f"0\t0\n1\t{AT + 4}\n", "does not end"), ("0\t0\n1\tx\n", "line 2"),
                       ("0\t0\n1 40\n", "line 2")):
        index.write_text(text)
        caplog.clear()
        reader = RecordReader(path)
        assert [r.header.id for r in reader] == [101, 102, 103]
        assert word in str(reader.index_problem)
        assert word in caplog.text
        assert reader.check_index() is not None
    index.write_text(f"7\t{AT}\n")      # some of the records only: they are still found by their keys
    reader = RecordReader(path)
    assert unpack(reader.read_idx(7))[0].id == 102
    assert reader.keys.tolist() == [0, 7, 2]
    with pytest.raises(KeyError):
        reader.read_idx(0)


@pytest.mark.parametrize("piece_bytes", [1 << 22, 8, 5])
def test_index_lines_of_all_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int) -> None:
    monkeypatch.setattr("imgcls.formats.recordio.index._PIECE_BYTES", piece_bytes)
    path = write(tmp_path / "x.rec", ONE, TWO, THREE)
    index = tmp_path / "x.idx"
    ends = [0, AT, AT + len(TWO)]
    for keys in ((5, 6, 7), (-1, 0, 7), ("cat", "dog", "3"), (1 << 70, 2, 3), (3, 3, 3)):
        for end in ("\n", "\r\n"):
            index.write_bytes(end.join(f"{k}\t{o}" for k, o in zip(keys, ends, strict=True)).encode())
            reader = RecordReader(path)
            assert reader.index_problem is None
            keys = tuple(int(k) if str(k).isdigit() else k for k in keys)
            assert reader.keys.tolist() == list(keys)
            assert reader.keys.dtype == (object if any(isinstance(k, str) or k >= 1 << 63 for k in keys) else np.int64)
            assert unpack(reader.read_idx(keys[2]))[0].id == 103
    # out of order, as a file edited by hand may be
    index.write_text(f"3\t{ends[2]}\n1\t{ends[0]}\n2\t{ends[1]}\n")
    assert RecordReader(path).keys.tolist() == [1, 2, 3]
    index.rename(tmp_path / "other.idx")
    assert RecordReader(path, index=tmp_path / "other.idx").keys.tolist() == [1, 2, 3]
    with pytest.raises(DataError, match="no such file"):
        RecordReader(path, index=tmp_path / "none.idx")


def test_damage_behind_an_index_is_reported_when_it_is_read(tmp_path: Path) -> None:
    # The index is only tried at some places: here the damage is none of them.
    records = [bytearray(chunk(0, image(i))) for i in range(1000)]
    records[501][0] ^= 1
    path = write(tmp_path / "x.rec", *records)
    (tmp_path / "x.idx").write_text("".join(f"{i}\t{i * len(records[0])}\n" for i in range(1000)))
    reader = RecordReader(path)
    assert reader.index_problem is None
    assert len(reader) == 1000
    for read in (lambda: reader[501], lambda: reader.payload(501), lambda: reader.payloads(range(490, 510)),
                 lambda: list(reader), reader.labels):
        with pytest.raises(DataError, match=f"at byte {501 * len(records[0])}"):
            read()
    through = RecordReader(path, resync=True)
    assert len(list(through)) == 999
    assert len(through.problems) == 1


def test_the_scan_of_a_large_file_is_cached_and_checked(tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_cache, "MIN_FILE_BYTES", 1)
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    path = write(tmp_path / "data/x.rec", ONE, TWO, SPLIT)
    assert len(RecordReader(path)) == 3
    # not beside the records: MXNet reads every file of a folder
    assert list(path.parent.iterdir()) == [path]
    cached, = (tmp_path / "cache/records").iterdir()

    def no_search(*args: object) -> None:
        raise AssertionError("searched again")
    with monkeypatch.context() as patch:
        patch.setattr(scan, "find_records", no_search)
        assert [r.header.id for r in RecordReader(path)] == [101, 102, 104]
    def no_gathering(*args: object) -> None:
        raise AssertionError("gathered again")
    assert RecordReader(path).labels().tolist() == [1, 2, 4]
    with monkeypatch.context() as patch:
        patch.setattr(scan, "gather_headers", no_gathering)
        assert RecordReader(path).labels().tolist() == [1, 2, 4]
        assert RecordReader(path).headers()["id"].tolist() == [101, 102, 104]
    content = cached.read_bytes()
    first = scan_cache.HEAD.size
    for spoilt in (b"", b"junk", content[:-8], content[:first + 8],
                   content[:first] + bytes(8) + content[first:],
                   content[:first + 16] + bytes(8) + content[first + 24:],
                   content[:first - 16] + b"\xff" * 16 + content[first:]):
        cached.write_bytes(spoilt)
        assert RecordReader(path).labels().tolist() == [1, 2, 4]
    write(path, ONE, TWO, SPLIT, THREE)      # another size, another time
    assert len(RecordReader(path)) == 4
    os.utime(path, (-10, -10))  # before 1970
    for _ in range(2):
        assert RecordReader(path).labels().tolist()[:2] == [1, 2]
    cached.unlink()
    write(path, ONE, TWO[:-1])
    assert len(RecordReader(path)) == 1
    assert not cached.exists()
    write(path, ONE)
    for nowhere in (str(path), "s3://bucket", "/proc/no"):      # where nothing can be kept, all works as well
        monkeypatch.setenv("IMGCLS_CACHE", nowhere)
        assert RecordReader(path).labels().tolist() == [1]


def test_the_scan_cache_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_cache, "MIN_FILE_BYTES", 1)
    monkeypatch.setattr(scan_cache, "MAX_TOTAL_BYTES", 150)
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    for i, name in enumerate("abcd"):
        RecordReader(write(tmp_path / f"{name}.rec", ONE))
        for file in (tmp_path / "cache/records").glob(f"{name}-*"):
            os.utime(file, (i, i))
    assert sorted(file.name[0] for file in (tmp_path / "cache/records").iterdir()) == ["b", "c", "d"]


def test_readers_can_be_sent_to_other_processes(tmp_path: Path) -> None:
    path = write(tmp_path / "x.rec", ONE, TWO)
    reader = RecordReader(path)
    reader.headers()
    copy = pickle.loads(pickle.dumps(reader))
    assert [r.payload for r in copy] == [r.payload for r in reader]
    data = pickle.dumps(reader)
    write(path, ONE)
    with pytest.raises(DataError, match="changed"):
        pickle.loads(data)


def test_which_files_a_pattern_means(tmp_path: Path) -> None:
    for name in ("a.rec", "b.rec", "a.idx", "a.lst", "train_0.rec", "train_1.rec", "odd;name.rec"):
        write(tmp_path / name, ONE)
    write(tmp_path / "zero.rec")
    (tmp_path / "sub").mkdir()

    def names(*parts: str) -> list[str]:
        return [p.name for p in expand(";".join(f"{tmp_path}/{p}" for p in parts), "--data-train")]
    assert names("a.rec") == ["a.rec"]
    assert names("b.rec", "a.rec") == ["b.rec", "a.rec"]
    assert names("") == ["a.rec", "b.rec", "odd;name.rec", "train_0.rec", "train_1.rec"]
    assert names(r"train_\d\.rec") == names("train_*") == names("train_.*") == ["train_0.rec", "train_1.rec"]
    assert names("odd;name.rec") == ["odd;name.rec"]
    assert [p.name for p in expand([tmp_path / "a.rec", str(tmp_path / "b.rec")])] == ["a.rec", "b.rec"]
    for wrong in ("none.rec", "sub", "nowhere/x.rec", "[", "zero.rec"):
        with pytest.raises(UsageError, match="--data-train"):
            names(wrong)
    with pytest.raises(UsageError, match="there is no s4://"):
        expand("s4://bucket/train.rec")


def test_parts_for_several_workers(tmp_path: Path) -> None:
    rng = random.Random(3)
    readers = []
    for name in "ab":
        with RecordWriter(tmp_path / f"{name}.rec") as writer:
            for _ in range(29 if name == "a" else 11):
                writer.write(rng.choice([b"", MAGIC, b"abcd" + MAGIC]) + bytes(rng.randrange(200)))
        readers.append(RecordReader(tmp_path / f"{name}.rec"))
    for indexed in (False, True):
        for num_parts in (1, 2, 3, 7, 60):
            ranges = [part_range(readers, num_parts, k, indexed=indexed) for k in range(num_parts)]
            assert [i for r in ranges for i in r] == list(range(40))
    assert [len(part_range(readers[:1], 7, k, indexed=True)) for k in range(7)] == [5, 5, 5, 5, 5, 4, 0]
    # by bytes: where a record's head lies decides
    step = -(-readers[0].size // 3)
    step += -step % 4
    assert part_range(readers[:1], 3, 1, indexed=False).start == int((readers[0].offsets < step).sum())
    with pytest.raises(UsageError, match="part_index 2"):
        part_range(readers, 2, 2, indexed=True)


def test_fixture_partitions() -> None:
    folder = mxnet_file("iter")
    manifest = json.loads((folder / "manifest.json").read_text())
    for case in manifest["partitions"]:
        reader = RecordReader(folder.parent / case["rec"])
        for indexed, expected in ((False, case.get("by_bytes")), (True, case.get("by_index"))):
            for k, numbers in enumerate(expected or []):
                # MXNet fails on an empty part; what it said then stands in place of the numbers
                numbers = numbers if isinstance(numbers, list) else []
                assert list(part_range([reader], case["num_parts"], k, indexed=indexed)) == numbers


def test_fixture_framing() -> None:
    folder = mxnet_file("framing")
    manifest = json.loads((folder / "manifest.json").read_text())
    for case in (v for v in manifest.values() if isinstance(v, dict)):
        reader = RecordReader(folder / case["rec"])
        hashes = [r.get("sha256") for r in case["records"]]
        assert [hashlib.sha256(r.payload).hexdigest() for r in reader] == hashes or not any(hashes)
        assert [len(r.payload) for r in reader] == [r["length"] for r in case["records"]]
        assert reader.offsets.tolist() == [r["offset"] for r in case["records"]]
        assert reader.keys.tolist() == [r["key"] for r in case["records"]]


def test_fixture_damaged() -> None:
    folder = mxnet_file("damaged")
    manifest = json.loads((folder / "manifest.json").read_text())
    #: what a reader of records alone cannot see: their content, and an end that was cut cleanly
    unseen = {"empty", "trunc_at_boundary", "pad_nonzero", "good", "short_image_header", "flag_too_big",
              "flag_two_labels", "image_garbage", "image_empty", "image_truncated_png"}
    good = manifest["good"]["records"]
    for case in manifest["cases"]:
        reader = RecordReader(folder / case["file"])
        name = Path(case["file"]).stem
        assert bool(reader.problems) == (name not in unseen), name
        if name in unseen:
            continue
        for record, expected in zip(reader.offsets.tolist(), good, strict=False):
            assert record == expected["offset"]
        assert len(RecordReader(folder / case["file"], resync=True)) >= len(reader)
        assert reader.problems[0].offset in [r["offset"] for r in good] + [5412], name


@pytest.mark.real_data
def test_real_file_of_2018() -> None:
    folder = real_data("mxnet-rec", "helmet-first")
    reader = RecordReader(folder / "train.rec")
    lines = [line.split("\t") for line in (folder / "train.lst").read_text().splitlines()]
    assert reader.headers()["id"].tolist() == [int(line[0]) for line in lines] == reader.keys.tolist()
    assert reader.labels().tolist() == [float(line[1]) for line in lines]
    assert RecordReader(folder / "train.rec", use_index=False).offsets.tolist() == reader.offsets.tolist()
