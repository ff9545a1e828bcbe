"""Remote files: faults survived or told in a line, the cache, record files by copy and by chunks, the queue.

Against http on this machine and fsspec's memory://, so that these run everywhere; `test_s3.py` has the S3 cases.
"""

from __future__ import annotations

import contextlib
import importlib
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT, write_digits
from faulty_server import FaultyServer, serving

from imgcls.cli import train as train_command
from imgcls.config.sections import AugmentConfig, DataConfig
from imgcls.data import chunks, sources
from imgcls.data.loaders.streaming import StreamingLoader
from imgcls.data.sources import ChunkedSource, RecordSource, open_source
from imgcls.datasets import mnist
from imgcls.errors import DataError, RunError, UsageError
from imgcls.formats import lists, params, ranges, recordio
from imgcls.storage import cache, http, remote, retries
from imgcls.storage.atomic import atomic_write, write_bytes
from imgcls.storage.cache import Cache
from imgcls.storage.paths import to_local_path, to_path
from imgcls.storage.remote import RemotePath
from imgcls.storage.uploads import MirroredFile, UploadQueue
from imgcls.training import checkpoint

CONTENT = bytes(range(256)) * 400


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, and no patience."""
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(retries, "PAUSE_S", 0.01)


@pytest.fixture
def web() -> Iterator[FaultyServer]:
    with serving() as server:
        server.objects["/x.bin"] = CONTENT
        yield server


@pytest.fixture
def memory() -> Iterator[str]:
    from fsspec.implementations.memory import MemoryFileSystem

    for kept in (MemoryFileSystem.store, MemoryFileSystem.pseudo_dirs):
        kept.clear()
    yield "memory://bucket"
    MemoryFileSystem.store.clear()


def pack(path: Path, count: int, first: int = 0, size: int = 300) -> bytes:
    """A record file of 8 x 8 images of value i and label i % 3, padded to about `size` bytes each."""
    with recordio.RecordWriter(path) as writer:
        for i in range(first, first + count):
            image = cv2.imencode(".png", np.full((8, 8, 3), i % 256, np.uint8))[1].tobytes()
            writer.write(recordio.pack(recordio.ImageHeader(0, i % 3, i), image + bytes(size)), i)
    return path.read_bytes()


def value(data: object) -> int:
    return int(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)[0, 0])  # type: ignore[call-overload]


# Paths


def test_a_remote_path_has_the_face_of_a_path() -> None:
    path = RemotePath("s3://bucket/train/x.rec/")
    assert str(path) == os.fspath(path) == "s3://bucket/train/x.rec"
    assert (path.name, path.stem, path.suffix, str(path.parent)) == ("x.rec", "x", ".rec", "s3://bucket/train")
    assert str(path.with_suffix(".idx")) == "s3://bucket/train/x.idx"
    assert str(path.parent / "a" / "b.rec") == "s3://bucket/train/a/b.rec"
    assert str(RemotePath("s3://bucket").parent) == "s3://bucket"
    assert RemotePath("s3://a/b") == RemotePath("s3://a/b/")
    assert str(recordio.index_path("memory://a/x.rec")) == "memory://a/x.idx"


def test_what_a_path_means(tmp_path: Path) -> None:
    assert to_path(f"file://{tmp_path}/a%20b") == tmp_path / "a b"
    assert to_path("~/x") == Path.home() / "x"
    assert isinstance(to_path("memory://a/b"), RemotePath)
    for url, words in {"s4://b/x": "--data-dir s4://b/x: there is no s4://; did you mean s3://\\?",
                       "a::memory://b/x": "URLs inside URLs", "nonsense://x": "there is no nonsense://$"}.items():
        with pytest.raises(UsageError, match=words):
            to_path(url, "--data-dir")
    with pytest.raises(UsageError, match="--root memory://b: must be on this machine"):
        to_local_path("memory://b", "--root")


def test_a_missing_driver_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"Install {name}")

    monkeypatch.setattr(importlib.import_module("fsspec.registry"), "get_filesystem_class", missing)
    with pytest.raises(UsageError, match=r"^--data-train s3://b/x.rec: needs s3fs: pip install imgcls\[s3\]$"):
        to_path("s3://b/x.rec", "--data-train")


# Faults


@pytest.mark.parametrize("faults", [["500"], ["reset", "500"], ["cut", "cut", "reset"]])
def test_what_passes_is_survived(web: FaultyServer, faults: list[str]) -> None:
    left = list(faults)
    web.fault = lambda method, _: left.pop(0) if method == "GET" and left else ""
    assert RemotePath(f"{web.url}/x.bin").read_bytes() == CONTENT
    assert web.count("GET") == len(faults) + 1


@pytest.mark.parametrize(("fault", "words"), [("500", "the server answers 500"), ("reset", "reset"),
                                              ("cut", "of 102400 bytes came")])
def test_what_does_not_pass_is_one_line(web: FaultyServer, fault: str, words: str) -> None:
    web.fault = lambda method, _: fault if method == "GET" else ""
    with pytest.raises(RunError, match=words) as caught:
        RemotePath(f"{web.url}/x.bin").read_bytes()
    assert web.count("GET") == retries.ATTEMPTS
    assert str(caught.value).startswith(f"{web.url}/x.bin: cannot be read: ")
    assert f"({retries.ATTEMPTS} times tried)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_use_in_trying_again(web: FaultyServer) -> None:
    assert not RemotePath(f"{web.url}/none.bin").exists()
    web.faults = ["403"]
    with pytest.raises(DataError, match="the server answers 403"):
        RemotePath(f"{web.url}/x.bin").exists()
    assert len(web.seen) == 2
    with pytest.raises(RunError, match=r"x.bin: cannot be written: access denied .*can only be read"):
        RemotePath(f"{web.url}/x.bin").write_bytes(b"x")


def test_a_silent_server_is_left(web: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "READ_TIMEOUT_S", 0.1)
    web.fault = lambda *_: "hang"
    with pytest.raises(RunError, match="no answer in time"):
        RemotePath(f"{web.url}/x.bin").read_bytes()


def test_no_server_at_all() -> None:
    with pytest.raises(RunError, match=r"http://127.0.0.1:9/x: cannot be read: .*refused"):
        RemotePath("http://127.0.0.1:9/x").exists()


def test_a_server_without_ranges(web: FaultyServer) -> None:
    web.ranges = False
    assert RemotePath(f"{web.url}/x.bin").read_range(1000, 1010) == CONTENT[1000:1010]


# The cache


def test_a_file_is_fetched_once(web: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PART_BYTES", 30_000)
    for _ in range(3):
        with Cache().open(RemotePath(f"{web.url}/x.bin")) as stream:
            assert stream.read() == CONTENT
    assert web.count("GET") == 4  # its parts
    web.objects["/x.bin"] = CONTENT[::-1]  # another version is another file
    with Cache().open(RemotePath(f"{web.url}/x.bin")) as stream:
        assert stream.read() == CONTENT[::-1]
    with Cache().open(RemotePath(f"{web.url}/x.bin"), 10, 20) as stream:
        assert stream.read() == CONTENT[::-1][10:20]
    with pytest.raises(FileNotFoundError):
        Cache().open(RemotePath(f"{web.url}/y.bin"))


def test_a_file_that_changes_while_it_is_fetched(web: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PART_BYTES", 30_000)

    def change(method: str, _: str) -> str:
        if method == "GET":
            web.objects["/x.bin"] = CONTENT[::-1]
        return ""

    web.fault = change
    with pytest.raises(DataError, match="changed while it was fetched"):
        Cache().open(RemotePath(f"{web.url}/x.bin"))


def test_the_cache_keeps_to_its_limit(web: FaultyServer, tmp_path: Path) -> None:
    for i in range(6):
        web.objects[f"/{i}.bin"] = bytes([i]) * 1000
    small = Cache(3000e-9)
    with small.open(RemotePath(f"{web.url}/0.bin")) as stream:
        held = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    for i in range(1, 6):
        with small.open(RemotePath(f"{web.url}/{i}.bin")):
            sizes = [p.stat().st_size for p in small.folder.iterdir() if p.suffix != ".lock"]
            assert sum(sizes) <= 3000
    assert {p.name[-5:] for p in small.folder.iterdir() if p.suffix == ".bin"} == {"0.bin", "4.bin", "5.bin"}
    assert held[:] == bytes(1000)  # what is in use stays
    held.close()
    with small.open(RemotePath(f"{web.url}/x.bin")) as stream:  # too large to keep: a file without a name
        assert stream.read() == CONTENT
    assert not [p for p in small.folder.iterdir() if p.name.endswith("x.bin")]


def test_a_killed_fetch_leaves_nothing_wrong(web: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = RemotePath(f"{web.url}/x.bin")
    web.fault = lambda method, _: "500" if method == "GET" else ""
    with pytest.raises(RunError):
        Cache().open(entry)
    assert not [p for p in Cache().folder.iterdir() if p.suffix != ".lock"]
    code = ("import os, sys; from imgcls.storage import remote; from imgcls.storage.cache import Cache\n"
            "remote.RemotePath.download = lambda self, stream, *_: (stream.write(b'half'), stream.flush(), "
            "os._exit(9))\nCache().open(remote.RemotePath(sys.argv[1]))")
    web.fault = lambda *_: ""
    assert subprocess.run([sys.executable, "-c", code, str(entry)], env={**os.environ, "PYTHONPATH": str(ROOT)},
                          check=False).returncode == 9
    assert [p for p in Cache().folder.iterdir() if p.suffix == ".part"]
    with Cache().open(entry) as stream:
        assert stream.read() == CONTENT


def test_processes_of_a_machine_fetch_once(web: FaultyServer) -> None:
    import time

    web.fault = lambda method, _: time.sleep(0.5 * (method == "GET")) or ""
    code = ("import sys; from imgcls.storage.cache import Cache; from imgcls.storage.remote import RemotePath\n"
            "print(len(Cache().open(RemotePath(sys.argv[1])).read()))")
    both = [subprocess.Popen([sys.executable, "-c", code, f"{web.url}/x.bin"], stdout=subprocess.PIPE, text=True,
                             env={**os.environ, "PYTHONPATH": str(ROOT)}) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].strip() for process in both] == [str(len(CONTENT))] * 2
    assert web.count("GET") == 1


def test_the_limit_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.default_gb() == 100
    monkeypatch.setenv("IMGCLS_CACHE_GB", "2.5")
    assert Cache().limit_bytes == 2_500_000_000
    monkeypatch.setenv("IMGCLS_CACHE_GB", "-1")
    with pytest.raises(UsageError, match="IMGCLS_CACHE_GB=-1: must be a number"):
        Cache()


def test_a_full_disk_is_one_line(web: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RemotePath, "download", full)
    with pytest.raises(RunError, match=r"cannot keep a copy of http.*x.bin .*no space left.*cache_gb"):
        Cache().open(RemotePath(f"{web.url}/x.bin"))


# Record files


def test_records_are_read_from_a_copy(web: FaultyServer, tmp_path: Path) -> None:
    for name, first in (("a", 0), ("b", 20)):
        web.objects[f"/{name}.rec"] = pack(tmp_path / f"{name}.rec", 20, first)
        web.objects[f"/{name}.idx"] = (tmp_path / f"{name}.idx").read_bytes()
    web.objects["/a.classes.txt"] = b"x\ny\nz\n"
    for _ in range(2):
        source = open_source(f"{web.url}/a.rec;{web.url}/b.rec", "--data-train")
        assert isinstance(source, RecordSource)
        assert source.labels.tolist() == [i % 3 for i in range(40)]
        assert source.class_names == ("x", "y", "z")
        assert [value(source.read(i)) for i in (0, 19, 20, 39)] == [0, 19, 20, 39]
        assert not source.readers[0].index_problem
    for name in ("a.rec", "a.idx", "b.rec", "b.idx"):
        assert web.count("GET", name) == 1
    with pytest.raises(UsageError, match=r"--data-train http.*/c.rec: no such file"):
        open_source(f"{web.url}/c.rec", "--data-train")


def test_damage_names_the_url(web: FaultyServer, tmp_path: Path) -> None:
    web.objects["/a.rec"] = pack(tmp_path / "a.rec", 20)[:-100]
    with pytest.raises(DataError, match=rf"^{web.url}/a.rec at byte \d+: the record here is cut"):
        open_source(f"{web.url}/a.rec", "--data-train", on_bad="stop")


def test_a_folder_of_records(memory: str, tmp_path: Path) -> None:
    for name, first in (("b", 5), ("a", 0)):
        RemotePath(f"{memory}/train/{name}.rec").write_bytes(pack(tmp_path / f"{name}.rec", 5, first))
        RemotePath(f"{memory}/train/{name}.idx").write_bytes((tmp_path / f"{name}.idx").read_bytes())
    source = open_source(f"{memory}/train/", "--data-train")
    assert [value(source.read(i)) for i in range(10)] == list(range(10))
    assert len(open_source(f"{memory}/train/[ab].*", "--data-train")) == 10
    with pytest.raises(UsageError, match="no such file"):
        open_source(f"{memory}/nothing/", "--data-train")


def test_a_list_of_remote_images(memory: str) -> None:
    for i in range(3):
        RemotePath(f"{memory}/images/{i}.png").write_bytes(
            cv2.imencode(".png", np.full((8, 8, 3), i, np.uint8))[1].tobytes())
    RemotePath(f"{memory}/x.lst").write_bytes(b"".join(f"{i}\t{i % 2}\timages/{i}.png\n".encode() for i in range(3)))
    source = open_source(f"{memory}/x.lst", "--data-train")
    assert source.labels.tolist() == [0, 1, 0]
    assert [value(source.read(i)) for i in range(3)] == [0, 1, 2]
    assert len(open_source(f"{memory}/x.lst", "--data-train", root=f"{memory}/elsewhere")) == 3
    with pytest.raises(UsageError, match="a remote folder of single images is not read; pack it"):
        open_source(f"{memory}", "--data-train")
    assert lists.read(f"{memory}/x.lst").entries[2].path == "images/2.png"


@pytest.fixture
def chunked(web: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ChunkedSource:
    """Two files of 100 and 77 records, about 8 records a chunk, 3 chunks a window; nothing fits into the cache."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4096)
    monkeypatch.setattr(chunks, "WINDOW_CHUNKS", 3)
    monkeypatch.setattr(ranges, "PIECE_BYTES", 8192)
    web.objects["/a.rec"] = pack(tmp_path / "a.rec", 100)
    web.objects["/b.rec"] = pack(tmp_path / "b.rec", 77, 100)
    source = open_source(f"{web.url}/a.rec;{web.url}/b.rec", "--data-train", cache_gb=1e-6)
    assert isinstance(source, ChunkedSource)
    return source


