"""What training's validation does to an image, score and predict do to it, too."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import imgcls
from imgcls.cli import finetune, im2rec, predict, score, train
from imgcls.errors import DataError, UsageError
from imgcls.formats import params

SIZES = ((20, 24), (41, 33), (90, 120), (26, 26), (150, 130), (17, 60))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of six pictures of six sizes, in train/ and val/, packed.rec of the latter, and a mean image."""
    folder, chance = tmp_path_factory.mktemp("preprocessing"), np.random.default_rng(3)
    for split in ("train", "val"):
        for number, name in enumerate(("a", "b", "c")):
            (folder / split / name).mkdir(parents=True)
            for count, size in enumerate(SIZES):
                image = cv2.resize(chance.integers(0, 160, (9, 9, 3), dtype=np.uint8), size[::-1])
                image[..., number] += 50
                cv2.imwrite(str(folder / split / name / f"{count}.png"), image)
    arguments = [str(folder / "packed"), str(folder / "val")]
    assert im2rec.main(["--list", "--recursive", *arguments]) == 0
    assert im2rec.main(["--pass-through", *arguments]) == 0
    mean = chance.uniform(0, 160, (3, 24, 24)).astype(np.float32)
    params.save(folder / "mean.bin", {"mean_img": mean})
    return folder


Train = Callable[..., float]


