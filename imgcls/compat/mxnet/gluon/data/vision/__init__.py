"""`mx.gluon.data.vision`: data sets of images, and transforms."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

from imgcls.compat.mxnet import image, recordio
from imgcls.compat.mxnet.gluon.data.dataset import Dataset, RecordFileDataset
from imgcls.compat.mxnet.gluon.data.vision import transforms as transforms
from imgcls.compat.mxnet.gluon.data.vision.downloaded import CIFAR10, CIFAR100, MNIST, FashionMNIST

__all__ = ["CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "ImageFolderDataset", "ImageRecordDataset",
           "transforms"]

_EXTENSIONS = (".jpg", ".jpeg", ".png")


class ImageFolderDataset(Dataset):
    """The images in the folders of a folder: (NDArray uint8 (H, W, C), number of the folder).

    `synsets` are the names of the folders in order, `items` pairs of a path and a folder's number.
    """

    def __init__(self, root: str | os.PathLike[str], flag: int = 1,
                 transform: Callable[[Any, Any], Any] | None = None) -> None:
        self._root = os.path.expanduser(root)
        self._flag = flag
        self._transform = transform
        self.synsets: list[str] = []
        self.items: list[tuple[str, int]] = []
        for folder in sorted(os.listdir(self._root)):
            path = os.path.join(self._root, folder)
            if not os.path.isdir(path):
                warnings.warn(f"Ignoring {path}, which is not a directory.", stacklevel=3)
                continue
            self.items += [(os.path.join(path, name), len(self.synsets)) for name in sorted(os.listdir(path))
                           if os.path.splitext(name)[1].lower() in _EXTENSIONS]
            self.synsets.append(folder)

    def __getitem__(self, idx: int) -> Any:
        path, label = self.items[idx]
        pixels = image.imread(path, self._flag)
        return self._transform(pixels, label) if self._transform else (pixels, label)

    def __len__(self) -> int:
        return len(self.items)


class ImageRecordDataset(RecordFileDataset):
    """The image records of `X.rec`: (NDArray uint8 (H, W, C), label), or what `transform` makes of the two.

    With `flag` 0 the images are grey.
    """

    def __init__(self, filename: str | os.PathLike[str], flag: int = 1,
                 transform: Callable[[Any, Any], Any] | None = None) -> None:
        super().__init__(filename)
        self._flag = flag
        self._transform = transform

    def __getitem__(self, idx: int) -> Any:
        # Decoded at each request: nothing is kept in memory.
        header, encoded = recordio.unpack(super().__getitem__(idx))  # the label may be an array
        pixels = image.imdecode(encoded, self._flag)
        return self._transform(pixels, header.label) if self._transform else (pixels, header.label)
