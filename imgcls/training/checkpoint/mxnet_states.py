"""MXNet's own `.states` files: recognised, and translated into torch's terms.

`formats/states.py` reads them without running what they hold.
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import torch
from torch import Tensor, nn

from imgcls import graph
from imgcls.errors import DataError, reason, verbatim
from imgcls.optim.rules import Rule
from imgcls.storage.paths import AnyPath
from imgcls.storage.reading import open_read
from imgcls.training.checkpoint.position import Saved

#: torch's optimizer -> its names for the arrays that MXNet's optimizer of the same method keeps of a
#: parameter, in MXNet's order; our own rules say theirs
_KINDS = {"SGD": ("momentum_buffer",), "Adam": ("exp_avg", "exp_avg_sq"), "AdamW": ("exp_avg", "exp_avg_sq"),
          "Adamax": ("exp_avg", "exp_inf")}
_COUNTING = ("Adam", "AdamW", "Adamax")


def is_mxnets(path: AnyPath) -> bool:
    """Whether a `.states` file is a pickle, as MXNet writes them, and not safetensors, as ours are."""
    try:
        with open_read(path) as stream:
            head = stream.read(9)
    except OSError as error:
        raise DataError(path, reason(error)) from error
    # safetensors begin with a length in eight bytes and then JSON; that length may look like a pickle
    return head[:1] in (b"\x80", b"(", b"}") and head[8:] != b"{"


def translate_states(model: nn.Module, optimizer: torch.optim.Optimizer, saved: Saved, lr: float,
                     update: int) -> Saved:
    """Return `saved` with MXNet's optimizer states in torch's terms.

    The states were left at the learning rate `lr` after `update` updates; the file says neither. Where they
    are those of nadam, dcasgd or another method than that of `optimizer`, or `lr` is 0, they are left out for
    a fresh start. DataError where they belong to another network.
    """
    # MXNet numbers the arguments of the symbol in its order, frozen ones too
    names = [name.removeprefix("arg:") for name in graph.arrays(model) if name.startswith("arg:")]
    trained = {name for key, name in graph.parameter_names(model).items()
               if key in dict(model.named_parameters())}
    kinds = _KINDS.get(type(optimizer).__name__, ())
    counts = type(optimizer).__name__ in _COUNTING
    if isinstance(optimizer, Rule):
        # a rule that MXNet has not may keep as many arrays, and means others by them
        kinds = optimizer.STATE if optimizer.is_mxnets else ()
        counts = optimizer.COUNTS
    translated: dict[str, Tensor] = {}
    for key, state in (saved.mxnet_states or {}).items():
        name = _parameter_name(key, names, saved.path)
        arrays = state if isinstance(state, tuple) else () if state is None else (state,)
        if name not in trained or not arrays:
            continue  # a gamma that is fixed, or sgd without momentum
        # another method's state; or the rate 0, by which a momentum cannot be divided
        is_other = len(arrays) != len(kinds) or any(a is None or isinstance(a, tuple) for a in arrays)
        if is_other or not lr:
            return dataclasses.replace(saved, optimizer=None, optimizer_class="")
        for kind, array in zip(kinds, arrays, strict=True):
            tensor = torch.from_numpy(np.array(array, np.float32))
            # MXNet's momentum holds -lr times torch's buffer
            translated[f"{name}/{kind}"] = tensor / -lr if kind == "momentum_buffer" else tensor
        if counts:  # adam corrects its means by the number of updates, which MXNet does not save
            translated[f"{name}/step"] = torch.tensor(float(update))
    return dataclasses.replace(saved, optimizer=translated, optimizer_class=type(optimizer).__name__)


def _parameter_name(key: int | str, names: list[str], path: str) -> str:
    """Return the name of the parameter that a state is of: `key` is its number, or (gluon) its name."""
    # not isdigit: that takes the digits of all scripts, raised ones too, and as many as there are
    is_number = re.fullmatch("[0-9]{1,9}", str(key)) is not None
    if is_number and int(key) < len(names):
        return names[int(key)]
    if not is_number and key in names:
        return str(key)
    raise DataError(path.replace(".params", ".states"),
                    f"has a state for parameter {verbatim(key)}, and this network has {len(names)}")
