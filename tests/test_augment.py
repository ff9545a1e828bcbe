"""Crops: MXNet's distributions, drawn for each sample alone; and the settings that are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from imgcls.config.rules import resolve_augmentation
from imgcls.config.sections import AugmentConfig
from imgcls.data import augment, normalize
from imgcls.data.crops import METHODS, CropSampler, CropSpec, short_edge_sizes
from imgcls.errors import DataError, UsageError
from imgcls.formats import params

MANY = 4000
RESIZED_CROP = {"random_resized_crop": True, "min_random_area": 0.08, "min_random_aspect_ratio": 3 / 4,
                "max_random_aspect_ratio": 4 / 3}

FROZEN_AREAS = [(40, 7, 315, 359, True), (55, 143, 289, 350, True), (4, 130, 330, 267, False)]
FROZEN_WARPS = [(13, 2, (57, 67)), (8, 15, (53, 62)), (9, 17, (51, 60))]
FROZEN_MATRICES = [[0.8658, 0.0811, 0.8649], [0.8457, -0.0348, 2.9305], [0.8634, 0.112, -3.4093]]
FROZEN_COLORS = [((1, 2, 0), (-6, 15, -28)), ((2, 1, 0), (-28, 18, -30))]
FROZEN_FACTORS = [[1.1738, 0.7938, 0.8495, -4.2272, -4.7315, -5.3283],
                  [0.6739, 0.753, 0.9014, -1.3125, -0.0101, 0.937]]


def sampler(crop: tuple[int, int] = (32, 32), channels: int = 3, *, train: bool = True, seed: int = 0,
            **settings: object) -> CropSampler:
    return CropSampler(AugmentConfig(**settings), crop, channels, seed=seed, train=train)


def specs(size: tuple[int, int], count: int = MANY, epoch: int = 0, **settings: object) -> list[CropSpec]:
    return sampler(**settings).specs(epoch, np.arange(count), np.tile([size], (count, 1)))


def even(values: np.ndarray, low: float, high: float, bins: int = 10) -> bool:
    """Return whether the values look evenly spread over [low, high]."""
    values = np.asarray(values)
    counts = np.histogram(values, bins, (low, high))[0]
    expected = len(values) / bins
    return counts.sum() == len(values) and np.abs(counts - expected).max() < 6 * expected ** 0.5


def test_a_spec_belongs_to_its_sample() -> None:
    """It depends on the epoch and the seed, not on its neighbours, their order or their sizes."""
    settings = RESIZED_CROP | {"random_mirror": True, "brightness": 0.4, "pca_noise": 0.1, "max_random_h": 20}
    crops = sampler(**settings)
    sizes = np.stack([np.arange(100, 200), np.arange(250, 150, -1)], axis=1)
    specs = crops.specs(3, np.arange(100), sizes)
    for sample in (0, 41, 99):
        assert crops.specs(3, np.array([sample]), sizes[[sample]]) == [specs[sample]]
    backwards = crops.specs(3, np.arange(100)[::-1], sizes[::-1])
    assert backwards[::-1] == specs
    assert sum(a == b for a, b in zip(crops.specs(4, np.arange(100), sizes), specs, strict=True)) == 0
    assert sum(a == b for a, b in zip(sampler(seed=1, **settings).specs(3, np.arange(100), sizes), specs,
                                      strict=True)) == 0


def test_the_draws_are_frozen() -> None:
    """Runs that were begun with an older version must go on as they would have."""
    drawn = specs((375, 500), 3, epoch=2, random_mirror=True, **RESIZED_CROP)
    assert [(p.top, p.left, p.height, p.width, p.mirror) for p in drawn] == FROZEN_AREAS
    drawn = specs((60, 70), 3, epoch=2, random_crop=True, max_random_rotate_angle=10,
                  max_random_shear_ratio=0.1,
                  min_random_scale=0.8, max_random_aspect_ratio=0.25)
    assert [(p.top, p.left, p.warp[1]) for p in drawn] == FROZEN_WARPS
    assert np.allclose([p.warp[0][0] for p in drawn], FROZEN_MATRICES, atol=1e-3)
    drawn = specs((60, 70), 2, epoch=2, brightness=0.4, contrast=0.4, saturation=0.4, pca_noise=0.1,
                  max_random_h=36,
                  max_random_s=50, max_random_l=50)
    assert [(p.color.order, p.color.hls) for p in drawn] == FROZEN_COLORS
    assert np.allclose([p.color.factors + p.color.light for p in drawn], FROZEN_FACTORS, atol=1e-3)


def test_random_crop_and_mirror() -> None:
    drawn = specs((40, 36), random_crop=True, random_mirror=True)
    assert {p.top for p in drawn} == set(range(9))
    assert {p.left for p in drawn} == set(range(5))
    assert even([p.top for p in drawn], -0.5, 8.5, 9)
    assert 0.45 < np.mean([p.mirror for p in drawn]) < 0.55
    assert {(p.top, p.left, p.height, p.width, p.mirror) for p in specs((41, 36))} == {(4, 2, 32, 32, False)}


def test_windows_are_those_of_the_specs() -> None:
    """What the resident loader asks for is what the streaming loader is given."""
    indices = np.arange(500)
    for settings in ({"pad_size": 4, "random_crop": True, "random_mirror": True}, {}):
        crops = sampler((28, 28), seed=5, **settings)
        windows = crops.windows(3, indices, (32, 30))
        specs_ = crops.specs(3, indices, np.tile([[32, 30]], (500, 1)))
        assert [(p.top, p.left, p.height, p.width, p.mirror) for p in specs_] == list(
            zip(*(column.tolist() for column in windows), strict=True))


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric"])
@pytest.mark.parametrize("pad", [1, 9])
def test_borders_are_numpys(mode: Any, pad: int) -> None:
    """As wide as the image and wider, too; and crops are drawn evenly over image and border."""
    images = torch.arange(2 * 5 * 7 * 3, dtype=torch.uint8).view(2, 5, 7, 3)
    config = AugmentConfig(pad_size=pad, pad_mode=mode, fill_value=9, random_crop=True)
    fitted, _ = augment.fit_to_shape(images, config, (3, 5, 7), train=True)
    values = {"constant_values": 9} if mode == "constant" else {}
    assert np.array_equal(fitted, np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode, **values))
    assert torch.equal(augment.fit_to_shape(images, config, (3, 5, 7), train=False)[0], images)
    assert even([p.top for p in specs((5, 7), crop=(5, 7), pad_size=pad, pad_mode=mode, random_crop=True)],
                -0.5, 2 * pad + 0.5, 2 * pad + 1)


def test_random_resized_crop_has_mxnets_distribution() -> None:
    """Area and ratio are uniform (not their logarithms), sides are swapped half of the time."""
    drawn = specs((1000, 1000), **RESIZED_CROP)
    area = np.array([p.height * p.width for p in drawn]) / 1e6
    ratio = np.array([p.width / p.height for p in drawn])
    small = (area > 0.08) & (area < 0.5)  # larger ones do not always fit
    assert area.min() > 0.079
    assert even(area[small], 0.08, 0.5)
    tall = ratio[small] < 1
    assert 0.45 < tall.mean() < 0.55
    # of an even ratio in [3/4, 4/3], or its inverse, that part is below 1
    assert abs(np.mean(np.abs(np.log(ratio[small])) < np.log(4 / 3) / 2) - _part_in_the_middle()) < 0.04
    assert all(0 <= p.top <= 1000 - p.height and 0 <= p.left <= 1000 - p.width for p in drawn)
    assert even([p.top / (1000 - p.height) for p in drawn if p.height < 700], 0, 1)
    assert all(p.enlarge is None and p.resize is None for p in drawn)


def _part_in_the_middle() -> float:
    ratios = np.random.default_rng(0).uniform(3 / 4, 4 / 3, 100_000)
    return float(np.mean(np.abs(np.log(ratios)) < np.log(4 / 3) / 2))


def test_where_no_area_fits_the_centre_is_cut() -> None:
    drawn = specs((20, 2000), 200, random_resized_crop=True, min_random_area=0.9, min_random_aspect_ratio=1,
                  max_random_aspect_ratio=1)
    assert {p[3:7] for p in drawn} == {(0, 1584, 32, 32)}
    assert {p.enlarge for p in drawn} == {(32, 3200)}
    neutral = specs((50, 60), 5, random_resized_crop=True)  # of all settings at their defaults: not active
    assert {p[3:7] for p in neutral} == {(9, 14, 32, 32)}


def test_square_crops_of_random_size() -> None:
    drawn = specs((100, 80), min_crop_size=40, max_crop_size=60, random_crop=True)
    assert even([p.height for p in drawn], 39.5, 60.5, 21)
    assert all(p.height == p.width and p.top + p.height <= 100 and p.left + p.width <= 80 for p in drawn)
    centre = specs((100, 80), min_crop_size=40, max_crop_size=60)
    assert all((p.top, p.left) == ((100 - p.height) // 2, (80 - p.width) // 2) for p in centre)
    assert {p.height for p in specs((50, 30), min_crop_size=40, max_crop_size=60)} == {30}  # MXNet dies here


def test_small_images_are_enlarged_as_mxnet_does() -> None:
    """First the height is brought up, then the width, the rest in proportion and cut off."""
    assert {(p.enlarge, p.top, p.left) for p in specs((20, 50), 2)} == {((32, 80), 0, 24)}
    assert {p.enlarge for p in specs((20, 10), 2)} == {((64, 32))}
    assert {p.enlarge for p in specs((40, 31), 2)} == {(41, 32)}
    assert {p.enlarge for p in specs((24, 24), 2, pad_size=4)} == {None}
    assert short_edge_sizes(np.array([[9, 11], [500, 375], [33, 33]]), 32).tolist() == [[32, 39],
                                                                                        [42, 32], [32, 32]]


def test_warps_have_mxnets_matrix_and_canvas() -> None:
    drawn = specs((50, 80), 300, max_random_rotate_angle=20, max_random_shear_ratio=0.2, min_random_scale=0.7,
                  max_random_scale=1.3, max_random_aspect_ratio=0.25)
    for spec in drawn:
        matrix, canvas = spec.warp
        scale = canvas[1] / 80
        assert 0.68 < scale < 1.31
        assert abs(canvas[0] - scale * 50) < 1.5
        centre = matrix[:, :2] @ [40, 25] + matrix[:, 2]
        assert np.abs(centre - [canvas[1] / 2, canvas[0] / 2]).max() < 1
        across = np.hypot(*matrix[1, :2])
        angle = np.rad2deg(np.arctan2(-matrix[1, 0], matrix[1, 1]))
        assert abs(angle - round(angle)) < 1e-3
        assert abs(angle) < 20.01
        cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        along = matrix[0, 0] * cos + matrix[0, 1] * sin
        shear = (matrix[0, 1] * cos - matrix[0, 0] * sin) / across
        assert 0.74 < across / along < 1.26
        assert abs(along + across - 2 * scale) < 0.1
        assert abs(shear) < 0.201
    angles = [np.rad2deg(np.arctan2(-p.warp[0][1, 0], p.warp[0][1, 1])) for p in specs((50, 80),
                                                                                       max_random_rotate_angle=3)]
    assert even(np.round(angles), -3.5, 3.5, 7)
    assert specs((50, 80), 1)[0].warp is None


def test_angles_shears_scales_and_aspects_are_even() -> None:
    """One of them at a time: the part of MXNet's matrix that it decides."""
    def matrices(**settings: object) -> np.ndarray:
        return np.array([p.warp[0] for p in specs((5000, 5000), **settings)])

    angle = np.rad2deg(np.arctan2(*matrices(max_random_rotate_angle=4)[:, 0, 1::-1].T))
    assert even(np.round(angle), -4.5, 4.5, 9), "whole degrees, both ends included"
    assert even(matrices(max_random_shear_ratio=0.3)[:, 0, 1], -0.3, 0.3)
    assert even(matrices(min_random_scale=0.8, max_random_scale=1.5)[:, 0, 0], 0.8, 1.5)
    aspects = matrices(max_random_aspect_ratio=0.25)
    assert even(aspects[:, 1, 1] / aspects[:, 0, 0], 0.75, 1.25)


