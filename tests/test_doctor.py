"""imgcls-doctor: planted faults are found, nothing is found where nothing is, and a clean copy is clean."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from imgcls.cli import doctor
from imgcls.data.checks import clean, duplicates, lzw
from imgcls.data.checks import labels as label_checks
from imgcls.data.checks.decoder_warnings import DecoderWarnings
from imgcls.data.checks.look import look
from imgcls.data.checks.tiff import damage_of_tiff
from imgcls.data.sources import ArraySource
from imgcls.datasets import digits
from imgcls.errors import RunError
from imgcls.formats import recordio

CLASSES = ("birch", "oak", "yew")
COUNT = 14


def picture(seed: int, height: int = 90, width: int = 120) -> np.ndarray:
    """Return a picture of coloured blots, BGR, unlike that of any other seed."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (7, 9, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def write(path: Path, image: np.ndarray, quality: int = 95) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, quality] * (path.suffix == ".jpg"))
    return path


def folder(root: Path, first_seed: int, classes: Sequence[str] = CLASSES, count: int = COUNT) -> Path:
    for label, name in enumerate(classes):
        for number in range(count):
            write(root / name / f"{number:02}.jpg", picture(first_seed + 1000 * label + number))
    return root


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, list[dict[str, Any]]]:
    status = doctor.main([*map(str, words), "--format", "json", "--num-thread", "2"])
    return status, json.loads(capsys.readouterr().out)["findings"]


def kinds(findings: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(finding["kind"], finding["severity"]) for finding in findings]


def test_good_data_have_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, folder(tmp_path / "train", 0), folder(tmp_path / "val", 500)) == (0, [])
    # strokes of a pen are much alike, and still none is a copy of another
    assert doctor.main(["--dataset", "digits"]) == 0
    assert capsys.readouterr().out.endswith("0 faults, 0 remarks\n")


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    train = folder(tmp_path / "train", 0)
    val = folder(tmp_path / "val", 500)
    first = train / "birch" / "00.jpg"
    (train / "birch" / "cut.jpg").write_bytes(first.read_bytes()[:900])
    (train / "oak" / "empty.jpg").write_bytes(b"")
    half = picture(7001)
    half[60:] = 128
    write(train / "oak" / "half.jpg", half)
    shutil.copy(train / "yew" / "01.jpg", train / "yew" / "copy.jpg")
    shutil.copy(train / "yew" / "02.jpg", train / "oak" / "other.jpg")
    write(train / "yew" / "small.jpg", cv2.resize(picture(2003), None, fx=0.6, fy=0.6), 70)
    write(train / "birch" / "turned.jpg", picture(4)[:, ::-1], 80)
    shutil.copy(train / "oak" / "05.jpg", val / "oak" / "leak.jpg")
    write(val / "oak" / "again.jpg", picture(1006), 60)
    write(train / "yew" / "blank.png", np.full((90, 120, 3), 250, np.uint8))
    write(train / "yew" / "tiny.png", picture(7002, 8, 8))
    write(train / "yew" / "grey.png", cv2.cvtColor(picture(7003), cv2.COLOR_BGR2GRAY))
    folder(train, 8000, ["elm"], 2)
    return tmp_path


