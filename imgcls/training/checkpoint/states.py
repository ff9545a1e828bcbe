"""The content of a `.states` file: tensors as safetensors, everything else as JSON in its header.

    optimizer/MXNET_NAME/kind   what the optimizer remembers of a parameter
    weights/arg:MXNET_NAME      the weights, where no .params beside it has them: in a position, and when a
                                checkpoint is sent to other processes
    trained/arg:MXNET_NAME      the weights that are trained, where those of the .params are their average

Never a pickle: such a file may come from anywhere, and reading it must not run it.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from imgcls.errors import DataError, reason, verbatim
from imgcls.formats import json_text
from imgcls.storage.paths import AnyPath
from imgcls.training.checkpoint.position import Saved, read_position

#: the state of torch's GradScaler
_SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}
_DTYPES = {torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int8, torch.int16,
           torch.int32, torch.int64, torch.bool}

#: version of the layout of `.states`
STATES_FORMAT = 1


def encode(saved: Saved, *, with_weights: bool) -> bytes:
    """Return the bytes of a state, with its weights or their checksum alone, and without `saved.path`."""
    tensors = {f"optimizer/{name}": tensor.contiguous() for name, tensor in (saved.optimizer or {}).items()}
    if with_weights:
        tensors |= {f"weights/{name}": torch.from_numpy(np.ascontiguousarray(array))
                    for name, array in saved.arrays.items()}
    tensors |= {f"trained/{name}": torch.from_numpy(np.ascontiguousarray(array))
                for name, array in saved.trained.items()}
    text = json.dumps({"format": STATES_FORMAT, "run": saved.run, "weights_crc": _checksum(saved.arrays),
                       "optimizer": saved.optimizer_class, "position": asdict(saved.position),
                       "scaler": dict(saved.scaler)})
    # plain SGD remembers nothing, and safetensors before 0.5 cannot read what it writes of no tensors at all
    return save_safetensors(tensors or {"nothing": torch.zeros(1)}, {"imgcls": text})


def decode(content: bytes, path: str, arrays: Mapping[str, np.ndarray] | None = None) -> Saved:
    """Return the state in these bytes: with `arrays` it must be the state of these weights, without them it
    must hold its own.

    DataError, which calls the bytes `path`, for damage, another format, or the state of other weights.
    """
    try:
        # safetensors checks each offset against the file, so a header that lies cannot ask for more memory.
        tensors = load_safetensors(content)
        # what numpy has no type for, or optimizers never leave, is none of ours
        if any(tensor.dtype not in _DTYPES for tensor in tensors.values()):
            raise ValueError("tensors of a type that is not written")
        # safetensors: the length of a JSON header in eight bytes, the header, the tensors
        header = json.loads(content[8:8 + int.from_bytes(content[:8], "little")])
        text = header["__metadata__"]["imgcls"]
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DataError(path, f"not a training state of imgcls, or cut short ({verbatim(error)})") from error
    state = _read_state(text, path)
    if arrays is None:
        arrays = _arrays_below("weights/", tensors)
    # a crash between the two files, or a copy of one of them, leaves states beside weights of another epoch
    if _checksum(arrays) != state["weights_crc"]:
        raise DataError(path, "belongs to other weights than those beside it; remove it to continue with a "
                              "fresh optimizer")
    return Saved(path, arrays, read_position(state["position"], path),
                 _below("optimizer/", tensors) if state["optimizer"] else None,
                 state["optimizer"], state["scaler"], state["run"],
                 trained=_arrays_below("trained/", tensors))


def _read_state(text: str, path: str) -> dict[str, Any]:
    """Return the members of the state, each of the type that `encode` writes; DataError otherwise."""
    state = json_text.loads_object(text, path, "a training state of imgcls")
    if state.get("format") != STATES_FORMAT:
        json_text.refuse(state.get("format"), "the format", f"{STATES_FORMAT} for this version", path)
    for name, is_right, what in (
            ("run", json_text.is_text, "text"), ("optimizer", json_text.is_text, "text"),
            ("weights_crc", json_text.is_count, "a checksum"), ("position", _is_object, "an object"),
            ("scaler", _is_scaler, "the state of a loss scale")):
        json_text.check(state.get(name), is_right, name, what, path)
    return state


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_scaler(value: Any) -> bool:
    """Whether it is {}, or what torch's GradScaler writes down."""
    # a factor of 0 or below would make every gradient nan
    return value == {} or (_is_object(value) and value.keys() == _SCALER and all(
        json_text.is_number(number) and (number > 0 or name == "_growth_tracker")
        for name, number in value.items()))


def read(path: AnyPath, arrays: Mapping[str, np.ndarray] | None = None) -> Saved:
    """Return the state in a `.states` file, as `decode` does; DataError where it cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(path, reason(error)) from error
    return decode(content, str(path), arrays)


def pack(saved: Saved) -> bytes:
    """Return all of a checkpoint in one piece, for the other processes of a job; `unpack` reads it."""
    # for errors: the other processes name the file that was read
    return os.fsencode(saved.path) + b"\0" + encode(saved, with_weights=True)


def unpack(content: bytes) -> Saved:
    """Return what `pack` was given."""
    path, _, state = content.partition(b"\0")
    return decode(state, os.fsdecode(path))


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _arrays_below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in _below(prefix, tensors).items()}


def _checksum(arrays: Mapping[str, np.ndarray]) -> int:
    """Return a CRC over names and values, in any order: it ties a state to its weights."""
    # of the bytes, so that also a nan equals itself
    # Against mix-ups and damage, not against forgery: who can write the states can write the weights.
    crc = 0
    for name in sorted(arrays):
        crc = zlib.crc32(np.ascontiguousarray(arrays[name]).data, zlib.crc32(name.encode(), crc))
    return crc
