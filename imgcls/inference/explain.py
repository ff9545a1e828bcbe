"""Where a network looked: Grad-CAM (Selvaraju et al., 2017) for any network, without naming a layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgcls.data.opencv import cv2
from imgcls.report import pictures

#: an activation with fewer positions (height times width) than this cannot show where something is
_MIN_PLACES = 4
#: how much of a pixel is the colour of the heat where it is hottest
_MAX_OPACITY = 0.6


def grad_cam(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor | None:
    """Return heat maps float32 (n, H, W), 0 to 1: how much each position speaks for the class of its image.

    `images` are float (n, C, H, W), `classes` int64 (n,). The heat is the last activation that has at least
    four positions, weighted with the mean gradient of its channels. For a network without one (fully
    connected layers only) it is, pixel by pixel, gradient times input. None for flat rows.
    """
    if images.ndim != 4:
        return None
    activation: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.requires_grad and (
                output.shape[2] * output.shape[3] >= _MIN_PLACES):
            activation[:] = [output]  # a later one replaces it

    # containers only return what their last module returned
    leaves = [module for module in model.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(keep) for module in leaves]
    # dropout and the statistics of a batch would change the result
    was_training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            # of the images and not of the weights, which may be frozen
            given = images.detach().requires_grad_()
            logits = model(given).float()
            # the images are independent of each other: one backward pass serves all
            score = logits.gather(1, classes[:, None]).sum()
            # Found by its output and not by name: every network names its last convolution differently.
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
    return heat / heat.amax((1, 2), keepdim=True).clamp(min=1e-12)  # a map of zeros stays one


def overlaid(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return a picture uint8 (H, W, 3) in RGB with heat (H, W), 0 to 1, over it.

    Its colours go from blue to yellow (viridis), which people with any colour vision can tell apart.
    """
    colors = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[:, :, ::-1]  # BGR
    # where there is no heat the picture stays as it is
    opacity = _MAX_OPACITY * heat[:, :, None]
    shown = pictures.bgr(pixels)[:, :, ::-1]
    return (shown * (1 - opacity) + colors * opacity).round().astype(np.uint8)
