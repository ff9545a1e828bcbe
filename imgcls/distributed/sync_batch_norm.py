"""Batch normalisation over the batches of all processes, on any device.

torch's own SyncBatchNorm is for GPUs only; this one is the same mathematics in plain operations, for ours and torch's
layers alike, so that what is tested on a CPU is what runs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SyncBNState:
    """What the layers of one network know of the step: how many rows of the batch count, the others are padding."""

    def __init__(self) -> None:
        self.num_valid: int | None = None


def convert_sync_batch_norm(model: nn.Module, layers: tuple[type[nn.Module], ...]) -> SyncBNState | None:
    """Make the batch normalisations of `model` (instances of `layers`, ours or torch's) share their statistics while
    training; None where there are none. Their parameters, names and files stay as they are."""
    found, state = [module for module in model.modules() if isinstance(module, layers)], SyncBNState()
    for module in found:
        module.forward = _forward_of(module, state)  # type: ignore[method-assign]
    return state if found else None


class _SumOfAll(torch.autograd.Function):
    """The sum over all processes; every process's gradient flows to every other."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _forward_of(module: Any, state: SyncBNState) -> Any:
    """The forward of one layer: as it was in evaluation, over all processes in training."""
    alone = module.forward
    ours = hasattr(module, "moving_mean")

    def forward(data: Tensor) -> Tensor:
        if not module.training or getattr(module, "use_global_stats", False):
            return alone(data)
        if ours:
            weight, bias = None if module.fix_gamma else module.gamma, module.beta
            mean, var, momentum = module.moving_mean, module.moving_var, 1 - module.momentum
        else:
            weight, bias, mean, var = module.weight, module.bias, module.running_mean, module.running_var
            momentum = _torch_momentum(module)
        return _normalise(data, weight, bias, mean, var, momentum, module.eps, state.num_valid)

    return forward


def _torch_momentum(module: Any) -> float:
    """torch's momentum, and its count of batches."""
    if module.num_batches_tracked is not None:
        module.num_batches_tracked.add_(1)
    if module.momentum is None:
        return 1.0 / int(module.num_batches_tracked or 1)
    return module.momentum


def _normalise(data: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None,
               running_var: Tensor | None, momentum: float, eps: float, num_valid: int | None) -> Tensor:
    """data (N, C, ...) by the mean and variance over space and the first `num_valid` of N of all processes. The running
    variance is updated with the unbiased one, as torch's kernels do."""
    with torch.autocast(data.device.type, enabled=False):
        values = data if data.dtype == torch.float64 else data.float()
        axes = [0, *range(2, data.ndim)]
        channels = data.shape[1]
        count = values.new_tensor([float(data[:num_valid].numel() // channels)])
        sums = _SumOfAll.apply(torch.cat([values[:num_valid].sum(axes), count]))
        assert isinstance(sums, Tensor)
        total = sums[channels]
        shape = [1, channels] + [1] * (data.ndim - 2)
        mean = sums[:channels] / total
        centred = values - mean.view(shape)
        squares = _SumOfAll.apply((centred[:num_valid] ** 2).sum(axes))  # of what is centred: no loss by cancellation
        assert isinstance(squares, Tensor)
        variance = squares / total
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                unbiased = squares / (total - 1).clamp(min=1)
                running_var.lerp_(unbiased.to(running_var.dtype), momentum)
        result = centred * torch.rsqrt(variance + eps).view(shape)
        if weight is not None:
            result = result * weight.view(shape)
        if bias is not None:
            result = result + bias.view(shape)
    return result.to(data.dtype)
