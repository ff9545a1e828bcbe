"""`Embedding`, a table whose rows are chosen by number: no image network has one."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from imgcls.compat.mxnet._extra_operators import clipped
from imgcls.layers import Layer, OpSpec
from imgcls.layers.base import empty_on_meta


# Here for `mx.nd` and symbols with a table; it has no place in an image network.
class Embedding(Layer):
    """Rows of a table (input_dim, output_dim), chosen by whole numbers of any shape."""

    op = "Embedding"
    PARAMETER_NAMES: ClassVar[dict[str, str]] = {"weight": "weight"}

    def __init__(self, num_rows: int, num_columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_rows, num_columns))

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        # The type is float32 here, and gradients are dense.
        spec.ignore("dtype", "sparse_grad")
        return cls(spec.integer("input_dim"), spec.integer("output_dim"))

    def infer(self, *data: Tensor) -> Tensor:
        return empty_on_meta(*data[0].shape, self.weight.shape[1])

    def forward(self, data: Tensor) -> Tensor:
        # Numbers beyond the table choose its last row, as in MXNet.
        return torch.nn.functional.embedding(clipped(data, self.weight.shape[0], "clip"), self.weight)
