"""imgcls.compat.mxnet: the same results as MXNet's data reading, with only the import line changed."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import ROOT, mxnet_file

import imgcls.compat.mxnet as mx
from imgcls.formats import recordio

MAGIC = struct.pack("<I", recordio.MAGIC)
PAYLOADS = [b"", b"a", b"abcd", MAGIC, b"abcd" + MAGIC + b"tail", MAGIC * 3, b"x" + MAGIC, os.urandom(1000)]
#: the usual validation arguments
MEAN_STD = {"mean_r": 123.68, "mean_g": 116.779, "mean_b": 103.939, "std_r": 58.393, "std_g": 57.12,
            "std_b": 57.375}


def picture(number: int, height: int = 20, width: int = 24) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


def write_records(folder: Path, count: int = 11, labels: int = 1, fmt: str = ".png",
                  name: str = "data") -> Path:
    """Write data.rec and data.idx: PNGs of random pixels, BGR, with the labels i (or [i, i + 0.5, ...])."""
    record = mx.recordio.MXIndexedRecordIO(str(folder / f"{name}.idx"), str(folder / f"{name}.rec"), "w")
    for i in range(count):
        label = float(i) if labels == 1 else [i + 0.5 * k for k in range(labels)]
        header = mx.recordio.IRHeader(0, label, 100 + i, 0)
        record.write_idx(i, mx.recordio.pack_img(header, picture(i), quality=3 if fmt == ".png" else 90,
                                                 img_fmt=fmt))
    record.close()
    return folder / f"{name}.rec"


# ---------------------------------------------------------------- mx.recordio


def test_records_are_written_as_the_format_has_them(tmp_path: Path) -> None:
    record = mx.recordio.MXRecordIO(str(tmp_path / "a.rec"), "w")
    for payload in PAYLOADS:
        record.write(payload)
    record.close()
    with recordio.RecordWriter(tmp_path / "b.rec") as writer:
        for payload in PAYLOADS:
            writer.write(payload)
    assert (tmp_path / "a.rec").read_bytes() == (tmp_path / "b.rec").read_bytes()
    assert not (tmp_path / "a.idx").exists()  # MXNet writes none either

    reader = mx.recordio.MXRecordIO(str(tmp_path / "a.rec"), "r")
    for _ in range(2):
        assert [reader.read() for _ in PAYLOADS] == PAYLOADS
        assert reader.read() is None
        reader.reset()


def test_a_record_is_in_the_file_when_write_returns(tmp_path: Path) -> None:
    record = mx.recordio.MXIndexedRecordIO(str(tmp_path / "a.idx"), str(tmp_path / "a.rec"), "w")
    for i in range(3):
        record.write_idx(i, b"four" * i)
        reader = mx.recordio.MXIndexedRecordIO(str(tmp_path / "a.idx"), str(tmp_path / "a.rec"), "r")
        assert [reader.read_idx(k) for k in reader.keys] == [b"four" * k for k in range(i + 1)]
    assert record.tell() == (tmp_path / "a.rec").stat().st_size == 8 + 12 + 16
    record.reset()  # for writing: empties it
    assert (tmp_path / "a.rec").stat().st_size == 0
    assert (record.keys, record.idx, record.tell()) == ([], {}, 0)


def test_a_download_replaces_what_is_there_and_is_compared(tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    utils = importlib.import_module("imgcls.compat.mxnet.gluon.utils")

    def fetch(urls: list[str], target: str) -> None:
        if not os.path.exists(target):  # as the real one
            Path(target).write_bytes(urls[0].encode())
    monkeypatch.setattr(utils, "fetch", fetch)
    path = tmp_path / "folder/x.bin"
    assert utils.download("http://a/old", str(path)) == str(path)
    sha1 = "ea08a02bbaa3f03aff1e5ef6f7d6a7ed4ff19d19"
    with pytest.raises(mx.MXNetError, match="http://a/new: its SHA-1 is not ea08a0"):
        utils.download("http://a/new", str(path), sha1_hash=sha1)
    utils.download("http://a/new", str(path))
    assert path.read_bytes() == b"http://a/old"
    utils.download("http://a/new", str(path), overwrite=True)
    assert path.read_bytes() == b"http://a/new"
    assert os.listdir(path.parent) == ["x.bin"]


def test_a_file_of_nothing_but_none_arrays(tmp_path: Path) -> None:
    # of the oldest version: no dimensions, and nothing behind them; no names
    content = struct.pack("<QQQ", 0x112, 0, 9) + bytes(4 * 9) + bytes(8)
    (tmp_path / "none.nd").write_bytes(content)
    assert [array.shape for array in mx.nd.load(str(tmp_path / "none.nd"))] == [(0,)] * 9


class Interrupted(mx.recordio.MXIndexedRecordIO):
    """A reader of which another thread reads a record whenever this one has set the position."""

    other: int | None = None

    @property
    def _next(self) -> int:
        return self.__dict__["position"]

    @_next.setter
    def _next(self, value: int) -> None:
        self.__dict__["position"] = value
        key, self.other = self.other, None
        if key is not None:
            self.read_idx(key)


def test_threads_read_the_records_of_their_own_keys(tmp_path: Path) -> None:
    paths = str(tmp_path / "a.idx"), str(tmp_path / "a.rec")
    record = mx.recordio.MXIndexedRecordIO(*paths, "w")
    for key in range(5):
        record.write_idx(key, b"%d" % key)
    record.close()
    reader = Interrupted(*paths, "r")
    for key in range(5):
        reader.other = 4 - key
        assert reader.read_idx(key) == b"%d" % key


def test_keys_of_any_type_in_the_order_of_the_index(tmp_path: Path) -> None:
    paths = str(tmp_path / "a.idx"), str(tmp_path / "a.rec")
    record = mx.recordio.MXIndexedRecordIO(*paths, "w", key_type=str)
    for key in ("zebra", "7", "apple"):
        record.write_idx(key, key.encode())
    record.close()
    record.close()
    assert Path(paths[0]).read_text() == "zebra\t0\n7\t16\napple\t28\n"
    reader = mx.recordio.MXIndexedRecordIO(*paths, "r", key_type=str)
    assert reader.keys == ["zebra", "7", "apple"]
    assert reader.idx == {"zebra": 0, "7": 16, "apple": 28}
    assert reader.read_idx("7") == b"7"
    assert reader.read() == b"apple"  # goes on behind the record that was found by key
    with pytest.raises(KeyError):
        reader.read_idx("lion")
    with pytest.raises(mx.MXNetError, match=r"a\.idx: a key is no int"):
        mx.recordio.MXIndexedRecordIO(*paths, "r")


def test_readers_can_be_pickled_writers_not(tmp_path: Path) -> None:
    path = write_records(tmp_path, 3)
    reader = mx.recordio.MXIndexedRecordIO(str(path.with_suffix(".idx")), str(path), "r")
    first = reader.read()
    copy = pickle.loads(pickle.dumps(reader))
    assert copy.read() == first
    assert copy.read_idx(2) == reader.read_idx(2)
    writer = mx.recordio.MXRecordIO(str(tmp_path / "w.rec"), "w")
    writer.write(b"kept")
    with pytest.raises(TypeError, match="only readers can be pickled"):
        pickle.dumps(writer)
    writer.pid = -1  # as in a forked process
    with pytest.raises(RuntimeError, match="another process"):
        writer.write(b"no")
    assert mx.recordio.MXRecordIO(str(tmp_path / "w.rec"), "r").read() == b"kept"


def test_wrong_use_is_an_error(tmp_path: Path) -> None:
    path = write_records(tmp_path, 2)
    with pytest.raises(ValueError, match="'rb' is not known"):
        mx.recordio.MXRecordIO(str(path), "rb")
    with pytest.raises(mx.MXNetError, match="no such file"):
        mx.recordio.MXRecordIO(str(tmp_path / "none.rec"), "r")
    for wrong in (("none/a.idx", "a.rec"), ("a.idx", "none/a.rec")):
        with pytest.raises(mx.MXNetError, match=r"cannot write .*none"):
            mx.recordio.MXIndexedRecordIO(*(str(tmp_path / name) for name in wrong), "w")
    reader = mx.recordio.MXRecordIO(str(path), "r")
    with pytest.raises(ValueError, match="reading only"):
        reader.write(b"x")
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader.read()
    writer = mx.recordio.MXRecordIO(str(tmp_path / "w.rec"), "w")
    for wrong in ("text", 5, None):
        with pytest.raises(TypeError, match="a record is bytes"):
            writer.write(wrong)  # type: ignore[arg-type]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_full_disk_is_an_error_of_mxnets_when_files_are_closed_too(tmp_path: Path) -> None:
    writer = mx.recordio.MXRecordIO("/dev/full", "w")
    indexed = mx.recordio.MXIndexedRecordIO("/dev/full", str(tmp_path / "a.rec"), "w")
    for write in (lambda: writer.write(b"x"), writer.close, lambda: indexed.write_idx(0, b"x"), indexed.close):
        with pytest.raises(mx.MXNetError, match="cannot write /dev/full"):
            write()
    writer.close()
    indexed.close()
    assert mx.recordio.MXRecordIO(str(tmp_path / "a.rec"), "r").read() == b"x"


def test_damage_is_raised_behind_the_good_records(tmp_path: Path) -> None:
    path = write_records(tmp_path, 4)
    path.write_bytes(path.read_bytes()[:-40])
    path.with_suffix(".idx").rename(tmp_path / "other.idx")
    reader = mx.recordio.MXRecordIO(str(path), "r")
    assert all(reader.read() for _ in range(3))
    with pytest.raises(mx.MXNetError, match=r"data\.rec at byte \d+: .*cut"):
        reader.read()
    indexed = mx.recordio.MXIndexedRecordIO(str(tmp_path / "other.idx"), str(path), "r")
    assert indexed.read_idx(2)
    with pytest.raises(mx.MXNetError):
        indexed.read_idx(3)


@pytest.mark.parametrize("label", [3, 2.5, True, np.float32(1.5), [7.0], [1, 2.5, -3], np.arange(4)])
def test_pack_and_unpack(label: Any) -> None:
    packed = mx.recordio.pack(mx.recordio.IRHeader(99, label, 2574, 1), b"image")
    header, image = mx.recordio.unpack(packed)
    number = isinstance(label, (int, float, np.floating))
    values = [] if number else np.asarray(label, "<f4")
    assert packed == struct.pack("<IfQQ", len(values), label if number else 0, 2574, 1) + bytes(
        np.asarray(values, "<f4").tobytes()) + b"image"
    assert (image, header.flag, header.id, header.id2) == (b"image", len(values), 2574, 1)
    if number:
        assert header.label == float(label)
        assert isinstance(header.label, float)
    else:
        assert header.label.dtype == np.float32
        assert header.label.tolist() == np.asarray(label, np.float32).tolist()
    assert repr(header).startswith("HEADER(flag=")
    assert mx.recordio.pack((0, 1.0, 2, 3), b"") == struct.pack("<IfQQ", 0, 1, 2, 3)
    with pytest.raises(mx.MXNetError, match="is no image record"):
        mx.recordio.unpack(packed[:20])


def test_pack_img_and_unpack_img() -> None:
    image = picture(1)
    header, back = mx.recordio.unpack_img(mx.recordio.pack_img((0, 4, 1, 0), image, quality=95,
                                                               img_fmt=".png"))
    assert header.label == 4
    assert (back == image).all()
    packed = mx.recordio.pack_img((0, 4, 1, 0), image, quality=80)
    assert packed[24:] == cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
    assert mx.recordio.unpack_img(packed, 0)[1].shape == (20, 24)
    assert mx.recordio.unpack_img(packed[:24])[1] is None
    with pytest.raises(mx.MXNetError, match=r"cannot encode an image as \.xyz"):
        mx.recordio.pack_img((0, 4, 1, 0), image, img_fmt=".xyz")


def test_records_of_mxnet_are_written_again_byte_for_byte(tmp_path: Path) -> None:
    files = [*sorted(mxnet_file("rec").glob("*/*.idx")), *sorted(mxnet_file("framing").glob("*.idx"))]
    assert len(files) > 10
    for index in files:
        source = mx.recordio.MXIndexedRecordIO(str(index), str(index.with_suffix(".rec")), "r")
        copy = mx.recordio.MXIndexedRecordIO(str(tmp_path / "c.idx"), str(tmp_path / "c.rec"), "w")
        for key in source.keys:
            payload = source.read_idx(key)
            if index.parent.parent.name == "rec":
                assert mx.recordio.pack(*mx.recordio.unpack(payload)) == payload
            copy.write_idx(key, payload)
        copy.close()
        for suffix in (".rec", ".idx"):
            assert (tmp_path / f"c{suffix}").read_bytes() == index.with_suffix(suffix).read_bytes(), index


# ---------------------------------------------------------------- mx.nd


def test_arrays_follow_the_rules_of_mxnet() -> None:
    a = mx.nd.array(np.array([1, 2, 3], np.uint8))
    assert a.dtype is np.float32  # whatever it is made of
    assert mx.nd.array(a.astype("int32")).dtype is np.int32
    u = mx.nd.array([10, 200, 3], ctx=mx.cpu(), dtype="uint8")
    for result, expected in ((u - 20, [246, 180, 239]), (u + 100, [110, 44, 103]), (u * 0.5, [0, 0, 0]),
                             (1 - u, [247, 57, 254]), (u**2, [100, 64, 9]), (u == 10, [1, 0, 0]),
                             (-u, [246, 56, 253])):
        assert result.dtype is np.uint8
        assert result.asnumpy().tolist() == expected
    assert (2 / a).asnumpy().tolist() == [2, 1, np.float32(2 / 3)]
    assert a[1].shape == (1,)
    assert a[1].asscalar() == 2.0
    assert bool(a[1] == 2)
    with pytest.raises(mx.MXNetError, match="want one type"):
        a + u
    with pytest.raises(TypeError, match="ndarray"):
        a - np.ones(3)
    with pytest.raises(mx.MXNetError, match=r"write mx.cpu\(\)"):
        mx.nd.zeros((2,), ctx="gpu(0)")


def test_arrays_share_memory_as_in_mxnet() -> None:
    a = mx.nd.zeros((4, 3))
    a[1:3][0][:] = 5
    assert a.asnumpy().sum() == 15
    a[1:3] = 2
    assert a.asnumpy().sum() == 12
    numpy = a.asnumpy()
    numpy[:] = 9
    assert a.asnumpy().sum() == 12
    a += 1
    assert (len(a), a.size, a.ndim, a.shape, a.T.shape) == (4, 12, 2, (4, 3), (3, 4))
    assert a.reshape((-1, 2)).shape == a.reshape(6, 2).shape == (6, 2)
    assert a.reshape((0, 3, 1)).shape == (4, 3, 1)
    assert np.asarray(a).dtype == np.float32
    assert mx.nd.concat(a, a, dim=0).shape == (8, 3)
    assert mx.nd.stack(a, a).shape == (2, 4, 3)
    a.wait_to_read()


def test_save_and_load(tmp_path: Path) -> None:
    path = str(tmp_path / "a.params")
    arrays = [mx.nd.array([1.5, 2]), mx.nd.array([[1, 2], [3, 4]], dtype="int64")]
    mx.nd.save(path, arrays)
    loaded = mx.nd.load(path)
    assert isinstance(loaded, list)
    assert [a.dtype for a in loaded] == [np.float32, np.int64]
    for names in (["0", "1"], ["arg:w", "aux:m"]):  # also names that look like none
        mx.nd.save(path, dict(zip(names, arrays, strict=True)))
        loaded = mx.nd.load(path)
        assert isinstance(loaded, dict)
        assert list(loaded) == names
        assert loaded[names[1]].asnumpy().tolist() == [[1, 2], [3, 4]]
    mx.nd.save(path, arrays[0])
    assert len(mx.nd.load(path)) == 1
    # numbers that look like one name
    mx.nd.save(path, mx.nd.array([1, 1, ord("0")], dtype="int64"))
    assert isinstance(mx.nd.load(path), list)


def test_lists_of_mxnet_are_saved_again_byte_for_byte(tmp_path: Path) -> None:
    for name in ("v2-list", "v2-named"):
        path = mxnet_file("ndarray", f"{name}.params")
        loaded = mx.nd.load(path)
        assert isinstance(loaded, list) == (name == "v2-list")
        mx.nd.save(tmp_path / "again", loaded)
        assert (tmp_path / "again").read_bytes() == path.read_bytes()
    with pytest.raises(mx.MXNetError):
        mx.nd.load(mxnet_file("ndarray", "bad-truncated.params"))


# ---------------------------------------------------------------- mx.image


def test_images_are_decoded(tmp_path: Path) -> None:
    image = picture(3)
    encoded = cv2.imencode(".png", image)[1].tobytes()
    for source in (encoded, bytearray(encoded), np.frombuffer(encoded, np.uint8),
                   mx.nd.array(np.frombuffer(encoded, np.uint8), dtype=np.uint8)):
        decoded = mx.image.imdecode(source)
        assert decoded.dtype is np.uint8
        assert (decoded.asnumpy() == image[:, :, ::-1]).all()
    assert (mx.img.imdecode(encoded, to_rgb=0).asnumpy() == image).all()
    grey = mx.image.imdecode(encoded, flag=0)
    assert grey.shape == (20, 24, 1)
    (tmp_path / "a.png").write_bytes(encoded)
    assert (mx.image.imread(str(tmp_path / "a.png")).asnumpy() == image[:, :, ::-1]).all()
    assert mx.image.imresize(grey, 10, 12).shape == (12, 10, 1)
    for bad, reason in ((b"", "is empty"), (b"garbage", "is no image")):
        with pytest.raises(mx.MXNetError, match=reason):
            mx.image.imdecode(bad)
    with pytest.raises(mx.MXNetError, match="no such file"):
        mx.image.imread(str(tmp_path / "none.png"))


def test_crops() -> None:
    src = mx.nd.array(picture(4, 30, 50), dtype="uint8")
    assert mx.image.resize_short(src, 15).shape == (15, 25, 3)
    assert (mx.image.fixed_crop(src, 5, 2, 10, 8).asnumpy() == src.asnumpy()[2:10, 5:15]).all()
    crop, where = mx.image.center_crop(src, (20, 10))
    assert where == (15, 10, 20, 10)
    assert (crop.asnumpy() == src.asnumpy()[10:20, 15:35]).all()
    crop, where = mx.image.random_crop(src, (20, 10))
    assert (crop.asnumpy() == src.asnumpy()[where[1]:where[1] + 10, where[0]:where[0] + 20]).all()
    enlarged, where = mx.image.center_crop(src, (60, 60))
    assert enlarged.shape == (60, 60, 3)
    assert where == (10, 0, 30, 30)
    assert mx.image.scale_down((640, 480), (720, 120)) == (640, 106)
    floats = src.astype("float32")
    mx.image.color_normalize(floats, mx.nd.array([1, 2, 3]), mx.nd.array([2, 2, 4]))
    assert np.allclose(floats.asnumpy(), (src.asnumpy() - np.array([1, 2, 3.])) / [2, 2, 4])


@pytest.fixture
def opencv_alone() -> Iterator[None]:
    """Resize without Intel's library, which rounds cubic interpolation in another way than MXNet's OpenCV."""
    has_ipp = hasattr(cv2, "ipp")
    before = cv2.ipp.useIPP() if has_ipp else False
    if has_ipp:
        cv2.ipp.setUseIPP(False)
    yield
    if has_ipp:
        cv2.ipp.setUseIPP(before)


@pytest.mark.usefixtures("opencv_alone")
def test_interp_9_goes_by_the_direction() -> None:
    """Cubic where both sides grow, area where both shrink, otherwise bilinear: MXNet's _get_interp_method."""
    pixels = picture(5, 30, 40)
    src = mx.nd.array(pixels, dtype="uint8")
    for size, method in (((60, 50), cv2.INTER_CUBIC), ((20, 10), cv2.INTER_AREA),
                         ((60, 10), cv2.INTER_LINEAR),
                         ((20, 50), cv2.INTER_LINEAR), ((40, 10), cv2.INTER_LINEAR),
                         ((60, 30), cv2.INTER_LINEAR)):
        expected = cv2.resize(pixels, size, interpolation=method)
        assert (mx.image.imresize(src, *size, interp=9).asnumpy() == expected).all(), size
        others = [cv2.resize(pixels, size, interpolation=other) for other in (0, 2, 3, 4) if other != method]
        assert any((other != expected).any() for other in others), size
    assert (mx.image.resize_short(src, 15, 9).asnumpy() == cv2.resize(pixels, (20, 15),
                                                                      interpolation=3)).all()
    random.seed(1)
    drawn = {mx.image.imresize(src, 60, 50, interp=10).asnumpy().tobytes() for _ in range(40)}
    assert drawn == {cv2.resize(pixels, (60, 50), interpolation=method).tobytes() for method in range(5)}
    for unknown in (5, 8, 11, -1):
        with pytest.raises(mx.MXNetError, match=f"interp {unknown} is not known"):
            mx.image.imresize(src, 10, 10, interp=unknown)


