"""The iterator behind `mx.io.MNISTIter`: MNIST's idx files as batches, shuffled as MXNet shuffles them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from imgcls.compat.mxnet._data_iter import DataDesc, DataIter
from imgcls.compat.mxnet.base import MXNetError, translated, translated_class
from imgcls.compat.mxnet.nd import NDArray
from imgcls.formats import idx

#: MXNet's pixels are divided by this, not by 255
_SCALE = np.float32(256)  # src/io/iter_mnist.cc


# The files are small: they are in memory, as in MXNet.
@translated_class
class MNISTBatches(DataIter):
    """Batches of a pair of idx files, float32 (batch, 1, rows, columns), if `flat` (batch, rows * columns).

    The samples behind the last full batch are left out.
    """

    def __init__(self, image: str | os.PathLike[str], label: str | os.PathLike[str], batch_size: int,
                 shuffle: bool, flat: bool, seed: int, num_parts: int, part_index: int, data_name: str,
                 label_name: str) -> None:
        super().__init__(batch_size)
        if batch_size < 1 or not 0 <= part_index < num_parts:
            raise MXNetError(f"batch_size {batch_size}, part_index {part_index} of num_parts {num_parts}: a "
                             "batch has at least 1 sample, and parts count from 0")
        images, labels = idx.read_images(image), idx.read_labels(label)
        if len(images) != len(labels):
            raise MXNetError(f"{image}: {len(images)} images for the {len(labels)} labels of {label}")
        if not len(images):
            raise MXNetError(f"{image}: holds no images")
        # The part is cut out first, then shuffled.
        part = slice(len(images) * part_index // num_parts, len(images) * (part_index + 1) // num_parts)
        size = part.stop - part.start
        order = _shuffled(size, seed) if shuffle else np.arange(size)
        self._images = images[part][order]
        self._labels = labels[part][order].astype(np.float32)
        self._shape = (images[0].size,) if flat else (1, *images.shape[1:])
        self._names = data_name, label_name
        self._cursor = -batch_size

    @property
    def provide_data(self) -> list[DataDesc]:
        """Name and shape of the data in a batch."""
        return [DataDesc(self._names[0], (self.batch_size, *self._shape))]

    @property
    def provide_label(self) -> list[DataDesc]:
        """Name and shape of the labels in a batch."""
        return [DataDesc(self._names[1], (self.batch_size,))]

    def reset(self) -> None:
        """Begin the next epoch, in the same order."""
        self._cursor = -self.batch_size

    # An incomplete batch at the end is left out.
    def iter_next(self) -> bool:
        """Go to the next batch, if there is a whole one."""
        self._cursor += self.batch_size
        return self._cursor + self.batch_size <= len(self._images)  # no padding here, unlike in NDArrayIter

    def getdata(self) -> list[NDArray]:
        """Return the batch's pixels, in [0, 1)."""
        pixels = self._images[self._cursor:self._cursor + self.batch_size]
        return [NDArray((pixels / _SCALE).astype(np.float32).reshape(self.batch_size, *self._shape))]

    def getlabel(self) -> list[NDArray]:
        """Return the batch's labels."""
        return [NDArray(self._labels[self._cursor:self._cursor + self.batch_size].copy())]

    def getpad(self) -> int:
        """Return 0: every batch is full."""
        return 0


def _shuffled(count: int, seed: int) -> np.ndarray:
    """Return the order that MXNet's `std::shuffle` makes with a Mersenne Twister of this seed."""
    order = np.arange(count)
    twister = np.random.RandomState(seed)
    for place in range(1, count):
        # The raw numbers are divided into `limit` equal ranges; one in the rest is drawn again.
        limit = place + 1
        width = 0xFFFFFFFF // limit  # libstdc++'s uniform_int_distribution before GCC 11
        value = limit * width
        while value >= limit * width:
            value = int(twister.randint(0, 1 << 32, dtype=np.uint32))
        other = value // width
        order[place], order[other] = order[other], order[place]
    return order


@translated
def read(arguments: dict[str, Any]) -> MNISTBatches:
    """Return the iterator for the arguments of `mx.io.MNISTIter`; unknown ones are a TypeError."""
    defaults: dict[str, Any] = {
        "image": "./train-images-idx3-ubyte", "label": "./train-labels-idx1-ubyte", "batch_size": 128,
        "shuffle": True, "flat": False, "seed": 0, "num_parts": 1, "part_index": 0, "data_name": "data",
        "label_name": "softmax_label"}
    # ignored: these only say how MXNet does its work
    ignored = ("silent", "prefetch_buffer", "dtype", "ctx", "device_id", "input_shape")
    wrong = [name for name in arguments if name not in defaults and name not in ignored]
    # A misspelled `shufle` would otherwise train on sorted digits.
    if wrong:
        raise TypeError(f"MNISTIter has no argument {wrong[0]}")
    return MNISTBatches(**{name: arguments.get(name, value) for name, value in defaults.items()})
