"""Batch normalisation over the batches of all processes, on any device (`sync_bn`).

A run converts its network once, before it is wrapped. torch's own SyncBatchNorm is for GPUs only; this is the
same mathematics in plain operations, for our layers and torch's alike, so that what is tested on a CPU is
what runs. Evaluation and saved files stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SyncBNState:
    """What the layers have to know of the step: `num_valid`, the rows of the batch that are not padding.

    The trainer sets it before every forward pass; None: all of them.
    """

    def __init__(self) -> None:
        self.num_valid: int | None = None


def convert_sync_batch_norm(model: nn.Module, layers: tuple[type[nn.Module], ...]) -> SyncBNState | None:
    """Make the batch normalisations of `model` (instances of `layers`) share their statistics while training.

    Return the state that the caller updates before each step, None where there are no such layers. Their
    parameters, names and files stay as they are.
    """
    norms = [module for module in model.modules() if isinstance(module, layers)]
    state = SyncBNState()
    for module in norms:
        # the method and not the module: checkpoints keep the names of an unconverted network
        module.forward = _make_forward(module, state)  # type: ignore[method-assign]
    return state if norms else None


class _SumOverProcesses(torch.autograd.Function):
    """The sum over all processes; backward, the gradients of all processes are summed as well."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        # a sum is its own transpose
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _make_forward(module: Any, state: SyncBNState) -> Any:
    """Return the forward of one layer: as it was in evaluation, over all processes in training."""
    # ours and torch's keep the same numbers under different names
    original = module.forward
    is_ours = hasattr(module, "moving_mean")

    def forward(data: Tensor) -> Tensor:
        if not module.training or getattr(module, "use_global_stats", False):
            return original(data)
        if is_ours:
            weight = None if module.fix_gamma else module.gamma
            bias = module.beta
            running_mean = module.moving_mean
            running_var = module.moving_var
            # MXNet's momentum is the share of the old value, torch's that of the new one
            momentum = 1 - module.momentum
        else:
            weight = module.weight
            bias = module.bias
            running_mean = module.running_mean
            running_var = module.running_var
            momentum = _count_batch(module)
        return _normalise(data, weight, bias, running_mean, running_var, momentum, module.eps,
                          state.num_valid)

    return forward


def _count_batch(module: Any) -> float:
    """Count a batch as torch's layers do, and return the momentum for it."""
    if module.num_batches_tracked is not None:
        module.num_batches_tracked.add_(1)
    if module.momentum is None:  # torch's word for a plain average over all batches
        return 1.0 / int(module.num_batches_tracked or 1)
    return module.momentum


def _normalise(data: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None,
               running_var: Tensor | None, momentum: float, eps: float, num_valid: int | None) -> Tensor:
    """Return data (N, C, ...) normalised over space and the first `num_valid` of N of all processes.

    The running variance is updated with the unbiased one, as torch's kernels do.
    """
    # in float32 under autocast, too: sums over a whole batch do not fit into 8 bits of mantissa
    with torch.autocast(data.device.type, enabled=False):
        values = data if data.dtype == torch.float64 else data.float()
        axes = [0, *range(2, data.ndim)]
        num_channels = data.shape[1]
        shape = [1, num_channels] + [1] * (data.ndim - 2)
        count = values.new_tensor([float(data[:num_valid].numel() // num_channels)])
        # the count goes with the sums: processes may differ in it, and every message costs a wait
        sums = _SumOverProcesses.apply(torch.cat([values[:num_valid].sum(axes), count]))
        assert isinstance(sums, Tensor)
        total = sums[num_channels]
        mean = sums[:num_channels] / total
        centred = values - mean.view(shape)
        # a second message, of what is centred: the difference of two large sums would lose digits
        squares = _SumOverProcesses.apply((centred[:num_valid] ** 2).sum(axes))
        assert isinstance(squares, Tensor)
        variance = squares / total
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                # a single value says nothing about the variance
                unbiased = torch.where(total > 1, squares / (total - 1).clamp(min=1), running_var)
                running_var.lerp_(unbiased.to(running_var.dtype), momentum)
        result = centred * torch.rsqrt(variance + eps).view(shape)
        if weight is not None:
            result = result * weight.view(shape)
        if bias is not None:
            result = result + bias.view(shape)
    return result.to(data.dtype)
