"""A network that is asked twice: about each image and its mirror image (test-time augmentation)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Flipped(nn.Module):
    """Gives the logarithm of the mean probabilities of an image and its mirror image.

    The same mean that `imgcls-predict --flip` shows; for accuracy and cross-entropy it is as good as logits.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 (n, classes) of images (n, C, H, W)."""
        # in float32: the sum of two numbers of half precision has even fewer digits
        both = torch.stack([self.model(view).float().log_softmax(1) for view in (images, images.flip(3))])
        return both.logsumexp(0) - math.log(2)
