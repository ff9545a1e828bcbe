"""The Python interface: fit on arrays, load_model and Predictor on checkpoints, ours and MXNet's."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import real_data, recorded_network

import imgcls
from imgcls.cli import score
from imgcls.errors import DataError, UsageError
from imgcls.formats import params, symbol


def stripes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Two classes that anything can tell apart: upright and flat stripes."""
    chance = np.random.default_rng(count)
    labels = chance.integers(0, 2, count)
    pattern = np.where(np.arange(16) // 2 % 2, 200, 20).astype(np.uint8)
    images = np.stack([np.tile(pattern, (16, 1)) if label else np.tile(pattern[:, None], 16)
                       for label in labels])
    return images + chance.integers(0, 40, images.shape).astype(np.uint8), labels


def test_a_period_of_validation_without_any_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    told = "warning: val_period 2: has no effect here, it is for runs with validation data"
    data = stripes(20)
    imgcls.fit(data, network="mlp", batch_size=10, num_epochs=2, val_period=2)
    assert told in capsys.readouterr().err
    for val, settings in ((data, {"val_period": 2}), (None, {"val_period": 1}), (None, {})):
        imgcls.fit(data, val, network="mlp", batch_size=10, num_epochs=2, **settings)
        assert capsys.readouterr().err == ""


def test_the_seeds_example_in_six_lines() -> None:
    """NDArrayIter + fit: flat float rows, a mlp, validation."""
    images, labels = stripes(300)
    X, y = images.reshape(300, -1).astype("float32") / 256.0, labels  # noqa: N806 - as in the seed
    train, val = (X[:200], y[:200]), (X[200:], y[200:])
    result = imgcls.fit(train, val, network="mlp", batch_size=100, num_epochs=8, lr=0.1)
    assert result.metrics["accuracy"] == 1.0
    with torch.no_grad():
        assert (result.model(torch.from_numpy(X[200:])).argmax(1).numpy() == y[200:]).all()


def test_images_and_keywords(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = str(tmp_path / "net")
    result = imgcls.fit(stripes(200), val=stripes(50), network="lenet", num_epochs=2, model_prefix=prefix)
    assert result.metrics["accuracy"] > 0.9
    assert capsys.readouterr() == ("", "")
    again = imgcls.load_model(prefix, 2)
    images = torch.from_numpy(stripes(50)[0])[:, None].float() / 255
    with torch.no_grad():
        assert torch.allclose(again(images), result.model(images), atol=1e-5)
    predictor = imgcls.Predictor(prefix, 2)
    image, label = (values[0] for values in stripes(50))
    (name, score), (_, other_score) = predictor(image)
    assert (name, score > 0.5) == (str(label), True)
    assert score + other_score == pytest.approx(1)


def test_pictures_are_read_from_files(tmp_path: Path) -> None:
    import cv2

    prefix = str(tmp_path / "net")
    images, labels = stripes(200)
    imgcls.fit((images, labels), network="lenet", num_epochs=2, model_prefix=prefix)
    cv2.imwrite(str(tmp_path / "a.png"), cv2.resize(images[0], (40, 24), interpolation=cv2.INTER_NEAREST))
    assert len(imgcls.Predictor(prefix)(tmp_path / "a.png")) == 2
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"b\.png: "):
        imgcls.Predictor(prefix)(tmp_path / "b.png")


@pytest.mark.parametrize(("train", "settings", "message"), [
    ((np.zeros((3, 4, 4)), np.zeros(2)), {}, "3 images but 2 labels"),
    ((np.zeros((3, 4, 4)), np.array([0, 1, 0.5])), {}, "labels must be one whole number per image"),
    ((np.zeros((3, 4, 4)), np.array([0, 1, np.nan])), {}, "labels must be one whole number per image"),
    ((np.zeros((3, 4, 4)), np.array(["cat", "dog", "cat"])), {}, "labels must be one whole number per image"),
    ((np.zeros((3, 4, 4)), np.array([0, None, 1])), {}, "labels must be one whole number per image"),
    (np.zeros((3, 4, 4)), {}, "pair"),
    ((np.zeros((3, 5)), np.zeros(3)), {"image_shape": "1,2,3"}, "have 5 values"),
    ((np.zeros((3, 4, 4)), np.zeros(3)), {"num_epoch": 1}, "did you mean num_epochs"),
    ((np.zeros((3, 4, 4)), np.zeros(3)), {"test_io": True}, "test_io: reads the data and trains nothing"),
    ((np.zeros((3, 4, 4)), np.zeros(3)), {"find_lr": "lr.svg"}, "find_lr: trains nothing that stays"),
    ((np.zeros((3, 4, 4)), np.zeros(3)), {"find_batch_size": "b.svg"}, "imgcls-train --find-batch-size"),
])
def test_wrong_arguments(train: object, settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        imgcls.fit(train, **settings)


def test_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no"):
        imgcls.load_model(tmp_path / "none")
    params.save(tmp_path / "net-0001.params", {"arg:w": np.zeros(3, np.float32)})
    with pytest.raises(DataError, match="symbol"):
        imgcls.load_model(tmp_path / "net")


@pytest.mark.parametrize("name", ["mlp", "lenet", "lenet-stn"])
def test_networks_of_mxnet(name: str, tmp_path: Path) -> None:
    """Through the symbol and through our own class: MXNet's softmax, and its files back byte for byte."""
    from imgcls import graph
    from imgcls.config.sections import NetworkConfig
    from imgcls.networks import build_network

    recorded = recorded_network(name)
    prefix = recorded.save(tmp_path)
    data = torch.from_numpy(recorded.images)
    built = build_network(NetworkConfig(network=name.removesuffix("-stn"), add_stn=name.endswith("stn"),
                                        image_shape=tuple(data.shape[1:])), seed=0)
    graph.load_arrays(built, params.load(f"{prefix}-0003.params"), path="x")
    for model in (imgcls.load_model(prefix, 3), built.eval()):
        with torch.no_grad():
            assert np.abs(model(data).softmax(1).numpy() - recorded.softmax).max() < 1e-5
        symbol.save(tmp_path / "s.json", graph.to_symbol(model))
        assert (tmp_path / "s.json").read_bytes() == recorded.symbol_path.read_bytes()
        params.save(tmp_path / "p.params", graph.arrays(model))
        assert hashlib.sha256((tmp_path / "p.params").read_bytes()).hexdigest() == recorded.params_sha256


@pytest.mark.real_data
def test_a_foreign_checkpoint_scores_as_published(capsys: pytest.CaptureFixture[str]) -> None:
    from imgcls.cli import score

    prefix = real_data("mxnet-models", "mnist-mentalblood") / "mnist"
    assert score.main(["--model", str(prefix), "--load-epoch", "35", "--data-dir",
                       str(real_data("mnist"))]) == 0
    assert "accuracy=0.990300" in capsys.readouterr().out


def test_networks_of_torchvision_are_saved_without_a_symbol(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    chance = np.random.default_rng(0)
    images, labels = chance.integers(0, 255, (8, 3, 32, 32), dtype=np.uint8), np.arange(8) % 2
    prefix = tmp_path / "net"
    result = imgcls.fit((images, labels), network="torchvision:squeezenet1_1", num_epochs=1, batch_size=4,
                        model_prefix=str(prefix))
    assert not Path(f"{prefix}-symbol.json").exists()
    inputs = torch.from_numpy(images).float() / 255
    with torch.no_grad():
        assert torch.allclose(imgcls.load_model(prefix)(inputs), result.model(inputs), atol=1e-5)


def test_a_checkpoint_of_arrays_names_no_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imgcls.fit(stripes(64), network="mlp", num_epochs=1, model_prefix=str(tmp_path / "net"))
    assert "dataset" not in json.loads((tmp_path / "net-meta.json").read_text())["config"]
    assert score.main(["--model", str(tmp_path / "net")]) == 2
    assert "--data-val is missing: give the data to score on" in capsys.readouterr().err
