"""Records of decoded images: packed, trained on, verified; damaged ones are named and never evaluated."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import run_cli

from imgcls.config.sections import AugmentConfig
from imgcls.data import image_header, opencv
from imgcls.data.image_header import BadImageError
from imgcls.data.loaders.streaming import StreamingLoader
from imgcls.data.record_source import RecordSource
from imgcls.distributed.process_group import Worker
from imgcls.formats import npy_image, recordio
from imgcls.training import decoded_cache


def batches(path: Path, **augment: object) -> list[bytes]:
    loader = StreamingLoader(RecordSource([path]), batch_size=4, image_shape=(3, 24, 24), train=True, seed=1,
                             device=torch.device("cpu"), threads=2,
                             augment_config=AugmentConfig(**augment))  # type: ignore[arg-type]
    return [batch.pixels.numpy().tobytes() for batch in loader.host_batches(0)]


def test_packed_decoded_they_are_the_same_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for number in range(6):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 256, (40 + number, 50, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), image)
    for name, flags in (("png", ("--encoding", ".png")), ("npy", ("--encoding", "npy"))):
        done = run_cli("im2rec", tmp_path / name, tmp_path / "photos", "--recursive", "--no-shuffle", *flags)
        assert done.returncode == 0, done.stderr
    for augment in ({"random_crop": True, "random_mirror": True}, {"resize": 30, "random_crop": True},
                    {"random_resized_crop": True, "min_random_area": 0.3}):
        assert batches(tmp_path / "npy.rec", **augment) == batches(tmp_path / "png.rec", **augment)
    record = next(iter(recordio.RecordReader(tmp_path / "npy.rec")))
    stored = np.load(io.BytesIO(bytes(record.image)))  # any tool that knows numpy's format reads it
    plain = next(iter(recordio.RecordReader(tmp_path / "png.rec")))
    # the decoder of PNG has a rounding of its own for grey
    for flag, most in ((cv2.IMREAD_COLOR, 0), (cv2.IMREAD_GRAYSCALE, 1), (cv2.IMREAD_UNCHANGED, 0)):
        np.testing.assert_allclose(opencv.decode(record.image, flag).astype(int),
                                   opencv.decode(plain.image, flag), rtol=0, atol=most)
    assert stored.shape == (40, 50, 3)
    done = run_cli("verify", tmp_path / "npy.rec", "--decode")
    assert done.returncode == 0, done.stdout + done.stderr
    done = run_cli("im2rec", tmp_path / "both", tmp_path / "photos", "--encoding", ".npy", "--seekable")
    assert done.returncode == 2
    assert "is for JPEG" in done.stderr
    # nothing has to be decoded, so nothing is said to be kept
    loader = StreamingLoader(RecordSource([tmp_path / "npy.rec"]), batch_size=4, image_shape=(3, 24, 24),
                             train=True, seed=1, device=torch.device("cpu"), augment_config=AugmentConfig())
    decoded_cache.attach(1.0, loader, None, Worker(torch.device("cpu")))
    assert loader.note == ""


@pytest.mark.parametrize("flag", ["--pass-through=1", "--quality=90"])
def test_settings_of_an_encoding_are_refused(tmp_path: Path, flag: str) -> None:
    done = run_cli("im2rec", tmp_path / "some", tmp_path, "--encoding", ".npy", flag)
    assert done.returncode == 2
    assert f"{flag.partition('=')[0]}" in done.stderr
    assert "`" not in done.stderr


GOOD = npy_image.pack(np.zeros((5, 7, 3), np.uint8))
OBJECTS = io.BytesIO()
np.save(OBJECTS, np.array([{"a": 1}], object), allow_pickle=True)
BAD = {
    "cut": GOOD[:-1], "longer": GOOD + b"\0", "header cut": GOOD[:20], "only the beginning": GOOD[:8],
    "objects": OBJECTS.getvalue(), "floats": GOOD.replace(b"|u1", b"<f4"),
    "fortran": GOOD.replace(b"False", b"True "),
    "zero": GOOD.replace(b"(5, 7, 3)", b"(0, 7, 3)"),
    "huge": GOOD.replace(b"(5, 7, 3)", b"(999999999, 999999999, 4)"),
    "channels": GOOD.replace(b"(5, 7, 3)", b"(5, 3, 7)"), "code": GOOD.replace(b"(5, 7, 3)", b"exit(1)  "),
    "length": GOOD[:8] + b"\xff\xff" + GOOD[10:]}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_as_it_says_is_damaged(name: str) -> None:
    with pytest.raises(BadImageError):
        image_header.inspect(BAD[name])
    with pytest.raises(BadImageError):
        opencv.decode(BAD[name], 1)


def test_grey_and_alpha_are_pixels_too() -> None:
    for shape in ((5, 7), (5, 7, 1), (5, 7, 4)):
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        data = npy_image.pack(pixels)
        np.testing.assert_array_equal(npy_image.view(data), pixels)
        assert image_header.inspect(memoryview(data))[:2] == (5, 7)
        assert opencv.decode(data, 1).shape == (5, 7, 3)
        assert opencv.decode(data, 0).shape == (5, 7)
    two = npy_image.pack(np.zeros((5, 7, 2), np.uint8))
    with pytest.raises(BadImageError, match="2 channels"):
        opencv.decode(two, 1)
