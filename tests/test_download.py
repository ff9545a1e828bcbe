"""download.fetch against a server of our own that answers as badly as servers do."""

from __future__ import annotations

import hashlib
import http.server
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgcls.errors import RunError, UsageError
from imgcls.storage import download, folders, transfer
from imgcls.storage.remote import RemotePath

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


def content_range(start: int) -> dict[str, str]:
    return {"Content-Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"}


class Handler(http.server.BaseHTTPRequestHandler):
    """The first part of the path says how to answer; `server.seen` remembers (path, Range)."""

    def do_GET(self) -> None:
        behaviour = self.path.split("/")[1]
        byte_range = self.headers["Range"]
        self.server.seen.append((self.path, byte_range))  # type: ignore[attr-defined]
        start = int(byte_range[len("bytes="):-1]) if byte_range else 0
        if behaviour in ("404", "500", "204"):
            return self.answer(int(behaviour))
        if behaviour == "redirect":
            return self.answer(302, Location="/good/file")
        if behaviour == "loop":
            return self.answer(302, Location=self.path)
        if behaviour == "html":
            return self.answer(200, b"<html>sign in to the network</html>")
        if behaviour == "corrupt":
            return self.answer(200, CONTENT[:-1] + b"x")
        if behaviour == "silent":
            return self.server.released.wait(10)  # type: ignore[attr-defined]
        if behaviour == "cut":  # always the first half
            return self.answer(200, CONTENT, sent=len(CONTENT) // 2)
        if behaviour == "unsized":  # no length, no Range
            self.send_response(200)
            self.end_headers()
            return self.wfile.write(CONTENT)
        if start and behaviour in ("good", "flaky", "slow"):
            if start >= len(CONTENT):
                return self.answer(416)
            return self.answer(206, CONTENT[start:], **content_range(start))
        if start and behaviour == "wrong-part":
            return self.answer(206, CONTENT[5:], **content_range(5))
        if behaviour == "flaky":
            return self.answer(200, CONTENT, sent=100_000)
        if behaviour == "slow":
            time.sleep(0.3)
        return self.answer(200, CONTENT)

    def answer(self, status: int, body: bytes = b"", sent: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:sent])

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[http.server.ThreadingHTTPServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("IMGCLS_MIRROR", raising=False)
    monkeypatch.setattr(transfer, "TIMEOUT_S", 1.0)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    server.seen = []  # type: ignore[attr-defined]
    server.released = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.released.set()  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(server, target: Path, *behaviours: str, **arguments) -> Path:
    urls = [f"{server.url}/{behaviour}/file" for behaviour in behaviours]
    return download.fetch(urls, target / "file", **({"sha256": SHA256} | arguments))


def failure(server, target: Path, *behaviours: str, **arguments) -> str:
    with pytest.raises(RunError) as caught:
        fetch(server, target, *behaviours, **arguments)
    assert not (target / "file").exists()
    return caught.value.message


@pytest.mark.parametrize("behaviour", ["good", "redirect", "unsized", "flaky"])
@pytest.mark.parametrize("check", [{"sha256": SHA256}, {"sha256": SHA256.upper()},
                                   {"sha256": None, "md5": MD5}])
def test_good_answers(server, tmp_path: Path, behaviour: str, check: dict) -> None:
    path = fetch(server, tmp_path / "made" / "folder", behaviour, **check)
    assert path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == ["file"]


def test_an_existing_file_is_not_downloaded(server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    assert fetch(server, tmp_path, "good").read_bytes() == b"mine"
    assert server.seen == []


@pytest.mark.parametrize(("behaviour", "reason"), [
    ("404", "the server answers 404 Not Found"),
    ("500", "the server answers 500 Internal Server Error"),
    ("204", "the server answers 204"),
    ("loop", "the server answers 302"),
    ("html", "the server sent a web page, not the file"),
    ("corrupt", "wrong content (sha256 "),
    ("cut", "the connection ended after 128000 of 256000 bytes"),
    ("silent", "no answer for 1 seconds"),
])
def test_bad_answers_are_reported_and_the_next_mirror_is_tried(server, tmp_path: Path, behaviour: str,
                                                               reason: str) -> None:
    lines = failure(server, tmp_path / "alone", behaviour, advice="put it there by hand").split("\n")
    assert lines[0] == "cannot download file:"
    assert lines[1].startswith(f"  {server.url}/{behaviour}/file: {reason}")
    assert lines[2:] == ["put it there by hand"]
    assert fetch(server, tmp_path / "two", behaviour, "good").read_bytes() == CONTENT


def test_every_failing_mirror_has_its_line(server, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # a port that nobody listens on
        urls = [f"http://127.0.0.1:{unused.getsockname()[1]}/file", f"{server.url}/404/file", "not a url"]
        with pytest.raises(RunError) as caught:
            download.fetch(urls, tmp_path / "file", sha256=SHA256)
    lines = caught.value.message.split("\n")
    assert [line.strip().split(": ")[0] for line in lines[1:]] == urls
    assert "refused" in lines[1].lower()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("partial",
                         [CONTENT[:70_000], CONTENT, CONTENT[:70_000] + b"junk", CONTENT + b"junk"],
                         ids=["piece", "whole", "wrong piece", "too long"])
@pytest.mark.parametrize("behaviour", ["good", "unsized", "wrong-part"])
def test_resumes_from_a_partial_file(server, tmp_path: Path, partial: bytes, behaviour: str) -> None:
    (tmp_path / "file.part").write_bytes(partial)
    assert fetch(server, tmp_path, behaviour).read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["file"]
    assert server.seen[0][1] == f"bytes={len(partial)}-"


def test_resumes_at_the_next_mirror_and_in_the_next_call(server, tmp_path: Path) -> None:
    half = len(CONTENT) // 2
    failure(server, tmp_path, "cut", "404")
    assert (tmp_path / "file.part").read_bytes() == CONTENT[:half]
    assert fetch(server, tmp_path, "404", "good").read_bytes() == CONTENT
    assert server.seen[-1] == ("/good/file", f"bytes={half}-")


def test_a_flaky_connection_is_resumed(server, tmp_path: Path) -> None:
    fetch(server, tmp_path, "flaky")
    assert [byte_range for _, byte_range in server.seen] == [None, "bytes=100000-"]


def test_without_a_hash_nothing_is_resumed(server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT[:70_000])
    assert fetch(server, tmp_path, "cut", "good", sha256=None).read_bytes() == CONTENT
    assert [byte_range for _, byte_range in server.seen] == [None, None]


@pytest.mark.parametrize("behaviour", ["good", "unsized"])
def test_larger_than_it_can_be(server, tmp_path: Path, behaviour: str) -> None:
    assert "larger than the 1000 bytes" in failure(server, tmp_path, behaviour, max_bytes=1000)
    assert os.listdir(tmp_path) == []


def test_two_at_once_download_once(server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(fetch(server, tmp_path, "slow")))
               for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 4
    assert len(server.seen) == 1
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["file"]
    assert "waiting for another process" in capsys.readouterr().err


def test_the_mirror_of_the_environment_is_first(server, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGCLS_MIRROR", server.url + "/good/")
    fetch(server, tmp_path / "a", "404", collection="mnist")
    assert server.seen == [("/good/mnist/file", None)]
    monkeypatch.setenv("IMGCLS_MIRROR", server.url + "/404")
    fetch(server, tmp_path / "b", "good", collection="mnist")
    assert server.seen[1:] == [("/404/mnist/file", None), ("/good/file", None)]
    monkeypatch.setenv("IMGCLS_MIRROR", "/some/folder")
    with pytest.raises(UsageError, match="IMGCLS_MIRROR=/some/folder"):
        fetch(server, tmp_path / "c", "good")


def test_a_folder_that_cannot_be_written(server, tmp_path: Path) -> None:
    (tmp_path / "file-not-folder").write_bytes(b"")
    assert "cannot write" in failure(server, tmp_path / "file-not-folder", "good")


def test_a_full_disk_is_no_fault_of_the_mirror(server, tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(RunError, match="full: no space left"):
        transfer.append(full, CONTENT)


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("IMGCLS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert folders.cache_folder("mnist") == tmp_path / ".cache/imgcls/mnist"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert folders.cache_folder("mnist") == tmp_path / "xdg/imgcls/mnist"
    monkeypatch.setenv("IMGCLS_CACHE", "~/mine")
    assert folders.cache_folder("mnist") == tmp_path / "mine/mnist"
    assert folders.data_folder("~/data", "mnist") == tmp_path / "data"
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="is a file, not a folder"):
        folders.data_folder(str(tmp_path / "file"), "mnist")
    assert isinstance(folders.data_folder("memory://bucket", "mnist"), RemotePath)
    monkeypatch.setenv("IMGCLS_CACHE", "memory://bucket")
    with pytest.raises(UsageError, match="IMGCLS_CACHE memory://bucket: must be on this machine"):
        folders.data_folder("", "mnist")
