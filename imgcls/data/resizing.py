"""Progressive resizing: images that are smaller in the first epochs, which then take less time, and grow.

Howard 2018 (fast.ai's DAWNBench entries); the ramp and the kind of resizing are those of Composer's
`ProgressiveResizing`. Batches are resized on the device, after everything else but mixing: loaders, their
caches and what is drawn for an image do not depend on it. Called by the trainer.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

from imgcls.config.flags import show
from imgcls.config.sections import TrainConfig
from imgcls.data.loaders.batch import Batch
from imgcls.errors import UsageError
from imgcls.storage.tracebacks import is_out_of_memory

#: sizes are multiples of this part of the full one: a compiled network is compiled anew for each
_NUM_STEPS = 8
#: without `progressive_epochs`: images are smallest before the first part of all epochs, full from the second
_BEGIN, _END = 0.5, 0.8


class Resizing:
    """Resizes batches to the size of their epoch, from `scale` of (H, W) to all of it."""

    def __init__(self, config: TrainConfig, size: tuple[int, int]) -> None:
        self._scale = config.progressive_scale
        self._size = size
        ramp = config.progressive_epochs or (int(_BEGIN * config.num_epochs), int(_END * config.num_epochs))
        self._begin, self._end = ramp

    def size(self, epoch: int) -> tuple[int, int]:
        """Return the (height, width) of images in an epoch, counted from 0."""
        grown = 1.0 if epoch >= self._end else max(epoch - self._begin, 0) / max(self._end - self._begin, 1)
        scale = self._scale + (1 - self._scale) * grown
        # rounded up: never below what the user said
        steps = min(-int(-scale * _NUM_STEPS // 1), _NUM_STEPS)
        height, width = (max(round(side * steps / _NUM_STEPS), 1) for side in self._size)
        return height, width

    def __call__(self, batch: Batch, epoch: int, _batch_index: int) -> Batch:
        """Return a batch of an epoch with images of its size."""
        size = self.size(epoch)
        if size == tuple(batch.images.shape[2:]):
            return batch
        # antialiased, as is usual where photographs are made smaller
        images = F.interpolate(batch.images, size, mode="bilinear", antialias=True)
        return dataclasses.replace(batch, images=images)


def make_resizing(config: TrainConfig, image_shape: tuple[int, ...], model: nn.Module,
                  device: torch.device) -> Resizing | None:
    """Return what resizes the batches of a run, None where they are not resized.

    UsageError for epochs that are not in order, and for a network that needs images of one size.
    """
    if config.progressive_scale == 1:
        return None
    if config.progressive_epochs and config.progressive_epochs[0] > config.progressive_epochs[1]:
        begin, end = config.progressive_epochs
        raise UsageError(f"`progressive_epochs` {begin},{end}: the first must not be after the second")
    what = f"`progressive_scale` {config.progressive_scale:g}"
    if len(image_shape) != 3:
        raise UsageError(f"{what}: needs images, `image_shape` {show(image_shape)} is of flat "
                         "rows")
    resizing = Resizing(config, (image_shape[1], image_shape[2]))
    height, width = resizing.size(0)
    was_training = model.training
    try:  # a classifier behind a map of fixed size fails only when it sees another
        with torch.no_grad():
            model.eval()(torch.zeros(1, image_shape[0], height, width, device=device))
    # torchvision and timm assert that an image has the size of their position embedding
    except (RuntimeError, ValueError, AssertionError) as error:
        if is_out_of_memory(error):  # which says nothing about the size that the network takes
            raise
        raise UsageError(f"{what}: the network does not run on images of {height} x {width}; one that "
                         "averages its last map (resnet, mobilenet, ...) does") from error
    finally:
        model.train(was_training)
    return resizing