def test_colour() -> None:
    colors = [p.color for p in specs((40, 40), brightness=0.4, contrast=0.2, saturation=0.1)]
    for i, most in enumerate((0.4, 0.2, 0.1)):
        assert even([c.factors[i] for c in colors], 1 - most, 1 + most)
    assert {c.order for c in colors} == {(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)}
    assert {c.hls for c in colors} == {(0, 0, 0)}
    shifts = np.array([p.color.hls
                       for p in specs((40, 40), max_random_h=36, max_random_s=50, max_random_l=40)])
    assert (np.abs(shifts).max(0) <= (36, 40, 50)).all()
    assert (shifts.std(0) > (14, 16, 20)).all()  # (u + 4v) / 5 is a little narrower than even
    assert (shifts.std(0) < (36 / 3 ** 0.5, 40 / 3 ** 0.5, 50 / 3 ** 0.5)).all()
    light = np.array([p.color.light for p in specs((40, 40), pca_noise=0.1)])
    assert np.abs(light.mean(0)).max() < 0.3
    assert np.allclose(light.std(0), 0.1 * 55.46 * np.array([0.5675, 0.5808, 0.5836]), rtol=0.05)
    assert {p.color for p in specs((40, 40), 3)} == {None}


def test_each_interpolation_comes_equally_often() -> None:
    assert even([p.method for p in specs((40, 40), interpolation="random")], -0.5, 4.5, 5)
    assert specs((40, 40), 1, interpolation="antialias")[0].method == METHODS["antialias"]


