"""Packing from archives behind URLs: read where they are, whatever happens on the way."""

from __future__ import annotations

import io
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from faulty_server import FaultyServer, serving

from imgcls.cli import im2rec
from imgcls.data import remote_members
from imgcls.data.packing import pipeline, resumable
from imgcls.formats.archives import iter_members
from imgcls.formats.lists import ListEntry
from imgcls.storage import remote_file, retries
from imgcls.storage.paths import to_path
from imgcls.storage.remote import RemotePath
from imgcls.storage.remote_file import RemoteFile

FLAGS = ("--recursive", "--pass-through")


def jpeg(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (16 + number, 40, 3), np.uint8)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


IMAGES = {f"c{number % 3}/{number:02}.jpg": jpeg(number) for number in range(24)}


def tar_of(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def tar_of_tars() -> bytes:
    classes = {f"c{number}.tar": tar_of({name[3:]: data for name, data in IMAGES.items() if name[1] == str(number)})
               for number in range(3)}
    return tar_of(classes)


def zip_of(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for number, (name, data) in enumerate(members.items()):
            info = zipfile.ZipInfo(name)
            # one with a header that is longer than what is asked for with a member
            info.extra = b"\x99\x99\xd0\x07" + bytes(2000) if number == 5 else b""
            archive.writestr(info, data, zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED)
    return stream.getvalue()


ARCHIVES = {"plain.tar": tar_of(IMAGES), "tars.tar": tar_of_tars(), "x.zip": zip_of(IMAGES)}


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    monkeypatch.setattr(retries, "PAUSE_S", 0.001)
    with serving() as server:
        server.objects.update({f"/{name}": data for name, data in ARCHIVES.items()})
        yield server


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes]:
    for name, data in IMAGES.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(data)
    assert im2rec.main([f"{tmp_path}/local/x", f"{tmp_path}/folder", *FLAGS]) == 0
    return records(tmp_path / "local")


def records(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(".json")}


@pytest.mark.parametrize("name", ARCHIVES)
def test_the_same_bytes_through_a_bad_line(name: str, web: FaultyServer, expected: dict[str, bytes], tmp_path: Path,
                                           own_cache: Path) -> None:
    """Requests that break, fail or are refused for a while cost nothing but time."""
    web.faults = ["", "", "cut", "", "500", "reset", "cut", "cut"]
    assert im2rec.main([f"{tmp_path}/out/x", f"{web.url}/{name}", *FLAGS]) == 0
    assert not web.faults
    assert records(tmp_path / "out") == expected
    assert not list(own_cache.glob("remote/*"))


def test_a_broken_part_goes_on_where_it_broke(web: FaultyServer, own_cache: Path) -> None:
    web.objects["/x"] = content = np.random.default_rng(0).bytes(1 << 20)
    path = to_path(f"{web.url}/x")
    assert isinstance(path, RemotePath)
    web.faults = ["cut"]
    assert path.read_range(1000, 801_000) == content[1000:801_000]
    assert [request[2] for request in web.seen] == ["bytes=1000-800999", "bytes=401000-800999"]


def test_headers_of_large_members_are_read_without_them(web: FaultyServer, own_cache: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_file, "PART_BYTES", 80_000)
    monkeypatch.setattr(remote_file, "SKIP_BYTES", 20_000)
    monkeypatch.setattr(remote_file, "_SINGLE_BYTES", 700)
    web.objects["/big.tar"] = tar_of({f"{number}.jpg": bytes(30_000) for number in range(12)})
    path = to_path(f"{web.url}/big.tar")
    assert len(list(iter_members(path))) == 12
    asked = [request[2].removeprefix("bytes=").split("-") for request in web.seen if request[2]]
    # the first part, a little at each member, and what is behind the end
    assert sum(int(last) - int(first) + 1 for first, last in asked) < 150_000
    assert len(asked) < 16


def test_a_stream_is_the_file(web: FaultyServer, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_file, "PART_BYTES", 1000)
    monkeypatch.setattr(remote_file, "SKIP_BYTES", 300)
    monkeypatch.setattr(remote_file, "_SINGLE_BYTES", 64)
    content = web.objects["/x"] = np.random.default_rng(0).bytes(30_123)
    path = to_path(f"{web.url}/x")
    assert isinstance(path, RemotePath)
    generator = np.random.default_rng(1)
    with RemoteFile(path) as stream:
        local = io.BytesIO(content)
        for _ in range(200):
            if generator.random() < .3:
                place = int(generator.integers(0, 32_000))
                assert stream.seek(place) == local.seek(place)
            size = int(generator.choice([1, 30, 512, 2500]))
            assert stream.read(size) == local.read(size)
            assert stream.tell() == local.tell()
        stream.seek(0)
        assert stream.readall() == content


def test_an_archive_that_changes_and_a_server_that_is_lost(web: FaultyServer, expected: dict[str, bytes],
                                                           tmp_path: Path, own_cache: Path,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    """One line, and nothing is left but the lists; --resume goes on to the same bytes."""
    url = f"{web.url}/plain.tar"
    command = [f"{tmp_path}/out/x", url, *FLAGS]
    assert im2rec.main([*command, "--list"]) == 0
    original = web.objects["/plain.tar"]

    def fault(method: str, path: str) -> str:
        if method == "GET":  # after the first request for members
            web.objects["/plain.tar"] = original + bytes(512)
        return ""

    web.fault = fault
    assert im2rec.main(command) == 1
    assert f"{url}: changed while it was read" in capsys.readouterr().err.splitlines()[-1]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"x.lst", "x.classes.txt"}
    web.objects["/plain.tar"] = original
    for word, line in (("403", "cannot be read: the server answers 403"), ("500", "(tried 4 times)")):
        web.seen.clear()
        # of the requests the third and all behind it: size, headers, members
        web.fault = lambda method, path, word=word: word if len(web.seen) > 3 else ""
        assert im2rec.main(command) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert line in error
        assert url in error
        assert {path.name for path in (tmp_path / "out").iterdir()} == {"x.lst", "x.classes.txt"}
    web.fault = lambda method, path: ""
    assert im2rec.main([*command, "--resume"]) == 0
    assert records(tmp_path / "out") == expected


def test_a_run_that_is_cut_off_goes_on_with_what_is_left(web: FaultyServer, tmp_path: Path, own_cache: Path,
                                                         monkeypatch: pytest.MonkeyPatch,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    """The journal is that of any packing run: what is packed is not asked for again."""
    monkeypatch.setattr(remote_members, "_WINDOW_ENTRIES", 4)
    monkeypatch.setattr(pipeline, "SYNC_BYTES", 1)
    add = resumable.ResumableWriter.add

    def slowly(self: resumable.ResumableWriter, skipped: resumable.SkippedEntry | None) -> None:
        add(self, skipped)
        time.sleep(0.005)  # so that lines reach the journal

    monkeypatch.setattr(resumable.ResumableWriter, "add", slowly)
    command = [f"{web.url}/plain.tar", "--recursive", "--no-shuffle", "--num-thread", "1", "--resume"]
    assert im2rec.main([f"{tmp_path}/whole/x", *command]) == 0
    num_requests = web.count("GET")
    web.seen.clear()
    web.fault = lambda method, path: "403" if web.count("GET") > num_requests - 2 else ""
    assert im2rec.main([f"{tmp_path}/out/x", *command]) == 1
    assert list((tmp_path / "out").glob(".x.rec*"))
    web.seen.clear()
    web.fault = lambda method, path: ""
    capsys.readouterr()
    assert im2rec.main([f"{tmp_path}/out/x", *command]) == 0
    assert "resuming from there" in capsys.readouterr().err
    assert web.count("GET") < num_requests
    assert records(tmp_path / "out") == records(tmp_path / "whole")


@pytest.mark.parametrize("name", ["tars.tar", "sorted.tar", "plain.tar"])
def test_one_pass_where_it_is_enough(name: str, web: FaultyServer, expected: dict[str, bytes], tmp_path: Path,
                                     own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the order of names a tar is packed while it comes in; one in another order is read once more."""
    web.objects["/sorted.tar"] = tar_of(dict(sorted(IMAGES.items(), reverse=True)[::-1]))
    flags = ("--recursive", "--pass-through", "--no-shuffle")
    assert im2rec.main([f"{tmp_path}/folder_out/x", f"{tmp_path}/folder", *flags]) == 0
    url = f"{web.url}/{name}"
    capsys.readouterr()
    web.seen.clear()
    web.faults = ["", "", "cut", "500"]
    assert im2rec.main([f"{tmp_path}/out/x", url, *flags]) == 0
    text = capsys.readouterr().err
    assert f"{url}: read where it is, in one pass" in text
    assert ("one pass is not enough" in text) == (name == "plain.tar")
    assert "is in the order of its labels" in text
    assert records(tmp_path / "out") == records(tmp_path / "folder_out")
    if name != "plain.tar":  # the first byte, to see whether there are ranges, and all in one part
        first, *parts = [request[2] for request in web.seen if request[0] == "GET"]
        assert first == "bytes=0-0"
        assert parts[0] == f"bytes=0-{len(web.objects[f'/{name}']) - 1}"
        assert len(parts) == 3
    # a run that is there is known, and one that was cut off goes on
    assert im2rec.main([f"{tmp_path}/out/x", url, *flags, "--resume"]) == 0
    assert "complete since an earlier run, kept" in capsys.readouterr().err
    web.fault = lambda method, path: "403" if method == "HEAD" and web.count("HEAD") > 1 else ""
    web.seen.clear()
    assert im2rec.main([f"{tmp_path}/cut/x", url, *flags, "--resume"]) == 1
    assert url in capsys.readouterr().err.splitlines()[-1]
    web.fault = lambda method, path: ""
    assert im2rec.main([f"{tmp_path}/cut/x", url, *flags, "--resume"]) == 0
    assert records(tmp_path / "cut") == records(tmp_path / "folder_out")


def test_entries_that_the_archive_lacks_are_passed_on_group_by_group() -> None:
    class Empty:
        def find(self, path: str) -> None:
            return None

    taken: list[int] = []

    def entries() -> Iterator[ListEntry]:
        for number in range(10_000):
            taken.append(number)
            yield ListEntry(number, (0.0,), f"{number}.jpg")

    reader = remote_members.RemoteImageReader(Empty())  # type: ignore[arg-type]
    ahead = reader.read_ahead(entries())
    assert next(ahead).id == 0
    assert len(taken) <= 2 * remote_members._WINDOW_ENTRIES
    assert [entry.id for entry in ahead] == list(range(1, 10_000))


def test_another_process_that_packs_is_named_as_the_reason(web: FaultyServer, tmp_path: Path, own_cache: Path,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    web.objects["/sorted.tar"] = tar_of(dict(sorted(IMAGES.items())))
    (tmp_path / "out").mkdir()
    other = resumable.ResumableWriter(tmp_path / "out" / "x.rec", "another", is_kept=False)
    command = [f"{tmp_path}/out/x", f"{web.url}/sorted.tar", "--recursive", "--pass-through", "--no-shuffle"]
    assert im2rec.main(command) == 0
    text = capsys.readouterr().err
    assert "another process packs it" in text
    assert "one pass is not enough" not in text
    other._close()
