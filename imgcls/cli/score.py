"""Measure a network on labelled data, a checkpoint of ours or MXNet's, one of the zoo, torchvision's: score.py."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgcls.cli._run import loading_torch, run_main
from imgcls.config import resolve as configuration
from imgcls.config.flags import flag
from imgcls.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from imgcls.data.sources import Source
    from imgcls.pretrained import PretrainedRef

EXAMPLES = """examples:
  {prog} --model model/mnist --dataset mnist                 the newest epoch on the test set
  {prog} --model model/mnist --load-epoch 8 --top-k 5        epoch 8, top-5 accuracy as well
  {prog} --model old/mnist --load-epoch 35 --rgb-std 255     an MXNet checkpoint, pixels scaled to 0-1
  {prog} --model torchvision:resnet50 --data-val val/        torchvision's weights, on a folder of images per class
  {prog} --model imagenet1k-resnet-50 --data-val val.rec     a network of MXNet's zoo, on records
"""

#: the flags of training that make sense here
USED = ("dataset", "data_dir", "data_val", "data_val_idx", "val_dataset", "data_root", "on_bad", "cache_gb",
        "batch_size", "data_nthreads", "resize", "val_resize", "interpolation", "rgb_mean", "rgb_std", "mean_image",
        "image_shape", "top_k", "loss", "gpus", "dtype", "load_epoch")


@dataclass(frozen=True)
class ScoreConfig:
    """Score"""

    model: str = flag("", "the prefix of a checkpoint, a network of MXNet's zoo (imagenet1k-resnet-50), the URL of a "
                      "prefix, or torchvision:NAME[:WEIGHTS]", since="g2", metavar="NAME")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; the metrics go to stdout, one `name=value` a line, and in MXNet's words to stderr."""
    return run_main(_start, argv, "imgcls-score", ScoreConfig)


def _start(argv: Sequence[str]) -> int:
    config = configuration.parse(argv, prog="imgcls-score", examples=EXAMPLES.format(prog="imgcls-score"),
                                 own=ScoreConfig, used=USED)
    prefix = config.own.model
    if not prefix:
        raise UsageError("--model is missing: give the prefix of a checkpoint, such as --model model/mnist")
    values = score(prefix, config)
    print(f"INFO:root:Finished with {values['images/sec']:f} images per second", file=sys.stderr)
    for name, value in values.items():
        if name != "images/sec":
            print(f"INFO:root:{(name, value)}", file=sys.stderr)
        print(f"{name}={value:f}")
    return 0


def score(name: str, config: configuration.Config) -> dict[str, float]:
    """Metrics of the network `name` (see `pretrained.locate`) on the validation data, and `images/sec`. Preprocessing
    that the user does not give is that of its training, or the data set's where nobody noted it."""
    with loading_torch():
        from imgcls import pretrained
        from imgcls.distributed.topology import make_worker
        from imgcls.training import trainer
    from imgcls.data.loaders.make import make_loader
    from imgcls.training.metrics import Metrics, metric_names

    worker = make_worker(config.device)
    found = pretrained.locate(name, config.checkpoint.load_epoch or "auto")
    config = _with_data_set(with_preprocessing(config, found), found)
    source = load_data(config, found.class_names if found.prefix else ())
    model = pretrained.build(pretrained.read(found)).to(worker.device)
    loader = make_loader(source, batch_size=config.data.batch_size, image_shape=config.network.image_shape,
                         augment_config=config.augment, train=False, seed=0, device=worker.device,
                         threads=config.data.data_nthreads, on_bad=config.data.on_bad)
    print(preprocessing_line(config, found), file=sys.stderr)
    if loader.note:
        print(f"note: images are {loader.note}", file=sys.stderr)
    classes = count_classes(model, config)
    if source.labels.min() < 0 or source.labels.max() >= classes:
        raise UsageError(f"--data-val: the labels of {source.description} go from {source.labels.min()} to "
                         f"{source.labels.max()}, and {name} has the classes 0 to {classes - 1}")
    if source.class_names and len(source.class_names) != classes:
        print(f"note: the data has {len(source.class_names)} classes and the network {classes}: class k of the data is "
              "taken for class k of the network", file=sys.stderr)
    top_k = config.train.top_k or (5 if not config.is_explicit("top_k") and classes > 5 else 0)  # MXNet's two
    metrics = Metrics(metric_names(top_k, config.train.loss, classes), worker.device)
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


def _with_data_set(config: configuration.Config, found: PretrainedRef) -> configuration.Config:
    """The data set of the training, where the user names neither one nor files; its preprocessing is noted as well."""
    if not found.dataset or not found.preprocessing or config.is_explicit("dataset", "data_val"):
        return config
    return config.with_defaults(dataset=found.dataset)


def with_preprocessing(config: configuration.Config, found: PretrainedRef) -> configuration.Config:
    """The shape, mean, std and sizes that the network was trained with, where the user gave none."""
    noted = found.preprocessing
    settings = {"image_shape": "image_shape", "rgb_mean": "mean", "rgb_std": "std", "interpolation": "interpolation"}
    config = config.with_defaults(**{setting: noted[key] for setting, key in settings.items() if noted.get(key)})
    if noted.get("val_resize") and config.network.image_shape == tuple(noted.get("image_shape") or ()):
        # it goes with the crop of the training: beside a crop of another size it means nothing
        config = config.with_defaults(val_resize=noted["val_resize"])
    return config


def preprocessing_line(config: configuration.Config, found: PretrainedRef) -> str:
    """What the network is given, and who says so."""
    def numbers(values: Sequence[float]) -> str:
        return ",".join(f"{one:g}" for one in values)

    augment = config.augment
    mean = f"mean {augment.mean_image}" if augment.mean_image else f"mean {numbers(augment.rgb_mean)}"
    given = [config.spelling(name) for name in ("image_shape", "rgb_mean", "rgb_std", "mean_image", "val_resize")
             if config.is_explicit(name)]
    who = f"as {found.origin} has it" if found.preprocessing else (
        f"the data set's: nothing tells what {found.name} was trained with")
    if given:
        who += f", but for {', '.join(given)}"
    return f"images: {numbers(config.network.image_shape)}, {mean}, std {numbers(augment.rgb_std)} ({who})"


def count_classes(model: nn.Module, config: configuration.Config) -> int:
    """How many logits the network gives for an image of this shape; a shape it cannot take is a UsageError."""
    import torch

    shape, training = config.network.image_shape, model.training
    device = next(iter(model.parameters())).device
    try:
        with torch.no_grad():
            return int(model.eval()(torch.zeros(1, *shape, device=device)).shape[1])
    except RuntimeError as error:
        raise UsageError(f"--image-shape {','.join(map(str, shape))}: the network cannot take it "
                         f"({str(error).splitlines()[0]})") from error
    finally:
        model.train(training)