def test_chunks_hold_what_the_files_hold(chunked: ChunkedSource, web: FaultyServer, tmp_path: Path) -> None:
    local = RecordSource([tmp_path / "a.rec", tmp_path / "b.rec"])
    assert chunked.labels.tolist() == local.labels.tolist()
    for i in (0, 99, 100, 176, 50, 51):
        assert bytes(chunked.read(i)) == bytes(local.read(i))
    assert "more than `cache_gb` 1e-06 leaves room for; read in chunks" in sources.notes(chunked)[0]
    assert chunked.problem(120, "is bad").offset == local.problem(120, "is bad").offset
    web.seen.clear()
    again = open_source(f"{web.url}/a.rec;{web.url}/b.rec", "--data-train", cache_gb=1e-6)
    assert again.labels.tolist() == local.labels.tolist()
    assert not web.count("GET", ".rec")  # where the records are was noted


def test_the_order_of_chunks(chunked: ChunkedSource) -> None:
    order = chunked.order(5, 2)
    assert sorted(order.tolist()) == list(range(177))
    assert (chunked.order(5, 2) == order).all()
    assert (chunked.order(5, 3) != order).any()
    assert (chunked.order(6, 2) != order).any()
    of_sample = chunked._chunks.of_sample
    used = [len(set(of_sample[order[i:i + 16]].tolist())) for i in range(0, 160, 16)]
    assert max(used) <= 6  # no more than two windows
    assert np.mean(used) > 2  # and not one chunk after the other


