"""The gradient of a convolution's weights on small maps in bfloat16 on a CPU, torch's and ours.

    python benchmarks/small_maps.py [--threads 2] [--rounds 10]

Prints for each case the milliseconds of the forward pass, of that gradient by torch (oneDNN) and of ours
(`imgcls/layers/small_maps.py`, its copies included), best of the rounds, and the largest difference relative
to the largest value. On a CPU without AMX both take about the same time.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from imgcls.distributed.cpu_threads import keep_freed_memory
from imgcls.layers import small_maps

#: what -> images, channels, filters, side of the map, side of the kernel
CASES = {
    "airbench x1.5, group 3": (512, 384, 384, 7, 3),
    "airbench x1.5, group 3, pooled": (512, 384, 384, 3, 3),
    "resnet-18, stage 4": (32, 512, 512, 7, 3),
    "resnet-20, stage 3": (128, 64, 64, 7, 3),
    "alexnet, conv3": (128, 256, 384, 13, 3),
    "vgg at 32 pixels": (128, 512, 512, 2, 3),
}


def main() -> int:
    """Measure and print each case."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as in a training
    for what, case in CASES.items():
        _measure(what, *case, args.rounds)
    return 0


def _measure(what: str, count: int, channels: int, filters: int, side: int, kernel: int,
             rounds: int) -> None:
    pad = (kernel // 2, kernel // 2)
    data, weight, gradient = (
        torch.randn(shape).bfloat16().contiguous(memory_format=torch.channels_last)
        for shape in ((count, channels, side, side), (filters, channels, kernel, kernel),
                      (count, filters, side, side)))
    weight.requires_grad_()
    torchs = F.conv2d(data, weight, padding=pad)
    ours = small_maps.conv2d(data, weight, None, (1, 1), pad, (1, 1), 1)

    def backward(output: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(output, weight, gradient, retain_graph=True)[0]

    times = [_best(lambda: F.conv2d(data, weight.detach(), padding=pad), rounds),
             _best(lambda: backward(torchs), rounds), _best(lambda: backward(ours), rounds)]
    expected = backward(torchs).float()
    error = (backward(ours).float() - expected).abs().max() / expected.abs().max()
    print(f"{what:32} forward {times[0]:6.1f} ms   weight: torch {times[1]:6.1f}, ours {times[2]:6.1f} ms, "
          f"x{times[1] / times[2]:.2f}   largest difference {error:.4f}", flush=True)


def _best(function: Callable[[], object], rounds: int) -> float:
    """Return milliseconds of one call."""
    function()
    best = float("inf")
    for _ in range(rounds):
        begin = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - begin)
    return best * 1e3


if __name__ == "__main__":
    sys.exit(main())
