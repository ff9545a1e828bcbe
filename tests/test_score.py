"""imgcls-score on folders, records and data sets, by prefix, .params file and torchvision's name."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import imgcls
from imgcls.cli import im2rec, score, train


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of eight pictures, 20 x 24, in folders and in packed.rec."""
    folder, chance = tmp_path_factory.mktemp("score") / "photos", np.random.default_rng(0)
    for number, name in enumerate(("a", "b", "c")):
        (folder / name).mkdir(parents=True)
        for count in range(8):
            image = chance.integers(0, 160, (20, 24, 3), dtype=np.uint8)
            image[..., number] += 80
            cv2.imwrite(str(folder / name / f"{count}.png"), image)
    assert im2rec.main(["--list", "--recursive", str(folder.parent / "packed"), str(folder)]) == 0
    assert im2rec.main(["--pass-through", str(folder.parent / "packed"), str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def prefix(photos: Path) -> Path:
    """A network of seven classes that learned those three, with a mean."""
    images = np.stack([cv2.imread(str(path))[2:18, 4:20, ::-1] for path in sorted(photos.glob("*/*.png"))])
    labels = np.arange(24) // 8
    imgcls.fit((images.transpose(0, 3, 1, 2).copy(), labels), network="mlp", num_classes=7, num_epochs=15,
               batch_size=8,
               lr=0.02, rgb_mean="110,110,110", rgb_std="60", model_prefix=str(photos.parent / "net"))
    return photos.parent / "net"


def run(capsys: pytest.CaptureFixture[str], *flags: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = score.main([str(flag) for flag in flags])
    return status, *capsys.readouterr()


def test_log_lines_of_mxnet_and_ours(prefix: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "--model", prefix, "--data-val", photos)
    assert status == 0
    scores = dict(re.findall(r"^(\S+)=(\d+\.\d{6})$", out, re.M))
    assert list(scores) == ["accuracy", "top_k_accuracy_5", "images/sec"]
    assert float(scores["accuracy"]) > 0.8
    assert float(scores["top_k_accuracy_5"]) >= float(scores["accuracy"])
    log_lines = [line for line in err.splitlines() if line.startswith("INFO:root:")]
    assert log_lines[0] == f"INFO:root:Finished with {scores['images/sec']} images per second"
    assert re.fullmatch(r"INFO:root:\('accuracy', [\d.]+\)", log_lines[1])
    assert re.fullmatch(r"INFO:root:\('top_k_accuracy_5', [\d.]+\)", log_lines[2])
    assert f"images: 3,16,16 cut as stored, mean 110,110,110, std 60 (as {prefix}-meta.json has it)" in err


def test_records_and_folders_agree(prefix: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, folder, _ = run(capsys, "--model", prefix, "--data-val", photos, "--loss", "ce")
    status, records, _ = run(capsys, "--model", f"{prefix}-0015.params", "--data-val",
                             photos.parent / "packed.rec",
                             "--loss", "ce", "--batch-size", "5")
    assert status == 0
    numbers = [[float(value) for value in re.findall(r"(?:accuracy|entropy)=(\S+)", out)]
               for out in (folder, records)]
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-5)
    assert len(numbers[0]) == 2


def test_the_data_set_is_that_of_the_training(photos: Path, tmp_path: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val"):
        (tmp_path / split).symlink_to(photos)
    assert train.main(["--dataset", "imagenet", "--data-dir", str(tmp_path), "--network", "mlp",
                       "--num-classes", "3",
                       "--image-shape", "3,16,16", "--num-epochs", "1", "--model-prefix",
                       str(tmp_path / "net")]) == 0
    # not mnist, downloaded there
    status, out, err = run(capsys, "--model", tmp_path / "net", "--data-dir", tmp_path)
    assert status == 0, err
    assert out.startswith("accuracy=")
    status, out, err = run(capsys, "--model", tmp_path / "net")
    assert (status, out) == (2, "")
    assert "--data-val is missing" in err


def test_another_mean_gives_another_score(prefix: Path, photos: Path,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    losses = []
    for flags in ([], ["--rgb-mean", "110,110,110"], ["--rgb-mean", "0,0,0"]):
        _, out, err = run(capsys, "--model", prefix, "--data-val", photos, "--loss", "ce", *flags)
        losses.append(re.findall(r"cross-entropy=(\S+)", out)[0])
    assert losses[0] == losses[1] != losses[2]
    assert "mean 0,0,0, std 60 (as " in err
    assert "but for --rgb-mean (it has 110,110,110))" in err


def test_torchvision(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    torch.save(models.mobilenet_v3_small(num_classes=5).state_dict(), tmp_path / "w.pth")
    status, out, err = run(capsys, "--model", f"torchvision:mobilenet_v3_small:{tmp_path / 'w.pth'}",
                           "--data-val",
                           photos, "--image-shape", "3,32,32", "--top-k", 3)
    assert status == 0
    assert "top_k_accuracy_3=" in out
    assert "its 5 classes: class k of the 3 classes of the data ('a' is 0) is taken for its class k" in err


@pytest.mark.parametrize(("flags", "message"), [
    (["--model", "nowhere/net", "--data-val", "PHOTOS"],
     "--model nowhere/net: there is no nowhere/net-0001.params"),
    (["--model", "PREFIX"], "score on"),
    (["--data-val", "PHOTOS"], "--model is missing"),
    (["--model", "PREFIX", "--data-val", "PHOTOS", "--image-shape", "3,9,9"],
     "--image-shape 3,9,9: the network"),
    (["--model", "PREFIX", "--data-val", "PHOTOS", "--load-epoch", "99"], "--load-epoch 99: "),
    (["--model", "PREFIX", "--data-val", "PHOTOS", "--top-k", "7"], "--top-k 7: must be from 2 to 6"),
    (["--model", "PREFIX", "--data-val", "nothing"], "--data-val nothing"),
])
def test_wrong_usage(flags: list[str], message: str, prefix: Path, photos: Path,
                     capsys: pytest.CaptureFixture[str]) -> None:
    flags = [{"PHOTOS": str(photos), "PREFIX": str(prefix)}.get(flag, flag) for flag in flags]
    status, _, err = run(capsys, "--dataset", "imagenet", *flags)
    assert (status, message in err.splitlines()[-1]) == (2, True), err


def test_more_classes_than_the_network_has(photos: Path, tmp_path: Path,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    chance = np.random.default_rng(0)
    imgcls.fit((chance.integers(0, 255, (4, 3, 16, 16), dtype=np.uint8), np.arange(4) % 2), network="mlp",
               num_epochs=1,
               model_prefix=str(tmp_path / "two"))
    status, _, err = run(capsys, "--model", tmp_path / "two", "--data-val", photos.parent / "packed.rec")
    assert status == 2
    assert "go from 0 to 2, and " in err.splitlines()[-1]
    assert "has the classes 0 to 1" in err.splitlines()[-1]
