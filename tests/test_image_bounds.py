"""Images that claim more than they are, of every format, in every part of the package that reads images."""

from __future__ import annotations

import contextlib
import re
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

import imgcls.compat.mxnet as mx
from imgcls.cli import im2rec, train, verify
from imgcls.data import opencv
from imgcls.data.image_header import BadImageError, inspect
from imgcls.formats.recordio import ImageHeader, RecordReader, RecordWriter, pack

ROOT = Path(__file__).resolve().parents[1]
PICTURE = np.random.default_rng(0).integers(0, 255, (40, 44, 3), np.uint8)


def encoded(suffix: str, *options: int) -> bytes:
    image = PICTURE.astype(np.float32) if suffix in (".pfm", ".hdr") else PICTURE
    image = image[:, :, 0] if suffix in (".pgm", ".pbm") else image
    return cv2.imencode(suffix, image, options)[1].tobytes()


def chunk(kind: bytes, content: bytes, length: int | None = None) -> bytes:
    size = len(content) if length is None else length
    return struct.pack(">I4s", size, kind) + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunk(kind: bytes, content: bytes, length: int | None = None) -> bytes:
    """Return a PNG with one more chunk behind its first."""
    image = encoded(".png")
    return image[:33] + chunk(kind, content, length) + image[33:]


def long_idat() -> bytes:
    image = encoded(".png")
    at = image.index(b"IDAT") - 4
    return image[:at] + struct.pack(">I", 0x7FFFFFFF) + image[at + 4:]


def jpeg_with(frame: bytes, changes: dict[int, bytes], *options: int) -> bytes:
    """Return a JPEG with other bytes in its frame header: 4 precision, 5 height, 7 width, 9 components."""
    image = bytearray(encoded(".jpg", *options))
    at = image.index(frame)
    for offset, value in changes.items():
        image[at + offset:at + offset + len(value)] = value
    return bytes(image)