def test_scale_down_rounds_as_mxnet() -> None:
    """22 * 15 / 22 is 15; 22 * (15 / 22) is a little less and would be 14."""
    assert mx.image.scale_down((100, 15), (22, 22)) == (15, 15)
    assert mx.image.scale_down((15, 100), (22, 22)) == (15, 15)


# ---------------------------------------------------------------- mx.io


def epochs(iterator: Any, count: int = 2) -> list[list[tuple[list[float], int]]]:
    """Return (labels, pad) of each batch of some epochs."""
    batches = []
    for _ in range(count):
        batches.append([(b.label[0].asnumpy().tolist(), b.pad) for b in iterator])
        iterator.reset()
    return batches


def test_ndarray_iter() -> None:
    data, label = np.arange(20).reshape(10, 2), np.arange(10)
    iterator = mx.io.NDArrayIter(data, label, batch_size=4)
    assert iterator.provide_data == [("data", (4, 2))]
    assert iterator.provide_label[0].dtype is np.float32
    last = [8, 9, 0, 1]
    assert epochs(iterator) == [[([0, 1, 2, 3], 0), ([4, 5, 6, 7], 0), (last, 2)]] * 2
    discard = mx.io.NDArrayIter(data, label, 4, last_batch_handle="discard")
    assert epochs(discard) == [[([0, 1, 2, 3], 0), ([4, 5, 6, 7], 0)]] * 2
    roll_over = mx.io.NDArrayIter(data, label, 4, last_batch_handle="roll_over")
    assert epochs(roll_over, 3) == [
        [([0, 1, 2, 3], 0), ([4, 5, 6, 7], 0)],
        [([8, 9, 0, 1], 2), ([2, 3, 4, 5], 0), ([6, 7, 8, 9], 0)],
        [([0, 1, 2, 3], 0), ([4, 5, 6, 7], 0)]]
    several = mx.io.NDArrayIter({"b": data, "a": mx.nd.array(data, dtype="int32")}, batch_size=16)
    batch = several.next()
    assert [d.name for d in several.provide_data] == ["a", "b"]
    assert (batch.data[0].dtype, batch.pad, batch.label) == (np.int32, 6, [])
    assert batch.data[0].asnumpy()[:, 0].tolist() == [*range(0, 20, 2), *range(0, 12, 2)]
    np.random.seed(5)
    shuffled = mx.io.NDArrayIter(data, label, 10, shuffle=True)
    first, second = (e[0][0] for e in epochs(shuffled))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    for wrong in ({"last_batch_handle": "keep"}, {"batch_size": 0}, {"label": np.zeros(3)}):
        with pytest.raises(mx.MXNetError):
            mx.io.NDArrayIter(data, **wrong)