@pytest.fixture
def train_net(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Train:
    """Return a function that trains `tmp_path`/net on the photos and returns its validation's cross-entropy."""

    def run(*flags: object, data: tuple[str, ...] = ()) -> float:
        arguments = [*(data or ("--data-dir", str(photos), "--dataset", "imagenet")), "--network", "mlp",
                     "--image-shape", "3,24,24", "--rgb-std", "80", "--num-epochs", "2", "--lr", "0.01",
                     "--loss", "ce", "--batch-size", "8", "--data-nthreads", "0", "--model-prefix",
                     str(tmp_path / "net"), *map(str, flags)]
        assert train.main(arguments) == 0, capsys.readouterr().err
        return entropy(capsys.readouterr().out)

    return run


def entropy(out: str) -> float:
    return float(re.findall(r"cross-entropy=(\S+)", out)[-1])


def run_score(capsys: pytest.CaptureFixture[str], *flags: object) -> tuple[float, str]:
    capsys.readouterr()
    status = score.main([*map(str, flags), "--loss", "ce", "--data-nthreads", "0"])
    out, err = capsys.readouterr()
    assert status == 0, err
    return entropy(out), err


def predicted(prefix: Path, photos: Path) -> float:
    """Return the cross-entropy of the validation pictures, one by one, as `Predictor` names them."""
    predictor = imgcls.Predictor(prefix, top=99)
    losses = [-np.log(dict(predictor(path))[path.parent.name]) for path in sorted(photos.glob("val/*/*.png"))]
    return float(np.mean(losses))


@pytest.mark.parametrize("flags", [
    [], ["--rgb-mean", "90,100,110"], ["--rgb-std", "50,60,70"], ["--mean-image", "MEAN"],
    ["--resize", "30"], ["--resize", "30", "--val-resize", "0"], ["--val-resize", "28"], ["--val-resize", "0"],
    ["--val-resize", "26", "--interpolation", "cubic"], ["--val-resize", "26", "--interpolation", "antialias"],
    ["--val-resize", "26", "--interpolation", "random"], ["--interpolation", "auto"],
    ["--image-shape", "1,24,24"], ["--image-shape", "3,20,28"], ["--random-resized-crop", "0"],
    ["--pad-size", "3", "--random-crop", "1", "--fill-value", "9"], ["--min-crop-size", "12",
                                                                     "--max-crop-size", "16"],
])
def test_every_setting_travels(flags: list[str], train_net: Train, photos: Path, tmp_path: Path,
                               capsys: pytest.CaptureFixture[str]) -> None:
    expected = train_net(*[str(photos / "mean.bin") if flag == "MEAN" else flag for flag in flags])
    prefix = tmp_path / "net"
    from_files, err = run_score(capsys, "--model", prefix, "--data-val", photos / "val")
    from_records, _ = run_score(capsys, "--model", prefix, "--data-val", photos / "packed.rec")
    assert [from_files, from_records] == pytest.approx([expected, expected], abs=2e-6)
    assert predicted(prefix, photos) == pytest.approx(expected, abs=1e-4)
    assert f"(as {prefix}-meta.json has it)" in err


def test_predict_and_score_name_the_same(train_net: Train, photos: Path, tmp_path: Path,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    train_net()
    prefix = str(tmp_path / "net")
    assert json.loads(Path(f"{prefix}-meta.json").read_text())["preprocessing"]["val_resize"] == 0
    paths = [str(path) for path in sorted(photos.glob("val/*/*.png"))]
    assert predict.main(["--model", prefix, "--top", "1", *paths]) == 0
    out, err = capsys.readouterr()
    names = re.findall(r": (\w) \(score", out)
    num_right = sum(name == Path(path).parent.name for name, path in zip(names, paths, strict=True))
    score.main(["--model", prefix, "--data-val", str(photos / "packed.rec")])
    assert f"accuracy={num_right / len(paths):f}" in capsys.readouterr().out
    assert err == (f"images: 3,24,24 cut as stored, mean 123.68,116.779,103.939, std 80 (as {prefix}-meta.json "
                   "has it)\n")


# ---- the mean image


def with_mean(train_net: Train, photos: Path, *flags: object) -> float:
    return train_net("--mean-image", photos / "mean.bin", *flags)


def test_a_mean_image_goes_where_the_checkpoint_goes(train_net: Train, photos: Path, tmp_path: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    copy = photos / "copy.bin"
    shutil.copy(photos / "mean.bin", copy)
    expected = train_net("--mean-image", copy)
    copy.unlink()  # nobody keeps it
    for name in ("-symbol.json", "-0002.params", "-meta.json", "-mean.bin"):
        shutil.move(f"{tmp_path}/net{name}", f"{tmp_path}/moved{name}")
    loss, err = run_score(capsys, "--model", tmp_path / "moved", "--data-val", photos / "val")
    assert loss == pytest.approx(expected, abs=2e-6)
    assert f"mean {tmp_path}/moved-mean.bin, std 80" in err
    assert run_score(capsys, "--model", f"{tmp_path}/moved-0002.params", "--data-val", photos / "packed.rec"
                     )[0] == pytest.approx(expected, abs=2e-6)
    loss, _ = run_score(capsys, "--model", f"file://{tmp_path}/moved", "--data-val", photos / "packed.rec")
    assert loss == pytest.approx(expected, abs=2e-6)
    assert np.array_equal(params.load(f"{tmp_path}/moved-mean.bin")["mean_img"],
                          params.load(photos / "mean.bin")["mean_img"])


def test_a_mean_image_that_is_missing_or_another(train_net: Train, photos: Path, tmp_path: Path,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    with_mean(train_net, photos)
    prefix = tmp_path / "net"
    mean = Path(f"{prefix}-mean.bin")
    content = mean.read_bytes()
    picture = str(next(photos.glob("val/*/*.png")))
    for change, message in ((mean.unlink, "no such file or directory: the mean image that"),
                            (lambda: mean.write_bytes(content[:-4] + b"\0\0\0\0"), "is not the mean image that")):
        change()
        for command in (["--data-val", str(photos / "val")], [picture]):
            main = predict.main if command == [picture] else score.main
            assert main(["--model", str(prefix), *command]) == 1
            assert f"{prefix}-mean.bin: {message}" in capsys.readouterr().err.splitlines()[-1]
        with pytest.raises(DataError, match="bring it along, or give mean_image FILE or rgb_mean"):
            imgcls.Predictor(prefix)
        imgcls.load_model(prefix)  # the network itself needs none
    _, err = run_score(capsys, "--model", prefix, "--data-val", photos / "val", "--rgb-mean", "1")
    assert "mean 1, std 80" in err
    assert "but for --rgb-mean (it has a mean image))" in err
    _, err = run_score(capsys, "--model", prefix, "--data-val", photos / "val", "--mean-image",
                       photos / "mean.bin")
    assert "but for --mean-image (it has another))" in err


def test_a_mean_image_of_another_shape(train_net: Train, photos: Path, tmp_path: Path,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    with_mean(train_net, photos)
    assert finetune.main(["--pretrained-model", str(tmp_path / "net"), "--data-dir", str(photos), "--image-shape",
                          "3,24,20", "--model-prefix", str(tmp_path / "tuned")]) != 0
    assert "24" in capsys.readouterr().err.splitlines()[-1]


def test_fine_tuning_and_resuming_with_a_mean_image(train_net: Train, photos: Path, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    with_mean(train_net, photos)
    tuned = tmp_path / "tuned"
    flags = ["--data-dir", str(photos), "--model-prefix", str(tuned), "--loss", "ce", "--batch-size", "8"]
    assert finetune.main(["--pretrained-model", str(tmp_path / "net"), *flags, "--num-epochs", "1"]) == 0
    for end in ("symbol.json", "meta.json", "mean.bin"):  # the new checkpoint has its own
        Path(f"{tmp_path}/net-{end}").unlink()
    assert finetune.main(["--resume", *flags, "--num-epochs", "2"]) == 0
    out, err = capsys.readouterr()
    loss, _ = run_score(capsys, "--model", tuned, "--data-val", photos / "val")
    assert loss == pytest.approx(entropy(out), abs=2e-6)
    assert f"mean {tuned}-mean.bin, std 80" in err


def test_resuming_without_the_flags_of_before(train_net: Train, photos: Path, tmp_path: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--rgb-std", "50,60,70", "--val-resize", "28", "--interpolation", "cubic")
    with_mean(train_net, photos, *flags)
    before = json.loads((tmp_path / "net-meta.json").read_text())["preprocessing"]
    data = ["--data-dir", str(photos), "--dataset", "imagenet", "--network", "mlp", "--model-prefix",
            str(tmp_path / "net"), "--load-epoch", "auto", "--batch-size", "8", "--lr", "0.01"]
    assert train.main([*data, "--num-epochs", "3"]) == 0
    err = capsys.readouterr().err
    assert ("note: images are prepared as until now: --image-shape 3,24,24, --rgb-std 50,60,70, --interpolation "
            f"cubic, --mean-image {tmp_path}/net-mean.bin") in err
    assert json.loads((tmp_path / "net-meta.json").read_text())["preprocessing"] == before
    assert train.main([*data, "--num-epochs", "4", "--rgb-mean", "5", "--rgb-std", "9"]) == 0
    err = capsys.readouterr().err
    assert "warning: --rgb-std 9: the run was trained with 50,60,70 until now" in err
    assert "warning: --rgb-mean 5: the run was trained with a mean image until now" in err
    after = json.loads((tmp_path / "net-meta.json").read_text())["preprocessing"]
    assert (after["mean"], after["std"], after["mean_image"], after["val_resize"]) == ([5.0], [9.0], None, 28)


def test_resuming_where_the_mean_image_is_gone(train_net: Train, photos: Path, tmp_path: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    with_mean(train_net, photos)
    Path(f"{tmp_path}/net-mean.bin").unlink()
    with pytest.raises(AssertionError, match=r"net-mean.bin: no such file or directory: the mean image that"):
        train_net("--load-epoch", "auto", "--num-epochs", "3")
    assert not Path(f"{tmp_path}/net-mean.bin").exists()  # it was not made anew of the data


def test_the_first_checkpoints_of_ours(train_net: Train, photos: Path, tmp_path: Path,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    """They did not note what was decided: score decides for the set as training did, and predict says it."""
    expected = train_net()
    path = tmp_path / "net-meta.json"
    meta = json.loads(path.read_text())
    meta["preprocessing"]["val_resize"] = None
    path.write_text(json.dumps(meta))
    assert run_score(capsys, "--model", tmp_path / "net", "--data-val", photos / "val")[0] == pytest.approx(
        expected, abs=2e-6)
    assert predict.main(["--model", str(tmp_path / "net"), str(next(photos.glob("val/*/*.png")))]) == 0
    assert "does not say whether images are resized first" in capsys.readouterr().err


@pytest.mark.parametrize(("key", "value"), [
    ("std", ["x"]), ("interpolation", "sharp"), ("mean_image", "net-mean.bin"), ("image_shape", [3, 24])])
def test_damaged_meta_data(key: str, value: object, train_net: Train, photos: Path, tmp_path: Path,
                           capsys: pytest.CaptureFixture[str]) -> None:
    train_net()
    path = tmp_path / "net-meta.json"
    meta = json.loads(path.read_text())
    meta["preprocessing"][key] = value
    path.write_text(json.dumps(meta))
    assert score.main(["--model", str(tmp_path / "net"), "--data-val", str(photos / "val")]) == 1
    assert str(path) in capsys.readouterr().err.splitlines()[-1]


def test_meta_data_of_another_network(train_net: Train, photos: Path, tmp_path: Path) -> None:
    train_net()
    shutil.copy(tmp_path / "net-meta.json", tmp_path / "kept.json")
    train_net("--image-shape", "3,16,16")
    shutil.copy(tmp_path / "kept.json", tmp_path / "net-meta.json")
    with pytest.raises(DataError, match=r"net-meta.json: is not of this network: image_shape 3,24,24"):
        imgcls.Predictor(tmp_path / "net")


def test_weights_of_an_earlier_run_under_the_prefix(train_net: Train, photos: Path, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    train_net("--num-epochs", "3", "--rgb-mean", "7")
    train_net("--num-epochs", "1")
    for flags in (["--load-epoch", "3"], []):
        for end in ("", "-0003.params"):
            _, err = run_score(capsys, "--model", f"{tmp_path}/net{end}", "--data-val", photos / "val", *flags)
            assert ("note: epoch 3 is of an earlier run under this prefix, and what" in err) == bool(flags or end)


def test_pictures_much_larger_than_those_of_the_training(photos: Path, tmp_path: Path) -> None:
    arrays = np.zeros((4, 1, 28, 28), np.uint8), np.arange(4) % 2
    imgcls.fit(arrays, network="mlp", num_epochs=1, model_prefix=str(tmp_path / "n"))
    picture = next(photos.glob("val/a/4.png"))
    predictor = imgcls.Predictor(tmp_path / "n")
    predictor(picture)
    assert predictor.notes[-1] == (
        f"note: the centre 28x28 is cut as in its training, from {picture} as stored (short edge about 130); "
        "`val_resize` 32 would shrink them to a short edge of 32 first, so that the network sees more of them")
    predictor = imgcls.Predictor(tmp_path / "n", val_resize=32)
    predictor(picture)
    assert not predictor.notes[-1].startswith("note: the centre")


def test_networks_that_learned_arrays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their data set is none that could be scored on, and the scale of floats is not known."""
    arrays = np.zeros((4, 1, 28, 28), np.float32), np.arange(4) % 2
    imgcls.fit(arrays, network="mlp", num_epochs=1, model_prefix=str(tmp_path / "n"))
    assert any("trained on arrays of floats" in note for note in imgcls.Predictor(tmp_path / "n").notes)
    assert score.main(["--model", str(tmp_path / "n")]) == 2  # and not MNIST, downloaded
    assert "--data-val is missing" in capsys.readouterr().err


def test_a_crop_of_another_size(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The resize goes with the crop of the training: it grows with it, for all images alike."""
    arrays = np.zeros((4, 3, 24, 24), np.uint8), np.arange(4) % 2
    imgcls.fit(arrays, network="resnet", num_layers=20, num_epochs=1, val_resize=32, model_prefix=str(tmp_path / "n"))
    predictor = imgcls.Predictor(tmp_path / "n", image_shape="3,48,48")
    assert predictor.notes[0].startswith("images: 3,48,48 cut from a short edge of 64, mean 0, std 255 (as ")
    assert predictor.notes[0].endswith("but for `image_shape` (it has 3,24,24))")


def test_arrays_and_pictures_agree(tmp_path: Path) -> None:
    """Arrays that have to be enlarged, or made grey, become what a picture in a file becomes."""
    images = np.random.default_rng(0).integers(0, 255, (24, 3, 20, 20), dtype=np.uint8)
    labels = np.arange(24) % 3
    result = imgcls.fit((images, labels), (images, labels), network="mlp", num_epochs=2, image_shape="1,28,28",
                        loss="ce", lr=0.01, batch_size=8, model_prefix=str(tmp_path / "n"))
    predictor = imgcls.Predictor(tmp_path / "n", top=3)
    losses = [-np.log(dict(predictor(np.ascontiguousarray(image.transpose(1, 2, 0))))[str(label)])
              for image, label in zip(images, labels, strict=True)]
    assert np.mean(losses) == pytest.approx(result.metrics["cross-entropy"], abs=1e-5)
    with pytest.raises(UsageError, match=r"must be uint8 \(H, W\) or \(H, W, C\) in RGB, not float64 4x4"):
        predictor(np.zeros((4, 4)))
    with pytest.raises(UsageError, match="setting lr is not known"):
        imgcls.Predictor(tmp_path / "n", lr=1)
