"""What to tell about the images that a network is given, the same for one picture and for a whole set."""

from __future__ import annotations

import dataclasses

from imgcls.config.resolve import Config
from imgcls.data.crops import usual_val_resize


def about_larger_images(config: Config, images: str, short_edge: int) -> str:
    """Return what `val_resize` would change for `images` with about this short edge, "" where little."""
    shape = config.network.image_shape
    if len(shape) != 3:
        return ""
    unasked = dataclasses.replace(config.augment, resize=0)
    usual = usual_val_resize(unasked, (shape[1], shape[2]), short_edge)
    if not usual:
        return ""
    return (f"note: the centre {shape[1]}x{shape[2]} is cut as MXNet does it, from {images} as stored (short "
            f"edge about {short_edge}); `val_resize` {usual} would shrink them to a short edge of {usual} "
            "first, so that the network sees more of them")