def test_validation_is_the_centre_of_the_resized_image() -> None:
    settings = RESIZED_CROP | {"random_mirror": True, "pad_size": 4, "pca_noise": 0.1, "resize": 300,
                               "val_resize": 64}
    drawn = sampler(train=False, **settings).specs(7, np.arange(50), np.tile([[100, 200]], (50, 1)))
    assert set(drawn) == {CropSpec((64, 128), None, None, 16, 48, 32, 32, False, 1, None)}
    drawn = specs((100, 200), 5, resize=64)
    assert {(p.resize, p.top, p.left) for p in drawn} == {((64, 128), 16, 48)}


@pytest.mark.parametrize(("settings", "message"), [
    (RESIZED_CROP | {"random_crop": True}, "random_resized_crop 1 and random_crop 1 exclude each other"),
    (RESIZED_CROP | {"max_random_scale": 2}, "max_random_scale"),
    ({"min_random_area": 0.5, "max_random_area": 0.2}, "min_random_area 0.5 and max_random_area 0.2"),
    ({"max_random_area": 1.5}, "must be at most 1"),
    ({"max_random_aspect_ratio": 1}, "min_random_aspect_ratio 0 and max_random_aspect_ratio 2"),
    ({"max_random_scale": 0.5}, "min_random_scale 1 and max_random_scale 0.5"),
    ({"max_crop_size": 50}, "min_crop_size -1 and max_crop_size 50: give both"),
    ({"fill_value": 256}, "fill_value 256"),
    ({"channels": 1, "pca_noise": 0.1}, "pca_noise are for 3"),
])
def test_settings_that_contradict_each_other_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        sampler(**settings)


