"""`resnet-v1` by its other name: MXNet 1.5 copied the file so that `resnetv1-50` can be split at its dash."""

from imgcls.networks.resnet_v1 import IMAGE_SHAPE, OPTIONS, build

__all__ = ["IMAGE_SHAPE", "OPTIONS", "build"]
