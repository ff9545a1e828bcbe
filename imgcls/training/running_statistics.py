"""The running means and variances of batch normalisations, kept the same for parts of a batch computed apart.

A normalisation that sees half a batch moves its statistics by that half. Averaged over the parts, weighted by
their samples, they are what processes and micro-batches agree on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

#: buffers that a forward pass in training mode changes: MXNet's names, and torch's
_STATISTICS = ("moving_mean", "moving_var", "running_mean", "running_var")


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Return the running means and variances that a step in training mode changes."""
    # use_global_stats is MXNet's way to freeze a normalisation
    changing = [module for module in model.modules()
                if module.training and not getattr(module, "use_global_stats", False)]
    return [buffer for module in changing for name, buffer in module.named_buffers(recurse=False)
            if name in _STATISTICS]


class MicroBatchStatistics:
    """The statistics of one step in micro-batches, each of which begins with those before the step.

    Their weighted mean is what as many processes would have computed, bit for bit.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors
        # copies: the layers change their buffers in place
        self._before = [tensor.clone() for tensor in tensors]
        self._sums = [torch.zeros_like(tensor) for tensor in tensors]

    def add(self, weight: float) -> None:
        """Count what a micro-batch, `weight` of the batch, has left in the network, and undo it there."""
        for tensor, before, sum_ in zip(self._tensors, self._before, self._sums, strict=True):
            sum_ += tensor * weight
            # So that each part normalises from the same state, in whatever order the parts come.
            tensor.copy_(before)

    def finish(self) -> None:
        """Leave the mean in the network."""
        for tensor, sum_ in zip(self._tensors, self._sums, strict=True):
            tensor.copy_(sum_)