def test_every_sample_comes_once_in_large_requests(chunked: ChunkedSource, web: FaultyServer, tmp_path: Path) -> None:
    def batches(source: ChunkedSource, first: int = 0, threads: int = 2) -> list[tuple[list[int], torch.Tensor]]:
        loader = StreamingLoader(source, batch_size=16, image_shape=(3, 8, 8), augment_config=AugmentConfig(),
                                 train=True, seed=3, device=torch.device("cpu"), threads=threads)
        return [(batch.labels.tolist(), batch.images.clone()) for batch in loader.epoch(1, first)]

    web.seen.clear()
    whole = batches(chunked)
    number = len(chunked._chunks._ranges)
    assert web.count("GET", ".rec") == number
    pixels = torch.cat([images[:, 0, 0, 0] for _, images in whole]).int().tolist()
    assert sorted(pixels) == sorted(i % 256 for i in range(177))
    for threads, first in ((0, 0), (3, 4)):
        for (labels, images), (expected_labels, expected) in zip(batches(chunked, first, threads), whole[first:],
                                                                 strict=True):
            assert labels == expected_labels
            assert torch.equal(images, expected)


def test_chunks_of_several_processes_are_fetched_once(chunked: ChunkedSource, web: FaultyServer,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the cache has room for the chunks under way, other processes find them there."""
    limit = 4.2 * chunks.WINDOW_CHUNKS * chunks.CHUNK_BYTES / 1e9
    pair = [open_source(f"{web.url}/a.rec;{web.url}/b.rec", "--data-train", cache_gb=limit) for _ in range(2)]
    assert all(isinstance(source, ChunkedSource) and not source._chunks._in_memory for source in pair)
    order = pair[0].order(0, 0)  # type: ignore[union-attr]
    web.seen.clear()
    for source in pair:
        source.prefetch(order)  # type: ignore[union-attr]
    for i in order.tolist():  # side by side
        assert bytes(pair[0].read(i)) == bytes(pair[1].read(i))
    assert web.count("GET", ".rec") == len(pair[0]._chunks._ranges)  # type: ignore[union-attr]


def test_a_lost_server_ends_the_run_and_is_no_damage(chunked: ChunkedSource, web: FaultyServer) -> None:
    loader = StreamingLoader(chunked, batch_size=16, image_shape=(3, 8, 8), augment_config=AugmentConfig(), train=True,
                             seed=3, device=torch.device("cpu"), threads=2)
    web.fault = lambda *_: "500"
    with pytest.raises(RunError, match="cannot be read: the server answers 500"):
        list(loader.epoch(0))


def test_damage_in_chunks_is_passed_over(web: FaultyServer, tmp_path: Path, chunked: ChunkedSource) -> None:
    content = bytearray(web.objects["/a.rec"])
    offsets = recordio.RecordReader(tmp_path / "a.rec").offsets
    content[offsets[40]] ^= 0xFF
    web.objects["/d.rec"] = bytes(content)
    (tmp_path / "d.rec").write_bytes(content)
    local = RecordSource([tmp_path / "d.rec"])
    found = open_source(f"{web.url}/d.rec", "--data-train", cache_gb=0)
    assert isinstance(found, ChunkedSource)
    assert len(found) == len(local) == 99
    assert [p.reason for p in found.problems] == [p.reason for p in local.problems]  # type: ignore[attr-defined]
    assert all(bytes(found.read(i)) == bytes(local.read(i)) for i in range(99))
    with pytest.raises(DataError, match=r"d\.rec at byte"):
        open_source(f"{web.url}/d.rec", "--data-train", cache_gb=0, on_bad="stop")


# Data sets and checkpoints


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn digits in MNIST's files."""
    return write_digits(tmp_path_factory.mktemp("mnist"))


def train(folder: object, prefix: object, *flags: object) -> int:
    words = ("--data-dir", folder, "--model-prefix", prefix, "--batch-size", 32, "--network", "mlp", "--num-epochs", 2,
             "--save-every", 0.00001, *flags)
    return train_command.main([*map(str, words)])


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("local") / "net"
    assert train(folder, prefix) == 0
    return prefix


def names(prefix: str) -> list[str]:
    return [path.name for path in RemotePath(prefix).parent.iterdir()]


def test_training_from_and_to_a_url(memory: str, folder: Path, undisturbed: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    from imgcls import api
    from imgcls.training import trainer

    for path in folder.iterdir():
        RemotePath(f"{memory}/mnist/{path.name}").write_bytes(path.read_bytes())
    prefix = f"{memory}/model/net"
    original = trainer.Trainer.train_step

    def train_step(self: trainer.Trainer, batch: object, update: int) -> None:
        original(self, batch, update)  # type: ignore[arg-type]
        if update == 4:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(trainer.Trainer, "train_step", train_step)
    assert train(f"{memory}/mnist/", prefix, "--load-epoch", "auto") == 143
    positions = [name for name in names(prefix) if "position" in name]
    assert len(positions) == 1
    assert positions[0].startswith("net-position-00000004-")
    assert checkpoint._read_latest(prefix)["position"] == positions[0]
    assert train(f"{memory}/mnist/", prefix, "--load-epoch", "auto", "--log-file", f"{memory}/model/log") == 0
    for epoch in (1, 2):
        assert RemotePath(f"{prefix}-{epoch:04d}.params").read_bytes() == Path(
            f"{undisturbed}-{epoch:04d}.params").read_bytes()
    assert [name for name in names(prefix) if "position" not in name] == [
        "log", "net-0001.params", "net-0001.states", "net-0002.params", "net-0002.states", "net-latest.json",
        "net-meta.json", "net-metrics.jsonl", "net-symbol.json"]
    count = RemotePath(f"{prefix}-metrics.jsonl").read_text().count("\n")
    assert count == Path(f"{undisturbed}-metrics.jsonl").read_text().count("\n")
    assert "Validation-accuracy" in RemotePath(f"{memory}/model/log").read_text()
    images = torch.rand(2, 1, 28, 28)
    assert torch.equal(api.load_model(prefix)(images), api.load_model(undisturbed)(images))
    with pytest.raises(UsageError, match=rf"load_epoch 7: {prefix}-0007.params does not exist; there is 1, 2"):
        checkpoint.load(prefix, "7")


def test_a_new_run_under_an_old_prefix(memory: str, folder: Path, undisturbed: Path) -> None:
    prefix = f"{memory}/net"
    assert train(folder, prefix, "--num-epochs", 1, "--seed", 9) == 0
    RemotePath(f"{prefix}-position-00000001-dead.states").write_bytes(b"left over")
    assert train(folder, prefix) == 0
    assert RemotePath(f"{prefix}-0001.params").read_bytes() == Path(f"{undisturbed}-0001.params").read_bytes()
    positions = [name for name in names(prefix) if "position" in name]
    assert positions in ([], [checkpoint._read_latest(prefix)["position"]])


def test_a_second_run_is_noticed(memory: str, folder: Path, monkeypatch: pytest.MonkeyPatch,
                                 capsys: pytest.CaptureFixture[str]) -> None:
    begin = checkpoint.Checkpoint.begin

    def begin_twice(self: checkpoint.Checkpoint, *arguments: object, **named: object) -> None:
        begin(self, *arguments, **named)  # type: ignore[arg-type]
        other = checkpoint.Checkpoint(self.prefix)
        begin(other, *arguments, **named)  # type: ignore[arg-type]
        other.close()

    monkeypatch.setattr(checkpoint.Checkpoint, "begin", begin_twice)
    assert train(folder, f"{memory}/net") == 1
    assert "error: --model-prefix memory://bucket/net: another run is writing there" in capsys.readouterr().err


def test_missing_files_of_a_data_set(memory: str, web: FaultyServer) -> None:
    for place in (f"{memory}/none", web.url):
        with pytest.raises(DataError, match=rf"^{place}/train-images-idx3-ubyte.gz: no such file, and nothing is "):
            mnist.load(DataConfig(data_dir=place))


# Writing


class Spoilt(Exception):
    """What goes wrong in the middle of a write."""


def test_a_write_is_whole_or_not_at_all(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    path = RemotePath(f"{memory}/x")
    path.write_bytes(b"old")
    put = MemoryFileSystem.put_file

    def half(self: MemoryFileSystem, file: str, target: str, **_: object) -> None:
        self.pipe_file(target, Path(file).read_bytes()[:2])
        raise Spoilt("the plug was pulled")

    monkeypatch.setattr(MemoryFileSystem, "put_file", half)
    with pytest.raises(RunError, match=r"memory://bucket/x: cannot be written: the plug was pulled"):
        write_bytes(str(path), b"new content")
    assert path.read_bytes() == b"old"
    with contextlib.suppress(KeyError), atomic_write(str(path)) as stream:
        stream.write(b"half")
        raise KeyError
    monkeypatch.setattr(MemoryFileSystem, "put_file", put)
    assert path.read_bytes() == b"old"
    write_bytes(str(path), b"new", b" content")
    assert path.read_bytes() == b"new content"
    assert names(str(path)) == ["x"]
    params.save(f"{memory}/y.params", {"a": np.arange(3)})
    assert params.load(f"{memory}/y.params")["a"].tolist() == [0, 1, 2]


def test_the_outbox_sends_in_order_and_one_batch_at_a_time(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    gate, order = threading.Event(), []
    upload = RemotePath.upload

    def slow(self: RemotePath, file: object) -> None:
        assert gate.wait(10)
        order.append(self.name)
        upload(self, file)  # type: ignore[arg-type]

    monkeypatch.setattr(RemotePath, "upload", slow)
    queue = UploadQueue(f"{memory}/net")
    data = bytearray(b"first")
    queue.write(f"{memory}/a", data)
    queue.write(f"{memory}/b", b"second")
    queue.flush()  # comes back before anything has arrived
    data[:] = b"later"
    queue.write(f"{memory}/c", b"third")
    queue.remove(f"{memory}/b")
    assert order == []
    gate.set()
    queue.close()
    assert order == ["a", "b", "c"]
    assert RemotePath(f"{memory}/a").read_bytes() == b"first"
    assert names(f"{memory}/net") == ["a", "c"]


def test_a_failed_upload_ends_the_next_save(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = UploadQueue(f"{memory}/net")

    def refuse(self: RemotePath, file: object) -> None:
        raise RunError(f"{self}: cannot be written: no")

    monkeypatch.setattr(RemotePath, "upload", refuse)
    queue.write(f"{memory}/a", b"x")
    queue.flush()
    with pytest.raises(RunError, match="memory://bucket/a: cannot be written"):
        queue.flush()
    queue.close()
    queue = UploadQueue(f"{memory}/net")
    queue.write(f"{memory}/a", b"x")
    with pytest.raises(RunError, match="cannot be written"):
        queue.close()
    assert not list((Path(os.environ["IMGCLS_CACHE"]) / "upload").iterdir())


def test_a_log_is_copied_as_it_grows(memory: str, tmp_path: Path) -> None:
    mirrored = MirroredFile(to_path(f"{memory}/log"))
    assert mirrored.sync() == ""  # nothing yet
    for text in ("one\n", "two\n"):
        with mirrored.path.open("a") as stream:
            stream.write(text)
        assert mirrored.sync() == ""
    assert RemotePath(f"{memory}/log").read_text() == "one\ntwo\n"
    assert mirrored.close() == ""
    assert not mirrored.path.exists()
    near = MirroredFile(tmp_path / "log")
    near.path.write_text("kept")
    assert near.close() == ""
    assert (tmp_path / "log").read_text() == "kept"
