"""`mx.optimizer`: MXNet's update rules, to the last digits, for modules and for training loops in scripts.

Each class changes one parameter at a time: `update(index, weight, grad, state)`, in place. `imgcls.optim` has
torch's optimizers, which imgcls-train uses; docs/differences.md lists where those differ from MXNet's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from imgcls.compat.mxnet._registry import Registry
from imgcls.compat.mxnet.base import MXNetError
from imgcls.compat.mxnet.nd import NDArray
from imgcls.formats import states as state_files

_REGISTRY = Registry("optimizer")
register = _REGISTRY.register
create = _REGISTRY.create

_float = np.float32  # a Python float would turn whole arrays to float64 in some operations


# Updates are counted for each parameter, since some rules correct for the first ones.
class Optimizer:
    """The base class: learning rate, weight decay and their multipliers, and the count of updates."""

    def __init__(self, rescale_grad: float = 1.0, param_idx2name: dict[int, str] | None = None,
                 wd: float = 0.0, clip_gradient: float | None = None, learning_rate: float | None = None,
                 lr_scheduler: Any = None, sym: Any = None, begin_num_update: int = 0,
                 multi_precision: bool = False, param_dict: Any = None) -> None:
        if lr_scheduler is None and learning_rate is None:
            learning_rate = 0.01
        if lr_scheduler is not None and learning_rate is not None:
            lr_scheduler.base_lr = learning_rate  # as in MXNet: the argument replaces the scheduler's own
        self.rescale_grad = rescale_grad
        self.lr = learning_rate
        self.lr_scheduler = lr_scheduler
        self.wd = wd
        self.clip_gradient = clip_gradient
        self.begin_num_update = begin_num_update
        self.num_update = begin_num_update
        self.multi_precision = multi_precision
        self.idx2name = dict(param_idx2name or {})
        #: index -> parameter of Gluon, whose multipliers replace all others
        self.param_dict: dict[Any, Any] = dict(param_dict or {})
        self._counts: dict[Any, int] = {}
        self._attributes = {} if sym is None else sym.attr_dict()
        self.set_lr_mult({})
        self.set_wd_mult({})

    create_optimizer = staticmethod(create)

    @property
    def learning_rate(self) -> float:
        """The rate of the current update."""
        return self.lr_scheduler(self.num_update) if self.lr_scheduler is not None else self.lr or 0.0

    def set_learning_rate(self, lr: float) -> None:
        """Change the rate; there must be no scheduler."""
        if self.lr_scheduler is not None:
            raise UserWarning("the learning rate is the scheduler's; change that")
        self.lr = lr

    def set_lr_mult(self, args_lr_mult: dict[Any, float]) -> None:
        """Set multipliers of the rate, by name or index, over those of the symbol."""
        self.lr_mult = {**self._from_symbol("__lr_mult__"), **args_lr_mult}

    # Biases and betas do not decay.
    def set_wd_mult(self, args_wd_mult: dict[Any, float]) -> None:
        """Set multipliers of the weight decay; without one only weights and gammas decay."""
        # MXNet's rule and its spelling: a variable named plain "weight" does not decay.
        no_decay = {name: 0.0 for name in self.idx2name.values() if not name.endswith(("_weight", "_gamma"))}
        self.wd_mult = {**no_decay, **self._from_symbol("__wd_mult__"), **args_wd_mult}

    def _from_symbol(self, key: str) -> dict[Any, float]:
        return {name: float(attrs[key]) for name, attrs in self._attributes.items() if key in attrs}

    # By index if there is a multiplier for that, otherwise by name.
    def _begin(self, index: Any) -> tuple[float, float, int]:
        """Count an update; return its learning rate, weight decay and number."""
        count = self._counts[index] = self._counts.get(index, self.begin_num_update) + 1
        self.num_update = max(count, self.num_update)  # the schedule counts steps, not parameters
        if index in self.param_dict:
            parameter = self.param_dict[index]
            return self.learning_rate * parameter.lr_mult, self.wd * parameter.wd_mult, count
        name = self.idx2name.get(index)
        lr = self.learning_rate * self.lr_mult.get(index, self.lr_mult.get(name, 1.0))
        return lr, self.wd * self.wd_mult.get(index, self.wd_mult.get(name, 1.0)), count

    def _clipped(self, gradient: np.ndarray) -> np.ndarray:
        # None and 0 are no limit, as in MXNet's kernels
        if not self.clip_gradient:
            return gradient
        return np.clip(gradient, -_float(self.clip_gradient), _float(self.clip_gradient))

    # Zeros, in the shape of the weight.
    def create_state(self, index: Any, weight: NDArray) -> Any:
        """Return the state that the rule keeps for a parameter: an array, a tuple of arrays, or None."""
        return None

    def create_state_multi_precision(self, index: Any, weight: NDArray) -> Any:
        """Return `create_state`: arithmetic is float32 here in any case."""
        return self.create_state(index, weight)

    # Numbers are float32 throughout, as in MXNet's kernels.
    def update(self, index: Any, weight: NDArray, grad: NDArray, state: Any) -> None:
        """Change the weight by its gradient, and the state with it."""
        lr, wd, count = self._begin(index)
        parts = state if isinstance(state, (tuple, list)) else [] if state is None else [state]
        gradient = grad._data.astype(_float) * _float(self.rescale_grad)
        self._step(weight._data, gradient, [part._data for part in parts], _float(lr), _float(wd), count)

    update_multi_precision = update

    def _step(self, weight: np.ndarray, gradient: np.ndarray, state: list[np.ndarray], lr: Any, wd: Any,
              count: int) -> None:
        raise NotImplementedError("an optimizer of your own must say its update")

    def _zeros(self, weight: NDArray, count: int) -> tuple[NDArray, ...]:
        return tuple(NDArray(np.zeros(weight.shape, _float)) for _ in range(count))


# The state is the last change, not the mean gradient: it includes the rate.
@register
class SGD(Optimizer):
    """Gradient descent, with `momentum` or without."""

    def __init__(self, momentum: float = 0.0, lazy_update: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.momentum = momentum

    def create_state(self, index: Any, weight: NDArray) -> Any:
        return self._zeros(weight, 1)[0] if self.momentum else None

    def _step(self, weight: np.ndarray, gradient: np.ndarray, state: list[np.ndarray], lr: Any, wd: Any,
              count: int) -> None:
        change = lr * (self._clipped(gradient) + wd * weight)
        if state:
            state[0][...] = _float(self.momentum) * state[0] - change
            weight += state[0]
        else:
            weight -= change


# Old scripts use this name.
@register
class ccSGD(SGD):  # noqa: N801
    """SGD, under the name of its C++ form."""


# In MXNet's form the look-ahead is from the new momentum.
@register
class NAG(SGD):
    """Gradient descent with Nesterov's momentum."""

    def _step(self, weight: np.ndarray, gradient: np.ndarray, state: list[np.ndarray], lr: Any, wd: Any,
              count: int) -> None:
        change = lr * (self._clipped(gradient) + wd * weight)
        if state:
            momentum = _float(self.momentum)
            state[0][...] = momentum * state[0] - change
            weight += momentum * state[0] - change
        else:
            weight -= change


