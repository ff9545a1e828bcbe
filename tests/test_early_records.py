"""Remote record files that are read while they are copied: the same batches, sooner."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from faulty_server import FaultyServer

from imgcls.config.sections import AugmentConfig
from imgcls.data import early_records
from imgcls.data.loaders.streaming import StreamingLoader
from imgcls.data.record_source import RecordSource
from imgcls.data.sources import open_source
from imgcls.errors import RunError
from imgcls.formats import lists, recordio
from imgcls.storage import partial_copy, read_ahead, remote
from imgcls.storage.cache import Cache
from imgcls.storage.remote import RemotePath

pytestmark = pytest.mark.usefixtures("own_cache", "short_pauses")

COUNT, SIZE = 60, 4000


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make everything so small that files of 240 kB have many blocks and requests."""
    monkeypatch.setattr(early_records, "MIN_BYTES", 1)
    monkeypatch.setattr(early_records, "_NUM_SAMPLED", 4)
    monkeypatch.setattr(partial_copy, "BLOCK_BYTES", 1024)
    monkeypatch.setattr(remote, "PART_BYTES", 16384)
    monkeypatch.setattr(read_ahead, "_NEAR_BYTES", 40_000)
    monkeypatch.setattr(read_ahead, "_SMALL_BYTES", 0)
    monkeypatch.setattr(read_ahead, "_PAUSE_S", 0.02)
    monkeypatch.setattr(read_ahead, "_GRACE_S", 0.05)
    yield
    # what still fetches would go on with other numbers
    ends_s = time.monotonic() + 5
    for thread in threading.enumerate():
        if thread.name.startswith("imgcls-ahead"):
            thread.join(max(ends_s - time.monotonic(), 0))


def pack(folder: Path, name: str, first: int) -> None:
    """Write a list, records and their index: PNGs of one value each, with noise behind the image."""
    import cv2

    rng = np.random.default_rng(first)
    entries = [lists.ListEntry(i, (float(i % 3),), f"{i}.png") for i in range(first, first + COUNT)]
    lists.write(folder / f"{name}.lst", entries)
    with recordio.RecordWriter(folder / f"{name}.rec") as writer:
        for entry in entries:
            image = cv2.imencode(".png", np.full((8, 8, 3), entry.id % 256, np.uint8))[1].tobytes()
            noise = rng.integers(0, 256, SIZE + entry.id, np.uint8).tobytes()
            writer.write(recordio.pack(recordio.ImageHeader(0, entry.labels[0], entry.id), image + noise),
                         entry.id)


@pytest.fixture
def records(web: FaultyServer, tmp_path: Path, small: None) -> str:
    """Two record files with lists on the server; what `open_source` is given."""
    (tmp_path / "data").mkdir()
    for name, first in (("a", 0), ("b", COUNT)):
        pack(tmp_path / "data", name, first)
        serve(web, tmp_path / "data", name)
    return f"{web.url}/a.rec;{web.url}/b.rec"


def serve(web: FaultyServer, folder: Path, name: str) -> None:
    for ending in ("rec", "idx", "lst"):
        web.objects[f"/{name}.{ending}"] = (folder / f"{name}.{ending}").read_bytes()


def test_a_server_without_ranges_sends_each_file_once(web: FaultyServer, records: str, tmp_path: Path) -> None:
    web.ranges = False
    source = open_records(records)
    assert source.is_copied
    local = RecordSource([tmp_path / "data" / "a.rec", tmp_path / "data" / "b.rec"])
    assert source.labels.tolist() == local.labels.tolist()
    # of each file: two answers that are left at their beginning, and all of it
    assert web.count("GET", ".rec") <= 6


def open_records(records: str) -> RecordSource:
    source = open_source(records, "--data-train")
    assert isinstance(source, RecordSource)
    return source


