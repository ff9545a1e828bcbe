"""MXNet's operators that work element by element: activations, dropout, clip, addition, a factor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgcls.layers.base import Layer, OpSpec, first_of_equal_shapes, to_attrs


class Activation(Layer):
    """Element by element: relu, sigmoid, tanh, softrelu (softplus) or softsign."""

    op = "Activation"
    keeps_shape = True
    #: softrelu is log(1 + e^x), which torch calls softplus
    FUNCTIONS: ClassVar[dict[str, Callable[[Tensor], Tensor]]] = {
        "relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "softrelu": F.softplus,
        "softsign": F.softsign}

    def __init__(self, act_type: str, extra: dict[str, str] | None = None) -> None:
        super().__init__({"act_type": act_type} | (extra or {}))
        # looked up once: forward runs thousands of times a second in a small network
        self.function = self.FUNCTIONS[act_type]

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        return cls(spec.choice("act_type", "", cls.FUNCTIONS))

    def forward(self, data: Tensor) -> Tensor:
        return self.function(data)


class LeakyReLU(Layer):
    """leaky, elu, selu, gelu, rrelu, or prelu with one learned slope a channel (or one in all)."""

    op = "LeakyReLU"
    keeps_shape = True
    PARAMETER_NAMES: ClassVar[dict[str, str]] = {"gamma": "gamma"}

    def __init__(self, act_type: str | None = None, *, slope: float | None = None,
                 channels: int | None = None, lower_bound: float | None = None,
                 upper_bound: float | None = None, extra: dict[str, str] | None = None) -> None:
        super().__init__(to_attrs(act_type=act_type, slope=slope, lower_bound=lower_bound,
                                  upper_bound=upper_bound) | (extra or {}))
        self.act_type = act_type or "leaky"
        self.slope = 0.25 if slope is None else slope
        # of rrelu: the slope is drawn between them in training, and their mean in inference
        self.bounds = (0.125 if lower_bound is None else lower_bound,
                       0.334 if upper_bound is None else upper_bound)
        self.gamma = nn.Parameter(torch.full((channels or 1,), 0.25)) if self.act_type == "prelu" else None

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        kind = spec.choice("act_type", "leaky", ("leaky", "elu", "selu", "gelu", "rrelu", "prelu"))
        channels = None
        if kind == "prelu":  # the one kind with a parameter
            channels = 1 if spec.stored.get("gamma") == (1,) else spec.size(1, "gamma")
        return cls(kind, slope=spec.real("slope", 0.25), channels=channels,
                   lower_bound=spec.real("lower_bound", 0.125), upper_bound=spec.real("upper_bound", 0.334))

    def forward(self, data: Tensor) -> Tensor:
        if self.gamma is not None:
            return F.prelu(data, self.gamma)
        if self.act_type == "elu":
            return F.elu(data, self.slope)
        if self.act_type == "rrelu":
            return F.rrelu(data, *self.bounds, training=self.training)
        if self.act_type == "leaky":
            return F.leaky_relu(data, self.slope)
        # the constants of selu and the exact (not the tanh) form of gelu are the same in both
        return F.selu(data) if self.act_type == "selu" else F.gelu(data)


class Dropout(Layer):
    """Drops with probability p while training (MXNet's default p is 0.5)."""

    op = "Dropout"
    keeps_shape = True

    def __init__(self, p: float | None = None, extra: dict[str, str] | None = None) -> None:
        super().__init__(to_attrs(p=p) | (extra or {}))
        self.p = 0.5 if p is None else p

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        spec.ignore("cudnn_off")
        spec.choice("mode", "training", ("training",))  # "always" would also drop in inference
        if spec.integers("axes", ()):
            raise ValueError("axes is not supported")
        return cls(spec.real("p", 0.5))

    def forward(self, data: Tensor) -> Tensor:
        return F.dropout(data, self.p, self.training)


class Clip(Layer):
    """Limits every element to [a_min, a_max]."""

    op = "clip"
    keeps_shape = True

    def __init__(self, a_min: float, a_max: float, extra: dict[str, str] | None = None) -> None:
        super().__init__(to_attrs(a_min=a_min, a_max=a_max) | (extra or {}))
        # `attrs` keep the numbers as they were given: 6 and not 6.0
        self.a_min = float(a_min)
        self.a_max = float(a_max)

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        return cls(spec.real("a_min"), spec.real("a_max"))

    def forward(self, data: Tensor) -> Tensor:
        if not data.requires_grad:  # inference
            return data.clamp(self.a_min, self.a_max)
        result = _ClampWithFastBackward.apply(data, self.a_min, self.a_max)
        assert isinstance(result, Tensor)
        return result


class _ClampWithFastBackward(torch.autograd.Function):
    """clamp with the backward of hardtanh, which takes half the time.

    hardtanh passes no gradient at its bounds and MXNet's clip does: they are moved by the smallest step.
    """

    @staticmethod
    def forward(context: Any, data: Tensor, low: float, high: float) -> Tensor:
        context.save_for_backward(data)
        # float32 on both sides: before numpy 2 a Python number beside it makes the step one of float64, which
        # float32 rounds away
        infinity = np.float32(np.inf)
        context.bounds = np.nextafter(np.float32(low), -infinity), np.nextafter(np.float32(high), infinity)
        return data.clamp(low, high)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        data, = context.saved_tensors
        low, high = context.bounds
        return torch.ops.aten.hardtanh_backward(gradients[0], data, float(low), float(high)), None, None


class ElementwiseAdd(Layer):
    """a + b of equal shapes: what a residual network joins its branches with."""

    op = "elemwise_add"
    num_inputs = 2
    #: while training, input `branch` of a sample is left out with this probability (stochastic depth); no
    #: symbol shows it
    drop_path: float = 0.0
    branch: int = 0

    def infer(self, *data: Tensor) -> Tensor:
        return first_of_equal_shapes(*data)  # raises where torch would broadcast

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        if self.training and self.drop_path:
            shortcut, branch = (right, left) if self.branch == 0 else (left, right)
            kept = branch.new_empty((len(branch), *[1] * (branch.ndim - 1))).bernoulli_(1 - self.drop_path)
            # scaled, so that nothing is to be done when all branches are there
            return shortcut + branch * (kept / (1 - self.drop_path))
        return left + right


class MulScalar(Layer):
    """data * scalar."""

    op = "_mul_scalar"
    keeps_shape = True

    def __init__(self, scalar: float, extra: dict[str, str] | None = None) -> None:
        super().__init__(to_attrs(scalar=scalar) | (extra or {}))
        self.scalar = float(scalar)

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        spec.ignore("is_int")  # 1.9 notes how the scalar was written in Python
        return cls(spec.real("scalar", 1.0))

    def forward(self, data: Tensor) -> Tensor:
        return data * self.scalar


class Identity(Layer):
    """The input itself (MXNet's `_copy`, written `identity` in Python)."""

    # MXNet's networks begin with one where their half-precision form has a Cast; ours keep it, for equal
    # symbols.

    op = "_copy"
    keeps_shape = True

    def forward(self, data: Tensor) -> Tensor:
        return data
