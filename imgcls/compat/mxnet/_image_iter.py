"""`mx.image.ImageIter`: batches of augmented images from records, a list file or a list."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from imgcls.compat.mxnet import _image_functions as functions
from imgcls.compat.mxnet import recordio
from imgcls.compat.mxnet._augmenters import CreateAugmenter
from imgcls.compat.mxnet._data_iter import DataBatch, DataIter
from imgcls.compat.mxnet.base import MXNetError
from imgcls.compat.mxnet.nd import NDArray


class ImageIter(DataIter):
    """Batches (batch, C, H, W) of `dtype` (float32) with float32 labels (batch,) or (batch, label_width)."""

    def __init__(self, batch_size: int, data_shape: Sequence[int], label_width: int = 1,
                 **kwargs: Any) -> None:
        super().__init__(batch_size)
        # the remaining keywords are for CreateAugmenter, as in MXNet: a misspelled one is a TypeError
        # there
        take = kwargs.pop
        records, root = take("path_imgrec", None), take("path_root", None)
        listed, listed_file = take("imglist", None), take("path_imglist", None)
        index_file = take("path_imgidx", None)
        self._shuffle, part = take("shuffle", False), (take("part_index", 0), take("num_parts", 1))
        augmenters, self._names = take("aug_list", None), (take("data_name", "data"),
                                                           take("label_name", "softmax_label"))
        self._dtype, self._last_batch = take("dtype", "float32"), take("last_batch_handle", "pad")
        # refused at once, and not when the first epoch ends
        if self._last_batch not in ("pad", "discard", "roll_over"):
            raise ValueError(f"last_batch_handle {self._last_batch}: must be pad, discard or roll_over")
        if len(data_shape) != 3 or data_shape[0] not in (1, 3):
            raise ValueError("data_shape should have length 3, with dimensions CxHxW, of 3 channels")
        if not (records or listed_file or isinstance(listed, list)):
            raise AssertionError("ImageIter needs path_imgrec, path_imglist or imglist")
        self.data_shape = tuple(data_shape)
        self._label_width = label_width
        self._root = root or ""
        self.auglist = CreateAugmenter(data_shape, **kwargs) if augmenters is None else augmenters
        self._records: Any = None
        self._samples: dict[Any, tuple[np.ndarray, str]] = {}
        if records:
            # MXNet reads records without an index too, but then cannot shuffle them; the index stands
            # beside the records wherever im2rec wrote them
            index = index_file or os.path.splitext(records)[0] + ".idx"
            self._records = recordio.MXIndexedRecordIO(index, records, "r")
            keys: list[Any] = list(self._records.keys)
        else:
            self._samples = _read_list(listed_file) if listed_file else _of_list(listed)
            # insertion order is that of the file, which is the order of an epoch that is not shuffled
            keys = list(self._samples)
        # rounded down, so that all parts have the same number of batches; the remainder is in no part,
        # as in MXNet
        size = len(keys) // part[1]
        # `seq` is MXNet's name, which scripts read and cut
        self.seq = keys[size * part[0]:size * (part[0] + 1)] if part[1] > 1 else keys
        self._left: list[Any] = []
        self._position = 0
        self.reset()

    @property
    def provide_data(self) -> list[Any]:
        """Name and shape of the data in a batch."""
        return [(self._names[0], (self.batch_size, *self.data_shape))]

    @property
    def provide_label(self) -> list[Any]:
        """Name and shape of the labels in a batch."""
        return [(self._names[1], self._label_shape())]

    def _label_shape(self) -> tuple[int, ...]:
        return (self.batch_size, self._label_width) if self._label_width > 1 else (self.batch_size,)

    def reset(self) -> None:
        """Begin the next epoch."""
        if self._shuffle:
            # in place and from Python's generator: a seeded script gets MXNet's order
            random.shuffle(self.seq)
        # for roll_over: the samples that did not fill a batch come first in the next epoch
        self._order = [*self._left, *self.seq]
        self._left, self._position = [], 0

    hard_reset = reset

    def next_sample(self) -> tuple[Any, Any]:
        """Return the label and the encoded bytes of the next image."""
        if self._position >= len(self._order):
            raise StopIteration
        key = self._order[self._position]
        self._position += 1
        if self._records is not None:
            header, encoded = recordio.unpack(self._records.read_idx(key))
            return header.label, encoded
        label, name = self._samples[key]
        return label, self.read_image(name)

    def read_image(self, fname: str) -> bytes:
        """Return the bytes of an image below the root."""
        with open(os.path.join(self._root, fname), "rb") as stream:
            return stream.read()

    def imdecode(self, s: bytes) -> NDArray:
        """Return the decoded image."""
        return functions.imdecode(s)

    def augmentation_transform(self, data: NDArray) -> NDArray:
        """Return the image after all augmenters."""
        for augmenter in self.auglist:
            data = augmenter(data)
        return data

    def postprocess_data(self, datum: NDArray) -> NDArray:
        """Return the image transposed to (C, H, W)."""
        return datum.transpose((2, 0, 1))

    def next(self) -> DataBatch:
        """Return the next batch; in the last one `pad` rows repeat samples from the epoch's start."""
        data = np.zeros((self.batch_size, *self.data_shape), self._dtype)
        labels = np.zeros(self._label_shape(), np.float32)
        first = self._position
        count = 0
        while count < self.batch_size:
            try:
                label, encoded = self.next_sample()
            except StopIteration:
                break
            pixels = self.postprocess_data(self.augmentation_transform(self.imdecode(encoded)))
            # without a crop among the augmenters images have sizes of their own, which no batch holds
            if pixels.shape != self.data_shape:
                raise MXNetError(f"an image is {pixels.shape} behind the augmenters, not {self.data_shape}")
            data[count], labels[count] = pixels._data, self._of_width(label)
            count += 1
        pad = self.batch_size - count
        if not count or (pad and self._last_batch == "discard"):
            raise StopIteration
        if pad and self._last_batch == "roll_over":
            # those samples were decoded for nothing: the next epoch decodes them again, with its own
            # crops
            self._left = self._order[first:]
            raise StopIteration
        for row in range(count, self.batch_size):  # filled up with the first samples of the epoch
            label, encoded = self._first(row - count)
            data[row] = self.postprocess_data(self.augmentation_transform(self.imdecode(encoded)))._data
            labels[row] = self._of_width(label)
        return DataBatch([NDArray(data)], [NDArray(labels)], pad=pad, provide_data=self.provide_data,
                         provide_label=self.provide_label)

    def _of_width(self, label: Any) -> Any:
        values = np.ravel(label)
        return values[0] if self._label_width == 1 else values[:self._label_width]

    def _first(self, number: int) -> tuple[Any, Any]:
        # modulo: an epoch may be shorter than a batch
        position, self._position = self._position, number % len(self._order)
        try:
            return self.next_sample()
        finally:
            self._position = position


def _read_list(path: str) -> dict[Any, tuple[np.ndarray, str]]:
    """Return key -> (labels, file) of a `.lst` file."""
    samples = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            parts = line.strip().split("\t")
            # shorter lines are empty or damaged; MXNet passes over them as well
            if len(parts) > 2:
                samples[int(parts[0])] = np.array(parts[1:-1], np.float32), parts[-1]
    return samples


def _of_list(listed: Sequence[Sequence[Any]]) -> dict[Any, tuple[np.ndarray, str]]:
    """Return key -> (labels, file) of a list of [label, ..., file]."""
    samples = {}
    for number, row in enumerate(listed, 1):
        labels = row[0] if len(row) == 2 else row[:-1]
        # text as keys, as MXNet makes them: scripts look into `seq`
        samples[str(number)] = np.array(labels, np.float32), row[-1]
    return samples
