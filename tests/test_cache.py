"""Copies of remote files: fetched once, within a limit, whole or not there, in one version."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CONTENT, ROOT
from faulty_server import FaultyServer

from imgcls.errors import DataError, RunError, UsageError
from imgcls.storage import cache, remote
from imgcls.storage.cache import Cache
from imgcls.storage.remote import RemotePath

pytestmark = pytest.mark.usefixtures("own_cache", "short_pauses")


def test_a_file_is_fetched_once(web: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PART_BYTES", 30_000)
    for _ in range(3):
        with Cache().open(RemotePath(f"{web.url}/x.bin")) as stream:
            assert stream.read() == CONTENT
    assert web.count("GET") == 5  # its parts, after one byte, which shows that the server sends ranges
    web.objects["/x.bin"] = CONTENT[::-1]  # another version is another file
    with Cache().open(RemotePath(f"{web.url}/x.bin")) as stream:
        assert stream.read() == CONTENT[::-1]
    with Cache().open(RemotePath(f"{web.url}/x.bin"), 10, 20) as stream:
        assert stream.read() == CONTENT[::-1][10:20]
    with pytest.raises(FileNotFoundError):
        Cache().open(RemotePath(f"{web.url}/y.bin"))


def test_a_copy_without_a_version_is_told_of(web: FaultyServer, monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(remote, "_VERSION_WORDS", ())
    web.objects["/y.bin"] = CONTENT

    def open_both() -> str:
        for name in ("x.bin", "x.bin", "y.bin"):
            Cache().open(RemotePath(f"{web.url}/{name}")).close()
        return capsys.readouterr().err

    monkeypatch.setattr(cache, "_unversioned", set())
    assert open_both() == ""  # fetched by this process
    monkeypatch.setattr(cache, "_unversioned", set())
    assert open_both() == (
        f"note: {web.url} sends no version of its files (neither ETag nor Last-Modified): the copy of x.bin in "
        f"{Cache().folder} is used, and a change since then is not noticed\n")


def test_a_file_that_changes_while_it_is_fetched(web: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PART_BYTES", 30_000)

    def change(method: str, _: str) -> str:
        if method == "GET":
            web.objects["/x.bin"] = CONTENT[::-1]
        return ""

    web.fault = change
    with pytest.raises(DataError, match="changed while it was fetched"):
        Cache().open(RemotePath(f"{web.url}/x.bin"))


def test_the_cache_stays_below_its_limit(web: FaultyServer, tmp_path: Path) -> None:
    for i in range(6):
        web.objects[f"/{i}.bin"] = bytes([i]) * 1000
    small = Cache(3000e-9)
    with small.open(RemotePath(f"{web.url}/0.bin")) as stream:
        mapping = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    for i in range(1, 6):
        with small.open(RemotePath(f"{web.url}/{i}.bin")):
            sizes = [p.stat().st_size for p in small.folder.iterdir() if p.suffix != ".lock"]
            assert sum(sizes) <= 3000
    assert {p.name[-5:] for p in small.folder.iterdir() if p.suffix == ".bin"} == {"0.bin", "4.bin", "5.bin"}
    assert mapping[:] == bytes(1000)  # what is in use stays
    mapping.close()
    with small.open(RemotePath(f"{web.url}/x.bin")) as stream:  # too large to keep: a file without a name
        assert stream.read() == CONTENT
    assert not [p for p in small.folder.iterdir() if p.name.endswith("x.bin")]


def test_a_killed_fetch_leaves_nothing_wrong(web: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    path = RemotePath(f"{web.url}/x.bin")
    web.fault = lambda method, _: "500" if method == "GET" else ""
    with pytest.raises(RunError):
        Cache().open(path)
    assert not [p for p in Cache().folder.iterdir() if p.suffix != ".lock"]
    code = ("import os, sys; from imgcls.storage import remote; from imgcls.storage.cache import Cache\n"
            "remote.RemotePath.download = lambda self, stream, *_: (stream.write(b'half'), stream.flush(), "
            "os._exit(9))\nCache().open(remote.RemotePath(sys.argv[1]))")
    web.fault = lambda *_: ""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", code, str(path)], env=env, check=False)
    assert killed.returncode == 9
    assert [p for p in Cache().folder.iterdir() if p.suffix == ".part"]
    with Cache().open(path) as stream:
        assert stream.read() == CONTENT


def test_processes_of_a_machine_fetch_once(web: FaultyServer) -> None:
    import time

    web.fault = lambda method, _: time.sleep(0.5 * (method == "GET")) or ""
    code = ("import sys; from imgcls.storage.cache import Cache\n"
            "from imgcls.storage.remote import RemotePath\n"
            "print(len(Cache().open(RemotePath(sys.argv[1])).read()))")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen([sys.executable, "-c", code, f"{web.url}/x.bin"], env=env,
                             stdout=subprocess.PIPE, text=True) for _ in range(2)]
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