def test_explicit_settings_override_recipes() -> None:
    photographs = AugmentConfig(random_mirror=True, **RESIZED_CROP)
    assert resolve_augmentation(photographs, ()) == photographs
    cropped = AugmentConfig(random_mirror=True, random_crop=True, **RESIZED_CROP)
    assert resolve_augmentation(cropped, {"random_crop"}) == AugmentConfig(random_mirror=True,
                                                                           random_crop=True)
    assert resolve_augmentation(photographs, {"random_resized_crop"}) == photographs
    # the crop of cifar10 with its border goes where that of random area is asked for
    asked = AugmentConfig(random_crop=True, pad_size=4, random_resized_crop=True, min_random_area=0.5)
    assert resolve_augmentation(asked, {"random_resized_crop", "min_random_area"}) == AugmentConfig(
        **RESIZED_CROP | {"min_random_area": 0.5})
    both = resolve_augmentation(asked, {"random_resized_crop", "random_crop"})
    assert (both.random_crop, both.random_resized_crop) == (True, True)  # refused later, with both names
    turned = AugmentConfig(random_resized_crop=True, min_random_aspect_ratio=3 / 4,
                           max_random_aspect_ratio=0.25)
    assert resolve_augmentation(turned, {"max_random_aspect_ratio"}).min_random_aspect_ratio is None
    recipe = AugmentConfig(use_imagenet_data_augmentation=True, brightness=0.1, random_crop=True)
    resolved = resolve_augmentation(recipe, {"use_imagenet_data_augmentation", "brightness"})
    assert (resolved.random_crop, resolved.random_resized_crop, resolved.brightness, resolved.contrast,
            resolved.pca_noise, resolved.rgb_std) == (False, True, 0.1, 0.4, 0.1, (58.393, 57.12, 57.375))
    assert resolve_augmentation(resolved, {"use_imagenet_data_augmentation", "brightness"}) == resolved
    sampler((32, 32), **{f: getattr(resolved, f) for f in resolved.__dataclass_fields__})


