"""`mx.gluon.loss`: losses as blocks, with one value for each sample of the batch."""

from __future__ import annotations

from typing import Any

from imgcls.compat.mxnet import nd
from imgcls.compat.mxnet._registration import missing
from imgcls.compat.mxnet.gluon.hybrid_block import HybridBlock


def _weighted(F: Any, loss: Any, weight: float | None, sample_weight: Any) -> Any:  # noqa: N803
    if sample_weight is not None:
        loss = F.broadcast_mul(loss, sample_weight)
    return loss if weight is None else loss * weight


def _shaped_like(F: Any, value: Any, other: Any) -> Any:  # noqa: N803
    return value.reshape(other.shape) if F is nd else F.reshape_like(value, other)


class Loss(HybridBlock):
    """The base class: a factor for all samples (`weight`), and the axis of the batch."""

    def __init__(self, weight: float | None, batch_axis: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._weight = weight
        self._batch_axis = batch_axis

    def _mean(self, F: Any, loss: Any, sample_weight: Any) -> Any:  # noqa: N803
        """Return the mean of each sample, weighted."""
        weighted = _weighted(F, loss, self._weight, sample_weight)
        return F.mean(weighted, axis=self._batch_axis, exclude=True)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch_axis={self._batch_axis}, w={self._weight})"


class L2Loss(Loss):
    """Half of the squared difference."""

    def __init__(self, weight: float | None = 1.0, batch_axis: int = 0, **kwargs: Any) -> None:
        super().__init__(weight, batch_axis, **kwargs)

    def hybrid_forward(self, F: Any, pred: Any, label: Any, sample_weight: Any = None) -> Any:  # noqa: N803
        square = F.square(_shaped_like(F, label, pred) - pred)
        # the factor 1/2 of the loss is in the weight
        half = None if self._weight is None else self._weight / 2
        return F.mean(_weighted(F, square, half, sample_weight), axis=self._batch_axis, exclude=True)


class L1Loss(Loss):
    """The absolute difference."""

    def __init__(self, weight: float | None = None, batch_axis: int = 0, **kwargs: Any) -> None:
        super().__init__(weight, batch_axis, **kwargs)

    def hybrid_forward(self, F: Any, pred: Any, label: Any, sample_weight: Any = None) -> Any:  # noqa: N803
        return self._mean(F, F.abs(_shaped_like(F, label, pred) - pred), sample_weight)


# Computed so that it neither overflows nor takes the logarithm of 0.
class SigmoidBinaryCrossEntropyLoss(Loss):
    """Cross entropy of labels in [0, 1] and logits, or probabilities with `from_sigmoid`."""

    def __init__(self, from_sigmoid: bool = False, weight: float | None = None, batch_axis: int = 0,
                 **kwargs: Any) -> None:
        super().__init__(weight, batch_axis, **kwargs)
        self._from_sigmoid = from_sigmoid

    def hybrid_forward(self, F: Any, pred: Any, label: Any, sample_weight: Any = None,  # noqa: N803
                       pos_weight: Any = None) -> Any:
        label = _shaped_like(F, label, pred)
        if self._from_sigmoid:
            positive = F.log(pred + 1e-12) * label
            if pos_weight is not None:
                positive = F.broadcast_mul(positive, pos_weight)
            loss = -(positive + F.log(1.0 - pred + 1e-12) * (1.0 - label))
        # the softrelu of -|x| is log(1 + exp(-|x|)), whose exponent is never positive
        elif pos_weight is None:
            loss = F.relu(pred) - pred * label + F.Activation(-F.abs(pred), act_type="softrelu")
        else:
            factor = 1 + F.broadcast_mul(pos_weight - 1, label)
            tail = F.Activation(-F.abs(pred), act_type="softrelu") + F.relu(-pred)
            loss = pred - pred * label + factor * tail
        return self._mean(F, loss, sample_weight)


SigmoidBCELoss = SigmoidBinaryCrossEntropyLoss


class SoftmaxCrossEntropyLoss(Loss):
    """Cross entropy of logits and class numbers, or of probabilities without `sparse_label`."""

    def __init__(self, axis: int = -1, sparse_label: bool = True, from_logits: bool = False,
                 weight: float | None = None, batch_axis: int = 0, **kwargs: Any) -> None:
        super().__init__(weight, batch_axis, **kwargs)
        self._axis = axis
        self._sparse_label = sparse_label
        self._from_logits = from_logits

    def hybrid_forward(self, F: Any, pred: Any, label: Any, sample_weight: Any = None) -> Any:  # noqa: N803
        if not self._from_logits:
            pred = F.log_softmax(pred, axis=self._axis)
        if self._sparse_label:
            loss = -F.pick(pred, label, axis=self._axis, keepdims=True)
        else:
            loss = -(pred * _shaped_like(F, label, pred)).sum(axis=self._axis, keepdims=True)
        return self._mean(F, loss, sample_weight)


SoftmaxCELoss = SoftmaxCrossEntropyLoss


