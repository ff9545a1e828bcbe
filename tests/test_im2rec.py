"""The packer: MXNet's bytes from MXNet's flags of every age, and what happens to damaged images."""

import errno
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from conftest import ROOT, mxnet_file, real_data, run_cli

from imgcls.cli import im2rec, rec2idx, verify
from imgcls.data.packing import pipeline
from imgcls.data.packing.config import PackConfig
from imgcls.data.packing.images import interpolation, short_edge_size
from imgcls.data.packing.jpeg import restart_interval
from imgcls.data.packing.pack import pack_list
from imgcls.data.packing.pipeline import map_in_order
from imgcls.data.sources import Source, open_source
from imgcls.errors import RunError, UsageError
from imgcls.formats.lists import ListEntry, read
from imgcls.formats.recordio import ImageHeader, RecordReader, RecordWriter, pack

FIXTURES = Path(__file__).parent / "fixtures" / "records"
TREE = FIXTURES / "tree"


def jpeg(height: int = 24, width: int = 32, quality: int = 90) -> bytes:
    pixels = np.random.default_rng(height).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    pixels = cv2.resize(pixels, (width, height))
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def images(path: Path, color: int = -1) -> list[np.ndarray]:
    return [cv2.imdecode(np.frombuffer(r.image, np.uint8), color) for r in RecordReader(path)]


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of three images each."""
    for name in ("a/1.jpg", "a/2.jpg", "a/3.jpg", "b/4.jpg", "b/5.jpg", "b/6.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(jpeg(20 + int(name[2])))
    return tmp_path / "in"


@pytest.mark.parametrize("threads", [1, 3])
def test_packing_in_blocks_equals_packing_one_by_one(threads: int, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that hold the magic, are larger than a block, empty, gone or cut, in blocks."""
    monkeypatch.setattr(pipeline, "SYNC_BYTES", 4096)
    magic, rng = (0xCED7230A).to_bytes(4, "little"), np.random.default_rng(0)
    intact = jpeg() + bytes(-len(jpeg()) % 4)  # anything may stand behind the end of a JPEG
    datas = [intact + rng.bytes(int(n)) for n in rng.integers(1, 3000, 90)]
    datas[3:8] = [intact + magic, intact + b"1234" + magic * 2 + b"5", intact + b"x" + magic,
                  intact + rng.bytes(3_000_001), jpeg()]
    bad = {20: b"", 40: jpeg()[:-2], 60: None}
    entries = []
    with RecordWriter(tmp_path / "one.rec") as writer:
        for i, data in enumerate(datas):
            data = bad.get(i, data)
            if data is not None:
                (tmp_path / f"{i}.jpg").write_bytes(data)
            entries.append(ListEntry(i * 7, (float(i), 2.0, 3.0)[:1 + 2 * (i % 2)], f"{i}.jpg"))
            if i not in bad:
                label = entries[-1].labels if i % 2 else float(i)
                writer.write(pack(ImageHeader(0, label, i * 7), data), i * 7)
    counts: list[int] = []
    packed = pack_list(entries, str(tmp_path), tmp_path / "blocks.rec",
                       PackConfig(pass_through=True, pack_label=True, num_threads=threads),
                       progress=counts.append)
    for suffix in (".rec", ".idx"):
        assert (tmp_path / f"blocks{suffix}").read_bytes() == (tmp_path / f"one{suffix}").read_bytes()
    assert [skipped.path for skipped in packed.skipped] == [f"{i}.jpg" for i in bad]
    assert [skipped.reason for skipped in packed.skipped] == [
        "empty", "a JPEG that is cut: its end marker is missing", "no such file or directory"]
    assert (packed.num_records, packed.size_bytes) == (len(entries) - 3,
                                                       os.path.getsize(tmp_path / "one.rec"))
    assert counts == list(range(1, len(entries) + 1))


@pytest.mark.parametrize("count", [10, 40])
def test_a_full_disk_is_reported(count: int, folder: Path, tmp_path: Path,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """The system tells such an error once: if it were passed over, the last sync would not know of it."""
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "fdatasync", full, raising=False)
    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(pipeline, "SYNC_BYTES", 1)
    entries = [ListEntry(i, (0.0,), "a/1.jpg") for i in range(count)]
    with pytest.raises(RunError, match="no space left"):
        pack_list(entries, str(folder), tmp_path / "x.rec", PackConfig(pass_through=True),
                  progress=lambda count: time.sleep(0.005))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize("threads", [1, 3])
def test_packs_what_mxnet_packs(threads: int, tmp_path: Path) -> None:
    for name, extra_flags in (("shuffled", ()), ("several", ("--pack-label",))):
        (tmp_path / f"{name}.lst").write_bytes((FIXTURES / f"{name}.lst").read_bytes())
        argv = [str(tmp_path / name), str(TREE), "--pass-through", f"--num-thread={threads}", *extra_flags]
        assert im2rec.main(argv) == 0
        for suffix in (".rec", ".idx"):
            assert (tmp_path / (name + suffix)).read_bytes() == (FIXTURES / (name + suffix)).read_bytes()
    assert [r.header.flag for r in RecordReader(tmp_path / "several.rec")] == [3, 0, 2]


