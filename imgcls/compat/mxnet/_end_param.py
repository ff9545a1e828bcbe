"""The argument of callbacks at the end of a batch, and the call of one or several callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple


# Callbacks read its fields by name, and old ones by position.
class BatchEndParam(NamedTuple):
    """The position of a training or evaluation, for a callback; `locals` are the caller's variables."""

    epoch: int
    nbatch: int
    eval_metric: Any
    locals: Any


# MXNet accepts one function or a list of them.
def call_all(callbacks: Callable[..., Any] | Iterable[Callable[..., Any]] | None, *args: Any) -> None:
    """Call one callback, or each of a list, or none."""
    if callable(callbacks):
        callbacks(*args)
        return
    for callback in callbacks or ():
        callback(*args)
