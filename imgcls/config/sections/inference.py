"""A trained network, and how its images are prepared."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from imgcls.config.flags import flag
from imgcls.config.sections.augment import AugmentConfig
from imgcls.config.sections.network import NetworkConfig


def _as_trained(section: type, setting: str, help: str) -> Any:
    """Return a flag of `section` without its default: where it is not given, the checkpoint's value holds."""
    metadata = section.__dataclass_fields__[setting].metadata  # type: ignore[attr-defined]
    return dataclasses.field(default=None, metadata={**metadata, "help": help})


@dataclass(frozen=True)
class InferenceConfig:
    """Trained network, and the preprocessing of its images (if not given: what its checkpoint says)"""

    model: str = flag("", "the prefix of a checkpoint, a network of MXNet's zoo (imagenet1k-resnet-50), the "
                      "URL of a prefix, torchvision:NAME[:WEIGHTS], or (not of imgcls-export) a file that "
                      "imgcls-export wrote", since="g2", metavar="NAME")
    load_epoch: str = flag("auto", "epoch of its weights: 8, 0008 or auto, the newest", since="g2",
                           metavar="EPOCH")
    # in imgcls-score it names the data as well; a default could be mistaken for what the checkpoint records
    dataset: str | None = flag(None, "the data set that imgcls-score measures on (mnist, or files that are "
                               "named), whose preprocessing is used where the checkpoint records none",
                               metavar="NAME")
    # the format of MXNet's predict-cpp and of the usual synset.txt
    synset: str = flag("", "file of class names, one per line in the order of the classes, for a network "
                       "without names; imagenet: the 1000 of ImageNet, from torchvision", metavar="FILE")
    image_shape: tuple[int, ...] | None = _as_trained(NetworkConfig, "image_shape", (
        "channels,height,width of the network's input"))
    rgb_mean: tuple[float, ...] | None = _as_trained(AugmentConfig, "rgb_mean", (
        "subtracted per channel, on the scale 0-255"))
    rgb_std: tuple[float, ...] | None = _as_trained(AugmentConfig, "rgb_std", (
        "divided by per channel, after the mean"))
    mean_image: str | None = _as_trained(AugmentConfig, "mean_image", (
        "subtract this image in place of --rgb-mean"))
    val_resize: int | None = _as_trained(AugmentConfig, "val_resize", (
        "short edge of the images before the centre crop; 0: as stored, the default for MXNet's networks"))
    resize: int | None = _as_trained(AugmentConfig, "resize", "alias of --val-resize")
    interpolation: str | None = _as_trained(AugmentConfig, "interpolation", "how images are resized")


#: the settings of `InferenceConfig` that say what is done to an image
PREPROCESSING = ("image_shape", "rgb_mean", "rgb_std", "mean_image", "val_resize", "resize", "interpolation")
