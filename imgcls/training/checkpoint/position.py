"""What a checkpoint holds: how far training has come, and everything it needs to resume from there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from imgcls.errors import DataError
from imgcls.formats import json_text, states

#: what a network may have computed in, and "" where it was not noted
_DTYPES = ("", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Position:
    """How far training has come: `epoch` epochs done and `batch` batches of the next, `update` updates in
    all.

    The first two say it all, since order, augmentation and dropout are functions of them and the seed;
    `update` is their number in this run's batches. The rest lets the log continue as if the run had not been
    interrupted. Its fields are those of the JSON in a `.states` file.
    """

    epoch: int = 0
    batch: int = 0
    update: int = 0
    #: sums of the metrics over those batches: since the epoch began, and since the last progress line
    epoch_totals: tuple[list[float], int] | None = None
    interval_totals: tuple[list[float], int] | None = None
    #: (sum of the losses, steps), likewise
    epoch_loss: tuple[float, int] = (0.0, 0)
    interval_loss: tuple[float, int] = (0.0, 0)
    #: samples of a batch over all processes, and how many of those there were; 0 where that was not written
    #: down
    batch_size: int = 0
    world: int = 0
    #: CPU threads of each of them, which decide in what order sums are rounded; 0 on a GPU and in older files
    num_threads: int = 0
    #: what the network computed in; "" in older files
    dtype: str = ""


def read_position(fields: Mapping[str, Any], path: object) -> Position:
    """Return the position that the JSON of a state holds; DataError for one that no training can be at.

    Numbers are finite and not negative, but for losses: those of a run that diverged may be anything.
    """
    known = {field.name: field for field in dataclasses.fields(Position)}
    # Refused: a later version may have changed what the others mean.
    if not fields.keys() <= known.keys():
        raise DataError(path, "the position has members that this version does not know")
    for name, value in fields.items():
        where = f"the position's {name}"
        if name.endswith("_totals"):
            json_text.check(value, _is_totals, where, "sums and a number of samples, or null", path)
        elif name.endswith("_loss"):
            json_text.check(value, _is_loss, where, "a sum and a number of steps", path)
        elif name == "dtype":
            json_text.check(value, _is_dtype, where, f"one of {', '.join(filter(None, _DTYPES))}", path)
        else:
            json_text.check(value, json_text.is_count, where, "a whole number from 0 up", path)
    # Members that are missing keep their defaults: older files have fewer.
    return Position(**fields)


def _is_dtype(value: Any) -> bool:
    return isinstance(value, str) and value in _DTYPES


def _is_totals(value: Any) -> bool:
    return value is None or (isinstance(value, list) and len(value) == 2 and json_text.is_count(value[1])
                             and json_text.is_list(value[0], _is_sum))


def _is_loss(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and _is_sum(value[0]) and json_text.is_count(value[1])


def _is_sum(value: Any) -> bool:
    return type(value) is float or json_text.is_number(value)


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was read: `arrays` by MXNet's names (arg:..., aux:...), and the state, if any.

    Where `arrays` are an average, `trained` are the weights that were trained, by the same names; else {}.
    """

    path: str
    arrays: Mapping[str, np.ndarray]
    position: Position
    #: "MXNET_NAME/kind" -> tensor of the optimizer; None where the checkpoint holds weights only
    optimizer: Mapping[str, Tensor] | None = None
    #: torch's class of that optimizer
    optimizer_class: str = ""
    #: state of the loss scaler, {} without one
    scaler: Mapping[str, Any] = field(default_factory=dict)
    #: names the run that saved it: the same after it was resumed
    run: str = ""
    #: in place of `optimizer`, what MXNet saved: states by the number of their parameter, or its name
    mxnet_states: Mapping[int | str, states.State] | None = None
    trained: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def is_without_state(self) -> bool:
        """Whether these are weights alone, and an optimizer has to start again."""
        return self.optimizer is None and self.mxnet_states is None
