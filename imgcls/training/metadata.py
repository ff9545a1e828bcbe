"""What travels with a checkpoint in PREFIX-meta.json: class names, preprocessing, the settings, versions."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import torch

from imgcls.config import resolve as configuration
from imgcls.config.resolve import Config
from imgcls.data.sources import Splits
from imgcls.distributed.rank_info import RankInfo


def describe(config: Config, splits: Splits, command: str, rank_info: RankInfo | None) -> dict[str, Any]:
    """Return the meta data of a run as JSON values."""
    return {
        "network": config.network.network,
        # in the order of the labels: what predict prints, and score and fine-tuning compare with the data's
        "class_names": list(splits.train.class_names),
        "preprocessing": {
            "image_shape": list(config.network.image_shape),
            "mean": list(config.augment.rgb_mean), "std": list(config.augment.rgb_std),
            "val_resize": config.augment.val_resize, "interpolation": config.augment.interpolation,
            # for readers other than ours: what mean and std refer to
            "channels": "RGB", "range": "0-255"},
        "command": command,
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "numpy": np.__version__},
        # --config takes this file, and then trains the same
        "config": configuration.settings(config),
        # processes that are started again know their own checkpoint by it
        "job": rank_info.job if rank_info else "",
    }
