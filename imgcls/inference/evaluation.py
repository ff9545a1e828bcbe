"""Measure a checkpoint on labelled data: `imgcls-score`.

The loop over the batches is `training.evaluate`, the trainer's own; here is what stands around it for a
network that somebody trained before: where it is, what it was trained with, and which data it is measured on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from imgcls import pretrained
from imgcls.config import resolve as configuration
from imgcls.config.resolve import Config
from imgcls.data.loaders.make import make_loader
from imgcls.data.sources import Source
from imgcls.distributed.topology import make_worker
from imgcls.errors import UsageError, spell_settings, tell, verbatim
from imgcls.pretrained import PretrainedRef
from imgcls.pretrained.preprocessing import describe_preprocessing, with_preprocessing
from imgcls.training.evaluate import evaluate
from imgcls.training.metrics import Metrics, metric_names
from imgcls.training.network_size import count_classes
from imgcls.training.precision import Precision


@dataclass(frozen=True)
class Score:
    """The metrics of a network, name -> value, and how many images a second were measured."""

    metrics: dict[str, float]
    images_per_s: float


def evaluate_checkpoint(name: str, config: Config) -> Score:
    """Return the metrics of the network `name` (see `pretrained.locate`) on the validation data.

    Preprocessing that the user does not give is that of its training, or the data set's where nobody noted
    it; a line on stderr says which. UsageError for data that does not go with the network.
    """
    worker = make_worker(config.device)
    # where it is, and what it was trained with
    ref = pretrained.locate(name, config.checkpoint.load_epoch or "auto")
    config = _with_data_set(with_preprocessing(config, ref), ref)
    # a name of the zoo or of torchvision says nothing about the order of the user's classes
    source = _load_validation(config, ref.class_names if ref.prefix else ())
    model = pretrained.build(pretrained.read(ref)).to(worker.device)
    loader = make_loader(source, batch_size=config.data.batch_size, image_shape=config.network.image_shape,
                         augment_config=config.augment, train=False, seed=0, device=worker.device,
                         threads=config.data.data_nthreads, on_bad=config.data.on_bad)
    _print(describe_preprocessing(config, ref), config)
    if loader.note:
        _print(f"note: images are {loader.note}", config)
    num_classes = count_classes(model, config.network.image_shape)
    _check_classes(name, source, num_classes, config)
    names = metric_names(_top_k(config, num_classes), config.train.loss, num_classes)
    metrics = Metrics(names, worker.device)
    # from here: the speed that MXNet's score.py reports is without loading the network
    started = time.perf_counter()
    values = evaluate(model, loader, metrics, Precision(config.device.dtype, worker.device))
    return Score(values, loader.num_samples / (time.perf_counter() - started))


def _with_data_set(config: Config, ref: PretrainedRef) -> Config:
    """Return the configuration with the training's data set, where the user names neither one nor files."""
    if not ref.dataset or not ref.preprocessing or config.is_explicit("dataset", "data_val"):
        return config
    return config.with_defaults(dataset=ref.dataset)


def _load_validation(config: Config, class_names: Sequence[str]) -> Source:
    """Return the data to score on; its class names, where it has any, must be those of the checkpoint."""
    module = configuration.dataset_module(config)
    if hasattr(module, "load_val"):  # without reading the training data
        source = module.load_val(config.data, class_names)
    else:
        source = module.load(config.data).val
    if source is None:
        raise UsageError("`data_val` is missing: give the data to score on")
    return source


def _check_classes(name: str, source: Source, num_classes: int, config: Config) -> None:
    """Raise UsageError for labels that the network cannot give; say so where their number differs."""
    smallest = source.labels.min()
    largest = source.labels.max()
    if smallest < 0 or largest >= num_classes:
        raise UsageError(f"`data_val`: the labels of {verbatim(source.description)} go from {smallest} to "
                         f"{largest}, and {name} has the classes 0 to {num_classes - 1}")
    if source.class_names and len(source.class_names) != num_classes:
        _print(f"note: the data has {len(source.class_names)} classes and the network {num_classes}: class k "
               "of the data is taken for class k of the network", config)


def _top_k(config: Config, num_classes: int) -> int:
    """Return the K of top-K accuracy: 5 where the user says nothing, as MXNet's score.py, and 0 for off."""
    if not config.is_explicit("top_k") and num_classes > 5:
        return config.train.top_k or 5
    return config.train.top_k


def _print(message: str, config: Config) -> None:
    tell(spell_settings(message, config.spelling))
