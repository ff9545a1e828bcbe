"""MXNet's BatchNorm and LRN; normalisations of foreign networks are in `foreign_normalization.py`."""

from __future__ import annotations

import contextlib
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgcls.layers.base import Layer, OpSpec, map_shape, to_attrs


class BatchNorm(Layer):
    """Batch normalisation over axis 1.

    MXNet's defaults: eps 1e-3, momentum 0.9 of the old value, gamma fixed at 1. With `fix_gamma` the gamma in
    a file is kept but taken as 1, in training and in inference, as MXNet does.
    """

    op = "BatchNorm"
    keeps_shape = True
    PARAMETER_NAMES: ClassVar[dict[str, str]] = {
        "gamma": "gamma", "beta": "beta", "moving_mean": "moving_mean", "moving_var": "moving_var"}
    AUXILIARY = frozenset({"moving_mean", "moving_var"})
    moving_mean: Tensor
    moving_var: Tensor

    def __init__(self, channels: int, *, eps: float | None = None, momentum: float | None = None,
                 fix_gamma: bool | None = None, use_global_stats: bool | None = None,
                 extra: dict[str, str] | None = None) -> None:
        super().__init__(to_attrs(eps=eps, momentum=momentum, fix_gamma=fix_gamma,
                                  use_global_stats=use_global_stats) | (extra or {}))
        # not torch's 1e-5 and 0.1
        self.eps = 1e-3 if eps is None else eps
        self.momentum = 0.9 if momentum is None else momentum
        self.fix_gamma = fix_gamma is not False
        self.use_global_stats = bool(use_global_stats)
        gamma = torch.ones(channels)
        if self.fix_gamma:  # a buffer: saved like a parameter, and no optimizer sees it
            self.register_buffer("gamma", gamma)
        else:
            self.gamma = nn.Parameter(gamma)
        self.beta = nn.Parameter(torch.zeros(channels))
        self.register_buffer("moving_mean", torch.zeros(channels))
        self.register_buffer("moving_var", torch.ones(channels))

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        # calibration of quantised networks, and which devices take part in a SyncBatchNorm
        spec.ignore("cudnn_off", "min_calib_range", "max_calib_range", "key", "ndev")
        if spec.integer("axis", 1) != 1 or spec.flag("output_mean_var"):
            raise ValueError("only axis=1 and a single output are supported")
        return cls(spec.size(1, "gamma"), eps=spec.real("eps", 1e-3), momentum=spec.real("momentum", 0.9),
                   fix_gamma=spec.flag("fix_gamma", True), use_global_stats=spec.flag("use_global_stats"))

    def forward(self, data: Tensor) -> Tensor:
        # With use_global_stats the statistics are neither computed nor moved, in training either.
        uses_batch = self.training and not self.use_global_stats
        gamma = None if self.fix_gamma else self.gamma
        # a last batch of one image, whose map is one pixel here: torch refuses it
        if uses_batch and data.numel() == data.shape[1]:
            return self._of_single_values(data, gamma)
        # torch's momentum is the share of the new value, MXNet's that of the old.
        return F.batch_norm(data, self.moving_mean, self.moving_var, gamma, self.beta, uses_batch,
                            1 - self.momentum, self.eps)


    def _of_single_values(self, data: Tensor, gamma: Tensor | None) -> Tensor:
        """Return the result for (1, C, 1, ...), which is beta; only the running mean is moved."""
        shape = (1, -1, *[1] * (data.ndim - 2))
        with torch.no_grad():
            self.moving_mean.lerp_(data.flatten().to(self.moving_mean.dtype), 1 - self.momentum)
        # computed from data and gamma, so that their gradients are 0 and not missing
        centred = 0 * data if gamma is None else 0 * data * gamma.view(shape)
        return (centred + self.beta.view(shape)).to(data.dtype)


class LRN(Layer):
    """Local response normalisation over channels: x / (knorm + alpha / nsize * sum x^2)^beta.

    Krizhevsky et al. 2012, section 3.3; MXNet and torch divide alpha by nsize, the paper does not.
    """

    op = "LRN"
    keeps_shape = True

    def __init__(self, nsize: int, *, alpha: float | None = None, beta: float | None = None,
                 knorm: float | None = None, extra: dict[str, str] | None = None) -> None:
        super().__init__(to_attrs(nsize=nsize, alpha=alpha, beta=beta, knorm=knorm) | (extra or {}))
        self.nsize = nsize
        self.alpha = 1e-4 if alpha is None else alpha
        self.beta = 0.75 if beta is None else beta
        self.knorm = 2.0 if knorm is None else knorm

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        return cls(spec.integer("nsize"), alpha=spec.real("alpha", 1e-4), beta=spec.real("beta", 0.75),
                   knorm=spec.real("knorm", 2.0))

    def forward(self, data: Tensor) -> Tensor:
        # The sum over neighbouring channels is a 1x1 convolution with a band of ones: three to ten times as
        # fast as torch's own, which pools over five dimensions.
        map_shape(data)
        channel = torch.arange(data.shape[1], device=data.device)
        # Squares of half precision overflow from 256 on, so autocast must not reach this convolution.
        with contextlib.nullcontext() if data.is_meta else torch.autocast(data.device.type, enabled=False):
            values = data if data.dtype == torch.float64 else data.float()
            band = ((channel - channel[:, None]).abs() <= self.nsize // 2).to(values.dtype)[:, :, None, None]
            total = F.conv2d(values.square(), band * (self.alpha / self.nsize)) + self.knorm
            # For 0.75, AlexNet's, total^-0.75 is had from square roots, which are cheaper than a power.
            root = (total * total.sqrt()).rsqrt() if self.beta == 0.75 else total.pow(-self.beta)
            return (values * root).to(data.dtype)