def many_scans() -> bytes:
    """Return a progressive JPEG whose last scan comes three hundred times."""
    image = jpeg_with(b"\xff\xc2", {}, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    scan = image[image.rindex(b"\xff\xda"):-2]
    return image[:-2] + 300 * scan + b"\xff\xd9"


def tiff(width: int, tile: int = 0) -> bytes:
    entries = [(256, 4, 1, width), (257, 4, 1, width), (258, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    entries += [(322, 4, 1, tile), (323, 4, 1, tile)] if tile else []
    return (b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries)
            + bytes(2000))


def jpeg2000(tile: int, components: int) -> bytes:
    sizes = struct.pack(">HHIIIIIIIIH", 38 + 3 * components, 0, 4000, 4000, 0, 0, tile, tile, 0, 0, components)
    return b"\xff\x4f\xff\x51" + sizes + b"\7\1\1" * components + bytes(1000)


HUGE = {
    "idat": (long_idat(), "is a PNG whose 'IDAT' chunk says 2147483647 bytes, of which"),
    "text": (with_chunk(b"tEXt", b"a\0b", 0x7FFFFFF0), "is a PNG whose 'tEXt' chunk says"),
    "png": (encoded(".png")[:16] + struct.pack(">II", 16000, 16000) + encoded(".png")[24:], "can hold"),
    "first chunk": (encoded(".png")[:12] + b"tEXt" + encoded(".png")[16:], "does not begin with its header"),
    "no component": (jpeg_with(b"\xff\xc0", {9: b"\0"}), "is a JPEG that is damaged in its header"),
    "no row": (jpeg_with(b"\xff\xc0", {5: b"\0\0"}), "is a JPEG that is damaged in its header"),
    "jpeg": (jpeg_with(b"\xff\xc0", {5: b"\x3f\0\x3f\0"}), "can hold"),
    "tall jpeg": (jpeg_with(b"\xff\xc0", {5: b"\xff\0\x3f\0"}), "more than the 268,435,456"),
    "progressive": (jpeg_with(b"\xff\xc2", {5: b"\x3f\0\x3f\0"}, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)[:-2]
                    + bytes(600_000) + b"\xff\xd9", "pixels of 9 bytes each"),
    "scans": (many_scans(), "is a JPEG of 3.. scans, more than the 100"),
    "bmp": (b"BM" + struct.pack("<IHHIIiiHH", 99, 0, 0, 54, 40, 16000, -16000, 1, 24) + bytes(50), "can hold"),
    "bmp of runs": (b"BM" + struct.pack("<IHHIIiiHHI", 99, 0, 0, 54, 40, 16000, 16000, 1, 8, 1) + bytes(50000),
                    "can hold"),
    "gif": (b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(9), "more than the 268,435,456"),
    "webp": (b"RIFF" + struct.pack("<I", 100) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff" * 6,
             "is 16777216 x 16777216 pixels"),
    "lossless webp": (b"RIFF" + struct.pack("<I", 1 << 30) + b"WEBPVP8L" + struct.pack("<I", 1 << 30)
                      + b"\x2f\xff\x3f\xff\x0f" + bytes(99), "can hold"),
    "tiff": (tiff(16000), "can hold"),
    "tile of a tiff": (tiff(16, 30000), "is 30000 x 30000 pixels"),
    "pnm": (b"P6\n# a\n16000 16000\n255\n" + bytes(999), "can hold"),
    "pam": (b"P7\nWIDTH 16000\nHEIGHT 16000\nDEPTH 4\nMAXVAL 255\nENDHDR\n" + bytes(999), "can hold"),
    "pfm": (b"PF\n16000 16000\n-1.0\n" + bytes(999), "can hold"),
    "radiance": (b"#?RADIANCE\n\n-Y 16000 +X 16000\n" + bytes(999), "can hold"),
    "sun": (struct.pack(">8I", 0x59A66A95, 16000, 16000, 24, 1 << 30, 1, 0, 0) + bytes(999), "can hold"),
    "tiles of jpeg 2000": (jpeg2000(16, 3), "is a JPEG 2000 of 62500 tiles with 3 components"),
    "components of jpeg 2000": (jpeg2000(4000, 16384), "of 1 tiles with 16384 components"),
    "box of jpeg 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + struct.pack(">I4sQ", 1, b"jp2h", (1 << 64) - 1) + bytes(99),
                         "is a JPEG 2000 that is cut in its header"),
    "big tiff": (b"II+\0" + struct.pack("<HHQ", 8, 0, (1 << 64) - 9) + bytes(99), "cut in its header"),
    "exr": (b"\x76\x2f\x31\x01" + bytes(99), "is no image"),
}


@pytest.mark.parametrize("name", HUGE)
def test_what_claims_too_much_is_refused_before_it_is_decoded(name: str) -> None:
    data, reason = HUGE[name]
    tracemalloc.start()
    with pytest.raises(BadImageError, match=reason):
        inspect(memoryview(data))
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".gif", ".tif", ".ppm", ".pgm", ".pbm",
                                    ".pam", ".pfm", ".hdr", ".ras", ".jp2", ".avif"])
def test_valid_images_of_every_format_pass(suffix: str) -> None:
    try:
        data = encoded(suffix)
    except cv2.error:
        pytest.skip("this OpenCV does not write it")
    assert opencv.decode(data, 1).shape == PICTURE.shape
    for end in range(0, min(len(data), 400), 3):  # one that is cut anywhere is no traceback
        with contextlib.suppress(BadImageError):
            opencv.decode(data[:end], 1)


def test_a_header_is_checked_in_microseconds() -> None:
    image = np.zeros((500, 500, 3), np.uint8)
    jpeg, png = (cv2.imencode(suffix, image)[1].tobytes() for suffix in (".jpg", ".png"))
    for data in (jpeg, png):
        started = time.perf_counter()
        for _ in range(200):
            inspect(data)
        assert time.perf_counter() - started < 200 * 200e-6


