"""MXNet's operators of our own networks that change shapes only: Flatten and Concat."""

from __future__ import annotations

import torch
from torch import Tensor

from imgcls.layers.base import Layer, OpSpec, empty_on_meta, to_attrs


class Flatten(Layer):
    """(N, C, H, W) -> (N, C * H * W), in that order whatever the memory format."""

    op = "Flatten"

    # channels_last is a matter of strides alone: flatten copies where it must, and weights of MXNet fit.

    def forward(self, data: Tensor) -> Tensor:
        return data.flatten(1)


class Concat(Layer):
    """Joins its inputs along `dim` (1: channels)."""

    op = "Concat"
    #: `num_args` only says how many there are
    num_inputs = None

    def __init__(self, num_args: int, dim: int | None = None, extra: dict[str, str] | None = None) -> None:
        super().__init__(to_attrs(num_args=num_args, dim=dim) | (extra or {}))
        self.dim = 1 if dim is None else dim

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        return cls(spec.integer("num_args", spec.num_inputs), spec.integer("dim", 1))

    def infer(self, *data: Tensor) -> Tensor:
        shapes = [list(tensor.shape) for tensor in data]
        # [1:] behind the slice and not dim + 1: `dim` may be -1
        other_axes = [shape[:self.dim] + shape[self.dim:][1:] for shape in shapes]
        # torch would name two tensors and an axis; here the user sees all shapes
        if any(axes != other_axes[0] for axes in other_axes):
            raise ValueError(f"cannot join inputs of shapes {', '.join(map(str, shapes))}")
        joined = shapes[0]
        joined[self.dim] = sum(shape[self.dim] for shape in shapes)
        return empty_on_meta(*joined)

    def forward(self, *data: Tensor) -> Tensor:
        return torch.cat(data, self.dim)
