"""imgcls-score --report: the figures are those of a plain count, the pictures those of the mistakes."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import imgcls
from imgcls.cli import score
from imgcls.inference.explain import grad_cam
from imgcls.inference.recorder import RecordingMetrics
from imgcls.report import diagrams, statistics
from imgcls.report.score_files import write_report
from imgcls.report.score_page import make_report, score_page
from imgcls.report.statistics import Predictions

NASTY = "<script>alert(1)</script>\x1b[31m"


def recorded(logits: np.ndarray, labels: np.ndarray, batch: int = 7) -> Predictions:
    recorder = RecordingMetrics(["accuracy"], torch.device("cpu"), len(labels), logits.shape[1])
    recorder.reset()
    for first in range(0, len(labels), batch):
        rows = slice(first, first + batch)
        recorder.update(torch.from_numpy(logits[rows]), torch.from_numpy(labels[rows]))
    assert recorder.values()["accuracy"] == (logits.argmax(1) == labels).mean()
    return recorder.predictions()


@pytest.fixture(scope="module")
def predictions() -> Predictions:
    """200 images of 6 classes; the last class has none."""
    chance = np.random.default_rng(0)
    labels = chance.integers(0, 5, 200)
    logits = chance.normal(size=(200, 6)).astype(np.float32)
    logits[np.arange(200), labels] += 1.5
    return recorded(logits, labels)


def parsed(page: bytes) -> ET.Element:
    return ET.fromstring(page.decode().replace("<!DOCTYPE html>", ""))


def test_counts_are_those_of_a_loop(predictions: Predictions) -> None:
    figures = statistics.class_figures(predictions)
    matrix = np.zeros((6, 6), int)
    for label, said in zip(predictions.labels, predictions.predicted, strict=True):
        matrix[label, said] += 1
    assert np.array_equal(statistics.confusion_matrix(predictions), matrix)
    for number in range(6):
        images, said, right = matrix[number].sum(), matrix[:, number].sum(), matrix[number, number]
        counted = figures.num_images[number], figures.num_said[number], figures.num_right[number]
        assert counted == (images, said, right)
        assert figures.precision[number] == pytest.approx(right / said)
        if images:
            assert figures.recall[number] == pytest.approx(right / images)
    assert np.isnan(figures.recall[5])


def test_calibration_is_that_of_the_paper(predictions: Predictions) -> None:
    found = statistics.calibration(predictions.confidence, predictions.is_right)
    expected = 0.0
    for number in range(15):
        inside = (predictions.confidence >= number / 15) & (predictions.confidence < (number + 1) / 15)
        if inside.any():
            gap = abs(predictions.confidence[inside].mean() - predictions.is_right[inside].mean())
            expected += inside.mean() * gap
            assert found.counts[number] == inside.sum()
    assert found.ece == pytest.approx(expected, abs=1e-6)
    sure = statistics.calibration(np.array([1.0, 1.0, np.nan]), np.array([True, False, False]))
    assert sure.counts.sum() == 3


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.5])
def test_the_temperature_is_found_again(temperature: float) -> None:
    """Labels drawn from softmax(logits / T): T fits them best."""
    chance = np.random.default_rng(1)
    logits = chance.normal(size=(20_000, 5)).astype(np.float32) * 2
    noise = chance.gumbel(size=logits.shape)
    labels = (logits / temperature + noise).argmax(1)
    assert statistics.fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def test_logits_are_kept_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    from imgcls.inference import recorder

    monkeypatch.setattr(recorder, "_MAX_LOGIT_BYTES", 4000)
    logits = np.arange(500 * 10, dtype=np.float32).reshape(500, 10)
    kept = recorded(logits, np.zeros(500, np.int64))
    assert kept.logits.nbytes <= 4000
    assert np.array_equal(kept.logits, logits[::5])  # evenly, wherever a batch begins
    assert len(kept.labels) == 500


def test_the_surest_mistakes_come_first(predictions: Predictions) -> None:
    mistakes = predictions.mistakes(10)
    assert len(mistakes) == 10
    assert not predictions.is_right[mistakes].any()
    confidence = predictions.confidence[mistakes]
    assert (np.diff(confidence) <= 0).all()
    assert confidence[-1] >= np.sort(predictions.confidence[~predictions.is_right])[-10]


@pytest.mark.parametrize("num_classes", [2, 6, 40, 600, 3000])
def test_pages_of_few_and_many_classes(num_classes: int, tmp_path: Path) -> None:
    chance = np.random.default_rng(2)
    labels = chance.integers(0, num_classes, 300)
    report = make_report("net", "data", {"accuracy": 0.5}, [NASTY] * num_classes,
                         recorded(chance.normal(size=(300, num_classes)).astype(np.float32), labels))
    page = score_page(report)
    assert len(page) < 400_000
    assert b"<script" not in page
    tree = parsed(page)
    has_picture = diagrams.MAX_NAMED_CLASSES < num_classes <= diagrams.MAX_MATRIX_CLASSES
    assert len(list(tree.iter("img"))) == has_picture
    path = write_report(str(tmp_path / "out"), report)
    assert path == str(tmp_path / "out" / "report.html")
    with (tmp_path / "out" / "classes.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == num_classes
    assert sum(int(row["images"]) for row in rows) == 300
    assert (tmp_path / "out" / "confusion.png").exists() == (num_classes <= diagrams.MAX_MATRIX_CLASSES)


def test_nothing_wrong_and_all_wrong() -> None:
    for sign in (1, -1):
        logits = sign * 9 * np.eye(3, dtype=np.float32)
        parsed(score_page(make_report("net", "data", {}, [], recorded(logits, np.arange(3)))))
    logits = np.full((3, 3), np.nan, np.float32)
    parsed(score_page(make_report("net", "data", {}, [], recorded(logits, np.arange(3)))))


def test_where_a_network_looked() -> None:
    """A network whose class 1 counts what is bright: it looked where the image is."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(1, 2, 3, padding=1, bias=False)
    with torch.no_grad():
        convolution.weight[0] = -1.0
        convolution.weight[1] = 1.0
    model = nn.Sequential(convolution, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for parameter in model.parameters():
        parameter.requires_grad_(False)  # as networks are loaded for prediction
    image = torch.zeros(2, 1, 16, 16)
    image[0, 0, 2:6, 3:7] = 1.0
    image[1, 0, 10:14, 9:13] = 1.0
    heat = grad_cam(model, image, torch.tensor([1, 1]))
    assert heat is not None
    assert heat.shape == (2, 16, 16)
    assert heat[0, 2:6, 3:7].min() > 0.4
    assert heat[0, 10:14, 9:13].max() == 0
    assert heat[1, 10:14, 9:13].min() > 0.4
    assert float(heat.max()) == pytest.approx(1.0)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(256, 2))
    pixels = grad_cam(flat, image, torch.tensor([0, 1]))
    assert pixels is not None
    assert pixels[0, 10:, 10:].max() == 0
    assert grad_cam(flat, torch.zeros(2, 256), torch.tensor([0, 1])) is None


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of ten pictures, one of them damaged, and a network that knows them badly."""
    folder, chance = tmp_path_factory.mktemp("score"), np.random.default_rng(0)
    images = []
    for _number, name in enumerate(("cat & <b>", "dog")):
        (folder / "val" / name).mkdir(parents=True)
        for count in range(10):
            image = chance.integers(0, 255, (20 + count, 24, 3), dtype=np.uint8)
            images.append(image[:16, :16, ::-1].transpose(2, 0, 1))
            (folder / "val" / name / f"{count}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    (folder / "val" / "dog" / "3.png").write_bytes(b"no picture")
    imgcls.fit((np.stack(images), np.arange(20) % 2), network="lenet", num_epochs=1, batch_size=10, lr=0.01,
               model_prefix=str(folder / "net"))
    return folder


def test_the_command(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    flags = ["--model", str(photos / "net"), "--data-val", str(photos / "val"), "--batch-size", "4"]
    assert score.main(flags) == 0
    plain = capsys.readouterr().out
    assert score.main([*flags, "--report", str(out)]) == 0
    told = capsys.readouterr().out
    assert f"report: {out / 'report.html'}" in told
    assert plain.splitlines()[0] == told.splitlines()[0]  # the metrics are the same
    with (out / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 19
    assert [int(row["image"]) for row in rows] == [*range(13), *range(14, 20)]  # dog/3.png is damaged
    right = sum(row["label"] == row["predicted"] for row in rows)
    assert f"accuracy={right / 19:f}" in told
    tree = parsed((out / "report.html").read_bytes())
    captions = [" ".join(element.itertext()) for element in tree.iter("figcaption")]
    mistakes = [caption for caption in captions if "predicted as" in caption and "(" in caption]
    assert len(mistakes) == 19 - right
    assert len(list(tree.iter("img"))) == 2 * (19 - right)
    assert {path.name for path in out.iterdir()} == {
        "report.html", "classes.csv", "confusion.csv", "predictions.csv", "calibration.csv", "reliability.png",
        "confusion.png", "mistakes.png"}


def test_a_report_that_cannot_be_written(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    assert score.main(["--model", str(photos / "net"), "--data-val", str(photos / "val"), "--report",
                       str(tmp_path / "file")]) == 1
    _out, err = capsys.readouterr()
    assert "cannot write" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert len(err.splitlines()) == 1, "before the network runs"
