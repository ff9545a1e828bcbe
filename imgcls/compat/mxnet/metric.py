"""`mx.metric`: metrics for training and scoring, with MXNet's names and rules.

They count every row of a batch, those that fill up the last batch of an iterator included, as in MXNet.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as _np  # `np` is a function of this module, as in MXNet

from imgcls.compat.mxnet import _metric_helpers as _helpers
from imgcls.compat.mxnet._metric_helpers import check_label_shapes as check_label_shapes
from imgcls.compat.mxnet._registration import missing
from imgcls.compat.mxnet._registry import Registry
from imgcls.compat.mxnet.nd import NDArray

_REGISTRY = Registry("metric")
register = _REGISTRY.register
#: the module of MCC and PearsonCorrelation, which needs this one
_CORRELATIONS = "imgcls.compat.mxnet._correlation_metrics"
registered_as = alias = _alias = _REGISTRY.alias


# A list becomes one composite metric, a function a CustomMetric.
def create(metric: Any, *args: Any, **kwargs: Any) -> EvalMetric:
    """Return a metric for a name, a function of numpy arrays, a list of these, or the metric itself."""
    if isinstance(metric, list):
        return CompositeEvalMetric([create(one, *args, **kwargs) for one in metric])
    # A user-defined metric may have a `__call__`.
    if callable(metric) and not isinstance(metric, EvalMetric):
        return CustomMetric(metric, *args, **kwargs)
    importlib.import_module(_CORRELATIONS)  # registers its classes
    return _REGISTRY.create(metric, *args, **kwargs)


# Two sums: a Speedometer resets one in the middle of an epoch, the other is for the whole epoch.
class EvalMetric:
    """The base class: sums over samples, since the last `reset_local` and since the last `reset`."""

    def __init__(self, name: str, output_names: Sequence[str] | None = None,
                 label_names: Sequence[str] | None = None, **kwargs: Any) -> None:
        self.name = str(name)
        self.output_names = output_names
        self.label_names = label_names
        self._kwargs = kwargs
        self.reset()

    def __str__(self) -> str:
        return f"EvalMetric: {dict(self.get_name_value())}"

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that the metric was made with."""
        return {**self._kwargs, "metric": type(self).__name__, "name": self.name,
                "output_names": self.output_names, "label_names": self.label_names}

    def update_dict(self, label: Mapping[str, NDArray], pred: Mapping[str, NDArray]) -> None:
        """Update with labels and outputs by name: those of `label_names` and `output_names`, or all."""
        self.update([label[name] for name in self.label_names or label],
                    [pred[name] for name in self.output_names or pred])

    def update(self, labels: Any, preds: Any) -> None:
        """Update with a batch: lists of labels and outputs."""
        raise NotImplementedError("a metric of your own must say how it is updated")

    def reset(self) -> None:
        """Reset all sums."""
        self.global_num_inst = 0
        self.global_sum_metric: Any = 0.0
        self.reset_local()

    def reset_local(self) -> None:
        """Reset the sums of `get`, but not those of `get_global`."""
        self.num_inst = 0
        self.sum_metric: Any = 0.0

    def get(self) -> tuple[Any, Any]:
        """Return (name, value) since the last `reset_local`; nan where there is nothing yet."""
        return self.name, self.sum_metric / self.num_inst if self.num_inst else float("nan")

    def get_global(self) -> tuple[Any, Any]:
        """Return (name, value) since the last `reset`."""
        if not self.global_num_inst:
            # A user-defined metric may update only `sum_metric` and `num_inst`.
            return self.get() if self.num_inst else (self.name, float("nan"))
        return self.name, self.global_sum_metric / self.global_num_inst

    def get_name_value(self) -> list[tuple[str, float]]:
        """Return `get` as a list of (name, value)."""
        return _helpers.as_pairs(self.get())

    def get_global_name_value(self) -> list[tuple[str, float]]:
        """Return `get_global` as a list of (name, value)."""
        return _helpers.as_pairs(self.get_global())

    def _add(self, total: Any, count: int) -> None:
        total = float(total)  # numpy 2 prints its own numbers with their type
        self.sum_metric += total
        self.global_sum_metric += total
        self.num_inst += count
        self.global_num_inst += count


