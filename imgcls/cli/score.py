"""Measure a checkpoint, ours or MXNet's, on labelled data: score.py."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgcls import config as configuration
from imgcls.cli._run import loading_torch, run_main
from imgcls.errors import UsageError
from imgcls.sections import flag

if TYPE_CHECKING:
    from imgcls.data.sources import Source

EXAMPLES = """examples:
  {prog} --model model/mnist --dataset mnist                 the newest epoch on the test set
  {prog} --model model/mnist --load-epoch 8 --top-k 5        epoch 8, top-5 accuracy as well
  {prog} --model old/mnist --load-epoch 35 --rgb-std 255     an MXNet checkpoint, pixels scaled to 0-1
"""

#: the flags of training that make sense here
USED = ("dataset", "data_dir", "data_val", "data_val_idx", "val_dataset", "data_root", "on_bad", "batch_size",
        "data_nthreads", "resize", "val_resize", "interpolation", "rgb_mean", "rgb_std", "mean_image", "image_shape",
        "top_k", "loss", "gpus", "dtype", "load_epoch")


@dataclass(frozen=True)
class ScoreConfig:
    """Score"""

    model: str = flag("", "prefix of the checkpoint", since="g2", metavar="PREFIX")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; the metrics go to stdout, one `name=value` a line."""
    return run_main(_start, argv, "imgcls-score")


def _start(argv: Sequence[str]) -> int:
    config = configuration.parse(argv, prog="imgcls-score", examples=EXAMPLES.format(prog="imgcls-score"),
                                 own=ScoreConfig, used=USED)
    prefix = config.own.model
    if not prefix:
        raise UsageError("--model is missing: give the prefix of a checkpoint, such as --model model/mnist")
    for name, value in score(prefix, config).items():
        print(f"{name}={value:f}")
    return 0


def score(prefix: str, config: configuration.Config) -> dict[str, float]:
    """Metrics of the checkpoint on the validation data, and `images/sec`. Preprocessing that the user does not give
    is the checkpoint's own, or the data set's where an MXNet checkpoint has none."""
    with loading_torch():
        from imgcls import api, checkpoint, distributed, trainer
    from imgcls.cli.train import check_labels
    from imgcls.data.make import make_loader
    from imgcls.metrics import Metrics, metric_names

    worker = distributed.choose(config.device)
    meta = checkpoint.read_meta(prefix)
    config = _with_preprocessing(config, meta.get("preprocessing") or {})
    model = api.load_model(prefix, config.checkpoint.load_epoch or "auto").to(worker.device)
    source = load_data(config, meta.get("class_names") or ())
    loader = make_loader(source, batch_size=config.data.batch_size, image_shape=config.network.image_shape,
                         augment_config=config.augment, train=False, seed=0, device=worker.device,
                         threads=config.data.data_nthreads, on_bad=config.data.on_bad)
    if loader.note:
        print(f"note: images are {loader.note}", file=sys.stderr)
    classes = _classes(model, config)
    check_labels(source.labels, classes, f"the labels of {source.description}")
    metrics = Metrics(metric_names(config.train.top_k, config.train.loss, classes), worker.device)
    started = time.perf_counter()
    values = trainer.evaluate(model, loader, metrics, trainer.Precision(config.device.dtype, worker.device))
    return values | {"images/sec": loader.num_samples / (time.perf_counter() - started)}


def load_data(config: configuration.Config, class_names: Sequence[str]) -> Source:
    """What to score on; the names of its classes, where it has any, are held against those of the checkpoint."""
    module = configuration.dataset_module(config)
    if hasattr(module, "load_val"):
        source = module.load_val(config.data, class_names)
    else:
        source = module.load(config.data).val
    if source is None:
        raise UsageError("--data-val is missing: give the data to score on")
    return source


def _with_preprocessing(config: configuration.Config, known: dict[str, object]) -> configuration.Config:
    """The checkpoint's own shape, mean and std where the user gave none."""
    def value(name: str, key: str) -> object:
        field = configuration.FIELDS[name]
        return configuration.convert(field, known[key])

    network, augment = config.network, config.augment
    if "image_shape" not in config.given and known.get("image_shape"):
        network = dataclasses.replace(network, image_shape=value("image_shape", "image_shape"))
    changes = {name: value(name, key) for name, key in (
        ("rgb_mean", "mean"), ("rgb_std", "std"), ("val_resize", "val_resize"), ("interpolation", "interpolation"))
               if name not in config.given and known.get(key)}
    return dataclasses.replace(config, network=network, augment=dataclasses.replace(augment, **changes))


def _classes(model: object, config: configuration.Config) -> int:
    """How many logits the network gives for an image of this shape; a shape it cannot take is a UsageError."""
    import torch

    shape = config.network.image_shape
    device = next(iter(model.parameters())).device  # type: ignore[attr-defined]
    try:
        with torch.no_grad():
            return int(model(torch.zeros(1, *shape, device=device)).shape[1])  # type: ignore[operator]
    except RuntimeError as error:
        raise UsageError(f"--image-shape {','.join(map(str, shape))}: the network cannot take it "
                         f"({str(error).splitlines()[0]})") from error
