"""`mx.gluon.Trainer`: an optimizer for the parameters of a block."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from imgcls.compat.mxnet import optimizer as optimizers
from imgcls.compat.mxnet.gluon.parameter import Parameter
from imgcls.compat.mxnet.gluon.parameter_dict import ParameterDict
from imgcls.storage.atomic import write_bytes


class Trainer:
    """Changes parameters by their gradients: `step(batch_size)` after each backward pass."""

    def __init__(self, params: Any, optimizer: Any, optimizer_params: Mapping[str, Any] | None = None,
                 kvstore: Any = "device", compression_params: Any = None,
                 update_on_kvstore: bool | None = None) -> None:
        if isinstance(params, (dict, ParameterDict)):
            # sorted by name, as MXNet 1.9.1 does it: the numbers of the states in a file follow this
            # order
            params = [params[key] for key in sorted(params.keys())]
        if not isinstance(params, (list, tuple)):
            raise ValueError(f"First argument must be a list or dict of Parameters, got {type(params)}.")
        for parameter in params:
            if not isinstance(parameter, Parameter):
                raise ValueError(f"First argument must be a list or dict of Parameters, got list of "
                                 f"{type(parameter)}.")
        self._params: list[Parameter] = list(params)
        settings = dict(optimizer_params or {})
        # the caller's own `rescale_grad` is a factor in addition to 1 / batch_size
        self._scale = float(settings.get("rescale_grad", 1.0))
        if isinstance(optimizer, optimizers.Optimizer):
            # the settings would be given twice: an error, as in MXNet
            if settings:
                raise AssertionError("optimizer_params must be None if optimizer is an instance of Optimizer "
                                     "instead of str")
            self._optimizer = optimizer
        else:
            self._optimizer = optimizers.create(optimizer, **settings)
        # As in MXNet: multipliers are the parameters' own, by index, and names do not decide the decay.
        self._optimizer.param_dict = dict(enumerate(self._params))
        self._updater = optimizers.get_updater(self._optimizer)

    @property
    def learning_rate(self) -> float:
        """The rate of the next update."""
        return self._optimizer.learning_rate

    @property
    def optimizer(self) -> Any:
        """The optimizer."""
        return self._optimizer

    def set_learning_rate(self, lr: float) -> None:
        """Change the rate."""
        self._optimizer.set_learning_rate(lr)

    # Gradients are sums over the batch: losses are not divided by its size.
    def step(self, batch_size: int, ignore_stale_grad: bool = False) -> None:
        """Change all parameters by their gradients, divided by the size of the batch."""
        self._optimizer.rescale_grad = self._scale / batch_size
        self._update(ignore_stale_grad)

    def allreduce_grads(self) -> None:
        """Do nothing: a parameter is one array here, and its gradient is already the sum."""

    def update(self, batch_size: int, ignore_stale_grad: bool = False) -> None:
        """Do what `step` does, after `allreduce_grads`."""
        self.step(batch_size, ignore_stale_grad)

    def _update(self, ignore_stale_grad: bool) -> None:
        for index, parameter in enumerate(self._params):
            if parameter.grad_req == "null":
                continue
            array = parameter.data()
            # otherwise the gradient of an earlier step would be used a second time
            if not array._is_fresh:
                if not ignore_stale_grad:
                    raise UserWarning(
                        f"Gradient of Parameter `{parameter.name}` on context {array.context} has not been "
                        "updated by backward since last `step`. This could mean a bug in your model that "
                        "made it only use a subset of the Parameters (Blocks) for this iteration. If you "
                        "are intentionally only using a subset, call step with ignore_stale_grad=True to "
                        "suppress this warning and skip updating of Parameters with stale gradient")
                continue
            self._updater(index, parameter.grad(), array)
            array._is_fresh = False

    def save_states(self, fname: str | os.PathLike[str]) -> None:
        """Write the states of the optimizer to a file, as MXNet does without the optimizer itself."""
        write_bytes(fname, self._updater.get_states())

    def load_states(self, fname: str | os.PathLike[str]) -> None:
        """Set the optimizer's states to those of a file; no code in it is run."""
        with open(fname, "rb") as stream:
            # a pickle: `set_states` accepts only what MXNet's files contain
            self._updater.set_states(stream.read())


