"""Measure a network on labelled data: for the trainer after every epoch, and for `imgcls-score`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from imgcls.data.loaders.batch import Loader
from imgcls.training.metrics import Metrics
from imgcls.training.precision import Precision


@torch.no_grad()
def evaluate(model: nn.Module, loader: Loader, metrics: Metrics, precision: Precision,
             after_batch: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Return name -> value over exactly the samples of `loader`, padding not counted.

    The model is in evaluation mode for it (no dropout, stored batch statistics) and in its former mode after
    it. `metrics` is reset first and holds this process's sums at the end. `after_batch` may raise to end it
    early.
    """
    was_training = model.training
    model.eval()
    metrics.reset()
    try:
        # Epoch 0 each time: validation draws nothing, and its order does not matter.
        for batch in loader.epoch(0):
            with precision.autocast():
                logits = model(batch.images)
            metrics.update(logits.float()[:batch.num_valid], batch.labels[:batch.num_valid])
            after_batch()
    finally:
        model.train(was_training)
    return metrics.values()
