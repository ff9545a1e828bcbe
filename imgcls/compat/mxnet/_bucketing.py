"""`mx.mod.BucketingModule`: one module for each kind of batch, all of them with the same parameters."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from imgcls.compat.mxnet._base_module import BaseModule
from imgcls.compat.mxnet._checkpoint import Params
from imgcls.compat.mxnet.base import MXNetError
from imgcls.compat.mxnet.metric import EvalMetric
from imgcls.compat.mxnet.module import Module
from imgcls.compat.mxnet.symbol import Symbol

#: what `sym_gen` returns: the network, the names of its data and those of its labels
Bucket = tuple[Symbol, Any, Any]


class BucketingModule(BaseModule):
    """A network whose symbol depends on `batch.bucket_key`, such as the length of a sequence.

    `sym_gen(key)` returns (symbol, data_names, label_names). The default key's symbol must have all
    parameters, as it is bound first and its arrays are those of the others.
    """

    def __init__(self, sym_gen: Callable[[Any], Bucket], default_bucket_key: Any = None,
                 logger: Any = logging, context: Any = None, work_load_list: Any = None,
                 fixed_param_names: Any = None, state_names: Any = None, group2ctxs: Any = None,
                 compression_params: Any = None) -> None:
        super().__init__(logger)
        if default_bucket_key is None:
            raise AssertionError("default_bucket_key must be given")
        if state_names:
            raise MXNetError("state_names: there are no states here, only data, labels and parameters")
        self._sym_gen = sym_gen
        self._default_bucket_key = default_bucket_key
        self._settings = {"logger": logger, "context": context, "work_load_list": work_load_list,
                          "fixed_param_names": fixed_param_names}
        #: bucket key -> its module, bound
        self._buckets: dict[Any, Module] = {}
        self._key: Any = None
        self._grad_req: Any = "write"

    def _make(self, key: Any) -> Module:
        symbol, data_names, label_names = self._sym_gen(key)
        return Module(symbol, data_names, label_names, **self._settings)

    @property
    def _current(self) -> Module:
        if self._key is None:
            raise AssertionError("call bind first")
        return self._buckets[self._key]

    # Before it is bound these are the default bucket's, so that fit can read them.
    @property
    def data_names(self) -> list[str]:
        """Names of the data of the current bucket."""
        return self._named().data_names

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs of the current bucket."""
        return self._named().output_names

    def _named(self) -> Module:
        return self._current if self.binded else self._make(self._default_bucket_key)

    @property
    def data_shapes(self) -> Any:
        """Names and shapes of the data of the current bucket."""
        return self._current.data_shapes

    @property
    def label_shapes(self) -> Any:
        """Names and shapes of the labels of the current bucket."""
        return self._current.label_shapes

    @property
    def output_shapes(self) -> Any:
        """Names and shapes of the outputs of the current bucket."""
        return self._current.output_shapes

    @property
    def symbol(self) -> Symbol:  # type: ignore[override]
        """The network of the current bucket."""
        return self._current.symbol

    # The others are bound when their first batch comes.
    def bind(self, data_shapes: Any, label_shapes: Any = None, for_training: bool = True,
             inputs_need_grad: bool = False, force_rebind: bool = False, shared_module: Any = None,
             grad_req: Any = "write") -> None:
        """Bind the default bucket to these shapes."""
        if shared_module is not None:
            raise AssertionError("shared_module for BucketingModule is not supported")
        if self.binded and not force_rebind:
            self.logger.warning("Already bound, ignoring bind()")
            return
        params = self.get_params() if self.params_initialized else None
        self.for_training, self.inputs_need_grad, self._grad_req = for_training, inputs_need_grad, grad_req
        module = self._make(self._default_bucket_key)
        module.bind(data_shapes, label_shapes, for_training, inputs_need_grad, grad_req=grad_req)
        self._buckets, self._key = {self._default_bucket_key: module}, self._default_bucket_key
        self.binded = True
        if params is not None:
            self.set_params(*params)

    def switch_bucket(self, bucket_key: Any, data_shapes: Any, label_shapes: Any = None) -> None:
        """Make this bucket the current one, bound to these shapes where it is new."""
        default = self._buckets.get(self._default_bucket_key)
        if default is None:
            raise AssertionError("call bind before switching bucket")
        if bucket_key not in self._buckets:
            module = self._make(bucket_key)
            module.bind(data_shapes, label_shapes, default.for_training, default.inputs_need_grad,
                        grad_req=self._grad_req)
            module._bound().share_arrays(default._bound(), module._param_names)
            self._buckets[bucket_key] = module
        self._key = bucket_key

    def prepare(self, data_batch: Any, sparse_row_id_fn: Any = None) -> None:
        """Bind the bucket of a batch in advance; the current bucket stays the same."""
        key = self._key
        self.switch_bucket(data_batch.bucket_key, data_batch.provide_data, data_batch.provide_label)
        self._key = key

    def init_params(self, initializer: Any = None, arg_params: Params | None = None,
                    aux_params: Params | None = None, allow_missing: bool = False, force_init: bool = False,
                    allow_extra: bool = False) -> None:
        """Initialize the parameters of all buckets; see `Module.init_params`."""
        if self.params_initialized and not force_init:
            return
        default = self._buckets[self._default_bucket_key]
        default.init_params(initializer, arg_params, aux_params, allow_missing, force_init, allow_extra)
        self._are_filled()

    def set_params(self, arg_params: Params, aux_params: Params, allow_missing: bool = False,
                   force_init: bool = True, allow_extra: bool = False) -> None:
        """Set the parameters of all buckets."""
        self._buckets[self._default_bucket_key].set_params(arg_params, aux_params, allow_missing, force_init,
                                                           allow_extra)
        self._are_filled()

    # They share the arrays, so only their flags change.
    def _are_filled(self) -> None:
        self.params_initialized = True
        for module in self._buckets.values():
            module.params_initialized = module._is_stale = True

    def get_params(self) -> tuple[Params, Params]:
        """Return copies of the parameters and of the auxiliary states, by name."""
        if not self.params_initialized:
            raise AssertionError("call init_params or set_params first")
        self._buckets[self._default_bucket_key]._is_stale = True  # another bucket may have changed them
        return self._buckets[self._default_bucket_key].get_params()

    def init_optimizer(self, kvstore: Any = "local", optimizer: Any = "sgd",
                       optimizer_params: Any = (("learning_rate", 0.01),), force_init: bool = False) -> None:
        """Make one optimizer for all buckets."""
        self._check_ready()
        if self.optimizer_initialized and not force_init:
            self.logger.warning("optimizer already initialized, ignoring.")
            return
        default = self._buckets[self._default_bucket_key]
        default.init_optimizer(kvstore, optimizer, optimizer_params, force_init)
        for module in self._buckets.values():
            module.borrow_optimizer(default)
        self.optimizer_initialized = True

    def forward(self, data_batch: Any, is_train: bool | None = None) -> None:
        """Compute the outputs of a batch in the bucket of its `bucket_key`."""
        self._check_ready()
        self.switch_bucket(data_batch.bucket_key, data_batch.provide_data, data_batch.provide_label)
        module = self._current
        module.params_initialized = True
        if self.optimizer_initialized and not module.optimizer_initialized:
            module.borrow_optimizer(self._buckets[self._default_bucket_key])
        module.forward(data_batch, is_train)

    def backward(self, out_grads: Any = None) -> None:
        """Compute the gradients of the last batch."""
        self._current.backward(out_grads)

    def update(self) -> None:
        """Change the parameters, which all buckets share."""
        self._current.update()

    def get_outputs(self, merge_multi_context: bool = True) -> Any:
        """Return the outputs of the last batch."""
        return self._current.get_outputs(merge_multi_context)

    def get_input_grads(self, merge_multi_context: bool = True) -> Any:
        """Return the gradients of the data of the last batch."""
        return self._current.get_input_grads(merge_multi_context)

    def update_metric(self, eval_metric: EvalMetric, labels: Any, pre_sliced: bool = False) -> None:
        """Update a metric with the outputs of the last batch."""
        self._current.update_metric(eval_metric, labels, pre_sliced)

    def save_checkpoint(self, prefix: str, epoch: int, remove_amp_cast: bool = False) -> None:
        """Write the current bucket's symbol, and the parameters."""
        from imgcls.compat.mxnet._checkpoint import save_checkpoint

        save_checkpoint(prefix, epoch, self.symbol, *self.get_params(), remove_amp_cast)
