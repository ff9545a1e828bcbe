"""The layers that end a symbol for training: their result is a prediction, their gradient that of a loss.

As in MXNet, `backward` starts at these: they ignore the gradient of later operators, but for SoftmaxOutput
with `out_grad`. Sources are src/operator/softmax_output-inl.h, regression_output-inl.h, svm_output-inl.h and
make_loss-inl.h.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from imgcls.layers import Layer, OpSpec, Shape


# torch would go through the softmax backward; MXNet's gradient is one subtraction.
class _LossFunction(torch.autograd.Function):
    """`layer.result` forward, `layer.gradient` backward."""

    @staticmethod
    def forward(context: Any, data: Tensor, label: Tensor, layer: Loss) -> Tensor:
        result = layer.result(data)
        context.layer = layer
        context.save_for_backward(result, label)
        return result

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        result, label = context.saved_tensors
        return context.layer.gradient(result, label, gradients[0]), None, None  # none for label and layer


# Each defines its result, its gradient, and the shape of a label where the caller gives none.
class Loss(Layer):
    """A prediction (N, ...) from data and label; the base class of the losses below."""

    num_inputs = 2
    keeps_shape = True

    def __init__(self, spec: OpSpec) -> None:
        super().__init__()
        self.scale = spec.real("grad_scale", 1.0)

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        return cls(spec)

    # One label a sample, or one for each pixel.
    def label_shape(self, data: Shape) -> Shape:
        """Return the shape of the label that MXNet infers from the data's."""
        raise NotImplementedError

    def result(self, data: Tensor) -> Tensor:
        """Return the prediction."""
        raise NotImplementedError

    def gradient(self, result: Tensor, label: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient of the data; `gradient` is that of the prediction, which most losses ignore."""
        raise NotImplementedError

    def forward(self, data: Tensor, label: Tensor) -> Tensor:
        return _LossFunction.apply(data, label, self)  # type: ignore[return-value]


# Nearly every network of MXNet's image classification ends in this one.
class SoftmaxOutput(Loss):
    """Softmax, and the gradient of its cross entropy with integer labels (N,), or with probabilities."""

    op = "SoftmaxOutput"

    def __init__(self, spec: OpSpec) -> None:
        super().__init__(spec)
        self.ignored = spec.real("ignore_label", -1.0) if spec.flag("use_ignore") else None
        self.uncounted = spec.real("ignore_label", -1.0)
        self.per_pixel = spec.flag("multi_output")
        self.keeps_axes = spec.flag("preserve_shape")
        self.normalization = spec.choice("normalization", "null", ("null", "batch", "valid"))
        # without it the output's gradient is dropped, even where this output feeds another operator
        self.uses_gradient = spec.flag("out_grad")
        self.smoothing = spec.real("smooth_alpha", 0.0)

    def label_shape(self, data: Shape) -> Shape:
        return (data[0], math.prod(data[2:])) if self.per_pixel else data[:-1]

    def result(self, data: Tensor) -> Tensor:
        if self.per_pixel:
            return data.softmax(1)
        if self.keeps_axes:
            return data.softmax(-1)
        return data.flatten(1).softmax(1).reshape(data.shape)

    def gradient(self, result: Tensor, label: Tensor, gradient: Tensor) -> Tensor:
        # Labels that are probabilities have the shape of the result.
        if label.shape == result.shape:  # probabilities
            difference = (result - label) * self.scale
        else:
            difference = self._of_classes(result, label)
        return difference * gradient if self.uses_gradient else difference

    # One rule for a class a sample and for a class a pixel.
    def _of_classes(self, result: Tensor, label: Tensor) -> Tensor:
        # As (samples, classes, pixels), of which there is one where classes are the last axis.
        num_samples = result.shape[0]
        if self.per_pixel:
            probabilities = result.reshape(num_samples, result.shape[1], -1)
        else:
            num_classes = result.shape[-1] if self.keeps_axes else math.prod(result.shape[1:])
            probabilities = result.reshape(-1, num_classes, 1)
        labels = label.reshape(probabilities.shape[0], 1, probabilities.shape[2])
        num_classes = probabilities.shape[1]
        # Compared, not scattered: a label that names no class, such as -1, has no target, as in MXNet.
        classes = torch.arange(num_classes, device=labels.device).reshape(1, -1, 1)
        others = self.smoothing / max(num_classes - 1, 1)  # over the other classes, not over all of them
        target = torch.where(labels.long() == classes, 1 - self.smoothing, others)
        difference = probabilities - target.to(probabilities.dtype)
        if self.ignored is not None:
            difference = difference * (labels != self.ignored)
        count = 1.0
        if self.normalization == "batch":
            count = float(num_samples if self.per_pixel else label.numel())
        elif self.normalization == "valid":
            count = max(float((labels != self.uncounted).sum()), 1.0)
        if self.per_pixel and self.normalization != "valid":
            count *= probabilities.shape[2]
        return (difference * (self.scale / count)).reshape(result.shape)


# The three differ in the link and in the distance.
class _RegressionOutput(Loss):
    """A link function, and the gradient of a distance, averaged over the values of a sample."""

    def label_shape(self, data: Shape) -> Shape:
        return data[:1] if len(data) == 2 and data[1] == 1 else data

    def result(self, data: Tensor) -> Tensor:
        return data.clone()

    def distance(self, difference: Tensor) -> Tensor:
        """Return the gradient of the distance of result and label."""
        return difference

    def gradient(self, result: Tensor, label: Tensor, gradient: Tensor) -> Tensor:
        num_values = max(label.numel() // max(label.shape[0], 1), 1)  # not the batch: rescale_grad does that
        return self.distance(result - label.reshape(result.shape)) * (self.scale / num_values)


class LinearRegressionOutput(_RegressionOutput):
    """The data, and the gradient of the squared distance."""

    op = "LinearRegressionOutput"


class LogisticRegressionOutput(_RegressionOutput):
    """The sigmoid, and the gradient of its cross entropy."""

    op = "LogisticRegressionOutput"

    def result(self, data: Tensor) -> Tensor:
        return data.sigmoid()


class MAERegressionOutput(_RegressionOutput):
    """The data, and the gradient of the absolute distance."""

    op = "MAERegressionOutput"

    def distance(self, difference: Tensor) -> Tensor:
        return difference.sign()


# Scores of the other classes are pushed down, that of the label up.
class SVMOutput(Loss):
    """The data, and the gradient of a hinge loss, squared unless `use_linear`."""

    op = "SVMOutput"

    def __init__(self, spec: OpSpec) -> None:
        super().__init__(spec)
        self.margin = spec.real("margin", 1.0)
        self.weight = spec.real("regularization_coefficient", 1.0)
        self.is_linear = spec.flag("use_linear")

    def label_shape(self, data: Shape) -> Shape:
        return data[:1]

    def result(self, data: Tensor) -> Tensor:
        return data.clone()

    def gradient(self, result: Tensor, label: Tensor, gradient: Tensor) -> Tensor:
        sign = torch.ones_like(result)
        sign.scatter_(1, label.long().reshape(-1, 1), -1.0)  # -1 where the label's own score should grow
        violation = (self.margin + sign * result).clamp(min=0)
        return self.weight * sign * ((violation > 0).to(result.dtype) if self.is_linear else 2 * violation)


# For a symbol that computes its loss itself.
class MakeLoss(Loss):
    """The data as a loss: its gradient is `grad_scale`."""

    op = "MakeLoss"
    num_inputs = 1

    def __init__(self, spec: OpSpec) -> None:
        super().__init__(spec)
        self.normalization = spec.choice("normalization", "null", ("null", "batch", "valid"))
        self.threshold = spec.real("valid_thresh", 0.0)

    def result(self, data: Tensor) -> Tensor:
        return data.clone()

    def gradient(self, result: Tensor, label: Tensor, gradient: Tensor) -> Tensor:
        count = 1.0
        if self.normalization == "batch":
            count = float(result.shape[0])
        elif self.normalization == "valid":
            count = max(float((result > self.threshold).sum()), 1.0)
        return torch.full_like(result, self.scale / count)

    def forward(self, data: Tensor, label: Tensor | None = None) -> Tensor:
        return super().forward(data, data)  # no label: the data stand in its place


#: operator -> its class
LOSSES: dict[str, type[Loss]] = {
    "SoftmaxOutput": SoftmaxOutput, "LinearRegressionOutput": LinearRegressionOutput,
    "LogisticRegressionOutput": LogisticRegressionOutput, "MAERegressionOutput": MAERegressionOutput,
    "SVMOutput": SVMOutput, "MakeLoss": MakeLoss, "make_loss": MakeLoss,
}