class KLDivLoss(Loss):
    """Kullback-Leibler divergence from the label's distribution; `pred` has log-probabilities, or logits with
    `from_logits` off."""

    def __init__(self, from_logits: bool = True, axis: int = -1, weight: float | None = None,
                 batch_axis: int = 0, **kwargs: Any) -> None:
        super().__init__(weight, batch_axis, **kwargs)
        self._from_logits = from_logits
        self._axis = axis

    def hybrid_forward(self, F: Any, pred: Any, label: Any, sample_weight: Any = None) -> Any:  # noqa: N803
        if not self._from_logits:
            pred = F.log_softmax(pred, axis=self._axis)
        loss = _weighted(F, label * (F.log(label + 1e-12) - pred), self._weight, sample_weight)
        return F.sum(loss, axis=self._batch_axis, exclude=True)


class HuberLoss(Loss):
    """Quadratic up to `rho`, linear above."""

    def __init__(self, rho: float = 1, weight: float | None = None, batch_axis: int = 0,
                 **kwargs: Any) -> None:
        super().__init__(weight, batch_axis, **kwargs)
        self._rho = rho

    def hybrid_forward(self, F: Any, pred: Any, label: Any, sample_weight: Any = None) -> Any:  # noqa: N803
        distance = F.abs(_shaped_like(F, label, pred) - pred)
        loss = F.where(distance > self._rho, distance - 0.5 * self._rho,
                       (0.5 / self._rho) * F.square(distance))
        return self._mean(F, loss, sample_weight)


class HingeLoss(Loss):
    """max(0, margin - pred label), labels -1 and 1."""

    def __init__(self, margin: float = 1, weight: float | None = None, batch_axis: int = 0,
                 **kwargs: Any) -> None:
        super().__init__(weight, batch_axis, **kwargs)
        self._margin = margin

    def hybrid_forward(self, F: Any, pred: Any, label: Any, sample_weight: Any = None) -> Any:  # noqa: N803
        return self._mean(F, F.relu(self._margin - pred * _shaped_like(F, label, pred)), sample_weight)


class SquaredHingeLoss(HingeLoss):
    """The square of HingeLoss."""

    def hybrid_forward(self, F: Any, pred: Any, label: Any, sample_weight: Any = None) -> Any:  # noqa: N803
        distance = F.relu(self._margin - pred * _shaped_like(F, label, pred))
        return self._mean(F, F.square(distance), sample_weight)


class LogisticLoss(Loss):
    """log(1 + exp(-pred label)), labels -1 and 1, or 0 and 1 with `label_format="binary"`."""

    def __init__(self, weight: float | None = None, batch_axis: int = 0, label_format: str = "signed",
                 **kwargs: Any) -> None:
        super().__init__(weight, batch_axis, **kwargs)
        if label_format not in ("signed", "binary"):
            raise ValueError(f"label_format can only be signed or binary, recieved {label_format}.")
        self._label_format = label_format

    def hybrid_forward(self, F: Any, pred: Any, label: Any, sample_weight: Any = None) -> Any:  # noqa: N803
        label = _shaped_like(F, label, pred)
        if self._label_format == "signed":
            label = (label + 1.0) / 2.0
        loss = F.relu(pred) - pred * label + F.Activation(-F.abs(pred), act_type="softrelu")
        return self._mean(F, loss, sample_weight)


class TripletLoss(Loss):
    """max(0, |positive - pred|^2 - |negative - pred|^2 + margin)."""

    def __init__(self, margin: float = 1, weight: float | None = None, batch_axis: int = 0,
                 **kwargs: Any) -> None:
        super().__init__(weight, batch_axis, **kwargs)
        self._margin = margin

    def hybrid_forward(self, F: Any, pred: Any, positive: Any, negative: Any,  # noqa: N803
                       sample_weight: Any = None) -> Any:
        positive, negative = _shaped_like(F, positive, pred), _shaped_like(F, negative, pred)
        loss = F.sum(F.square(positive - pred) - F.square(negative - pred), axis=self._batch_axis,
                     exclude=True)
        return _weighted(F, F.relu(loss + self._margin), self._weight, sample_weight)


class CosineEmbeddingLoss(Loss):
    """1 - cos of pairs with label 1, max(0, cos - margin) of those with label -1."""

    def __init__(self, weight: float | None = None, batch_axis: int = 0, margin: float = 0,
                 **kwargs: Any) -> None:
        super().__init__(weight, batch_axis, **kwargs)
        self._margin = margin

    def _cosine(self, F: Any, left: Any, right: Any) -> Any:  # noqa: N803
        lengths = [F.norm(vector, axis=-1).reshape((-1, 1)) for vector in (left, right)]
        product = F.sum(left * right, axis=-1).reshape((-1, 1))
        # so that a vector of zeros is not divided by 0
        floor = F.full((1, 1), 1e-12) if F is nd else 1e-12
        length = lengths[0] * lengths[1]
        return product / (F.broadcast_maximum(length, floor) if F is nd else F.maximum(length, floor))

    def hybrid_forward(self, F: Any, input1: Any, input2: Any, label: Any,  # noqa: N803
                       sample_weight: Any = None) -> Any:
        input1 = _shaped_like(F, input1, input2)
        cosine = self._cosine(F, input1, input2)
        label = _shaped_like(F, label, cosine)
        loss = F.where(label == 1, 1.0 - cosine, F.relu(cosine - self._margin))
        return _weighted(F, loss, self._weight, sample_weight)


def __getattr__(name: str) -> Any:
    raise missing("mxnet.gluon.loss", name, [key for key in globals() if key.endswith("Loss")])