def test_image_record_iter(tmp_path: Path) -> None:
    """The round of the batches, the pixels and the labels."""
    path = write_records(tmp_path)
    iterator = mx.io.ImageRecordIter(path_imgrec=str(path), data_shape=(3, 16, 20), batch_size=4,
                                     scale=0.5, **MEAN_STD)
    assert iterator.provide_data == [("data", (4, 3, 16, 20))]
    assert iterator.provide_label == [("softmax_label", (4,))]
    batch = next(iter(iterator))
    iterator.reset()
    pixels = np.stack([picture(i)[2:18, 2:22, ::-1].transpose(2, 0, 1) for i in range(4)]).astype(np.float32)
    mean, std = (np.float32([MEAN_STD[f"{n}_{c}"] for c in "rgb"])[:, None, None] for n in ("mean", "std"))
    assert batch.data[0].dtype is np.float32
    assert (batch.data[0].asnumpy() == (pixels - mean) * (np.float32(0.5) / std)).all()
    assert batch.index.tolist() == [100, 101, 102, 103]
    assert epochs(iterator, 3) == [  # the epoch that was broken off begins at the first record
        [([0, 1, 2, 3], 0), ([4, 5, 6, 7], 0), ([8, 9, 10, 0], 1)],
        [([1, 2, 3, 4], 0), ([5, 6, 7, 8], 0), ([9, 10, 0, 1], 2)],
        [([2, 3, 4, 5], 0), ([6, 7, 8, 9], 0), ([10, 0, 1, 2], 3)]]
    without_round = mx.io.ImageRecordIter(path_imgrec=str(path), data_shape="(3,16,20)", batch_size=4,
                                          round_batch="0",
                                          dtype="uint8", preprocess_threads=0, mirror=True)
    batch = next(iter(without_round))
    assert (batch.data[0].asnumpy() == pixels[:, :, :, ::-1]).all()
    without_round.reset()
    assert epochs(without_round) == [[([0, 1, 2, 3], 0), ([4, 5, 6, 7], 0), ([8, 9, 10, 0], 1)]] * 2
    small = mx.io.ImageRecordUInt8Iter(path_imgrec=str(path), data_shape=(1, 8, 8), batch_size=30,
                                       round_batch=False)
    assert [b.pad for b in small] == [19]
    int8 = mx.io.ImageRecordIter(path_imgrec=str(path), data_shape=(3, 16, 20), batch_size=4,
                                 dtype="int8", mean_r=120,
                                 mean_g=120, mean_b=3)
    expected = np.clip(pixels - np.float32([120, 120, 3])[:, None, None], -128, 127)
    assert (next(iter(int8)).data[0].asnumpy() == expected).all()


