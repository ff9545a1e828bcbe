"""`mx.callback`: callbacks for the end of a batch or of an epoch; log lines are MXNet's."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any

from imgcls.compat.mxnet._checkpoint import save_checkpoint


# Epochs count from 0 and files from 1, as in MXNet.
def module_checkpoint(mod: Any, prefix: str, period: int = 1,
                      save_optimizer_states: bool = False) -> Callable[..., None]:
    """Return a callback that saves a module every `period` epochs."""
    period = max(1, int(period))

    def save(iter_no: int, sym: Any = None, arg: Any = None, aux: Any = None) -> None:
        if (iter_no + 1) % period == 0:
            mod.save_checkpoint(prefix, iter_no + 1, save_optimizer_states)

    return save


# For `epoch_end_callback`; it is given symbol and parameters.
def do_checkpoint(prefix: str, period: int = 1) -> Callable[..., None]:
    """Return a callback that saves symbol and parameters every `period` epochs."""
    period = max(1, int(period))

    def save(iter_no: int, sym: Any, arg: Any, aux: Any) -> None:
        if (iter_no + 1) % period == 0:
            save_checkpoint(prefix, iter_no + 1, sym, arg, aux)

    return save


# In the format that parsers of MXNet's logs look for.
def log_train_metric(period: int, auto_reset: bool = False) -> Callable[[Any], None]:
    """Return a callback that logs the metric every `period` batches."""
    def log(param: Any) -> None:
        if param.nbatch % period == 0 and param.eval_metric is not None:
            for name, value in param.eval_metric.get_name_value():
                logging.info("Iter[%d] Batch[%d] Train-%s=%f", param.epoch, param.nbatch, name, value)
            if auto_reset:
                param.eval_metric.reset_local()

    return log


# The first batch of an epoch only starts the clock: it may have waited for the data.
class Speedometer:
    """Logs samples per second and the metric every `frequent` batches; with `auto_reset` resets it then."""

    def __init__(self, batch_size: int, frequent: int = 50, auto_reset: bool = True) -> None:
        self.batch_size = batch_size
        self.frequent = frequent
        self.auto_reset = auto_reset
        self.last_count = 0
        #: when the current interval began; None before the first batch of an epoch
        self._start: float | None = None

    def __call__(self, param: Any) -> None:
        count = param.nbatch
        if self.last_count > count:  # a new epoch
            self._start = None
        self.last_count = count
        if self._start is None:
            self._start = time.time()
        elif count % self.frequent == 0:
            passed_seconds = time.time() - self._start
            speed = self.frequent * self.batch_size / passed_seconds if passed_seconds else math.inf
            self._log(param, count, speed)
            self._start = time.time()

    def _log(self, param: Any, count: int, speed: float) -> None:
        if param.eval_metric is None:
            logging.info("Iter[%d] Batch [%d]\tSpeed: %.2f samples/sec", param.epoch, count, speed)
            return
        pairs = param.eval_metric.get_name_value()
        if self.auto_reset:
            param.eval_metric.reset_local()
        text = "Epoch[%d] Batch [%d-%d]\tSpeed: %.2f samples/sec" + "\t%s=%f" * len(pairs)
        first = count - self.frequent if self.auto_reset else 0
        logging.info(text, param.epoch, first, count, speed, *(part for pair in pairs for part in pair))


# A line for every batch, with MXNet's line end.
class ProgressBar:
    """Logs a bar of `length` characters for `total` batches."""

    def __init__(self, total: int, length: int = 80) -> None:
        self.total = total
        self.bar_len = length

    def __call__(self, param: Any) -> None:
        share = param.nbatch / self.total
        filled = round(self.bar_len * share)
        bar = "=" * filled + "-" * (self.bar_len - filled)
        logging.info("[%s] %s%s\r", bar, math.ceil(100.0 * share), "%")  # \r: terminals draw it over itself


# For FeedForward; a module logs its validation itself.
class LogValidationMetricsCallback:
    """Logs the metric at the end of an evaluation."""

    def __call__(self, param: Any) -> None:
        if param.eval_metric:
            for name, value in param.eval_metric.get_name_value():
                logging.info("Epoch[%d] Validation-%s=%f", param.epoch, name, value)
