"""`Operation`, the layer of an operator without parameters, and `Variable`, a parameter as an input."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from imgcls.formats.symbol import Node
from imgcls.layers.base import Layer, OpSpec, Shape, first_of_equal_shapes
from imgcls.layers.foreign_elementwise import ELEMENTWISE
from imgcls.layers.foreign_reduction import REDUCTION
from imgcls.layers.foreign_shape import SHAPE
from imgcls.layers.foreign_spatial import SPATIAL
from imgcls.layers.op_function import OpFunction

#: operator -> what it computes, of all operators that have no parameters and no class of their own
FUNCTIONS: dict[str, OpFunction] = ELEMENTWISE | REDUCTION | SHAPE | SPATIAL


class Operation(Layer):
    """An operator without parameters: a function of its inputs and of settings, as `FUNCTIONS` has it.

    `Operation("slice_axis", axis=1, begin=0, end=3)` is a node with these attributes.
    """

    # Both are positional only, so that a setting may have their name.
    def __init__(self, op: str, extra: dict[str, str] | None = None, /, **settings: object) -> None:
        super().__init__({name: str(value) for name, value in settings.items()} | (extra or {}))
        row = FUNCTIONS[op]
        self.op = op
        self.num_inputs = row.num_inputs
        self.keeps_shape = row.keeps_shape
        self.has_outputs = row.has_outputs
        self.settings = row.read(OpSpec(Node(op, op, self.attrs), None, {}))

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        FUNCTIONS[spec.op].read(spec)  # so that the spec records which attributes there are
        return cls(spec.op, spec.attrs)

    def infer(self, *data: Tensor) -> Tensor | tuple[Tensor, ...]:
        # torch would broadcast what MXNet refuses
        if self.op.startswith("elemwise_") or self.op == "add_n":
            return first_of_equal_shapes(*data)
        return super().infer(*data)

    def forward(self, *data: Tensor) -> Tensor | tuple[Tensor, ...]:
        return FUNCTIONS[self.op].function(*data, **self.settings)


class Variable(Layer):
    """A parameter that is an operator's input like any other: no input -> the values."""

    op = "null"
    PARAMETER_NAMES: ClassVar[dict[str, str]] = {"value": ""}
    num_inputs = 0

    def __init__(self, shape: Shape, is_auxiliary: bool = False, extra: dict[str, str] | None = None) -> None:
        super().__init__(extra)
        if is_auxiliary:  # a statistic: saved, and not trained
            self.AUXILIARY = frozenset({"value"})
            self.register_buffer("value", torch.zeros(shape))
        else:
            self.value = nn.Parameter(torch.zeros(shape))

    def forward(self) -> Tensor:
        return self.value
