"""`mx.ndarray`, the long name of `mx.nd`, for `from ... .ndarray import NDArray`."""

from __future__ import annotations

from typing import Any

from imgcls.compat.mxnet import nd
from imgcls.compat.mxnet.nd import NDArray, array, concat, load, ones, save, waitall, zeros

__all__ = ["NDArray", "array", "concat", "load", "ones", "save", "waitall", "zeros"]


# All other names, operators included, are looked up when they are used.
def __getattr__(name: str) -> Any:
    return getattr(nd, name)
