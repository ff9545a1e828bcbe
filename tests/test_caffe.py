"""Caffe's mean images, written here byte by byte, and what is said about its other files."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import mxnet_file

from imgcls.cli import convert_mean, finetune, predict, score, train
from imgcls.errors import DataError, UsageError
from imgcls.formats import caffe, params

PLANES = np.arange(3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5) + 0.5  # B, G, R


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def size(field: int, number: int) -> bytes:
    return bytes([field << 3]) + varint(number)


def block(field: int, content: bytes) -> bytes:
    return bytes([field << 3 | 2]) + varint(len(content)) + content


def old_shape(*dims: int) -> bytes:
    return b"".join(size(field, dim) for field, dim in enumerate(dims, start=1))


def new_shape(*dims: int) -> bytes:
    return block(7, block(1, b"".join(map(varint, dims))))


DATA = block(5, PLANES.tobytes())
SHAPE = old_shape(1, 3, 4, 5)


@pytest.mark.parametrize("content", [
    SHAPE + DATA,
    old_shape(0, 3, 4, 5) + DATA,                                               # num left out
    new_shape(1, 3, 4, 5) + DATA,
    new_shape(3, 4, 5) + DATA,
    DATA + new_shape(1, 3, 4, 5),                                               # fields in any order
    block(7, b"".join(size(1, dim) for dim in (1, 3, 4, 5))) + DATA,            # dimensions one by one
    SHAPE + b"".join(b"\x2d" + value.tobytes() for value in PLANES.flat),       # values one by one
    SHAPE + block(5, PLANES.tobytes()[:40]) + block(5, PLANES.tobytes()[40:]),  # in two pieces
    SHAPE + block(5, PLANES.tobytes()[:40])
    + b"".join(b"\x2d" + v.tobytes() for v in PLANES.reshape(-1)[10:]),
    SHAPE + block(8, PLANES.astype("<f8").tobytes()),                           # double precision
    SHAPE + b"".join(b"\x41" + v.tobytes() for v in PLANES.astype("<f8").flat),
    SHAPE + block(6, bytes(12)) + DATA + block(15, b"unknown") + b"\x7d1234" + b"\x7912345678" + size(14, 3),
    old_shape(1, 3, 9, 9) + SHAPE + DATA,                                       # the last value holds
])
def test_every_form_reads_the_same(content: bytes) -> None:
    image = caffe.loads_mean(content)
    assert image.dtype == np.float32
    assert image.flags.c_contiguous
    assert np.array_equal(image, PLANES[::-1])


def test_a_grey_image_has_one_plane() -> None:
    assert np.array_equal(caffe.loads_mean(old_shape(1, 1, 12, 5) + DATA), PLANES.reshape(1, 12, 5))


def test_a_large_image_of_values_stored_one_by_one_is_read_in_runs() -> None:
    planes = np.random.default_rng(0).random((3, 256, 256), np.float32)
    pairs = np.empty(planes.size, [("tag", "u1"), ("value", "<f4")])
    pairs["tag"], pairs["value"] = 0x2D, planes.reshape(-1)
    assert np.array_equal(caffe.loads_mean(old_shape(1, 3, 256, 256) + pairs.tobytes()), planes[::-1])


@pytest.mark.parametrize(("content", "message", "offset"), [
    (b"", "shape is 1x0x0x0", None),
    (SHAPE, "holds no values", None),
    (DATA, "shape is 1x0x0x0", None),
    (old_shape(1, 3, 4, 6) + DATA, "60 values do not make an image of 3x4x6", None),
    (old_shape(2, 3, 2, 5) + DATA,
     "the shape is 2x3x2x5, a mean image is 1 x channels x height x width", None),
    (new_shape(1, 1, 3, 4, 5) + DATA, "the shape is 1x1x3x4x5", None),
    (new_shape(3, 20) + DATA, "the shape is 3x20, a mean", None),
    (new_shape() + DATA, "the shape is nothing, a mean", None),
    (old_shape(1, 5, 4, 3) + DATA, "1 or 3 channels, not 5", None),
    (old_shape(1, 3, 1 << 62, 5) + DATA, "do not make an image", None),
    (SHAPE + block(5, np.full(60, np.nan, np.float32).tobytes()), "not numbers", None),
    (SHAPE + block(8, np.full(60, 1e39).tobytes()), "too large for float32", None),
    (SHAPE + DATA[:-1], "240 bytes wanted, 239 left", 9),
    (SHAPE + block(5, bytes(239)), "239 bytes are no whole number of values of 4 bytes", 9),
    (SHAPE + b"\x2d123", "ends in the middle of a value", 8),
    (SHAPE + b"\x2a", "ends in the middle of a number", 9),
    (SHAPE + b"\x2a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "bytes wanted", 9),   # nearly 2^63 bytes
    (SHAPE + b"\x08" + b"\xff" * 11, "longer than ten bytes", 9),
    (SHAPE + b"\x0b", "no field of a message", 8),                              # a group
    (SHAPE + b"\x00", "no field of a message", 8),                              # field 0
    (SHAPE + b"\xad\x80\x00" + b"1234", "no field of a message", 8),            # a tag longer than it need be
    (b"\x0a\x01\x00", "field 1 is of kind 2", 0),
    (SHAPE + block(7, b"\x12\x00"), "field 2 of the shape", 10),
    (SHAPE + block(7, block(1, b"\x01" * 100)), "more than 32 dimensions", 10),
    (SHAPE + block(7, b"\x0a\x05\x01"), "5 bytes wanted", 11),
    (SHAPE + b"\x7d12", "ends in the middle of a field", 8),
    (struct.pack("<QQ", params.LIST_MAGIC, 0), "field 2 is of kind 2", 0),      # MXNet's own format
    (b"\x89PNG\r\n\x1a\n" + bytes(9), "not a Caffe mean image", None),
    (size(14, 1) * 30_000, "far too many fields", 40_000),
])
def test_damage_is_one_line_with_the_byte(content: bytes, message: str, offset: int | None) -> None:
    started = time.perf_counter()
    with pytest.raises(DataError) as raised:
        caffe.loads_mean(content, "mean.binaryproto")
    assert message in raised.value.reason
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("mean.binaryproto")
    if offset is not None:
        assert raised.value.offset == offset
    assert time.perf_counter() - started < 5


def test_cut_and_changed_files_are_read_or_refused() -> None:
    content = bytearray(SHAPE + b"".join(b"\x2d" + value.tobytes() for value in PLANES.flat)
                        + new_shape(1, 3, 4, 5))
    tried = [bytes(content[:end]) for end in range(len(content))]
    for position in range(len(content)):
        for flipped in (0x01, 0x80, 0xFF):
            tried.append(bytes(content[:position]) + bytes([content[position] ^ flipped])
                         + bytes(content[position + 1:]))
    refused = 0
    for damaged in tried:
        try:
            assert caffe.loads_mean(damaged).size <= PLANES.size
        except DataError:
            refused += 1
    assert refused > 300


def test_a_file_is_bounded_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mean.binaryproto"
    with open(path, "wb") as stream:
        stream.truncate(caffe.MAX_BYTES + 2)  # sparse: takes no room on the disk
    with pytest.raises(DataError, match="too large for a Caffe mean image"):
        caffe.load_mean(path)
    with pytest.raises(DataError, match="no such file"):
        caffe.load_mean(tmp_path / "nowhere.binaryproto")


# ---- in use


@pytest.fixture
def mean(tmp_path: Path) -> Path:
    path = tmp_path / "mean.binaryproto"
    path.write_bytes(SHAPE + DATA)
    return path


def test_as_mean_image(mean: Path) -> None:
    torch = pytest.importorskip("torch")
    from imgcls.config.sections import AugmentConfig
    from imgcls.data import normalize

    normalizer = normalize.Normalizer(AugmentConfig(mean_image=str(mean)), 3, torch.device("cpu"), (3, 4, 5))
    pixels = torch.full((1, 4, 5, 3), 100, dtype=torch.uint8)
    assert np.array_equal(normalizer(pixels)[0].numpy(), 100 - PLANES[::-1])
    numpys = str(mean.with_suffix(".npy"))
    np.save(numpys, PLANES[::-1])
    assert np.array_equal(normalize.read_mean_image(numpys, (3, 4, 5)), PLANES[::-1])
    with pytest.raises(DataError, match=r"is 3x4x5, image_shape is 3x2x2; its mean per channel is rgb_mean "
                                        r"50\.000,30\.000,10\.000$"):
        normalize.read_mean_image(str(mean), (3, 2, 2))


@pytest.mark.parametrize("name", ["mean.binaryproto", "mean.npy"])
def test_the_mean_of_others_is_not_made_but_read(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from imgcls.config.sections import AugmentConfig
    from imgcls.data.loaders.make import make_loader
    from imgcls.data.sources import ArraySource

    path = tmp_path / name
    source = ArraySource(np.zeros((4, 3, 8, 8), np.uint8), np.zeros(4, np.int64))
    with pytest.raises(UsageError, match=rf"mean_image .*{name}: does not exist"):
        make_loader(source, batch_size=2, image_shape=(3, 8, 8),
                    augment_config=AugmentConfig(mean_image=str(path)),
                    train=True, seed=0, device=torch.device("cpu"))
    assert not path.exists()


def test_conversion_to_mxnets_file(mean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mean.nd"
    assert convert_mean.main([str(mean), str(out)]) == 0
    assert "3x4x5, --rgb-mean 50.000,30.000,10.000" in capsys.readouterr().out
    arrays = params.load(out)
    assert list(arrays) == ["mean_image"]
    assert np.array_equal(arrays["mean_image"], PLANES[::-1])
    assert convert_mean.main([str(mean)]) == 2
    mean.write_bytes(SHAPE + DATA[:-1])
    assert convert_mean.main([str(mean), str(out)]) == 1
    assert "mean.binaryproto at byte 9: " in capsys.readouterr().err


@pytest.mark.parametrize(("command", "argv", "message"), [
    (train.main, ["--model-prefix", "vgg.caffemodel"],
     "--model-prefix vgg.caffemodel: Caffe networks are not read"),
    (train.main, ["--save-model-prefix", "vgg.prototxt"], "--save-model-prefix vgg.prototxt: Caffe networks"),
    (train.main, ["--mean-image", "a/VGG.CaffeModel"], "--mean-image a/VGG.CaffeModel: is not a mean image"),
    (score.main, ["--model", "deploy.prototxt"], "--model deploy.prototxt: Caffe networks are not read"),
    (finetune.main, ["--pretrained-model", "a.caffemodel"],
     "--pretrained-model a.caffemodel: Caffe networks are"),
    (predict.main, ["--model", "vgg.caffemodel", "x.png"],
     "--model vgg.caffemodel: Caffe networks are not read"),
    (convert_mean.main, ["vgg.caffemodel", "out.nd"], "MEAN vgg.caffemodel: "),
])
def test_other_files_of_caffe_are_refused_with_what_to_do(command, argv: list[str], message: str,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    assert command(argv) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert "caffe_converter" in error or "binaryproto" in error


@pytest.mark.parametrize("name", ["mean", "mean-shape", "mean-unpacked"])
def test_means_written_by_protobuf(name: str) -> None:
    manifest = json.loads(mxnet_file("caffe", "manifest.json").read_text())["mean"]
    values = np.array(manifest["values"], np.float32).reshape(manifest["shape_chw"])
    image = caffe.load_mean(mxnet_file("caffe", f"{name}.binaryproto"))
    assert np.array_equal(image, values[::-1])
