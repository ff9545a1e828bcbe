"""Measure a checkpoint on labelled data: `imgcls-score`.

The loop over the batches is `training.evaluate`, the trainer's own. This module adds what a network that was
trained earlier needs: where it is, what it was trained with, and which data it is measured on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from imgcls.config import resolve as configuration
from imgcls.config.resolve import Config
from imgcls.data import holdout
from imgcls.data.loaders.make import decide_val_resize, make_loader, typical_edge
from imgcls.data.sources import ArraySource, Source
from imgcls.distributed.topology import make_worker
from imgcls.errors import UsageError, spell_settings, tell, verbatim
from imgcls.inference import mistakes
from imgcls.inference.export.load import load_network
from imgcls.inference.matching import match_classes
from imgcls.inference.notes import about_larger_images
from imgcls.inference.recorder import RecordingMetrics
from imgcls.inference.test_time_augmentation import MeanOfViews, check_views
from imgcls.pretrained import PretrainedRef
from imgcls.pretrained.class_names import ClassNames, find_class_names
from imgcls.pretrained.preprocessing import MNIST_SHAPE, Evaluation, for_evaluation
from imgcls.report.score_files import write_report
from imgcls.report.score_page import make_report
from imgcls.report.statistics import shown_names
from imgcls.training.evaluate import evaluate
from imgcls.training.metrics import Metrics, metric_names
from imgcls.training.precision import Precision, trained_dtype


@dataclass(frozen=True)
class Score:
    """The metrics of a network, name -> value, and the speed in images per second."""

    metrics: dict[str, float]
    images_per_s: float
    #: the path of the page about them, "" where none was requested
    page: str = ""


def evaluate_checkpoint(name: str, config: Config, *, epoch: str = "auto", synset: str = "",
                        val_ratio: float | None = None, report: str = "",
                        flip: bool = False, shift: int = 0) -> Score:
    """Return the metrics of the network `name` (see `pretrained.locate`) on the validation data.

    `report` is a folder for a page about them, with its figures as CSV and PNG; "" for none.

    Preprocessing that the user does not set is that of its training, or MXNet's where none is recorded; lines
    on stderr say which. `val_ratio` is the part that its training held out of these data (0: all is scored;
    None: as recorded, where they are the data of the training). `synset` names its classes. `flip` and
    `shift` average the predictions over views of an image (`test_time_augmentation`). UsageError for data
    that do not fit the network.
    """
    worker = make_worker(config.device)
    # where it is and what it was trained with; and the network itself, which shows what is not recorded
    ref, model = load_network(name, epoch, config, config.device.dtype)
    evaluation = for_evaluation(_with_data_set(config, ref), ref, model)
    # How many classes there are is known from the weights alone, so names can be checked before data are
    # read.
    classes = find_class_names(ref, synset, evaluation.num_classes)
    config = evaluation.config
    _print(evaluation.description, config)
    _print(evaluation.note, config)
    source = _load_validation(config, ref, classes, evaluation.num_classes, val_ratio)
    _check_labels(name, source, evaluation.num_classes)
    augment = decide_val_resize(config.augment, source, config.network.image_shape)
    loader = make_loader(source, batch_size=config.data.batch_size, image_shape=config.network.image_shape,
                         augment_config=augment, train=False, seed=0, device=worker.device,
                         threads=config.data.data_nthreads, on_bad=config.data.on_bad)
    _print(f"note: images are {loader.note}" if loader.note else "", config)
    _print(_note_size(evaluation, source), config)
    names = metric_names(_top_k(config, evaluation.num_classes), config.train.loss, evaluation.num_classes)
    recorder = (RecordingMetrics(names, worker.device, loader.num_samples, evaluation.num_classes)
                if report else None)
    metrics = recorder or Metrics(names, worker.device)
    # before the network runs, which may take hours
    check_views(config.network.image_shape, flip=flip, shift=shift)
    model = (MeanOfViews(model, flip=flip, shift=shift) if flip or shift else model).to(worker.device)
    # from here: the speed that MXNet's score.py reports is without loading the network
    started = time.perf_counter()
    # The trainer's own loop and its type: a score of the last epoch is the number that its log has.
    dtype, dtype_note = trained_dtype(config.device.dtype, ref.dtype, worker.device)
    _print(dtype_note, config)
    precision = Precision(dtype, worker.device)
    values = evaluate(model, loader, metrics, precision)
    images_per_s = loader.num_samples / (time.perf_counter() - started)
    if recorder is None:
        return Score(values, images_per_s)
    predictions = recorder.predictions()
    class_names = shown_names(classes.names or source.class_names, evaluation.num_classes)
    found = mistakes.find_mistakes(model, source, loader, config, augment, predictions, class_names,
                                   worker.device)
    description = f"{source.description}: {len(predictions.labels):,} images, {evaluation.description}"
    page = write_report(report, make_report(name, spell_settings(description, config.spelling), values,
                                            class_names, predictions),
                        mistakes.as_html(found), mistakes.as_png(found),
                        mistakes.scored_indices(source, loader))
    return Score(values, images_per_s, page)


def _with_data_set(config: Config, ref: PretrainedRef) -> Config:
    """Return the configuration with the training's data set, where the user names neither one nor files."""
    # Files that the user names win: the same network may be scored on someone else's images.
    if not ref.dataset or not ref.preprocessing or config.is_explicit("dataset", "data_val"):
        return config
    return config.with_defaults(dataset=ref.dataset)


