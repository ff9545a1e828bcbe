"""MXNet's initializers by the name of `--initializer`, drawn layer by layer from one seeded generator.

Weights only: biases and betas are 0, gammas and moving variances 1, moving means 0, always
(mxnet/initializer.py); `zero_init_residual` sets some gammas to 0
after that. `build_network` calls it, and fine-tuning for its new head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from imgcls.errors import UsageError
from imgcls.layers import BatchNorm, Layer
from imgcls.layers.residual import residual_branches


def initialize(model: nn.Module, initializer: str, network: str, seed: int) -> None:
    """Fill every weight in place; `default` depends on the network's name as MXNet's fit.py has it.

    The values depend on the seed and on the order of the layers alone: a generator of its own, since torch's
    global one is also used by dropout.
    """
    generator = torch.Generator().manual_seed(seed)
    kind = default_for(network) if initializer == "default" else initializer
    for module in model.modules():
        if isinstance(module, Layer) and not module.is_initialized:
            for name, parameter in module.named_parameters(recurse=False):
                if name == "weight":  # the only name that MXNet's initializers draw values for
                    with torch.no_grad():
                        parameter.copy_(_draw(kind, parameter, generator))


def zero_residual_branches(model: nn.Module, network: str) -> None:
    """Set the gamma of the last normalisation of every residual branch to 0: each begins as its shortcut.

    Goyal et al. 2017, "Accurate, Large Minibatch SGD", section 5.1. Raises UsageError for a network without
    such a gamma; `network` is its name.
    """
    gammas = [branch.last.gamma for branch in residual_branches(model)
              if isinstance(branch.last, BatchNorm) and not branch.last.fix_gamma]
    if not gammas:
        raise UsageError(f"`zero_init_residual` 1: {network} has no residual branches that end in a "
                         "normalisation that learns its gamma; resnet-v1, resnext, mobilenetv2 and "
                         "torchvision:resnet50 have")
    with torch.no_grad():
        for gamma in gammas:
            gamma.zero_()


def default_for(network: str) -> str:
    """Return MXNet's choice (common/fit.py): normal for alexnet, xavier for vgg*, He's for all others."""
    if network == "alexnet":
        return "normal"  # fit.py: "AlexNet will not converge using Xavier"
    return "xavier" if "vgg" in network else "he"


def _draw(kind: str, weight: Tensor, generator: torch.Generator) -> Tensor:
    """Return values for one weight, float32 of its shape."""
    # On the CPU and in float32 whatever the weight is: the same values on every machine.
    shape = tuple(weight.shape)
    values = torch.empty(shape)
    kernel_size = math.prod(shape[2:])
    # (filters, channels / groups, kernel height, kernel width) or (units, inputs)
    fan_in = shape[1] * kernel_size
    fan_out = shape[0] * kernel_size
    fan_average = (fan_in + fan_out) / 2
    if kind == "he":  # mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2)
        return values.normal_(0, math.sqrt(2 / fan_in), generator=generator)
    if kind == "xavier":  # mx.init.Xavier(): uniform, average, magnitude 3
        bound = math.sqrt(3 / fan_average)
        return values.uniform_(-bound, bound, generator=generator)
    if kind == "msra":  # mx.init.MSRAPrelu(): its slope of 0.25, average
        return values.normal_(0, math.sqrt(2 / (1 + 0.25 ** 2) / fan_average), generator=generator)
    if kind == "normal":
        return values.normal_(0, 0.01, generator=generator)
    if kind == "uniform":
        return values.uniform_(-0.07, 0.07, generator=generator)
    if kind == "orthogonal":
        return _draw_orthogonal(shape, generator)
    if kind == "dirac":
        return _draw_dirac(values, generator)
    if kind in ("one", "zero"):
        return values.fill_(float(kind == "one"))
    raise UsageError(f"`initializer` {kind}: not known")


def _draw_dirac(values: Tensor, generator: torch.Generator) -> Tensor:
    """Fill a weight as torch does by default; of convolutions, filter i then passes on channel i alone.

    Dirac initialisation (Zagoruyko and Komodakis 2017, "DiracNets"), for as many filters as there are
    channels.
    """
    bound = 1 / math.sqrt(values[0].numel())
    values.uniform_(-bound, bound, generator=generator)
    if values.ndim == 4:
        # torch's own would fill all other filters with zeros: it is given only those that have a channel
        nn.init.dirac_(values[:values.shape[1]])
    return values


def _draw_orthogonal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return orthogonal rows (or columns, whichever are fewer) of length 1.414 (mx.init.Orthogonal)."""
    flat = torch.empty(shape[0], math.prod(shape[1:])).uniform_(-1, 1, generator=generator)
    # Of the two orthogonal factors the one of the weight's own shape.
    u, _, v = torch.linalg.svd(flat, full_matrices=False)
    return (1.414 * (u if u.shape == flat.shape else v)).reshape(shape)
