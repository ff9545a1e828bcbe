"""Changes of uint8 pixels that were decoded: resizing, colour, number of channels.

Called by `decode.py` with what `crops.py` and `color.py` have drawn; nothing is drawn here.
"""

from __future__ import annotations

import numpy as np

from imgcls.data.color import Color
from imgcls.data.crops import METHODS, Size
from imgcls.data.image_header import MAX_PIXELS, BadImageError
from imgcls.data.opencv import cv2

_ANTIALIAS, _AUTO, _NEAREST = METHODS["antialias"], METHODS["auto"], METHODS["nearest"]
# OpenCV's 8-bit hue counts half degrees; MXNet keeps 180, which is the same colour as 0
_MAX_HUE = 180


def resize(image: np.ndarray, size: Size, method: int, *, into: np.ndarray | None = None) -> np.ndarray:
    """Return uint8 (h, w) or (h, w, c) resized to `size`; fill `into` where it is given and has that size."""
    check_size(size)
    if method == _ANTIALIAS:
        return _antialiased(image, size, None, into)
    return cv2.resize(image, size[::-1], dst=into, interpolation=interpolation(method, image.shape[:2], size))


def resize_part(image: np.ndarray, full: Size, reduction: int, target: Size, method: int,
                needed: Size | None) -> np.ndarray:
    """Resize as if `image` were the full image; its lower rows may be missing, and it may be decoded smaller.

    `full` is the full image's size, `reduction` (1, 2, 4, 8) how many times smaller `image` is. What is
    right of and below the upper left part `needed` may be left out of the result.
    """
    check_size(target)
    height, width = image.shape[:2]
    is_full_height = height * reduction >= full[0]
    rows, columns = needed or target
    # Cubic and the others round a pixel by its place in the row: they are given rows of full width.
    if method not in (_NEAREST, cv2.INTER_LINEAR, _ANTIALIAS):
        columns = target[1]
    if is_full_height and columns == target[1]:
        return resize(image, target, method)
    # OpenCV would put the pixels elsewhere if it were given the part's size: it is given the factors.
    across = target[1] / width
    down = target[0] / height if is_full_height else target[0] * reduction / full[0]
    if method == _ANTIALIAS:
        return _antialiased(image, (rows, columns), (down, across), None)
    method = interpolation(method, image.shape[:2] if is_full_height else full, target)
    if columns < target[1]:
        # a few columns more than are needed, for the neighbours that the last ones are mixed with
        image = image[:, :int((columns + 2) / across) + 8]
    return cv2.resize(image, None, fx=across, fy=down, interpolation=method)


def interpolation(method: int, before: Size, after: Size) -> int:
    """Return OpenCV's number of a method; auto depends on the sizes before and after."""
    if method != _AUTO:
        return method
    # MXNet's rule: cubic where both sides grow, area where both shrink, otherwise bilinear
    if after[0] > before[0] and after[1] > before[1]:
        return cv2.INTER_CUBIC
    return cv2.INTER_AREA if after[0] < before[0] and after[1] < before[1] else cv2.INTER_LINEAR


def recolor(image: np.ndarray, color: Color) -> None:
    """Change the colour of uint8 (H, W, C) RGB in place.

    As MXNet does, step by step with the rounding to bytes: at once, in floats, would give other pixels.
    """
    for step in color.order:
        if color.factors[step] != 1:
            _jitter(image, step, color.factors[step])
    if any(color.hls):
        hls = cv2.cvtColor(image, cv2.COLOR_RGB2HLS)
        # saturating at 0 and 255, as MXNet cuts lightness and saturation off
        cv2.add(hls, np.array([*color.hls, 0.0]), dst=hls)
        np.minimum(hls[:, :, 0], _MAX_HUE, out=hls[:, :, 0])  # hue ends there, it does not wrap
        cv2.cvtColor(hls, cv2.COLOR_HLS2RGB, dst=image)
    if any(color.light):
        # Adding a number and cutting the fraction off is adding its floor, as all below 0 ends at 0.
        cv2.add(image, np.floor([*color.light, 0.0]), dst=image)


def _jitter(image: np.ndarray, step: int, factor: float) -> None:
    """Scale brightness (step 0), contrast (1) or saturation (2) in place.

    The grey of contrast and saturation takes red for blue and blue for red: so does MXNet's, which converts
    RGB with OpenCV's constants for BGR.
    """
    if step == 0:
        cv2.addWeighted(image, factor, image, 0, 0, dst=image)
    elif image.shape[2] != 3:
        if step == 1:  # without colour there is no saturation
            cv2.addWeighted(image, factor, image, 0, (1 - factor) * float(image.mean()), dst=image)
    else:
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        if step == 1:
            cv2.addWeighted(image, factor, image, 0, (1 - factor) * cv2.mean(grey)[0], dst=image)
        else:
            cv2.addWeighted(image, factor, cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), 1 - factor, 0, dst=image)


def to_channels(image: np.ndarray, num_channels: int) -> np.ndarray:
    """Return uint8 pixels (h, w[, c]) with `num_channels`: grey is repeated, colour becomes its luma.

    BadImageError for other types and numbers of channels.
    """
    num_given = 1 if image.ndim == 2 else image.shape[2]
    if image.dtype != np.uint8:
        raise BadImageError(f"has pixels of {image.dtype}: only border, crop and mirror are for these")
    image = np.ascontiguousarray(image)
    if num_given == num_channels:
        return image
    # as the resident loader converts: grey repeated, colour by its luma
    if (num_given, num_channels) == (1, 3):
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    if (num_given, num_channels) == (3, 1):
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    raise BadImageError(f"has {num_given} channels, `image_shape` has {num_channels}")


def check_size(size: Size) -> None:
    """Raise BadImageError for a (height, width) of more pixels than are decoded."""
    if size[0] * size[1] > MAX_PIXELS:
        raise BadImageError(f"would become {size[1]} x {size[0]} pixels when resized")


def _antialiased(image: np.ndarray, size: Size, factors: tuple[float, float] | None,
                 into: np.ndarray | None) -> np.ndarray:
    """Resize bilinearly over all pixels that fall into one, as Pillow and torchvision do.

    `factors` (down, across) where `image` is a part and its own size would give other ones.
    """
    # Here and not above: OpenCV's methods, and the `mx.image` functions that use them, need no torch.
    import torch

    if image.ndim == 2:
        image = image[:, :, None]
    if into is None:
        into = np.empty((*size, image.shape[2]), np.uint8)
    source = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    target = torch.from_numpy(into).permute(2, 0, 1)[None]
    # The operator behind F.interpolate, which has no `out`: this writes bytes straight into the batch.
    torch.ops.aten._upsample_bilinear2d_aa.out(source, size, False, *(factors or (None, None)), out=target)
    return into