def test_image_record_iter_shuffles_by_seed_alone(tmp_path: Path) -> None:
    path = write_records(tmp_path, 12)

    def run(**kwargs: Any) -> list[Any]:
        iterator = mx.io.ImageRecordIter(path_imgrec=str(path), data_shape=(3, 16, 16), batch_size=4,
                                         rand_crop=True,
                                         rand_mirror=True, dtype="uint8", **kwargs)
        batches = []
        for _ in range(2):
            batches += [(b.label[0].asnumpy().tolist(), b.data[0].asnumpy().tobytes()) for b in iterator]
            iterator.reset()
        return batches

    first_run = run(shuffle=True, seed=1, preprocess_threads=1)
    assert first_run == run(shuffle=True, seed=1, preprocess_threads=3)
    assert first_run != run(shuffle=True, seed=2)
    labels = [label for batch, _ in first_run for label in batch]
    assert sorted(labels[:12]) == sorted(labels[12:]) == list(range(12))
    assert labels[:12] != labels[12:]
    # drawn anew in each epoch
    assert [pixels for _, pixels in run()[:3]] != [pixels for _, pixels in run()[3:]]


def test_image_record_iter_labels_and_parts(tmp_path: Path) -> None:
    path = write_records(tmp_path, labels=3)
    common = {"path_imgrec": str(path), "data_shape": (3, 8, 8), "batch_size": 2, "round_batch": False}
    wide = mx.io.ImageRecordIter(**common, label_width=3)
    assert wide.provide_label == [("softmax_label", (2, 3))]
    assert wide.next().label[0].asnumpy().tolist() == [[0, 0.5, 1], [1, 1.5, 2]]
    with pytest.raises(mx.MXNetError, match="has 3 labels where 1 is expected"):
        mx.io.ImageRecordIter(**common)
    lines = [f"{100 + i}\t{i * 2:f}\t{-i:f}\tx.png\n" for i in range(11)]
    (tmp_path / "a.lst").write_text("".join(lines))
    listed = mx.io.ImageRecordIter(**common, path_imglist=str(tmp_path / "a.lst"), label_width=2)
    assert listed.next().label[0].asnumpy().tolist() == [[0, 0], [2, -1]]
    (tmp_path / "a.lst").write_text("".join(lines[1:]))
    with pytest.raises(mx.MXNetError, match=r"a\.lst: id 100 is not there"):
        mx.io.ImageRecordIter(**common, path_imglist=str(tmp_path / "a.lst"))
    ids = []
    for part_index in range(4):
        iterator = mx.io.ImageRecordIter(**common, label_width=3, num_parts=4, part_index=part_index,
                                         path_imgidx=str(path.with_suffix(".idx")))
        ids.append([int(i) for b in iterator for i in b.index[:2 - b.pad]])
    assert ids == [[100, 101, 102], [103, 104, 105], [106, 107, 108], [109, 110]]
    with pytest.raises(mx.MXNetError, match="has no record for this part"):
        mx.io.ImageRecordIter(**common, label_width=3, num_parts=10, part_index=9,
                              path_imgidx=str(path.with_suffix(".idx")))


