"""imgcls-convert and imgcls-mean: the same images, labels and ids through every kind of file, and back."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import os
import shutil
import struct
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from imgcls.cli import convert, im2rec, mean
from imgcls.data.conversion import readers
from imgcls.data.conversion.convert import shrunk
from imgcls.data.conversion.mean import fitted_pixels
from imgcls.data.conversion.readers import open_samples
from imgcls.data.image_header import inspect
from imgcls.data.packing.config import PackConfig
from imgcls.errors import DataError
from imgcls.formats import caffe, params, parquet, shards
from imgcls.formats.datum import Datum, LmdbWriter, decode_datum, encode_datum
from imgcls.formats.recordio import ImageHeader, RecordReader, RecordWriter, pack, unpack
from imgcls.storage.atomic import atomic_folder


def jpeg(seed: int, height: int = 24, width: int = 32) -> bytes:
    pixels = cv2.resize(np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8), (width, height))
    return cv2.imencode(".jpg", pixels)[1].tobytes()


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Twelve images of three named classes, ids in no order."""
    for i in range(12):
        path = tmp_path / "tree" / "abc"[i % 3] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(i))
    assert im2rec.main([f"{tmp_path}/x", f"{tmp_path}/tree", "--recursive", "--pass-through"]) == 0
    return tmp_path / "x.rec"


def samples(*paths: Path) -> list[tuple[float, bytes]]:
    return [(sample.label, sample.image) for path in paths for sample in open_samples(str(path))]


KINDS = ["y.tar", "y_lmdb", pytest.param("y.parquet", marks=pytest.mark.skipif(
    not importlib.util.find_spec("pyarrow"), reason="no pyarrow"))]


@pytest.mark.parametrize("name", KINDS)
def test_records_come_back_from_every_kind(name: str, records: Path, tmp_path: Path) -> None:
    out, back = tmp_path / name, tmp_path / "back.rec"
    assert convert.main([str(records), str(out), "--num-thread", "3"]) == 0
    assert samples(out) == samples(records)
    assert open_samples(str(out)).class_names == ("a", "b", "c")
    assert convert.main([str(out), str(back)]) == 0
    if name != "y.parquet":  # which has no place for an id
        assert back.read_bytes() == records.read_bytes()
        assert (tmp_path / "back.idx").read_bytes() == (tmp_path / "x.idx").read_bytes()
    assert (tmp_path / "back.classes.txt").read_text() == "a\nb\nc\n"


def test_a_folder_and_back(records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert.main([str(records), f"{tmp_path}/photos"]) == 0
    assert sorted(os.listdir(tmp_path / "photos")) == ["a", "b", "c"]
    assert sorted(samples(tmp_path / "photos")) == sorted(samples(records))
    assert convert.main([str(records), f"{tmp_path}/photos"]) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["y.xyz", "y.tar.gz", "y.h5", "y.7z", "data.v2.zip", "photos.backup"])
