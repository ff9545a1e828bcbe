"""`mx.init`: initializers, which fill the parameters of a new network.

A parameter is filled by its variable's own initializer (`mx.sym.Variable(init=...)`), otherwise by the end of
its name: weights by the initializer, biases and betas with 0, gammas with 1. The random numbers are MXNet's.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from imgcls.compat.mxnet import nd, random
from imgcls.compat.mxnet._registry import Registry
from imgcls.compat.mxnet.nd import NDArray

_REGISTRY = Registry("initializer")
register = _REGISTRY.register
alias = _REGISTRY.alias
create = _REGISTRY.create

#: end of a name -> method that fills it; any other name is an error
_BY_NAME = {"weight": "_init_weight", "bias": "_init_bias", "gamma": "_init_gamma", "beta": "_init_beta",
            "min": "_init_zero", "max": "_init_one"}  # of quantized networks
#: the same where the name comes without a variable's attributes, as in FeedForward
_BY_BARE_NAME = {**_BY_NAME, "moving_mean": "_init_zero", "moving_var": "_init_one",
                 "moving_inv_var": "_init_zero", "moving_avg": "_init_zero"}


# A str with attributes: user code compares and cuts it like any name.
class InitDesc(str):
    """A parameter's name, with the attributes of its variable."""

    attrs: Mapping[str, str]
    global_init: Any

    def __new__(cls, name: str, attrs: Mapping[str, str] | None = None, global_init: Any = None) -> InitDesc:
        description = super().__new__(cls, name)
        description.attrs = attrs or {}
        description.global_init = global_init
        return description


# The random numbers depend on the order in which parameters are filled, which is the module's.
class Initializer:
    """The base class of initializers: a user-defined one has `_init_weight(name, array)`."""

    def __init__(self, **kwargs: Any) -> None:
        self._kwargs = kwargs
        self._is_verbose = False

    def set_verbosity(self, verbose: bool = False, print_func: Any = None) -> Initializer:
        """Log a line for each parameter that is filled."""
        self._is_verbose = verbose
        return self

    def dumps(self) -> str:
        """Return its name and arguments as MXNet's JSON, the form in which a symbol.json has it."""
        return json.dumps([type(self).__name__.lower(), self._kwargs])

    def __call__(self, desc: str, arr: NDArray) -> None:
        """Fill the array of a parameter."""
        attributes = getattr(desc, "attrs", None)
        if attributes and attributes.get("__init__"):
            # The variable's own initializer is used for any name, as in MXNet.
            create(attributes["__init__"])._init_weight(desc, arr)
        else:
            table = _BY_BARE_NAME if attributes is None else _BY_NAME
            getattr(self, self._method(desc, table))(desc, arr)
        if self._is_verbose:
            logging.info("Initialized %s: %s", desc, float(np.sqrt(np.mean(np.square(arr._data)))))

    # By the end of the name, as old networks keep no attributes.
    def _method(self, name: str, table: Mapping[str, str]) -> str:
        if table is _BY_BARE_NAME and name.startswith("stn_loc"):  # a transformer begins as the identity
            return "_init_zero" if name.endswith("weight") else "_init_loc_bias"
        # MXNet's _legacy_init, for FeedForward, whose parameters have no attributes.
        if table is _BY_BARE_NAME and name.startswith("upsampling"):
            return "_init_bilinear"
        return next((method for end, method in table.items() if name.endswith(end)), "_init_default")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._kwargs == getattr(other, "_kwargs", None)

    __hash__ = object.__hash__

    def _init_zero(self, name: str, arr: NDArray) -> None:
        arr[:] = 0.0

    def _init_one(self, name: str, arr: NDArray) -> None:
        arr[:] = 1.0

    def _init_bilinear(self, name: str, arr: NDArray) -> None:
        Bilinear()._init_weight(name, arr)

    def _init_loc_bias(self, name: str, arr: NDArray) -> None:
        arr[:] = nd.array([1.0, 0, 0, 0, 1.0, 0])

    # Each under its own name: derived classes replace single ones.
    _init_bias = _init_zero
    _init_beta = _init_zero
    _init_gamma = _init_one

    def _init_weight(self, name: str, arr: NDArray) -> None:
        raise NotImplementedError("an initializer of your own must fill weights")

    def _init_default(self, name: str, arr: NDArray) -> None:
        raise ValueError(f"Unknown initialization pattern for {name}: names end in weight, bias, gamma or "
                         "beta, others need mx.sym.Variable(init=...)")


@alias("zeros")
@register
class Zero(Initializer):
    """Zeros."""

    def _init_weight(self, name: str, arr: NDArray) -> None:
        arr[:] = 0.0


@alias("ones")
@register
class One(Initializer):
    """Ones."""

    def _init_weight(self, name: str, arr: NDArray) -> None:
        arr[:] = 1.0


# An array becomes a list in JSON.
@register
class Constant(Initializer):
    """One value, or an array of the parameter's shape."""

    def __init__(self, value: Any) -> None:
        super().__init__(value=value if np.isscalar(value) else np.asarray(value).tolist())
        self.value = value

    def _init_weight(self, name: str, arr: NDArray) -> None:
        arr[:] = self.value if np.isscalar(self.value) else nd.array(self.value)


@register
# MXNet's default with its own scale; modules take 0.01.
class Uniform(Initializer):
    """Uniform random numbers in [-scale, scale)."""

    def __init__(self, scale: float = 0.07) -> None:
        super().__init__(scale=scale)
        self.scale = scale

    def _init_weight(self, name: str, arr: NDArray) -> None:
        random.uniform(-self.scale, self.scale, out=arr)


