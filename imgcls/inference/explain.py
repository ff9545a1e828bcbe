"""Where a network looked: Grad-CAM (Selvaraju et al., 2017) for any network, without naming a layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgcls.data.opencv import cv2
from imgcls.report import pictures

#: an activation of fewer places than this tells nothing about where
_MIN_PLACES = 4
#: how much of a pixel is the colour of the heat where it is hottest
_MAX_OPACITY = 0.6


def grad_cam(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor | None:
    """Return how much each place of `images` (n, C, H, W) spoke for `classes` (n,): float (n, H, W), 0 to 1.

    The last activation that still has places, weighted with the mean gradient of its channels. A network
    without one (of fully connected layers) is asked pixel by pixel: gradient times input. None for flat rows.
    """
    if images.ndim != 4:
        return None
    activation: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.requires_grad and (
                output.shape[2] * output.shape[3] >= _MIN_PLACES):
            activation[:] = [output]  # a later one takes its place

    # containers give what their last part has given
    leaves = [module for module in model.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(keep) for module in leaves]
    # dropout and the statistics of a batch would blur the answer
    was_training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            # the images and not the weights, which may be frozen
            given = images.detach().requires_grad_()
            logits = model(given).float()
            # the images do not know of each other: one backward pass for all
            score = logits.gather(1, classes[:, None]).sum()
            # One list and no module's name, as every network calls its last convolution otherwise.
            looked_at = activation[0] if activation else given
            # Of this activation alone: `backward` would also fill the gradients of all weights.
            gradient, = torch.autograd.grad(score, looked_at)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    looked_at, gradient = looked_at.detach().float(), gradient.float()
    if activation:
        # what speaks against the class is left out
        heat = (gradient.mean((2, 3), keepdim=True) * looked_at).sum(1, keepdim=True).relu()
    else:
        # a pixel may speak for the class by being dark
        heat = (gradient * looked_at).abs().sum(1, keepdim=True)
    # as large as the image, to be laid over it
    heat = F.interpolate(heat, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return heat / heat.amax((1, 2), keepdim=True).clamp(min=1e-12)  # a picture without any heat stays black


def overlaid(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return a picture uint8 (H, W, 3) in RGB with heat (H, W), 0 to 1, over it.

    From blue to yellow, which every eye tells apart.
    """
    colors = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[:, :, ::-1]  # BGR
    opacity = _MAX_OPACITY * heat[:, :, None]
    shown = pictures.bgr(pixels)[:, :, ::-1]
    return (shown * (1 - opacity) + colors * opacity).round().astype(np.uint8)
