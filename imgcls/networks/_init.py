"""MXNet's initializers by the name of `--initializer`, filled in the order of the layers from one seeded generator.

Weights only: biases and betas are 0, gammas and moving variances 1, moving means 0, always (mxnet/initializer.py).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from imgcls.errors import UsageError
from imgcls.layers import Layer


def initialize(model: nn.Module, initializer: str, network: str, seed: int) -> None:
    """Fill every weight in place; `default` depends on the network's name as MXNet's fit.py has it."""
    generator = torch.Generator().manual_seed(seed)
    kind = default_for(network) if initializer == "default" else initializer
    for module in model.modules():
        if isinstance(module, Layer) and not module.is_initialized:
            for name, parameter in module.named_parameters(recurse=False):
                if name == "weight":
                    with torch.no_grad():
                        parameter.copy_(_draw(kind, parameter, generator))


def default_for(network: str) -> str:
    """The rule of `--initializer default`: alexnet normal, vgg* xavier, everything else He's (gaussian, fan-in)."""
    return "normal" if network == "alexnet" else "xavier" if "vgg" in network else "he"


def _draw(kind: str, weight: Tensor, generator: torch.Generator) -> Tensor:
    """Values for one weight, float32 of its shape."""
    shape, blank = tuple(weight.shape), torch.empty(weight.shape)
    field = math.prod(shape[2:])
    fan_in, fan_out = shape[1] * field, shape[0] * field
    if kind == "he":
        return blank.normal_(0, math.sqrt(2 / fan_in), generator=generator)
    if kind == "xavier":
        bound = math.sqrt(3 / ((fan_in + fan_out) / 2))
        return blank.uniform_(-bound, bound, generator=generator)
    if kind == "msra":  # PReLU's slope of 0.25 is MXNet's default
        return blank.normal_(0, math.sqrt(2 / (1 + 0.25 ** 2) / ((fan_in + fan_out) / 2)), generator=generator)
    if kind == "normal":
        return blank.normal_(0, 0.01, generator=generator)
    if kind == "uniform":
        return blank.uniform_(-0.07, 0.07, generator=generator)
    if kind == "orthogonal":
        flat = torch.empty(shape[0], math.prod(shape[1:])).uniform_(-1, 1, generator=generator)
        u, _, v = torch.linalg.svd(flat, full_matrices=False)
        return (1.414 * (u if u.shape == flat.shape else v)).reshape(shape)
    if kind in ("one", "zero"):
        return blank.fill_(float(kind == "one"))
    raise UsageError(f"`initializer` {kind}: not known")
