"""Long packing runs: killed and continued, shared among machines, written to a URL; which images are listed."""

from __future__ import annotations

import errno
import io
import os
import shutil
import struct
import tarfile
import time
import zlib
from pathlib import Path
from typing import Any

import cv2
import killed_packing
import numpy as np
import pytest
from faulty_server import serving
from killed_packing import tar_of_tars

from imgcls.cli import im2rec
from imgcls.data import ilsvrc, listing
from imgcls.data.listing import ListSummary
from imgcls.data.packing import pipeline, resumable
from imgcls.data.selection import drawn
from imgcls.errors import DataError
from imgcls.formats import matlab as matlab_files
from imgcls.formats.lists import ListEntry
from imgcls.formats.recordio import RecordReader, RecordWriter, names_cache
from imgcls.storage.paths import to_path


def jpeg(seed: int, size: int = 24) -> bytes:
    pixels = cv2.resize(np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8), (size * 4 // 3, size))
    return cv2.imencode(".jpg", pixels)[1].tobytes()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Classes a to e of 3, 5, 7, 9 and 11 images, one of them damaged."""
    for c, folder in enumerate("abcde"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        for i in range(3 + 2 * c):
            data = b"damaged" if (c, i) == (4, 5) else jpeg(100 * c + i)
            (tmp_path / "photos" / folder / f"{i}.jpg").write_bytes(data)
    return tmp_path / "photos"


def files(folder: Path, *suffixes: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())
            if path.suffix in (suffixes or (".lst", ".rec", ".idx", ".bad", ".txt"))}


class Killed(BaseException):
    """What a process is not told before kill -9."""


@pytest.mark.parametrize("flags", [["--pass-through"], ["--resize", "16"]])
def test_a_stopped_run_goes_on_to_the_same_bytes(flags: list[str], photos: Path, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    """After each number of entries in turn, with a journal line for every one or for none since long."""
    flags = ["--recursive", "--num-thread", "2", *flags]
    assert im2rec.main([f"{tmp_path}/whole/x", str(photos), *flags]) == 0
    expected = files(tmp_path / "whole")
    monkeypatch.setattr(pipeline, "SYNC_BYTES", 1)
    add = resumable.ResumableWriter.add
    seen = set()
    for stop in (1, 2, 17, 18, 33, 35):
        folder = tmp_path / str(stop)

        def stopping(self: resumable.ResumableWriter, skipped: object, stop: int = stop) -> None:
            add(self, skipped)  # type: ignore[arg-type]
            time.sleep(0.002)  # so that some lines reach the journal
            if self.num_entries == stop:
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(resumable.ResumableWriter, "add", stopping)
        assert im2rec.main([f"{folder}/x", str(photos), "--resume", *flags]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.endswith("x.rec: no space left on the device; what was packed is kept: free some space and "
                              "give the same command again")
        monkeypatch.setattr(resumable.ResumableWriter, "add", add)
        assert im2rec.main([f"{folder}/x", str(photos), "--resume", *flags]) == 0
        text = capsys.readouterr().err
        seen.add("resuming from there" in text)
        assert files(folder) == expected
        assert not list(folder.glob(".*"))
    assert True in seen


def test_without_resume_a_full_disk_leaves_nothing_and_says_what_would_help(
        photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(self: RecordWriter, payload: bytes, key: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RecordWriter, "write", full)
    assert im2rec.main([f"{tmp_path}/out/x", str(photos), "--recursive"]) == 1
    assert capsys.readouterr().err.endswith("free some space; with --resume what was packed would be kept\n")
    assert not list((tmp_path / "out").glob(".*"))


def test_what_belongs_to_another_run_is_not_gone_on_with(photos: Path, tmp_path: Path) -> None:
    assert im2rec.main([f"{tmp_path}/a/x", str(photos), "--recursive", "--list"]) == 0
    for name in ("rec", "idx", "bad", "pack.json"):
        (tmp_path / "a" / f".x.{name}.partial_.tmp").write_bytes(b'{"identity": "other", "entries": 3}\n{"iden')
    assert im2rec.main([f"{tmp_path}/a/x", str(photos), "--resume"]) == 0
    assert len(RecordReader(tmp_path / "a/x.rec")) == 34
    # while another process packs the same list, each writes for itself
    held = resumable.ResumableWriter(tmp_path / "a/x.rec", "", is_kept=False)
    assert im2rec.main([f"{tmp_path}/a/x", str(photos)]) == 0
    held.__exit__(KeyboardInterrupt, None, None)
    assert not list((tmp_path / "a").glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["--chunks", "2"], ["--no-shuffle"]], ids=["shuffled", "in order"])
@pytest.mark.parametrize("place", ["disk", "web"])
def test_kill_9_at_ten_random_moments(place: str, flags: list[str], tmp_path: Path, own_cache: Path) -> None:
    """One packing run, killed ten times over, ends with the bytes of an undisturbed one.

    In order, an archive behind a URL is packed in one pass, while it comes in.
    """
    (tmp_path / "whole.tar").write_bytes(content := tar_of_tars())
    flags = ["--recursive", "--resize", "200", "--num-thread", "2", "--resume", *flags]
    whole_s = killed_packing.pack(f"{tmp_path}/a/x", f"{tmp_path}/whole.tar", *flags)
    with serving() as web:
        web.objects["/whole.tar"] = content
        archive = f"{tmp_path}/whole.tar" if place == "disk" else f"{web.url}/whole.tar"
        assert min(killed_packing.pack_killed(f"{tmp_path}/b/x", archive, *flags, whole_s=whole_s)) > 0
    assert files(tmp_path / "b") == files(tmp_path / "a")
    assert not list((tmp_path / "b").glob(".*"))
    assert not list(own_cache.glob("remote/*"))


def test_lists_that_were_not_all_written_are_made_again(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    """Half of the images would be missing in silence: a run that finds lists packs these alone."""
    flags = ["--recursive", "--pass-through"]
    assert im2rec.main([f"{tmp_path}/a/x", str(photos), *flags, "--chunks", "3"]) == 0
    for prefix in (f"{tmp_path}/b/x", "memory://bucket/lists/x"):
        write, paths = listing.atomic_write, []

        def killed(path: Path, write: Any = write, paths: list[Path] = paths) -> Any:
            paths.append(path)
            if len(paths) == 4:
                raise Killed
            return write(path)

        monkeypatch.setattr(listing, "atomic_write", killed)
        with pytest.raises(Killed):
            im2rec.main([prefix, str(photos), *flags, "--chunks", "5"])
        monkeypatch.setattr(listing, "atomic_write", write)
        capsys.readouterr()
        assert im2rec.main([prefix, str(photos), *flags, "--chunks", "3", "--resume"]) == 0
        assert f"the lists {prefix}*.lst were not all written by an earlier run" in capsys.readouterr().err
        if prefix.startswith("memory"):
            found = {path.name: path.read_bytes() for path in to_path(prefix).parent.iterdir()}
            assert {name: data for name, data in found.items() if ".pack" not in name} == files(tmp_path / "a")
            for path in to_path(prefix).parent.iterdir():
                path.unlink()
        else:
            assert files(tmp_path / "b") == files(tmp_path / "a")
            assert not list((tmp_path / "b").glob(".*"))


def test_parts_of_several_machines_are_the_shards_of_one(photos: Path, tmp_path: Path,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--recursive", "--chunks", "5"]
    assert im2rec.main([f"{tmp_path}/one/x", str(photos), *flags]) == 0
    assert im2rec.main([f"{tmp_path}/many/x", str(photos), "--part", "1/2", *flags]) == 2
    assert "--list with --chunks 2 makes them first" in capsys.readouterr().err
    assert im2rec.main([f"{tmp_path}/many/x", str(photos), "--list", *flags]) == 0
    for part in ("2/3", "3/3", "1/3"):
        assert im2rec.main([f"{tmp_path}/many/x", str(photos), "--part", part]) == 0
    assert files(tmp_path / "many") == files(tmp_path / "one")
    for part in ("0/3", "4/3", "1", "a/b", "1/0"):
        assert im2rec.main([f"{tmp_path}/many/x", str(photos), "--part", part]) == 2


def test_writing_to_a_url(photos: Path, tmp_path: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--recursive", "--chunks", "2", "--train-ratio", ".8"]
    assert im2rec.main([f"{tmp_path}/x", str(photos), *flags]) == 0
    remote = to_path("memory://bucket/packs/x")
    assert im2rec.main([str(remote), str(photos), *flags]) == 0
    expected = files(tmp_path)
    found = {path.name: path.read_bytes() for path in remote.parent.iterdir()}
    assert {name: data for name, data in found.items() if not name.endswith(".pack.json")} == expected
    assert not list((own_cache / "pack").iterdir())
    # the lists that are there are packed, and what is complete stays
    (remote.parent / "x_0_val.pack.json").unlink()
    capsys.readouterr()
    assert im2rec.main([str(remote), str(photos), "--resume"]) == 0
    assert capsys.readouterr().err.count("complete since an earlier run, kept") == 3
    for path in remote.parent.iterdir():
        path.unlink()


def test_archives_under_a_url(photos: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch,
                              capsys: pytest.CaptureFixture[str]) -> None:
    """A tar from a web server, and class tars from a store: read where they are, and packed as the folder is."""
    flags = ["--recursive", "--chunks", "2"]
    assert im2rec.main([f"{tmp_path}/x", str(photos), *flags]) == 0
    expected = files(tmp_path)
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for folder in sorted(photos.iterdir()):
            tar.add(folder, folder.name)
            with tarfile.open(tmp_path / f"{folder.name}.tar", "w") as class_tar:
                for path in folder.iterdir():
                    class_tar.add(path, path.name)
            to_path(f"memory://bucket/tars/{folder.name}.tar").upload(tmp_path / f"{folder.name}.tar")  # type: ignore
    content = (tmp_path / "photos.tar").read_bytes()
    with serving() as web:
        web.objects["/data/photos.tar"] = content
        url = f"{web.url}/data/photos.tar"
        assert im2rec.main([f"{tmp_path}/http/x", url, *flags, "--dry-run"]) == 0
        assert im2rec.main([f"{tmp_path}/http/x", url, *flags]) == 0
        assert not list(own_cache.glob("remote/*photos.tar"))
        assert "read where they are, no copy is kept" in capsys.readouterr().err
        # from a server that sends whole files only a copy is made, once
        web.ranges = False
        web.seen.clear()
        assert im2rec.main([f"{tmp_path}/whole/x", url, *flags]) == 0
        assert len([request for request in web.seen if request[0] == "GET" and request[2] != "bytes=0-0"]) == 1
        assert len(list(own_cache.glob("remote/*photos.tar"))) == 1
        monkeypatch.setenv("IMGCLS_CACHE_GB", "0.00001")
        assert im2rec.main([f"{tmp_path}/h/x", url, *flags]) == 2
        assert "more than the 1e-05 of copies that are kept here: IMGCLS_CACHE_GB sets" in capsys.readouterr().err
        monkeypatch.delenv("IMGCLS_CACHE_GB")
        assert im2rec.main([f"{tmp_path}/h/x", f"{web.url}/none.tar", *flags]) == 1
    assert im2rec.main([f"{tmp_path}/memory/x", "memory://bucket/tars", *flags]) == 0
    assert files(tmp_path / "http") == files(tmp_path / "whole") == files(tmp_path / "memory") == expected
    capsys.readouterr()
    assert im2rec.main([f"{tmp_path}/h/x", "memory://bucket/none", *flags]) == 2
    assert "names neither a .tar or .zip nor a folder that holds some" in capsys.readouterr().err
    for path in to_path("memory://bucket/tars").iterdir():
        path.unlink()


@pytest.mark.parametrize("flags", [[], ["--pack-label"]], ids=["one label", "several"])
def test_the_key_of_class_names_is_the_same_without_a_reader(flags: list[str], photos: Path, tmp_path: Path) -> None:
    """The packer takes it from the files in little memory, whoever looks the names up from what they hold."""
    lines = [f"{i}\t{i % 3}\t7\t{path.relative_to(photos)}\n" for i, path in enumerate(photos.rglob("?.jpg"))]
    (tmp_path / "x.lst").write_text("".join(lines))
    assert im2rec.main([f"{tmp_path}/x", str(photos), "--pass-through", *flags]) == 0
    assert names_cache._packed_entry(tmp_path / "x.rec") == names_cache._entry(RecordReader(tmp_path / "x.rec"))
    with RecordWriter(tmp_path / "one.rec") as writer:  # one label behind the header, which a reader looks up
        writer.write(struct.pack("<IfQQf", 1, 0, 5, 0, 3.5) + b"image", 5)
    assert names_cache._packed_entry(tmp_path / "one.rec") is None
    names_cache.remember(tmp_path / "one.rec", ["a"])
    assert names_cache.recall(RecordReader(tmp_path / "one.rec")) == ("a",)


@pytest.mark.parametrize(("ids", "repeated"), [
    ([0, 1, 2], 0), ([5, 5, 5, 7], 2), ([i << 40 for i in range(99)] * 2 + [3, 3], 100),
    ([2**64 - 1, 0, 2**64 - 1], 1), ([*range(200_000), 7, 199_999], 2), ([i << 20 for i in range(60)] + [0] * 3, 3),
])
def test_ids_that_repeat_are_counted(ids: list[int], repeated: int) -> None:
    entries = [ListEntry(number, (float(i % 2),), "a") for i, number in enumerate(ids)]
    warnings = " ".join(ListSummary(entries).rarely_meant("x_val.rec"))
    assert (f" {repeated} ids occur more than once in the list" in warnings) == bool(repeated)


def labels(path: Path) -> list[tuple[float, str]]:
    return sorted((float(line.split("\t")[1]), line.split("\t")[2]) for line in path.read_text().splitlines())


def test_small_classes_validation_images_and_toy_subsets(photos: Path, tmp_path: Path,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    """The lists are those of the folders that the seeds' shell loops make by moving files."""
    flags = ["--list", "--recursive", "--chunks", "2"]
    assert im2rec.main([f"{tmp_path}/a/x", str(photos), *flags, "--min-images", "7", "--val-per-class", "3"]) == 0
    assert "2 classes with fewer than 7 images are left out, 8 images" in capsys.readouterr().err
    train, val = tmp_path / "train", tmp_path / "val"
    for folder in sorted(photos.iterdir()):
        names = sorted(path.name for path in folder.iterdir())
        if len(names) >= 7:
            shutil.copytree(folder, train / folder.name)
            (val / folder.name).mkdir(parents=True)
            for name in drawn(folder.name, names, 3, 0):
                (train / folder.name / name).rename(val / folder.name / name)
    assert im2rec.main([f"{tmp_path}/b/x", str(train), *flags]) == 0
    assert im2rec.main([f"{tmp_path}/c/x", str(val), "--list", "--recursive"]) == 0
    for made, expected in (("a/x_0_train", "b/x_0"), ("a/x_1_train", "b/x_1"), ("a/x_val", "c/x")):
        assert (tmp_path / f"{made}.lst").read_bytes() == (tmp_path / f"{expected}.lst").read_bytes()
    assert (tmp_path / "a/x.classes.txt").read_text() == "c\nd\ne\n"
    # another seed draws others; more images keep those that were drawn
    names = [f"{i}.jpg" for i in range(100)]
    assert drawn("a", names, 5, 0) == drawn("a", names, 9, 0)[:5] != drawn("a", names, 5, 1)
    assert im2rec.main([f"{tmp_path}/d/x", str(photos), "--list", "--recursive", "--max-classes", "2",
                        "--max-images", "4"]) == 0
    assert [label for label, _ in labels(tmp_path / "d/x.lst")] == [0] * 3 + [1] * 4
    assert im2rec.main([f"{tmp_path}/e/x", str(photos), "--list", "--recursive", "--val-per-class", "5"]) == 2
    assert "the class a has 3 images, which leaves none to train on" in capsys.readouterr().err


def test_the_order_of_classes_from_a_synset_file(photos: Path, tmp_path: Path,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "synsets.txt").write_text("c a cat, a tabby\nz nothing\na\n\nb\n")
    argv = [f"{tmp_path}/out/x", str(photos), "--list", "--recursive", "--synsets", f"{tmp_path}/synsets.txt"]
    assert im2rec.main(argv) == 0
    found = labels(tmp_path / "out/x.lst")
    assert {(label, path[0]) for label, path in found} == {(0, "c"), (2, "a"), (3, "b")}
    assert (tmp_path / "out/x.classes.txt").read_text() == "c\nz\na\nb\n"
    errors = capsys.readouterr().err
    assert "2 folders are left out: --synsets does not name them (d, e)" in errors
    assert "1 classes of --synsets have no image (z)" in errors
    (tmp_path / "synsets.txt").write_text("a\nb\na\n")
    assert im2rec.main(argv) == 1
    assert "a occurs twice" in capsys.readouterr().err


def matlab(synsets: list[tuple[float, str]]) -> bytes:
    """Return a MAT-file with the structure of the devkit, as MATLAB 7 writes it (compressed)."""
    def element(kind: int, data: bytes) -> bytes:
        return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)

    def matrix(kind: int, shape: tuple[int, int], name: str, content: bytes) -> bytes:
        return element(14, element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack("<ii", *shape))
                       + element(1, name.encode()) + content)

    names = b"ILSVRC2012_ID".ljust(20, b"\0") + b"WNID".ljust(20, b"\0")
    fields = struct.pack("<HHi", 5, 4, 20) + element(1, names)
    def synset(number: float, name: str) -> bytes:
        text = element(4, name.encode("utf-16-le"))
        return matrix(6, (1, 1), "", element(9, struct.pack("<d", number))) + matrix(4, (1, len(name)), "", text)

    content = b"".join(synset(number, name) for number, name in synsets)
    packed = zlib.compress(matrix(2, (len(synsets), 1), "synsets", fields + content))
    return b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + struct.pack("<II", 15, len(packed)) + packed


