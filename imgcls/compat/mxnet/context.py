"""`mx.context`: where arrays live and networks are computed: `mx.cpu()`, or `mx.gpu(0)` where there is one.

Arrays are always kept in main memory here; a context says on which device a network computes. Binding to a
GPU that this machine does not have is an error, as in MXNet.
"""

from __future__ import annotations

import threading
from typing import Any, ClassVar

from imgcls.compat.mxnet.base import MXNetError

#: the current context of each thread that has entered one
_current = threading.local()


# Compared and hashed by value: scripts use contexts as keys.
class Context:
    """A device: `device_type` and `device_id`. Two of the same device are equal."""

    #: MXNet's numbers of the types
    devtype2str: ClassVar[dict[int, str]] = {1: "cpu", 2: "gpu", 3: "cpu_pinned", 5: "cpu_shared"}
    devstr2type: ClassVar[dict[str, int]] = {"cpu": 1, "gpu": 2, "cpu_pinned": 3, "cpu_shared": 5}

    def __init__(self, device_type: str | Context, device_id: int = 0) -> None:
        if isinstance(device_type, Context):
            device_type, device_id = device_type.device_type, device_type.device_id
        self.devstr2type[device_type]  # a KeyError for an unknown type, as in MXNet
        self.device_type = device_type
        self.device_id = device_id
        self._outer: list[Context] = []

    def __eq__(self, other: object) -> bool:
        return (isinstance(other, Context)
                and (self.device_type, self.device_id) == (other.device_type, other.device_id))

    def __hash__(self) -> int:
        return hash((self.device_type, self.device_id))

    def __repr__(self) -> str:
        return f"{self.device_type}({self.device_id})"

    def __enter__(self) -> Context:
        self._outer.append(current_context())
        _current.value = self
        return self

    def __exit__(self, *exception: Any) -> None:
        _current.value = self._outer.pop()

    def empty_cache(self) -> None:
        """Return at once: torch keeps its own cache."""


def cpu(device_id: int = 0) -> Context:
    """Return the context of main memory; all numbers mean the same."""
    # The number is kept: scripts with `[mx.cpu(i) for i in range(4)]` compare and print them.
    return Context("cpu", device_id)


def cpu_pinned(device_id: int = 0) -> Context:
    """Return the context of main memory: none is pinned here."""
    return Context("cpu_pinned", device_id)


# Made without a look at the hardware: scripts that never compute on it work without a GPU.
def gpu(device_id: int = 0) -> Context:
    """Return the context of a GPU, which need not exist before something is computed on it."""
    return Context("gpu", device_id)


# Calls the driver, so torch is loaded.
def num_gpus() -> int:
    """Return how many GPUs torch sees."""
    import torch

    return torch.cuda.device_count()


def gpu_memory_info(device_id: int = 0) -> tuple[int, int]:
    """Return (free, total) bytes of a GPU."""
    import torch

    device(gpu(device_id))  # our error for a GPU that is not there, before torch's own
    return torch.cuda.mem_get_info(device_id)


def current_context() -> Context:
    """Return the current context: that of the innermost `with`, or main memory."""
    return getattr(_current, "value", None) or Context("cpu")


# Every function with a `ctx` goes through here.
def to_context(context: Any) -> Context:
    """Return the context for an argument `ctx`: a context of ours or of mxnet's; None is the current one.

    A GPU that this machine does not have, and an object that is no context, are MXNetErrors.
    """
    if context is None:
        return current_context()
    # By their attributes, so that mxnet's own objects work as well.
    kind, number = getattr(context, "device_type", None), getattr(context, "device_id", None)
    if not isinstance(kind, str) or not isinstance(number, int):
        raise MXNetError(f"ctx {context!r}: is no context; write mx.cpu() or mx.gpu(0)")
    found = Context(kind, number)
    device(found)
    return found


# Main memory is one device for all numbers.
def device(context: Context) -> str:
    """Return torch's name of a device; MXNetError for a GPU that this machine does not have."""
    if context.device_type != "gpu":
        return "cpu"
    if context.device_id >= num_gpus():  # also where torch was built without CUDA: it counts 0
        raise MXNetError(f"{context}: torch sees {num_gpus()} GPUs on this machine; write mx.cpu()")
    return f"cuda:{context.device_id}"
