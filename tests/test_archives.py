"""Images in tars and zips: the lists and bytes of the extracted folder, refused members, damage is one line."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT
from faulty_server import serving

from imgcls.cli import im2rec
from imgcls.errors import DataError
from imgcls.formats.archives import index, iter_members, open_index
from imgcls.formats.archives.tar import BLOCK
from imgcls.formats.archives.zips import iter_zip
from imgcls.formats.recordio import RecordReader
from imgcls.storage.folders import remove_oldest


def jpeg(seed: int) -> bytes:
    pixels = cv2.resize(np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8), (32, 24))
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def tar_of(members: dict[str, bytes], **named: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", **named) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Five classes of a few images; names in no order, long, with blanks, accents and bytes that are no text."""
    root = tmp_path / "tree"
    for c, folder in enumerate(["n1", "n1-a", "n2", "é", "z"]):
        (root / folder).mkdir(parents=True)
        names = [f"{folder}_{(i * 37) % 11}.JPEG" for i in range(4 + c)]
        names += ["long" * 40 + ".jpg", "a b.png", "é.jpg", os.fsdecode(b"\xff.jpg")]
        for i, name in enumerate(names):
            (root / folder / name).write_bytes(jpeg(100 * c + i))
        (root / folder / "notes.txt").write_text("no image")
    return root


def class_tars(tree: Path) -> dict[str, bytes]:
    """Return the tar of each class, members as the file system has them, in all three formats."""
    formats = [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]
    return {f"{folder.name}.tar": tar_of({os.path.basename(p): p.read_bytes() for p in folder.iterdir()},
                                         format=formats[i], errors="surrogateescape")  # type: ignore[arg-type]
            for i, folder in enumerate(sorted(tree.iterdir()))}


def outputs(prefix: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(prefix.parent.glob(prefix.name + "*"))
            if not path.name.endswith(".pack.json")}


def pack(prefix: Path, root: str, *flags: str) -> dict[str, bytes]:
    assert im2rec.main([str(prefix), root, "--list", "--recursive", "--chunks", "2", "--train-ratio", ".8"]) == 0
    assert im2rec.main([str(prefix), root, *flags]) == 0
    return outputs(prefix)


@pytest.mark.parametrize("flags", [["--pass-through"], ["--resize", "16", "--num-thread", "1"]])
def test_archives_give_the_lists_and_bytes_of_the_folder(flags: list[str], tree: Path, tmp_path: Path) -> None:
    tars = class_tars(tree)
    (tmp_path / "whole.tar").write_bytes(tar_of(tars))
    (tmp_path / "tars").mkdir()
    for name, data in tars.items():
        (tmp_path / "tars" / name).write_bytes(data)
    with tarfile.open(tmp_path / "plain.tar", "w") as tar:
        tar.add(tree, "./photos/all")
    expected = pack(tmp_path / "0" / "x", str(tree), *flags)
    assert sum(len(RecordReader(tmp_path / "0" / name)) for name in expected if name.endswith(".rec")) == 50
    for i, root in enumerate(["whole.tar", "tars", "plain.tar/photos/all"], 1):
        assert pack(tmp_path / str(i) / "x", str(tmp_path / root), *flags) == expected, root


def test_a_zip_is_packed_like_its_folder(tree: Path, tmp_path: Path) -> None:
    for path in tree.rglob("*"):
        if "\udcff" in path.name:
            path.unlink()  # a zip has no such names
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for i, path in enumerate(sorted(tree.rglob("*"), reverse=True)):
            archive.write(path, path.relative_to(tree), zipfile.ZIP_DEFLATED if i % 2 else zipfile.ZIP_STORED)
    expected = pack(tmp_path / "0" / "x", str(tree), "--pass-through")
    assert pack(tmp_path / "1" / "x", str(tmp_path / "x.zip"), "--pass-through") == expected


