"""`mx.gluon.data.vision.MNIST` and its like, from files that are on this machine: nothing is downloaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from imgcls.compat.mxnet.base import MXNetError, translated
from imgcls.compat.mxnet.gluon.data.dataset import Dataset
from imgcls.compat.mxnet.nd import NDArray
from imgcls.formats import cifar, idx


def _default_root(name: str) -> str:
    """Return MXNet's own folder of a data set: in MXNET_HOME, or in `~/.mxnet`."""
    return os.path.join(os.environ.get("MXNET_HOME", os.path.join("~", ".mxnet")), "datasets", name)


# All in memory, as the files are small.
class _Downloaded(Dataset):
    """Samples (NDArray uint8 (H, W, C), int32 label) from files in `root`."""

    _name: str

    def __init__(self, root: str | None = None, train: bool = True,
                 transform: Callable[[Any, Any], Any] | None = None) -> None:
        folder = Path(os.path.expanduser(root or _default_root(self._name)))
        images, labels = self._read(folder, train)
        self._data = images
        # int32 as in MXNet; losses accept it
        self._label = labels.astype(np.int32)
        self._transform = transform

    def _read(self, folder: Path, train: bool) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def __getitem__(self, idx: int) -> Any:
        # a copy: transforms of Gluon change images in place, and the set would change with them
        image, label = NDArray(self._data[idx].copy()), self._label[idx]
        return self._transform(image, label) if self._transform else (image, label)

    def __len__(self) -> int:
        return len(self._label)


def _missing(name: str, folder: Path) -> MXNetError:
    return MXNetError(f"{name}: its files are not in {folder}, and nothing is downloaded; put them there, or "
                      f"give root=FOLDER")


class MNIST(_Downloaded):
    """Digits of 28 x 28 from idx files, compressed by gzip or not."""

    _name = "mnist"

    @translated
    def _read(self, folder: Path, train: bool) -> tuple[np.ndarray, np.ndarray]:
        begin = "train" if train else "t10k"
        found = []
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
            # compressed first, as MXNet leaves them; then uncompressed
            names = [folder / f"{begin}-{kind}{end}" for end in (".gz", "")]
            path = next((path for path in names if path.is_file()), None)
            if path is None:
                raise _missing(self._name, folder)
            found.append(path)
        images, labels = idx.read_images(found[0]), idx.read_labels(found[1])
        if len(images) != len(labels):
            raise MXNetError(f"{found[0]}: {len(images)} images for the {len(labels)} labels of {found[1]}")
        # (N, 28, 28, 1): Gluon's images have their channels last
        return images[..., None], labels


class FashionMNIST(MNIST):
    """Clothes, in files like MNIST's."""

    _name = "fashion-mnist"


class CIFAR10(_Downloaded):
    """Small photographs of ten classes, from the archive or its files."""

    _name = "cifar10"
    _num_classes = 10
    _is_coarse = False

    @translated
    def _read(self, folder: Path, train: bool) -> tuple[np.ndarray, np.ndarray]:
        splits = cifar.read_splits(folder, self._num_classes)
        if splits is None:
            raise _missing(self._name, folder)
        part = splits.train if train else splits.test
        labels = part.coarse_labels if self._is_coarse and part.coarse_labels is not None else part.labels
        return np.ascontiguousarray(part.images.transpose(0, 2, 3, 1)), labels


class CIFAR100(CIFAR10):
    """Small photographs of a hundred classes, or with `fine_label` off of twenty groups of them."""

    _name = "cifar100"
    _num_classes = 100

    def __init__(self, root: str | None = None, fine_label: bool = False, train: bool = True,
                 transform: Callable[[Any, Any], Any] | None = None) -> None:
        # the 20 coarse classes by default, as in MXNet; files hold both
        self._is_coarse = not fine_label
        super().__init__(root, train, transform)
