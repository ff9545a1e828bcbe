"""The streaming loader: the same batches for any number of threads and from any position, and damage."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import run_cli

from imgcls.config.sections import AugmentConfig
from imgcls.data.loaders import make, streaming
from imgcls.data.loaders.make import make_loader
from imgcls.data.loaders.resident import ResidentLoader
from imgcls.data.loaders.streaming import StreamingLoader
from imgcls.data.record_source import RecordSource
from imgcls.data.sources import ArraySource
from imgcls.errors import DataError, UsageError
from imgcls.formats import params, recordio
from imgcls.storage import cores

CPU = torch.device("cpu")
EVERYTHING = {"random_resized_crop": True, "min_random_area": 0.2, "min_random_aspect_ratio": 3 / 4,
              "brightness": 0.4,
              "max_random_aspect_ratio": 4 / 3, "random_mirror": True, "pca_noise": 0.1,
              "max_random_rotate_angle": 5}
SIMPLE = {"random_crop": True, "random_mirror": True, "pad_size": 2, "rgb_mean": (10, 20, 30),
          "rgb_std": (3, 4, 5)}


def encoded(number: int, size: tuple[int, int], suffix: str = ".jpg") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3),
                                                    dtype=np.uint8)
    return cv2.imencode(suffix, cv2.resize(pixels, size[::-1]))[1].tobytes()


def write(path: Path, images: list[bytes]) -> RecordSource:
    """Records with label i % 10."""
    with recordio.RecordWriter(path) as writer:
        for i, image in enumerate(images):
            writer.write(recordio.pack(recordio.ImageHeader(0, i % 10, i), image), i)
    return RecordSource([path])


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> RecordSource:
    """150 images of many sizes, JPEG and PNG, all of them 40 pixels or more."""
    images = [encoded(i, (40 + i * 7 % 90, 41 + i * 13 % 80), ".png" if i % 10 == 0 else ".jpg")
              for i in range(150)]
    return write(tmp_path_factory.mktemp("records") / "photographs.rec", images)


def test_headers_of_the_largest_sets_are_read_each_time(photographs: RecordSource,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    def pixels() -> list[np.ndarray]:
        loader = StreamingLoader(photographs, batch_size=64, image_shape=(3, 32, 32), train=True, seed=0, device=CPU,
                                 threads=2, augment_config=AugmentConfig(**EVERYTHING))
        return [batch.pixels.numpy().copy() for epoch in range(2) for batch in loader.host_batches(epoch)]

    expected = pixels()
    monkeypatch.setattr("imgcls.data.loaders.preparer._MAX_NOTED", 100)
    assert all(map(np.array_equal, pixels(), expected))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> RecordSource:
    """120 images of 16 x 16."""
    return write(tmp_path_factory.mktemp("records") / "small.rec", [encoded(i, (16, 16)) for i in range(120)])


def loader(source: object, *, threads: int = 2, train: bool = True, shape: tuple[int, ...] = (3, 32, 32),
           seed: int = 1,
           batch_size: int = 32, on_bad: str = "skip", **augment: object) -> StreamingLoader:
    return StreamingLoader(source, batch_size=batch_size, image_shape=shape,
                           augment_config=AugmentConfig(**augment),  # type: ignore[arg-type]
                           train=train, seed=seed, device=CPU, threads=threads, on_bad=on_bad)


def contents(batches: object) -> list[tuple[bytes, list[int], int]]:
    return [(b.images.contiguous().numpy().tobytes(), b.labels.tolist(), b.num_valid)
            for b in batches]  # type: ignore[attr-defined]


def own_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("imgcls-loader")]


@pytest.mark.parametrize("augment", [EVERYTHING, SIMPLE], ids=["everything", "simple"])
def test_batches_do_not_depend_on_the_threads(photographs: RecordSource, augment: dict) -> None:
    expected = contents(loader(photographs, threads=0, **augment).epoch(2))
    assert [num_valid for _, _, num_valid in expected] == [32, 32, 32, 32, 22]
    for threads in (1, 2, 7):
        assert contents(loader(photographs, threads=threads, **augment).epoch(2)) == expected
    assert contents(loader(photographs, threads=2, **augment).epoch(3)) != expected


def test_an_epoch_resumes_at_any_batch(photographs: RecordSource) -> None:
    stream = loader(photographs, **EVERYTHING)
    expected = contents(stream.epoch(0))
    for first in (1, 4, 5):
        assert contents(loader(photographs, **EVERYTHING).epoch(0, first)) == expected[first:]
    assert contents(stream.epoch(0, 2)) == expected[2:]


def test_samples_do_not_depend_on_the_batch_size(photographs: RecordSource) -> None:
    small_ones, large = (torch.cat([b.images
                                    for b in loader(photographs, batch_size=size, **EVERYTHING).epoch(1)])
                         for size in (7, 150))
    assert torch.equal(small_ones, large)


def test_every_record_in_every_epoch_and_validation_in_order(photographs: RecordSource) -> None:
    stream = loader(photographs, batch_size=16, **SIMPLE)
    orders = []
    for epoch in range(3):
        seen: list[int] = []
        for batch in stream.host_batches(epoch):
            seen += batch.indices.tolist()
        assert sorted(seen) == list(range(150))
        orders.append(seen)
    assert orders[0] != orders[1]
    val = loader(photographs, train=False)
    labels = [label for b in val.epoch(5) for label in b.labels.tolist()]
    assert labels == photographs.labels.tolist()
    assert stream.num_samples == 150
    assert stream.batches_per_epoch == 10
    assert stream.seconds == 0
    assert val.seconds > 0


def test_normalised_floats_in_channels_last(photographs: RecordSource) -> None:
    stream = loader(photographs, train=False, batch_size=8, **SIMPLE)
    filled = next(iter(stream.host_batches(0)))
    pixels = filled.pixels.numpy().copy()
    batch = next(iter(stream.epoch(0)))
    assert batch.images.shape == (8, 3, 32, 32)
    assert batch.images.dtype == torch.float32
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.labels.dtype == torch.int64
    expected = (pixels.astype(np.float32) - np.float32([10, 20, 30])) / np.float32([3, 4, 5])
    assert np.abs(batch.images.permute(0, 2, 3, 1).numpy() - expected).max() < 1e-4


def test_a_batch_is_not_overwritten_while_others_are_prepared(photographs: RecordSource) -> None:
    stream = loader(photographs, threads=3, batch_size=8, **SIMPLE)
    batches, copies = [], []
    for batch in stream.epoch(0):
        batches.append(batch.images)
        copies.append(batch.images.clone())
        time.sleep(0.002)
    assert all(torch.equal(a, b) for a, b in zip(batches, copies, strict=True))


def test_two_epochs_at_a_time_are_independent(photographs: RecordSource) -> None:
    stream = loader(photographs, batch_size=16, **SIMPLE)
    expected = [contents(stream.epoch(e)) for e in (0, 1)]
    pairs = list(zip(stream.epoch(0), stream.epoch(1), strict=True))
    assert [contents([p[e] for p in pairs]) for e in (0, 1)] == expected


def leave(batches: object, error: type[BaseException] | None) -> None:
    for _ in batches:  # type: ignore[attr-defined]
        if error:
            raise error
        break


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_the_threads_end_when_the_epoch_is_left(photographs: RecordSource,
                                                error: type[BaseException] | None) -> None:
    stream = loader(photographs, threads=3, batch_size=4, **SIMPLE)
    batches = stream.epoch(0)
    with pytest.raises(error) if error else contextlib.nullcontext():
        leave(batches, error)
    del batches
    gc.collect()
    assert own_threads() == []
    assert len(contents(stream.epoch(0))) == 38


def test_memory_is_bounded(photographs: RecordSource) -> None:
    """A slow consumer: no more is prepared than fits into the buffers, which are used again."""
    stream = loader(photographs, threads=2, batch_size=8, **SIMPLE)
    slots: list[int] = []
    for epoch in range(3):
        for batch in stream.host_batches(epoch):
            slots.append(batch.buffer.data_ptr())
            time.sleep(0.001)
    assert len(slots) == 3 * 19
    # two jobs a thread of this small a batch, and two more
    assert len(set(slots)) == stream.buffers.num_free == 10
    stream = loader(photographs, threads=2, batch_size=64, **SIMPLE)
    list(stream.host_batches(0))
    assert stream.buffers.num_free == 3  # an epoch has no more


def damaged(path: Path, count: int, bad: dict[int, bytes]) -> RecordSource:
    return write(path, [bad.get(i, encoded(i, (40, 40))) for i in range(count)])


def test_a_damaged_image_is_skipped_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cut = encoded(3, (40, 40))[:-2]
    source = damaged(tmp_path / "a.rec", 50, {3: cut, 20: b"nonsense"})
    for threads in (0, 3):
        caplog.clear()
        stream = loader(source, threads=threads, batch_size=16, train=False)
        for _ in range(2):
            batches = list(stream.epoch(0))
            assert [(len(b.images), len(b.labels), b.num_valid) for b in batches] == [
                (15, 15, 15), (15, 15, 15), (16, 16, 16), (2, 2, 2)]
            assert batches[0].labels.tolist() == [i % 10 for i in range(16) if i != 3]
        intact = loader(damaged(tmp_path / "b.rec", 50, {}), batch_size=16, train=False)
        good = torch.cat([b.images for b in intact.epoch(0)])[[i for i in range(50) if i not in (3, 20)]]
        assert torch.equal(torch.cat([b.images for b in batches]), good)
        first, second = caplog.messages  # once each, not once an epoch
        offset = source.readers[0].offsets[3]
        assert first == (f"left out: {tmp_path}/a.rec at byte {offset}: record 3 (id 3) is a JPEG that is cut: its end "
                         "marker is missing")
        assert second.endswith("record 20 (id 20) is no image")


@pytest.mark.slow
def test_a_command_says_what_is_damaged_with_its_flags(tmp_path: Path,
                                                       caplog: pytest.LogCaptureFixture) -> None:
    four = cv2.imencode(".png",
                        np.random.default_rng(0).integers(0, 256, (16, 20, 4), dtype=np.uint8))[1].tobytes()
    source = write(tmp_path / "a.rec", [encoded(i, (16, 20), ".png") if i == 3 else four for i in range(20)])
    list(loader(source, shape=(4, 16, 16)).epoch(0))
    assert caplog.messages[0].endswith("record 3 (id 3) has 3 channels of uint8, image_shape has 4")
    done = run_cli("train", "--dataset", "imagenet", "--data-train", tmp_path / "a.rec",
                   "--image-shape", "4,16,16",
                   "--network", "mlp", "--num-epochs", 1, "--batch-size", 10, "--random-resized-crop", 0,
                   "--rgb-mean", 0)
    assert done.returncode == 0, done.stderr
    assert "record 3 (id 3) has 3 channels of uint8, --image-shape has 4\n" in done.stderr


def test_a_batch_without_a_good_sample_is_not_handed_on(tmp_path: Path) -> None:
    source = damaged(tmp_path / "a.rec", 9, {8: b"nonsense"})
    assert [b.num_valid for b in loader(source, batch_size=4, train=False).epoch(0)] == [4, 4]


@pytest.mark.parametrize("threads", [0, 2])
def test_damage_ends_the_run_with_on_bad_stop(tmp_path: Path, threads: int) -> None:
    source = damaged(tmp_path / "a.rec", 60, {33: b"nonsense", 50: b"more"})
    stream = loader(source, threads=threads, batch_size=8, train=False, on_bad="stop")
    batches = []
    with pytest.raises(DataError, match=r"record 33 \(id 33\) is no image"):
        batches.extend(stream.epoch(0))
    assert len(batches) == 4
    assert own_threads() == []


def test_too_much_damage_always_ends_the_run(tmp_path: Path) -> None:
    source = damaged(tmp_path / "a.rec", 60, dict.fromkeys(range(0, 60, 5), b"nonsense"))
    stream = loader(source, batch_size=8, train=False)
    with pytest.raises(DataError, match=r"11 of 60 samples are damaged.*record 0 \(id 0\) is no image"):
        list(stream.epoch(0))


def test_a_record_that_breaks_while_it_is_read(tmp_path: Path) -> None:
    """With an index damage shows only when the record is read."""
    source = damaged(tmp_path / "a.rec", 200, {})
    offset = int(source.readers[0].offsets[150])
    with open(tmp_path / "a.rec", "r+b") as stream:
        stream.seek(offset)
        stream.write(b"\0\0\0\0")
    labels = [label for b in loader(source, train=False).epoch(0) for label in b.labels.tolist()]
    assert len(labels) == 199


def test_an_error_of_ours_is_raised_where_the_batch_is_taken(photographs: RecordSource,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError("of ours")

    stream = loader(photographs, **SIMPLE)
    monkeypatch.setattr(stream.preparer, "prepare", fail)
    for threads in (0, 2):
        stream.threads = threads
        with pytest.raises(ZeroDivisionError, match="of ours"):
            next(stream.epoch(0))
    assert own_threads() == []


def test_small_images_are_enlarged_and_counted(small: RecordSource, caplog: pytest.LogCaptureFixture) -> None:
    stream = loader(small, shape=(3, 20, 24), train=False)
    assert sum(b.num_valid for b in stream.epoch(0)) == 120
    assert caplog.messages == [f"{small.description}: 120 of 120 images are smaller than the crop of 20x24 and were "
                               "enlarged"]
    list(stream.epoch(0))
    assert len(caplog.messages) == 1


def test_arrays_are_streamed_too(small: RecordSource) -> None:
    pixels = np.stack([cv2.cvtColor(cv2.imdecode(np.frombuffer(small.read(i), np.uint8), 1),
                                    cv2.COLOR_BGR2RGB)
                       for i in range(120)])
    arrays = ArraySource(pixels.transpose(0, 3, 1, 2), small.labels)
    augment = EVERYTHING | {"max_random_rotate_angle": 0}
    ours = contents(loader(arrays, shape=(3, 12, 12), **augment).epoch(1))
    assert ours == contents(loader(small, shape=(3, 12, 12), **augment).epoch(1))


def test_wrong_shapes_and_empty_sources_are_refused(small: RecordSource) -> None:
    with pytest.raises(UsageError, match="image_shape 2,8,8: images are decoded to C,H,W, C being 1, 3 or 4"):
        loader(small, shape=(2, 8, 8))
    with pytest.raises(UsageError, match="holds no images"):
        loader(ArraySource(np.zeros((0, 3, 8, 8), np.uint8), np.zeros(0, int)))


def choose_loader(source: object, *, train: bool = True, shape: tuple[int, ...] = (3, 12, 12),
                  **augment: object):
    return make_loader(source, batch_size=32, image_shape=shape, augment_config=AugmentConfig(**augment),
                       train=train,  # type: ignore[arg-type]
                       seed=1, device=CPU, threads=2)


@pytest.mark.parametrize("train", [True, False])
def test_small_sets_are_decoded_once_and_give_the_same_batches(small: RecordSource, train: bool,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    resident = choose_loader(small, train=train, **SIMPLE)
    assert isinstance(resident, ResidentLoader)
    assert resident.note == "decoded once and kept in memory (0 MB)"
    monkeypatch.setattr(make, "RESIDENT_BYTES", 1000)
    streamed = choose_loader(small, train=train, **SIMPLE)
    assert isinstance(streamed, StreamingLoader)
    assert contents(resident.epoch(3)) == contents(streamed.epoch(3))
    assert contents(resident.epoch(3, 2)) == contents(streamed.epoch(3, 2))


@pytest.mark.parametrize("augment", [EVERYTHING, {"resize": 14}, {"max_crop_size": 14, "min_crop_size": 13}])
def test_augmentation_beyond_the_resident_loader_is_streamed(small: RecordSource, augment: dict) -> None:
    arrays = ArraySource(np.zeros((50, 3, 16, 16), np.uint8), np.zeros(50, int))
    for source in (small, arrays):
        assert isinstance(choose_loader(source, **augment), StreamingLoader)
    assert isinstance(choose_loader(arrays, **SIMPLE), ResidentLoader)
    floats = ArraySource(np.zeros((50, 3, 16, 16), np.float32), np.zeros(50, int))
    assert isinstance(choose_loader(floats, **SIMPLE), ResidentLoader)
    with pytest.raises(UsageError, match="only border, crop and mirror are for numbers like these"):
        choose_loader(floats, **augment)


def test_bad_images_of_a_small_set_are_skipped(tmp_path: Path) -> None:
    source = damaged(tmp_path / "a.rec", 40, {7: encoded(7, (40, 40))[:-2]})
    resident = choose_loader(source, train=False)
    assert isinstance(resident, ResidentLoader)
    assert resident.num_samples == 39
    assert resident.bad_indices == [7]
    assert [label for b in resident.epoch(0) for label in b.labels.tolist()] == [i % 10
                                                                                 for i in range(40) if i != 7]


def test_images_of_many_sizes_are_streamed(photographs: RecordSource) -> None:
    assert isinstance(choose_loader(photographs, **SIMPLE), StreamingLoader)


def test_validation_is_resized_where_the_images_are_much_larger(tmp_path: Path, small: RecordSource) -> None:
    source = write(tmp_path / "a.rec", [encoded(i, (100 + i, 150)) for i in range(8)])

    def note(source: RecordSource = source, crop: int = 32, train: bool = False, **augment: object) -> str:
        return choose_loader(source, train=train, shape=(3, crop, crop), **augment).note

    assert note() == "resized to a short edge of 37 before the centre 32x32 is cut (`val_resize`)"
    assert note(val_resize=0) == ""
    assert "edge of 40" in note(val_resize=40)
    assert "edge of 36" in note(resize=36)
    assert note(crop=90) == ""
    assert "edge" not in note(small, crop=10)  # small images are taken as they are
    assert note(train=True,
                random_crop=True) == ("cut at 32x32 from images whose short edge is about 103: `resize` 37 "
                                      "shrinks them first")
    assert note(train=True, random_crop=True, resize=37) == note(train=True, crop=90) == ""


def test_a_mean_image_is_made_where_there_is_none(tmp_path: Path, small: RecordSource) -> None:
    path = tmp_path / "mean.bin"
    stream = choose_loader(small, shape=(3, 16, 16), mean_image=str(path))
    mean, = params.load(path).values()
    batches = loader(small, shape=(3, 16, 16), train=False).host_batches(0)
    pixels = torch.cat([batch.pixels.clone() for batch in batches])
    assert np.abs(mean - pixels.float().mean(0).permute(2, 0, 1).numpy()).max() < 1e-3
    assert isinstance(stream, StreamingLoader)
    assert abs(torch.cat([b.images for b in stream.epoch(0)]).mean()) < 1e-3


def test_one_thread_per_core_by_default(small: RecordSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "quota", lambda: None)
    monkeypatch.setattr(cores, "affinity", lambda: set(range(3)))
    assert loader(small, threads=None).threads == 3  # type: ignore[arg-type]
    monkeypatch.setattr(cores, "affinity", lambda: set(range(64)))
    assert streaming.num_cores() == 16


def test_antialiasing_leaves_the_main_threads_torch_alone(photographs: RecordSource) -> None:
    before = torch.get_num_threads()
    expected = contents(loader(photographs, threads=0, interpolation="antialias", **EVERYTHING).epoch(0))
    assert contents(loader(photographs, threads=2, interpolation="antialias",
                           **EVERYTHING).epoch(0)) == expected
    assert torch.get_num_threads() == before




@pytest.mark.slow
def test_a_run_from_records_does_not_depend_on_the_threads(photographs: RecordSource, tmp_path: Path) -> None:
    """The command, with everything that it draws, ends with the same weights, and scores what it trained."""
    path = photographs.readers[0].path
    for threads in (0, 3):
        done = run_cli("train", "--dataset", "imagenet", "--data-train", path, "--data-val", path,
                       "--network", "mlp",
                       "--image-shape", "3,32,32", "--num-classes", 10, "--batch-size", 32,
                       "--num-epochs", 2, "--lr",
                       1e-5, "--brightness", 0.4, "--model-prefix", tmp_path / f"t{threads}",
                       "--data-nthreads",
                       threads)
        assert done.returncode == 0, done.stderr
        assert "random resized crop (area 0.08-1, aspect 0.75-1.33) to 32x32, brightness 0.4" in done.stderr
    weights = [(tmp_path / f"t{threads}-0002.params").read_bytes() for threads in (0, 3)]
    assert weights[0] == weights[1]
    scored = run_cli("score", "--model", tmp_path / "t0", "--dataset", "imagenet", "--data-val", path)
    assert scored.returncode == 0, scored.stderr
    trained = next(line for line in done.stdout.splitlines() if line.startswith("Validation-accuracy="))
    assert trained.removeprefix("Validation-") in scored.stdout
