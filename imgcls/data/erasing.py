"""Random erasing (Zhong et al. 2020): a box of an image is set to the mean colour, on the device.

Boxes are drawn as torchvision's `RandomErasing` draws them, for (seed, epoch, sample), when the images are
cut, and filled in after normalisation, where the mean is 0. Called by both loaders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from imgcls.data import order
from imgcls.data.order import Draws

if TYPE_CHECKING:
    from torch import Tensor

#: range of the box's part of the image, and of its height divided by its width, whose logarithm is uniform
_AREA, _ASPECT = (0.02, 0.33), (0.3, 3.3)
#: a box is drawn at most so many times until one fits; then the image stays whole
_MAX_TRIES = 10


def boxes(draws: Draws, probability: float, size: tuple[int, int]) -> np.ndarray:
    """Return int64 (n, 4): top, left, bottom and right of what is erased of images of this (height, width).

    All four are 0 for an image that stays whole.
    """
    height, width = size
    is_erased, *numbers = draws.uniform(order.ERASE, 1 + 4 * _MAX_TRIES)
    area, aspect, row, column = np.array(numbers).reshape(4, _MAX_TRIES, -1)
    area = (_AREA[0] + area * (_AREA[1] - _AREA[0])) * height * width
    low, high = np.log(_ASPECT)
    aspect = np.exp(low + aspect * (high - low))
    heights, widths = np.round(np.sqrt(area * aspect)), np.round(np.sqrt(area / aspect))
    fits = (heights < height) & (widths < width)
    first = fits.argmax(axis=0), np.arange(len(is_erased))
    tops = np.floor(row * (height - heights + 1))[first]
    lefts = np.floor(column * (width - widths + 1))[first]
    drawn = np.stack([tops, lefts, tops + heights[first], lefts + widths[first]], axis=1).astype(np.int64)
    drawn[~(fits[first] & (is_erased < probability))] = 0
    return drawn


def erase(images: Tensor, boxes: np.ndarray) -> None:
    """Set the boxes (n, 4) of normalised images (n, C, H, W) to 0, in place."""
    if images.device.type == "cpu":
        # writes no more than the boxes
        for index in np.flatnonzero(boxes[:, 2]):
            top, left, bottom, right = boxes[index]
            images[index, :, top:bottom, left:right] = 0
        return
    # in a few kernels: one for each image would keep a GPU waiting
    import torch  # here: code that only reads images loads this file as well

    top, left, bottom, right = torch.from_numpy(boxes).to(images.device).T[:, :, None]
    rows, columns = (torch.arange(size, device=images.device) for size in images.shape[2:])
    is_row = (rows >= top) & (rows < bottom)
    is_column = (columns >= left) & (columns < right)
    images.masked_fill_((is_row[:, :, None] & is_column[:, None, :])[:, None], 0)
