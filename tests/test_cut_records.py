"""Record files that somebody cuts short, or takes away, while they are read: a line, never a signal."""

from __future__ import annotations

import os
import pickle
import resource
from pathlib import Path

import cv2
import numpy as np
import pytest

import imgcls.compat.mxnet as mx
from imgcls.cli import train, verify
from imgcls.errors import LostDataError
from imgcls.formats.recordio import ImageHeader, RecordReader, RecordWriter, pack
from imgcls.formats.recordio.record_file import RecordFile


def write(path: Path, count: int) -> list[int]:
    """Write records of noise in two sizes, so that training streams them; return their offsets."""
    rng = np.random.default_rng(0)
    with RecordWriter(path) as writer:
        return [writer.write(pack(ImageHeader(0, float(i % 2), i), cv2.imencode(
            ".png", rng.integers(0, 256, (20 + i % 2, 24), np.uint8))[1].tobytes())) for i in range(count)]


def test_what_is_gone_is_said_with_file_and_byte(tmp_path: Path) -> None:
    path = tmp_path / "x.rec"
    offsets = write(path, 3000)
    reader = RecordReader(path)
    first = bytes(reader.payload(0))
    size = path.stat().st_size
    os.truncate(path, offsets[2000] + 30)
    assert bytes(reader.payload(0)) == first
    assert len(reader.payload(1999)) > 24
    message = rf"x\.rec at byte \d+: was cut while it was in use: it had {size} bytes and now has {offsets[2000] + 30}"
    for read in (lambda: reader.payload(2000), lambda: reader[2999], lambda: reader.payloads([5, 2500]),
                 lambda: list(reader), reader.headers, reader.labels, lambda: reader.read_idx(2400)):
        with pytest.raises(LostDataError, match=message):
            read()
    with pytest.raises(LostDataError, match=f"at byte {offsets[2000]}:"):
        reader.payload(2000)


def test_a_file_that_is_replaced_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "x.rec"
    write(path, 40)
    reader = RecordReader(path)
    payloads = [bytes(reader.payload(i)) for i in range(40)]
    path.unlink()
    path.write_bytes(b"other")
    assert [bytes(reader.payload(i)) for i in range(40)] == payloads


@pytest.fixture
def cut_after(monkeypatch: pytest.MonkeyPatch) -> object:
    """Return a function that cuts a file short after so many further reads of payloads."""
    def arrange(path: Path, offset: int, num_reads: int) -> None:
        payload, count = RecordReader.payload, 0

        def cutting(self: RecordReader, i: int) -> memoryview | bytes:
            nonlocal count
            count += 1
            if count == num_reads:
                os.truncate(path, offset)
            return payload(self, i)

        monkeypatch.setattr(RecordReader, "payload", cutting)
    return arrange


def argv(path: Path, prefix: Path) -> list[str]:
    return ["--dataset", "imagenet", "--data-train", str(path), "--image-shape", "1,16,16", "--network", "mlp",
            "--num-classes", "2", "--num-epochs", "3", "--batch-size", "8", "--model-prefix", str(prefix),
            "--random-crop", "1", "--rgb-mean", "0", "--lr", "0.01", "--load-epoch", "auto", "--gpus", "",
            "--decoded-cache-gb", "0"]  # what is kept decoded is not read again, and misses nothing


@pytest.mark.parametrize("threads", ["0", "2"])
def test_training_ends_with_a_line_and_its_position_saved(threads: str, tmp_path: Path, cut_after,
                                                          monkeypatch: pytest.MonkeyPatch,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.rec"
    offsets = write(path, 64)
    whole = path.read_bytes()
    words = [*argv(path, tmp_path / "run"), "--data-nthreads", threads]
    with monkeypatch.context() as patch:
        cut_after(path, offsets[10], 300)
        assert train.main(words) == 1
        patch.undo()
    monkeypatch.undo()
    error = capsys.readouterr().err.splitlines()[-1]
    assert "x.rec at byte" in error
    assert "was cut while it was in use" in error
    assert "the position was saved, --load-epoch auto resumes from there" in error
    path.write_bytes(whole)
    assert train.main(words) == 0
    assert (tmp_path / "run-0003.params").exists()


def test_verify_and_compat(tmp_path: Path, cut_after, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.rec"
    offsets = write(path, 200)
    cut_after(path, offsets[10], 50)
    assert verify.main([str(path), "--num-thread", "3"]) == 1
    output = capsys.readouterr()
    assert "was cut while it was in use" in output.err + output.out
    write(path, 200)
    stream = mx.recordio.MXIndexedRecordIO(str(tmp_path / "x.idx"), str(path), "r")
    os.truncate(path, offsets[10])
    stream.read_idx(9)
    with pytest.raises(mx.MXNetError, match="was cut while it was in use"):
        stream.read_idx(150)


def test_readers_in_pickles_and_many_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "x.rec"
    write(path, 3)
    readers = [pickle.loads(pickle.dumps(RecordReader(path))) for _ in range(3)]
    assert len({bytes(reader.payload(1)) for reader in readers}) == 1
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (60, limits[1]))
    try:
        files = [RecordFile(path) for _ in range(200)]  # a set of many parts, as one .rec a thousand images
        assert files[-1].read(0, 4) == path.read_bytes()[:4]
    finally:
        del files
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
