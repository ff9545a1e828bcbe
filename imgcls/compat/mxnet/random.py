"""`mx.random` and `mx.nd.random`: MXNet's own random numbers, the same for the same seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from imgcls.compat.mxnet import _generator
from imgcls.compat.mxnet._ndarray import NDArray
from imgcls.compat.mxnet._registration import missing
from imgcls.compat.mxnet.base import MXNetError
from imgcls.compat.mxnet.context import to_context


# One generator for all: a script that draws other numbers first gets other weights, as in MXNet.
def seed(seed_state: int, ctx: Any = "all") -> None:
    """Seed the random numbers of arrays, initializers and dropout; `numpy.random` is not changed."""
    if not isinstance(seed_state, (int, np.integer)):
        raise ValueError("the seed must be an integer")
    _generator.seed(int(seed_state))


# Initializers use it too.
def uniform(low: float = 0.0, high: float = 1.0, shape: int | Sequence[int] | None = None, dtype: Any = None,
            ctx: Any = None, out: NDArray | None = None, **kwargs: Any) -> NDArray:
    """Return uniform numbers in [low, high), of `shape` and `dtype` (float32), or written to `out`."""
    sizes = _shape(shape, out)
    # Scaled in float32, as MXNet does: in double the last bit would differ.
    values = _generator.generator().uniform(math.prod(sizes))
    scaled = np.float32(low) + (np.float32(high) - np.float32(low)) * values
    return _result(scaled.reshape(sizes), dtype, ctx, out)


# Each number costs a pair of draws or more, see `_generator`.
def normal(loc: float = 0.0, scale: float = 1.0, shape: int | Sequence[int] | None = None, dtype: Any = None,
           ctx: Any = None, out: NDArray | None = None, **kwargs: Any) -> NDArray:
    """Return normal numbers with mean `loc` and standard deviation `scale`, of `dtype` (float32)."""
    sizes = _shape(shape, out)
    values = _generator.generator().normal(math.prod(sizes))
    return _result((values * np.float32(scale) + np.float32(loc)).reshape(sizes), dtype, ctx, out)


# The shape is given as positional arguments.
def randn(*shape: int, **kwargs: Any) -> NDArray:
    """Return normal numbers of this shape, with `loc` and `scale` by name."""
    return normal(kwargs.pop("loc", 0.0), kwargs.pop("scale", 1.0), shape=shape or (1,), **kwargs)


def __getattr__(name: str) -> Any:
    raise missing("mxnet.random", name, ["seed", "uniform", "normal", "randn"])


# Without a shape: one number.
def _shape(shape: int | Sequence[int] | None, out: NDArray | None) -> tuple[int, ...]:
    if shape is None:
        return (1,) if out is None else out.shape
    sizes = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    if any(size < 0 for size in sizes):
        raise MXNetError(f"shape {sizes}: no size is negative")
    return tuple(int(size) for size in sizes)


# `out` keeps its dtype.
def _result(values: np.ndarray, dtype: Any, ctx: Any, out: NDArray | None) -> NDArray:
    if out is not None:
        out._data[...] = values
        return out
    return NDArray(values.astype(dtype or np.float32), to_context(ctx))
