"""Record files behind URLs: read from a copy, or in chunks where they are too large to be copied."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from faulty_server import FaultyServer

from imgcls.config.sections import AugmentConfig
from imgcls.data import chunks, sources
from imgcls.data.loaders.streaming import StreamingLoader
from imgcls.data.record_source import ChunkedSource, RecordSource
from imgcls.data.sources import open_source
from imgcls.errors import DataError, RunError, UsageError
from imgcls.formats import lists, ranges, recordio
from imgcls.storage.remote import RemotePath

pytestmark = pytest.mark.usefixtures("own_cache", "short_pauses")


def pack(path: Path, count: int, first: int = 0, size: int = 300) -> bytes:
    """A record file of 8 x 8 images of value i and label i % 3, padded to about `size` bytes each."""
    with recordio.RecordWriter(path) as writer:
        for i in range(first, first + count):
            image = cv2.imencode(".png", np.full((8, 8, 3), i % 256, np.uint8))[1].tobytes()
            writer.write(recordio.pack(recordio.ImageHeader(0, i % 3, i), image + bytes(size)), i)
    return path.read_bytes()


def value(data: bytes | memoryview | np.ndarray) -> int:
    return int(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)[0, 0])


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
    lines = [f"{i}\t{i % 2}\timages/{i}.png\n" for i in range(3)]
    RemotePath(f"{memory}/x.lst").write_bytes("".join(lines).encode())
    source = open_source(f"{memory}/x.lst", "--data-train")
    assert source.labels.tolist() == [0, 1, 0]
    assert [value(source.read(i)) for i in range(3)] == [0, 1, 2]
    assert len(open_source(f"{memory}/x.lst", "--data-train", root=f"{memory}/elsewhere")) == 3
    with pytest.raises(UsageError, match="a remote folder of single images is not read; pack it"):
        open_source(f"{memory}", "--data-train")
    assert lists.read(f"{memory}/x.lst").entries[2].path == "images/2.png"


@pytest.fixture
def chunked(web: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ChunkedSource:
    """Two files of 100 and 77 records, about 8 records a chunk, 3 chunks a window; nothing fits into the
    cache."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4096)
    monkeypatch.setattr(chunks, "WINDOW_CHUNKS", 3)
    monkeypatch.setattr(ranges, "PIECE_BYTES", 8192)
    web.objects["/a.rec"] = pack(tmp_path / "a.rec", 100)
    web.objects["/b.rec"] = pack(tmp_path / "b.rec", 77, 100)
    source = open_source(f"{web.url}/a.rec;{web.url}/b.rec", "--data-train", cache_gb=1e-6)
    assert isinstance(source, ChunkedSource)
    return source


def test_chunks_contain_the_records_of_the_files(chunked: ChunkedSource, web: FaultyServer,
                                                 tmp_path: Path) -> None:
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
    of_sample = chunked.chunks.of_sample
    used = [len(set(of_sample[order[i:i + 16]].tolist())) for i in range(0, 160, 16)]
    assert max(used) <= 6  # no more than two windows
    assert np.mean(used) > 2  # and not one chunk after the other


def test_every_sample_comes_once_in_large_requests(chunked: ChunkedSource, web: FaultyServer) -> None:
    def batches(source: ChunkedSource, first: int = 0,
                threads: int = 2) -> list[tuple[list[int], torch.Tensor]]:
        loader = StreamingLoader(source, batch_size=16, image_shape=(3, 8, 8), augment_config=AugmentConfig(),
                                 train=True, seed=3, device=torch.device("cpu"), threads=threads)
        return [(batch.labels.tolist(), batch.images.clone()) for batch in loader.epoch(1, first)]

    web.seen.clear()
    epoch = batches(chunked)
    assert web.count("GET", ".rec") == chunked.chunks.num_chunks
    pixels = torch.cat([images[:, 0, 0, 0] for _, images in epoch]).int().tolist()
    assert sorted(pixels) == sorted(i % 256 for i in range(177))
    for threads, first in ((0, 0), (3, 4)):
        resumed = batches(chunked, first, threads)
        for (labels, images), (expected_labels, expected) in zip(resumed, epoch[first:], strict=True):
            assert labels == expected_labels
            assert torch.equal(images, expected)


def test_chunks_of_several_processes_are_fetched_once(chunked: ChunkedSource, web: FaultyServer,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the cache has room for the chunks under way, other processes find them there."""
    limit = 4.2 * chunks.WINDOW_CHUNKS * chunks.CHUNK_BYTES / 1e9
    pair = [open_source(f"{web.url}/a.rec;{web.url}/b.rec", "--data-train", cache_gb=limit) for _ in range(2)]
    assert all(isinstance(source, ChunkedSource) for source in pair)
    order = pair[0].order(0, 0)  # type: ignore[union-attr]
    web.seen.clear()
    for source in pair:
        source.prefetch(order)  # type: ignore[union-attr]
    for i in order.tolist():  # side by side
        assert bytes(pair[0].read(i)) == bytes(pair[1].read(i))
    assert web.count("GET", ".rec") == pair[0].chunks.num_chunks  # type: ignore[union-attr]


def test_a_lost_server_ends_the_run_and_is_no_damage(chunked: ChunkedSource, web: FaultyServer) -> None:
    loader = StreamingLoader(chunked, batch_size=16, image_shape=(3, 8, 8), augment_config=AugmentConfig(),
                             train=True, seed=3, device=torch.device("cpu"), threads=2)
    web.fault = lambda *_: "500"
    with pytest.raises(RunError, match="cannot be read: the server answers 500"):
        list(loader.epoch(0))


def test_damage_in_chunks_is_skipped(web: FaultyServer, tmp_path: Path, chunked: ChunkedSource) -> None:
    content = bytearray(web.objects["/a.rec"])
    offsets = recordio.RecordReader(tmp_path / "a.rec").offsets
    content[offsets[40]] ^= 0xFF
    web.objects["/d.rec"] = bytes(content)
    (tmp_path / "d.rec").write_bytes(content)
    local = RecordSource([tmp_path / "d.rec"])
    remote = open_source(f"{web.url}/d.rec", "--data-train", cache_gb=0)
    assert isinstance(remote, ChunkedSource)
    assert len(remote) == len(local) == 99
    assert [problem.reason for problem in remote.problems] == [problem.reason for problem in local.problems]
    assert all(bytes(remote.read(i)) == bytes(local.read(i)) for i in range(99))
    with pytest.raises(DataError, match=r"d\.rec at byte"):
        open_source(f"{web.url}/d.rec", "--data-train", cache_gb=0, on_bad="stop")