def test_image_record_iter_makes_the_mean_image(tmp_path: Path) -> None:
    path = write_records(tmp_path, 4)
    mean = tmp_path / "mean.bin"
    kwargs = {"path_imgrec": str(path), "data_shape": (3, 20, 24), "batch_size": 4, "mean_img": str(mean)}
    pixels = np.stack([picture(i)[:, :, ::-1].transpose(2, 0, 1) for i in range(4)]).astype(np.float32)
    for mirror in (False, True):
        data = mx.io.ImageRecordIter(**kwargs, mirror=mirror).next().data[0].asnumpy()
        expected = pixels - pixels.mean(0)
        assert np.allclose(data, expected[:, :, :, ::-1] if mirror else expected)
    assert list(mx.nd.load(str(mean))) == ["mean_img"]


def test_image_record_iter_refuses(tmp_path: Path) -> None:
    path = write_records(tmp_path)
    common = {"path_imgrec": str(path), "data_shape": (3, 8, 8), "batch_size": 4}
    for wrong, error, message in (
            ({"rand_mirrow": True}, TypeError, "no argument rand_mirrow: did you mean rand_mirror"),
            ({"batch_size": 12}, mx.MXNetError, "has only 11 records"),
            ({"data_shape": (8, 8)}, mx.MXNetError, "channels, height, width"),
            ({"batch_size": "many"}, mx.MXNetError, "batch_size 'many': must be a whole number"),
            ({"shuffle": "yes"}, mx.MXNetError, "True or False"),
            ({"dtype": "float16"}, mx.MXNetError, "float32, uint8 or int8"),
            ({"inter_method": 7}, mx.MXNetError, "inter_method 7"),
            ({"rotate": 90}, mx.MXNetError, "not offered"),
            ({"std_r": 0}, mx.MXNetError, "must not be 0"),
            ({"part_index": 1}, mx.MXNetError, "part_index 1"),
            ({"path_imgrec": str(tmp_path / "none.rec")}, mx.MXNetError, "no such file")):
        with pytest.raises(error, match=message):
            mx.io.ImageRecordIter(**{**common, **wrong})
    with pytest.raises(mx.MXNetError, match="needs data_shape"):
        mx.io.ImageRecordIter(path_imgrec=str(path), batch_size=4)
    content = path.read_bytes()
    path.write_bytes(content[:-8])
    with pytest.raises(mx.MXNetError, match="at byte"):
        mx.io.ImageRecordIter(**common)
    path.write_bytes(content.replace(b"IDAT", b"XXXX", 1))  # only in the pixels of one
    iterator = mx.io.ImageRecordIter(**common)
    with pytest.raises(mx.MXNetError, match=r"record 0 \(id 100\)"):
        list(iterator)


