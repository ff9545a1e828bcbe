"""The resident loader: what is delivered, in which order, cut and normalised how, from any position."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from imgcls.config.sections import AugmentConfig
from imgcls.data.loaders.benchmark import BenchmarkLoader
from imgcls.data.loaders.resident import ResidentLoader
from imgcls.data.sources import ArraySource
from imgcls.errors import UsageError

CPU = torch.device("cpu")


def images(count: int = 50, channels: int = 3, side: int = 8) -> ArraySource:
    """Every pixel of image i is known: its value tells image, row and column apart within a channel."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, channels, side, side), dtype=np.uint8)
    return ArraySource(pixels, np.arange(count) % 10)


def loader(source: ArraySource, *, batch_size: int = 8, shape: tuple[int, ...] = (3, 8, 8),
           train: bool = True,
           seed: int = 0, **augment: object) -> ResidentLoader:
    return ResidentLoader(source, batch_size=batch_size, image_shape=shape,
                          augment_config=AugmentConfig(**augment),
                          train=train, seed=seed, device=CPU)


def joined(resident: ResidentLoader, epoch: int = 0, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    batches = list(resident.epoch(epoch, first))
    return (torch.cat([b.images for b in batches]).numpy(), torch.cat([b.labels for b in batches]).numpy())


def test_every_sample_once_and_the_last_batch_smaller() -> None:
    source = images()
    resident = loader(source)
    sizes = [(len(b.labels), b.num_valid) for b in resident.epoch(0)]
    assert sizes == [(8, 8)] * 6 + [(2, 2)]
    assert resident.batches_per_epoch == 7
    for epoch in (0, 1):
        pixels, labels = joined(resident, epoch)
        actual = {p.tobytes(): label for p, label in zip(pixels, labels, strict=True)}
        expected = {p.astype(np.float32).tobytes(): label
                    for p, label in zip(source.images, source.labels, strict=True)}
        assert actual == expected
    assert (joined(resident, 0)[1] != joined(resident, 1)[1]).any()


def test_an_epoch_resumes_at_any_batch() -> None:
    resident = loader(images(), pad_size=2, random_crop=True, random_mirror=True)
    pixels, labels = joined(resident, 3)
    for first in (0, 1, 6, 7):
        rest, rest_labels = joined(resident, 3, first) if first < 7 else (pixels[50:], labels[50:])
        assert np.array_equal(rest, pixels[first * 8:])
        assert np.array_equal(rest_labels, labels[first * 8:])


def test_augmentation_does_not_depend_on_the_batch_size() -> None:
    small, large = (loader(images(), batch_size=size, pad_size=1, random_crop=True, random_mirror=True)
                    for size in (3, 50))
    assert np.array_equal(joined(small, 5)[0], joined(large, 5)[0])


def test_validation_is_in_order_cut_in_the_centre_and_never_augmented() -> None:
    source = images()
    resident = loader(source, shape=(3, 6, 6), train=False, pad_size=4, random_crop=True, random_mirror=True)
    pixels, labels = joined(resident)
    assert np.array_equal(pixels, source.images[:, :, 1:7, 1:7].astype(np.float32))
    assert np.array_equal(labels, source.labels)


def test_every_crop_and_mirror_comes_equally_often() -> None:
    source = images(400, 1, 4)
    resident = loader(source, shape=(1, 4, 4), batch_size=400, pad_size=1, fill_value=7, random_crop=True,
                      random_mirror=True)
    padded = np.pad(source.images[:, 0], ((0, 0), (1, 1), (1, 1)), constant_values=7).astype(np.float32)
    views = {}
    for i, image in enumerate(padded):
        for top in range(3):
            for left in range(3):
                cut = image[top:top + 4, left:left + 4]
                views[cut.tobytes()] = (i, top, left, 0)
                views[np.ascontiguousarray(cut[:, ::-1]).tobytes()] = (i, top, left, 1)
    seen = [views[np.ascontiguousarray(p[0]).tobytes()] for p in joined(resident)[0]]
    assert sorted(s[0] for s in seen) == list(range(400))
    for column, values in ((1, 3), (2, 3), (3, 2)):
        counts = np.bincount([s[column] for s in seen], minlength=values)
        assert counts.min() > 400 / values * 0.75, "every place and both sides come about equally often"


def test_mean_and_std() -> None:
    source = images()
    resident = loader(source, train=False, rgb_mean=(10.0, 20.0, 30.0), rgb_std=(2.0, 4.0, 8.0))
    expected = (source.images - np.array([10, 20, 30], np.float32).reshape(3, 1, 1)) / np.array(
        [2, 4, 8], np.float32).reshape(3, 1, 1)
    assert np.allclose(joined(resident)[0], expected, atol=1e-5)
    grey = loader(images(channels=1), shape=(1, 8, 8), train=False, rgb_mean=(10.0, 20.0, 30.0))
    assert np.allclose(joined(grey)[0], images(channels=1).images - np.float32(20), atol=1e-5)
    with pytest.raises(UsageError, match="rgb_std"):
        loader(source, rgb_std=(0.0,))
    with pytest.raises(UsageError, match="rgb_mean 1,2: needs 1 or 3 values"):
        loader(source, rgb_mean=(1.0, 2.0))


def test_other_channels_and_small_images_are_made_to_fit_and_noted() -> None:
    grey = images(channels=1)
    wide = loader(grey, train=False)
    assert np.array_equal(joined(wide)[0], np.repeat(grey.images, 3, 1).astype(np.float32))
    assert "converted to 3 channels" in wide.note
    large = loader(images(), shape=(3, 16, 16), train=False)
    assert joined(large)[0].shape == (50, 3, 16, 16)
    assert "enlarged from 8x8 to 16x16" in large.note


def test_flat_rows_and_floats_are_unchanged() -> None:
    rows = np.random.default_rng(0).normal(size=(20, 13)).astype(np.float32)
    resident = loader(ArraySource(rows, np.zeros(20, np.int64)), shape=(13,), train=False)
    assert np.array_equal(joined(resident)[0], rows)


def test_wrong_data_is_refused() -> None:
    with pytest.raises(UsageError, match="3 images but 2 labels"):
        ArraySource(np.zeros((3, 1, 2, 2), np.uint8), np.zeros(2, np.int64), description="x")
    with pytest.raises(UsageError, match="holds no images"):
        loader(ArraySource(np.zeros((0, 3, 8, 8), np.uint8), np.zeros(0, np.int64)))


def test_the_benchmark_batch_is_mxnets() -> None:
    benchmark = BenchmarkLoader(num_samples=100, batch_size=8, image_shape=(3, 8, 8), num_classes=5,
                                seed=1, device=CPU)
    batches = list(benchmark.epoch(0))
    assert len(batches) == 12
    assert batches[0].images is batches[-1].images
    assert -1 <= batches[0].images.min() < -0.9 < 0.9 < batches[0].images.max() < 1
    assert set(batches[0].labels.tolist()) <= set(range(5))


def test_colour_becomes_grey_with_the_weights_of_luma() -> None:
    """ITU-R BT.601, as OpenCV and MXNet have them: a photograph's red is not a third of its grey."""
    primaries = np.zeros((4, 3, 8, 8), np.uint8)
    for channel in range(3):
        primaries[channel, channel] = 200
    primaries[3] = [[[10]], [[100]], [[250]]]
    pixels, _labels = joined(loader(ArraySource(primaries, np.arange(4)), shape=(1, 8, 8), train=False))
    assert pixels.shape == (4, 1, 8, 8)
    assert pixels[:, 0, 0, 0].tolist() == [60, 117, 23, 90]  # 0.299, 0.587 and 0.114, rounded