#: the same wish in the words of every generation of MXNet's scripts
@pytest.mark.parametrize("flags", [
    "--list --recursive", "--list True --recursive True", "--list=1 --recursive=1", "--list --rec",
    "--li --recu yes",
    "--list True --recursive True --shuffle True --pass_through False",
    "--list --recursive --no-shuffle False"])
def test_flags_of_every_age(flags: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([*flags.split(), f"{tmp_path}/x", str(TREE)], [f"{tmp_path}/x", *flags.split(), str(TREE)],
                 [f"{tmp_path}/x", str(TREE), *flags.split()]):
        assert im2rec.main(argv) == 0
        assert (tmp_path / "x.lst").read_bytes() == (FIXTURES / "shuffled.lst").read_bytes()
        (tmp_path / "x.lst").unlink()
    # MXNet prints the classes, for whoever pipes that somewhere
    assert capsys.readouterr().out.splitlines()[:4] == ["cats 0", "dogs 1", "dogs/small 2", "été 3"]
    assert lines(tmp_path / "x.classes.txt") == ["cats", "dogs", "dogs/small", "été"]


def test_parsing_of_the_rest(tmp_path: Path) -> None:
    def parse(text: str) -> SimpleNamespace:
        sections = im2rec.parse([*text.split(), str(tmp_path / "p"), str(TREE)])
        return SimpleNamespace(**{name: value for section in sections
                                  for name, value in vars(section).items()})
    assert parse("--no-shuffle").shuffle is parse("--shuffle False").shuffle is False
    assert parse("--no_shuffle True").shuffle is False
    assert parse("").shuffle is parse("--shuffle").shuffle is parse("--no-shuffle=False").shuffle is True
    assert parse("--exts .bmp .png").exts == parse("--exts=.bmp,.png").exts == (".bmp", ".png")
    assert parse("--exts .png").exts == (".png",)
    assert parse("--color -1").color == parse("--color=-1").color == -1
    assert parse("--encoding png --quality 9").encoding == ".png"
    assert parse("--res 480 --qual 90 --num_thread 16 --train_ratio .5").num_thread == 16
    assert parse("--center_crop --pass-through True").center_crop is True
    assert parse("--list False").list is False
    assert parse("--res 3").resize == 3     # not --resume, which MXNet did not have


@pytest.mark.parametrize(("argv", "message"), [
    ("--lisst", "did you mean --list"), ("--re 5", "--recursive, --resize"),
    ("--resize many", "--resize many"),
    ("--quality 0", "--quality 0"), ("--quality 101", "at most 100"), ("--color 3", "--color 3"),
    ("--encoding .bmp", "--encoding .bmp"), ("--chunks 0", "--chunks 0"),
    ("--train-ratio 1.5", "--train-ratio"),
    ("--train-ratio .9 --test-ratio .2", "over 1"), ("--list maybe", "argument"), ("--resize", "resize")])
def test_wrong_usage_is_one_line_and_status_2(argv: str, message: str, tmp_path: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    assert im2rec.main([f"{tmp_path}/x", str(TREE), *argv.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_missing_files_are_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.lst").write_text("")
    for argv, status, message in (
            ([f"{tmp_path}/x", f"{tmp_path}/nowhere"], 2, "nowhere: no such folder"),
            ([f"{tmp_path}/x", f"{tmp_path}/nowhere", "--list"], 2, "nowhere: no such folder"),
            ([f"{tmp_path}/x", f"{tmp_path}/empty"], 1, "holds no image (.jpeg .jpg .png)"),
            ([f"{tmp_path}/empty", str(TREE)], 2, "no .lst in this folder"),
            ([f"{tmp_path}/none", str(TREE)], 1, "not one image could be packed"),
            (["/proc/none/x", str(TREE)], 1, "cannot write"),
            ([f"{tmp_path}/x"], 2, "ROOT"),
            ([], 2, "PREFIX")):
        assert im2rec.main(argv) == status, argv
        assert message in capsys.readouterr().err


def test_help_shows_examples_and_imports_little() -> None:
    done = run_cli("im2rec", "--help")
    assert done.returncode == 0
    assert done.stdout.split("\n")[2] == "examples:"
    code = "import sys; from imgcls.cli import im2rec; assert not {'torch', 'cv2', 'tqdm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_lists_and_packs_in_one_go(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert im2rec.main([f"{tmp_path}/out/pets", str(folder), "--train-ratio", ".5", "--resize", "8"]) == 0
    output = capsys.readouterr()
    assert "as with --recursive" in output.err
    assert f"Creating .rec file from {tmp_path}/out/pets_train.lst in {tmp_path}/out" in output.out
    assert "time: " in output.out
    train, val = RecordReader(tmp_path / "out/pets_train.rec"), RecordReader(tmp_path / "out/pets_val.rec")
    assert sorted([*train.headers()["id"], *val.headers()["id"]]) == list(range(6))
    assert lines(tmp_path / "out/pets.classes.txt") == ["a", "b"]
    assert all(min(i.shape[:2]) == 8 for i in images(tmp_path / "out/pets_train.rec"))


def test_every_list_that_begins_with_the_prefix_is_packed(folder: Path, tmp_path: Path) -> None:
    im2rec.main([f"{tmp_path}/N", str(folder), "--list", "True", "--chunks", "8", "--recursive", "True"])
    assert im2rec.main(["--resize", "16", "--quality", "90", "--num-thread", "16", f"{tmp_path}/N",
                        str(folder)]) == 0
    assert sorted(p.name for p in tmp_path.glob("*.rec")) == [f"N_{i}.rec" for i in range(8)]
    assert sum(len(RecordReader(p)) for p in tmp_path.glob("*.rec")) == 6


@pytest.mark.parametrize("extra", [[], ["--list"], ["--dry-run"]])
@pytest.mark.parametrize("flag", ["--synsets", "--devkit"])
def test_wrong_class_files_are_reported_before_archives_are_read(
        flag: str, extra: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.tar").write_bytes(b"no tar")
    (tmp_path / "synsets.txt").write_text("a\na\n")
    assert im2rec.main([f"{tmp_path}/x", f"{tmp_path}/in.tar", flag, f"{tmp_path}/synsets.txt", *extra]) == 1
    assert f"{tmp_path}/synsets.txt: " in capsys.readouterr().err


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_flags_that_have_no_effect_are_named(dry_run: list[str], folder: Path, tmp_path: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"{tmp_path}/N", str(folder)]
    assert im2rec.main([*names, "--list", "--recursive", "--part", "1/2"]) == 0
    assert "--part 1/2 has no effect with --list: all lists are written" in capsys.readouterr().err
    assert im2rec.main([*names, *dry_run]) == 0
    assert "no effect" not in capsys.readouterr().err
    assert im2rec.main([*names, "--recursive", "--val-per-class", "1", "--resize", "8", *dry_run]) == 0
    assert (f"the lists {tmp_path}/N*.lst are packed as they are: no effect of --recursive, --val-per-class, "
            "which are for making lists") in capsys.readouterr().err


def test_sizes_and_crops(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.lst").write_text("0\t0\ttall.png\n1\t0\twide.png\n")
    ramp = np.arange(10 * 21, dtype=np.uint8).reshape(10, 21)
    for name, pixels in (("tall", ramp.T.copy()), ("wide", ramp)):
        (folder / f"{name}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    for flags, shapes in (
            (["--resize", "7"], [(14, 7, 3), (7, 14, 3)]), (["--resize", "15"], [(31, 15, 3), (15, 31, 3)]),
            (["--center-crop"], [(10, 10, 3), (10, 10, 3)]), (["--color", "0"], [(21, 10), (10, 21)])):
        assert im2rec.main([f"{tmp_path}/x", str(folder), "--encoding", ".png", *flags]) == 0
        assert [i.shape for i in images(tmp_path / "x.rec")] == shapes
    im2rec.main([f"{tmp_path}/x", str(folder), "--encoding", ".png", "--center-crop", "--color", "0"])
    np.testing.assert_array_equal(images(tmp_path / "x.rec")[1], ramp[:, 5:15])
    assert short_edge_size(500, 375, 256) == (341, 256)
    assert short_edge_size(375, 500, 256) == (256, 341)


def test_images_of_all_kinds(tmp_path: Path) -> None:
    """EXIF orientation, 16 bits, alpha, grey, odd names: packed as OpenCV reads them, or told."""
    root = tmp_path / "in"
    root.mkdir()
    plain = jpeg(20, 30)
    # orientation 6: to be turned by 90 degrees
    exif = (b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + struct.pack(">HHIHHI", 0x112, 3, 1, 6, 0, 0))
    (root / "turned ü.jpg").write_bytes(plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
                                        + plain[2:])
    deep = (np.arange(12 * 12).reshape(12, 12) * 400).astype(np.uint16)
    (root / "deep.png").write_bytes(cv2.imencode(".png", deep)[1].tobytes())
    clear = np.dstack([np.full((8, 8, 3), 200, np.uint8), np.zeros((8, 8), np.uint8)])
    (root / "clear.png").write_bytes(cv2.imencode(".png", clear)[1].tobytes())
    names = ["turned ü.jpg", "deep.png", "clear.png"]
    entries = [ListEntry(i, (0.0,), name) for i, name in enumerate(names)]
    packed = pack_list(entries, str(root), tmp_path / "x.rec", PackConfig(encoding=".png"))
    assert packed.num_records == 3
    turned, deep8, clear3 = images(tmp_path / "x.rec")
    assert turned.shape == (30, 20, 3)
    np.testing.assert_array_equal(deep8[:, :, 0], deep >> 8)
    assert clear3.tolist() == np.full((8, 8, 3), 200).tolist()
    pack_list(entries, str(root), tmp_path / "x.rec", PackConfig(encoding=".png", color=-1))
    assert [(i.shape, i.dtype) for i in images(tmp_path / "x.rec")] == [
        ((20, 30, 3), np.uint8), ((12, 12), np.uint16), ((8, 8, 4), np.uint8)]
    pack_list(entries, str(root), tmp_path / "x.rec", PackConfig(color=-1))
    assert abs(images(tmp_path / "x.rec")[1].astype(int) - (deep >> 8)).max() < 12


def test_bad_images_are_skipped_counted_and_listed(folder: Path, tmp_path: Path,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    intact = jpeg(40, 60)
    thumbnail = b"\xff\xe1" + struct.pack(">H", len(intact) + 2) + intact     # a complete JPEG inside the header
    bad = {"empty.jpg": b"", "text.jpg": b"no image at all", "half.jpg": intact[:len(intact) // 2],
           "thumb.jpg": intact[:2] + thumbnail + intact[2:-40], "head.jpg": intact[:100], "gone.jpg": None}
    entries = ["0\t0\ta/1.jpg"]
    for i, (name, data) in enumerate(bad.items(), 1):
        entries.append(f"{i}\t0\t{name}")
        if data is not None:
            (folder / name).write_bytes(data)
    (tmp_path / "x.lst").write_text("\n".join([*entries, "9\t0\tb/6.jpg", "no line"]) + "\n")
    for threads in (1, 4):
        assert im2rec.main([f"{tmp_path}/x", str(folder), "--num-thread", str(threads)]) == 0
        assert RecordReader(tmp_path / "x.rec").keys.tolist() == [0, 9]
        bad_lines = lines(tmp_path / "x.bad")
        assert [line.split("\t")[0] for line in bad_lines[1:]] == list(bad)
        assert "line 9" in bad_lines[0]
        assert "gone.jpg\tno such file" in bad_lines[-1]
    output = capsys.readouterr()
    assert "7 skipped" in output.out
    assert "skipped half.jpg: a JPEG that is cut" in output.err
    assert im2rec.main([f"{tmp_path}/x", str(folder), "--strict"]) == 1
    # passing through, too, what is no image is left out
    assert im2rec.main([f"{tmp_path}/x", str(folder), "--pass-through"]) == 0
    assert RecordReader(tmp_path / "x.rec").keys.tolist() == [0, 9]
    (tmp_path / "x.lst").write_text("0\t0\ta/1.jpg\n")
    assert im2rec.main([f"{tmp_path}/x", str(folder)]) == 0
    assert not (tmp_path / "x.bad").exists()


def test_suspicious_lists_are_warned_about(folder: Path, tmp_path: Path,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.lst").write_text("".join(f"{i % 5}\t{i // 4}\ta/1.jpg\n" for i in range(8)))
    im2rec.main([f"{tmp_path}/x", str(folder)])
    errors = capsys.readouterr().err
    assert "3 ids" in errors
    assert "in the order of its labels" in errors


def test_class_names_of_a_list_that_mxnet_made(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.lst").write_text("0\t1\tb/4.jpg\n1\t0\ta/1.jpg\n")
    im2rec.main([f"{tmp_path}/x", str(folder)])
    assert lines(tmp_path / "x.classes.txt") == ["a", "b"]
    (tmp_path / "y.lst").write_text("0\t1\tb/4.jpg\n1\t1\ta/1.jpg\n")
    im2rec.main([f"{tmp_path}/y", str(folder)])
    assert not (tmp_path / "y.classes.txt").exists()


@pytest.mark.slow
def test_a_killed_run_leaves_no_partial_file_and_resumes(folder: Path, tmp_path: Path) -> None:
    for i in range(3):
        text = "".join(f"{k}\t0\t{'a/1' if k % 2 else 'b/6'}.jpg\n" for k in range(i, 300))
        (tmp_path / f"N_{i}.lst").write_text(text)
    argv = [f"{tmp_path}/N", str(folder), "--resize", "640", "--num-thread", "1"]
    process = subprocess.Popen([sys.executable, "-m", "imgcls", "im2rec", *argv], cwd=ROOT,
                               stdout=subprocess.DEVNULL)
    while not (tmp_path / "N_0.pack.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = sorted(p.name for p in tmp_path.glob("N_*.rec"))
    assert finished != ["N_0.rec", "N_1.rec", "N_2.rec"]
    first = (tmp_path / "N_0.rec").stat()
    flags = [f"{tmp_path}/N", str(folder), "--resize", "640", "--resume"]
    assert im2rec.main(flags) == 0
    assert (tmp_path / "N_0.rec").stat().st_ino == first.st_ino
    assert [len(RecordReader(tmp_path / f"N_{i}.rec")) for i in range(3)] == [300, 299, 298]
    assert not list(tmp_path.glob(".*.tmp"))
    # another list, other settings, a file that was cut: packed anew
    (tmp_path / "N_2.lst").unlink()
    (tmp_path / "N_1.lst").write_text("1\t0\ta/1.jpg\n")
    assert im2rec.main(flags) == 0
    assert len(RecordReader(tmp_path / "N_1.rec")) == 1
    assert im2rec.main([*flags, "--quality", "50"]) == 0
    assert (tmp_path / "N_0.rec").stat().st_size < first.st_size
    os.truncate(tmp_path / "N_1.rec", 40)
    assert im2rec.main([*flags, "--quality", "50"]) == 0
    assert not RecordReader(tmp_path / "N_1.rec").problems
    assert json.loads((tmp_path / "N_1.pack.json").read_text())["records"] == 1


def test_the_cpp_tools_form(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.lst").write_text("0 3 4 a/1.jpg\n1 5 6 b/6.jpg\n")
    argv = [f"{tmp_path}/x.lst", f"{folder}/", f"{tmp_path}/x.rec"]
    assert im2rec.main([*argv, "label_width=2", "pack_label=1", "unchanged=1"]) == 0
    records = list(RecordReader(tmp_path / "x.rec"))
    assert [(r.header.flag, r.header.label, r.labels.tolist()) for r in records] == [(2, 3.0, [3, 4]),
                                                                                     (2, 5.0, [5, 6])]
    assert bytes(records[0].image) == (folder / "a/1.jpg").read_bytes()
    # the second half of the bytes begins with the second line, and a line that begins there belongs in front
    assert im2rec.main([*argv, "label_width=2", "nsplit=2", "part=1"]) == 0
    assert (tmp_path / "x.rec.part001").read_bytes() == b""
    assert im2rec.main([*argv, "label_width=2", "resize=9", "quality=80", "nsplit=3", "part=1"]) == 0
    assert [r.header.id for r in RecordReader(tmp_path / "x.rec.part001")] == [1]
    # the root is put in front as it is; a folder without its separator is understood all the same
    (tmp_path / "y.lst").write_text("0 3 1.jpg\n")
    for root in (f"{folder}/a", f"{folder}/a/"):
        assert im2rec.main([f"{tmp_path}/y.lst", root, f"{tmp_path}/y.rec", "encoding=.png"]) == 0
        assert images(tmp_path / "y.rec")[0].shape == (21, 32, 3)
    for wrong, message in (("resiz=3", "did you mean resize"),
                           ("resize=x", "resize x: must be a whole number"),
                           ("pack_label=1", "label_width"), ("nsplit=2 part=2", "part 2"),
                           ("loose", "key=value"),
                           ("inter_method=7", "inter_method")):
        assert im2rec.main([*argv, *wrong.split()]) == 2
        assert message in capsys.readouterr().err


def test_seekable_images_have_restart_markers_and_the_same_pixels(folder: Path, tmp_path: Path) -> None:
    (folder / "wide.jpg").write_bytes(jpeg(200, 500))
    (tmp_path / "x.lst").write_text("0\t0\twide.jpg\n")
    stored = []
    for flags in ([], ["--seekable"], ["--seekable", "--color", "0"]):
        assert im2rec.main([f"{tmp_path}/x", str(folder), *flags]) == 0
        stored.append(RecordReader(tmp_path / "x.rec")[0].image)
    plain, seekable, grey = map(bytes, stored)
    assert b"\xff\xdd\0\4" not in plain
    assert b"\xff\xdd\0\4\0\4" in seekable     # 500 pixels are 32 units of 16: 4 to a marker
    assert b"\xff\xdd\0\4\0\3" in grey         # 63 of 8: 3
    for data, color in ((seekable, 1), (grey, 0)):
        pixels = [cv2.imdecode(np.frombuffer(d, np.uint8), color) for d in (plain, data)]
        assert color == 0 or (pixels[0] == pixels[1]).all()
    assert [restart_interval(n) for n in (1, 2, 3, 6, 12, 32, 43, 62)] == [1, 2, 3, 3, 4, 4, 1, 2]


def test_seekable_without_loss_is_jpegtrans_work(folder: Path, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    argv = [f"{tmp_path}/x", str(folder), "--recursive", "--pass-through", "--seekable"]
    assert im2rec.main(argv) == 2
    assert "jpegtran" in capsys.readouterr().err
    # a jpegtran that marks what it was given, and fails on one picture
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "jpegtran"
    tool.write_text(f"#!{sys.executable}\nimport sys\ndata = sys.stdin.buffer.read()\n"
                    f"sys.stdout.buffer.write(data + ' '.join(sys.argv[1:]).encode())\n"
                    f"sys.exit(data == open({str(folder / 'b/6.jpg')!r}, 'rb').read())\n")
    tool.chmod(0o755)
    no_jpeg = cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1].tobytes()
    (folder / "b/text.png").write_bytes(no_jpeg)
    assert im2rec.main(argv) == 0
    stored = {r.header.id: bytes(r.image) for r in RecordReader(tmp_path / "x.rec")}
    assert stored[0] == (folder / "a/1.jpg").read_bytes() + b"-copy all -restart 2B"
    assert stored[5] == (folder / "b/6.jpg").read_bytes()
    assert stored[6] == no_jpeg
    # any record file can be converted: labels, ids and keys stay
    assert im2rec.main([f"{tmp_path}/y", str(FIXTURES / "several.rec"), "--seekable"]) == 0
    old, new = RecordReader(FIXTURES / "several.rec"), RecordReader(tmp_path / "y.rec")
    assert [r.labels.tolist() for r in new] == [r.labels.tolist() for r in old]
    assert new.keys.tolist() == old.keys.tolist() == [5, 9, 7]
    assert [len(b.image) - len(a.image) for a, b in zip(old, new, strict=True)] == [0, 0, 21]
    assert im2rec.main([f"{tmp_path}/z", str(FIXTURES / "framing.rec"), "--seekable"]) == 0
    assert (tmp_path / "z.rec").read_bytes() == (FIXTURES / "framing.rec").read_bytes()
    assert im2rec.main([f"{tmp_path}/z", str(FIXTURES / "framing.rec")]) == 2
    assert im2rec.main([*argv, "--encoding", ".png"]) == 2


def test_interpolation_by_mxnets_number() -> None:
    big, small = np.zeros((9, 9, 3), np.uint8), (4, 4)
    assert interpolation(big, small, 3, 9) == cv2.INTER_AREA
    assert interpolation(big, (20, 20), 3, 9) == cv2.INTER_CUBIC
    assert interpolation(big, (4, 20), 3, 9) == cv2.INTER_LINEAR
    assert interpolation(big, small, 3, 10) == interpolation(big, small, 3, 10) in range(5)


def test_work_in_order_by_threads() -> None:
    def work(i: int) -> int:
        time.sleep(0.001 * (i % 5))
        return i * i
    for threads in (1, 2, 7):
        with map_in_order(work, range(60), threads) as squares:
            assert list(squares) == [i * i for i in range(60)]

    def fails(i: int) -> int:
        if i == 30:
            raise ZeroDivisionError
        return i
    before = threading.active_count()
    results = []
    with pytest.raises(ZeroDivisionError), map_in_order(fails, range(60), 3) as numbers:
        results.extend(numbers)
    with map_in_order(work, range(1000), 3) as squares:     # left half-way
        next(squares)
    assert threading.active_count() == before


def test_threads_wait_when_results_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MAX_WAITING_BYTES", 50)
    started: list[int] = []

    def work(i: int) -> bytes:
        started.append(i)
        return bytes(10)
    with map_in_order(work, range(500), 2, len, 1000) as results:
        next(results)
        time.sleep(0.1)
        assert len(started) < 20
        assert sum(map(len, results)) == 4990


def test_rec2idx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = (FIXTURES / "shuffled.rec").read_bytes()
    path = tmp_path / "x.rec"
    path.write_bytes(data)
    assert rec2idx.main([str(path), str(tmp_path / "n.idx")]) == 0
    offsets = RecordReader(path).offsets.tolist()
    assert lines(tmp_path / "n.idx") == [f"{i}\t{o}" for i, o in enumerate(offsets)]
    assert rec2idx.main(["--ids", str(path)]) == 0
    assert (tmp_path / "x.idx").read_bytes() == (FIXTURES / "shuffled.idx").read_bytes()
    path.write_bytes(data[:-4])
    assert rec2idx.main([str(path), str(tmp_path / "cut.idx")]) == 1
    assert f"at byte {offsets[-1]}" in capsys.readouterr().err
    assert not (tmp_path / "cut.idx").exists()
    assert rec2idx.main(["--resync", str(path), str(tmp_path / "cut.idx")]) == 0
    assert len(lines(tmp_path / "cut.idx")) == len(offsets) - 1


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["im2rec", "rec2idx"])
def test_mxnets_tools_by_their_own_names(tool: str) -> None:
    done = subprocess.run([sys.executable, f"tools/{tool}.py", "--help"], cwd=ROOT,
                          capture_output=True, text=True,
                          check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert "examples:" in done.stdout


def test_fixture_runs(tmp_path: Path) -> None:
    """Every command line that the fixtures were made with. Framing, labels, ids, order and lists must be
    equal to the byte; pixels that OpenCV encoded again may differ a little from one OpenCV to the next."""
    folder, pictures = mxnet_file("rec"), mxnet_file("images")
    for run in json.loads((folder / "manifest.json").read_text())["runs"]:
        name = run["folder"]
        work = tmp_path / name
        work.mkdir(exist_ok=True)
        argv = [w.replace("<dir>", str(work)).replace("<images>", str(pictures)) for w in run["args"]]
        for path in [] if "--list" in argv else (folder / name).glob("*.lst"):
            (work / path.name).write_bytes(path.read_bytes())
        assert im2rec.main(argv) == 0
        for path in sorted((folder / name).iterdir()):
            if name == "missing" or ("--list" in argv and path.suffix != ".lst"):
                continue    # MXNet died there, at the image that is missing
            if path.suffix == ".lst" or "--pass-through" in argv:
                assert (work / path.name).read_bytes() == path.read_bytes(), path
            elif path.suffix == ".rec":
                assert_alike(RecordReader(work / path.name), RecordReader(path))
    assert [e.id for e in read(folder / "oddlist" / "oddlist.lst").entries] == [7, 1000000, 5, 9]


def assert_alike(ours: RecordReader, theirs: RecordReader) -> None:
    np.testing.assert_array_equal(ours.headers(), theirs.headers())
    assert ours.keys.tolist() == theirs.keys.tolist()
    for mine, other in zip(ours, theirs, strict=True):
        a, b = (cv2.imdecode(np.frombuffer(r.image, np.uint8), -1).astype(int) for r in (mine, other))
        assert a.shape == b.shape
        assert abs(a - b).mean() < 1


@pytest.mark.real_data
def test_real_records_come_out_again(tmp_path: Path) -> None:
    source = real_data("mxnet-rec", "helmet-first")
    reader = RecordReader(source / "train.rec")
    entries = read(source / "train.lst").entries
    for record, entry in zip(reader, entries, strict=True):
        path = tmp_path / "in" / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(record.image)
    (tmp_path / "train.lst").write_bytes((source / "train.lst").read_bytes())
    assert im2rec.main([f"{tmp_path}/train", f"{tmp_path}/in", "--pass-through"]) == 0
    for name in ("train.rec", "train.idx"):
        assert (tmp_path / name).read_bytes() == (source / name).read_bytes()


def test_usage_error_names_the_flag() -> None:
    with pytest.raises(UsageError, match="num_thread -1"):
        im2rec.parse(["p", "r", "--num-thread=-1"])


def test_outputs_are_never_inputs(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = tmp_path / "x.lst"
    listed.write_text("0\t0\ta/1.jpg\n")
    (tmp_path / "x.rec").mkdir()
    root = f"{folder}/"
    for out, message in (("x.lst", "is read here"), ("./y/../x.lst", "is read here"), ("x.rec", "is a folder"),
                         ("/dev/null", "is a device")):
        assert im2rec.main([str(listed), root, os.path.join(tmp_path, out)]) == 2
        assert message in capsys.readouterr().err
    assert listed.read_text() == "0\t0\ta/1.jpg\n"
    assert im2rec.main([str(listed), root, f"{tmp_path}/z.rec"]) == 0
    intact = (tmp_path / "z.rec").read_bytes()
    assert rec2idx.main([f"{tmp_path}/z.rec", f"{tmp_path}/z.rec"]) == 2
    assert (tmp_path / "z.rec").read_bytes() == intact


@pytest.mark.parametrize("climbs", ["../in/a/1.jpg", "{root}x/../in/a/1.jpg", "/proc/version"])
def test_a_list_that_climbs_out_of_its_root_is_refused(climbs: str, folder: Path, tmp_path: Path,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.lst").write_text(f"0\t0\ta/1.jpg\n1\t0\t{climbs.format(root=folder)}\n")
    argv = [f"{tmp_path}/x", str(folder), "--pass-through"]
    assert im2rec.main(argv) == 1
    assert "--outside-root allows it" in capsys.readouterr().err
    assert not (tmp_path / "x.rec").exists()
    assert im2rec.main([f"{tmp_path}/x.lst", f"{folder}/", f"{tmp_path}/x.rec"]) == 1
    assert im2rec.main([*argv, "--outside-root"]) == 0


def test_devices_and_pipes_are_no_images(folder: Path, tmp_path: Path,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "x.lst").write_text(f"0\t0\ta/1.jpg\n1\t0\t/dev/zero\n2\t0\t{tmp_path}/pipe\n3\t0\ta\n")
    for flags in ([], ["--pass-through"]):
        assert im2rec.main([f"{tmp_path}/x", str(folder), "--outside-root", *flags]) == 0
        errors = capsys.readouterr().err
        for problem in ("/dev/zero: is a device", "pipe: is a pipe", "a: is a folder"):
            assert problem in errors
    for out in ("/dev/zero", str(tmp_path / "pipe")):
        assert im2rec.main([out, str(folder), f"{tmp_path}/y.rec"]) == 1
        assert "and no file" in capsys.readouterr().err
        assert verify.main([out]) == 2
        assert rec2idx.main([out, f"{tmp_path}/y.idx"]) == 1


@pytest.mark.parametrize("flags", [["--resize", "200"], ["--pass-through"], ["--resize", "200", "--num-thread", "1"]])
def test_a_full_disk_ends_with_a_line_and_leaves_no_half(flags: list[str], folder: Path, tmp_path: Path) -> None:
    """Threads that still decoded when the interpreter ended aborted it, with status 134."""
    for i in range(100):
        (folder / f"a/x{i}.jpg").write_bytes(jpeg(300, 300))
    # a limit on the size of a file is a full disk that any user can have
    code = ("import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
            "from imgcls.cli.im2rec import main; sys.exit(main(sys.argv[1:]))")
    argv = [f"{tmp_path}/x", str(folder), "--recursive", "--num-thread", "8", *flags]
    done = subprocess.run([sys.executable, "-c", code, *argv], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("error:")) == (1, 1), done.stderr
    assert done.stderr.endswith(f"error: cannot write {tmp_path}/x.rec: file too large\n")
    assert sorted(os.listdir(tmp_path)) == ["in", "x.classes.txt", "x.lst"]


def test_records_do_not_appear_without_their_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync

    def full(handle: int) -> None:
        if os.readlink(f"/proc/self/fd/{handle}").endswith(".tmp") and ".idx." in os.readlink(
                f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"cannot write .*x\.idx: no space left"), \
            RecordWriter(tmp_path / "x.rec") as writer:
        writer.write(b"1234")
    assert not os.listdir(tmp_path)


def test_class_names_survive_a_move(folder: Path, tmp_path: Path, own_cache: Path,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    """`mv train_meta/*.rec train/` leaves the file with the names behind."""
    before = sources(tmp_path / "x", folder)
    names = before[0].class_names
    assert names
    moved = tmp_path / "elsewhere" / "other.rec"
    moved.parent.mkdir()
    (tmp_path / "x.rec").rename(moved)
    assert open_source(str(moved), "FILE").class_names == names
    assert verify.main([str(moved)]) == 0
    assert f"{len(names)} class names" in capsys.readouterr().out
    # another label, another image, one record less: another file, whose names nobody knows
    data, reader = moved.read_bytes(), RecordReader(moved)
    for place in (reader.offsets[1] + 8 + 4, reader.offsets[2] + 8 + 24 + 30):
        moved.write_bytes(data[:place] + bytes([data[place] ^ 64]) + data[place + 1:])
        assert open_source(str(moved), "FILE").class_names == ()
    moved.write_bytes(data[:reader.offsets[-1]])
    assert open_source(str(moved), "FILE").class_names == ()
    # the same bytes packed under other names: nobody can tell whose they are
    moved.write_bytes(data)
    (folder / "a").rename(folder / "0a")
    sources(tmp_path / "y", folder)
    assert (tmp_path / "y.rec").read_bytes() == data
    assert open_source(str(tmp_path / "y.rec"), "FILE").class_names != names
    assert open_source(str(moved), "FILE").class_names == ()


def sources(prefix: Path, folder: Path) -> list[Source]:
    assert im2rec.main([str(prefix), str(folder), "--recursive", "--no-shuffle"]) == 0
    return [open_source(f"{prefix}.rec", "FILE")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_leaves_nothing_half_written(number: signal.Signals, folder: Path, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    original = RecordWriter.write

    def write(self: RecordWriter, payload: bytes, key: int) -> None:
        original(self, payload, key)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(RecordWriter, "write", write)
    assert im2rec.main([f"{tmp_path}/x", str(folder), "--recursive", "--num-thread", "3"]) == 128 + number
    assert f"terminated ({number.name})" in capsys.readouterr().err
    assert [path for path in tmp_path.iterdir() if path.suffix in (".tmp", ".rec", ".idx")] == []
    assert signal.getsignal(number) == before


def test_what_a_killed_run_left_goes_with_the_next(folder: Path, tmp_path: Path) -> None:
    for name in (".x.rec.abcdefgh.tmp", ".x.idx.abcdefgh.tmp", ".xy.rec.abcdefgh.tmp", ".x.txt.abcdefgh.tmp"):
        (tmp_path / name).write_bytes(b"half")
    assert im2rec.main([f"{tmp_path}/x", str(folder), "--recursive"]) == 0
    assert sorted(path.name for path in tmp_path.glob(".*.tmp")) == [".x.txt.abcdefgh.tmp", ".xy.rec.abcdefgh.tmp"]
