"""Paths to remote files, faults survived or reported in a line, writing and uploading.

Against http on this machine and fsspec's memory://, so that these run everywhere; `test_s3.py` has the S3
cases.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import CONTENT, list_names
from faulty_server import FaultyServer

from imgcls.errors import DataError, RunError, UsageError
from imgcls.formats import params, recordio
from imgcls.storage import http, remote, retries
from imgcls.storage.atomic import atomic_write, write_bytes
from imgcls.storage.paths import to_local_path, to_path
from imgcls.storage.remote import RemotePath
from imgcls.storage.uploads import MirroredFile, UploadQueue

pytestmark = pytest.mark.usefixtures("own_cache", "short_pauses")


def test_the_names_in_a_remote_path() -> None:
    path = RemotePath("s3://bucket/train/x.rec/")
    assert str(path) == os.fspath(path) == "s3://bucket/train/x.rec"
    assert (path.name, path.stem, path.suffix) == ("x.rec", "x", ".rec")
    assert str(path.parent) == "s3://bucket/train"
    assert str(path.with_suffix(".idx")) == "s3://bucket/train/x.idx"
    assert str(path.parent / "a" / "b.rec") == "s3://bucket/train/a/b.rec"
    assert str(RemotePath("s3://bucket").parent) == "s3://bucket"
    assert RemotePath("s3://a/b") == RemotePath("s3://a/b/")
    assert str(recordio.index_path("memory://a/x.rec")) == "memory://a/x.idx"


def test_what_a_path_means(tmp_path: Path) -> None:
    assert to_path(f"file://{tmp_path}/a%20b") == tmp_path / "a b"
    assert to_path(f"file://localhost{tmp_path}/a") == tmp_path / "a"
    assert to_path("file://localhost_data/a") == Path("localhost_data/a")
    assert to_path("~/x") == Path.home() / "x"
    assert isinstance(to_path("memory://a/b"), RemotePath)
    for url, message in {
        "s4://b/x": "--data-dir s4://b/x: there is no s4://; did you mean s3://\\?",
        "a::memory://b/x": "URLs inside URLs",
        "nonsense://x": "there is no nonsense://$",
    }.items():
        with pytest.raises(UsageError, match=message):
            to_path(url, "--data-dir")
    with pytest.raises(UsageError, match="--root memory://b: must be on this machine"):
        to_local_path("memory://b", "--root")


def test_a_missing_driver_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"Install {name}")

    monkeypatch.setattr(importlib.import_module("fsspec.registry"), "get_filesystem_class", missing)
    with pytest.raises(UsageError, match=r"^data_train s3://b/x.rec: s3:// needs s3fs: pip install s3fs$"):
        to_path("s3://b/x.rec", "`data_train`")


@pytest.mark.parametrize(("url", "package"), [("hdfs://h/x.rec", "pyarrow"), ("gs://b/x.rec", "gcsfs"),
                                              ("abfs://c/x.rec", "adlfs"), ("sftp://h/x.rec", "paramiko")])
def test_a_missing_library_is_told_with_pips_line(url: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """hdfs:// has its driver, and looks for pyarrow only when the file system is opened."""
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, "pyarrow.fs", None)
    for module in [name for name in sys.modules if name.startswith("fsspec.implementations.")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(UsageError, match=f"{package}: pip install {package}$"):
        to_path(url).exists()


# Faults


@pytest.mark.parametrize("faults", [["500"], ["reset", "500"], ["cut", "cut", "reset"]])
def test_passing_faults_are_retried(web: FaultyServer, faults: list[str]) -> None:
    to_come = list(faults)
    web.fault = lambda method, _: to_come.pop(0) if method == "GET" and to_come else ""
    assert RemotePath(f"{web.url}/x.bin").read_bytes() == CONTENT
    assert web.count("GET") == len(faults) + 1


@pytest.mark.parametrize(("fault", "message"), [("500", "the server answers 500"), ("reset", "reset"),
                                                ("cut", "of 102400 bytes came")])
def test_lasting_faults_are_one_line(web: FaultyServer, fault: str, message: str) -> None:
    web.fault = lambda method, _: fault if method == "GET" else ""
    with pytest.raises(RunError, match=message) as caught:
        RemotePath(f"{web.url}/x.bin").read_bytes()
    # tries that each bring half of what is left are followed by as many more
    assert web.count("GET") == retries.ATTEMPTS * (2 if fault == "cut" else 1)
    assert str(caught.value).startswith(f"{web.url}/x.bin: cannot be read: ")
    assert f"(tried {retries.ATTEMPTS} times)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_errors_that_are_not_retried(web: FaultyServer) -> None:
    assert not RemotePath(f"{web.url}/none.bin").exists()
    web.faults = ["403"]
    with pytest.raises(DataError, match="the server answers 403"):
        RemotePath(f"{web.url}/x.bin").exists()
    assert len(web.seen) == 2
    with pytest.raises(RunError, match=r"x.bin: cannot be written: access denied .*can only be read"):
        RemotePath(f"{web.url}/x.bin").write_bytes(b"x")


def test_a_silent_server_times_out(web: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "READ_TIMEOUT_S", 0.1)
    web.fault = lambda *_: "hang"
    with pytest.raises(RunError, match="no answer in time"):
        RemotePath(f"{web.url}/x.bin").read_bytes()


@pytest.mark.parametrize("word", ["ETag", "mtime", "modificationTime", "modify"])
def test_a_changed_file_of_the_same_size_has_another_version(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[dict[str, object]] = [{"size": 3, "type": "file", word: time} for time in (1700, 1800)]
    fs = SimpleNamespace(info=lambda _: answers.pop(0), invalidate_cache=lambda _: None)
    monkeypatch.setattr(remote, "open_driver", lambda url: (fs, url))
    path = RemotePath("webhdfs://host/x.params")
    assert path.stat().version != path.stat(fresh=True).version


def test_no_server_at_all() -> None:
    with pytest.raises(RunError, match=r"http://127.0.0.1:9/x: cannot be read: .*refused"):
        RemotePath("http://127.0.0.1:9/x").exists()


def test_a_server_without_ranges(web: FaultyServer) -> None:
    web.ranges = False
    assert RemotePath(f"{web.url}/x.bin").read_range(1000, 1010) == CONTENT[1000:1010]


def test_a_large_file_of_a_server_without_ranges_is_requested_once(web: FaultyServer, tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PART_BYTES", 30_000)
    web.ranges = False
    web.faults = ["", "cut"]
    with (tmp_path / "copy").open("w+b") as stream:
        RemotePath(f"{web.url}/x.bin").download(stream, 10, len(CONTENT))
    assert (tmp_path / "copy").read_bytes() == CONTENT[10:]
    assert [seen[2] for seen in web.seen] == ["bytes=0-0", "", ""]
    full = SimpleNamespace(seek=lambda position: None, write=lambda piece: os.write(-1, piece))
    with pytest.raises(OSError, match="Bad file descriptor"):
        RemotePath(f"{web.url}/x.bin").download(full, 10, len(CONTENT))
    assert len(web.seen) == 5


def test_ranges_come_over_one_connection(web: FaultyServer) -> None:
    path = RemotePath(f"{web.url}/x.bin")
    assert [path.read_range(i, i + 3) for i in range(20)] == [CONTENT[i:i + 3] for i in range(20)]
    assert len(web.clients) == 1
    web.faults = ["reset"]  # as if the server had closed it meanwhile: not even a pause
    assert path.read_range(5, 9) == CONTENT[5:9]
    assert len(web.clients) == 2
    # a redirection is followed, and what the first connections are for still comes
    web.moved = {"/old.bin": f"{web.url}/x.bin"}
    assert [RemotePath(f"{web.url}/old.bin").read_range(i, i + 3) for i in range(3)] == [CONTENT[:3], CONTENT[1:4],
                                                                                       CONTENT[2:5]]
    assert path.read_range(5, 9) == CONTENT[5:9]


def test_an_answer_that_is_not_the_range_is_not_taken(web: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from imgcls.storage import connections

    heads = [b"HTTP/1.1 206 x\r\nContent-Length: 3\r\nContent-Range: bytes 7-9/50\r\n\r\nabc",
             b"HTTP/1.1 206 x\r\nContent-Length: 9\r\n\r\nabcdefghi",
             b"HTTP/1.1 206 x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
             b"HTTP/1.1 206 x\r\nContent-Length: -3\r\n\r\nabc", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"]
    for head in heads:
        monkeypatch.setattr(connections, "_connect", lambda *_, head=head: Speaker(head))
        assert connections.read_range(f"{web.url}/x.bin", 0, memoryview(bytearray(3)), timeout_s=1)[2] is None
    for head in (b"", b"SSH-2.0-x\r\n\r\n", b"x" * 200_000):
        monkeypatch.setattr(connections, "_connect", lambda *_, head=head: Speaker(head))
        with pytest.raises(ConnectionError):
            connections.read_range(f"{web.url}/x.bin", 0, memoryview(bytearray(3)), timeout_s=1)


class Speaker:
    """A connection on which some bytes come, whatever is sent."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def sendall(self, data: bytes) -> None:
        pass

    def recv(self, size: int) -> bytes:
        piece, self.data = self.data[:size], self.data[size:]
        return piece

    def close(self) -> None:
        pass


def test_ranges_at_the_end_of_a_file(web: FaultyServer, memory: str) -> None:
    """The last bytes are read; what is asked for beyond them is an error, never a shorter answer."""
    size = len(CONTENT)
    RemotePath(f"{memory}/x.bin").write_bytes(CONTENT)
    for url in (f"{web.url}/x.bin", f"{memory}/x.bin"):
        path = RemotePath(url)
        assert path.read_range(size - 10, size) == CONTENT[-10:]
        assert path.read_range(size, size) == b""
        with pytest.raises(RunError, match=rf"^{url}: cannot be read: 10 of 11 bytes came \(tried 4 times\)"):
            path.read_range(size - 10, size + 1)
        with pytest.raises((DataError, RunError), match=rf"^{url}: cannot be read: "):
            path.read_range(size + 1, size + 2)


# Writing


class Spoilt(Exception):
    """What goes wrong in the middle of a write."""


def test_a_write_is_complete_or_absent(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert list_names(str(path)) == ["x"]
    params.save(f"{memory}/y.params", {"a": np.arange(3)})
    assert params.load(f"{memory}/y.params")["a"].tolist() == [0, 1, 2]


def test_uploads_come_in_order_and_one_batch_at_a_time(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert queue.is_busy(0.01)
    gate.set()
    assert not queue.is_busy(10)
    queue.close()
    assert order == ["a", "b", "c"]
    assert RemotePath(f"{memory}/a").read_bytes() == b"first"
    assert list_names(f"{memory}/net") == ["a", "c"]


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
    local = MirroredFile(tmp_path / "log")
    local.path.write_text("a line")
    assert local.close() == ""
    assert (tmp_path / "log").read_text() == "a line"