def batches(source: RecordSource, first: int = 0, threads: int = 2) -> list[tuple[list[int], torch.Tensor]]:
    loader = StreamingLoader(source, batch_size=16, image_shape=(3, 8, 8), augment_config=AugmentConfig(),
                             train=True, seed=3, device=torch.device("cpu"), threads=threads)
    return [(batch.labels.tolist(), batch.images.clone()) for batch in loader.epoch(1, first)]


def wait_until_copied(source: RecordSource) -> None:
    ends_s = time.monotonic() + 20
    while not source.is_copied:
        assert time.monotonic() < ends_s
        time.sleep(0.01)


def names(ending: str = "") -> list[str]:
    return sorted(path.name for path in Cache().folder.iterdir()
                  if path.suffix != ".lock" and path.name.endswith(ending))


def test_the_first_batch_comes_before_all_is_fetched(web: FaultyServer, records: str, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    total = sum(len(web.objects[f"/{name}.rec"]) for name in "ab")
    monkeypatch.setattr(read_ahead, "_NUM_NEAR", 4)
    monkeypatch.setattr(read_ahead, "_NUM_FILLING", 1)
    web.fault = lambda method, path: time.sleep(0.03) or "" if path.endswith(".rec") else ""
    source = open_records(records)
    assert not source.is_copied
    loader = StreamingLoader(source, batch_size=16, image_shape=(3, 8, 8), augment_config=AugmentConfig(),
                             train=True, seed=3, device=torch.device("cpu"), threads=2)
    epoch = loader.epoch(1)
    first = next(epoch)
    assert web.num_bytes < total * 0.8
    labels = [first.labels.tolist(), *(batch.labels.tolist() for batch in epoch)]
    wait_until_copied(source)
    beside = sum(len(web.objects[f"/{name}.{ending}"]) for name in "ab" for ending in ("idx", "lst"))
    assert web.num_bytes == total + beside + 2  # each byte once; one of each file shows that there are ranges
    local = RecordSource([tmp_path / "data" / "a.rec", tmp_path / "data" / "b.rec"])
    assert labels == [expected for expected, _ in batches(local)]
    copies = [path.read_bytes() for path in Cache().folder.glob("*.rec")]
    assert sorted(copies) == sorted(web.objects[f"/{name}.rec"] for name in "ab")
    assert not names(".partial")
    assert not names(".blocks")
    web.seen.clear()
    assert open_records(records).labels.tolist() == source.labels.tolist()  # now from the copy
    assert not web.count("GET", ".rec")


@pytest.mark.parametrize("threads", [0, 3])
def test_the_batches_are_those_of_a_complete_copy(records: str, tmp_path: Path, threads: int) -> None:
    local = RecordSource([tmp_path / "data" / "a.rec", tmp_path / "data" / "b.rec"])
    expected = batches(local)
    source = open_records(records)
    assert not source.is_copied
    assert source.labels.tolist() == local.labels.tolist()
    for (labels, images), (expected_labels, expected_images) in zip(batches(source, 2, threads), expected[2:],
                                                                   strict=True):
        assert labels == expected_labels
        assert torch.equal(images, expected_images)
    half = source.subset(np.arange(5, 100))
    assert [bytes(half.read(i)) for i in (0, 60, 94)] == [bytes(local.read(i + 5)) for i in (0, 60, 94)]


def test_a_killed_process_leaves_nothing_wrong(web: FaultyServer, records: str, tmp_path: Path) -> None:
    code = ("import sys, time; from imgcls.data import early_records; early_records.MIN_BYTES = 1\n"
            "from imgcls.data.sources import open_source\n"
            "source = open_source(sys.argv[1], 'x'); source.read(7); print('read', flush=True); time.sleep(60)")
    web.fault = lambda method, path: time.sleep(0.2) or "" if path.endswith(".rec") else ""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code, records], env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"read\n"
        assert len(names(".partial")) == 2
        process.send_signal(signal.SIGKILL)
    web.fault = lambda *_: ""
    source = open_records(records)
    local = RecordSource([tmp_path / "data" / "a.rec", tmp_path / "data" / "b.rec"])
    assert [bytes(source.read(i)) for i in range(2 * COUNT)] == [bytes(local.read(i)) for i in range(2 * COUNT)]
    wait_until_copied(source)
    assert len(names(".rec")) == 2