def test_a_mat_file_that_grows_in_memory_is_refused() -> None:
    def element(kind: int, data: bytes) -> bytes:
        return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)

    def file(kind: int, content: bytes) -> bytes:
        head = element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack("<ii", 1, 1)) + element(1, b"x")
        packed = zlib.compress(element(14, head + content))
        return b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + struct.pack("<II", 15, len(packed)) + packed

    assert matlab_files.loads(file(6, element(2, b"\7"))) == {"x": 7.0}
    with pytest.raises(DataError, match="1000000 numbers where 1 are announced"):
        matlab_files.loads(file(6, element(2, bytes(1_000_000))))
    with pytest.raises(DataError, match="a structure of too many elements"):
        matlab_files.loads(file(2, element(5, struct.pack("<i", 1)) + element(1, bytes(2_000_000))))


def test_the_validation_images_of_ilsvrc_by_the_devkit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = [2, 1, 3, 3, 2]
    members = {"kit/data/meta.mat": matlab([(1, "n03"), (2, "n01"), (3, "n02"), (4, "n99")]),
               "kit/data/ILSVRC2012_validation_ground_truth.txt": "".join(f"{n}\n" for n in truth).encode()}
    with tarfile.open(tmp_path / "kit.tar.gz", "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(data)
    with tarfile.open(tmp_path / "val.tar", "w") as tar:
        for i in (3, 1, 5, 2, 4):
            info = tarfile.TarInfo(f"ILSVRC2012_val_{i:08d}.JPEG")
            info.size = len(jpeg(i))
            tar.addfile(info, io.BytesIO(jpeg(i)))
    for devkit in ("kit.tar.gz", "kit"):
        assert im2rec.main([f"{tmp_path}/{devkit[3:]}o/x", f"{tmp_path}/val.tar", "--devkit", f"{tmp_path}/{devkit}",
                            "--pass-through"]) == 0
        folder = tmp_path / f"{devkit[3:]}o"
        assert [label for label, _ in sorted(labels(folder / "x.lst"), key=lambda pair: pair[1])] == [0, 2, 1, 1, 0]
        assert (folder / "x.classes.txt").read_text() == "n01\nn02\nn03\n"
        assert len(RecordReader(folder / "x.rec")) == 5
    (tmp_path / "synsets.txt").write_text("n03\nn02\nn01\n")
    assert im2rec.main([f"{tmp_path}/s/x", f"{tmp_path}/val.tar", "--devkit", f"{tmp_path}/kit", "--list",
                        "--synsets", f"{tmp_path}/synsets.txt"]) == 0
    assert {label for label, path in labels(tmp_path / "s/x.lst") if "0002" in path} == {0}
    capsys.readouterr()
    sound = members["kit/data/meta.mat"]
    for damaged in (sound[:150], sound[:200] + b"\xff" * 8 + sound[208:], b"", b"x" * 200, sound[:128]):
        (tmp_path / "kit/data/meta.mat").write_bytes(damaged)
        assert im2rec.main([f"{tmp_path}/t/x", f"{tmp_path}/val.tar", "--devkit", f"{tmp_path}/kit", "--list"]) == 1
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1
        assert "meta.mat: " in errors
    os.unlink(tmp_path / "kit/data/meta.mat")
    assert im2rec.main([f"{tmp_path}/t/x", f"{tmp_path}/val.tar", "--devkit", f"{tmp_path}/kit", "--list"]) == 1
    assert "holds no meta.mat" in capsys.readouterr().err


def test_classes_of_a_devkit_without_a_number_are_ignored(tmp_path: Path) -> None:
    synsets = [(float("nan"), "n00"), (float("inf"), "n01"), (1.5, "n02"), (1, "n03")]
    (tmp_path / "meta.mat").write_bytes(matlab(synsets))
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n")
    truth = ilsvrc.read_devkit(str(tmp_path))
    assert truth == ({"ILSVRC2012_val_00000001.JPEG": 0}, ("n03",))


def test_a_synset_that_a_long_file_repeats_is_found_in_time(tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(60_000)]
    (tmp_path / "synsets.txt").write_text("\n".join([*names, names[-1]]))
    start = time.process_time()
    with pytest.raises(DataError, match="n59999 occurs twice"):
        ilsvrc.read_synsets(str(tmp_path / "synsets.txt"))
    assert time.process_time() - start < 20
