"""Layers that train as MXNet's on the CPU do, where those of `imgcls.layers` train as torch's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from imgcls.compat.mxnet._generator import generator
from imgcls.layers import BatchNorm, Dropout, Layer


# A forward pass alone changes no statistics: MXNet updates them when the gradients are computed.
class MovingBatchNorm(BatchNorm):
    """Batch normalisation whose moving statistics are updated by the backward pass, as in MXNet.

    The moving variance follows the biased variance of the batch, not the unbiased one that torch uses.
    """

    #: mean and variance of the last batch in training, (C,) each
    batch_statistics: tuple[Tensor, Tensor] | None = None

    def forward(self, data: Tensor) -> Tensor:
        self.batch_statistics = None
        if not self.training or self.use_global_stats:
            return super().forward(data)
        gamma = None if self.fix_gamma else self.gamma
        if not data.is_meta:
            with torch.no_grad():
                axes = [axis for axis in range(data.ndim) if axis != 1]
                # Computed a second time, as torch's batch_norm does not return the statistics it uses.
                variance, mean = torch.var_mean(data, axes, correction=0)
                self.batch_statistics = mean, variance
        # Without running statistics, so that torch updates none; `moved` does that after the backward pass.
        return F.batch_norm(data, None, None, gamma, self.beta, True, 0.0, self.eps)

    def moved(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Return the moving statistics after this batch, from those before it."""
        if self.batch_statistics is None:
            return mean, variance
        old, new = self.momentum, 1 - self.momentum
        return tuple(before * old + batch * new  # type: ignore[return-value]
                     for before, batch in zip((mean, variance), self.batch_statistics, strict=True))


class MovingBatchNormReLU(MovingBatchNorm):
    """`MovingBatchNorm` and a relu in one operator."""

    op = "_contrib_BatchNormWithReLU"

    def forward(self, data: Tensor) -> Tensor:
        return super().forward(data).relu()


# The same elements are dropped as in MXNet after the same seed.
class SeededDropout(Dropout):
    """Dropout that draws MXNet's random numbers."""

    def forward(self, data: Tensor) -> Tensor:
        if not self.training or data.is_meta or self.p == 0:
            return data
        # Drawn on the CPU wherever the data are: a GPU would give other numbers for the same seed.
        kept = torch.from_numpy(generator().uniform(data.numel())) < 1 - self.p
        return data * (kept.reshape(data.shape).to(data) * (1 / (1 - self.p)))


# The statistics change when the gradients are computed and not before, as in MXNet.
def follow_statistics(layer: Layer, result: Any, parameters: Sequence[Any]) -> None:
    """Register a hook on `result` that updates the moving statistics, the last two of `parameters`."""
    if not isinstance(layer, MovingBatchNorm) or layer.batch_statistics is None or not result.requires_grad:
        return
    arrays = parameters[-2:]
    moved = layer.moved(*(torch.from_numpy(array._data) for array in arrays))

    def write(gradient: Tensor) -> None:
        for array, values in zip(arrays, moved, strict=True):
            array._data[...] = values.numpy()

    result.register_hook(write)


#: operator -> its class, used in place of the one of `imgcls.layers`
TRAINING: dict[str, type[Layer]] = {
    "Dropout": SeededDropout,
    "BatchNorm": MovingBatchNorm, "CuDNNBatchNorm": MovingBatchNorm, "BatchNorm_v1": MovingBatchNorm,
    "_contrib_SyncBatchNorm": MovingBatchNorm, "_contrib_BatchNormWithReLU": MovingBatchNormReLU,
}