def _load_validation(config: Config, ref: PretrainedRef, classes: ClassNames, num_classes: int,
                     val_ratio: float | None) -> Source:
    """Return the data to score on, its labels those of the network's classes."""
    names_data = config.is_explicit("dataset", "data_val", "data_dir") or ref.dataset
    if not names_data and (ref.preprocessing or config.network.image_shape != MNIST_SHAPE):
        raise _missing_data()  # the default data set would be MNIST
    module = configuration.dataset_module(config)
    # data must have the class names that a checkpoint of imgcls records
    own_names = classes.names if ref.prefix and not classes.ids and ref.class_names else ()
    if hasattr(module, "load_val"):  # without reading the training data
        source = module.load_val(config.data, own_names)
    else:
        source = module.load(config.data).val
    if source is None:
        raise _missing_data()
    for line in getattr(source, "notes", ()):
        _print(f"note: {line}", config)
    source = _held_out(source, ref, val_ratio, config)
    source, note = match_classes(source, classes, ref.name, num_classes)
    _print(note, config)
    return source


def _held_out(source: Source, ref: PretrainedRef, val_ratio: float | None, config: Config) -> Source:
    """Return the images that were held out of training, where the data are those that it was trained on."""
    ratio = val_ratio
    # recognised by the images and not by the path: the folder may have been moved, and have grown
    if ratio is None and ref.held_out and holdout.was_trained_on(source, ref.held_out):
        ratio = ref.held_out.get("ratio")
    if not ratio:
        return source
    held_out = holdout.divide(source, ratio).held_out
    name = verbatim(source.description)
    if not len(held_out):
        raise UsageError(f"`val_ratio` {ratio:g}: holds out none of the {len(source):,} images of {name}; 0 "
                         "scores all of them")
    why = "as in training" if val_ratio is None else "by their content"
    _print(f"note: scoring the {len(held_out):,} of the {len(source):,} images of {name} that were held "
           f"out, {why} (`val_ratio` {ratio:g}; 0: all)", config)
    return held_out


def _missing_data() -> UsageError:
    return UsageError("`data_val` is missing: give the data to score on")


def _check_labels(name: str, source: Source, num_classes: int) -> None:
    """Raise UsageError for labels that are none of the network's classes."""
    smallest = source.labels.min()
    largest = source.labels.max()  # one pass over an array, however many images
    if smallest < 0 or largest >= num_classes:
        raise UsageError(f"`data_val`: the labels of {verbatim(source.description)} go from {smallest} to "
                         f"{largest}, and {name} has the classes 0 to {num_classes - 1}")


def _note_size(evaluation: Evaluation, source: Source) -> str:
    """Return a note on images that are larger than the crop, "" where there is nothing to note."""
    if isinstance(source, ArraySource):  # all are of the network's size already
        return ""
    return about_larger_images(evaluation, "images", typical_edge(source))


def _top_k(config: Config, num_classes: int) -> int:
    """Return the K of top-K accuracy, 0 for off.

    Where the user does not set it, it is 5 for more than five classes, as in MXNet's score.py.
    """
    if not config.is_explicit("top_k") and num_classes > 5:
        return config.train.top_k or 5
    return config.train.top_k


def _print(message: str, config: Config) -> None:
    if message:
        tell(spell_settings(message, config.spelling))