def test_an_ending_that_is_no_kind_is_refused(name: str, records: Path, tmp_path: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(os.listdir(tmp_path))
    assert convert.main([str(records), f"{tmp_path}/{name}"]) == 2
    told = capsys.readouterr().err
    assert f"{os.path.splitext(name)[1]} is no kind of file that is written; take .rec, .tar, .parquet, a name" in told
    assert f"{name}/ (--to folder) for a folder of class folders\n" in told
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("words", [["y.xyz/"], ["y.xyz", "--to", "folder"], ["there.xyz"], ["data.v2"], ["data-1.0"],
                                   ["2024.06.01"], ["photos"]])
def test_a_folder_may_have_dots(words: list[str], records: Path, tmp_path: Path) -> None:
    (tmp_path / "there.xyz").mkdir()
    assert convert.main([str(records), f"{tmp_path}/{words[0]}", *words[1:]]) == 0
    assert sorted(os.listdir(tmp_path / words[0])) == ["a", "b", "c"]


def test_classes_that_a_folder_numbers_otherwise_are_told(tmp_path: Path,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    def write(*labels: float) -> None:
        with RecordWriter(tmp_path / "x.rec") as writer:
            for i, label in enumerate(labels):
                writer.write(pack(ImageHeader(0, label, i), jpeg(i)))

    write(0, 1, 3)
    (tmp_path / "x.classes.txt").write_text("zebra\nant\nbee\ncow\n")
    assert convert.main([f"{tmp_path}/x.rec", f"{tmp_path}/photos"]) == 0
    assert open_samples(f"{tmp_path}/photos").class_names == ("ant", "cow", "zebra")
    assert "label 1, ant, is read as 0 from there, and 2 more are others" in capsys.readouterr().err
    # two classes of one name, as ImageNet has cranes, must not become one
    (tmp_path / "x.classes.txt").write_text("crane\nant\ncrane\ncow\n")
    assert convert.main([f"{tmp_path}/x.rec", f"{tmp_path}/cranes"]) == 2
    assert "several classes are called crane" in capsys.readouterr().err
    assert not (tmp_path / "cranes").exists()
    # names that an earlier OUT left
    (tmp_path / "x.classes.txt").rename(tmp_path / "y.classes.txt")
    assert convert.main([f"{tmp_path}/x.rec", f"{tmp_path}/y.rec"]) == 0
    assert "label 0 is taken for crane there" in capsys.readouterr().err
    for label in (float("inf"), 1e30, 0.5, float("nan")):
        write(0, label)
        for out in ("z.tar", "z_lmdb", "z", *(["z.parquet"] if importlib.util.find_spec("pyarrow") else [])):
            assert convert.main([f"{tmp_path}/x.rec", f"{tmp_path}/{out}"]) == 1
            assert "one that is no whole number of 32 bits" in capsys.readouterr().err.splitlines()[-1]


def test_what_a_killed_run_left_is_removed(records: Path, tmp_path: Path) -> None:
    left = [tmp_path / f".{name}.abcd_123.tmp" for name in ("y.rec", "y.idx", "y_3.rec")]
    for path in left:
        path.write_bytes(b"half")
    folders = [tmp_path / f".{name}.abcd_123.tmp" for name in ("y_lmdb", "photos")]
    for folder in folders:
        folder.mkdir()
        (folder / "half").write_bytes(b"half")
    with atomic_folder(tmp_path / "photos") as folder:  # another run is at it
        for out in ("y.rec", "y_lmdb", "photos"):
            assert convert.main([str(records), f"{tmp_path}/{out}"]) == 0
        assert not any(path.exists() for path in (*left, *folders))
        assert Path(folder).is_dir()
        shutil.rmtree(tmp_path / "photos")


@pytest.mark.parametrize(("name", "writer"), [("z.tar", shards.ShardWriter), pytest.param(
    "z.parquet", parquet.ParquetWriter, marks=pytest.mark.skipif(
        not importlib.util.find_spec("pyarrow"), reason="no pyarrow"))])
def test_a_disk_that_is_full_at_the_end_is_told(name: str, writer: type, records: Path, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    def close(_writer: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer, "close", close)
    before = sorted(tmp_path.iterdir())
    assert convert.main([str(records), f"{tmp_path}/{name}"]) == 1
    assert f"cannot write {tmp_path}/{name}: no space left on the device" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_merge_and_split(records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert.main([str(records), f"{tmp_path}/part.rec", "--shards", "5"]) == 0
    parts = [tmp_path / f"part_{i}.rec" for i in range(5)]
    assert [len(RecordReader(part)) for part in parts] == [3, 3, 2, 2, 2]
    assert open_samples(str(parts[3])).class_names == ("a", "b", "c")
    assert convert.main([*map(str, parts), f"{tmp_path}/whole.rec"]) == 0
    assert (tmp_path / "whole.rec").read_bytes() == records.read_bytes()
    assert "more than once" not in capsys.readouterr().err
    assert convert.main([str(records), str(parts[0]), f"{tmp_path}/twice.rec"]) == 0
    assert "3 ids occur more than once" in capsys.readouterr().err
    assert convert.main([str(records), str(parts[0]), f"{tmp_path}/twice.rec", "--renumber"]) == 0
    assert RecordReader(tmp_path / "twice.rec").headers()["id"].tolist() == list(range(15))
    (tmp_path / "part_1.classes.txt").write_text("a\nc\nb\n")
    assert convert.main([*map(str, parts), f"{tmp_path}/z.rec"]) == 2
    assert "have other classes" in capsys.readouterr().err
    assert convert.main([str(records), str(records)]) == 2


def test_shrinking_changes_only_what_is_larger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [jpeg(0, 48, 64), jpeg(1, 24, 40), jpeg(2, 100, 30), jpeg(3)[:-400]]
    with RecordWriter(tmp_path / "x.rec") as writer:
        for i, image in enumerate(images):
            writer.write(pack(ImageHeader(0, [1.0, 2.5], 7 * i), image), 7 * i)
    assert convert.main([f"{tmp_path}/x.rec", f"{tmp_path}/y.rec", "--resize", "24", "--strict"]) == 1
    assert "left out: record 3 of" in capsys.readouterr().err
    made = [unpack(bytes(RecordReader(tmp_path / "y.rec").payload(i))) for i in range(3)]
    shapes = [cv2.imdecode(np.frombuffer(image, np.uint8), 1).shape[:2] for _, _, image in made]
    assert shapes == [(24, 32), (24, 40), (80, 24)]
    assert bytes(made[1][2]) == images[1]
    assert [(header.id, labels.tolist()) for header, labels, _ in made] == [(7 * i, [1.0, 2.5]) for i in range(3)]
    assert convert.main([f"{tmp_path}/y.rec", f"{tmp_path}/y.tar"]) == 1
    assert "only records hold such" in capsys.readouterr().err
    assert not (tmp_path / "y.tar").exists()


def test_what_webdataset_and_caffe_write_is_read(tmp_path: Path) -> None:
    import io
    with tarfile.open(tmp_path / "w.tar", "w") as tar:
        for name, data in (("a/0.json", b'{"label": 3}'), ("a/0.jpg", jpeg(0)), ("a/1.cls", b"-1\n"),
                           ("a/1.seg.png", b"x"), ("a/1.PNG", jpeg(1))):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert samples(tmp_path / "w.tar") == [(3, jpeg(0)), (-1, jpeg(1))]
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 7), np.uint8)
    with LmdbWriter(tmp_path / "lmdb") as writer:
        writer.write(b"00000000_a/x.jpg", Datum(3, 5, 7, pixels.tobytes(), 2, False))
    (label, image), = samples(tmp_path / "lmdb")
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(image, np.uint8), -1).transpose(2, 0, 1), pixels)
    assert label == 2


