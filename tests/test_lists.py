"""Image lists: the order and the cuts that MXNet's im2rec makes, and reading what people wrote by hand."""

import os
import shutil
import socket
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import mxnet_file

from imgcls.cli import im2rec
from imgcls.data import sources
from imgcls.data.file_source import FolderSource
from imgcls.errors import DataError, UsageError
from imgcls.formats import lists
from imgcls.formats.lists import ListEntry

FIXTURES = Path(__file__).parent / "fixtures" / "records"
TREE = str(FIXTURES / "tree")


def written(entries: list[ListEntry], folder: Path) -> bytes:
    lists.write(folder / "x.lst", entries)
    return (folder / "x.lst").read_bytes()


def test_lists_are_mxnets_to_the_byte(tmp_path: Path) -> None:
    listing = lists.walk(TREE, recursive=True)
    assert listing.class_names == ["cats", "dogs", os.path.join("dogs", "small"), "été"]
    assert not listing.problems
    assert written(listing.entries, tmp_path) == (FIXTURES / "plain.lst").read_bytes()
    mixed = lists.shuffled(listing.entries)
    assert written(mixed, tmp_path) == (FIXTURES / "shuffled.lst").read_bytes()
    parts = lists.split(mixed, chunks=2, train_ratio=0.5, test_ratio=0.25)
    assert [suffix for suffix, _ in parts] == ["_0_test", "_0_val", "_0_train", "_1_test",
                                               "_1_val", "_1_train"]
    for suffix, entries in parts:
        assert written(entries, tmp_path) == (FIXTURES / f"parts{suffix}.lst").read_bytes()


def test_without_recursion_only_the_top_folder_counts() -> None:
    assert lists.walk(TREE, recursive=False).entries == []
    flat = lists.walk(str(FIXTURES / "tree" / "dogs"), recursive=False)
    assert flat.entries == [ListEntry(0, (0.0,), "c.JPG"), ListEntry(1, (0.0,), "d.jpeg")]
    assert flat.class_names == []


def test_extensions_in_any_form() -> None:
    for extensions in ([".png"], ["PNG"], [".PNG", ".none"]):
        paths = [e.path for e in lists.walk(TREE, recursive=True, extensions=extensions).entries]
        assert [os.path.basename(p) for p in paths] == ["b.png", "e.png", "g.png"]


