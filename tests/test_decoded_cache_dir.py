"""The decoded cache on a disk: the same bytes, found again by the next run, and nothing wrong in it is used."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import run_cli
from test_decoded_cache import AREAS, AUGMENTATIONS, CROP, VALIDATION, Alone, epoch, loader, source

from imgcls.data import order
from imgcls.data.decoded import pixel_file, stores
from imgcls.data.decoded.segment import Segment, is_available
from imgcls.data.file_source import FolderSource
from imgcls.data.loaders.streaming import StreamingLoader
from imgcls.data.record_source import RecordSource
from imgcls.errors import RunError, UsageError
from imgcls.training import decoded_cache, decoded_folder

assert source  # a fixture
pytestmark = pytest.mark.skipif(not is_available(), reason="needs Linux")


def attached(source: RecordSource | FolderSource, folder: Path, augment: object = CROP, *, threads: int = 2,
             train: bool = True, limit_gb: float = 0.1) -> StreamingLoader:
    made = loader(source, augment, threads=threads, train=train)  # type: ignore[arg-type]
    decoded_cache.attach(limit_gb, made, None, Alone(), str(folder))  # type: ignore[arg-type]
    return made


@contextmanager
def reads_counted(source: RecordSource, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    reads: list[int] = []
    real = source.read
    with monkeypatch.context() as patch:
        patch.setattr(source, "read", lambda index: (reads.append(index), real(index))[1])
        yield reads


def file_of(folder: Path, suffix: str) -> Path:
    (path,) = folder.glob(f"*{suffix}")
    return path


@pytest.mark.parametrize("name", [*AUGMENTATIONS, *VALIDATION])
def test_the_next_run_has_the_same_bytes(source: RecordSource, tmp_path: Path, name: str,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    train = name in AUGMENTATIONS
    settings = AUGMENTATIONS[name] if train else VALIDATION[name]
    # what batches are without any cache: all that a cache may give
    plain = loader(source, settings, train=train)
    expected = [epoch(plain, number) for number in range(3)]
    first = attached(source, tmp_path, settings, train=train)
    assert [epoch(first, number) for number in range(3)] == expected
    # the last one who holds the loader gives up the lock, and saves the tables
    del first
    # another run, without threads, from the middle of an epoch on
    second = attached(source, tmp_path, settings, threads=0, train=train)
    assert "38 of 40 images are there from before" in second.note
    with reads_counted(source, monkeypatch) as reads:
        assert epoch(second, 2, first=1) == expected[2][1:]
        assert [epoch(second, number) for number in range(3)] == expected
    # the damaged ones are never kept
    assert set(reads) == {5, 20}


def test_a_part_is_kept_within_the_limit(source: RecordSource, tmp_path: Path) -> None:
    plain = loader(source, AREAS)
    expected = [epoch(plain, number) for number in range(2)]
    for limit_gb in (0.001, 0.0005):  # less than there is from before: the rest is given back
        made = attached(source, tmp_path, AREAS, limit_gb=limit_gb)
        assert [epoch(made, number) for number in range(2)] == expected
        del made
        assert limit_gb * 1e9 >= file_of(tmp_path, ".pixels").stat().st_size > 0.5 * limit_gb * 1e9
    made = attached(source, tmp_path, AREAS)
    assert [epoch(made, number) for number in range(2)] == expected


def damage_pixels(folder: Path) -> None:
    path = file_of(folder, ".pixels")
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def cut_pixels(folder: Path) -> None:
    path = file_of(folder, ".pixels")
    os.truncate(path, path.stat().st_size // 2)


def swap_pages(folder: Path) -> None:
    path = file_of(folder, ".pixels")
    content = path.read_bytes()
    path.write_bytes(content[:4096] + content[8192:12288] + content[4096:8192] + content[12288:])


def damage_tables(folder: Path) -> None:
    path = file_of(folder, ".tables")
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)


def cut_tables(folder: Path) -> None:
    path = file_of(folder, ".tables")
    os.truncate(path, path.stat().st_size - 100)


def empty_tables(folder: Path) -> None:
    os.truncate(file_of(folder, ".tables"), 0)


def no_pixels(folder: Path) -> None:
    file_of(folder, ".pixels").unlink()


def no_tables(folder: Path) -> None:
    file_of(folder, ".tables").unlink()


@pytest.mark.parametrize("harm", [damage_pixels, cut_pixels, swap_pages, damage_tables, cut_tables,
                                  empty_tables, no_pixels, no_tables])
@pytest.mark.parametrize("train", [True, False])
def test_what_was_harmed_is_not_used(source: RecordSource, tmp_path: Path, harm: object, train: bool) -> None:
    settings = CROP if train else {"val_resize": 40}
    plain = loader(source, settings, train=train)
    expected = [epoch(plain, number) for number in range(2)]
    made = attached(source, tmp_path, settings, train=train)
    epoch(made, 0)
    del made
    assert callable(harm)
    # between two runs, as by a disk that lost bytes
    harm(tmp_path)
    # the first finds the harm and mends it, the second runs on what was mended
    for _ in range(2):
        made = attached(source, tmp_path, settings, train=train)
        assert [epoch(made, number) for number in range(2)] == expected
        del made
    # mended: the third one finds all of them
    assert "38 of 40" in attached(source, tmp_path, settings, train=train).note


def test_harm_while_it_runs(source: RecordSource, tmp_path: Path) -> None:
    plain = loader(source, CROP)
    expected = [epoch(plain, number) for number in range(3)]
    made = attached(source, tmp_path)
    assert epoch(made, 0) == expected[0]
    os.truncate(file_of(tmp_path, ".pixels"), 1000)  # of a mapping this would end the process
    assert [epoch(made, number) for number in range(3)] == expected


def test_hostile_tables(source: RecordSource, tmp_path: Path) -> None:
    """Numbers that nobody wrote are found out, also where the digest is right."""
    plain = loader(source, CROP)
    expected = [epoch(plain, number) for number in range(2)]
    made = attached(source, tmp_path)
    epoch(made, 0)
    cache = made.preparer._images
    assert cache
    rng = np.random.default_rng(0)
    for table in (cache._places.reshape(-1), cache.infos.reshape(-1)):
        chosen = rng.choice(len(table), len(table) // 3)
        table[chosen] = rng.integers(-2**62 if table.itemsize == 8 else -2**30, 2**30, len(chosen))
    # so that they are saved, with a digest of their own
    with cache._segment.locked():
        cache._segment.note_change()
    cache.infos[:, :2] = np.abs(cache.infos[:, :2]) % 3000
    cache.infos[:, 2:] = np.abs(cache.infos[:, 2:]) % 2
    del made, cache
    made = attached(source, tmp_path)
    for number in range(2):
        batches = epoch(made, number)  # no crash; the sizes that were told are believed, as a header's are
        assert [batch[1] for batch in batches] == [batch[1] for batch in expected[number]]


def test_changed_data_are_dropped(source: RecordSource, tmp_path: Path,
                                  caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "images"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for i in range(10):
            if i != 5:
                (folder / name / f"{i}.jpg").write_bytes(source.read(i + 10 * (name == "b")))
    for changes in (lambda: os.utime(folder / "a/1.jpg", ns=(0, 0)), (folder / "b/3.jpg").unlink,
                    lambda: (folder / "b/4.jpg").write_bytes(source.read(30))):
        made = attached(FolderSource(folder), tmp_path / "cache")
        epoch(made, 0)
        del made
        changes()
        caplog.clear()
        changed = FolderSource(folder)
        made = attached(changed, tmp_path / "cache")
        assert "are of other data: they are removed" in caplog.text
        assert "from before" not in made.note
        assert epoch(made, 0) == epoch(loader(changed, CROP), 0)
        del made
    # one cache, of one set of files: nothing of those before is left
    assert len(list((tmp_path / "cache").iterdir())) == 2
    # other settings are another cache, and what only says where to cut is not
    attached(changed, tmp_path / "cache", {**CROP, "resize": 48})
    assert "from before" in attached(changed, tmp_path / "cache", AREAS).note


def test_two_runs_at_once(source: RecordSource, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # in one process, which a lock of the process would not tell apart
    one = attached(source, tmp_path)
    other = attached(source, tmp_path)
    assert "another run uses the decoded images of" in caplog.text
    assert "kept in memory" in other.note
    expected = epoch(loader(source, CROP), 0)
    assert epoch(one, 0) == epoch(other, 0) == expected


def test_the_processes_of_a_run_share_the_file(source: RecordSource, tmp_path: Path) -> None:
    plain = [loader(source, AREAS, shard=order.Shard(rank, 2)) for rank in (0, 1)]
    kept = [loader(source, AREAS, shard=order.Shard(rank, 2)) for rank in (0, 1)]
    decoded_cache.attach(0.1, kept[0], None, Alone(), str(tmp_path))  # type: ignore[arg-type]
    cache = kept[0].preparer._images
    assert cache
    # as the second process does, but for asking the first one for these numbers
    segment = Segment.attach(cache._segment.address, cache._segment.size)
    assert segment
    decoded_folder.join(kept[1], str(tmp_path), segment, 100_000_000)
    for number in range(3):
        assert [epoch(made, number) for made in kept] == [epoch(made, number) for made in plain]
    assert cache.num_images == 38


def test_a_full_disk_ends_keeping(source: RecordSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                  caplog: pytest.LogCaptureFixture) -> None:
    expected = [epoch(loader(source, CROP), number) for number in range(2)]
    made = attached(source, tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))  # the system refuses to write more
    try:
        assert [epoch(made, number) for number in range(2)] == expected
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "nothing more is kept decoded" in caplog.text
    del made
    # what was kept before is read on; and the space that is to stay free
    monkeypatch.setattr(pixel_file, "_LOOK_BYTES", 1)
    made = attached(source, tmp_path)
    num_bytes = file_of(tmp_path, ".pixels").stat().st_size
    monkeypatch.setattr(pixel_file, "free_bytes", lambda _: 0)
    assert [epoch(made, number) for number in range(2)] == expected
    assert file_of(tmp_path, ".pixels").stat().st_size == num_bytes
    del made
    monkeypatch.setattr(decoded_folder, "free_bytes", lambda _: 0)
    file_of(tmp_path, ".pixels").unlink()
    made = attached(source, tmp_path)
    assert "there is no room for decoded images" in caplog.text
    assert "kept in memory" in made.note


def test_what_was_used_longest_ago_makes_room(source: RecordSource, tmp_path: Path,
                                              caplog: pytest.LogCaptureFixture) -> None:
    def run(settings: dict[str, object]) -> StreamingLoader:
        made = attached(source, tmp_path, settings, limit_gb=0.02)
        epoch(made, 0)
        return made

    first = run({**CROP, "resize": 40})
    run({**CROP, "resize": 41})
    for path in tmp_path.glob("*.pixels"):
        os.utime(path, (0, 0))
    # it counts by what it takes on the disk, and a hole takes nothing
    os.truncate(next(iter(tmp_path.glob("*.pixels"))), 30_000_000)
    caplog.clear()
    assert "removed" not in caplog.text
    # `first` is open, and stays
    for path in tmp_path.glob("*.pixels"):
        with open(path, "ab") as stream:
            stream.write(bytes(15_000_000))
    run({**CROP, "resize": 42})
    assert caplog.text.count("the images that were used longest ago") == 1
    assert len(list(tmp_path.glob("*.pixels"))) == 2
    del first


def test_a_cache_that_goes_while_the_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, there = (tmp_path / f"imgcls-decoded-{number:016x}.pixels" for number in range(2))
    for path in (gone, there):
        path.write_bytes(b"x")
    real = os.scandir

    def scan(folder: str) -> Iterator[os.DirEntry[str]]:
        entries = list(real(folder))
        gone.unlink()
        return iter(entries)

    folder = decoded_folder.Folder(str(tmp_path), 1.0, 0.5)
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scan)
        assert [path for _, _, path in folder._others("x")] == [str(there)]


def test_wrong_folders(source: RecordSource, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.symlink("nowhere", tmp_path / "link")
    # a file, a URL, a link to nowhere, and a folder inside of a file
    for folder in (tmp_path / "file", "s3://bucket/cache", tmp_path / "link", tmp_path / "file" / "in"):
        with pytest.raises((UsageError, RunError), match="decoded_cache_dir"):
            decoded_cache.attach(1, loader(source, CROP), None, Alone(), str(folder))  # type: ignore[arg-type]
    # somebody else's file under our name is not written to
    made = attached(source, tmp_path / "cache")
    del made
    target = tmp_path / "target"
    path = file_of(tmp_path / "cache", ".pixels")
    path.unlink()
    os.symlink(target, path)
    assert "kept in memory" in attached(source, tmp_path / "cache").note
    assert not target.exists()


def test_the_checksum() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 7, 100, 4072, 4073, 100_000):
        pixels = rng.integers(0, 256, size, dtype=np.uint8)
        # one bit, at both ends and between
        right = stores.checksum(pixels)
        for place in (0, size // 2, size - 1):
            changed = pixels.copy()
            changed[place] ^= 128
            assert stores.checksum(changed) != right
        assert stores.checksum(np.append(pixels, np.uint8(0))) != right


CHILD = """
import sys, threading
sys.path[:0] = {paths!r}
import test_decoded_cache_dir as tests
from imgcls.data.record_source import RecordSource
made = tests.attached(RecordSource([tests.Path({path!r})]), tests.Path({folder!r}), tests.AREAS)
print("ready", flush=True)
number = 0
while True:
    tests.epoch(made, number)
    number += 1
