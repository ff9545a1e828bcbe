"""`test_io`: read the training data once, without a network, and say how fast. `run` ends with it."""

from __future__ import annotations

import time

from imgcls.config.sections import TrainConfig
from imgcls.data.loaders.batch import Loader
from imgcls.training.reporter import Reporter


def measure(loader: Loader, config: TrainConfig, reporter: Reporter, *, prints: bool) -> dict[str, float]:
    """Return {"samples/sec": speed} of one epoch, with a log line every `disp_batches` batches.

    Each process reads its share of every batch; the one that `prints` writes the result to stdout.
    """
    # For finding out whether a slow run waits for the disk or for the network: compare it with the speed of
    # training.
    disp_batches = config.disp_batches
    started = interval_started = time.perf_counter()
    for batch_index, _batch in enumerate(loader.epoch(0)):
        if (batch_index + 1) % disp_batches == 0:
            now = time.perf_counter()
            speed = disp_batches * loader.batch_size / max(now - interval_started, 1e-9)
            reporter.log(f"Batch [{batch_index}]\tSpeed: {speed:.2f} samples/sec")
            interval_started = now
    # of all processes: each of them reads its part of num_samples in this time
    speed = loader.num_samples / max(time.perf_counter() - started, 1e-9)
    if prints:
        print(f"{loader.num_samples} samples in {loader.batches_per_epoch} batches, {speed:.2f} samples/sec")
    return {"samples/sec": speed}
