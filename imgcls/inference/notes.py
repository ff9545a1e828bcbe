"""Notes about the images that a network is given, the same for one picture and for a whole set."""

from __future__ import annotations

import dataclasses

from imgcls.data.crops import usual_val_resize
from imgcls.pretrained.preprocessing import Evaluation


def about_larger_images(evaluation: Evaluation, images: str, short_edge: int) -> str:
    """Return a note on what `val_resize` would change for `images` with about this short edge.

    "" where it would change little, where the user has decided, or where they are resized anyway.
    """
    config = evaluation.config
    shape = config.network.image_shape
    if len(shape) != 3 or not evaluation.cut_by:
        return ""
    unasked = dataclasses.replace(config.augment, resize=0)  # for what is usual where nothing is set
    usual = usual_val_resize(unasked, (shape[1], shape[2]), short_edge)
    if not usual:
        return ""
    size = f"{shape[1]}x{shape[2]}"
    return (f"note: the centre {size} is cut {evaluation.cut_by}, from {images} as stored (short edge about "
            f"{short_edge}); `val_resize` {usual} would shrink them to a short edge of {usual} "
            "first, so that the network sees more of them")