def test_odd_folders_and_names(tmp_path: Path) -> None:
    for name in ("b/1.jpg", "a/ 2.jpg", "a/tab\there.jpg", "end /3.jpg", " first.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "round").symlink_to(tmp_path)             # leads round for ever
    (tmp_path / "c").symlink_to(FIXTURES / "tree" / "dogs")     # leads elsewhere
    (tmp_path / "d.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with open(os.fsencode(tmp_path) + b"/b/latin\xe9.jpg", "wb"):
        pass
    listing = lists.walk(str(tmp_path), recursive=True)
    assert [e.path for e in listing.entries] == [
        "a/ 2.jpg", "b/1.jpg", "b/latin\udce9.jpg", "c/c.JPG", "c/d.jpeg", "c/small/e.png", "end /3.jpg"]
    assert {Path(p.path).name for p in listing.problems} == {" first.jpg", "tab\there.jpg", "d.jpg"}
    lists.write(tmp_path / "x.lst", listing.entries)
    assert b"b/latin\xe9.jpg\n" in (tmp_path / "x.lst").read_bytes()
    assert lists.read(tmp_path / "x.lst").entries == listing.entries
    with pytest.raises(UsageError, match="no such folder"):
        lists.walk(str(tmp_path / "none"), recursive=True)


def test_a_bad_entry_costs_nothing_but_itself(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "a/3.jpg", "b/1.jpg", "c/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "2.jpg").symlink_to(tmp_path / "a" / "2.jpg")
    (tmp_path / "b" / "self").symlink_to("self")
    (tmp_path / "b" / "gone").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "b" / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "c" / "s.jpg"))
        listing = lists.walk(str(tmp_path), recursive=True)
    assert [(e.path, e.labels[0]) for e in listing.entries] == [("a/1.jpg", 0), ("a/3.jpg", 0), ("b/1.jpg", 1),
                                                                ("c/1.jpg", 2)]
    assert sorted(str(p).removeprefix(f"{tmp_path}/") for p in listing.problems) == [
        "a/2.jpg: too many levels of symbolic links", "b/gone: is a link to nothing, no file",
        "b/pipe.jpg: is a pipe, a socket or a device, no file",
        "b/self: too many levels of symbolic links", "c/s.jpg: is a pipe, a socket or a device, no file"]


def test_a_class_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("a"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read everything
    with pytest.raises(DataError, match="a: cannot be read: permission denied; left out, it would shift"):
        lists.walk(str(tmp_path), recursive=True)


@pytest.mark.parametrize("path", ["../x.jpg", "a/../../x.jpg", "a/..", "/etc/passwd", "ROOTx/a.jpg"])
def test_a_list_stays_inside_its_root(path: str, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    entries = [ListEntry(0, (0.0,), "a..b/..c.jpg"), ListEntry(1, (0.0,), f"{root}/a.jpg")]
    lists.check_inside("x.lst", entries, root)
    lists.check_inside("x.lst", [ListEntry(0, (0.0,), "/etc/passwd")], "/")
    entries.append(ListEntry(2, (0.0,), path.replace("ROOT", str(root))))
    with pytest.raises(DataError, match=r"outside of its root folder .*photos; `?outside_root`? allows it"):
        lists.check_inside("x.lst", entries, str(root))


def test_cuts_of_short_lists() -> None:
    entries = [ListEntry(i, (0.0,), str(i)) for i in range(5)]
    sizes = {suffix: len(chunk) for suffix, chunk in lists.split(entries, chunks=4)}
    assert sizes == {"_0": 2, "_1": 2, "_2": 1, "_3": 0}
    # the numbers come from the nominal size: 3 images, of them 2 to train, none left for val in the last
    parts = dict(lists.split(entries, chunks=2, train_ratio=0.7))
    assert [len(parts[s]) for s in ("_0_train", "_0_val", "_1_train", "_1_val")] == [2, 1, 2, 0]
    # what rounding leaves over when train and test make 1 belongs nowhere
    assert {s: len(p) for s, p in lists.split(entries, train_ratio=0.5, test_ratio=0.5)} == {"_test": 2,
                                                                                             "_train": 2}


def test_bad_lines_are_reported_and_skipped(tmp_path: Path) -> None:
    path = tmp_path / "x.lst"
    path.write_bytes("\ufeff1\t2\ta b.jpg\r\n\n3\tonly\nx\t1\ta.jpg\n4\tcat\ta.jpg\n 5 \t 3 \t1e1\t é.jpg \n"
                     "-1\t0\ta.jpg\n6\t1e39\ta.jpg\n7\tnan\ta.jpg\n8\t1\t\t\n9\t0\tlast.jpg".encode())
    listing = lists.read(path)
    assert [(e.id, e.path) for e in listing.entries] == [(1, "a b.jpg"), (5, "é.jpg"), (7, "a.jpg"),
                                                         (9, "last.jpg")]
    assert listing.entries[1].labels == (3.0, 10.0)
    assert [str(p).split(": ")[1].split()[1].strip(":") for p in listing.problems] == ["2", "3", "4", "5",
                                                                                       "7", "8", "10"]
    with pytest.raises(DataError, match="no such file"):
        lists.read(tmp_path / "none.lst")


def test_the_cpp_tools_columns_and_parts(tmp_path: Path) -> None:
    path = tmp_path / "x.lst"
    path.write_text("0 1 2 a b.jpg\n\n1\t1\t3\tc.jpg\nbad line\n")
    listing = lists.read_blank_separated(path, label_width=2)
    assert listing.entries == [ListEntry(0, (1.0, 2.0), "a b.jpg"), ListEntry(1, (1.0, 3.0), "c.jpg")]
    assert len(listing.problems) == 1
    path.write_text("".join(f"{i} 0 {'n' * (i % 7)}.jpg\n" for i in range(40)))
    for num_parts in (1, 2, 3, 7, 100):
        parts = [lists.read_blank_separated(path, 1, num_parts, k).entries for k in range(num_parts)]
        assert [e.id for chunk in parts for e in chunk] == list(range(40))


def test_class_names_are_found_beside_a_list_and_its_parts(tmp_path: Path) -> None:
    lists.write_class_names(lists.classes_path(tmp_path / "pets.lst"), ["cat", "dog\nlike", "é"])
    for name in ("pets.rec", "pets.lst", "pets_0.rec", "pets_train.rec", "pets_12_val.rec"):
        assert lists.class_names(tmp_path / name) == ("cat", "dog like", "é")
    assert lists.class_names(tmp_path / "pets_other.rec") == ()
    shutil.copy(tmp_path / "pets.classes.txt", tmp_path / "classes.txt")
    assert len(lists.class_names(tmp_path / "pets_other.rec")) == 3
    lists.write_class_names(lists.classes_path(tmp_path / "pets_train.rec"), ["own"])
    assert lists.class_names(tmp_path / "pets_train.rec") == ("own",)


def test_fixture_lists(tmp_path: Path) -> None:
    folder = mxnet_file("rec")
    listing = lists.walk(str(mxnet_file("images")), recursive=True)
    mixed = lists.shuffled(listing.entries)
    for name, cut in (("split", {"train_ratio": 0.7, "test_ratio": 0.2}), ("trainval", {"train_ratio": 0.75}),
                      ("chunks", {"chunks": 3, "train_ratio": 0.8}), ("basic", {})):
        for suffix, entries in lists.split(mixed, **cut):
            assert written(entries, tmp_path) == (folder / name / f"{name}{suffix}.lst").read_bytes()
    assert written(listing.entries, tmp_path) == (folder / "noshuffle" / "noshuffle.lst").read_bytes()


def test_images_are_trained_on_by_any_name(tmp_path: Path) -> None:
    for name in (" a ", "b\tc", "d\ne", "f"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"x")
    source = FolderSource(tmp_path)
    assert source.class_names == (" a ", "b\tc", "d\ne", "f")
    assert (source.labels.tolist(), source.problems) == ([0, 1, 2, 3], [])
    assert len(lists.walk(str(tmp_path), recursive=True).problems) == 3  # what a list cannot hold


def test_a_folder_of_folders_of_records_says_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "x.rec").write_bytes(b"")
    with pytest.raises(UsageError, match=r"one holds \.rec files: name that folder"):
        FolderSource(tmp_path)


def test_images_of_other_kinds_are_said_to_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """MXNet's tool takes .jpg and .png; a class of .webp alone would otherwise be missing without a word."""
    for name in ("a/1.png", "a/2.WEBP", "b/3.webp", "b/4.bmp", "a/notes.txt", "a/.5.webp", "c/6.heic"):
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "x.png"), np.zeros((4, 4, 3), np.uint8))
        (tmp_path / "p" / name).write_bytes((tmp_path / "x.png").read_bytes())
    # training takes what can be decoded
    source = sources.open_source(str(tmp_path / "p"), "`data_train`")
    assert source.labels.tolist() == [0, 0, 1, 1]
    [note] = sources.notes(source)
    assert "1 images are left out for what their names end in: .heic (1)" in note
    assert im2rec.main([str(tmp_path / "out"), str(tmp_path / "p"), "--list", "--recursive"]) == 0
    told = capsys.readouterr().err
    assert "4 images are left out for what their names end in: .bmp (1), .heic (1), .webp (2)" in told
    exts = ["--exts", ".png", ".webp", ".bmp", ".heic"]
    assert im2rec.main([str(tmp_path / "out"), str(tmp_path / "p"), "--list", "--recursive", *exts]) == 0
    assert "left out" not in capsys.readouterr().err
