"""Cutting a part of a JPEG out of its bytes: the same pixels as from the whole, or nothing at all."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from test_decode import SAMPLING, decode_full, jpeg, run, spec, with_orientation

from imgcls.config.sections import AugmentConfig
from imgcls.data import opencv, seekable
from imgcls.data.crops import METHODS, CropSampler
from imgcls.data.image_header import ImageInfo, inspect
from imgcls.data.loaders.streaming import StreamingLoader
from imgcls.data.record_source import RecordSource
from imgcls.data.seekable import Cut, cut
from imgcls.formats.recordio import ImageHeader, RecordWriter, pack

REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4,
           8: cv2.IMREAD_REDUCED_COLOR_8}
FACTORS = SAMPLING | {"411": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411}
UNITS = {"444": (8, 8), "422": (8, 16), "420": (16, 16), "440": (16, 8), "411": (8, 32), "grey": (8, 8)}


def noisy(height: int, width: int) -> np.ndarray:
    """Colour that changes from pixel to pixel: what is made with colour from next door shows."""
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def restarting(size: tuple[int, int], sampling: str, interval: int) -> bytes:
    if sampling == "grey":
        return jpeg(noisy(*size)[:, :, 0], RST_INTERVAL=interval)
    return jpeg(noisy(*size), RST_INTERVAL=interval, SAMPLING_FACTOR=FACTORS[sampling])


def units(size: tuple[int, int], sampling: str) -> tuple[int, int]:
    height, width = UNITS[sampling]
    return -(-size[0] // height), -(-size[1] // width)


def check(data: bytes, top: int, left: int, height: int, width: int, reduced: int = 1) -> Cut | None:
    """Cut, and hold the window's pixels against those of the whole image."""
    section = cut(data, top, left, height, width, reduction=reduced)
    if section is None:
        return None
    reference, actual = decode_full(data, REDUCED[reduced]), decode_full(bytes(section.data),
                                                                         REDUCED[reduced])
    assert actual.shape[:2] == (-(-section.height // reduced), -(-section.width // reduced))
    assert len(section.data) < len(data)
    assert section.data.endswith(b"\xff\xd9")
    bottom, right = -(-(top + height) // reduced), -(-(left + width) // reduced)
    rows, columns = slice(top // reduced, bottom), slice(left // reduced, right)
    inside = actual[rows.start - section.top // reduced:bottom - section.top // reduced,
                    columns.start - section.left // reduced:right - section.left // reduced]
    assert np.array_equal(inside, reference[rows, columns])
    return section


@pytest.fixture(autouse=True)
def quiet() -> None:
    opencv.prepare()


@pytest.mark.parametrize("reduced", REDUCED)
@pytest.mark.parametrize("sampling", UNITS)
def test_the_pixels_of_a_section_are_those_of_the_full_image(sampling: str, reduced: int,
                                                             capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(3)
    for size in ((97, 131), (128, 128), (200, 65), (33, 310)):
        down, across = units(size, sampling)
        intervals = [n for n in range(1, across + 1) if across % n == 0] + [2 * across, 3 * across]
        cuts = 0
        for interval in intervals:
            data = restarting(size, sampling, interval)
            for _ in range(8):
                height, width = (int(rng.integers(1, max(2, side // 2))) for side in size)
                top, left = int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1))
                cuts += check(data, top, left, height, width, reduced) is not None
            # the corners, where the image itself ends
            for top, left in ((0, 0), (size[0] - 9, size[1] - 9)):
                cuts += check(data, top, left, 9, 9, reduced) is not None
        assert cuts > 3 * len(intervals) * (down > 3 and across > 3)
    assert capfd.readouterr() == ("", "")     # the decoder found nothing to warn of


def test_no_more_is_cut_than_is_needed() -> None:
    data = restarting((320, 320), "420", 2)      # tiles of 16 x 32 pixels
    assert check(data, 34, 34, 12, 28)[1:] == (32, 32, 16, 32)
    assert check(data, 33, 34, 12, 28)[1:] == (16, 32, 32, 32)     # colour reaches two pixels far
    assert check(data, 34, 33, 13, 30)[1:] == (32, 0, 32, 96)
    assert check(data, 34, 34, 12, 28, 2)[1:] == (16, 0, 48, 96)
    assert check(data, 300, 300, 20, 20)[1:] == (288, 288, 32, 32)
    assert cut(data, 0, 0, 320, 320) is None
    assert cut(data, 10, 10, 290, 300) is None     # nearly all of it
    bands = restarting((320, 320), "420", 40)    # of two rows of units
    assert check(bands, 70, 70, 20, 20)[1:] == (64, 0, 32, 320)
    assert len(cut(bands, 70, 70, 20, 20).data) < len(bands) / 5


def test_markers_that_form_no_tiles_are_left_alone() -> None:
    for interval, cuts in ((0, False), (3, False), (4, True), (7, False), (16, True), (24, False),
                           (32, True)):
        data = restarting((256, 256), "420", interval)
        assert (check(data, 40, 40, 60, 60) is not None) == cuts, interval
    assert cut(jpeg(noisy(256, 256), RST_INTERVAL=4, PROGRESSIVE=1), 40, 40, 60, 60) is None


def test_a_header_of_any_length_is_copied() -> None:
    data = restarting((128, 128), "420", 2)
    # a comment full of markers
    data = data[:2] + b"\xff\xfe\xff\xff" + b"\xff\xd0" * 32766 + b"\0" + data[2:]
    assert check(data, 40, 40, 30, 30) is not None
    assert check(data + b"behind the end \xff\xd9", 40, 40, 30, 30) is not None


def restarts(data: bytes) -> list[int]:
    scan = data.index(b"\xff\xda")
    return [at for at in range(scan, len(data) - 1) if data[at] == 0xFF and 0xD0 <= data[at + 1] < 0xD8]


def test_damaged_markers_are_left_to_the_decoder() -> None:
    data = restarting((128, 128), "420", 2)
    markers = restarts(data)
    assert len(markers) == 8 * 4 - 1
    at = markers[9]
    damaged = {
        "missing": data[:at] + data[at + 2:],
        "made data": data[:at] + b"\xfe" + data[at + 1:],
        "wrong number": data[:at + 1] + b"\xd7" + data[at + 2:],
        "twice": data[:at] + data[at:at + 2] + data[at:],
        "another marker": data[:at + 1] + b"\xc4" + data[at + 2:],
        "the end too early": data[:at + 1] + b"\xd9" + data[at + 2:],
        "no end": data[:-2],
        "a 255 before it": data[:at] + b"\xff" + data[at:],
        "cut": data[:at + 5],
        "cut in the header": data[:data.index(b"\xff\xda") + 4],
        "nothing behind the header": data[:markers[0]],
        "one tile too many": data[:-2] + b"\xff\xd7\0\0\xff\xd9",
    }
    assert cut(data, 40, 40, 30, 30) is not None
    assert [name for name, bad in damaged.items() if cut(bad, 40, 40, 30, 30)] == []


def test_wrong_headers_are_left_to_the_decoder() -> None:
    data = restarting((128, 128), "420", 2)
    frame, interval, scan = (data.index(marker) for marker in (b"\xff\xc0", b"\xff\xdd", b"\xff\xda"))

    def put(at: int, *values: int) -> bytes:
        return data[:at] + bytes(values) + data[at + len(values):]
    lies = [put(frame + 5, 0, 0), put(frame + 7, 0, 0), put(frame + 5, 255, 255, 255, 255), put(frame + 9, 0),
            put(frame + 9, 200), put(frame + 11, 0), put(frame + 11, 0x10), put(frame + 4, 12),
            put(interval + 4, 0, 0),
            put(interval + 4, 255, 255), put(scan + 4, 1), put(frame + 2, 0, 0), put(frame + 2, 255, 255),
            put(frame + 1, 0xC2), put(frame + 1, 0xC9), put(interval + 1, 0xD8), put(interval, 0),
            data[:frame] + data[frame:interval] * 2 + data[interval:], data[:frame] + data[interval:],
            b"", data[:2]]
    assert [number for number, lie in enumerate(lies) if cut(lie, 40, 40, 30, 30)] == []


def test_random_damage_breaks_nothing() -> None:
    """Whatever is cut is bytes that the decoder takes or refuses, of the size that was told."""
    rng = np.random.default_rng(4)
    data = np.frombuffer(restarting((64, 96), "420", 2), np.uint8)
    for _ in range(400):
        spoilt = data.copy()
        at = rng.integers(2, len(data) if rng.random() < 0.3 else 700, int(rng.integers(1, 4)))
        spoilt[at] = rng.integers(0, 256, len(at))
        section = cut(spoilt.tobytes()[:int(rng.integers(len(data) // 2, 2 * len(data)))], 20, 20, 20, 20)
        if section is not None:
            assert len(section.data) <= len(data)
            cv2.imdecode(np.frombuffer(section.data, np.uint8), cv2.IMREAD_COLOR)


@pytest.mark.parametrize("method", ["bilinear", "antialias"])
def test_the_decoder_gives_the_same_pixels_from_less(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of crops of all sizes: some are cut, some need nearly all, some are decoded at less than full size."""
    made: list[Cut | None] = []
    config = AugmentConfig(random_resized_crop=True, min_random_area=0.02, max_random_area=1.0,
                           random_mirror=True,
                           min_random_aspect_ratio=0.75, max_random_aspect_ratio=4 / 3, interpolation=method)
    sampler = CropSampler(config, (24, 24), 3, seed=0, train=True)
    for number, (sampling, size) in enumerate((("420", (250, 330)), ("444", (240, 123)),
                                               ("422", (801, 640)))):
        across = units(size, sampling)[1]
        interval = max(n for n in range(1, 7) if across % n == 0)
        data = restarting(size, sampling, interval)
        assert inspect(data) == ImageInfo(*size, 0, UNITS[sampling][0], True, True)
        for crop in sampler.specs(number, np.arange(40), np.array([size] * 40)):
            expected = np.array([])
            for cutting in (False, True):
                with monkeypatch.context() as patch:
                    patch.setattr(seekable, "cut", lambda *args, use=cutting, **more: (
                        made.append(cut(*args, **more)) or made[-1] if use else None))
                    actual = run(data, crop, (3, 24, 24))
                expected = expected if cutting else actual
            assert np.array_equal(actual, expected)
    assert 60 < sum(section is not None for section in made) < len(made) == 120


def test_what_is_turned_or_resized_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object, **more: object) -> None:
        raise AssertionError("cut")
    data = restarting((128, 128), "420", 2)
    with monkeypatch.context() as patch:
        patch.setattr(seekable, "cut", never)
        with pytest.raises(AssertionError, match="cut"):
            run(data, spec(9, 9, 32, 32), (3, 32, 32))
        run(data, spec(9, 9, 32, 32, resize=(64, 64)), (3, 32, 32))
        turned = with_orientation(data, 3)
        assert np.array_equal(run(turned, spec(9, 9, 32, 32), (3, 32, 32)), decode_full(turned)[9:41, 9:41])
    assert np.array_equal(run(data, spec(9, 9, 32, 32), (3, 32, 32)), decode_full(data)[9:41, 9:41])
    grey = run(data, spec(70, 9, 32, 32, method=METHODS["nearest"]), (1, 32, 32))
    assert np.array_equal(grey[:, :, 0], decode_full(data, cv2.IMREAD_GRAYSCALE)[70:102, 9:41])


def test_an_image_is_decoded_in_full_where_its_section_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = restarting((128, 128), "420", 2)
    for section in (Cut(b"junk", 0, 0, 32, 32), Cut(data, 0, 0, 32, 32)):
        monkeypatch.setattr(seekable, "cut", lambda *args, section=section, **more: section)
        assert np.array_equal(run(data, spec(9, 9, 32, 32), (3, 32, 32)), decode_full(data)[9:41, 9:41])


def test_a_loader_remembers_what_can_be_cut(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "x.rec") as writer:
        for number in range(3):
            writer.write(pack(ImageHeader(0, number, number),
                              restarting((128, 128), "420", 2 * (number % 2))))
    source = RecordSource([tmp_path / "x.rec"])
    loader = StreamingLoader(source, batch_size=3, image_shape=(3, 32, 32),
                             augment_config=AugmentConfig(), train=True,
                             seed=0, device=torch.device("cpu"), threads=0)
    for number in range(3):
        data = source.read(number)
        assert loader.preparer.info(number, data) == loader.preparer.info(number, data) == inspect(data)
        assert inspect(data).has_restarts == bool(number % 2)