def test_iterators_of_mxnet() -> None:
    """The pixels, labels, pads and order that MXNet gave, for two epochs."""
    root = mxnet_file()
    cases = json.loads((root / "iter" / "manifest.json").read_text())["cases"]
    assert len(cases) > 15
    for case in cases:
        kwargs = {name: str(root / value) if name in ("path_imgidx", "path_imglist", "mean_img") else value
                  for name, value in case["kwargs"].items()}
        iterator = mx.io.ImageRecordIter(path_imgrec=str(root / case["rec"]), **kwargs)
        for suffix in ("", "_epoch2"):
            batches = list(iterator)
            iterator.reset()
            assert len(batches) == case[f"batches{suffix}"], case["name"]
            labels = np.concatenate([b.label[0].asnumpy() for b in batches])
            pads = [b.pad for b in batches]
            assert not any(pads[:-1])
            rows = len(labels)
            if kwargs.get("round_batch", True):
                assert pads[-1] == case[f"pad{suffix}"][-1], case["name"]
            else:
                rows -= pads[-1]
                assert rows == case["records"]
            assert (labels[:rows] == np.array(case[f"labels{suffix}"], np.float32)[:rows]).all(), case["name"]
            count = case["pixels_of_first_n"]
            if count and not suffix:
                pixels = np.concatenate([b.data[0].asnumpy() for b in batches])[:count]
                expected = np.load(root / "iter" / case["npz"])["data"][:count]
                assert pixels.dtype == expected.dtype
                allowed = 1 if case["name"] in ("png_28_inter2", "jpg_28_val", "pass_28_val") else 0
                assert np.abs(pixels.astype(np.float64) - expected).max() <= allowed, case["name"]


