"""What a pretrained network is before it is built: a reference to its files, then what was read from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from imgcls.config.sections import NetworkConfig
from imgcls.formats.symbol import Symbol


@dataclass(frozen=True)
class PretrainedRef:
    """Where the files of a pretrained network are, all of them on this machine, and what is known about it.

    `preprocessing` is as in a checkpoint's meta.json, {} where no one noted it; `origin` says who did. What
    is in it was not checked yet: `preprocessing.with_preprocessing` does.
    """

    name: str
    #: what --network would call it, or as much as is known of that
    network: str
    prefix: str = ""
    epoch: str = "auto"
    #: torchvision's name of the network and, after a colon, of its weights; then there is no prefix
    torchvision: str = ""
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    #: the file of the mean image that `preprocessing` may tell of
    mean_image: str = ""
    class_names: Sequence[str] = ()
    origin: str = ""
    #: (C, H, W) that it was built for, () where nothing but its layers may tell
    image_shape: Sequence[int] = ()
    #: what to know about what is known, with settings between backquotes, or ""
    note: str = ""
    #: whether it is known to be trained on the 1000 classes of ImageNet, in their usual order
    is_imagenet: bool = False
    #: what its meta data note of training images that were held out, {} where none were
    held_out: Mapping[str, Any] = field(default_factory=dict)
    #: the --dataset of its training, "" where no one noted it
    dataset: str = ""
    #: what it computed in while it was trained, "" where no one noted it
    dtype: str = ""


@dataclass(frozen=True)
class Pretrained:
    """A network that was read and not yet built: a symbol, or settings where no symbol expresses it."""

    network: Symbol | NetworkConfig
    #: weights by MXNet's names, or by torch's
    arrays: Mapping[str, np.ndarray]
    path: str
    #: the file of the symbol, for errors; "" where there is none
    symbol_path: str = ""