"""


def test_a_killed_run_leaves_what_the_next_can_use(source: RecordSource, tmp_path: Path) -> None:
    expected = [epoch(loader(source, AREAS), number) for number in range(3)]
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    code = CHILD.format(paths=paths, path=str(source.path), folder=str(tmp_path))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout
    try:
        assert child.stdout.readline() == "ready\n"
        # at any moment after the first tables: what was written behind them is given back
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("*.tables")) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    made = attached(source, tmp_path, AREAS)
    assert "from before" in made.note
    assert [epoch(made, number) for number in range(3)] == expected


@pytest.mark.slow
def test_a_second_run_from_the_command_line(source: RecordSource, tmp_path: Path) -> None:
    weights = []
    # one epoch each: a cache in memory would be of no use
    for name, processes in (("first", 2), ("second", 2)):
        prefix = tmp_path / name
        done = run_cli("train", "--network", "mlp", "--data-train", source.path, "--image-shape", "3,32,32",
                       "--num-classes", 10, "--num-epochs", 1, "--batch-size", 16, "--seed", 1, "--random-crop",
                       1, "--model-prefix", prefix, "--workers-per-host", processes, "--decoded-cache-dir",
                       tmp_path / "cache")
        assert done.returncode == 0, done.stderr
        assert ("38 of 40 images are there from before" in done.stderr) == (name == "second"), done.stderr
        weights.append(Path(f"{prefix}-0001.params").read_bytes())
    assert weights[0] == weights[1]
