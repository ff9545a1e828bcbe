"""MXNet's FullyConnected."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgcls.layers.base import Layer, OpSpec, empty_on_meta, to_attrs


class FullyConnected(Layer):
    """Affine layer on the flattened input, float (N, ...) -> (N, num_hidden).

    The weight is (num_hidden, in_units).
    """

    op = "FullyConnected"
    PARAMETER_NAMES: ClassVar[dict[str, str]] = {"weight": "weight", "bias": "bias"}

    def __init__(self, in_units: int, num_hidden: int, *, no_bias: bool | None = None,
                 flatten: bool | None = None, extra: dict[str, str] | None = None) -> None:
        super().__init__(to_attrs(num_hidden=num_hidden, no_bias=no_bias, flatten=flatten) | (extra or {}))
        self.flatten = flatten is not False  # MXNet's default is True
        self.weight = nn.Parameter(torch.empty(num_hidden, in_units))
        self.bias = None if no_bias else nn.Parameter(torch.zeros(num_hidden))

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        flatten = spec.flag("flatten", True)
        # Without flatten only the last axis is mapped, as torch's own Linear does.
        if spec.shape is not None and flatten:  # else the weight or the last axis has it
            units = math.prod(spec.shape[1:])
        else:
            units = spec.size(-1, "weight", 1)
        return cls(units, spec.integer("num_hidden"), no_bias=spec.flag("no_bias"), flatten=flatten)

    def infer(self, *data: Tensor) -> Tensor:
        kept = data[0].shape[:1] if self.flatten else data[0].shape[:-1]
        return empty_on_meta(*kept, self.weight.shape[0])

    def forward(self, data: Tensor) -> Tensor:
        # (N, units) is flat already: the call would only cost
        return F.linear(data.flatten(1) if self.flatten and data.ndim > 2 else data, self.weight, self.bias)
