"""Decoding: only what the crop needs, with the pixels of the full image; and what is refused."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import mxnet_file

from imgcls.config.sections import AugmentConfig
from imgcls.data import decode, opencv
from imgcls.data.color import Color
from imgcls.data.crops import METHODS, CropSampler, CropSpec
from imgcls.data.decode import Decoder
from imgcls.data.image_header import BadImageError, ImageInfo, inspect
from imgcls.data.loaders.streaming import StreamingLoader
from imgcls.data.pixels import recolor
from imgcls.data.record_source import RecordSource

RNG = np.random.default_rng(0)
SAMPLING = {"444": 0x111111, "420": 0x221111, "422": 0x211111, "440": 0x121111}


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Something with edges and gradients, so that a pixel out of place shows."""
    y, x = np.mgrid[:height, :width]
    planes = [(x * (i + 3) + y * (5 - i)) % 256 for i in range(channels)]
    pixels = np.stack(planes, axis=2).astype(np.uint8)
    pixels[height // 4:height // 2, width // 3:width // 2] = 255
    return pixels if channels > 1 else pixels[:, :, 0]


def jpeg(pixels: np.ndarray, sampling: str = "420", **options: int) -> bytes:
    """An RGB or grey picture as JPEG; options are OpenCV's, without IMWRITE_JPEG_."""
    numbers = [cv2.IMWRITE_JPEG_QUALITY, 90, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLING[sampling]]
    for name, value in options.items():
        numbers += [getattr(cv2, f"IMWRITE_JPEG_{name}"), value]
    return cv2.imencode(".jpg", pixels[..., ::-1] if pixels.ndim == 3 else pixels, numbers)[1].tobytes()


def png(pixels: np.ndarray) -> bytes:
    order = [2, 1, 0, 3][:pixels.shape[2]] if pixels.ndim == 3 else None
    return cv2.imencode(".png", pixels[..., order] if order else pixels)[1].tobytes()


def with_orientation(data: bytes, orientation: int, order: str = "II") -> bytes:
    """The JPEG with an EXIF block that says how it is to be turned."""
    number = {"II": "little", "MM": "big"}[order]
    tiff = (order.encode() + (42).to_bytes(2, number) + (8).to_bytes(4, number) + (1).to_bytes(2, number)
            + (0x112).to_bytes(2, number) + (3).to_bytes(2, number) + (1).to_bytes(4, number)
            + orientation.to_bytes(2, number) + bytes(6))
    block = b"Exif\0\0" + tiff
    return data[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + data[2:]


def decode_full(data: bytes, flags: int = cv2.IMREAD_COLOR) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    return np.ascontiguousarray(image[:, :, ::-1]) if image.ndim == 3 else image


def spec(top: int, left: int, height: int, width: int, **changes: object) -> CropSpec:
    settings: dict = {"resize": None, "warp": None, "enlarge": None, "mirror": False,
                      "method": METHODS["bilinear"],
                      "color": None}
    return CropSpec(top=top, left=left, height=height, width=width, **settings | changes)


def never(size: tuple[int, int]) -> CropSpec:
    raise AssertionError(f"drawn again for {size}")


def run(data: bytes | np.ndarray, crop: CropSpec | None, shape: tuple[int, ...], draw_spec: Callable = never,
        **options: object) -> np.ndarray:
    row = np.full((shape[1], shape[2], shape[0]), 77, np.uint8)
    Decoder(shape, **options)(row, data, inspect(data) if isinstance(data, bytes) else ImageInfo(),
                              crop, draw_spec)
    return row


@pytest.fixture(autouse=True)
def quiet() -> None:
    opencv.prepare()


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("size", [(97, 131), (64, 64), (200, 33)])
def test_the_size_is_read_from_the_header_and_the_upper_rows_are_enough(size: tuple[int, int], sampling: str,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(picture(*size), sampling)
    info = inspect(data)
    assert info[:2] == size
    assert info.block_height == (16 if sampling in ("420", "440") else 8)
    lengths = []
    upper = decode.upper_rows
    monkeypatch.setattr(decode, "upper_rows", lambda d, i, rows: lengths.append(rows) or upper(d, i, rows))
    reference = decode_full(data)
    for top in (0, 7, size[0] - 30):
        actual = run(data, spec(top, 3, 30, 30), (3, 30, 30))
        assert np.array_equal(actual, reference[top:top + 30, 3:33])
    assert lengths
    assert max(lengths) < size[0]


def test_upper_rows_write_nothing_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    """The decoder would write a line for every image if it found what it does not expect."""
    run(jpeg(picture(200, 200)), spec(0, 0, 40, 40), (3, 40, 40))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("options", [{"PROGRESSIVE": 1}, {"RST_INTERVAL": 2}],
                         ids=["progressive", "restarts"])
def test_other_jpegs_are_decoded_in_full(options: dict[str, int]) -> None:
    data = jpeg(picture(160, 120), **options)
    assert inspect(data)[:3] == (160, 120, 0)
    assert np.array_equal(run(data, spec(5, 5, 40, 40), (3, 40, 40)), decode_full(data)[5:45, 5:45])


@pytest.mark.parametrize("order", ["II", "MM"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, order: str) -> None:
    data = with_orientation(jpeg(picture(160, 96)), orientation, order)
    reference = decode_full(data)
    assert reference.shape[:2] == ((96, 160) if orientation >= 5 else (160, 96))
    asked = []

    def draw_spec(size: tuple[int, int]) -> CropSpec:
        asked.append(size)
        return spec(2, 3, 40, 40)

    first = spec(2, 3, 40, 40) if inspect(data).height else None
    assert np.array_equal(run(data, first, (3, 40, 40), draw_spec), reference[2:42, 3:43])
    assert asked == ([] if first else [reference.shape[:2]])


def test_grey_alpha_and_pixels() -> None:
    grey = picture(50, 60, 1)
    centre = spec(5, 10, 40, 40)
    assert np.array_equal(run(png(grey), centre, (3, 40, 40)), np.repeat(grey[5:45, 10:50, None], 3, axis=2))
    assert np.array_equal(run(png(grey), centre, (1, 40, 40))[:, :, 0], grey[5:45, 10:50])
    four = picture(50, 60, 4)
    assert np.array_equal(run(png(four), centre, (4, 40, 40)), four[5:45, 10:50])
    assert np.array_equal(run(png(four), centre, (3, 40, 40)), four[5:45, 10:50, :3])
    with pytest.raises(BadImageError, match="has 3 channels of uint8, `image_shape` has 4"):
        run(png(picture(50, 60)), centre, (4, 40, 40))
    colour = picture(50, 60)
    for pixels in (grey, grey[:, :, None]):
        assert np.array_equal(run(pixels, None, (3, 40, 40), lambda _: centre)[:, :, 0], grey[5:45, 10:50])
    assert np.array_equal(run(colour, None, (3, 40, 40), lambda _: centre), colour[5:45, 10:50])
    luma = run(colour, None, (1, 40, 40), lambda _: centre)[:, :, 0]
    assert np.abs(luma - (colour[5:45, 10:50] @ [0.299, 0.587, 0.114])).max() <= 0.51


def test_without_the_rgb_flag_of_newer_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(picture(60, 60))
    color = Color((0,), (0.5, 1, 1), (0, 0, 0), (0, 0, 9))
    expected = run(data, spec(0, 0, 50, 50, mirror=True, color=color), (3, 40, 40))
    monkeypatch.setattr(decode, "_RGB", None)
    assert np.array_equal(run(data, spec(0, 0, 50, 50, mirror=True, color=color), (3, 40, 40)), expected)
    pixels = picture(60, 60)
    assert np.array_equal(run(pixels, None, (3, 60, 60), lambda size: spec(0, 0, *size)), pixels)


@pytest.mark.parametrize("method", ["bilinear", "cubic", "area", "lanczos", "auto", "nearest"])
@pytest.mark.parametrize("channels", [1, 3])
def test_resize_crop_and_mirror_equal_those_of_the_full_image(method: str, channels: int) -> None:
    pixels = picture(150, 211, channels)
    data, number = jpeg(pixels), METHODS[method]
    reference = decode_full(data) if channels == 3 else decode_full(data, cv2.IMREAD_GRAYSCALE)
    codes = {"auto": (cv2.INTER_AREA, cv2.INTER_CUBIC)}.get(method, (number, number))
    smaller = cv2.resize(reference, (112, 80), interpolation=codes[0])
    actual = run(data, spec(4, 9, 48, 48, resize=(80, 112), mirror=True, method=number), (channels, 48, 48))
    assert np.array_equal(actual.squeeze(), smaller[4:52, 9:57][:, ::-1])
    larger = cv2.resize(np.ascontiguousarray(reference[10:40, 20:60]), (48, 48), interpolation=codes[1])
    actual = run(data, spec(10, 20, 30, 40, method=number), (channels, 48, 48))
    assert np.array_equal(actual.squeeze(), larger)


def test_antialiasing_is_that_of_torch() -> None:
    data = jpeg(picture(150, 211), "444")
    reference = torch.from_numpy(decode_full(data)).permute(2, 0, 1)[None]

    def shrink(image: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
        return torch.nn.functional.interpolate(image, size, mode="bilinear",
                                               antialias=True)[0].permute(1, 2, 0).numpy()

    number = METHODS["antialias"]
    actual = run(data, spec(4, 9, 48, 48, resize=(100, 140), method=number), (3, 48, 48))
    assert np.array_equal(actual, shrink(reference, (100, 140))[4:52, 9:57])
    actual = run(data, spec(10, 20, 90, 80, method=number, mirror=True), (3, 48, 48))
    assert np.array_equal(actual, shrink(reference[:, :, 10:100, 20:100], (48, 48))[:, ::-1])
    data = jpeg(picture(237, 250), "444")  # 237 * (64 / 237) is less than 64 in a computer
    reference = torch.from_numpy(decode_full(data)).permute(2, 0, 1)[None]
    actual = run(data, spec(0, 1, 64, 64, resize=(64, 67), method=number), (3, 64, 64))
    assert np.array_equal(actual, shrink(reference, (64, 67))[:, 1:65])


@pytest.mark.parametrize("method", ["bilinear", "antialias"])
def test_large_crops_are_decoded_smaller_and_look_the_same(method: str) -> None:
    smooth = cv2.GaussianBlur(RNG.random((900, 800, 3), np.float32), (0, 0), 40)
    data = jpeg(cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8), "444")
    for crop, reduced in ((spec(96, 40, 800, 600, method=METHODS[method]), 4 if method == "antialias" else 8),
                          (spec(10, 20, 64, 64, resize=(112, 100), method=METHODS[method]), 4)):
        assert Decoder((3, 64, 64), reduce_resized=True).reduction(inspect(data), crop) == reduced
        exact = run(data, crop, (3, 64, 64), exact=True)
        assert np.abs(run(data, crop, (3, 64, 64), reduce_resized=True).astype(int) - exact).mean() < 2
        assert Decoder((3, 64, 64)).reduction(inspect(data), crop) == (1 if crop.resize else reduced)
    assert Decoder((3, 64, 64)).reduction(inspect(data), spec(0, 0, 127, 800)) == 1


@pytest.mark.parametrize("mode", ["edge", "reflect", "symmetric"])
def test_border_modes_are_numpys(mode: Any) -> None:
    pixels = picture(20, 30)
    actual = run(png(pixels), spec(0, 0, 28, 38), (3, 28, 38), pad=4, pad_mode=mode)
    assert np.array_equal(actual, np.pad(pixels, ((4, 4), (4, 4), (0, 0)), mode=mode))


def test_border_enlargement_and_warp() -> None:
    pixels = picture(20, 30)
    actual = run(png(pixels), spec(0, 0, 24, 34), (3, 24, 34), pad=2, fill_value=9)
    assert np.array_equal(actual[2:22, 2:32], pixels)
    assert (actual[:2] == 9).all()
    assert (actual[:, -2:] == 9).all()
    actual = run(png(pixels), spec(0, 6, 40, 40, enlarge=(40, 60)), (3, 40, 40))
    assert np.array_equal(actual, cv2.resize(pixels, (60, 40))[:, 6:46])
    turn = np.array([[0, 1, 0], [-1, 0, 29]], np.float32)  # a quarter to the left
    actual = run(png(pixels), spec(3, 2, 16, 16, warp=(turn, (30, 20))), (3, 16, 16), fill_value=1)
    assert np.array_equal(actual, np.rot90(pixels)[3:19, 2:18])
    padded = run(png(pixels), spec(4, 3, 16, 16, warp=(turn, (30, 20))), (3, 16, 16), pad=1)
    assert np.array_equal(padded, actual)


def test_the_window_of_a_warp_is_that_of_the_full_canvas() -> None:
    sampler = CropSampler(AugmentConfig(max_random_rotate_angle=30, max_random_shear_ratio=0.2,
                                        random_crop=True,
                                        max_random_aspect_ratio=0.3), (40, 40), 3, seed=0, train=True)
    pixels = cv2.GaussianBlur(picture(90, 80), (0, 0), 2)
    for crop in sampler.specs(0, np.arange(20), np.tile([[90, 80]], (20, 1))):
        matrix, (height, width) = crop.warp
        canvas = cv2.warpAffine(pixels, matrix, (width, height), borderValue=(5,) * 4)
        actual = run(png(pixels), crop, (3, 40, 40), fill_value=5)
        inside = canvas[crop.top:crop.top + 40, crop.left:crop.left + 40]
        assert np.abs(actual.astype(int) - inside).mean() < 0.5  # OpenCV rounds positions to 1/32


def test_colour_is_changed_step_by_step() -> None:
    pixels = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)

    def changed(color: Color) -> np.ndarray:
        image = pixels.copy()
        recolor(image, color)
        return image.astype(float)

    def color(order: tuple[int, ...] = (), factors: tuple = (1, 1, 1), hls: tuple = (0, 0, 0),
              light: tuple = (0, 0, 0)) -> Color:
        return Color(order, factors, hls, light)

    def clipped(values: np.ndarray) -> np.ndarray:
        return values.clip(0, 255)

    original = pixels.astype(float)
    grey = pixels @ np.array([0.114, 0.587, 0.299])  # red and blue exchanged, as MXNet has it
    contrast = clipped(1.4 * original - 0.4 * grey.mean())
    assert np.abs(changed(color((0,), (1.3, 1, 1))) - clipped(1.3 * original)).max() <= 0.5
    assert np.abs(changed(color((1,), (1, 1.4, 1))) - contrast).max() <= 1
    assert np.abs(changed(color((2,), (1, 1, 0.6))) - (0.6 * original + 0.4 * grey[..., None])).max() <= 1.01
    both = changed(color((0, 1), (1.9, 0.5, 1)))
    # the order is kept: bytes overflow
    assert np.abs(both - changed(color((1, 0), (1.9, 0.5, 1)))).mean() > 1
    light = changed(color(light=(10.7, -20.2, 0)))
    assert np.array_equal(light, clipped(np.trunc(clipped(original + np.array([10.7, -20.2, 0])))))
    hls = cv2.cvtColor(pixels, cv2.COLOR_RGB2HLS).astype(int) + np.array([20, -30, 40])
    hls = np.minimum(hls.clip(0), [180, 255, 255]).astype(np.uint8)
    assert np.array_equal(changed(color(hls=(20, -30, 40))), cv2.cvtColor(hls, cv2.COLOR_HLS2RGB))
    grey_image = pixels[:, :, :1].copy()
    recolor(grey_image, color((1, 0), (0.5, 1.2, 1)))
    flat = pixels[:, :, :1].astype(float)
    assert np.abs(grey_image - clipped(1.2 * flat - 0.2 * flat.mean()) * 0.5).max() <= 1


@pytest.mark.parametrize(("data", "reason"), [
    (b"", "is empty"),
    (jpeg(picture(64, 64))[:-2], "is a JPEG that is cut: its end marker is missing"),
    (png(picture(64, 64))[:-12], "is a PNG that is cut: its end chunk is missing"),
    (b"hello, this is text", "is no image"),
    (jpeg(picture(64, 64))[:100] + b"\xff\xd9", "is a JPEG that is damaged in its header"),
    (b"GIF89a but not really", "is 25120 x 29813 pixels, more than the 268,435,456 that are decoded"),
    (b"GIF89a\4\0\4\0 not really", "is a GIF that is damaged, or that OpenCV [0-9.]+ cannot read"),
])
def test_bad_images_are_named_for_what_they_are(data: bytes, reason: str) -> None:
    with pytest.raises(BadImageError, match=f"^{reason}$"):
        run(data, None, (3, 32, 32))


def test_no_memory_is_taken_for_a_size_that_is_only_claimed() -> None:
    huge_png = bytearray(png(picture(16, 16)))
    huge_png[16:24] = (60000).to_bytes(4, "big") * 2
    at = inspect(data := jpeg(picture(64, 64))).height_offset
    huge_jpeg = bytearray(data)
    huge_jpeg[at:at + 4] = (60000).to_bytes(2, "big") * 2
    tracemalloc.start()
    for bad in (huge_png, huge_jpeg):
        with pytest.raises(BadImageError, match="is 60000 x 60000 pixels, more than"):
            run(bytes(bad), None, (3, 32, 32))
    with pytest.raises(BadImageError, match="would become 100000 x 100000 pixels when resized"):
        run(png(picture(16, 16)), spec(0, 0, 32, 32, resize=(100000, 100000)), (3, 32, 32))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_random_headers_are_read_or_refused() -> None:
    data = jpeg(picture(40, 40))
    for trial in range(600):
        broken = bytearray(data if trial % 2 else png(picture(40, 40)))
        for _ in range(3):
            broken[RNG.integers(2, min(len(broken), 700))] = RNG.integers(256)
        row = np.empty((32, 32, 3), np.uint8)
        with contextlib.suppress(BadImageError):
            info = inspect(bytes(broken))
            first = spec(0, 0, 32, 32) if info.height >= 32 and info.width >= 32 else None
            Decoder((3, 32, 32))(row, bytes(broken), info, first, lambda size: spec(0, 0, *size))


def load_arrays(path: object) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return dict(arrays)


def iter_cases() -> list[dict]:
    """Return the cases of MXNet's own iterator that have pixels and one label a sample."""
    cases = json.loads(mxnet_file("iter", "manifest.json").read_text())["cases"]
    return [case for case in cases if case["pixels_of_first_n"] and not case["kwargs"].get("label_width")]


class InFileOrder(StreamingLoader):
    """The crops of training in the order of the file: so MXNet recorded them."""

    def epoch_indices(self, epoch: int) -> np.ndarray:
        return np.arange(self.num_samples)


@pytest.mark.parametrize("case", iter_cases(), ids=lambda case: case["name"])
@pytest.mark.parametrize("exact", [True, False])
def test_pixels_are_those_of_mxnet(case: dict, exact: bool) -> None:
    """The deterministic part of MXNet 1.9.1's ImageRecordIter: equal to the bit, but for cubic resizing."""
    settings = case["kwargs"]
    expected = load_arrays(mxnet_file("iter", case["npz"]))["data"]
    mirror = settings.get("mirror", False)
    number = settings.get("inter_method", 1)
    names = {value: name for name, value in METHODS.items()}
    mean = tuple(settings.get(f"mean_{c}", 0.0) for c in "rgb")
    std = tuple(settings.get(f"std_{c}", 1.0) / settings.get("scale", 1) for c in "rgb")
    mean_image = str(mxnet_file(settings["mean_img"])) if "mean_img" in settings else ""
    config = AugmentConfig(resize=settings.get("resize", 0), pad_size=settings.get("pad", 0), rgb_mean=mean,
                           rgb_std=std, fill_value=settings.get("fill_value", 255),
                           interpolation=names[number],
                           mean_image=mean_image)
    source = RecordSource([mxnet_file(case["rec"])])
    loader = InFileOrder(source, batch_size=8, image_shape=settings["data_shape"], augment_config=config, seed=0,
                         train=True, device=torch.device("cpu"), threads=0, exact=exact)
    actual = torch.cat([batch.images for batch in loader.epoch(0)]).numpy()[:case["pixels_of_first_n"]]
    if mirror:
        actual = actual[..., ::-1]
    tolerance = 1 if number == 2 else 1e-4
    assert np.abs(actual - expected[:len(actual)]).max() <= tolerance
