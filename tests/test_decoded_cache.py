"""The decoded cache: the same bytes whatever is kept, one copy a machine, and nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import run_cli

from imgcls.config.sections import AugmentConfig
from imgcls.data import order
from imgcls.data.decoded import crops, images
from imgcls.data.decoded import segment as segments
from imgcls.data.decoded.segment import HEADER_BYTES, Address, Segment, is_available
from imgcls.data.loaders.streaming import StreamingLoader
from imgcls.data.record_source import RecordSource
from imgcls.data.sources import Source
from imgcls.formats import recordio
from imgcls.storage import memory
from imgcls.training import decoded_cache

AREAS = {"random_resized_crop": True, "min_random_area": 0.08, "min_random_aspect_ratio": 3 / 4,
         "max_random_aspect_ratio": 4 / 3, "random_mirror": True}
CROP = {"random_crop": True, "random_mirror": True}
AUGMENTATIONS = {
    "crop": CROP, "areas": AREAS, "areas-antialias": {**AREAS, "interpolation": "antialias"},
    "areas-nearest": {**AREAS, "interpolation": "nearest"},
    "resize": {**CROP, "resize": 48}, "resize-antialias": {**CROP, "resize": 48, "interpolation": "antialias"},
    "resize-cubic": {**CROP, "resize": 40, "interpolation": "cubic"},
    "resize-random": {**CROP, "resize": 60, "interpolation": "random"},
    "enlarge": {**CROP, "resize": 300}, "border-colour": {**CROP, "pad_size": 4, "brightness": 0.4},
    "warp": {**CROP, "max_random_rotate_angle": 20, "min_random_scale": 0.8, "max_random_scale": 1.3},
    "squares": {"random_crop": True, "min_crop_size": 20, "max_crop_size": 150}}
VALIDATION = {"resize": {"val_resize": 40}, "antialias": {"val_resize": 40, "interpolation": "antialias"},
              "as-stored": {}}

pytestmark = pytest.mark.skipif(not is_available(), reason="needs Linux")


def encoded(number: int, size: tuple[int, int], *options: int) -> bytes:
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 256, (size[0] // 4 + 1, size[1] // 4 + 1, 3), dtype=np.uint8)
    suffix = ".png" if number % 9 == 0 else ".jpg"
    image = cv2.resize(pixels, size[::-1])
    return cv2.imencode(suffix, image, [*options] if suffix == ".jpg" else [])[1].tobytes()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> RecordSource:
    """40 images of 20 to 420 pixels, JPEG, seekable JPEG and PNG; two are damaged, one lies on its side."""
    files = [encoded(i, (20 + i * 53 % 400, 24 + i * 31 % 390),
                     *((cv2.IMWRITE_JPEG_RST_INTERVAL, 4) if i % 4 == 1 else ())) for i in range(40)]
    files[5] = files[5][:len(files[5]) // 2]
    files[20] = b"\xff\xd8\xff\xe0 no picture"
    # EXIF orientation 6: its size is not known before it is decoded
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    files[7] = files[7][:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + files[7][2:]
    path = tmp_path_factory.mktemp("decoded") / "some.rec"
    with recordio.RecordWriter(path) as writer:
        for i, data in enumerate(files):
            writer.write(recordio.pack(recordio.ImageHeader(0, i % 10, i), data), i)
    return RecordSource([path])


def loader(source: Source, augment: Mapping[str, object], *, threads: int = 2, train: bool = True,
           shard: order.Shard = order.NO_SHARD, segment: Segment | None = None) -> StreamingLoader:
    made = StreamingLoader(source, batch_size=16, image_shape=(3, 32, 32), train=train, seed=3, shard=shard,
                           augment_config=AugmentConfig(**augment),  # type: ignore[arg-type]
                           device=torch.device("cpu"), threads=threads)
    if segment:
        made.keep_in(segment)
    return made


def epoch(made: StreamingLoader, number: int, first: int = 0) -> list[tuple[object, ...]]:
    return [(b.pixels.numpy().tobytes(), b.indices.tolist(), b.good.tolist(), b.mirrored.tolist(),
             b.enlarged.tolist(), sorted(index for index, _ in b.problems))
            for b in made.host_batches(number, first)]


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_bytes_do_not_depend_on_what_is_kept(source: RecordSource, name: str) -> None:
    plain = loader(source, AUGMENTATIONS[name])
    expected = [epoch(plain, number) for number in range(3)]
    full = Segment.create(64 << 20)
    kept = loader(source, AUGMENTATIONS[name], segment=full)
    assert [epoch(kept, number) for number in range(3)] == expected
    assert images.ImageCache(full, 40, 3).num_images == 38
    # a run that goes on inside an epoch: another loader on the same memory, with no threads
    resumed = loader(source, AUGMENTATIONS[name], threads=0, segment=full)
    assert epoch(resumed, 2, first=1) == expected[2][1:]
    part = Segment.create(1_000_000)
    partial = loader(source, AUGMENTATIONS[name], threads=3, segment=part)
    assert [epoch(partial, number) for number in range(3)] == expected
    cache = images.ImageCache(part, 40, 3)
    assert cache.num_images > 0
    assert cache.used_bytes <= part.size


@pytest.mark.parametrize("name", VALIDATION)
def test_validation_keeps_its_crops(source: RecordSource, name: str) -> None:
    plain = loader(source, VALIDATION[name], train=False)
    expected = epoch(plain, 0)
    segment = Segment.create(crops.table_bytes(40) + 40 * 3072)
    kept = loader(source, VALIDATION[name], train=False, segment=segment)
    assert [epoch(kept, number) for number in range(3)] == [expected] * 3
    cache = crops.CropCache(segment, 40, (32, 32, 3))
    assert (cache.capacity, cache.num_images) == (40, 38)
    # 19 fit
    part = Segment.create(crops.table_bytes(40) + 20 * 3072 - 1)
    partial = loader(source, VALIDATION[name], train=False, threads=0, segment=part)
    assert [epoch(partial, number) for number in range(2)] == [expected] * 2
    assert crops.CropCache(part, 40, (32, 32, 3)).num_images == 18  # sample 5 is damaged


def test_what_is_kept_is_not_read_again(source: RecordSource, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = loader(source, CROP, threads=0, segment=Segment.create(64 << 20))
    expected = epoch(kept, 0)
    reads: list[int] = []
    real = source.read
    monkeypatch.setattr(source, "read", lambda index: (reads.append(index), real(index))[1])
    assert epoch(kept, 0) == expected
    # the damaged ones are looked at, and named, in every epoch
    assert sorted(reads) == [5, 20]
    assert kept.bad_indices == [5, 20]


def test_processes_share_one_copy(source: RecordSource) -> None:
    segment = Segment.create(64 << 20)
    other = Segment.attach(segment.address, segment.size)
    assert other is not None
    plain = [loader(source, AREAS, shard=order.Shard(rank, 2)) for rank in (0, 1)]
    kept = [loader(source, AREAS, shard=order.Shard(rank, 2), segment=part)
            for rank, part in enumerate((segment, other))]
    for number in range(3):
        assert [epoch(made, number) for made in kept] == [epoch(made, number) for made in plain]
    assert images.ImageCache(segment, 40, 3).num_images == images.ImageCache(other, 40, 3).num_images == 38


CHILD = """
import sys, time
sys.path.insert(0, {root!r})
import numpy as np
from imgcls.data.decoded.segment import Segment
segment = Segment.create(50_000_000)
assert segment.write(8192, np.full(40_000_000, 7, np.uint8))
print(*segment.address, flush=True)
time.sleep(60)
"""


def test_a_killed_process_leaves_nothing() -> None:
    before = set(os.listdir("/dev/shm"))
    root = str(Path(__file__).parents[1])
    child = subprocess.Popen([sys.executable, "-c", CHILD.format(root=root)], stdout=subprocess.PIPE, text=True)
    assert child.stdout
    try:
        address = Address(*map(int, child.stdout.readline().split()))
        assert Segment.attach(address._replace(token=1), 50_000_000) is None  # another one's memory
        assert Segment.attach(address, 40_000_000) is None
        segment = Segment.attach(address, 50_000_000)
        assert segment
        # the lock of a process that is killed is free
        with segment.locked():
            pass
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    # who has it open still has it; nobody else can find it, by any name
    assert int(segment.bytes[8192:40_008_192:4096].min()) == 7
    assert Segment.attach(address, 50_000_000) is None
    assert not set(os.listdir("/dev/shm")) - before


def test_a_segment_cannot_be_cut_short() -> None:
    segment = Segment.create(1 << 20)
    with pytest.raises(PermissionError):
        os.truncate(f"/proc/{os.getpid()}/fd/{segment.address.handle}", 4096)


def test_nothing_more_is_kept_where_memory_runs_out(source: RecordSource,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "_LOOK_BYTES", 100_000)
    monkeypatch.setattr(memory, "available_bytes", lambda: segments.RESERVE_BYTES - 1)
    segment = Segment.create(64 << 20)
    kept, plain = loader(source, CROP, segment=segment), loader(source, CROP)
    assert [epoch(kept, number) for number in range(2)] == [epoch(plain, number) for number in range(2)]
    assert images.ImageCache(segment, 40, 3).num_images < 38
    # and where the kernel refuses a page
    full = Segment.create(64 << 20)
    monkeypatch.setattr(Segment, "write", lambda self, offset, pixels: False)
    kept = loader(source, CROP, segment=full)
    assert epoch(kept, 1) == epoch(plain, 1)
    assert images.ImageCache(full, 40, 3).num_images == 0


@dataclass
class Alone:
    """A worker of one process."""

    rank: int = 0
    world_size: int = 1
    is_async: bool = False


def test_the_budget_holds_for_both(source: RecordSource) -> None:
    for limit_gb in (0.0, 0.00001, 0.0005, 0.001, 1.0):
        train, val = loader(source, CROP), loader(source, {}, train=False)
        decoded_cache.attach(limit_gb, train, val, Alone())  # type: ignore[arg-type]
        for made in (train, val):
            epoch(made, 0)
        kept = [cache for cache in (train.preparer._images, val.preparer._finished) if cache]
        assert sum(cache._segment.size for cache in kept) <= limit_gb * 1e9
        assert ("kept in memory" in train.note) == (limit_gb > 0.0001), limit_gb
    assert re.search(r"kept in memory \(about \d+ MB of at most", train.note)
    assert "`decoded_cache_gb`" in train.note


@pytest.mark.slow
def test_a_run_of_two_processes_gives_the_same_weights(source: RecordSource, tmp_path: Path) -> None:
    weights = {}
    for name, gigabytes in (("none", 0), ("all", 0.01)):
        prefix = tmp_path / name
        done = run_cli("train", "--network", "mlp", "--data-train", source.path, "--image-shape", "3,32,32",
                       "--num-classes", 10, "--num-epochs", 2, "--batch-size", 16, "--seed", 1, "--random-crop",
                       1, "--model-prefix", prefix, "--workers-per-host", 2, "--decoded-cache-gb", gigabytes)
        assert done.returncode == 0, done.stderr
        assert ("kept in memory" in done.stderr) == (name == "all"), done.stderr
        weights[name] = Path(f"{prefix}-0002.params").read_bytes()
    assert weights["none"] == weights["all"]


@pytest.mark.slow
def test_the_workers_of_dist_async_share_one_copy(source: RecordSource, tmp_path: Path) -> None:
    for kept in ((), ("--decoded-cache-dir", tmp_path / "kept")):
        done = run_cli("train", "--network", "mlp", "--data-train", source.path, "--image-shape", "3,32,32",
                       "--data-val", source.path, "--num-classes", 10, "--num-epochs", 2, "--batch-size", 8,
                       "--lr", 0.01, "--mom", 0, "--kv-store", "dist_async", "--workers-per-host", 2, *kept)
        assert done.returncode == 0, done.stderr
        # with a copy of its own, or none, a worker would say so
        assert "training images are decoded once and kept" in done.stderr
        assert "rank 1" not in done.stderr
        assert "kept in memory" in done.stderr or kept


def test_the_header_is_not_pixels() -> None:
    segment = Segment.create(64 << 20)
    cache = images.ImageCache(segment, 3, 1)
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    cache.put(2, 1, pixels)
    (first, second) = cache.find(np.array([2, 2]), [0, 1])
    assert first.offset == 0
    assert second.offset > HEADER_BYTES
    assert second.offset % 64 == 0
    np.testing.assert_array_equal(cache.pixels(2, second), pixels)


@pytest.mark.parametrize(("size", "text"), [
    (0.1e9, "0.1 GB"), (45.3e9, "45.3 GB"), (999.7e9, "1,000 GB"), (1.234e12, "1,234 GB"), (5e7, "50 MB"),
    (300, "0.3 kB"), (12, "12 bytes")])
def test_sizes_for_people(size: float, text: str) -> None:
    assert decoded_cache._bytes(size) == text
