"""`mx.model`: checkpoints, and `FeedForward`, the model API of MXNet's first years."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from imgcls.compat.mxnet import callback, metric
from imgcls.compat.mxnet import optimizer as optimizers
from imgcls.compat.mxnet._checkpoint import load_checkpoint, load_params, save_checkpoint
from imgcls.compat.mxnet._end_param import BatchEndParam, call_all
from imgcls.compat.mxnet.context import to_context
from imgcls.compat.mxnet.executor import Executor
from imgcls.compat.mxnet.initializer import Uniform
from imgcls.compat.mxnet.io import DataIter, NDArrayIter
from imgcls.compat.mxnet.nd import NDArray
from imgcls.compat.mxnet.symbol import Symbol

__all__ = ["BatchEndParam", "FeedForward", "load_checkpoint", "load_params", "save_checkpoint"]


# Newer code uses Module.
class FeedForward:
    """A network with `fit`, `predict` and `score`; further keyword arguments go to the optimizer."""

    def __init__(self, symbol: Symbol, ctx: Any = None, num_epoch: int | None = None,
                 epoch_size: int | None = None, optimizer: Any = "sgd", initializer: Any = None,
                 numpy_batch_size: int = 128, arg_params: dict[str, NDArray] | None = None,
                 aux_params: dict[str, NDArray] | None = None, allow_extra_params: bool = False,
                 begin_epoch: int = 0, **kwargs: Any) -> None:
        self.symbol = symbol
        self.ctx = [to_context(one) for one in (ctx if isinstance(ctx, list) else [ctx])]
        self.num_epoch = num_epoch
        self.epoch_size = epoch_size
        self.optimizer = optimizer
        self.initializer = Uniform(0.01) if initializer is None else initializer
        self.numpy_batch_size = numpy_batch_size
        self.begin_epoch = begin_epoch
        self.allow_extra_params = allow_extra_params
        self.kwargs = kwargs
        self.arg_params = self._needed(arg_params, symbol.list_arguments())
        self.aux_params = self._needed(aux_params, symbol.list_auxiliary_states())
        self._predictor: Executor | None = None

    def fit(self, X: Any, y: Any = None, eval_data: Any = None, eval_metric: Any = "acc",  # noqa: N803
            epoch_end_callback: Any = None, batch_end_callback: Any = None, kvstore: Any = "local",
            logger: Any = None, work_load_list: Any = None, monitor: Any = None,
            eval_end_callback: Any = None, eval_batch_end_callback: Any = None) -> None:
        """Train for the epochs from `begin_epoch` to `num_epoch`, on an iterator or on arrays X and y."""
        logger = logger or logging
        eval_end_callback = eval_end_callback or callback.LogValidationMetricsCallback()
        data = self._iterator(X, y, is_train=True)
        held_out = self._eval_iterator(eval_data)
        executor, names = self._training_executor(data)
        updater = optimizers.get_updater(self._make_optimizer(data.batch_size, names))
        eval_metric = metric.create(eval_metric)
        data.reset()
        for epoch in range(self.begin_epoch, self.num_epoch or 0):
            start = time.time()
            eval_metric.reset()
            self._train_epoch(data, executor, names, updater, eval_metric, epoch, batch_end_callback, logger)
            logger.info("Epoch[%d] Time cost=%.3f", epoch, time.time() - start)
            self._keep(executor)
            call_all(epoch_end_callback, epoch, self.symbol, self.arg_params, self.aux_params)
            if held_out is not None:
                num_batches = self._evaluate(held_out, eval_metric, eval_batch_end_callback, epoch)
                call_all(eval_end_callback, BatchEndParam(epoch, num_batches, eval_metric, locals()))
                held_out.reset()

    # Numpy arrays, where Module.predict returns NDArrays.
    def predict(self, X: Any, num_batch: int | None = None, return_data: bool = False,  # noqa: N803
                reset: bool = True) -> Any:
        """Return the outputs for an iterator or array, numpy; with `return_data` (outputs, data, labels)."""
        data = self._iterator(X, None, is_train=False)
        if reset:
            data.reset()
        found: list[list[list[np.ndarray]]] = [[], [], []]
        for number, batch in enumerate(data):
            if number == num_batch:
                break
            executor = self._computed(data, batch)
            count = data.batch_size - (batch.pad or 0)
            for parts, arrays in zip(found, (executor.outputs, batch.data, batch.label or []), strict=True):
                parts.append([array[:count].asnumpy() for array in arrays])
        outputs, inputs, labels = (_joined(parts) for parts in found)
        return (outputs, inputs, labels) if return_data else outputs

    # The value alone, where Module.score returns names too.
    def score(self, X: Any, eval_metric: Any = "acc", num_batch: int | None = None,  # noqa: N803
              batch_end_callback: Any = None, reset: bool = True) -> Any:
        """Return a metric's value over an iterator."""
        data = self._iterator(X, None, is_train=False)
        eval_metric = metric.create(eval_metric)
        if reset:
            data.reset()
        self._evaluate(data, eval_metric, batch_end_callback, 0, num_batch, is_reset=True)
        return eval_metric.get()[1]

    # The same files as a module's.
    def save(self, prefix: str, epoch: int | None = None, remove_amp_cast: bool = True) -> None:
        """Write a checkpoint; without `epoch` its number is `num_epoch`."""
        number = self.num_epoch if epoch is None else epoch
        if number is None:
            raise ValueError("save needs an epoch")
        save_checkpoint(prefix, number, self.symbol, self.arg_params, self.aux_params, remove_amp_cast)

    @staticmethod
    def load(prefix: str, epoch: int, ctx: Any = None, **kwargs: Any) -> FeedForward:
        """Return the model of a checkpoint."""
        symbol, arg_params, aux_params = load_checkpoint(prefix, epoch)
        return FeedForward(symbol, ctx=ctx, arg_params=arg_params, aux_params=aux_params, begin_epoch=epoch,
                           **kwargs)

    @staticmethod
    def create(symbol: Symbol, X: Any, y: Any = None, ctx: Any = None,  # noqa: N803
               num_epoch: int | None = None, epoch_size: int | None = None, optimizer: Any = "sgd",
               initializer: Any = None, eval_data: Any = None, eval_metric: Any = "acc",
               epoch_end_callback: Any = None, batch_end_callback: Any = None, kvstore: Any = "local",
               logger: Any = None, work_load_list: Any = None, eval_end_callback: Any = None,
               eval_batch_end_callback: Any = None, **kwargs: Any) -> FeedForward:
        """Return a model that has been trained on X and y."""
        model = FeedForward(symbol, ctx, num_epoch, epoch_size, optimizer, initializer, **kwargs)
        model.fit(X, y, eval_data=eval_data, eval_metric=eval_metric, epoch_end_callback=epoch_end_callback,
                  batch_end_callback=batch_end_callback, kvstore=kvstore, logger=logger,
                  eval_end_callback=eval_end_callback, eval_batch_end_callback=eval_batch_end_callback)
        return model

    # Arrays that the symbol does not have are an error later, unless `allow_extra_params`.
    def _needed(self, params: Mapping[str, NDArray] | None, names: list[str]) -> dict[str, NDArray]:
        given = dict(params or {})
        return {name: given[name] for name in given if name in names or not self.allow_extra_params}

    # Arrays are shuffled for training, from numpy's generator.
    def _iterator(self, X: Any, y: Any, is_train: bool) -> DataIter:  # noqa: N803
        if isinstance(X, DataIter):
            return X
        if not isinstance(X, (np.ndarray, NDArray)):
            raise TypeError("X must be DataIter, NDArray or numpy.ndarray")
        if y is None and is_train:
            raise ValueError("y must be specified when X is numpy.ndarray")
        labels = np.zeros(X.shape[0]) if y is None else y
        values = labels.asnumpy() if isinstance(labels, NDArray) else np.asarray(labels)
        if values.shape[0] != X.shape[0]:
            raise ValueError("The numbers of data points and labels not equal")
        if values.ndim not in (1, 2) or (values.ndim == 2 and values.shape[1] != 1):
            raise ValueError("Label must be 1D or 2D (with 2nd dimension being 1)")
        # a training begins the next epoch with what is left, a prediction needs each sample once
        size = min(X.shape[0], self.numpy_batch_size)
        handling = "roll_over" if is_train else "pad"
        return NDArrayIter(X, values.ravel(), size, shuffle=is_train, last_batch_handle=handling)

    def _eval_iterator(self, eval_data: Any) -> DataIter | None:
        if eval_data is None or isinstance(eval_data, DataIter):
            return eval_data
        if not isinstance(eval_data, (tuple, list)) or len(eval_data) != 2 or eval_data[0] is None:
            raise TypeError("Eval data must be DataIter, or a pair of data and labels")
        data, labels = (np.array(part) if isinstance(part, list) else part for part in eval_data)
        return self._iterator(data, labels, is_train=True)

    # Filled in the symbol's order; a module's order is another, so a seed gives other weights there.
    def _training_executor(self, data: DataIter) -> tuple[Executor, list[str]]:
        """Return the executor, its parameters filled, and their names."""
        described: list[Any] = [*data.provide_data, *data.provide_label]
        shapes = {description[0]: description[1] for description in described}
        names = [name for name in self.symbol.list_arguments() if name not in shapes]
        requests = dict.fromkeys(names, "write")
        executor = self.symbol.simple_bind(self.ctx[0], requests, **shapes)
        for own, given in ((executor.arg_dict, self.arg_params), (executor.aux_dict, self.aux_params)):
            for name, array in own.items():
                if name in given:
                    given[name].copyto(array)
                elif name not in shapes:
                    self.initializer(name, array)
        self._keep(executor)
        return executor, names

    # Copies: the executor's arrays change with every update.
    def _keep(self, executor: Executor) -> None:
        names = self.symbol.list_arguments()
        inputs = set(executor.arg_dict) - {name for name, request in executor._grad_req.items()
                                           if request != "null"}
        self.arg_params = {name: executor.arg_dict[name].copy() for name in names if name not in inputs}
        self.aux_params = {name: array.copy() for name, array in executor.aux_dict.items()}
        self._predictor = None

    # An optimizer object keeps its own `rescale_grad`.
    def _make_optimizer(self, batch_size: int, names: list[str]) -> optimizers.Optimizer:
        index = dict(enumerate(names))
        if not isinstance(self.optimizer, str):
            self.optimizer.idx2name = self.optimizer.idx2name or index
            return self.optimizer
        arguments = {"rescale_grad": 1.0 / batch_size, **self.kwargs}
        return optimizers.create(self.optimizer, sym=self.symbol, param_idx2name=index, **arguments)

    # With `epoch_size` an epoch may end in the middle of the data, or take them several times.
    def _train_epoch(self, data: DataIter, executor: Executor, names: list[str], updater: Any,
                     eval_metric: metric.EvalMetric, epoch: int, batch_end_callback: Any,
                     logger: Any) -> None:
        num_batches = 0
        while True:
            is_complete = True
            for batch in data:
                _load(executor, data, batch)
                executor.forward(is_train=True)
                executor.backward()
                for index, name in enumerate(names):
                    updater(index, executor.grad_dict[name], executor.arg_dict[name])
                eval_metric.update(batch.label, executor.outputs)
                num_batches += 1
                call_all(batch_end_callback, BatchEndParam(epoch, num_batches, eval_metric, locals()))
                if self.epoch_size is not None and num_batches >= self.epoch_size:
                    is_complete = False
                    break
            if is_complete:
                logger.info("Epoch[%d] Resetting Data Iterator", epoch)
                data.reset()
            if self.epoch_size is None or num_batches >= self.epoch_size:
                return

    # For `score`, and for the evaluation after an epoch.
    def _evaluate(self, data: DataIter, eval_metric: metric.EvalMetric, batch_end_callback: Any, epoch: int,
                  num_batch: int | None = None, is_reset: bool = False) -> int:
        """Update the metric with all batches; return how many they were."""
        if not is_reset:
            eval_metric.reset()
            data.reset()
        count = 0
        for number, batch in enumerate(data):
            if number == num_batch:
                break
            eval_metric.update(batch.label, self._computed(data, batch).outputs)
            call_all(batch_end_callback, BatchEndParam(epoch, number, eval_metric, locals()))
            count += 1
        return count

    # Bound again only for another batch size.
    def _computed(self, data: DataIter, batch: Any) -> Executor:
        """Return an executor that has computed a batch."""
        shapes = {description[0]: array.shape
                  for description, array in zip(data.provide_data, batch.data, strict=True)}
        executor = self._predictor
        if executor is None or any(executor.arg_dict[name].shape != shape for name, shape in shapes.items()):
            executor = self.symbol.simple_bind(self.ctx[0], "null", **shapes)
            executor.copy_params_from(self.arg_params, self.aux_params, self.allow_extra_params)
            self._predictor = executor
        executor.forward(is_train=False, **dict(zip(shapes, batch.data, strict=True)))
        return executor


# By the iterator's names; those that the network does not have are left out.
def _load(executor: Executor, data: DataIter, batch: Any) -> None:
    """Copy a batch into the executor's arrays."""
    described: list[Any] = [*data.provide_data, *data.provide_label]
    arrays: list[NDArray] = [*batch.data, *(batch.label or [])]
    for description, array in zip(described, arrays, strict=True):
        if description[0] in executor.arg_dict:
            array.copyto(executor.arg_dict[description[0]])


def _joined(parts: list[list[np.ndarray]]) -> Any:
    """Return the arrays joined over the batches: a list, or the array itself where there is only one."""
    joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    return joined[0] if len(joined) == 1 else joined
