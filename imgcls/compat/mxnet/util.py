"""`mx.util`: the switch for numpy's arrays, which is off here."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from imgcls.compat.mxnet._registration import missing
from imgcls.compat.mxnet.context import num_gpus


def is_np_array() -> bool:
    """Return False: `mx.np` is not offered."""
    return False


def is_np_shape() -> bool:
    """Return False: a size of 0 means an unknown one, as in MXNet without `mx.np`."""
    return False


def use_np(func: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse: arrays are `mx.nd`'s."""
    raise missing("mxnet.util", "use_np", ())


def set_np(shape: bool = True, array: bool = True) -> None:
    """Refuse: arrays are `mx.nd`'s."""
    raise missing("mxnet.util", "set_np", ())


def get_gpu_count() -> int:
    """Return how many GPUs torch sees."""
    return num_gpus()


def makedirs(d: str) -> None:
    """Make a folder and its parents, if it is not there; `~` is expanded."""
    os.makedirs(os.path.expanduser(d), exist_ok=True)


def getenv(name: str) -> str | None:
    """Return a variable of the environment."""
    return os.environ.get(name)


def __getattr__(name: str) -> Any:
    raise missing("mxnet.util", name, [key for key in globals() if not key.startswith("_")])
