"""Metrics over exactly the samples that are there, equal to MXNet's."""

from __future__ import annotations

import json
import math

import pytest
import torch
from conftest import mxnet_file

from imgcls.errors import UsageError
from imgcls.training.metrics import Metrics, metric_names

CPU = torch.device("cpu")


def test_values_of_mxnet() -> None:
    outside = json.loads(mxnet_file("optim", "manifest.json").read_text())["metrics"]
    metrics = Metrics(["accuracy", "top_k_accuracy_2", "top_k_accuracy_3", "cross-entropy", "nll-loss"], CPU)
    expected = {name: value for case in outside["values"] for name, value in case["after_both"]}
    for which in ("first", "second"):
        probabilities = torch.tensor(outside[f"pred_{which}"])
        metrics.update(probabilities.log(), torch.tensor(outside[f"label_{which}"]).long())
    for name, value in metrics.values().items():
        assert value == pytest.approx(expected[name], rel=1e-6), name


def test_sums_can_be_resumed() -> None:
    logits, labels = torch.eye(4), torch.tensor([0, 1, 2, 0])
    complete, parts = Metrics(["accuracy", "cross-entropy"], CPU), Metrics(["accuracy", "cross-entropy"], CPU)
    complete.update(logits[:3], labels[:3])
    parts.update(logits[:2], labels[:2])
    merged = Metrics(["accuracy", "cross-entropy"], CPU)
    merged.add(*parts.totals())
    merged.update(logits[2:3], labels[2:3])
    assert merged.values() == pytest.approx(complete.values())
    assert merged.values()["accuracy"] == 1.0
    merged.reset()
    assert math.isnan(merged.values()["accuracy"])


def test_names() -> None:
    assert metric_names(3, "ce,nll", 10) == ["accuracy", "top_k_accuracy_3", "cross-entropy", "nll-loss"]
    assert metric_names(0, "", 10) == ["accuracy"]
    for top_k in (1, 10):
        with pytest.raises(UsageError, match=f"top_k {top_k}"):
            metric_names(top_k, "", 10)
    with pytest.raises(UsageError, match="loss foo"):
        metric_names(0, "ce,foo", 10)