@pytest.mark.parametrize("name", ["idat", "no component", "scans", "tile of a tiff"])
def test_every_door_refuses_it(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, reason = HUGE[name]
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "bad.png").write_bytes(data)
    (folder / "good.png").write_bytes(encoded(".png"))
    for flags in ([], ["--resize", "20"], ["--pass-through"], ["--color", "-1"]):
        assert im2rec.main([f"{tmp_path}/x", str(folder), *flags]) == 0
        assert len(RecordReader(tmp_path / "x.rec")) == 1
        assert re.search("skipped bad.png: .*" + reason.removeprefix("is "), capsys.readouterr().err)
    with RecordWriter(tmp_path / "y.rec") as writer:
        writer.write(pack(ImageHeader(0, 0.0, 7), data))
    assert verify.main([str(tmp_path / "y.rec")]) == 1
    assert re.search(r"record 0 \(id 7\): .*" + reason.removeprefix("is "), capsys.readouterr().out)
    with pytest.raises(mx.MXNetError, match=reason):
        mx.image.imdecode(data)
    assert mx.recordio.unpack_img(pack(ImageHeader(0, 0.0, 7), data))[1] is None


def test_images_are_decoded_behind_the_check_alone() -> None:
    """`opencv.decode` checks; `decode.py` and `decoder_warnings.py` are handed what `inspect` said."""
    found = {path.relative_to(ROOT / "imgcls").as_posix() for path in (ROOT / "imgcls").rglob("*.py")
             if re.search(r"cv2\.im(decode|read)\w*\(|^\s*import cv2", path.read_text(), re.MULTILINE)}
    assert found == {"data/opencv.py", "data/decode.py", "data/checks/decoder_warnings.py"}


@pytest.mark.parametrize("flags", [
    ["--pad-size", "30000"], ["--pad-size", "30000", "--random-resized-crop", "1"], ["--resize", "65000"]])
def test_settings_that_ask_for_too_much_memory_are_a_line(flags: list[str], tmp_path: Path,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    with RecordWriter(tmp_path / "x.rec") as writer:
        for i in range(16):
            writer.write(pack(ImageHeader(0, float(i % 2), i), encoded(".png")))
    argv = ["--dataset", "imagenet", "--data-train", str(tmp_path / "x.rec"), "--image-shape", "3,32,32",
            "--network", "mlp", "--num-classes", "2", "--num-epochs", "1", "--batch-size", "8", "--gpus", "",
            "--random-resized-crop", "0", *flags]
    assert train.main(argv) in (1, 2)
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search("pixels|GB|memory|--pad-size", error), error
    assert "traceback" not in error


def test_more_chunks_than_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").touch()
    argv = [f"{tmp_path}/x", str(tmp_path), "--list", "--recursive", "--chunks"]
    assert im2rec.main([*argv, "1000000"]) == 2
    assert "--chunks 1000000: must be at most the number of images, 1" in capsys.readouterr().err
    assert im2rec.main([*argv, "1"]) == 0


def test_a_jpeg_of_markers_and_other_bytes_by_turns_is_checked_in_time() -> None:
    # a bare marker every three bytes; a copy of all that follows each of them would be 400 GB
    image = b"\xff\xd8\xff\x01" + b"x\xff\x01" * 500_000
    for data in (image, memoryview(image)):
        start = time.process_time()
        with pytest.raises(BadImageError, match="its end marker is missing"):
            inspect(data)
        assert time.process_time() - start < 20


@pytest.mark.parametrize("at", [16, 20])
def test_a_png_without_width_or_height_is_damaged(at: int) -> None:
    image = bytearray(encoded(".png"))
    image[at:at + 4] = bytes(4)
    with pytest.raises(BadImageError, match="damaged in its header"):
        inspect(bytes(image))