# The sums are those of its metrics.
@_alias("composite")
@register
class CompositeEvalMetric(EvalMetric):
    """Several metrics as one."""

    def __init__(self, metrics: Sequence[Any] | None = None, name: str = "composite",
                 output_names: Sequence[str] | None = None, label_names: Sequence[str] | None = None) -> None:
        self.metrics = [create(metric) for metric in metrics or []]
        super().__init__(name, output_names, label_names)

    def add(self, metric: Any) -> None:
        """Add one more."""
        self.metrics.append(create(metric))

    def get_metric(self, index: int) -> EvalMetric:
        """Return one of them."""
        return self.metrics[index]

    def update_dict(self, label: Mapping[str, NDArray], pred: Mapping[str, NDArray]) -> None:
        for metric in self.metrics:
            metric.update_dict(label, pred)

    def update(self, labels: Any, preds: Any) -> None:
        for metric in self.metrics:
            metric.update(labels, preds)

    def reset(self) -> None:
        for metric in self.metrics:
            metric.reset()

    def reset_local(self) -> None:
        for metric in self.metrics:
            metric.reset_local()

    def get(self) -> tuple[Any, Any]:
        return _helpers.joined([metric.get_name_value() for metric in self.metrics])

    def get_global(self) -> tuple[Any, Any]:
        return _helpers.joined([metric.get_global_name_value() for metric in self.metrics])


class _PairMetric(EvalMetric):
    """A metric of each label with its output: `_pair(label, prediction)` of subclasses -> (sum, count)."""

    def update(self, labels: Any, preds: Any) -> None:
        labels, preds = _helpers.as_list(labels), _helpers.as_list(preds)
        if len(labels) != len(preds):
            raise ValueError(f"{len(labels)} labels do not match {len(preds)} outputs")
        for label, prediction in zip(labels, preds, strict=True):
            self._add(*self._pair(_helpers.values(label), _helpers.values(prediction)))

    def _pair(self, label: _np.ndarray, prediction: _np.ndarray) -> tuple[Any, int]:
        raise NotImplementedError


# Predictions of the label's shape are taken as class numbers, others as scores.
@_alias("acc")
@register
class Accuracy(_PairMetric):
    """The share of samples whose class is right."""

    def __init__(self, axis: int = 1, name: str = "accuracy", output_names: Sequence[str] | None = None,
                 label_names: Sequence[str] | None = None) -> None:
        super().__init__(name, output_names, label_names, axis=axis)
        self.axis = axis

    def _pair(self, label: _np.ndarray, prediction: _np.ndarray) -> tuple[Any, int]:
        if prediction.shape != label.shape:
            prediction = prediction.argmax(self.axis)  # of equal scores the first, as numpy does
        classes = prediction.astype("int32").ravel()
        return (classes == _helpers.of_same_count(label.astype("int32").ravel(), classes)).sum(), len(classes)


@_alias("top_k_accuracy", "top_k_acc")
@register
# Which of equal scores count is numpy's choice, as in MXNet.
class TopKAccuracy(_PairMetric):
    """The share of samples whose class is among the `top_k` likeliest."""

    def __init__(self, top_k: int = 1, name: str = "top_k_accuracy",
                 output_names: Sequence[str] | None = None,
                 label_names: Sequence[str] | None = None) -> None:
        if top_k <= 1:
            raise AssertionError(f"top_k {top_k}: must be above 1; Accuracy is for the likeliest class")
        super().__init__(f"{name}_{top_k}", output_names, label_names, top_k=top_k)
        self.top_k = top_k

    def _pair(self, label: _np.ndarray, prediction: _np.ndarray) -> tuple[Any, int]:
        if prediction.ndim != 2:
            raise ValueError(f"{self.name}: an output of shape {prediction.shape} is not (samples, classes)")
        top_k = min(self.top_k, prediction.shape[1])  # all classes count where there are fewer
        # as MXNet chooses them: it decides which of equal scores count
        best = _np.argpartition(prediction.astype("float32"), -top_k)[:, -top_k:]
        classes = _helpers.of_same_count(label.astype("int32").ravel(), best)
        return (best == classes[:, None]).sum(), len(best)


