"""MXNet's model zoo: which networks it had, where their files were, and what to take instead.

`locating.locate` calls `find_model` and `download_model`. Nothing here reads the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from imgcls.errors import UsageError
from imgcls.pretrained.fetch import fetch_noting_hash
from imgcls.pretrained.reference import PretrainedRef
from imgcls.storage import download, folders
from imgcls.training import checkpoint

#: where MXNet kept them; the server is gone, and IMGCLS_MIRROR is tried with the same paths
#: (models/imagenet/...)
BASE_URL = "http://data.mxnet.io/"
#: what the zoo's residual networks were trained with: they normalise the image themselves. Without
#: `val_resize`: MXNet cut images as they were stored
_RAW: dict[str, Any] = {"image_shape": (3, 224, 224), "mean": (0.0, 0.0, 0.0), "std": (1.0,)}
#: the mean of ImageNet's photographs, which train_imagenet.py subtracts
_PHOTOGRAPHS = _RAW | {"mean": (123.68, 116.779, 103.939)}


@dataclass(frozen=True)
class ZooModel:
    """One network of MXNet's zoo."""

    #: below BASE_URL, without epoch and suffix
    path: str
    #: torchvision's nearest: the same layers, or only about as large
    torchvision: str
    epoch: int = 0
    preprocessing: Mapping[str, Any] = field(default_factory=lambda: _RAW)

    @property
    def folder(self) -> str:
        """The path of the folder below BASE_URL."""
        return self.path.rpartition("/")[0]

    @property
    def stem(self) -> str:
        """What the names of its files begin with."""
        return self.path.rpartition("/")[2]


#: MXNet's name (example/image-classification/common/modelzoo.py) -> files
ZOO: dict[str, ZooModel] = {
    "imagenet1k-inception-bn": ZooModel("models/imagenet/inception-bn/Inception-BN", "googlenet", 126,
                                        _PHOTOGRAPHS),
    **{f"imagenet1k-resnet-{depth}": ZooModel(f"models/imagenet/resnet/{depth}-layers/resnet-{depth}",
                                              f"resnet{depth}") for depth in (18, 34, 50, 101, 152)},
    "imagenet1k-resnext-50": ZooModel("models/imagenet/resnext/50-layers/resnext-50", "resnext50_32x4d"),
    "imagenet1k-resnext-101": ZooModel("models/imagenet/resnext/101-layers/resnext-101", "resnext101_32x8d"),
    "imagenet1k-resnext-101-64x4d": ZooModel("models/imagenet/resnext/101-layers/resnext-101-64x4d",
                                             "resnext101_64x4d"),
    "imagenet11k-resnet-152": ZooModel("models/imagenet-11k/resnet-152/resnet-152", "resnet152"),
    "imagenet11k-place365ch-resnet-50": ZooModel("models/imagenet-11k-place365-ch/resnet-50", "resnet50"),
    "imagenet11k-place365ch-resnet-152": ZooModel("models/imagenet-11k-place365-ch/resnet-152", "resnet152"),
}


def find_model(name: str) -> str | None:
    """Return the zoo's own name for `name` (resnext-101 is imagenet1k-resnext-101); None if it has none."""
    # People write imagenet1k_resnet_50 and ResNet-50 for the same network.
    spelled = name.strip().lower().replace("_", "-")
    return next((full for full in (spelled, f"imagenet1k-{spelled}") if full in ZOO), None)


def short_names() -> list[str]:
    """Return the names without their imagenet1k-, which may be left out."""
    return [name.removeprefix("imagenet1k-") for name in ZOO]


def download_model(name: str, epoch: str) -> PretrainedRef:
    """Download the files of the zoo's network `name` into models/ of the cache, if they are not there.

    They come from IMGCLS_MIRROR or the old host. `epoch` is "auto" or a number: the zoo has one epoch of each
    network, which 0 means as well. Raises UsageError for any other, RunError where the files cannot be had.
    """
    model = ZOO[name]
    if epoch.lower() != "auto" and checkpoint.parse_epoch(epoch) not in (0, model.epoch):
        raise UsageError(f"`load_epoch` {epoch}: the zoo has {name} after one epoch only, {model.epoch:04d} "
                         "(0000 means it too)")
    folder = folders.cache_folder(model.folder)
    # The symbol first: it is small, and tells whether a mirror has the network at all.
    files = [f"{model.stem}-symbol.json", f"{model.stem}-{model.epoch:04d}.params"]
    advice = (f"MXNet's server is gone: take torchvision:{model.torchvision}, the living equivalent of "
              f"{name}, or put {' and '.join(files)} into {folder}, or name a mirror of that server in "
              f"{download.MIRROR_VARIABLE}")
    for file in files:
        fetch_noting_hash(f"{BASE_URL}{model.folder}/{file}", folder / file, model.folder, advice)
    return PretrainedRef(name, name, str(folder / model.stem), str(model.epoch),
                         preprocessing=model.preprocessing, origin="MXNet's zoo",
                         is_imagenet=name.startswith("imagenet1k-"))
