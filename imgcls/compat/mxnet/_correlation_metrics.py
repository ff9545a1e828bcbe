"""`mx.metric.MCC` and `mx.metric.PearsonCorrelation`: correlations of labels and outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from imgcls.compat.mxnet import _metric_helpers as _helpers
from imgcls.compat.mxnet.base import MXNetError
from imgcls.compat.mxnet.metric import EvalMetric, register, registered_as


@register
class MCC(EvalMetric):
    """Matthews' correlation of two classes; `macro` averages batches, `micro` takes all samples together."""

    def __init__(self, name: str = "mcc", output_names: Sequence[str] | None = None,
                 label_names: Sequence[str] | None = None, average: str = "macro") -> None:
        self.average = average
        super().__init__(name, output_names, label_names)

    def reset_local(self) -> None:
        super().reset_local()
        #: samples by (class, predicted class)
        self._counts = np.zeros((2, 2))

    def reset(self) -> None:
        super().reset()
        self._global_counts = np.zeros((2, 2))

    def update(self, labels: Any, preds: Any) -> None:
        for label, prediction in zip(_helpers.as_list(labels), _helpers.as_list(preds), strict=True):
            truth = _helpers.values(label).astype("int32").ravel()
            if len(np.unique(truth)) > 2:
                raise ValueError("MCC is for two classes")
            counts = np.zeros((2, 2))
            classes = _helpers.values(prediction).argmax(1)
            # What is not class 1 is counted as class 0, as in MXNet.
            np.add.at(counts, ((truth == 1).astype(int), (classes == 1).astype(int)), 1)
            self._counts += counts
            self._global_counts += counts
        if self.average == "macro":
            self._add(_matthews(self._counts), 1)
            self._counts = np.zeros((2, 2))
            return
        self.num_inst = int(self._counts.sum())
        self.sum_metric = _matthews(self._counts) * self.num_inst
        self.global_num_inst = int(self._global_counts.sum())
        self.global_sum_metric = _matthews(self._global_counts) * self.global_num_inst


def _matthews(counts: np.ndarray) -> float:
    """Return the coefficient of a table of counts; sums of 0 are left out of the denominator, as in MXNet."""
    sums = [*counts.sum(0), *counts.sum(1)]
    below = math.prod(float(total) for total in sums if total)
    return float(counts[1, 1] * counts[0, 0] - counts[0, 1] * counts[1, 0]) / math.sqrt(below)


@registered_as("pearsonr")
@register
class PearsonCorrelation(EvalMetric):
    """Pearson's correlation of labels and outputs, which have the same shape: the mean over the batches."""

    def __init__(self, name: str = "pearsonr", output_names: Sequence[str] | None = None,
                 label_names: Sequence[str] | None = None, average: str = "macro") -> None:
        if average != "macro":
            raise MXNetError(f"average {average}: PearsonCorrelation is the mean of batches here, macro")
        super().__init__(name, output_names, label_names)

    def update(self, labels: Any, preds: Any) -> None:
        for label, prediction in zip(_helpers.as_list(labels), _helpers.as_list(preds), strict=True):
            truth, found = _helpers.values(label), _helpers.values(prediction)
            if truth.shape != found.shape:
                raise ValueError(f"Shape of labels {truth.shape} does not match shape of predictions "
                                 f"{found.shape}")
            values = (found.ravel().astype(np.float64), truth.ravel().astype(np.float64))
            self._add(np.corrcoef(*values)[0, 1], 1)