def test_planted_faults_are_found(spoilt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, findings = run(capsys, spoilt / "train", spoilt / "val", "--report", spoilt / "page")
    assert status == 1
    assert kinds(findings) == [
        ("damaged", "fault"), ("half decoded", "fault"), ("class names", "fault"), ("classes", "remark"),
        ("classes", "remark"), ("leak", "fault"), ("leak", "fault"), ("duplicate", "fault"),
        ("near duplicate", "remark"), ("blank", "fault"), ("size", "remark"), ("colour", "remark")]
    found = {(finding["kind"], tuple(Path(one["name"]).stem for one in group))
             for finding in findings for group in finding["groups"]}
    assert found == {
        ("damaged", ("cut",)), ("damaged", ("empty",)), ("half decoded", ("half",)), ("leak", ("05", "leak")),
        ("leak", ("06", "again")), ("duplicate", ("01", "copy")), ("duplicate", ("other", "02")),
        ("near duplicate", ("03", "small")), ("near duplicate", ("04", "turned")),
        ("blank", ("blank",)), ("size", ("tiny",)), ("colour", ("grey",))}
    page = (spoilt / "page" / "index.html").read_text()
    assert page.count("<img") == 16  # two of each pair, one of each other; damage has none
    assert "under another label" in page


def overwritten(jpeg: bytes, part: bytes) -> bytes:
    """Return a JPEG with a part of its scan replaced."""
    at = len(jpeg) // 2
    return jpeg[:at] + part + jpeg[at + len(part):]


def test_damage_that_decoders_pass_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder(tmp_path / "photos", 0)
    random = np.random.default_rng(3)
    for label, name in enumerate(CLASSES):  # what is damaged is not told as a copy as well
        for index, image in enumerate(random.integers(0, 256, (5, 90, 120, 3), np.uint8)):
            write(root / name / f"good{label}{index}.jpg", image)
    photo = cv2.imencode(".jpg", random.integers(0, 256, (200, 300, 3), np.uint8))[1].tobytes()
    other = cv2.imencode(".jpg", random.integers(0, 256, (200, 300, 3), np.uint8))[1].tobytes()
    png = bytearray(cv2.imencode(".png", picture(7005))[1].tobytes())
    text = b"tEXtnote\0of a camera"
    png[33:33] = (len(text) - 4).to_bytes(4, "big") + text + b"\0\0\0\0"  # its checksum is not 0
    progressive = cv2.imencode(".jpg", picture(7006, 400, 400), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    for name, data in (("zeros.jpg", overwritten(photo, bytes(400))), ("ones.jpg", overwritten(photo, b"\xff" * 400)),
                       ("random.jpg", overwritten(photo, random.bytes(400))),
                       ("other.jpg", overwritten(photo, other[5000:7000])),
                       ("cut.jpg", photo[:-2000] + b"\xff\xd9"),
                       ("progressive.jpg", overwritten(progressive, random.bytes(40))), ("checksum.png", png)):
        (root / "yew" / name).write_bytes(data)
    # good, however odd: zeros that stand for a flat area, bytes behind the end, bytes between the segments
    flat = picture(7007, 400, 400)
    flat[150:] = 255
    jpeg = cv2.imencode(".jpg", flat, [cv2.IMWRITE_JPEG_OPTIMIZE, 1])[1].tobytes()
    jpeg = jpeg[:20] + b"\0" * 32 + jpeg[20:] + bytes(2000)
    (root / "oak" / "flat.jpg").write_bytes(jpeg)
    write(root / "oak" / "smooth.jpg", cv2.resize(picture(7008, 2, 2), (300, 200)), 100)
    status, findings = run(capsys, root, "--fix", tmp_path / "clean")
    assert status == 1
    told = {Path(group[0]["name"]).name: detail for finding in findings
            if finding["kind"] in ("half decoded", "damaged")
            for group, detail in zip(finding["groups"], finding["details"], strict=True)}
    assert set(told) == {"zeros.jpg", "ones.jpg", "random.jpg", "other.jpg", "cut.jpg", "progressive.jpg",
                         "checksum.png"}
    assert told["zeros.jpg"] == "JPEG: 400 zero bytes inside the image"
    assert told["cut.jpg"] == "JPEG: Corrupt JPEG data: premature end of data segment"
    assert told["checksum.png"] == "PNG: wrong checksum of the chunk tEXt"
    assert not {"half decoded", "damaged"} & {kind for kind, _ in kinds(run(capsys, tmp_path / "clean")[1])}


def test_damage_in_formats_without_checksums(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """WebP, TIFF and BMP: a size that does not fit, data that are not needed, rows that no picture has."""
    root, random = tmp_path / "photos", np.random.default_rng(5)
    expected = {}
    tiff = cv2.IMWRITE_TIFF_COMPRESSION
    for kind, ending, flags in (("lossy", ".webp", [cv2.IMWRITE_WEBP_QUALITY, 80]), ("deflate", ".tiff", [tiff, 8]),
                                ("lossless", ".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]), ("lzw", ".tiff", [tiff, 5]),
                                ("packbits", ".tiff", [tiff, 32773]), ("raw", ".tiff", [tiff, 1]), ("raw", ".bmp", [])):
        for index, part in enumerate((b"", random.bytes(600), bytes(600), None)):
            noise = random.integers(0, 12, (150, 200, 3), np.uint8)
            image = np.clip(picture(6000 + len(expected), 150, 200), 0, 240) + noise
            data = cv2.imencode(ending, image, flags)[1].tobytes()
            path = root / CLASSES[index % 3] / f"{kind}{index}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data[:-800] if part is None else overwritten(data, part))
            expected[path.name] = index
    drawn = picture(6500, 150, 200)  # good: lines, a box, bars and text that somebody drew
    cv2.rectangle(drawn, (20, 30), (120, 90), (255, 255, 255), 1)
    cv2.putText(drawn, "a birch, an oak", (10, 120), cv2.FONT_HERSHEY_PLAIN, 1, (0, 0, 0))
    drawn[:10] = drawn[140:] = drawn[:, :7] = 0
    drawn[70] = 255
    write(root / "yew" / "drawn.bmp", drawn)
    _, findings = run(capsys, root)
    told = {Path(group[0]["name"]).name: detail for finding in findings
            if finding["kind"] in ("half decoded", "damaged")
            for group, detail in zip(finding["groups"], finding["details"], strict=True)}
    assert set(told) == {name for name, index in expected.items() if index}
    assert told["raw2.bmp"].startswith("BMP: bytes of 0 in place of pixels, in row ")
    assert told["raw1.tiff"].startswith("TIFF: bytes of something else in the pixels, in row ")
    assert told["lzw3.tiff"] == "is a TIFF that is cut in its header"  # where OpenCV puts the directory
    assert told["raw3.bmp"] == "BMP: cut: 89,200 of the 90,000 bytes of its pixels are there"
    assert told["lossy2.webp"] == "WebP: the image is complete before its data end: bytes inside it are not its own"
    assert "bytes are there" in told["lossless3.webp"]


def test_crops_are_near_duplicates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With 5 % cut off at a side or at all of them, mirrored, resized, encoded again."""
    root = folder(tmp_path / "photos", 0)
    cuts = [picture(3)[:, 6:], picture(4)[5:], picture(1005)[5:-5, 6:-6], picture(1006)[:-4, :-6, :][:, ::-1],
            cv2.resize(picture(2007)[3:, 6:], (70, 50))]
    for number, image in enumerate(cuts):
        write(root / CLASSES[(number + 1) // 2 % 3] / f"cut{number}.jpg", image, 80)
    write(root / "oak" / "other.jpg", picture(8)[20:70, 30:100])  # a part of it, and no copy
    _, findings = run(capsys, root)
    assert {tuple(sorted(Path(one["name"]).stem for one in group)) for finding in findings
            for group in finding["groups"]} == {("03", "cut0"), ("04", "cut1"), ("05", "cut2"), ("06", "cut3"),
                                                ("07", "cut4")}
    assert {finding["kind"] for finding in findings} == {"near duplicate"}


def test_a_decoder_that_crashes_is_the_images_fault_and_one_that_was_stopped_is_not() -> None:
    jpeg = cv2.imencode(".jpg", picture(1))[1].tobytes()
    with DecoderWarnings() as warnings:
        assert warnings.of(jpeg, is_sequential=True) == ""
        end_idle(warnings, signal.SIGSEGV)
        assert warnings.of(jpeg, is_sequential=True) == "JPEG: decoding it ended with SIGSEGV"
        assert warnings.of(jpeg, is_sequential=True) == ""
        end_idle(warnings, signal.SIGTERM)
        with pytest.raises(RunError, match="ended with SIGTERM"):
            warnings.of(jpeg, is_sequential=True)


def end_idle(warnings: DecoderWarnings, number: int) -> None:
    """End the one process that waits for an image."""
    decoder = warnings._idle.get()
    os.kill(decoder._process.pid, number)
    decoder._process.wait()
    warnings._idle.put(decoder)


def test_a_clean_copy_is_clean(spoilt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(spoilt.rglob("*"))
    run(capsys, spoilt / "train", spoilt / "val", "--fix", spoilt / "clean")
    assert sorted(path for path in spoilt.rglob("*") if "clean" not in path.parts) == before
    _, findings = run(capsys, spoilt / "clean" / "train", spoilt / "clean" / "val")
    assert {kind for kind, severity in kinds(findings) if severity == "fault"} == {"class names"}
    kept = (spoilt / "clean" / "train" / "yew" / "01.jpg").read_bytes()
    assert kept == (spoilt / "train" / "yew" / "01.jpg").read_bytes()
    # nobody knows which of the two labels is right, and the validation images stay as they are
    assert not (spoilt / "clean" / "train" / "oak" / "other.jpg").exists()
    assert not (spoilt / "clean" / "train" / "yew" / "02.jpg").exists()
    assert (spoilt / "clean" / "val" / "oak" / "leak.jpg").exists()
    assert doctor.main([str(spoilt / "train"), "--fix", str(spoilt / "clean")]) == 2
    assert "name a folder that is new or empty" in capsys.readouterr().err


def test_copies_that_leak_more_than_once_leave_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, (name, at) in enumerate((name, at) for name in ("train", "val") for at in ("oak", "yew")):
        for i in range(6):
            write(tmp_path / name / at / f"{i}.jpg", picture(100 + 10 * number + i))
    leaked = (tmp_path / "train" / "oak" / "0.jpg").read_bytes()
    for i in range(3):
        (tmp_path / "val" / "oak" / f"again{i}.jpg").write_bytes(leaked)
    run(capsys, tmp_path / "train", tmp_path / "val", "--fix", tmp_path / "clean")
    assert len(list((tmp_path / "clean" / "val").rglob("again*"))) == 1
    status, _ = run(capsys, tmp_path / "clean" / "train", tmp_path / "clean" / "val")
    assert status == 0


def test_half_a_copy_is_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path / "train", 0, count=6)
    left = tmp_path / ".clean.abcd_123.tmp"  # by a run that was killed
    left.mkdir()
    copied: list[Path] = []

    def write_bytes(path: Path, content: bytes) -> None:
        copied.append(path)
        if len(copied) > 3:
            raise OSError(28, "No space left on device")
        path.write_bytes(content)

    monkeypatch.setattr(clean, "write_bytes", write_bytes)
    assert doctor.main([str(tmp_path / "train"), "--fix", str(tmp_path / "clean")]) == 1
    assert copied
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train"]


@pytest.mark.parametrize("form", ["list.lst", "list.csv"])
def test_a_clean_list_is_read_with_the_root_of_the_list(form: str, tmp_path: Path,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    root = folder(tmp_path / "photos", 0)
    shutil.copy(root / "yew" / "01.jpg", root / "yew" / "copy.jpg")
    write(root / "yew" / "near.jpg", picture(2003), 60)
    (root / "oak" / "02.jpg").write_bytes(b"")
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*.jpg"))
    path = tmp_path / form
    path.write_text("".join(f"{name},{name.split('/')[0]}\n" if form.endswith(".csv") else
                            f"{number}\t{CLASSES.index(name.split('/')[0])}\t{name}\n"
                            for number, name in enumerate(names)))
    assert doctor.main([str(path), "--data-root", str(root), "--fix", str(tmp_path / "clean")]) == 1
    assert f"is read with --data-root {root}" in capsys.readouterr().err
    copy = tmp_path / "clean" / "list.lst"
    assert copy.read_text().splitlines()[0] == "0\t0.000000\tbirch/00.jpg"
    _, findings = run(capsys, copy, "--data-root", root)
    assert {kind for kind, _ in kinds(findings)} <= {"order"}
    assert len(copy.read_text().splitlines()) == len(names) - 3


def pack(path: Path, labels: Sequence[float], first_seed: int = 0) -> Path:
    with recordio.RecordWriter(path) as writer:
        for index, label in enumerate(labels):
            jpeg = cv2.imencode(".jpg", picture(first_seed + index))[1].tobytes()
            header = recordio.ImageHeader(flag=0, label=label, id=index)
            writer.write(recordio.pack(header, jpeg))
    return path


def test_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = pack(tmp_path / "train.rec", [0, 1, 2, 2, 1, 0, 0, 2, 1] * 3)
    assert run(capsys, path) == (0, [])
    # in the order of the classes; negative and broken labels
    labels = [0.0] * 20 + [1.0] * 20 + [-1.0, 0.5]
    path = pack(tmp_path / "sorted.rec", labels)
    status, findings = run(capsys, path, "--fix", tmp_path / "clean")
    assert status == 1
    assert kinds(findings) == [("damaged", "fault"), ("label", "fault"), ("order", "remark")]
    assert findings[1]["groups"][0][0]["index"] == 40
    copy = recordio.RecordReader(tmp_path / "clean" / "sorted.rec")
    assert [record.labels[0] for record in copy] == labels[:40]
    assert copy[7].image == recordio.RecordReader(path)[7].image
    # the index of another file
    shutil.copy(tmp_path / "train.idx", tmp_path / "sorted.idx")
    _, findings = run(capsys, path)
    assert ("index", "fault") in kinds(findings)


def test_sets_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(tmp_path / "train", 0)
    # red and blue exchanged: all of the one set are warm, all of the other cold
    for root, order in ((tmp_path / "train", 1), (tmp_path / "val", -1)):
        for number in range(20):
            warm = (picture(9000 + number + (order < 0) * 500) * np.array([0.2, 0.6, 1])).astype(np.uint8)
            write(root / CLASSES[number % 3] / f"warm{number}.jpg", warm[:, :, ::order])
    for path in sorted((tmp_path / "train").rglob("[0-9]*.jpg")):
        path.unlink()
    (tmp_path / "val" / "yew").rename(tmp_path / "val" / "Yew ")
    status, findings = run(capsys, tmp_path / "train", tmp_path / "val")
    assert status == 1
    assert kinds(findings) == [("class names", "fault"), ("colour", "fault")]
    assert "one of them is in the order BGR" in findings[1]["message"]
    assert "only in training data: yew; only in validation data: Yew" in findings[0]["message"]


def test_too_few_images_say_nothing_about_a_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for root, seed in (("train", 0), ("val", 9000)):
        folder(tmp_path / root, seed, CLASSES[:2], 4)
        for path in (tmp_path / root).rglob("*.jpg"):
            write(path, np.clip(picture(seed) + 90.0 * (root == "val"), 0, 255).astype(np.uint8)[:, :80 + seed % 7])
    _, findings = run(capsys, tmp_path / "train", tmp_path / "val", "--no-near-duplicates")
    assert "colour" not in {finding["kind"] for finding in findings}


def test_labels_that_a_network_contradicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from imgcls import fit

    images, labels = digits.draw(1500, seed=1)
    fit((images, labels), network="lenet", num_epochs=4, rgb_std=(255.0,), model_prefix=str(tmp_path / "model"))
    images, labels = digits.draw(60, seed=2)
    with recordio.RecordWriter(tmp_path / "digits.rec") as writer:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            wrong = float((label + 3) % 10 if index in (11, 40) else label)
            png = cv2.imencode(".png", image[0])[1].tobytes()
            writer.write(recordio.pack(recordio.ImageHeader(flag=0, label=wrong, id=index), png))
    status, findings = run(capsys, tmp_path / "digits.rec", "--model", tmp_path / "model")
    assert status == 0  # what a network says is no proof
    (finding,) = [finding for finding in findings if finding["kind"] == "suspicious label"]
    assert {group[0]["index"] for group in finding["groups"]} == {11, 40}


@pytest.mark.parametrize(("words", "message"), [
    ([], "DATA is missing"),
    (["nowhere"], "nowhere"),
    (["train", "--data-val", "val"], "--data-val-idx val: is the index of validation data, which are named as"),
    (["--dataset", "digits", "--fix", "new"], "copies folders, lists and record files"),
    (["photos", "--fix", "photos/clean"], "--fix photos/clean: is inside of the data photos; name a folder elsewhere"),
    (["photos", "--report", "file"], "--report file: is no folder and cannot be made one"),
])
def test_wrong_use_is_one_line(words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                               capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    folder(Path("photos"), 0, CLASSES[:2], 1)
    Path("file").touch()
    assert doctor.main(words) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_images_that_are_all_missing_are_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.lst").write_text("0\t0\ta.jpg\n1\t1\tb.jpg\n")
    status, findings = run(capsys, tmp_path / "list.lst")
    assert (status, kinds(findings)[0]) == (1, ("damaged", "fault"))


def test_a_tiff_that_says_any_height_takes_no_memory_for_it() -> None:
    tags = ((256, 1), (257, 2**32 - 1), (259, 1), (273, 8), (278, 1), (279, 10))  # 4 thousand million strips
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    assert damage_of_tiff(data) == ""


def test_many_images_that_are_all_alike_take_little_memory() -> None:
    # frames of a camera that does not move: 180,000 pairs, whose thumbnails would be a gigabyte
    random = np.random.default_rng(0)
    frames = random.integers(1, 255, (16, 16, 3)) + random.integers(-1, 2, (600, 16, 16, 3))
    details, sizes = np.zeros((600, 32 * 32), np.uint8), np.full((600, 2), 64, np.int32)
    tracemalloc.start()
    groups = duplicates._near_groups(frames.astype(np.uint8).reshape(600, -1), details, np.arange(600), sizes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [group.tolist() for group in groups] == [list(range(600))]
    assert peak < 300e6


def test_thumbnails_that_nothing_compares_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 64, 64), np.uint8)
    source = ArraySource(np.concatenate([images, images[:3]]), np.zeros(15, np.int64))
    kept, *others = (look(source, 2, "train", number) for number in (12, 11, 0))  # three are copies
    assert (kept.thumbnails.shape, kept.details.shape) == ((15, 768), (15, 1024))
    assert kept.thumbnails.any(1).all()
    assert kept.details.any(1).all()
    for facts in others:
        assert len(facts.thumbnails) == len(facts.details) == 0
        for name in ("digests", "sizes", "means", "spreads", "is_grey", "missing"):
            assert np.array_equal(getattr(facts, name), getattr(kept, name))
    root = folder(tmp_path / "photos", 0)
    monkeypatch.setattr(duplicates, "MAX_COMPARED", 3 * COUNT - 1)
    status, findings = run(capsys, root)
    assert (status, kinds(findings)) == (0, [("near duplicate", "remark")])
    assert findings[0]["message"].startswith("more than 41 images: only those that are equal to the byte")
    assert run(capsys, root, "--no-near-duplicates") == (0, [])


def test_codes_of_lzw_are_counted_and_clear_codes_bounded() -> None:
    def packed(*codes: int) -> bytes:  # 9 bits each
        bits = "".join(f"{code:09b}" for code in codes)
        return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")

    assert lzw.decoded_length(packed(256, 7, 258, 259, 257)) == 6
    assert lzw.decoded_length(packed(256, 7, 256, 256, 8, 257)) == 2
    assert lzw.decoded_length(packed(256, 7, 259, 257)) is None  # not defined yet
    # a megabyte of clear codes would cost a table for every 9 bits
    assert lzw.decoded_length(packed(*[256] * 8) * 100_000) is None


def test_names_of_many_classes_are_compared_in_time() -> None:
    names = [f"n{number}" for number in range(40_000)]
    train, val = (ArraySource(np.zeros((0, 1)), np.zeros(0, np.int64), some) for some in (names, [*names[1:], "x"]))
    start = time.process_time()
    (finding,) = label_checks.check_class_names(train, val)
    assert time.process_time() - start < 20
    assert "only in training data: n0; only in validation data: x" in finding.message


def test_labels_of_two_classes_with_one_name_and_of_none() -> None:
    """ImageNet has two classes called crane; a label beyond the names is a finding of its own."""
    from types import SimpleNamespace

    from imgcls.data.sources import ArraySource
    from imgcls.inference.suspicious import find_suspicious

    names = ["crane", "cat", "crane"]
    labels = np.array([0, 2, 1, 7])
    source = ArraySource(np.zeros((4, 1, 2, 2), np.uint8), labels, names)
    answers = [SimpleNamespace(classes=order, ranking=[(names[order[0]], 0.97), (names[order[1]], 0.02),
                                                       (names[order[2]], 0.01)])
               for order in ([0, 1, 2], [2, 0, 1], [0, 1, 2], [0, 1, 2])]
    predictor: Any = SimpleNamespace(class_names=names, num_classes=3, predict=lambda images: iter(answers))
    (finding,) = find_suspicious(predictor, "train", source, labels, range(4))
    assert finding.samples == ((("train", 2),),)
