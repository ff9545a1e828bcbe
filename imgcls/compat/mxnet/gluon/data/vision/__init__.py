"""`mx.gluon.data.vision`: the data set of image records, and what prepares images."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from imgcls.compat.mxnet import image, recordio
from imgcls.compat.mxnet.gluon.data.dataset import RecordFileDataset
from imgcls.compat.mxnet.gluon.data.vision import transforms as transforms


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
        # Decoded when it is asked for, each time anew: nothing stays in memory.
        header, encoded = recordio.unpack(super().__getitem__(idx))  # the label may be an array
        pixels = image.imdecode(encoded, self._flag)
        return self._transform(pixels, header.label) if self._transform else (pixels, header.label)
