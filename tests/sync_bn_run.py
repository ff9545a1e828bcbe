"""One of two processes: batch normalisation over both equals that of one process, in float64."""

from __future__ import annotations

import copy
import os
import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn

from imgcls import layers
from imgcls.distributed import sync_batch_norm

LIMIT = 1e-12


def train(model: nn.Module, data: Tensor, global_size: int, num_valid: int | None = None) -> list[Tensor]:
    """Take two steps of plain gradient descent; return the weights, statistics and input gradients."""
    data = data.clone().requires_grad_()
    for _ in range(2):
        model.zero_grad()
        data.grad = None
        ((model(data)[:num_valid] ** 3).sum() / global_size).backward()
        for parameter in model.parameters():
            assert parameter.grad is not None
            if dist.get_world_size() > 1 and num_valid is not None:
                dist.all_reduce(parameter.grad)
            parameter.data -= 0.1 * parameter.grad
    assert data.grad is not None
    return [*model.state_dict().values(), data.grad[:num_valid]]


def main(rank: int, port: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.manual_seed(0)
    data = torch.randn(7, 3, 4, 4, dtype=torch.float64) * 5 + 2
    for norm in (layers.BatchNorm(3, fix_gamma=False), layers.BatchNorm(3), nn.BatchNorm2d(3),
                 nn.BatchNorm2d(3, momentum=None)):
        for bounds in ((0, 3, 7), (0, 7, 7)):  # the second process has nothing of the second, only padding
            single = nn.Sequential(norm, nn.Conv2d(3, 2, 3), copy.deepcopy(nn.BatchNorm2d(2))).double()
            for parameter in single.parameters():
                nn.init.normal_(parameter, 1.0, 0.3)
            single, distributed = copy.deepcopy(single), copy.deepcopy(single)
            sync_bn = sync_batch_norm.convert_sync_batch_norm(distributed, (layers.BatchNorm, nn.BatchNorm2d))
            first, end = bounds[rank], bounds[rank + 1]
            local_data = data[first:end] if end > first else data[:1]
            assert sync_bn is not None
            sync_bn.num_valid = end - first
            expected = train(single, data, 7)
            actual = train(distributed, local_data, 7, end - first)
            expected[-1] = expected[-1][first:end]
            worst = max(((a - b).abs().max().item() for a, b in zip(expected, actual, strict=True)
                         if a.numel()))
            assert worst < LIMIT, f"{norm}, {bounds}: {worst}"
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
    sys.stdout.flush()
    os._exit(0)  # threads of gloo may outlive the interpreter, which then aborts