def test_parts_of_mxnet() -> None:
    root = mxnet_file()

    def parts(case: dict[str, Any], part_index: int, **kwargs: Any) -> Any:
        return mx.io.ImageRecordIter(path_imgrec=str(root / case["rec"]), data_shape=(3, 8, 8),
                                     preprocess_threads=0,
                                     num_parts=case["num_parts"], part_index=part_index, **kwargs)

    cases = json.loads((root / "iter" / "manifest.json").read_text())["partitions"]
    for case in cases:
        for kind in {"by_bytes", "by_index"} & case.keys():
            index_file = str((root / case["rec"]).with_suffix(".idx"))
            index = {"path_imgidx": index_file} if kind == "by_index" else {}
            for part_index, expected in enumerate(case[kind]):
                if isinstance(expected, str):
                    with pytest.raises(mx.MXNetError, match="has no record"):
                        parts(case, part_index, batch_size=4, **index)
                    continue
                batches = list(parts(case, part_index, batch_size=4, round_batch=False, **index))
                assert [int(i) for b in batches for i in b.index[:4 - b.pad]] == expected
        if "part_index" in case:
            iterator = parts(case, case["part_index"], batch_size=case["batch_size"],
                             round_batch=case["round_batch"])
            for suffix in ("", "_epoch2"):
                batches = list(iterator)
                iterator.reset()
                rows = [b.index.tolist()[:4 if case["round_batch"] else 4 - b.pad] for b in batches]
                expected = case[f"batches{suffix}"]
                assert rows == [row[:len(mine)] for row, mine in zip(expected, rows, strict=True)]


# ---------------------------------------------------------------- only the import line changed

