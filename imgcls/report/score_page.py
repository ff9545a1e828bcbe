"""The page about a network that was measured: its mistakes, calibration, confusions and classes."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from imgcls.report import axes, diagrams, statistics
from imgcls.report.page import card, page, table
from imgcls.report.statistics import Calibration, ClassFigures, Predictions
from imgcls.report.svg import escape

#: rows of the tables on the page; the CSV files have all
_MAX_CLASSES, _MAX_PAIRS = 100, 30


@dataclass(frozen=True)
class ScoreReport:
    """The content of the page about a network that was measured; `class_names` has a name for each class."""

    title: str
    #: the data and the preprocessing, in words
    description: str
    metrics: Mapping[str, float]
    class_names: Sequence[str]
    predictions: Predictions
    figures: ClassFigures
    before: Calibration
    #: with the fitted temperature
    after: Calibration
    temperature: float
    notes: Sequence[str] = ()


def make_report(title: str, description: str, metrics: Mapping[str, float], class_names: Sequence[str],
                predictions: Predictions, notes: Sequence[str] = ()) -> ScoreReport:
    """Compute the figures of a report."""
    # fitted on a part of the images where the logits of all would take too much memory
    temperature = statistics.fit_temperature(predictions.logits, predictions.logit_labels)
    before = statistics.calibration(predictions.confidence, predictions.is_right)
    after = statistics.calibration_at(predictions.logits, predictions.logit_labels, temperature)
    names = statistics.shown_names(class_names, predictions.num_classes)
    return ScoreReport(title, description, metrics, names, predictions, statistics.class_figures(predictions),
                       before, after, temperature, notes)


def score_page(report: ScoreReport, mistakes: str = "") -> bytes:
    """Return the page as UTF-8; `mistakes` is HTML with the pictures of the most confident mistakes."""
    body = [f"<h1>{escape(report.title)}</h1>", f'<p class="soft">{escape(report.description)}</p>',
            _cards(report), mistakes, _calibration(report), _confusions(report), _classes(report)]
    if report.notes:
        notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
        body.append(f"<h2>Notes</h2><ul>{notes}</ul>")
    return page(report.title, "\n".join(filter(None, body)))


def _cards(report: ScoreReport) -> str:
    cards = [card(_metric_name(name), axes.show(value)) for name, value in report.metrics.items()]
    wrong = int((~report.predictions.is_right).sum())
    cards.append(card("images", f"{len(report.predictions.labels):,}", f"{wrong:,} misclassified"))
    cards.append(card("calibration error", f"{report.before.ece:.4f}",
                      f"{report.after.ece:.4f} at temperature {report.temperature:.3g}"))
    return f'<div class="cards">{"".join(cards)}</div>'


def _metric_name(name: str) -> str:
    if name.startswith("top_k_accuracy_"):
        return f"top-{name.removeprefix('top_k_accuracy_')} accuracy"
    return name


def _calibration(report: ScoreReport) -> str:
    """Return the diagram with a sentence that describes it."""
    # in words as well: few people can read such a diagram
    mean = float(report.predictions.confidence.mean())
    accuracy = float(report.predictions.is_right.mean())
    verdict = ("well calibrated" if abs(mean - accuracy) < 0.02 else
               "overconfident" if mean > accuracy else "underconfident")
    temperature = f"{report.temperature:.4g}"
    return (f"<h2>Calibration</h2><p>The network is {verdict}: its mean confidence is {mean:.4f}, and "
            f"{accuracy:.4f} of the images were classified correctly. Divided by the temperature "
            f"{temperature}, which was fitted on these images, its logits have the calibration "
            f"error {report.after.ece:.4f} in place of {report.before.ece:.4f}.</p>"
            '<figure class="chart narrow">'
            f'{diagrams.reliability(report.before, report.after)}<figcaption class="soft">bars: as it is; '
            "dashed: with the temperature; the diagonal is perfect calibration</figcaption></figure>")


def _confusions(report: ScoreReport) -> str:
    """Return the matrix, as a heat map or a picture, and the pairs that are confused most."""
    names, count = report.class_names, report.predictions.num_classes
    parts = ["<h2>Confusion matrix</h2>"]
    if count <= diagrams.MAX_NAMED_CLASSES:
        matrix = statistics.confusion_matrix(report.predictions)
        drawing = diagrams.confusion(matrix, names)
        parts.append(f'<figure class="chart">{drawing}<figcaption class="soft">'
                     "a row for each class, a column for each predicted class"
                     "</figcaption></figure>")
    elif count <= diagrams.MAX_MATRIX_CLASSES:
        data = base64.b64encode(matrix_png(report)).decode()
        parts.append('<figure class="chart"><img class="matrix" alt="confusion matrix" '
                     f'src="data:image/png;base64,{data}"/><figcaption class="soft">a row for each of '
                     f"{count:,} classes, a column for each predicted class; correct predictions are on "
                     "the diagonal</figcaption></figure>")
    labels, predicted, counts = statistics.confusion(report.predictions)
    # correct predictions are no confusions, and would fill the list
    wrong = np.flatnonzero(labels != predicted)
    wrong = wrong[np.argsort(-counts[wrong], kind="stable")][:_MAX_PAIRS]
    rows = [("", [names[labels[i]], names[predicted[i]], f"{counts[i]:,}",
                  f"{counts[i] / report.figures.num_images[labels[i]]:.1%}"])
            for i in [int(number) for number in wrong]]
    if rows:
        # for many classes this list says more than the picture
        parts.append("<h3>Most frequent confusions</h3>")
        parts.append(table(["class", "predicted", "images", "of the class"], rows, "pairs"))
    return "".join(parts)


def matrix_png(report: ScoreReport) -> bytes:
    """Return the confusion matrix as a PNG."""
    from imgcls.data.opencv import cv2

    matrix = statistics.confusion_matrix(report.predictions)
    return cv2.imencode(".png", diagrams.confusion_pixels(matrix, report.class_names))[1].tobytes()


def _classes(report: ScoreReport) -> str:
    """Return precision and recall of the classes, the worst first."""
    figures = report.figures
    # a class without images that was never predicted has no figures
    there = np.flatnonzero(figures.num_images + figures.num_said)
    order = there[np.argsort(np.nan_to_num(figures.f1[there]), kind="stable")]
    rows = [("", [report.class_names[i], f"{figures.num_images[i]:,}", _share(figures.precision[i]),
                  _share(figures.recall[i]), _share(figures.f1[i])])
            for i in [int(number) for number in order[:_MAX_CLASSES]]]
    left_out = len(order) - len(rows)
    remark = f'<p class="soft">{left_out:,} with a higher F1 are in classes.csv.</p>' if left_out else ""
    return ("<h2>Classes</h2>" + table(["class", "images", "precision", "recall", "F1"], rows, "names")
            + remark)


def _share(value: Any) -> str:
    return "" if np.isnan(value) else f"{value:.4f}"