def test_unsafe_members_are_refused_by_name_and_cost_no_other(tmp_path: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for i, (name, kind) in enumerate([
                ("a/1.jpg", b"0"), ("../2.jpg", b"0"), ("/etc/3.jpg", b"0"), ("a/../../4.jpg", b"0"),
                ("a/5.jpg", tarfile.SYMTYPE), ("a/6.jpg", tarfile.LNKTYPE), ("a/7.jpg", tarfile.CHRTYPE),
                ("a/8.jpg", tarfile.FIFOTYPE), ("a/9.tar.gz", b"0"), ("a/10.tar", b"0"), ("b/11.jpg", b"0")]):
            info = tarfile.TarInfo(name)
            data = jpeg(i) if kind == b"0" and name != "a/10.tar" else b""
            info.type, info.size, info.linkname = kind, len(data), "/etc/passwd"
            tar.addfile(info, io.BytesIO(data))
    assert im2rec.main([f"{tmp_path}/y", str(path), "--recursive", "--pass-through"]) == 0
    errors = capsys.readouterr().err.splitlines()
    for name, why in (("../2.jpg", "leads out"), ("/etc/3.jpg", "begins at the root"), ("a/../../4.jpg", "leads out"),
                      ("a/5.jpg", "a symbolic link"), ("a/6.jpg", "a hard link"), ("a/7.jpg", "a device"),
                      ("a/8.jpg", "a pipe"), ("a/9.tar.gz", "only plain tars"), ("a/10.tar", "is empty")):
        assert [line for line in errors if f"{path} at byte " in line and f" {name} " in line and why in line], name
    assert [record.header.label for record in RecordReader(tmp_path / "y.rec")] in ([0, 1], [1, 0])


def cut(count: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:count]


def put(offset: int, piece: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:offset] + piece + data[offset + len(piece):]


def size_field(text: bytes) -> Callable[[bytes], bytes]:
    """Give the first member another size, and the header the checksum that goes with it."""
    def change(data: bytes) -> bytes:
        block = bytearray(data[:BLOCK])
        block[124:136] = text
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        return bytes(block) + data[BLOCK:]
    return change


TAR_DAMAGE = {
    "empty": (cut(0), "is empty"),
    "cut in a header": (cut(300), "ends within a header, it is cut"),
    "cut in an image": (cut(BLOCK + 100), "are left, the archive is cut or damaged"),
    "cut between two members": (cut(-10240 % 10240 or 2 * BLOCK), "without the two blocks of zeros"),
    "a header overwritten": (put(20, b"\x00\xff\x13"), "tar"),
    "a hole": (put(0, bytes(BLOCK)), "zeros where a header should be, and more behind them"),
    "a size beyond the end": (size_field(b"77777777777\0"), "are left, the archive is cut or damaged"),
    "a negative size": (size_field(b"\xff" * 12), "are left, the archive is cut or damaged"),
    "a size of 2^80": (size_field(b"\x80" + bytes(1) + b"\xff" * 10), "are left, the archive is cut or damaged"),
    "compressed": (lambda data: b"\x1f\x8b" + data, "is compressed by gzip"),
    "text": (lambda data: b"<html>404</html>" * 100, "is no tar"),
    "two tars one behind the other": (lambda data: data * 2, "several tars one behind the other"),
}


@pytest.mark.parametrize("kind", TAR_DAMAGE)
def test_a_damaged_tar_is_told_in_one_line(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage, message = TAR_DAMAGE[kind]
    sound = tar_of({"1.jpg": jpeg(1)})
    assert len(jpeg(1)) > BLOCK
    if kind == "cut between two members":
        sound = sound[:BLOCK + -(-len(jpeg(1)) // BLOCK) * BLOCK]
        damage = bytes
    for name, data in (("x.tar", damage(sound)), ("y.tar", tar_of({"n1.tar": sound, "n2.tar": damage(sound)}))):
        (tmp_path / name).write_bytes(data)
        if name == "y.tar" and kind in ("empty", "compressed", "text"):
            continue  # told of the inner tar in other words
        assert im2rec.main([f"{tmp_path}/out", str(tmp_path / name), "--recursive"]) == 1, name
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1, errors
        assert f"{tmp_path / name} at byte " in errors or kind == "compressed"
        assert all(part in errors for part in message.replace(": ", "\0").replace(", ", "\0").split("\0")), errors
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("order", ["--shuffle", "--no-shuffle"])
def test_damaged_archives_behind_a_url_are_told_in_one_line(order: str, tmp_path: Path, own_cache: Path,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    """Listed first, or packed while they come in: the line says where, and nothing is left of them."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/1.jpg", jpeg(1))
    sound = {".tar": tar_of({"a/1.jpg": jpeg(1), "b/2.jpg": jpeg(2)}), ".zip": stream.getvalue()}
    with serving() as web:
        for ending, kinds in ((".tar", TAR_DAMAGE), (".zip", ZIP_DAMAGE)):
            for kind, (damage, message) in kinds.items():
                url = f"{web.url}/{kind.replace(' ', '_').replace('^', '')}{ending}"
                data = sound[ending]
                data = data[:BLOCK + -(-len(jpeg(1)) // BLOCK) * BLOCK] if "between" in kind else damage(data)
                web.objects[url.removeprefix(web.url)] = data
                flags = ["--recursive", "--pass-through", *(["--no-shuffle"] if order == "--no-shuffle" else [])]
                assert im2rec.main([f"{tmp_path}/out", url, *flags]) == 1, kind
                lines = capsys.readouterr().err.splitlines()
                errors = [line for line in lines if "error: " in line]
                assert len(errors) == 1, lines
                assert errors[0] == lines[-1]
                assert url in errors[0]
                assert all(part in errors[0] for part in message.replace(": ", "\0").replace(", ", "\0").split("\0")), (
                    kind, errors)
                assert not list(tmp_path.glob("*out*")), kind


def test_the_size_of_a_zips_directory_is_the_one_that_is_read() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/1.jpg", jpeg(1))
    data, end = stream.getvalue()[:-22], stream.getvalue()[-22:]
    place, (size,) = len(data), struct.unpack_from("<I", end, 12)

    def zip64(directory_bytes: int, offset: int) -> bytes:
        record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, directory_bytes, place - size)
        return record + struct.pack("<4sIQI", b"PK\6\7", 0, offset, 1)

    def names(content: bytes) -> list[str]:
        return [str(member if isinstance(member, DataError) else member.path)
                for member in iter_zip(io.BytesIO(content), "x.zip")]

    assert names(data + end) == names(data + zip64(size, place) + end) == ["a/1.jpg"]
    # a comment that holds magics is no record
    assert names(data + end[:-2] + struct.pack("<H", 76) + zip64(1 << 40, place)) == ["a/1.jpg"]
    # neither a magic inside of the locator nor a second record hides the size
    huge = zip64(1 << 40, place)
    for content in (data + huge + end, data + zip64(1 << 40, int.from_bytes(b"PK\6\6", "little")) + end,
                    data + huge[:56] + zip64(size, place) + end):
        with pytest.raises(DataError, match="a directory of 1048576 MiB"):
            names(content)


def encrypted(data: bytes) -> bytes:
    place = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1) + 8
    return data[:place] + bytes([data[place] | 1]) + data[place + 1:]


ZIP_DAMAGE = {
    "empty": (cut(0), "is empty"),
    "the end is missing": (cut(-30), "the directory at its end is missing"),
    "the beginning is missing": (lambda data: data[40:], "is cut: its first bytes are missing"),
    "text": (lambda data: b"<html>404</html>" * 100, "is no zip"),
    "a directory of noise": (lambda data: put(data.index(b"PK\x01\x02"), b"\x13" * 20)(data), "is cut or damaged"),
}


@pytest.mark.parametrize("kind", ZIP_DAMAGE)
def test_a_damaged_zip_is_told_in_one_line(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/1.jpg", jpeg(1))
    damage, message = ZIP_DAMAGE[kind]
    (tmp_path / "x.zip").write_bytes(damage(stream.getvalue()))
    assert im2rec.main([f"{tmp_path}/out", str(tmp_path / "x.zip"), "--recursive"]) == 1
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert message in errors


def test_what_a_zip_may_not_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../0.jpg", jpeg(0))
        archive.writestr("a/1.jpg", jpeg(1))
        link = zipfile.ZipInfo("a/2.jpg")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("a/3.jpg", jpeg(3), zipfile.ZIP_BZIP2)
    data = stream.getvalue()
    # a byte of the deflated image changes: the directory's checksum tells
    place = data.index(b"a/1.jpg") + 60
    (tmp_path / "x.zip").write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1:])
    assert im2rec.main([f"{tmp_path}/y", str(tmp_path / "x.zip"), "--recursive", "--pass-through"]) == 1
    errors = capsys.readouterr().err
    for part in ("../0.jpg is left out", "a/2.jpg is left out: a symbolic link",
                 "a/3.jpg is left out: compression method 12", "skipped a/1.jpg: ", "not one image could be packed"):
        assert part in errors
    (tmp_path / "z.zip").write_bytes(encrypted(data))
    refused = [str(member) for member in iter_members(tmp_path / "z.zip") if isinstance(member, DataError)]
    assert "it is encrypted" in refused[1]


def test_an_index_is_kept_for_the_same_files_only(tmp_path: Path, own_cache: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "MIN_KEPT_BYTES", 0)
    path = tmp_path / "x.tar"
    path.write_bytes(tar_of({"a/1.jpg": jpeg(1), "a/2.jpg": jpeg(2), "a/1.jpg ": b"x"}))
    steps: list[int] = []
    open_index([str(path)], progress=lambda done, total: steps.append(done)).close()
    assert len(steps) == 3
    kept, = (own_cache / "archives").iterdir()
    again = open_index([str(path)], progress=lambda done, total: steps.append(done))
    assert len(steps) == 3
    assert list(again.names("a")) == ["1.jpg", "1.jpg ", "2.jpg"]
    again.close()
    for change in (lambda: kept.write_bytes(b"no database"), lambda: os.utime(path, (1, 1))):
        change()
        steps.clear()
        open_index([str(path)], progress=lambda done, total: steps.append(done)).close()
        assert len(steps) == 3
    # of a name that occurs twice the last counts, as when it is extracted
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("a/1.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"new"))
    found = open_index([str(path)]).find("a/1.jpg")
    assert found
    assert found[0].read(found[1]) == b"new"


def test_hosts_with_one_cache_and_equal_process_ids_build_the_index_each(
        tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "MIN_KEPT_BYTES", 0)
    monkeypatch.setattr(index.os, "getpid", lambda: 7)
    path = tmp_path / "x.tar"
    path.write_bytes(tar_of({"a/1.jpg": jpeg(1)}))
    found = []

    def open_on_another_host(done: int, total: int) -> None:
        if not found:
            found.append(None)
            found[0] = open_index([str(path)])

    for opened in (open_index([str(path)], progress=open_on_another_host), *found):
        assert list(opened.names("a")) == ["1.jpg"]
        opened.close()
    assert [file.suffix for file in (own_cache / "archives").iterdir()] == [".sqlite"]


def test_archives_and_folders_whose_names_are_no_text(tmp_path: Path) -> None:
    folder, path = os.fsdecode(b"\xe9"), str(tmp_path / os.fsdecode(b"caf\xe9.tar"))
    with tarfile.open(path, "w", errors="surrogateescape") as tar:
        for name, kind in ((f"{folder}/1.jpg", tarfile.REGTYPE), ("link.jpg", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            tar.addfile(info)
    for inner in ("", folder):
        found = open_index([path], inner=inner)
        assert found.folders() == ["" if inner else folder]
        problem, = found.problems()
        assert "caf\\xe9.tar" in str(problem)
        assert "link.jpg is left out: a symbolic link" in str(problem)
        found.close()


def test_the_index_of_another_user_is_read(tmp_path: Path, own_cache: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "MIN_KEPT_BYTES", 0)
    path = tmp_path / "x.tar"
    path.write_bytes(tar_of({"a/1.jpg": jpeg(1)}))
    open_index([str(path)]).close()

    def refuse(*args: object) -> None:
        raise PermissionError(1, "Operation not permitted")
    monkeypatch.setattr(index.os, "utime", refuse)
    steps: list[int] = []
    open_index([str(path)], progress=lambda done, total: steps.append(done)).close()
    assert not steps


def test_a_folder_with_images_and_archives_is_a_folder(tree: Path, tmp_path: Path,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "z.tar").write_bytes(tar_of({"1.jpg": jpeg(1)}))
    assert im2rec.main([f"{tmp_path}/x", str(tree), "--list", "--recursive"]) == 0
    assert "1 archives, which are not read" in capsys.readouterr().err
    assert len((tmp_path / "x.lst").read_bytes().splitlines()) == 50


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    image = cv2.imencode(".jpg", np.zeros((1, 1, 3), np.uint8))[1].tobytes()
    code = ("import sys; from imgcls.cli.im2rec import main; from imgcls.storage.memory import peak_bytes; "
            "status = main(sys.argv[1:]); print(peak_bytes(), file=sys.stderr); sys.exit(status)")
    peaks = []
    for count in (15_000, 45_000):
        name = f"{count}.tar"
        (tmp_path / name).write_bytes(tar_of({f"c{i % 7}/{'x' * 60}{i}.jpg": image for i in range(count)}))
        done = subprocess.run([sys.executable, "-c", code, f"{tmp_path}/{count}", str(tmp_path / name), "--recursive",
                               "--pass-through", "--num-thread", "2"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stderr.splitlines()[-1]))
    assert peaks[1] - peaks[0] < 6 << 20, peaks  # SQLite fills a cache of 4 MiB


def test_the_oldest_of_a_kind_make_room(tmp_path: Path) -> None:
    for number in range(4):
        path = tmp_path / f"{number}.kept"
        path.write_bytes(bytes(10))
        os.utime(path, (number, number))
    (tmp_path / "0.other").write_bytes(bytes(99))
    remove_oldest(tmp_path / "3.kept", 25)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.other", "2.kept", "3.kept"]
