"""`mx.gluon.Parameter`: one weight of a block, with its gradient."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from imgcls.compat.mxnet import autograd, initializer, nd, symbol
from imgcls.compat.mxnet.base import MXNetError
from imgcls.compat.mxnet.context import Context, current_context, to_context
from imgcls.compat.mxnet.nd import NDArray

#: sizes that are not known yet
# MXNet 1.x writes 0, its numpy interface -1
_UNKNOWN = (0, -1)


class DeferredInitializationError(MXNetError):
    """The shape of a parameter is not known before the first batch."""


class Parameter:
    """A weight with a name; `grad_req` is write, add, or null where it has no gradient."""

    def __init__(self, name: str, grad_req: str = "write", shape: int | Sequence[int] | None = None,
                 dtype: Any = np.float32, lr_mult: float = 1.0, wd_mult: float = 1.0, init: Any = None,
                 allow_deferred_init: bool = False, differentiable: bool = True, stype: str = "default",
                 grad_stype: str = "default") -> None:
        self.name = name
        self.init = init
        self.lr_mult = lr_mult
        self.wd_mult = wd_mult
        self.allow_deferred_init = allow_deferred_init
        self._is_differentiable = differentiable
        self._shape = (shape,) if isinstance(shape, int) else None if shape is None else tuple(shape)
        self._dtype = dtype
        self._var: Any = None
        #: the values, once there are any, and the contexts for which they were requested
        self._array: NDArray | None = None
        self._contexts: list[Context] = []
        #: (initializer, default initializer, values or None) while the shape is not known
        self._deferred: tuple[Any, Any, NDArray | None] | None = None
        self._grad_req = "null"
        self.grad_req = grad_req

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.name} (shape={self.shape}, dtype={self.dtype})"

    @property
    def grad_req(self) -> str:
        """What a backward pass does with the gradient: write, add or null."""
        return self._grad_req

    @grad_req.setter
    def grad_req(self, request: str) -> None:
        if request not in ("write", "add", "null"):
            raise AssertionError(f"grad_req must be one of 'write', 'add', or 'null', but got '{request}'")
        # running statistics have no gradient, also where a script sets `grad_req` on all parameters
        self._grad_req = request if self._is_differentiable else "null"
        if self._array is not None:
            self._attach()

    @property
    def dtype(self) -> Any:
        """The type of the values."""
        return self._dtype

    @dtype.setter
    def dtype(self, dtype: Any) -> None:
        self.cast(dtype)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape; None or sizes of 0 where it is not known yet."""
        return self._shape

    @shape.setter
    def shape(self, shape: Sequence[int]) -> None:
        if self._shape is not None and (len(self._shape) != len(shape) or any(
                own not in (*_UNKNOWN, new) for own, new in zip(self._shape, shape, strict=True))):
            # AssertionError as in MXNet: scripts may catch it
            raise AssertionError(f"Expected shape {tuple(shape)} is incompatible with given shape "
                                 f"{self._shape}.")
        self._shape = tuple(shape)

    def is_known(self) -> bool:
        """Return whether all sizes are known."""
        return self._shape is not None and all(size > 0 for size in self._shape)

    # Not `shape`: that stays None for weights of an imported network, as in MXNet.
    def known_shape(self) -> tuple[int, ...] | None:
        """Return the shape of the values, else the declared shape if it is completely known, else None."""
        if self._array is not None:
            return self._array.shape
        return self._shape if self.is_known() else None

    # The initializer is called when the shape is known, in the order of the parameters.
    def initialize(self, init: Any = None, ctx: Any = None, default_init: Any = None,
                   force_reinit: bool = False) -> None:
        """Initialize the values, at once or when the first batch determines the shape."""
        if self._array is not None and not force_reinit:
            warnings.warn(f"Parameter '{self.name}' is already initialized, ignoring. Set force_reinit=True "
                          "to re-initialize.", stacklevel=2)
            return
        self._array = None
        self._contexts = contexts(ctx)
        if init is None:
            init = default_init if self.init is None else self.init
        default = initializer.Uniform() if default_init is None else default_init
        if not self.is_known() and not self.allow_deferred_init:
            raise ValueError(f"Cannot initialize Parameter '{self.name}' because it has invalid shape: "
                             f"{self.shape}.")
        self._deferred = init, default, None
        if self.is_known():
            self.finish()

    def finish(self) -> None:
        """Initialize the values of a parameter whose initialization was deferred."""
        if self._deferred is None:
            return
        init, default, values = self._deferred
        if not self.is_known():
            raise AssertionError(f"Cannot initialize Parameter '{self.name}' because it has invalid shape: "
                                 f"{self.shape}. Please specify in_units, in_channels, etc for `Block`s.")
        self._deferred = None
        if values is None:
            with autograd.pause():
                values = nd.zeros(self._shape or (), dtype=self.dtype)
                # through its text, as in MXNet: as the variable's own initializer it fills the values
                # as weights, for any name
                text = init.dumps() if hasattr(init, "dumps") else init
                if isinstance(text, str):
                    filler: Any = initializer.create(default)
                    filler(initializer.InitDesc(self.name, {"__init__": text}), values)
                else:
                    init(initializer.InitDesc(self.name), values)
        self._take(values)

    def _take(self, values: NDArray) -> None:
        context = self._contexts[0] if self._contexts else current_context()
        # a copy: the given array may be another parameter's
        self._array = NDArray(np.array(values._data, dtype=self.dtype), context)
        self._attach()

    def _attach(self) -> None:
        if self._array is not None:
            if self.grad_req == "null":
                # an earlier gradient and its memory are freed
                self._array._mark(None, "null")
            else:
                self._array.attach_grad(self.grad_req)

    def _checked(self) -> NDArray:
        if self._array is not None:
            return self._array
        if self._deferred is not None:
            raise DeferredInitializationError(
                f"Parameter '{self.name}' has not been initialized yet because initialization was deferred. "
                "Actual initialization happens during the first forward pass. Please pass one batch of data "
                "through the network before accessing Parameters. You can also avoid deferred "
                "initialization by specifying in_units, num_features, etc., for network layers.")
        raise RuntimeError(
            f"Parameter '{self.name}' has not been initialized. Note that you should initialize parameters "
            "and create Trainer with Block.collect_params() instead of Block.params because the later does "
            "not include Parameters of nested child Blocks")

    def data(self, ctx: Any = None) -> NDArray:
        """Return the values."""
        array = self._checked()
        if ctx is not None and ctx not in self._contexts and self._contexts:
            raise RuntimeError(f"Parameter '{self.name}' was not initialized on context {ctx}. It was only "
                               f"initialized on {self._contexts}.")
        return array

    def list_data(self) -> list[NDArray]:
        """Return the values, once for each context: they are the same array here."""
        # a script that sums over its devices divides by their number: the mean stays right
        return [self._checked()] * max(1, len(self._contexts))

    def grad(self, ctx: Any = None) -> NDArray:
        """Return the gradient."""
        array = self._checked()
        if array.grad is None:
            raise RuntimeError(f"Cannot get gradient array for Parameter '{self.name}' because grad_req="
                               "'null'")
        return array.grad

    def list_grad(self) -> list[NDArray]:
        """Return the gradient, once for each context."""
        return [self.grad()] * max(1, len(self._contexts))

    def list_ctx(self) -> list[Context]:
        """Return the contexts for which the values were requested."""
        if self._array is None and self._deferred is None:
            raise RuntimeError(f"Parameter '{self.name}' has not been initialized")
        return list(self._contexts) or [current_context()]

    def zero_grad(self) -> None:
        """Set the gradient to 0."""
        if self._array is not None and self._array.grad is not None:
            # in place: the Trainer and the tape refer to this array
            self._array.grad[:] = 0

    # A copy: the caller may change the array later.
    def set_data(self, data: NDArray) -> None:
        """Set the values; a shape other than the present one is an AssertionError."""
        self.shape = data.shape
        if self._array is None:
            if self._deferred is None:
                raise AssertionError(f"Parameter '{self.name}' has not been initialized")
            self._deferred = (*self._deferred[:2], data.copy())
            self.finish()
        else:
            # into the old memory, to which graphs and trainers refer
            self._array._data[...] = nd.to_numpy(data)

    # Without a context the earlier contexts stay.
    def load(self, data: NDArray, ctx: Any, source: str = "", cast_dtype: bool = False,
             dtype_source: str = "current") -> None:
        """Set the values to those of a file: the shape must agree, and without `cast_dtype` the dtype."""
        if self._shape is not None and (len(self._shape) != data.ndim or any(
                own not in (*_UNKNOWN, new) for own, new in zip(self._shape, data.shape, strict=True))):
            raise AssertionError(f"Failed loading Parameter '{self.name}' from saved params: shape "
                                 f"incompatible expected {self.shape} vs saved {data.shape}")
        # "saved": the parameter takes the file's dtype; "current": the values are cast to its own
        if cast_dtype and dtype_source == "saved":
            self._dtype = data.dtype
        elif not cast_dtype and np.dtype(self.dtype) != data.dtype:
            raise AssertionError(f"Failed loading Parameter '{self.name}' from saved params: dtype "
                                 f"incompatible expected {self.dtype} vs saved {data.dtype}. Set "
                                 "cast_dtype=True to cast the dtype of saved params.")
        if ctx is not None or not self._contexts:
            self._contexts = contexts(ctx)
        if self._shape is not None:
            self._shape = data.shape
        self._deferred = None
        if self._array is None:
            self._take(data)
        else:
            self._array._data[...] = data._data

    def reset_ctx(self, ctx: Any) -> None:
        """Set the contexts of the values."""
        if self._array is None and self._deferred is None:
            raise ValueError(f"Cannot reset context for Parameter '{self.name}' because it has not been "
                             "initialized.")
        self._contexts = contexts(ctx)
        if self._array is not None:
            self._take(self._array)

    def cast(self, dtype: Any) -> None:
        """Convert the values to another dtype."""
        self._dtype = dtype
        if self._array is not None:
            self._take(self._array)

    def var(self) -> Any:
        """Return the variable of this parameter in a symbol."""
        if self._var is None:
            self._var = symbol.var(self.name, shape=self.shape, dtype=self.dtype, lr_mult=self.lr_mult,
                                   wd_mult=self.wd_mult, init=self.init, __storage_type__="0")
        return self._var


class Constant(Parameter):
    """A value that is not trained."""

    def __init__(self, name: str, value: Any) -> None:
        # a constant has an initializer like every parameter, so that `initialize` and files treat it
        # in the same way
        self.value = value if isinstance(value, NDArray) else nd.array(value)

        @initializer.register
        class Init(initializer.Initializer):
            def _init_weight(self, name: str, arr: NDArray) -> None:
                arr[:] = constant

        constant = self.value
        # Registered under a name of its own for each constant, by which `create` finds it.
        initializer.alias(f"Constant_{name}")(Init)
        super().__init__(name, "null", self.value.shape, self.value.dtype, init=f"Constant_{name}".lower())


def contexts(ctx: Any) -> list[Context]:
    """Return a list of contexts for one, several or none."""
    return [to_context(one) for one in (ctx if isinstance(ctx, (list, tuple)) else [ctx])]


