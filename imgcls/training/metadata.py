"""What is saved beside the weights: PREFIX-meta.json, and the mean image in PREFIX-mean.bin.

Class names, all that preprocessing needs, the settings, versions. `pretrained.preprocessing` reads it back.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from imgcls.config import resolve as configuration
from imgcls.config.resolve import Config
from imgcls.data.normalize import read_mean_image
from imgcls.data.sources import ArraySource, Splits
from imgcls.distributed.rank_info import RankInfo
from imgcls.errors import DataError, reason, verbatim
from imgcls.formats import params
from imgcls.storage.paths import to_path
from imgcls.storage.reading import open_read

#: a mean image at 4096 pixels, and more than any network was trained with
_MAX_MEAN_BYTES = 1 << 28


def describe(config: Config, splits: Splits, command: str, rank_info: RankInfo | None,
             mean_image: bytes = b"", num_threads: int = 0, dtype: str = "") -> dict[str, Any]:
    """Return the meta data of a run as JSON values; `mean_image` is what `pack_mean_image` returned.

    `num_threads` are the CPU threads that each process computes with, `dtype` what the network computes in.
    """
    settings = configuration.settings(config)
    if splits.is_given:  # else the network would be measured on a data set that it has never seen
        del settings["dataset"]
    return {
        "network": config.network.network,
        # in the order of the labels: what predict prints, and score and fine-tuning compare with the data's
        "class_names": list(splits.train.class_names),
        "preprocessing": _describe_preprocessing(config, splits, mean_image),
        # of images that were held out for validation: imgcls-score finds them again by it
        "held_out": dict(splits.held_out) or None,
        "recipe": config.recipe or None,
        # settings chosen by the size of the data: a resumed run keeps them, even if images were added
        "chosen": dict(config.chosen) or None,
        "command": command,
        # what decides in what order sums are rounded; 0 on a GPU
        "num_threads": num_threads,
        # what the network computed in: imgcls-score does so, too
        "dtype": dtype,
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "numpy": np.__version__},
        # --config takes this file, and then trains the same
        "config": settings,
        # processes that are started again recognise their own checkpoint by it
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


def check_mean_image(path: str, noted: Mapping[str, Any], name: str) -> str:
    """Return `path`, the mean image beside a checkpoint, whose sha256 must be that in `noted`, its meta data.

    `name` is what errors call the checkpoint: a DataError where the file is missing or another.
    """
    name = verbatim(name)
    advice = "; bring it along, or give `mean_image` FILE or `rgb_mean`"
    try:
        with open_read(to_path(path)) as stream:
            # The first 256 MB of a larger file hash to something else, which is the right answer.
            content = stream.read(_MAX_MEAN_BYTES)
    except OSError as error:
        raise DataError(path, f"{reason(error)}: the mean image that {name} was trained with{advice}"
                        ) from error
    # By content: where the means of two runs were mixed up, file times and sizes may fit, the accuracy drops.
    if hashlib.sha256(content).hexdigest() != noted.get("sha256"):
        raise DataError(path, f"is not the mean image that {name} was trained with (another sha256){advice}")
    return path


def _describe_preprocessing(config: Config, splits: Splits, mean_image: bytes) -> dict[str, Any]:
    """Return how validation prepares an image, in the order of the keys, and what the numbers mean."""
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
        # arrays of floats are taken as they are: their scale is not known
        "range": "as given" if takes_numbers else "0-255"}
