"""`mx.image`: single images decoded, resized and cropped, augmenters, and `ImageIter`."""

from __future__ import annotations

from typing import Any

from imgcls.compat.mxnet._augmenters import (
    Augmenter,
    BrightnessJitterAug,
    CastAug,
    CenterCropAug,
    ColorJitterAug,
    ColorNormalizeAug,
    ContrastJitterAug,
    CreateAugmenter,
    ForceResizeAug,
    HorizontalFlipAug,
    HueJitterAug,
    LightingAug,
    RandomCropAug,
    RandomGrayAug,
    RandomOrderAug,
    RandomSizedCropAug,
    ResizeAug,
    SaturationJitterAug,
    SequentialAug,
)
from imgcls.compat.mxnet._image_functions import (
    center_crop,
    color_normalize,
    copyMakeBorder,
    fixed_crop,
    imdecode,
    imread,
    imresize,
    random_crop,
    random_size_crop,
    resize_short,
    scale_down,
)
from imgcls.compat.mxnet._image_iter import ImageIter
from imgcls.compat.mxnet._registration import missing

__all__ = ["Augmenter", "BrightnessJitterAug", "CastAug", "CenterCropAug", "ColorJitterAug",
           "ColorNormalizeAug", "ContrastJitterAug", "CreateAugmenter", "ForceResizeAug", "HorizontalFlipAug",
           "HueJitterAug", "ImageIter", "LightingAug", "RandomCropAug", "RandomGrayAug", "RandomOrderAug",
           "RandomSizedCropAug", "ResizeAug", "SaturationJitterAug", "SequentialAug", "center_crop",
           "color_normalize", "copyMakeBorder", "fixed_crop", "imdecode", "imread", "imresize", "random_crop",
           "random_size_crop", "resize_short", "scale_down"]


def __getattr__(name: str) -> Any:
    raise missing("mxnet.image", name, __all__)
