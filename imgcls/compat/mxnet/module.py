"""`mx.mod`: `Module`, a symbol with parameters and an optimizer, bound to shapes of data and labels.

It computes a batch at once, for any number of contexts: `get_outputs(merge_multi_context=False)` divides
outputs as MXNet divides samples among contexts. For a batch of other shapes it is bound again.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from imgcls.compat.mxnet import optimizer as optimizers
from imgcls.compat.mxnet._base_module import BaseModule
from imgcls.compat.mxnet._checkpoint import Params, load_checkpoint, save_checkpoint
from imgcls.compat.mxnet._registration import missing
from imgcls.compat.mxnet.base import MXNetError
from imgcls.compat.mxnet.context import to_context
from imgcls.compat.mxnet.executor import Executor
from imgcls.compat.mxnet.initializer import InitDesc, Uniform
from imgcls.compat.mxnet.io import DataDesc
from imgcls.compat.mxnet.metric import EvalMetric
from imgcls.compat.mxnet.nd import NDArray
from imgcls.compat.mxnet.symbol import Symbol
from imgcls.storage.atomic import write_bytes
from imgcls.storage.paths import to_path

__all__ = ["BaseModule", "Module"]


def __getattr__(name: str) -> Any:
    if name == "BucketingModule":  # a separate file, which needs Module
        return importlib.import_module("imgcls.compat.mxnet._bucketing").BucketingModule
    raise missing("mxnet.module", name, __all__)


# MXNet has an executor for each context; one gives the same for every network without batch statistics.
class Module(BaseModule):
    """A symbol for training and prediction: `bind`, `init_params`, `init_optimizer`, or `fit` for all."""

    def __init__(self, symbol: Symbol, data_names: Sequence[str] | None = ("data",),
                 label_names: Sequence[str] | None = ("softmax_label",), logger: Any = logging,
                 context: Any = None, work_load_list: Sequence[float] | None = None,
                 fixed_param_names: Sequence[str] | None = None, state_names: Sequence[str] | None = None,
                 group2ctxs: Any = None, compression_params: Any = None) -> None:
        super().__init__(logger)
        contexts = context if isinstance(context, (list, tuple)) else [context]
        self._contexts = [to_context(one) for one in contexts]  # a GPU that is not there is an error here
        self._work_load_list = list(work_load_list or [1] * len(self._contexts))
        self.symbol = symbol
        self.data_names = list(data_names or [])
        self.label_names = list(label_names or [])
        self.output_names = symbol.list_outputs()
        self._fixed_names = list(fixed_param_names or [])
        arguments = symbol.list_arguments()
        self._check_names(self.data_names, arguments, "data", is_error=True)
        self._check_names(self.label_names, arguments, "label", is_error=False)
        self._check_names(self._fixed_names, arguments, "fixed_param", is_error=True)
        if state_names:
            raise MXNetError("state_names: there are no states here, only data, labels and parameters")
        inputs = self.data_names + self.label_names
        self._param_names = [name for name in arguments if name not in inputs]  # in the symbol's order
        self._arg_params: Params | None = None
        self._aux_params: Params | None = None
        #: whether the executor's parameters are newer than the two above
        self._is_stale = False
        self._executor: Executor | None = None
        self._data_shapes: list[DataDesc] = []
        self._label_shapes: list[DataDesc] | None = None
        self._grad_req: Any = "write"
        self._updater: optimizers.Updater | None = None
        #: optimizer states to be read once there is an optimizer
        self._states_path: str | None = None

    # `bind` copies the parameters into the executor.
    @staticmethod
    def load(prefix: str, epoch: int, load_optimizer_states: bool = False, **kwargs: Any) -> Module:
        """Return the module of a checkpoint; bind it before it is used."""
        symbol, arg_params, aux_params = load_checkpoint(prefix, epoch)
        module = Module(symbol, **kwargs)
        module._arg_params, module._aux_params = arg_params, aux_params
        module.params_initialized = True  # so that `fit` does not initialize them again
        if load_optimizer_states:
            module._states_path = f"{prefix}-{epoch:04d}.states"
        return module

    # Named after the number of epochs that are done.
    def save_checkpoint(self, prefix: str, epoch: int, save_optimizer_states: bool = False,
                        remove_amp_cast: bool = True) -> None:
        """Write symbol and parameters, and the optimizer's states on request."""
        save_checkpoint(prefix, epoch, self.symbol, *self.get_params(), remove_amp_cast)
        if save_optimizer_states:
            path = f"{prefix}-{epoch:04d}.states"
            self.save_optimizer_states(path)
            self.logger.info('Saved optimizer state to "%s"', path)

    @property
    def data_shapes(self) -> list[DataDesc]:
        """Names and shapes of the data to which it is bound."""
        self._bound()
        return self._data_shapes

    @property
    def label_shapes(self) -> list[DataDesc] | None:
        """Names and shapes of the labels to which it is bound, None without labels."""
        self._bound()
        return self._label_shapes

    @property
    def output_shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the outputs."""
        return [(name, array.shape) for name, array in self._bound().output_dict.items()]

    # Binding again keeps the parameters, which are fetched from the old executor first.
    def bind(self, data_shapes: Any, label_shapes: Any = None, for_training: bool = True,
             inputs_need_grad: bool = False, force_rebind: bool = False, shared_module: Module | None = None,
             grad_req: Any = "write") -> None:
        """Set the shapes of data and labels, and make the arrays of all arguments, gradients and states."""
        if self.binded and not force_rebind:
            self.logger.warning("Already bound, ignoring bind()")
            return
        if inputs_need_grad and not for_training:
            raise AssertionError("inputs_need_grad: gradients are computed when it is bound for training")
        self.for_training = for_training
        self.inputs_need_grad = inputs_need_grad
        self._grad_req = grad_req
        if self.binded and self.params_initialized:
            self.get_params()
        self._describe(data_shapes, label_shapes)
        shapes = {description.name: tuple(description.shape)
                  for description in [*self._data_shapes, *(self._label_shapes or [])]}
        arguments = self.symbol.list_arguments()
        shapes = {name: shape for name, shape in shapes.items() if name in arguments}
        self._executor = self.symbol.simple_bind(self._contexts[0], self._requests(arguments), **shapes)
        self.binded = True
        if shared_module is not None:
            self._arg_params, self._aux_params = shared_module.get_params()
            self._updater = shared_module._updater
            self.optimizer_initialized = shared_module.optimizer_initialized
            self.params_initialized = True
        if self.params_initialized:
            self._bound().copy_params_from(self._arg_params or {}, self._aux_params, True)

    # Also done by `forward` itself, when a batch comes in another shape.
    def reshape(self, data_shapes: Any, label_shapes: Any = None) -> None:
        """Bind to other shapes, with the same parameters."""
        executor = self._bound()
        self._describe(data_shapes, label_shapes)
        self._reshape(executor)

    # Values are copied: the caller's arrays never change.
    def init_params(self, initializer: Any = None, arg_params: Params | None = None,
                    aux_params: Params | None = None, allow_missing: bool = False, force_init: bool = False,
                    allow_extra: bool = False) -> None:
        """Fill the parameters from `arg_params` and `aux_params`, others by the initializer.

        A missing one is a RuntimeError unless `allow_missing`; others than the network's are ignored.
        """
        if self.params_initialized and not force_init:
            warnings.warn("Parameters already initialized and force_init=False. init_params call ignored.",
                          stacklevel=2)
            return
        executor = self._bound()
        if arg_params is None and aux_params is None and initializer is None:
            initializer = Uniform(0.01)
        attributes = self.symbol.attr_dict()
        targets = ((arg_params, {name: executor.arg_dict[name] for name in self._param_names}),
                   (aux_params, executor.aux_dict))
        # Arrays that are not needed are ignored, also without `allow_extra`, as in MXNet.
        for given, own in targets:
            # MXNet's order: random numbers are drawn parameter by parameter.
            for name, array in sorted(own.items()):
                self._fill(InitDesc(name, attributes.get(name)), array, given, initializer, allow_missing)
        self.params_initialized = True
        self._is_stale = True
        self.get_params()

    # MXNet's two ways: with `allow_missing` unknown names are an error, without it they are left out.
    def set_params(self, arg_params: Params, aux_params: Params, allow_missing: bool = False,
                   force_init: bool = True, allow_extra: bool = False) -> None:
        """Set parameters; see `init_params`. With `allow_missing` parameters not given are not changed."""
        if not allow_missing:
            super().set_params(arg_params, aux_params, False, force_init, allow_extra)
            return
        if self.params_initialized and not force_init:
            warnings.warn("Parameters already initialized and force_init=False. set_params call ignored.",
                          stacklevel=2)
            return
        self._bound().copy_params_from(arg_params, aux_params, allow_extra)
        self.params_initialized = True
        self._is_stale = True

    # Fetched when they are requested, and not after every update.
    def get_params(self) -> tuple[Params, Params]:
        """Return copies of the parameters and of the auxiliary states, by name."""
        if not self.params_initialized:
            raise AssertionError("call init_params or set_params first")
        if self._is_stale and self._executor is not None:
            self._arg_params = {name: self._executor.arg_dict[name].copy() for name in self._param_names}
            self._aux_params = {name: array.copy() for name, array in self._executor.aux_dict.items()}
            self._is_stale = False
        return self._arg_params or {}, self._aux_params or {}

    # Gradients are sums over the batch; the mean is taken here.
    def init_optimizer(self, kvstore: Any = "local", optimizer: Any = "sgd",
                       optimizer_params: Any = (("learning_rate", 0.01),), force_init: bool = False) -> None:
        """Make the optimizer. Unless `optimizer_params` has `rescale_grad`, gradients are batch means."""
        self._check_ready()
        if self.optimizer_initialized and not force_init:
            self.logger.warning("optimizer already initialized, ignoring...")
            return
        # An error, as each process would otherwise silently train a network of its own.
        if "dist" in str(getattr(kvstore, "type", kvstore)):
            raise MXNetError(f"kvstore {kvstore}: several processes are started with imgcls-launch, and "
                             "train with imgcls-train; here there is local")
        # Of the shape it was bound to: a smaller last batch is divided by the same number, as in MXNet.
        batch_size = self._data_shapes[0].shape[DataDesc.get_batch_axis(self._data_shapes[0].layout)]
        index = dict(enumerate(self._param_names))
        if isinstance(optimizer, str):
            arguments = {"rescale_grad": 1.0 / batch_size, **dict(optimizer_params)}
            optimizer = optimizers.create(optimizer, sym=self.symbol, param_idx2name=index, **arguments)
        # An optimizer object has only indices; names decide which parameters decay.
        elif not optimizer.idx2name:
            optimizer.idx2name = index
            optimizer.set_wd_mult(optimizer.wd_mult)
        self._updater = optimizers.Updater(optimizer)
        self.optimizer_initialized = True
        if self._states_path is not None:
            self.load_optimizer_states(self._states_path)
            self._states_path = None

    # Any object with `data` works, such as a named tuple.
    def forward(self, data_batch: Any, is_train: bool | None = None) -> None:
        """Compute the outputs of a batch; without `is_train` for training if it is bound for training."""
        self._check_ready()
        executor = self._bound()
        if is_train is None:
            is_train = self.for_training
        arrays = dict(zip(self.data_names, data_batch.data, strict=True))
        labels = getattr(data_batch, "label", None)
        if labels and self._label_shapes:
            names = [description.name for description in self._label_shapes]
            arrays |= dict(zip(names, labels, strict=False))  # iterators may have more labels than the symbol
        elif is_train and self._label_shapes:
            raise AssertionError("training needs labels in every batch")
        # Labels that the symbol does not have are only for the metric.
        arrays = {name: array for name, array in arrays.items() if name in executor.arg_dict}
        if any(executor.arg_dict[name].shape != array.shape for name, array in arrays.items()):
            self._data_shapes = [_reshaped(description, arrays) for description in self._data_shapes]
            if self._label_shapes is not None:
                self._label_shapes = [_reshaped(description, arrays) for description in self._label_shapes]
            executor = self._reshape(executor)
        executor.forward(is_train, **arrays)

    # After `forward(is_train=True)` of the same batch.
    def backward(self, out_grads: Any = None) -> None:
        """Compute the gradients of the last batch; `out_grads` are those of outputs that are no losses."""
        self._check_ready()
        if not self.for_training:
            raise AssertionError("re-bind with for_training=True to run backward")
        self._bound().backward(out_grads)

    # In the order of the symbol; no update rule depends on more than one parameter.
    def update(self) -> None:
        """Change the parameters by the optimizer and the gradients of the last batch."""
        self._check_ready()
        if self._updater is None:
            raise AssertionError("call init_optimizer first")
        executor = self._bound()
        self._is_stale = True
        for index, name in enumerate(self._param_names):
            gradient = executor.grad_dict[name]
            if gradient is not None:
                self._updater(index, gradient, executor.arg_dict[name])

    # One list entry for each output of the symbol.
    def get_outputs(self, merge_multi_context: bool = True) -> Any:
        """Return the outputs of the last batch; without `merge_multi_context` each as a list by context."""
        self._check_ready()
        return self._merged(self._bound().outputs, merge_multi_context)

    def get_input_grads(self, merge_multi_context: bool = True) -> Any:
        """Return the gradients of the data of the last batch."""
        self._check_ready()
        if not self.inputs_need_grad:
            raise AssertionError("bind with inputs_need_grad=True to get the gradients of the data")
        executor = self._bound()
        return self._merged([executor.grad_dict[name] for name in self.data_names], merge_multi_context)

    # Context by context, as means over batches would differ otherwise.
    def update_metric(self, eval_metric: EvalMetric, labels: Any, pre_sliced: bool = False) -> None:
        """Update a metric with the outputs of the last batch."""
        names = [description.name for description in self._label_shapes or []] or self.label_names
        outputs = self._bound().outputs
        parts = self._parts(outputs[0].shape[0]) if outputs else []
        for index, part in enumerate(parts):
            own = labels[index] if pre_sliced else [label[part] for label in labels or []]
            eval_metric.update_dict(dict(zip(names, own, strict=False)),
                                    dict(zip(self.output_names, [output[part] for output in outputs],
                                             strict=True)))

    def save_optimizer_states(self, fname: str) -> None:
        """Write the optimizer's states, in MXNet's form."""
        if self._updater is None:
            raise AssertionError("call init_optimizer first")
        write_bytes(fname, self._updater.get_states())

    def load_optimizer_states(self, fname: str) -> None:
        """Set the optimizer's states to those of MXNet's file; no code in it is run."""
        if self._updater is None:
            raise AssertionError("call init_optimizer first")
        # A pickle; formats/states.py accepts nothing but arrays and containers.
        self._updater.set_states(to_path(fname).read_bytes())

    def _bound(self) -> Executor:
        if self._executor is None:
            raise AssertionError("call bind first")
        return self._executor

    def _check_names(self, names: list[str], arguments: list[str], kind: str, is_error: bool) -> None:
        for name in names:
            if name not in arguments:
                ends = ("_weight", "_bias", "_gamma", "_beta")
                inputs = ", ".join(argument for argument in arguments if not argument.endswith(ends))
                text = (f"You created Module with Module(..., {kind}_names={names}) but input with name "
                        f"'{name}' is not found in symbol.list_arguments(). Did you mean one of: {inputs}")
                if is_error:
                    raise ValueError(text)
                warnings.warn(text, stacklevel=3)  # a label may serve the metric alone

    def _describe(self, data_shapes: Any, label_shapes: Any) -> None:
        self._data_shapes = _descriptions(data_shapes)
        self._label_shapes = None if label_shapes is None else _descriptions(label_shapes)
        given = sorted(description.name for description in self._data_shapes)
        if given != sorted(self.data_names):
            raise ValueError("Data provided by data_shapes don't match names specified by data_names "
                             f"({given} vs. {self.data_names})")
        labels = sorted(description.name for description in self._label_shapes or [])
        if labels != sorted(self.label_names):
            warnings.warn("Data provided by label_shapes don't match names specified by label_names "
                          f"({labels} vs. {self.label_names})", stacklevel=3)

    # Labels and fixed parameters have no gradient.
    def _requests(self, arguments: list[str]) -> dict[str, str]:
        """Return the `grad_req` of each argument by name."""
        requests = dict.fromkeys(arguments, "null")
        if not self.for_training:
            return requests
        for name in self._param_names:
            if name not in self._fixed_names:
                request = self._grad_req
                requests[name] = request if isinstance(request, str) else dict(request).get(name, "null")
        return requests | {name: "write" for name in self.data_names if self.inputs_need_grad}

    def _reshape(self, executor: Executor) -> Executor:
        descriptions = [*self._data_shapes, *(self._label_shapes or [])]
        shapes = {description.name: tuple(description.shape) for description in descriptions
                  if description.name in executor.arg_dict}
        self._executor = executor.reshape(False, True, **shapes)
        return self._executor

    def _fill(self, name: InitDesc, array: NDArray, given: Params | None, initializer: Any,
              allow_missing: bool) -> None:
        if given is not None and str(name) in given:
            if given[name].shape != array.shape:
                raise MXNetError(f"{name}: shape {given[name].shape} is given, the network has {array.shape}")
            given[name].copyto(array)
        elif given is not None and not allow_missing:
            raise RuntimeError(f"{name} is not presented")
        elif initializer is not None:
            initializer(name, array)

    # Rounded as in MXNet; the last context has the rest.
    def _parts(self, count: int) -> list[slice]:
        """Return the samples of a batch that each context would have."""
        total = sum(self._work_load_list)
        sizes = [round(load * count / total) for load in self._work_load_list]  # executor_group.py
        ends = [*np.cumsum(sizes[:-1]).tolist(), count]
        return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    def _merged(self, arrays: Sequence[NDArray | None], is_merged: bool) -> Any:
        if is_merged:
            return list(arrays)
        return [[array[part] for part in self._parts(array.shape[0])]
                for array in arrays if array is not None]


def _descriptions(shapes: Any) -> list[DataDesc]:
    return [shape if isinstance(shape, DataDesc) else DataDesc(*shape) for shape in shapes]


def _reshaped(description: DataDesc, arrays: dict[str, NDArray]) -> DataDesc:
    """Return the description with the shape of the array of its name, if there is one."""
    if description.name not in arrays:
        return description
    return DataDesc(description.name, arrays[description.name].shape, description.dtype, description.layout)