def test_a_datum_is_never_trusted() -> None:
    message = encode_datum(Datum(3, 2, 1, b"123456", -5, False))
    assert decode_datum(message) == Datum(3, 2, 1, b"123456", -5, False)
    for end in range(1, len(message)):
        with contextlib.suppress(ValueError):
            assert decode_datum(message[:end]) != decode_datum(message)
    for noise in (b"\xff" * 20, b"\x22\xff\xff\xff\xff\x0f", b"\x35\0\0\0\0", struct.pack("<B", 0x0b)):
        with pytest.raises(ValueError, match=r"Datum"):
            decode_datum(noise)
    with pytest.raises(ValueError, match="are no image of 3x2x9"):
        Datum(3, 2, 9, b"123456", 0, False).pixels()


def test_damage_is_told_in_one_line(records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cut.rec").write_bytes(records.read_bytes()[:-50])
    (tmp_path / "no.parquet").write_bytes(b"PAR1" * 20)
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "data.mdb").write_bytes(b"no database" * 1000)
    (tmp_path / "empty").mkdir()
    for path, status in (("cut.rec", 1), ("db", 1), ("empty", 1), ("x.idx", 2), ("nothing", 2),
                         *([("no.parquet", 1)] if importlib.util.find_spec("pyarrow") else [])):
        assert convert.main([f"{tmp_path}/{path}", f"{tmp_path}/out.rec"]) == status, path
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1, errors
        assert path in errors
    assert not (tmp_path / "out.rec").exists()
    with pytest.raises(DataError, match="has no label"):
        samples_without_label(tmp_path)


def samples_without_label(folder: Path) -> None:
    import io
    with tarfile.open(folder / "half.tar", "w") as tar:
        for name, data in (("0.jpg", jpeg(0)), ("0.cls", b"1"), ("1.jpg", jpeg(1))):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    samples(folder / "half.tar")