# `sigma` is the standard deviation, not the variance.
@register
class Normal(Initializer):
    """Normal random numbers with mean 0 and standard deviation `sigma`."""

    def __init__(self, sigma: float = 0.01) -> None:
        super().__init__(sigma=sigma)
        self.sigma = sigma

    def _init_weight(self, name: str, arr: NDArray) -> None:
        random.normal(0, self.sigma, out=arr)


@register
# The left or right singular vectors, whichever have the weight's shape.
class Orthogonal(Initializer):
    """A matrix of orthogonal rows or columns (Saxe et al. 2013)."""

    def __init__(self, scale: float = 1.414, rand_type: str = "uniform") -> None:
        super().__init__(scale=scale, rand_type=rand_type)
        self.scale = scale
        self.rand_type = rand_type

    def _init_weight(self, name: str, arr: NDArray) -> None:
        shape = (arr.shape[0], math.prod(arr.shape[1:]))
        draw = random.uniform(-1.0, 1.0, shape) if self.rand_type == "uniform" else random.normal(0, 1, shape)
        left, _, right = np.linalg.svd(draw.asnumpy(), full_matrices=False)  # thin: 2048 x 2048 takes seconds
        arr[:] = nd.array(self.scale * (left if left.shape == shape else right).reshape(arr.shape))


# For a convolution the kernel's area counts in fan-in and fan-out.
@register
class Xavier(Initializer):
    """Random numbers whose scale follows from fan-in and fan-out (Glorot and Bengio 2010)."""

    def __init__(self, rnd_type: str = "uniform", factor_type: str = "avg", magnitude: float = 3) -> None:
        super().__init__(rnd_type=rnd_type, factor_type=factor_type, magnitude=magnitude)
        self.rnd_type = rnd_type
        self.factor_type = factor_type
        self.magnitude = float(magnitude)

    def _init_weight(self, name: str, arr: NDArray) -> None:
        if arr.ndim < 2:
            raise ValueError(f"Xavier initializer cannot be applied to vector {name}: it requires at least "
                             "2D")
        area = math.prod(arr.shape[2:])  # 1 for a matrix
        fan_in, fan_out = arr.shape[1] * area, arr.shape[0] * area
        factors = {"avg": (fan_in + fan_out) / 2.0, "in": fan_in, "out": fan_out}
        if self.factor_type not in factors:
            raise ValueError(f"factor_type {self.factor_type}: must be avg, in or out")
        scale = math.sqrt(self.magnitude / factors[self.factor_type])
        if self.rnd_type == "uniform":
            random.uniform(-scale, scale, out=arr)
        elif self.rnd_type == "gaussian":
            random.normal(0, scale, out=arr)
        else:
            raise ValueError(f"rnd_type {self.rnd_type}: must be uniform or gaussian")


@register
# The magnitude keeps the variance the same behind a relu of this slope.
class MSRAPrelu(Xavier):
    """Xavier for layers with a (leaky) relu behind them (He et al. 2015)."""

    def __init__(self, factor_type: str = "avg", slope: float = 0.25) -> None:
        super().__init__("gaussian", factor_type, 2.0 / (1 + slope**2))
        self._kwargs = {"factor_type": factor_type, "slope": slope}  # what dumps() writes


# Separable: rows times columns.
@register
class Bilinear(Initializer):
    """The kernel of bilinear interpolation, for deconvolutions that enlarge."""

    def _init_weight(self, name: str, arr: NDArray) -> None:
        size = arr.shape[3]
        factor = math.ceil(size / 2)
        center = (2 * factor - 1 - factor % 2) / (2 * factor)
        rows = 1 - np.abs(np.arange(arr.shape[2]) / factor - center)
        columns = 1 - np.abs(np.arange(size) / factor - center)
        arr[:] = nd.array(np.broadcast_to(rows[:, None] * columns, arr.shape))


# Not derived from Initializer: nor is MXNet's.
class Load:
    """Fills parameters with those of a file or dict, and others with `default_init`."""

    def __init__(self, param: Any, default_init: Any = None, verbose: bool = False) -> None:
        arrays: Any = nd.load(param) if isinstance(param, str) else param
        self.param = {name[4:] if name.startswith(("arg:", "aux:")) else name: array
                      for name, array in arrays.items()}
        self.default_init = default_init

    def __call__(self, name: str, arr: NDArray) -> None:
        if name in self.param:
            if self.param[name].shape != arr.shape:
                raise ValueError(f"{name}: {self.param[name].shape} in the file, {arr.shape} in the network")
            arr[:] = self.param[name]
        elif self.default_init is None:
            raise ValueError(f"{name} is not among the loaded parameters, and there is no default_init")
        else:
            self.default_init(name, arr)


# The first that matches wins, so the general pattern stands last.
class Mixed:
    """Fills each parameter by the first pattern that its name begins with."""

    def __init__(self, patterns: Sequence[str], initializers: Sequence[Any]) -> None:
        self.map = [(re.compile(pattern), initializer)
                    for pattern, initializer in zip(patterns, initializers, strict=True)]

    def __call__(self, name: str, arr: NDArray) -> None:
        for pattern, initializer in self.map:
            if pattern.match(name):
                # Called as a whole, not by `_init_weight`: so a bias is still filled by the end of its name.
                initializer(name, arr)
                return
        raise ValueError(f"parameter {name} matches no pattern; end the list with '.*' and a default")
