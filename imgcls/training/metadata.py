"""What travels with a checkpoint: PREFIX-meta.json, and the mean image in PREFIX-mean.bin.

Class names, all that preprocessing needs, the settings, versions. `pretrained.preprocessing` reads it back.
"""

from __future__ import annotations

import hashlib
import platform
from typing import Any

import numpy as np
import torch

from imgcls.config import resolve as configuration
from imgcls.config.resolve import Config
from imgcls.data.normalize import read_mean_image
from imgcls.data.sources import ArraySource, Splits
from imgcls.distributed.rank_info import RankInfo
from imgcls.formats import params


def describe(config: Config, splits: Splits, command: str, rank_info: RankInfo | None,
             mean_image: bytes = b"") -> dict[str, Any]:
    """Return the meta data of a run as JSON values; `mean_image` is what `pack_mean_image` returned."""
    return {
        "network": config.network.network,
        # in the order of the labels: what predict prints, and score and fine-tuning compare with the data's
        "class_names": list(splits.train.class_names),
        "preprocessing": _describe_preprocessing(config, splits, mean_image),
        "command": command,
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "numpy": np.__version__},
        # --config takes this file, and then trains the same
        "config": configuration.settings(config),
        # processes that are started again know their own checkpoint by it
        "job": rank_info.job if rank_info else "",
    }


def pack_mean_image(config: Config) -> bytes:
    """Return the run's mean image as the bytes of an MXNet file, b"" where it has none."""
    path = config.augment.mean_image
    if not path or config.data.benchmark:
        return b""
    array = read_mean_image(path, config.network.image_shape)
    # of Caffe's, too: a reader of the checkpoint needs one format only
    return b"".join(bytes(piece) for piece in params.serialize(["mean_img"], [array], path))


def _describe_preprocessing(config: Config, splits: Splits, mean_image: bytes) -> dict[str, Any]:
    """Return what becomes of an image in validation, in the order of its keys, and what the numbers mean."""
    augment = config.augment
    train = splits.train
    takes_numbers = isinstance(train, ArraySource) and train.images.dtype != np.uint8
    return {
        "image_shape": list(config.network.image_shape),
        "mean": list(augment.rgb_mean), "std": list(augment.rgb_std),
        # in place of the mean; the hash ties the file beside the prefix to this checkpoint
        "mean_image": {"sha256": hashlib.sha256(mean_image).hexdigest()} if mean_image else None,
        # decided once for all validation images: a number, 0 for none
        "val_resize": augment.val_resize, "interpolation": augment.interpolation,
        # for readers other than ours: what mean and std refer to
        "channels": "grey" if config.network.image_shape[0] == 1 else "RGB",
        # arrays of floats are taken as they are: nobody knows their scale
        "range": "as given" if takes_numbers else "0-255"}