# Class 1 is the positive class.
@register
class F1(EvalMetric):
    """The F1 score of two classes; `macro` averages batches, `micro` counts all samples together."""

    def __init__(self, name: str = "f1", output_names: Sequence[str] | None = None,
                 label_names: Sequence[str] | None = None, average: str = "macro") -> None:
        self.average = average
        super().__init__(name, output_names, label_names)

    def reset_local(self) -> None:
        super().reset_local()
        self._counts = _np.zeros(3)

    def reset(self) -> None:
        super().reset()
        self._global_counts = _np.zeros(3)

    def update(self, labels: Any, preds: Any) -> None:
        for label, prediction in zip(_helpers.as_list(labels), _helpers.as_list(preds), strict=True):
            truth = _helpers.values(label).astype("int32").ravel()
            classes = _helpers.values(prediction).argmax(1)
            if len(_np.unique(truth)) > 2:
                raise ValueError("F1 is for two classes")
            # true positives, predicted positives, actual positives
            counts = _np.array([((classes == 1) & (truth == 1)).sum(), (classes == 1).sum(),
                                (truth == 1).sum()])
            self._counts += counts
            self._global_counts += counts
            # MXNet empties both counts here, so that "global" is a mean of batches as well.
            if self.average == "macro":
                self._add(_helpers.f1_score(self._counts), 1)
                self._counts = _np.zeros(3)
                self._global_counts = _np.zeros(3)
            else:
                self.sum_metric = _helpers.f1_score(self._counts) * self._counts[2]
                self.num_inst = int(self._counts[2])
                self.global_sum_metric = _helpers.f1_score(self._global_counts) * self._global_counts[2]
                self.global_num_inst = int(self._global_counts[2])


# Each batch counts as one, whatever its size, as in MXNet.
class _DistanceMetric(_PairMetric):
    """The mean over batches of a distance."""

    def _pair(self, label: _np.ndarray, prediction: _np.ndarray) -> tuple[Any, int]:
        # a vector becomes a column: with a column it would otherwise be broadcast to a matrix
        if label.ndim == 1:
            label = label.reshape(-1, 1)
        if prediction.ndim == 1:
            prediction = prediction.reshape(-1, 1)
        return self._distance(label - prediction), 1

    def _distance(self, difference: _np.ndarray) -> Any:
        raise NotImplementedError


@register
# For regression.
class MAE(_DistanceMetric):
    """Mean absolute distance."""

    def __init__(self, name: str = "mae", output_names: Sequence[str] | None = None,
                 label_names: Sequence[str] | None = None) -> None:
        super().__init__(name, output_names, label_names)

    def _distance(self, difference: _np.ndarray) -> Any:
        return _np.abs(difference).mean()


@register
class MSE(_DistanceMetric):
    """Mean squared distance."""

    def __init__(self, name: str = "mse", output_names: Sequence[str] | None = None,
                 label_names: Sequence[str] | None = None) -> None:
        super().__init__(name, output_names, label_names)

    def _distance(self, difference: _np.ndarray) -> Any:
        return (difference**2.0).mean()


@register
class RMSE(_DistanceMetric):
    """Root of the mean squared distance of each batch."""

    def __init__(self, name: str = "rmse", output_names: Sequence[str] | None = None,
                 label_names: Sequence[str] | None = None) -> None:
        super().__init__(name, output_names, label_names)

    def _distance(self, difference: _np.ndarray) -> Any:
        return _np.sqrt((difference**2.0).mean())


# For probabilities: logits need a softmax first.
@_alias("ce")
@register
class CrossEntropy(_PairMetric):
    """Mean of -log(probability of the label's class + eps)."""

    def __init__(self, eps: float = 1e-12, name: str = "cross-entropy",
                 output_names: Sequence[str] | None = None, label_names: Sequence[str] | None = None) -> None:
        super().__init__(name, output_names, label_names, eps=eps)
        self.eps = eps

    def _pair(self, label: _np.ndarray, prediction: _np.ndarray) -> tuple[Any, int]:
        classes = _helpers.of_same_count(label.ravel().astype("int64"), prediction)
        probabilities = prediction[_np.arange(len(classes)), classes]
        return (-_np.log(probabilities + self.eps)).sum(), len(classes)


