"""A pretrained network before it is built: the reference to its files, and then what was read from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from imgcls.config.sections import NetworkConfig
from imgcls.formats.symbol import Symbol


@dataclass(frozen=True)
class PretrainedRef:
    """Where the files of a pretrained network are, and what is known about it.

    The files are on this machine, but for a torchvision network's, which `read` downloads, and those behind a
    storage URL. `preprocessing` is as in a checkpoint's meta.json, {} where it was not noted, and `origin`
    says where it is from. Its values are not checked yet: `preprocessing.with_preprocessing` does that.
    """

    name: str
    #: the value of --network that makes it, as far as that is known
    network: str
    prefix: str = ""
    epoch: str = "auto"
    #: torchvision's name of the network and, after a colon, of its weights; then there is no prefix
    torchvision: str = ""
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    #: the file of the mean image that `preprocessing` may name
    mean_image: str = ""
    class_names: Sequence[str] = ()
    origin: str = ""
    #: (C, H, W) that it was built for, () where that is not noted
    image_shape: Sequence[int] = ()
    #: a note for the user about these data, with settings between backquotes, or ""
    note: str = ""
    #: whether it is known to be trained on the 1000 classes of ImageNet, in their usual order
    is_imagenet: bool = False
    #: what its meta data note of training images that were held out, {} where none were
    held_out: Mapping[str, Any] = field(default_factory=dict)
    #: the --dataset of its training, "" where it was not noted
    dataset: str = ""
    #: the --dtype of its training, "" where it was not noted
    dtype: str = ""


@dataclass(frozen=True)
class Pretrained:
    """A network that was read and not yet built: its symbol, or settings where no symbol expresses it."""

    network: Symbol | NetworkConfig
    #: weights by MXNet's names, or by torch's
    arrays: Mapping[str, np.ndarray]
    #: the file of the weights
    path: str
    #: the file of the symbol, for errors; "" where there is none
    symbol_path: str = ""
