"""`jpeg_decoder` gpu: what is left to the CPU, and that all else gives the pixels that the CPU gives.

nvJPEG itself needs a GPU (benchmarks/gpu.py): here torchvision decodes the same calls on the CPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from imgcls.cli import train
from imgcls.config.sections import AugmentConfig
from imgcls.data.crops import CropSampler
from imgcls.data.gpu_jpeg import GpuJpegDecoder, check_gpu_jpeg, is_plain
from imgcls.data.image_header import ImageInfo
from imgcls.data.loaders.streaming import StreamingLoader
from imgcls.data.sources import open_source
from imgcls.errors import UsageError

pytest.importorskip("torchvision")
CROP = {"random_resized_crop": True, "min_random_area": 0.2, "random_mirror": True, "interpolation": "antialias"}


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of smooth pictures: plain JPEGs, a PNG, and one that EXIF turns."""
    random = np.random.default_rng(0)
    for number in range(12):
        coarse = random.integers(0, 256, (6, 8, 3), np.uint8)
        image = cv2.resize(coarse, (200 + 4 * number, 160), interpolation=cv2.INTER_CUBIC)
        path = tmp_path / "photos" / f"class{number % 2}" / f"{number:02}.{'png' if number == 3 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)
        if number == 4:  # a quarter turn
            exif = (b"\xff\xe1\x00\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")
            data = path.read_bytes()
            path.write_bytes(data[:2] + exif + data[2:])
    return tmp_path / "photos"


def make_loader(folder: Path, **augment: Any) -> StreamingLoader:
    return StreamingLoader(open_source(str(folder), "data_train"), batch_size=12, image_shape=(3, 64, 64),
                           augment_config=AugmentConfig(**augment), train=True, seed=1, threads=2, exact=True,
                           device=torch.device("cpu"))


def on_gpu(loader: StreamingLoader) -> list[list[bool]]:
    """Have a loader decode as on a GPU; return where it notes which rows were."""
    decoder = GpuJpegDecoder((3, 64, 64), torch.device("cpu"))
    noted: list[list[bool]] = []
    fill = decoder.fill

    def noting(*arguments: Any) -> list[bool]:
        noted.append(fill(*arguments))
        return noted[-1]

    decoder.fill = noting  # type: ignore[method-assign]
    loader.preparer.decode_on_gpu(decoder)
    return noted


@pytest.mark.parametrize("augment", [CROP, {"random_crop": True, "resize": 96}, {**CROP, "brightness": 0.3}])
def test_the_same_pictures_as_on_the_cpu(augment: dict[str, Any], photographs: Path) -> None:
    (expected,) = make_loader(photographs, **augment).host_batches(3)
    want = expected.pixels.numpy().astype(int)
    loader = make_loader(photographs, **augment)
    noted = on_gpu(loader)
    for epoch in (3, 3):  # the second time headers are known, and the files read again
        (batch,) = loader.host_batches(epoch)
        assert np.array_equal(batch.indices, expected.indices)
        assert np.array_equal(batch.mirrored, expected.mirrored)
        # another decoder, and for bilinear another rounding
        assert np.abs(batch.pixels.numpy() - want).max() <= 12
        assert np.abs(batch.pixels.numpy() - want).mean() < 1
    # neither the PNG nor the turned JPEG
    assert [sum(map(sum, noted[:len(noted) // 2])), sum(map(sum, noted))] == [10, 20]


def test_a_damaged_file_is_named_and_the_others_are_decoded(photographs: Path) -> None:
    path = photographs / "class0" / "06.jpg"
    data = bytearray(path.read_bytes())
    data[400:] = b"\xff" * (len(data) - 402) + b"\xff\xd9"
    path.write_bytes(bytes(data))
    plain, other = make_loader(photographs, **CROP), make_loader(photographs, **CROP)
    on_gpu(other)
    (expected,), (batch,) = plain.host_batches(0), other.host_batches(0)
    assert plain.bad_indices == other.bad_indices
    assert np.array_equal(batch.good, expected.good)


def test_without_a_gpu_it_is_refused(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--data-train", str(photographs), "--network", "lenet", "--image-shape", "3,32,32",
                       "--jpeg-decoder", "gpu"]) == 2
    assert "--jpeg-decoder gpu: needs a GPU (--gpus 0)" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("augment", "channels", "message"), [
    ({"interpolation": "cubic"}, 3, "not interpolation cubic"),
    ({"pad_size": 4}, 3, "without a border"),
    ({}, 4, "images of 1 or 3 channels"),
])
def test_what_it_cannot_do_is_refused(augment: dict[str, Any], channels: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_gpu_jpeg(AugmentConfig(**augment), channels, torch.device("cuda"))


def test_what_would_become_too_large_is_left_to_the_cpu() -> None:
    info = ImageInfo(60_000, 1, 100, 8, is_jpeg=True)
    for config, is_taken in ((AugmentConfig(), True), (AugmentConfig(resize=256), False)):
        sampler = CropSampler(config, (1, 1), 3, seed=0, train=True)
        (spec,) = sampler.specs(0, np.arange(1), np.array([[60_000, 1]]))
        assert is_plain(info, spec) == is_taken
