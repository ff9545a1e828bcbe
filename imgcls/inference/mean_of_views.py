"""A network that is asked several times about an image: as it is, mirrored, and shifted by a few pixels.

This is test-time augmentation as recipes of CIFAR-10 have it: `flip` and `shift` 1 are the six views of
Jordan 2024 (arXiv 2404.00498), with the weights that it gives them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from imgcls.errors import UsageError


class MeanOfViews(nn.Module):
    """Gives the logarithm of the mean probabilities of several views of an image.

    The same mean that `imgcls-predict` shows; for accuracy and cross-entropy it is as good as logits.
    """

    def __init__(self, model: nn.Module, *, flip: bool = False, shift: int = 0) -> None:
        """`flip` adds the mirror image of each view; `shift` adds two views, see `shifted`, which together
        count as much as the one that is not shifted."""
        super().__init__()
        self.model = model
        self._flip = flip
        self._shift = shift

    def forward(self, images: Tensor, mirrored: Tensor | None = None) -> Tensor:
        """Return float32 (n, classes) of normalised images (n, C, H, W).

        `mirrored`, bool (n,), says which of them are mirror images already: those are shifted as if they were
        mirrored after it.
        """
        views = [(images, 0.5 if self._shift else 1.0)]
        if self._shift:
            views += [(view, 0.25) for view in shifted(images, self._shift, mirrored)]
        if self._flip:
            views = [(image, part / 2) for view, part in views for image in (view, view.flip(3))]
        # in float32: the sum of two numbers of half precision has even fewer digits
        answers = torch.stack([self.model(view).float().log_softmax(1) + math.log(part)
                               for view, part in views])
        return answers.logsumexp(0)


def shifted(images: Tensor, pixels: int, mirrored: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return images (n, C, H, W) moved by `pixels` down and to the right, and up and to the left.

    What comes in at the border is the image reflected there. Images that are `mirrored`, bool (n,), are moved
    to the other side: down and to the left, and up and to the right.
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
    """Raise UsageError for views that a network of this input shape cannot be shown."""
    if len(image_shape) != 3 and (flip or shift):
        raise UsageError(f"`{'flip' if flip else 'shift'}`: is for images, and this network takes flat rows")
    if not isinstance(shift, int) or shift < 0:
        raise UsageError(f"`shift` {shift}: must be a number of pixels, 0 for none")
    if shift and shift >= min(image_shape[1:]):
        raise UsageError(f"`shift` {shift}: must be smaller than the images, which are "
                         f"{image_shape[2]}x{image_shape[1]} (width x height)")
