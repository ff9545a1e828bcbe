"""imgcls-verify: status 0 for intact files, else the file, the record, its id and its byte."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import mxnet_file, run_cli

from imgcls.cli import verify
from imgcls.formats.recordio import ImageHeader, RecordReader, RecordWriter, pack

FIXTURES = Path(__file__).parent / "fixtures" / "records"


def make(path: Path, *images: bytes, labels: object = None) -> Path:
    with RecordWriter(path) as writer:
        for i, data in enumerate(images):
            writer.write(pack(ImageHeader(0, labels or float(i), 100 + i), data), 100 + i)
    return path


def png() -> bytes:
    return cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))[1].tobytes()


def test_intact_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main([str(FIXTURES / "shuffled.rec"), str(FIXTURES / "several.rec")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "shuffled.rec: 9 records, all good; 4 different labels, 0 to 3" in lines[0]
    assert "several.rec: 3 records, all good; with 1 labels: 1, 2 labels: 1, 3 labels: 1" in lines[1]


@pytest.mark.parametrize("threads", ["1", "3"])
def test_bad_images_are_named(threads: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = png()
    jpeg = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 255
    path = make(tmp_path / "x.rec", good, jpeg[:-30], b"", b"text", good[:-30], bytes(flipped), jpeg)
    assert verify.main([str(path), "--num-thread", threads]) == 1
    lines = capsys.readouterr().out.splitlines()
    reader = RecordReader(path)
    assert [line.split(": ")[:2] for line in lines[:-1]] == [
        [f"{path} at byte {reader.offsets[i]}", f"record {i} (id {100 + i})"] for i in (1, 2, 3, 4, 5)]
    assert "7 records, 2 good, 5 bad, 0 damaged places" in lines[-1]
    assert verify.main([str(path), "--max-problems", "2"]) == 1
    assert "3 more like these" in capsys.readouterr().out
    assert verify.main([str(path), "--decode", "False"]) == 0


def test_damage_and_indexes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make(tmp_path / "x.rec", *[png()] * 4)
    size, offset = path.stat().st_size, RecordReader(path).offsets[2]
    os.truncate(path, size - 8)
    assert verify.main([str(path)]) == 1
    output = capsys.readouterr().out
    assert "x.rec at byte" in output
    assert "x.idx: 1 of its offsets are no record's" in output
    os.truncate(path, offset)       # cut between two records: only the index can tell
    assert verify.main([str(path)]) == 1
    assert "x.idx: 2 of its offsets are no record's" in capsys.readouterr().out
    (tmp_path / "x.idx").unlink()
    assert verify.main([str(path)]) == 0
    (tmp_path / "x.idx").write_text("0\t0\n")
    assert verify.main([str(path)]) == 1
    assert "does not name 1 of the 2 records" in capsys.readouterr().out
    path.write_bytes(b"")
    assert verify.main([str(path)]) == 1
    assert "it holds no record" in capsys.readouterr().out


def test_folders_and_files_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "a.rec", png())
    make(tmp_path / "b.rec", png(), b"bad")
    assert verify.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.count("records") == 2
    assert verify.main([str(tmp_path / "c.rec")]) == 2
    assert "c.rec: no such file" in capsys.readouterr().err


def test_as_a_command() -> None:
    done = run_cli("verify", FIXTURES / "framing.rec")
    assert done.returncode == 1
    assert done.stderr == ""
    assert "record 0 is no image record: 0 bytes" in done.stdout


def test_fixture_damaged(capsys: pytest.CaptureFixture[str]) -> None:
    for path in sorted(mxnet_file("damaged").glob("*.rec")):
        # these two are files of another content than they once had, but nothing is wrong with them
        well = path.stem in ("good", "pad_nonzero", "trunc_at_boundary", "flag_two_labels")
        assert verify.main([str(path)]) == (0 if well else 1), path
        output = capsys.readouterr().out
        assert well or path.stem == "empty" or "at byte" in output