# The corrections of both means are in the rate.
@register
class Adam(Optimizer):
    """Adam; the decay is part of the gradient."""

    def __init__(self, learning_rate: float = 0.001, beta1: float = 0.9, beta2: float = 0.999,
                 epsilon: float = 1e-8, lazy_update: bool = True, **kwargs: Any) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon

    def create_state(self, index: Any, weight: NDArray) -> Any:
        return self._zeros(weight, 2)

    def _step(self, weight: np.ndarray, gradient: np.ndarray, state: list[np.ndarray], lr: Any, wd: Any,
              count: int) -> None:
        rate = _float(lr * math.sqrt(1 - self.beta2**count) / (1 - self.beta1**count))
        gradient = self._clipped(gradient + wd * weight)
        mean, variance = state
        mean[...] = _float(self.beta1) * mean + _float(1 - self.beta1) * gradient
        variance[...] = _float(self.beta2) * variance + _float(1 - self.beta2) * np.square(gradient)
        weight -= rate * mean / (np.sqrt(variance) + _float(self.epsilon))


# Here the decay is added after the division.
@register
class AdaGrad(Optimizer):
    """AdaGrad: rates fall with the sum of squared gradients."""

    def __init__(self, eps: float = 1e-7, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.float_stable_eps = eps

    def create_state(self, index: Any, weight: NDArray) -> Any:
        return self._zeros(weight, 1)[0]

    def _step(self, weight: np.ndarray, gradient: np.ndarray, state: list[np.ndarray], lr: Any, wd: Any,
              count: int) -> None:
        gradient = self._clipped(gradient)
        state[0] += np.square(gradient)
        weight -= lr * (gradient / np.sqrt(state[0] + _float(self.float_stable_eps)) + wd * weight)


# The changes have the weight's own unit, so there is no rate.
@register
class AdaDelta(Optimizer):
    """AdaDelta: rates from running means of squared gradients and changes; it has no learning rate."""

    def __init__(self, rho: float = 0.90, epsilon: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rho = rho
        self.epsilon = epsilon

    def create_state(self, index: Any, weight: NDArray) -> Any:
        return self._zeros(weight, 2)

    def _step(self, weight: np.ndarray, gradient: np.ndarray, state: list[np.ndarray], lr: Any, wd: Any,
              count: int) -> None:
        gradient = self._clipped(gradient)
        squares, changes = state
        rho, new, epsilon = _float(self.rho), _float(1 - self.rho), _float(self.epsilon)
        squares[...] = rho * squares + new * np.square(gradient)
        change = np.sqrt(changes + epsilon) / np.sqrt(squares + epsilon) * gradient
        changes[...] = rho * changes + new * np.square(change)
        weight -= change + wd * weight


# `epsilon` is inside of the root.
@register
class RMSProp(Optimizer):
    """Rates from a running mean of squared gradients; `centered` subtracts the mean (Graves 2013)."""

    def __init__(self, learning_rate: float = 0.001, gamma1: float = 0.9, gamma2: float = 0.9,
                 epsilon: float = 1e-8, centered: bool = False, clip_weights: float | None = None,
                 **kwargs: Any) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.gamma1 = gamma1
        self.gamma2 = gamma2
        self.epsilon = epsilon
        self.centered = centered
        self.clip_weights = clip_weights

    def create_state(self, index: Any, weight: NDArray) -> Any:
        return self._zeros(weight, 3 if self.centered else 1)

    def _step(self, weight: np.ndarray, gradient: np.ndarray, state: list[np.ndarray], lr: Any, wd: Any,
              count: int) -> None:
        gradient = self._clipped(gradient + wd * weight)
        old, new, epsilon = _float(self.gamma1), _float(1 - self.gamma1), _float(self.epsilon)
        state[0][...] = new * np.square(gradient) + old * state[0]
        if self.centered:
            squares, mean, change = state
            mean[...] = new * gradient + old * mean
            change[...] = (_float(self.gamma2) * change
                           - lr * gradient / np.sqrt(squares - np.square(mean) + epsilon))
            weight += change
        else:
            weight -= lr * gradient / np.sqrt(state[0] + epsilon)
        if self.clip_weights:
            np.clip(weight, -self.clip_weights, self.clip_weights, out=weight)


# Without an epsilon, as in MXNet: a gradient that was always 0 divides 0 by 0.
@register
class Adamax(Optimizer):
    """Adam with the largest gradient in place of the variance."""

    def __init__(self, learning_rate: float = 0.002, beta1: float = 0.9, beta2: float = 0.999,
                 **kwargs: Any) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.beta1 = beta1
        self.beta2 = beta2

    def create_state(self, index: Any, weight: NDArray) -> Any:
        return self._zeros(weight, 2)

    def _step(self, weight: np.ndarray, gradient: np.ndarray, state: list[np.ndarray], lr: Any, wd: Any,
              count: int) -> None:
        gradient = self._clipped(gradient + wd * weight)
        mean, largest = state
        mean[...] = _float(self.beta1) * mean + _float(1 - self.beta1) * gradient
        largest[...] = np.maximum(_float(self.beta2) * largest, np.abs(gradient))
        weight -= _float(lr / (1 - self.beta1**count)) * mean / largest


# The state of a parameter is made at its first update.
# get_updater returns one; MXNet's key-value stores call it in the same way.
class Updater:
    """An optimizer with the states of all its parameters; call it with (index, gradient, weight)."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.states: dict[Any, Any] = {}

    def __call__(self, index: Any, grad: NDArray, weight: NDArray) -> None:
        if index not in self.states:
            self.states[index] = self.optimizer.create_state(index, weight)
        self.optimizer.update(index, weight, grad, self.states[index])

    # To resume a training of MXNet's.
    def set_states(self, states: bytes) -> None:
        """Set the states to those of the bytes of MXNet's `.states` file; no code in it is run."""
        def arrays(state: Any) -> Any:
            if isinstance(state, tuple):
                return tuple(arrays(part) for part in state)
            return None if state is None else NDArray(np.array(state))

        self.states = {index: arrays(state) for index, state in state_files.loads(states).items()}

    def get_states(self, dump_optimizer: bool = False) -> bytes:
        """Return the states as the bytes of MXNet's `.states` file."""
        # The optimizer itself would be a pickled object, which is not safe to load.
        if dump_optimizer:
            raise MXNetError("dump_optimizer: the states are written without the optimizer; make it anew")

        def arrays(state: Any) -> Any:
            if isinstance(state, tuple):
                return tuple(arrays(part) for part in state)
            return None if state is None else state._data

        return state_files.dumps({index: arrays(state) for index, state in self.states.items()})


def get_updater(optimizer: Optimizer) -> Callable[[Any, NDArray, NDArray], None]:
    """Return a function of (index, gradient, weight) that steps with this optimizer."""
    return Updater(optimizer)