def test_all_of_it_is_described() -> None:
    text = augment.describe(AugmentConfig(random_mirror=True, pca_noise=0.1, brightness=0.4, resize=256,
                                          interpolation="antialias", **RESIZED_CROP), (3, 224, 224))
    assert text == ("short edge 256, random resized crop (area 0.08-1, aspect 0.75-1.33) to 224x224, antialias "
                    "interpolation, brightness 0.4, lighting noise 0.1, random mirror; (x - 0) / 1")
    text = augment.describe(AugmentConfig(max_random_rotate_angle=10, min_crop_size=5, max_crop_size=9,
                                          max_random_aspect_ratio=0.25, mean_image="mean.bin"), (3, 8, 8))
    assert text == ("rotation to 10 degrees, aspect 0.75-1.25, centre square of side 5-9 to 8x8; (x - mean.bin) / 1")


def test_a_mean_image_is_mirrored_with_its_image(tmp_path) -> None:
    mean = np.arange(3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5)
    params.save(tmp_path / "mean.bin", {"mean_img": mean})
    config = AugmentConfig(mean_image=str(tmp_path / "mean.bin"), rgb_mean=(100,), rgb_std=(2,))
    normalizer = normalize.Normalizer(config, 3, torch.device("cpu"), (3, 4, 5))
    pixels = torch.randint(256, (2, 4, 5, 3), dtype=torch.uint8)
    normalized = normalizer(pixels, np.array([False, True])).numpy()
    expected = pixels.permute(0, 3, 1, 2).numpy().astype(np.float32)
    assert np.array_equal(normalized[0], (expected[0] - mean) / 2)
    assert np.array_equal(normalized[1], (expected[1] - mean[:, :, ::-1]) / 2)
    with pytest.raises(DataError, match="the mean image is 3x4x5, image_shape is 3x5x5"):
        normalize.read_mean_image(str(tmp_path / "mean.bin"), (3, 5, 5))


def test_the_mirror_in_turns_shows_each_image_once_each_way_in_two_epochs() -> None:
    first, second, third = ([spec.mirror for spec in specs((40, 36), epoch=epoch, alternating_mirror=True,
                                                           random_crop=True)] for epoch in range(3))
    assert 0.45 < np.mean(first) < 0.55
    assert second == [not mirror for mirror in first]
    assert third == first
    # in place of the random one, which the data set may have on; and never in validation
    assert first == [spec.mirror for spec in specs((40, 36), alternating_mirror=True, random_mirror=True)]
    crops = sampler((28, 28), train=False, alternating_mirror=True)
    assert not crops.windows(1, np.arange(500), (32, 32)).mirror.any()
    assert "mirror in turns;" in augment.describe(AugmentConfig(alternating_mirror=True, random_mirror=True),
                                                  (3, 32, 32))
