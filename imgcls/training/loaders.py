"""The loaders of a run: training and validation batches on this process's device. Called by `run`."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from imgcls.config.flags import show
from imgcls.config.resolve import Config
from imgcls.data import order, sources
from imgcls.data.gpu_jpeg import check_gpu_jpeg
from imgcls.data.loaders.batch import Loader
from imgcls.data.loaders.benchmark import BenchmarkLoader
from imgcls.data.loaders.make import decide_val_resize, make_loader
from imgcls.data.sampling import make_sampling
from imgcls.data.sources import Splits
from imgcls.distributed.process_group import Worker
from imgcls.errors import UsageError
from imgcls.storage import memory
from imgcls.training import decoded_cache


def infer_num_classes(config: Config, splits: Splits) -> Config:
    """Return the configuration with as many classes as the data names, where the user gave no number."""
    # two at least: a softmax of one class is always right, and learns nothing
    named = sources.num_classes(splits.train, splits.val)
    return config if named is None else config.with_defaults(num_classes=max(named, 2))


def decide_validation(config: Config, splits: Splits) -> Config:
    """Return the configuration with `val_resize` a number: the whole set's, where the user gave none.

    It goes into the meta data: imgcls-score and imgcls-predict treat an image as validation does here.
    Without validation data it follows from the sizes of the training images.
    """
    source = splits.train if splits.val is None else splits.val
    augment = decide_val_resize(config.augment, source, config.network.image_shape)
    return dataclasses.replace(config, augment=augment)


def make_loaders(config: Config, splits: Splits, worker: Worker,
                 batch_size: int) -> tuple[Loader, Loader | None]:
    """Return the loaders for training and for validation (None without validation data).

    A batch has `batch_size` samples over all processes; the loaders give this process its share of them.
    UsageError for labels that are not 0 .. num_classes - 1, and where not even one batch fits in memory.
    """
    _require_memory(config, len(splits.train), worker, batch_size)
    if config.data.jpeg_decoder == "gpu":
        check_gpu_jpeg(config.augment, config.network.image_shape[0], worker.device)
    shard = order.Shard(worker.rank, worker.world_size, worker.is_async,
                        has_partners=bool(config.regularization.mixup or config.regularization.cutmix))
    if config.data.benchmark:
        return BenchmarkLoader(
            num_samples=config.data.num_examples or len(splits.train), batch_size=batch_size,
            image_shape=config.network.image_shape, num_classes=config.network.num_classes,
            seed=config.train.seed, device=worker.device, shard=shard), None
    # here, where it costs a comparison: on a GPU a wrong label is an assertion in a kernel that names nothing
    for source, purpose in ((splits.train, "training"), (splits.val, "validation")):
        if source is not None:
            description = f"the {purpose} labels of {source.description}"
            check_labels(source.labels, config.network.num_classes, description)
    # one place for both, so that training and validation cannot differ by accident
    common: dict[str, Any] = {
        "batch_size": batch_size, "image_shape": config.network.image_shape, "seed": config.train.seed,
        "augment_config": config.augment, "device": worker.device,
        "threads": config.data.data_nthreads, "on_bad": config.data.on_bad}
    sampling = make_sampling(config.regularization)
    sampling.check_shard(shard, batch_size)
    train = make_loader(splits.train, train=True, shard=shard, sampling=sampling, **common)
    val = None
    # Workers of dist_async train by themselves: the first one alone evaluates, on all of the validation data.
    if splits.val is not None and not (worker.is_async and worker.rank):
        val_shard = order.NO_SHARD if worker.is_async else dataclasses.replace(shard, has_partners=False)
        val = make_loader(splits.val, train=False, shard=val_shard, **common)
    # what is in memory already has nothing to decode
    decode_on_gpu = getattr(train, "decode_on_gpu", None)
    if config.data.jpeg_decoder == "gpu" and decode_on_gpu:
        # For training alone: imgcls-score decodes on the CPU, and must get the pixels of validation here.
        decode_on_gpu()
        train.note = ", ".join(filter(None, (train.note, "JPEGs decoded on the GPU")))
    # a single pass over the data reads nothing again, unless an earlier run has kept it on a disk
    elif (config.train.num_epochs > 1 or config.data.decoded_cache_dir) and not (
            config.train.test_io or config.train.dry_run):
        decoded_cache.attach(config.data.decoded_cache_gb, train, val, worker, config.data.decoded_cache_dir)
    return train, val


def _require_memory(config: Config, num_images: int, worker: Worker, batch_size: int) -> None:
    """Raise UsageError where not even one batch of images fits in memory."""
    shape = config.network.image_shape
    if not config.data.benchmark:  # whose batch may be larger than the data
        batch_size = min(batch_size, num_images)
    # float32 where the network is given them; all processes of one machine share its memory
    num_bytes = 4 * math.prod(shape) * max(batch_size // worker.world_size, 1)
    sizes = f"`batch_size` {config.data.batch_size}, `image_shape` {show(shape)}"
    memory.require(memory.process_share(num_bytes), f"{sizes}: a batch")


def check_labels(labels: np.ndarray, num_classes: int, description: str) -> None:
    """Raise UsageError unless all labels are 0 .. num_classes - 1."""
    if ((labels < 0) | (labels >= num_classes)).any():
        raise UsageError(f"`num_classes` {num_classes}: {description} go up to {labels.max()} (down to "
                         f"{labels.min()}), they must be 0 to {num_classes - 1}")
