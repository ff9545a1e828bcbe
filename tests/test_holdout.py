"""`val_ratio`: which images are held out for validation, and who finds the same ones again."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from imgcls.cli import score
from imgcls.cli import train as command
from imgcls.data import holdout
from imgcls.data.file_source import FolderSource
from imgcls.data.sources import ArraySource, open_source
from imgcls.errors import UsageError
from imgcls.formats import lists, recordio
from imgcls.pretrained import checkpoint_files


def photos(root: Path, *counts: int, seed: int = 0) -> Path:
    """A folder with a class folder of each size: small JPEGs, bright on one side by class."""
    rng = np.random.default_rng(seed)
    for label, count in enumerate(counts):
        folder = root / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image = rng.integers(0, 90, (20, 20, 3)).astype(np.uint8)
            image[:, :10] += np.uint8(140 * (label % 2))
            (folder / f"{seed}-{number}.jpg").write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
    return root


def held_out(root: Path, ratio: float = 0.1) -> set[bytes]:
    """The content of the files that are held out."""
    source = holdout.divide(FolderSource(root), ratio).held_out
    return {bytes(source.read(index)) for index in range(len(source))}


def contents(root: Path) -> set[bytes]:
    return {path.read_bytes() for path in root.rglob("*.jpg")}


# ---- who is held out


def test_about_the_part_that_was_asked_for_in_every_class(tmp_path: Path) -> None:
    source = FolderSource(photos(tmp_path, 300, 300))
    parts = holdout.divide(source, 0.2)
    assert len(parts.train) + len(parts.held_out) == 600
    for label in (0, 1):
        assert 30 <= int((parts.held_out.labels == label).sum()) <= 90
    assert parts.held_out.class_names == parts.train.class_names == ("class0", "class1")
    assert parts.note["images"] == len(parts.held_out)


def test_neither_more_photographs_nor_other_names_move_one(tmp_path: Path) -> None:
    before = held_out(photos(tmp_path / "a", 40, 40))
    old = contents(tmp_path / "a")
    photos(tmp_path / "a", 30, 30, 30, seed=1)
    assert held_out(tmp_path / "a") & old == before
    for number, path in enumerate(sorted((tmp_path / "a").rglob("*.jpg"))):
        path.rename(path.with_name(f"{random.Random(number).random()}.JPG"))
    (tmp_path / "a" / "class0").rename(tmp_path / "a" / "zebra")
    assert held_out(tmp_path / "a") & old == before


def test_a_larger_ratio_only_adds(tmp_path: Path) -> None:
    root = photos(tmp_path, 30, 3, 1)
    sets = [held_out(root, ratio) for ratio in (0.0, 0.05, 0.1, 0.3, 0.6, 0.9)]
    assert not sets[0]
    assert all(smaller <= larger for smaller, larger in itertools.pairwise(sets))


def test_equal_images_lie_on_one_side_whatever_their_class(tmp_path: Path) -> None:
    root = photos(tmp_path, 20, 1)
    for path in sorted((root / "class0").iterdir()):
        shutil.copy(path, root / "class1" / f"copy-{path.name}")
        shutil.copy(path, root / "class0" / f"copy-{path.name}")
    # a class of copies of one image alone
    (root / "class2").mkdir()
    first = min((root / "class0").iterdir())
    for number in range(5):
        shutil.copy(first, root / "class2" / f"{number}.jpg")
    for ratio in (0.1, 0.5, 0.9):
        parts = holdout.divide(FolderSource(root), ratio)
        train, held = ({bytes(part.read(i)) for i in range(len(part))} for part in (parts.train, parts.held_out))
        assert not train & held
        assert set(parts.train.labels.tolist()) == {0, 1, 2}


def test_every_class_keeps_an_image_to_learn_from() -> None:
    fraction = np.array([0.01, 0.05, 0.02, 0.5, 0.03])
    labels = np.array([0, 0, 1, 2, 2])
    assert holdout.choose(fraction, labels, 0.1).tolist() == [True, False, False, False, True]
    assert not holdout.choose(np.zeros(0), np.zeros(0, np.int64), 0.1).size


def test_large_files_are_known_by_three_pieces_and_their_size(tmp_path: Path) -> None:
    data = bytearray(random.Random(0).randbytes(200_000))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jpg").write_bytes(data)
    source = FolderSource(tmp_path)
    fraction = holdout.fractions(source)[0]
    read = [start for start, count in holdout._spans(len(data)) for start in (start, start + count - 1)]
    assert len(read) == 6
    assert read[-1] == len(data) - 1
    for place in read:
        other = bytearray(data)
        other[place] ^= 1
        (tmp_path / "a" / "x.jpg").write_bytes(other)
        assert holdout.fractions(source)[0] != fraction
    (tmp_path / "a" / "x.jpg").unlink()
    assert holdout.fractions(source)[0] == 1.0  # trained on, where the loader says what is wrong


def test_records_and_lists_are_divided_as_their_files(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", 30, 30)
    listing = lists.walk(str(root), recursive=True)
    lists.write(tmp_path / "photos.lst", listing.entries)
    for half in (0, 1):
        with recordio.RecordWriter(tmp_path / f"part{half}.rec") as writer:
            for entry in listing.entries[30 * half:30 * half + 30]:
                header = recordio.ImageHeader(0, entry.labels[0], entry.id)
                writer.write(recordio.pack(header, (root / entry.path).read_bytes()), entry.id)
    expected = held_out(root, 0.3)
    records = f"{tmp_path}/part0.rec;{tmp_path}/part1.rec"
    for path, data_root in ((records, ""), (f"{tmp_path}/photos.lst", str(root))):
        parts = holdout.divide(open_source(path, "`data_train`", root=data_root), 0.3)
        for part, wanted in ((parts.held_out, expected), (parts.train, contents(root) - expected)):
            assert {bytes(part.read(index)) for index in range(len(part))} == wanted
            labels = [int(part.labels[index]) for index in range(len(part))]
            files = [f"class{label}" for label in labels]
            assert all(part.read(index) in {path.read_bytes() for path in (root / file).iterdir()}
                       for index, file in enumerate(files))
    with pytest.raises(UsageError, match="cannot be divided"):
        holdout.divide(ArraySource(np.zeros((2, 3, 4, 4), np.uint8), np.zeros(2, np.int64)), 0.1)


# ---- the commands

SETTINGS = ["--network", "mlp", "--image-shape", "3,16,16", "--num-epochs", "1", "--batch-size", "16",
            "--rgb-mean", "0", "--rgb-std", "255", "--lr", "0.01", "--data-nthreads", "0"]


def train(root: Path, prefix: Path, *more: str) -> int:
    return command.main(["--data-train", str(root), "--model-prefix", str(prefix), *SETTINGS, *more])


def test_a_folder_trains_validates_goes_on_and_is_scored(tmp_path: Path,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    root = photos(tmp_path / "photos", 40, 40)
    assert train(root, tmp_path / "m", "--val-ratio", "0.25") == 0
    err = capsys.readouterr().err
    count = len(held_out(root, 0.25))
    assert f"{80 - count} images, {count} for validation, 2 classes" in err
    assert f"{count} of the 80 images" in err
    assert "--val-ratio 0.25" in err
    meta = json.loads((tmp_path / "m-meta.json").read_text())
    assert meta["held_out"]["ratio"] == meta["config"]["val_ratio"] == 0.25
    assert checkpoint_files.describe(str(tmp_path / "m"), "auto").held_out["images"] == count

    # gone on with, without the flag: the same images; with another: said
    assert train(root, tmp_path / "m", "--load-epoch", "1", "--num-epochs", "2") == 0
    assert f"{80 - count} images, {count} for validation" in capsys.readouterr().err
    assert train(root, tmp_path / "m", "--load-epoch", "2", "--num-epochs", "2", "--val-ratio", "0.3") == 0
    assert "the run held out 0.25 until now" in capsys.readouterr().err

    # scored: of the folder of the training, wherever it lies now and whatever came to it, what was held out
    root = root.rename(tmp_path / "moved")
    assert score.main(["--model", str(tmp_path / "m"), "--data-val", str(root)]) == 0
    assert f"scoring the {count} of the 80 images" in capsys.readouterr().err
    assert score.main(["--model", str(tmp_path / "m"), "--data-val", str(root), "--val-ratio", "0"]) == 0
    assert "scored are" not in capsys.readouterr().err
    # photographs of their own are all scored, unless a part is asked for
    other = photos(tmp_path / "other", 20, 20, seed=5)
    assert score.main(["--model", str(tmp_path / "m"), "--data-val", str(other)]) == 0
    assert "scored are" not in capsys.readouterr().err
    assert score.main(["--model", str(tmp_path / "m"), "--data-val", str(other), "--val-ratio", ".5"]) == 0
    assert f"the {len(held_out(other, 0.5))} of the 40 images" in capsys.readouterr().err


def test_nothing_is_held_out_where_nobody_means_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = photos(tmp_path / "photos", 12, 12)
    val = photos(tmp_path / "val", 3, 3, seed=2)
    assert train(root, tmp_path / "a", "--data-val", str(val), "--val-ratio", "0.2") == 0
    err = capsys.readouterr().err
    assert "24 images, 6 for validation" in err
    assert "--val-ratio 0.2: has no effect here, it is for data without --data-val" in err
    assert json.loads((tmp_path / "a-meta.json").read_text())["held_out"] is None
    assert train(root, tmp_path / "b", "--val-ratio", "0") == 0
    assert "24 images, none for validation" in capsys.readouterr().err
    # a run from before there was such a setting goes on with all of its images
    meta = json.loads((tmp_path / "b-meta.json").read_text())
    del meta["config"]["val_ratio"], meta["held_out"]
    (tmp_path / "b-meta.json").write_text(json.dumps(meta))
    assert train(root, tmp_path / "b", "--load-epoch", "auto", "--num-epochs", "2") == 0
    assert "24 images, none for validation" in capsys.readouterr().err
    assert train(root, tmp_path / "c", "--val-ratio", "1") == 2
    assert "--val-ratio 1: must be at most 0.9" in capsys.readouterr().err


def test_what_validation_lacks_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = photos(tmp_path / "photos", 60, 1)
    assert train(root, tmp_path / "a") == 0
    assert "none of them is of class1: a larger --val-ratio" in capsys.readouterr().err
    root = photos(tmp_path / "few", 1, 1)
    assert train(root, tmp_path / "b", "--val-ratio", "0.001") == 0
    assert "no validation: of the 2 images" in capsys.readouterr().err


def test_a_pipe_in_a_list_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"bytes")
    (tmp_path / "x.lst").write_text("0\t0\ta.jpg\n1\t0\tb.jpg\n")
    fractions = holdout.fractions(open_source(str(tmp_path / "x.lst"), "`data_train`"))
    assert fractions[0] == 1 > fractions[1]