def test_two_readers_share_one_copy(web: FaultyServer, records: str) -> None:
    total = sum(len(web.objects[f"/{name}.rec"]) for name in "ab")
    web.fault = lambda method, path: time.sleep(0.01) or "" if path.endswith(".rec") else ""
    first, second = (open_records(records) for _ in range(2))
    assert bytes(first.read(0)) == bytes(second.read(0))
    # who wants all of it waits for it, and fetches no second copy
    with Cache().open(RemotePath(f"{web.url}/a.rec")) as stream:
        assert stream.read() == web.objects["/a.rec"]
    for source in (first, second):
        assert len([source.read(i) for i in range(2 * COUNT)]) == 2 * COUNT
        wait_until_copied(source)
    assert web.num_bytes < 1.5 * total
    assert len(names(".rec")) == 2


def change_list(text: bytes) -> bytes:
    return text.replace(b"\n31\t1.000000", b"\n31\t2.000000")


@pytest.mark.parametrize("change", ["label", "index", "damage"])
def test_what_a_list_does_not_tell_ends_the_run_once(web: FaultyServer, records: str, change: str) -> None:
    offset = int(web.objects["/a.idx"].split(b"\n")[31].split(b"\t")[1])
    if change == "label":
        web.objects["/a.lst"] = change_list(web.objects["/a.lst"])
    elif change == "index":
        web.objects["/a.idx"] = b"".join(line for line in web.objects["/a.idx"].splitlines(keepends=True)
                                         if not line.startswith(b"31\t"))
    else:
        content = bytearray(web.objects["/a.rec"])
        content[offset] ^= 0xFF
        web.objects["/a.rec"] = bytes(content)
    source = open_records(records)
    assert not source.is_copied
    with pytest.raises(RunError, match=r"a\.rec: record 3[01] .*the \.idx or \.lst beside it does not belong"):
        [source.read(i) for i in range(2 * COUNT)]
    again = open_records(records)
    assert len(again) == 2 * COUNT - (change == "damage")  # as without a list
    assert again.labels.tolist().count(1) == 2 * COUNT // 3 - (change == "damage")


@pytest.mark.parametrize("content", [b"", b"0\t0\tx.png\n", b"0\t1\t2\tx.png\n"])
def test_a_list_of_something_else_is_not_used(web: FaultyServer, records: str, content: bytes) -> None:
    web.objects["/a.lst"] = content
    del web.objects["/b.lst"]
    source = open_records(records)
    assert source.is_copied
    assert source.labels.tolist() == [i % 3 for i in range(2 * COUNT)]


def test_a_lost_server_ends_the_run_in_one_line(web: FaultyServer, records: str) -> None:
    source = open_records(records)
    web.fault = lambda *_: "500"
    with pytest.raises(RunError, match=r"rec: cannot be read: the server answers 500"):
        batches(source)
    web.fault = lambda *_: ""
    assert len(batches(source)) == 8


def test_a_file_that_changes_meanwhile_ends_the_run(web: FaultyServer, records: str) -> None:
    source = open_records(records)
    web.objects["/a.rec"] = bytes(len(web.objects["/a.rec"]))
    with pytest.raises(RunError, match=r"a\.rec: (changed while it was fetched|record \d+ no record begins)"):
        [source.read(i) for i in range(COUNT)]


def test_a_full_disk_is_one_line(records: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as context:
        context.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
        with pytest.raises(RunError, match=r"cannot keep a copy of http.*no space left.*cache_gb"):
            open_records(records)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    source = open_records(records)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(RunError, match=r"cannot keep a copy of http.*no space left.*cache_gb"):
        [source.read(i) for i in range(2 * COUNT)]
