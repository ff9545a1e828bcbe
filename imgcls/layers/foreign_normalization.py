"""Normalisations of foreign symbols: InstanceNorm, LayerNorm, GroupNorm, and BatchNorm with a relu."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgcls.layers.base import Layer, OpSpec, to_attrs
from imgcls.layers.normalization import BatchNorm


class BatchNormReLU(BatchNorm):
    """BatchNorm and a relu in one operator."""

    op = "_contrib_BatchNormWithReLU"

    # oneDNN fuses the two; here the relu simply follows
    def forward(self, data: Tensor) -> Tensor:
        return super().forward(data).relu()


class _AffineNorm(Layer):
    """Normalises over some axes, then scales and shifts; subclasses say over which."""

    keeps_shape = True
    PARAMETER_NAMES: ClassVar[dict[str, str]] = {"gamma": "gamma", "beta": "beta"}

    def __init__(self, channels: int, eps: float, settings: dict[str, object],
                 extra: dict[str, str] | None) -> None:
        super().__init__(to_attrs(**settings) | (extra or {}))
        # the operators' defaults differ: 1e-3 for InstanceNorm, 1e-5 for the others
        self.eps = eps
        # MXNet never fixes these gammas, unlike BatchNorm's
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))


class InstanceNorm(_AffineNorm):
    """Normalises every channel of every sample, float (N, C, ...)."""

    op = "InstanceNorm"

    def __init__(self, channels: int, *, eps: float | None = None,
                 extra: dict[str, str] | None = None) -> None:
        super().__init__(channels, 1e-3 if eps is None else eps, {"eps": eps}, extra)

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        return cls(spec.size(1, "gamma"), eps=spec.real("eps", 1e-3))

    def forward(self, data: Tensor) -> Tensor:
        # one group a channel: torch's own instance_norm refuses maps of a single pixel in training
        return F.group_norm(data, data.shape[1], self.gamma, self.beta, self.eps)


class LayerNorm(_AffineNorm):
    """Normalises along one axis, the last if none is given."""

    op = "LayerNorm"

    def __init__(self, channels: int, *, axis: int | None = None, eps: float | None = None,
                 extra: dict[str, str] | None = None) -> None:
        super().__init__(channels, 1e-5 if eps is None else eps, {"axis": axis, "eps": eps}, extra)
        self.axis = -1 if axis is None else axis

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        _refuse_mean_and_variance(spec)
        axis = spec.integer("axis", -1)
        return cls(spec.size(axis, "gamma", 0), axis=axis, eps=spec.real("eps", 1e-5))

    def forward(self, data: Tensor) -> Tensor:
        moved = data.movedim(self.axis, -1)  # torch normalises the last axes only
        return F.layer_norm(moved, moved.shape[-1:], self.gamma, self.beta, self.eps).movedim(-1, self.axis)


class GroupNorm(_AffineNorm):
    """Normalises groups of channels of every sample, float (N, C, ...); one scale and shift a group."""

    op = "GroupNorm"

    # In MXNet gamma and beta have one value a group; other toolkits have one a channel.
    def __init__(self, num_groups: int = 1, *, eps: float | None = None,
                 extra: dict[str, str] | None = None) -> None:
        settings: dict[str, object] = {"num_groups": num_groups, "eps": eps}
        super().__init__(num_groups, 1e-5 if eps is None else eps, settings, extra)
        self.num_groups = num_groups

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        _refuse_mean_and_variance(spec)
        return cls(spec.integer("num_groups", 1), eps=spec.real("eps", 1e-5))

    def forward(self, data: Tensor) -> Tensor:
        # torch has a scale and shift for each channel: repeat the group's
        size = data.shape[1] // self.num_groups
        gamma = self.gamma.repeat_interleave(size)
        beta = self.beta.repeat_interleave(size)
        return F.group_norm(data, self.num_groups, gamma, beta, self.eps)


def _refuse_mean_and_variance(spec: OpSpec) -> None:
    # with it the operator has three outputs, and no one classifies with the other two
    if spec.flag("output_mean_var"):
        raise ValueError("output_mean_var=True is not supported")