@_alias("nll_loss")
@register
class NegativeLogLikelihood(CrossEntropy):
    """CrossEntropy under another name."""

    def __init__(self, eps: float = 1e-12, name: str = "nll-loss", output_names: Sequence[str] | None = None,
                 label_names: Sequence[str] | None = None) -> None:
        super().__init__(eps, name, output_names, label_names)


# Log-probabilities are bounded below, so that one zero does not make the result infinite.
@register
class Perplexity(_PairMetric):
    """e to the mean of -log(probability of the label's class), without the samples of `ignore_label`."""

    def __init__(self, ignore_label: int | None, axis: int = -1, name: str = "perplexity",
                 output_names: Sequence[str] | None = None, label_names: Sequence[str] | None = None) -> None:
        super().__init__(name, output_names, label_names, ignore_label=ignore_label)
        self.ignore_label = ignore_label
        self.axis = axis

    def _pair(self, label: _np.ndarray, prediction: _np.ndarray) -> tuple[Any, int]:
        scores = _np.moveaxis(prediction, self.axis, -1).reshape(label.size, -1)
        classes = label.ravel().astype("int64")
        counted = classes != self.ignore_label if self.ignore_label is not None else classes >= 0
        # Clipped, as the ignored label may be no class at all; it is not counted.
        chosen = scores[_np.arange(len(classes)), classes.clip(0, scores.shape[1] - 1)]
        return -_np.log(_np.maximum(1e-10, chosen[counted])).sum(), int(counted.sum())  # MXNet's bound

    def get(self) -> tuple[Any, Any]:
        return self.name, float(_np.exp(self.sum_metric / self.num_inst)) if self.num_inst else float("nan")

    def get_global(self) -> tuple[Any, Any]:
        count = self.global_num_inst
        return self.name, float(_np.exp(self.global_sum_metric / count)) if count else float("nan")


@register
# For symbols that compute a loss themselves.
class Loss(EvalMetric):
    """The mean of all outputs, which are losses."""

    def __init__(self, name: str = "loss", output_names: Sequence[str] | None = None,
                 label_names: Sequence[str] | None = None) -> None:
        super().__init__(name, output_names, label_names)

    def update(self, labels: Any, preds: Any) -> None:
        for prediction in _helpers.as_list(preds):
            values = _helpers.values(prediction)
            self._add(float(values.sum()), values.size)


# The function gets numpy arrays and returns a number.
class CustomMetric(EvalMetric):
    """The mean of a function of (label, output), both numpy arrays; it may return (sum, count)."""

    def __init__(self, feval: Callable[..., Any], name: str | None = None, allow_extra_outputs: bool = False,
                 output_names: Sequence[str] | None = None, label_names: Sequence[str] | None = None) -> None:
        own_name = feval.__name__
        super().__init__(name or (f"custom({own_name})" if "<" in own_name else own_name), output_names,
                         label_names)
        self._feval = feval
        self._allow_extra_outputs = allow_extra_outputs

    def update(self, labels: Any, preds: Any) -> None:
        labels, preds = _helpers.as_list(labels), _helpers.as_list(preds)
        if not self._allow_extra_outputs and len(labels) != len(preds):
            raise ValueError(f"{len(labels)} labels do not match {len(preds)} outputs")
        for prediction, label in zip(preds, labels, strict=False):
            found = self._feval(_helpers.values(label), _helpers.values(prediction))
            self._add(*(found if isinstance(found, tuple) else (found, 1)))


def np(numpy_feval: Callable[..., Any], name: str | None = None,
       allow_extra_outputs: bool = False) -> CustomMetric:
    """Return a metric that is a function of (label, output), both numpy arrays."""
    return CustomMetric(numpy_feval, name, allow_extra_outputs)


def __getattr__(name: str) -> Any:
    if name in ("MCC", "PearsonCorrelation"):
        return getattr(importlib.import_module(_CORRELATIONS), name)
    raise missing("mxnet.metric", name, globals())
