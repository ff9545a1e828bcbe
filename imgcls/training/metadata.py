"""What travels with a checkpoint in PREFIX-meta.json: class names, preprocessing, the settings, versions."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import torch

from imgcls.config import resolve as configuration
from imgcls.config.resolve import Config
from imgcls.data.sources import Splits


def describe(config: Config, splits: Splits, command: str) -> dict[str, Any]:
    """Return the meta data of a run as JSON values. score, predict and fine-tuning read them back."""
    return {
        "network": config.network.network,
        "class_names": list(splits.train.class_names),
        "preprocessing": {"image_shape": list(config.network.image_shape), "mean": list(config.augment.rgb_mean),
                          "std": list(config.augment.rgb_std), "val_resize": config.augment.val_resize,
                          "interpolation": config.augment.interpolation, "channels": "RGB", "range": "0-255"},
        "command": command,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "config": configuration.settings(config),
    }
