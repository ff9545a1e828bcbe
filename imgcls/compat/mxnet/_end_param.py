"""What callbacks are called with at the end of a batch, and how several are called."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple


# Callbacks take it apart by name, and old ones by position.
class BatchEndParam(NamedTuple):
    """Where a training or evaluation is, for a callback."""

    epoch: int
    nbatch: int
    eval_metric: Any
    locals: Any


# MXNet's users give one function or a list, and expect both to do.
def call_all(callbacks: Callable[..., Any] | Iterable[Callable[..., Any]] | None, *args: Any) -> None:
    """Call one callback, or each of a list, or none."""
    if callable(callbacks):
        callbacks(*args)
        return
    for callback in callbacks or ():
        callback(*args)