#: what people have: a data set of face records whose first one says which ids there are, one of object
#: records whose label is a header and rows of boxes, and loops over iterators
SCRIPT = textwrap.dedent('''
    import hashlib, json, numbers, random, sys
    import numpy as np

    class FaceRecords:
        def __init__(self, prefix):
            self.rec = mx.recordio.MXIndexedRecordIO(prefix + ".idx", prefix + ".rec", "r")
            header, _ = mx.recordio.unpack(self.rec.read_idx(0))
            if header.flag > 0:
                self.ids = np.array(range(1, int(header.label[0])))
            else:
                self.ids = np.array(list(self.rec.keys))

        def __len__(self):
            return len(self.ids)

        def __getitem__(self, index):
            header, image = mx.recordio.unpack(self.rec.read_idx(self.ids[index]))
            label = header.label
            if not isinstance(label, numbers.Number):
                label = label[0]
            return mx.image.imdecode(image).asnumpy(), int(label)

    class BoxRecords(mx.gluon.data.RecordFileDataset):
        def __getitem__(self, index):
            header, image = mx.recordio.unpack(super(BoxRecords, self).__getitem__(index))
            image = mx.image.imdecode(image, 1)
            height, width, _ = image.shape
            label = np.array(header.label).ravel()
            start, size = int(label[0]), int(label[1])
            boxes = label[start:].reshape(-1, size)
            corners = boxes[:, 1:5] * [width, height, width, height]
            return image, np.concatenate([corners, boxes[:, :1]], axis=1)

    def digest(array):
        content = np.ascontiguousarray(array).tobytes()
        return [list(array.shape), str(array.dtype), hashlib.sha256(content).hexdigest()]

    folder = sys.argv[1]
    found = {}
    faces = FaceRecords(folder + "/faces")
    found["faces"] = [[digest(image), label] for image, label in (faces[i] for i in range(len(faces)))]
    boxes = BoxRecords(folder + "/boxes.rec")
    pairs = [boxes[i] for i in range(4)]
    found["boxes"] = [[digest(image.asnumpy()), label.tolist()] for image, label in pairs]
    plain = mx.gluon.data.vision.ImageRecordDataset(folder + "/data.rec")
    first = plain.transform_first(lambda image: image.astype("float32") / 255)
    found["vision"] = [[digest(plain[i][0].asnumpy()), plain[i][1]] for i in range(len(plain))]
    found["transformed"] = [[digest(first[i][0].asnumpy()), first[i][1]] for i in range(len(first))]
    found["iter"] = []
    for kwargs in ({"batch_size": 4, "mean_r": 10, "std_g": 3, "scale": 0.1, "resize": 18},
                   {"batch_size": 3, "pad": 2, "dtype": "int8", "mean_r": 99.6, "mean_b": 7},
                   {"batch_size": 5, "dtype": "uint8", "mirror": True}):
        made = mx.io.ImageRecordIter(path_imgrec=folder + "/data.rec", data_shape=(3, 16, 16), **kwargs)
        for epoch in range(2):
            batches = [[digest(b.data[0].asnumpy()), b.label[0].asnumpy().tolist(), b.pad] for b in made]
            found["iter"].append([batches[:-1] if epoch == 0 else [b[:2] for b in batches[:-1]], batches[-1]])
            made.reset()
    np.random.seed(3)
    found["arrays"] = []
    for handle in ("pad", "discard", "roll_over"):
        for shuffle in (False, True):
            made = mx.io.NDArrayIter(np.arange(22).reshape(11, 2), np.arange(11), 4, shuffle, handle)
            for epoch in range(3):
                found["arrays"].append([[b.data[0].asnumpy().tolist(), b.label[0].asnumpy().tolist(), b.pad]
                                        for b in made])
                made.reset()
    image = mx.image.imread(folder + "/photo.png")
    random.seed(1)
    found["image"] = [digest(i.asnumpy()) for i in (
        image, mx.image.imresize(image, 13, 29), mx.image.resize_short(image, 31, 1),
        mx.image.center_crop(image, (9, 9))[0], mx.image.random_crop(image, (11, 7))[0],
        mx.image.fixed_crop(image, 1, 2, 9, 8, (20, 10), 0),
        mx.image.color_normalize(image.astype("float32"), mx.nd.array([1, 2, 3]), mx.nd.array([4, 5, 6])))]
    mx.nd.save(folder + "/list.nd", [mx.nd.array([1, 2]), mx.nd.zeros((2, 3))])
    mx.nd.save(folder + "/dict.nd", {"b": mx.nd.array([1, 2], dtype="uint8"), "a": mx.nd.zeros((2, 3))})
    names = [folder + "/list.nd", folder + "/dict.nd"]
    found["files"] = [hashlib.sha256(open(name, "rb").read()).hexdigest() for name in names]
    print("found:" + json.dumps(found))
''')


def prepared(folder: Path) -> Path:
    """Write the records that SCRIPT reads; return the folder."""
    write_records(folder)
    cv2.imwrite(str(folder / "photo.png"), picture(77, 33, 47))
    for name, labels in (("faces", [0, *range(5, 9)]), ("boxes", range(4))):
        record = mx.recordio.MXIndexedRecordIO(str(folder / f"{name}.idx"), str(folder / f"{name}.rec"), "w")
        for key, label in enumerate(labels):
            value: Any = label if name == "faces" else [2, 5, label, 0.1, 0.2, 0.5, 0.75, 1, 0, 0.25, 1, 1]
            if name == "faces" and key == 0:
                record.write_idx(0, mx.recordio.pack(mx.recordio.IRHeader(0, [5, 5], 0, 0), b""))
                continue
            header = mx.recordio.IRHeader(0, value if key != 3 or name == "boxes" else [value, 0.5], key, 0)
            record.write_idx(key, mx.recordio.pack_img(header, picture(50 + key), img_fmt=".png", quality=9))
        record.close()
    return folder


def run_script(python: str, import_line: str, folder: Path) -> dict[str, Any]:
    done = subprocess.run([python, "-c", import_line + SCRIPT, str(folder)], capture_output=True, text=True,
                          check=False, timeout=120,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.split("found:")[1])


@pytest.mark.slow
def test_data_sets_work_with_only_the_import_line_changed(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    results = run_script(sys.executable, "import imgcls.compat.mxnet as mx", folder)
    assert [label for _, label in results["faces"]] == [5, 6, 7, 8]
    assert [len(boxes) for _, boxes in results["boxes"]] == [2] * 4
    assert np.allclose(results["boxes"][3][1], [[2.4, 4, 12, 15, 3], [0, 5, 24, 20, 1]])
    assert [label for _, label in results["vision"]] == list(range(11))
    assert results["transformed"][0][0][:2] == [[20, 24, 3], "float32"]
    if os.environ.get("MXNET_PYTHON"):
        expected = run_script(os.environ["MXNET_PYTHON"], "import mxnet as mx", folder)
        assert results.keys() == expected.keys()
        for name in results:
            assert results[name] == expected[name], name


def test_only_image_record_iter_needs_torch() -> None:
    code = ("import sys, imgcls.compat.mxnet as mx\n"
            "mx.recordio, mx.nd, mx.image, mx.io, mx.gluon.data.vision.ImageRecordDataset, mx.cpu()\n"
            "assert 'torch' not in sys.modules\n")
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_modulo_zero_is_zero_as_in_mxnet() -> None:
    """The values are those that MXNet 1.9.1 gives."""
    for dtype in ("int32", "float32"):
        left, right = mx.nd.array([5, -5, 7], dtype=dtype), mx.nd.array([0, 3, 0], dtype=dtype)
        for result in (left % right, mx.nd.broadcast_mod(left, right)):
            assert result.asnumpy().tolist() == [0, 1, 0]
            assert result.dtype == left.dtype
        assert (left % 0).asnumpy().tolist() == [0, 0, 0]
