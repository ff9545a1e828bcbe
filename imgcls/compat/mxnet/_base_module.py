"""`BaseModule`: `fit`, `score` and `predict` by means of a module's own methods; `module.py` has `Module`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from imgcls.compat.mxnet import metric, nd
from imgcls.compat.mxnet._checkpoint import Params, read_params, save_params
from imgcls.compat.mxnet._end_param import BatchEndParam, call_all
from imgcls.compat.mxnet.initializer import Uniform
from imgcls.compat.mxnet.io import DataBatch, DataIter
from imgcls.compat.mxnet.nd import NDArray


class BaseModule:
    """The base class of modules, which define `bind`, `forward`, `backward`, `update` and parameters."""

    def __init__(self, logger: Any = logging) -> None:
        self.logger = logger
        self.binded = False  # MXNet's spelling, which scripts read
        self.for_training = False
        self.inputs_need_grad = False
        self.params_initialized = False
        self.optimizer_initialized = False
        self._updater: Any = None

    # What a derived class must define. Untyped: the arguments are those of MXNet's methods.
    bind: Any
    init_params: Any
    init_optimizer: Any
    forward: Any
    backward: Any
    update: Any
    update_metric: Any
    get_outputs: Any
    get_params: Any
    symbol: Any

    def prepare(self, data_batch: Any, sparse_row_id_fn: Any = None) -> None:
        """Do nothing: there are neither buckets nor sparse parameters here."""

    def forward_backward(self, data_batch: Any) -> None:
        """Compute outputs and gradients of a batch."""
        self.forward(data_batch, is_train=True)
        self.backward()

    # The same as `init_params` without an initializer.
    def set_params(self, arg_params: Params, aux_params: Params, allow_missing: bool = False,
                   force_init: bool = True, allow_extra: bool = False) -> None:
        """Set the parameters; a missing name is a RuntimeError unless `allow_missing`."""
        self.init_params(initializer=None, arg_params=arg_params, aux_params=aux_params,
                         allow_missing=allow_missing, force_init=force_init, allow_extra=allow_extra)

    def save_params(self, fname: str) -> None:
        """Write the parameters to a file."""
        save_params(fname, *self.get_params())

    def load_params(self, fname: str) -> None:
        """Set the parameters to those of a file."""
        self.set_params(*read_params(fname))

    # The metric is reset first.
    def score(self, eval_data: Any, eval_metric: Any, num_batch: int | None = None,
              batch_end_callback: Any = None, score_end_callback: Any = None, reset: bool = True,
              epoch: int = 0, sparse_row_id_fn: Any = None) -> list[tuple[str, float]]:
        """Return the values of a metric over an iterator, [(name, value), ...]."""
        self._check_ready()
        eval_metric = metric.create(eval_metric)
        eval_metric.reset()
        count = 0
        for number, batch in self._batches(eval_data, num_batch, reset):
            self.forward(batch, is_train=False)
            self.update_metric(eval_metric, batch.label)
            call_all(batch_end_callback, BatchEndParam(epoch, number, eval_metric, locals()))
            count += 1
        call_all(score_end_callback, BatchEndParam(epoch, count, eval_metric, locals()))
        return eval_metric.get_name_value()

    # A generator: nothing is computed before the first result is requested.
    def iter_predict(self, eval_data: Any, num_batch: int | None = None, reset: bool = True,
                     sparse_row_id_fn: Any = None) -> Iterator[tuple[list[NDArray], int, Any]]:
        """Yield (outputs without padding, number, batch) for each batch."""
        self._check_ready()
        for number, batch in self._batches(eval_data, num_batch, reset):
            self.forward(batch, is_train=False)
            yield self._unpadded(batch), number, batch

    # An array is one batch of any size; of an iterator the padding of the last batch is left out.
    def predict(self, eval_data: Any, num_batch: int | None = None, merge_batches: bool = True,
                reset: bool = True, always_output_list: bool = False, sparse_row_id_fn: Any = None) -> Any:
        """Return the outputs for an iterator, joined over batches if `merge_batches`, or for one array."""
        self._check_ready()
        if isinstance(eval_data, (NDArray, np.ndarray)):
            data = nd.array(eval_data) if isinstance(eval_data, np.ndarray) else eval_data
            self.forward(DataBatch([data]), is_train=False)
            return self.get_outputs()[0]
        # MXNet's error: other objects have neither `reset` nor `pad`.
        if not isinstance(eval_data, DataIter):
            raise ValueError("eval_data must be of type NDArray or DataIter")
        outputs = [found for found, _, _ in self.iter_predict(eval_data, num_batch, reset)]
        if not outputs or not merge_batches:
            return outputs
        joined = [nd.concatenate(list(parts)) for parts in zip(*outputs, strict=True)]
        return joined[0] if len(joined) == 1 and not always_output_list else joined

    def fit(self, train_data: Any, eval_data: Any = None, eval_metric: Any = "acc",
            epoch_end_callback: Any = None, batch_end_callback: Any = None, kvstore: Any = "local",
            optimizer: Any = "sgd", optimizer_params: Any = (("learning_rate", 0.01),),
            eval_end_callback: Any = None, eval_batch_end_callback: Any = None, initializer: Any = None,
            arg_params: Params | None = None, aux_params: Params | None = None, allow_missing: bool = False,
            force_rebind: bool = False, force_init: bool = False, begin_epoch: int = 0,
            num_epoch: int | None = None, validation_metric: Any = None, monitor: Any = None,
            sparse_row_id_fn: Any = None) -> None:
        """Train from `begin_epoch` to `num_epoch`, with the log lines of MXNet."""
        if num_epoch is None:
            raise AssertionError("please specify number of epochs")
        self._check_no_monitor(monitor)
        # Each of the three does nothing where it was done before, so `fit` can be called again to continue.
        self.bind(data_shapes=train_data.provide_data, label_shapes=train_data.provide_label,
                  for_training=True, force_rebind=force_rebind)
        self.init_params(initializer=initializer or Uniform(0.01), arg_params=arg_params,
                         aux_params=aux_params, allow_missing=allow_missing, force_init=force_init)
        self.init_optimizer(kvstore=kvstore, optimizer=optimizer, optimizer_params=optimizer_params)
        # The caller's argument and not the metric made from it below: validation makes one of its own.
        validation_metric = eval_metric if validation_metric is None else validation_metric
        eval_metric = metric.create(eval_metric)
        for epoch in range(begin_epoch, num_epoch):
            start = time.time()
            for name, value in self._train_epoch(train_data, eval_metric, epoch, batch_end_callback):
                self.logger.info("Epoch[%d] Train-%s=%f", epoch, name, value)
            self.logger.info("Epoch[%d] Time cost=%.3f", epoch, time.time() - start)
            # Callbacks get copies, which they may keep.
            params = self.get_params()
            # With this MXNet makes the copies on all its devices equal; with one device it changes nothing.
            self.set_params(*params)
            call_all(epoch_end_callback, epoch, self.symbol, *params)
            if eval_data is not None:
                for name, value in self.score(eval_data, validation_metric, epoch=epoch,
                                              score_end_callback=eval_end_callback,
                                              batch_end_callback=eval_batch_end_callback):
                    self.logger.info("Epoch[%d] Validation-%s=%f", epoch, name, value)
            train_data.reset()

    # The next batch is fetched before the callback, as in MXNet: so the last batch is known as such.
    def _train_epoch(self, train_data: Any, eval_metric: metric.EvalMetric, epoch: int,
                     batch_end_callback: Any) -> Sequence[tuple[str, float]]:
        """Train on every batch; return the metric over all of them."""
        eval_metric.reset()
        found: Sequence[tuple[str, float]] = []
        batches = iter(train_data)
        batch = next(batches, None)
        number = 0
        while batch is not None:
            self.forward_backward(batch)
            self.update()
            self.update_metric(eval_metric, batch.label)
            # Some iterators reuse their arrays: this batch must not be read behind this line.
            batch = next(batches, None)
            if batch is None:  # before the last callback, which may reset the metric
                found = eval_metric.get_global_name_value()
            call_all(batch_end_callback, BatchEndParam(epoch, number, eval_metric, locals()))
            number += 1
        return found

    def borrow_optimizer(self, shared_module: Any) -> None:
        """Use the optimizer of another module, with its states."""
        if not shared_module.optimizer_initialized:
            raise AssertionError("the other module has no optimizer")
        self._updater, self.optimizer_initialized = shared_module._updater, True

    def install_monitor(self, mon: Any) -> None:
        """Refuse: there are no monitors."""
        self._check_no_monitor(mon)

    # An iterator that was left in the middle starts again unless set otherwise.
    def _batches(self, data: Any, num_batch: int | None, reset: bool) -> Iterator[tuple[int, Any]]:
        if reset:
            data.reset()
        for number, batch in enumerate(data):
            if number == num_batch:
                return
            yield number, batch

    # A view: `predict` joins these, which copies.
    def _unpadded(self, batch: Any) -> list[NDArray]:
        return [output[:output.shape[0] - (batch.pad or 0)] for output in self.get_outputs()]

    # AssertionError is what MXNet raises here, and what callers may catch.
    def _check_ready(self) -> None:
        if not (self.binded and self.params_initialized):
            what = "init_params or set_params" if self.binded else "bind"
            raise AssertionError(f"call {what} first")

    def _check_no_monitor(self, monitor: Any) -> None:
        if monitor is not None:
            # An error and not ignored: a script would wait for statistics that never come.
            raise AttributeError("imgcls.compat.mxnet has no monitors: imgcls-train --monitor has")
