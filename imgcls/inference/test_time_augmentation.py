"""Test-time augmentation: average a network's predictions over views of an image, mirrored and shifted.

`flip` with `shift` 1 gives the six views, and their weights, of Jordan 2024 (arXiv 2404.00498) for CIFAR-10.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from imgcls.errors import UsageError


class MeanOfViews(nn.Module):
    """Return the logarithm of the mean probabilities over several views of each image.

    The mean that `imgcls-predict` shows. Its softmax is that mean, so it stands in for logits in a metric.
    """

    def __init__(self, model: nn.Module, *, flip: bool = False, shift: int = 0) -> None:
        """`flip` adds the mirror image of each view; `shift`, in pixels, adds the two views of `shifted`,
        each with half the weight of the unshifted one."""
        super().__init__()
        self.model = model
        self._flip = flip
        self._shift = shift

    def forward(self, images: Tensor, mirrored: Tensor | None = None) -> Tensor:
        """Return log-probabilities, float32 (n, classes), for normalised images (n, C, H, W).

        `mirrored`, bool (n,), marks images that are mirrored already: their shifts are mirrored as well.
        """
        views = [(images, 0.5 if self._shift else 1.0)]
        if self._shift:
            views += [(view, 0.25) for view in shifted(images, self._shift, mirrored)]
        if self._flip:
            views = [(image, weight / 2) for view, weight in views for image in (view, view.flip(3))]
        # in float32: the sum of two numbers of half precision has even fewer digits
        log_probabilities = torch.stack([self.model(view).float().log_softmax(1) + math.log(weight)
                                         for view, weight in views])
        return log_probabilities.logsumexp(0)


def shifted(images: Tensor, pixels: int, mirrored: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return images (n, C, H, W) shifted by `pixels` down and right, and the same shifted up and left.

    The border is filled by reflection. Images marked in `mirrored`, bool (n,), are shifted down and left, and
    up and right.
    """
    height, width = images.shape[2:]
    padded = functional.pad(images, (pixels,) * 4, mode="reflect")
    far = 2 * pixels

    def cut(top: int, left: int) -> Tensor:
        return padded[:, :, top:top + height, left:left + width]

    if mirrored is None:
        return cut(0, 0), cut(far, far)
    sides = mirrored.view(-1, 1, 1, 1)
    return torch.where(sides, cut(0, far), cut(0, 0)), torch.where(sides, cut(far, 0), cut(far, far))


def check_views(image_shape: Sequence[int], *, flip: bool, shift: int) -> None:
    """Raise UsageError for views that an input of this shape, (C, H, W) or (n,), does not allow."""
    if len(image_shape) != 3 and (flip or shift):
        raise UsageError(f"`{'flip' if flip else 'shift'}`: is for images, and this network takes flat rows")
    if not isinstance(shift, int) or shift < 0:
        raise UsageError(f"`shift` {shift}: must be a number of pixels, 0 for none")
    if shift and shift >= min(image_shape[1:]):
        raise UsageError(f"`shift` {shift}: must be smaller than the images, which are "
                         f"{image_shape[2]}x{image_shape[1]} (width x height)")
