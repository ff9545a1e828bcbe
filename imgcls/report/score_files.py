"""The folder that `imgcls-score --report` fills: the page, and what is on it as CSV and PNG."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from imgcls.report import diagrams, statistics
from imgcls.report.score_page import ScoreReport, matrix_png, score_page
from imgcls.report.tables import safe_cell
from imgcls.storage.atomic import atomic_write
from imgcls.storage.paths import to_path

#: a matrix of more classes is written as a list of pairs: most of its cells are empty
_MAX_TABLE_CLASSES = 500


def write_report(folder: str, report: ScoreReport, mistakes: str = "", mistakes_png: bytes = b"",
                 indices: np.ndarray | None = None) -> str:
    """Write all files into `folder`, a path or a URL; return the path of the page.

    `indices` int64 (N,) is the index in the data of each prediction of the report, None where no image was
    left out. RunError on a full disk.
    """
    from imgcls.data.opencv import cv2

    files = {"report.html": score_page(report, mistakes),
             "classes.csv": _csv(["class", "name", "images", "said", "right", "precision", "recall", "f1"],
                                 _class_rows(report)),
             "confusion.csv": _confusion_csv(report),
             "predictions.csv": _csv(["image", "label", "predicted", "confidence", "label_probability"],
                                     _prediction_rows(report, indices)),
             "calibration.csv": _csv(["from", "to", "images", "confidence", "right"], _bin_rows(report)),
             "reliability.png": cv2.imencode(".png", diagrams.reliability_pixels(report.before))[1].tobytes()}
    if report.predictions.num_classes <= diagrams.MAX_MATRIX_CLASSES:
        files["confusion.png"] = matrix_png(report)
    # a network without mistakes has no picture of them
    if mistakes_png:
        files["mistakes.png"] = mistakes_png
    target = to_path(folder, "`report`")
    for name, content in files.items():
        # all of it can be made again: waiting for the disk eight times would take longer than making it
        with atomic_write(target / name, is_durable=False) as stream:
            stream.write(content)
    return str(target / "report.html")


def _class_rows(report: ScoreReport) -> Iterable[Sequence[Any]]:
    figures = report.figures
    # nan, where a class was never predicted or has no images, is an empty cell
    shares = np.stack([figures.precision, figures.recall, figures.f1], axis=1)
    for number, name in enumerate(report.class_names):
        yield [number, safe_cell(name), figures.num_images[number], figures.num_said[number],
               figures.num_right[number], *map(_text, shares[number].tolist())]


def _confusion_csv(report: ScoreReport) -> bytes:
    # opened in a spreadsheet, a name must not become a formula
    names = [safe_cell(name) for name in report.class_names]
    if report.predictions.num_classes > _MAX_TABLE_CLASSES:
        labels, predicted, counts = statistics.confusion(report.predictions)
        # iterating over a list of numbers is faster than over an array
        pairs = zip(labels.tolist(), predicted.tolist(), counts.tolist(), strict=True)
        rows = ([names[label], names[said], count] for label, said, count in pairs)
        return _csv(["class", "taken for", "images"], rows)
    matrix = statistics.confusion_matrix(report.predictions).tolist()
    return _csv(["class", *names], ([name, *row] for name, row in zip(names, matrix, strict=True)))


def _prediction_rows(report: ScoreReport, indices: np.ndarray | None) -> Iterable[Sequence[Any]]:
    told = report.predictions
    # not the position here: behind a damaged image it would be another image's number
    numbers = range(len(told.labels)) if indices is None else indices.tolist()
    columns = (told.labels.tolist(), told.predicted.tolist(), told.confidence.tolist(),
               told.label_probability.tolist())
    for number, label, said, confidence, of_label in zip(numbers, *columns, strict=True):
        yield [number, label, said, f"{confidence:.6f}", f"{of_label:.6f}"]


def _bin_rows(report: ScoreReport) -> Iterable[Sequence[Any]]:
    found = report.before
    width = 1 / len(found.counts)
    for number, count in enumerate(found.counts.tolist()):
        shares = (float(found.confidence[number]), float(found.accuracy[number]))
        yield [f"{number * width:.4f}", f"{(number + 1) * width:.4f}", count,
               *map(_text, shares)]


def _text(share: float) -> str:
    return "" if math.isnan(share) else f"{share:.6f}"


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue().encode("utf-8", "backslashreplace")