def test_mean_and_deviation_are_numpys(records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.stack([cv2.imdecode(np.frombuffer(image, np.uint8), 1)[..., ::-1] for _, image in samples(records)])
    for threads in ("1", "3"):
        capsys.readouterr()
        assert mean.main([str(records), "--json", "--num-thread", threads]) == 0
        found = json.loads(capsys.readouterr().out.splitlines()[-1])
        np.testing.assert_allclose(found["rgb_mean"], pixels.mean((0, 1, 2)), rtol=1e-12)
        np.testing.assert_allclose(found["rgb_std"], pixels.std((0, 1, 2)), rtol=1e-9)
    expected = pixels[:, 2:22, 6:26].mean(0).transpose(2, 0, 1)
    for name in ("m.bin", "m.binaryproto", "m.npy"):
        assert mean.main([str(records), "--image-shape", "3,20,20", "--out", f"{tmp_path}/{name}"]) == 0
    np.testing.assert_allclose(params.load(tmp_path / "m.bin")["mean_img"], expected, rtol=1e-6)
    np.testing.assert_allclose(caffe.load_mean(tmp_path / "m.binaryproto"), expected, rtol=1e-6)
    np.testing.assert_allclose(np.load(tmp_path / "m.npy"), expected, rtol=1e-6)
    for argv in (["--out", "m.bin"], ["--image-shape", "1,20,20"], ["--image-shape", "3,9,9", "--out", "m.png"]):
        assert mean.main([str(records), *argv]) == 2
    capsys.readouterr()
    assert mean.main([str(records), "--image-shape", "3,20,20", "--out", f"{tmp_path}/m.npy/x.npy"]) == 1
    assert capsys.readouterr().out == "", "before an image is read"
@pytest.mark.parametrize("command", [convert.main, mean.main], ids=["convert", "mean"])
def test_a_damaged_lmdb_is_one_line(command: Callable[[Sequence[str]], int], tmp_path: Path,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    """Overwritten or cut: the package lmdb follows its pages, by an exception or a signal."""
    with LmdbWriter(tmp_path / "x_lmdb") as writer:
        for number in range(40):
            writer.write(f"{number:08}".encode(), Datum(3, 24, 32, bytes(3 * 24 * 32), number % 3, False))
    data = (tmp_path / "x_lmdb/data.mdb").read_bytes()
    noise = np.random.default_rng(0).bytes(len(data))
    for name, damaged in (("noise", data[:8192] + noise[8192:40_000] + data[40_000:]), ("cut", data[:20_000]),
                          ("pages", data[:8192] + noise[8192:])):
        (tmp_path / f"{name}_lmdb").mkdir()
        (tmp_path / f"{name}_lmdb/data.mdb").write_bytes(damaged)
        out = [f"{tmp_path}/out.rec"] if command is convert.main else []
        assert command([f"{tmp_path}/{name}_lmdb", *out]) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert f"{name}_lmdb: " in lines[0]
        assert "LMDB" in lines[0]
        assert "a bug" not in lines[0]
        assert not list(tmp_path.glob("*out*"))
    for name in ("none.rec", "none_lmdb", "none.tar"):
        assert command([f"{tmp_path}/{name}", *([f"{tmp_path}/out.rec"] if command is convert.main else [])]) == 2
        assert capsys.readouterr().err.splitlines()[-1].endswith(f"{name}: no such file or folder")


def test_small_images_whose_header_is_not_read_for_a_size_keep_their_bytes() -> None:
    pixels = cv2.imdecode(np.frombuffer(jpeg(0), np.uint8), 1)
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x112, 3, 1, 6, 0) + bytes(4)
    turned = jpeg(0)[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg(0)[2:]
    assert not inspect(turned).height
    for image in (turned, *(cv2.imencode(suffix, pixels)[1].tobytes() for suffix in (".bmp", ".webp", ".tiff"))):
        assert shrunk(image, PackConfig(resize=24)) == image
        smaller = shrunk(image, PackConfig(resize=12))
        assert isinstance(smaller, bytes)
        assert min(cv2.imdecode(np.frombuffer(smaller, np.uint8), 1).shape[:2]) == 12
    assert isinstance(shrunk(b"BM" + bytes(60), PackConfig(resize=24)), str)


def test_a_folder_that_two_labels_would_share_is_an_error(tmp_path: Path,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    with RecordWriter(tmp_path / "x.rec") as writer:
        for i, label in enumerate((0.0, 5.0)):
            writer.write(pack(ImageHeader(0, label, i), jpeg(i)), i)
    # the folder of label 5, which has no name, would be that of label 0
    (tmp_path / "x.classes.txt").write_text("00005\n")
    assert convert.main([f"{tmp_path}/x.rec", f"{tmp_path}/y"]) == 1
    assert "the labels 0 and 5 would have the same folder 00005" in capsys.readouterr().err
    assert not (tmp_path / "y").exists()


def test_a_key_of_digits_that_are_no_decimals_has_no_id() -> None:
    keys = ("00000000_7", "0000\u00b2_7", "\u00b2", "a/\u00b2_\u00b2", "0_\u00b2")
    assert [readers._id_of(key, 0) for key in keys] == [7, 0, 0, 0, 0]


@pytest.mark.parametrize("size", [(60_000, 1), (1, 60_000)])
def test_the_mean_leaves_out_what_would_become_too_large(size: tuple[int, int]) -> None:
    strip = cv2.imencode(".png", np.zeros((*size, 3), np.uint8))[1].tobytes()
    for shape, resize in (((224, 224), 0), (None, 256)):
        problem = fitted_pixels(strip, shape, resize)
        assert isinstance(problem, str)
        assert problem.startswith("would become ")
