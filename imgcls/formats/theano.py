"""The weights that uoguelph-mlrg/theano_alexnet saves, a `.npy` for each, as MXNet's arrays and back.

    W_0_65.npy             layer 0 after 65 epochs, (channels, height, width, filters)
    W0_1_65.npy, W1_1_65   the same of the two halves of a layer with two groups
    b_0_65.npy, b0_1_65    biases; the repository's own scripts do not save those of halves
    W_5_65.npy             of the hidden layers and the classifier, (inputs, outputs)
    val_record.npy         (epochs, 2): error, loss in validation

Two things differ beside the order of axes. Theano's cuDNN convolution flips kernels in both directions,
cuda-convnet's does not. And dropout there only sets units to zero in training and halves the next layer's
weights in validation, where MXNet and torch double the remaining units in training. So the weights behind a
dropout are halved once, here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imgcls.errors import DataError, UsageError, reason, verbatim
from imgcls.formats import npy
from imgcls.storage.atomic import atomic_write

#: no array of this network is larger: 9216 x 4096 in double precision
_MAX_BYTES = 1 << 29
#: the libraries that its convolutions may run on, `lib_conv` of config.yaml; the first is its default
LIBRARIES = ("cudnn", "cudaconvnet")
_WEIGHT_FILE = re.compile(r"W_0_(\d{1,9})\.npy")
_RECORD_FILE = "val_record.npy"


class _Layer(NamedTuple):
    """A layer of the network: MXNet's name, its groups, its initial bias, and whether a dropout is before it.
    """

    name: str
    num_groups: int = 1
    bias: float = 0.0
    is_after_dropout: bool = False


#: in the order of the files' numbers
LAYERS = (_Layer("conv1"), _Layer("conv2", 2, 0.1), _Layer("conv3"), _Layer("conv4", 2, 0.1),
          _Layer("conv5", 2), _Layer("fc6"), _Layer("fc7", is_after_dropout=True),
          _Layer("fc8", is_after_dropout=True))


def newest_epoch(folder: str | os.PathLike[str]) -> int:
    """Return the last epoch whose weights are in a folder. A DataError where there are none."""
    try:
        matches = [_WEIGHT_FILE.fullmatch(name) for name in os.listdir(folder)]
    except OSError as error:
        raise DataError(folder, reason(error)) from error
    epochs = [int(match[1]) for match in matches if match]
    if not epochs:
        raise DataError(folder, "holds no weights of theano_alexnet, such as W_0_65.npy")
    return max(epochs)


def load_weights(folder: str | os.PathLike[str], epoch: int,
                 library: str = LIBRARIES[0]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the weights of an epoch by MXNet's names, float32, and what had to be assumed, one line each.

    `library` is what its convolutions ran on. A DataError for a file that is missing or of another shape.
    """
    arrays: dict[str, np.ndarray] = {}
    notes = []
    for number, layer in enumerate(LAYERS):
        is_convolution = layer.name.startswith("conv")
        suffixes = [str(group) for group in range(layer.num_groups)] if layer.num_groups > 1 else [""]
        weights = [_load(folder, f"W{suffix}_{number}_{epoch}", 4 if is_convolution else 2)
                   for suffix in suffixes]
        if len({weight.shape for weight in weights}) > 1:
            raise DataError(_path(folder, f"W0_{number}_{epoch}"), "is of another shape than its other half")
        # filters are the last axis of both kinds of weights
        weight = np.concatenate(weights, axis=-1)
        arrays[f"{layer.name}_weight"] = _to_mxnet(weight, layer, library)
        try:
            biases = [_load(folder, f"b{suffix}_{number}_{epoch}", 1) for suffix in suffixes]
        except DataError as error:
            if layer.num_groups == 1 or not isinstance(error.__cause__, FileNotFoundError):
                raise
            # its scripts save no bias of a half, and when they load weights they start from this one
            biases = [np.full(weight.shape[-1], layer.bias, np.float32)]
            notes.append(f"{verbatim(_path(folder, f'b0_{number}_{epoch}'))} is missing: the bias of "
                         f"{layer.name} is {layer.bias:g}, with which training begins")
        arrays[f"{layer.name}_bias"] = np.concatenate(biases)
    return arrays, notes


def save_weights(folder: str | os.PathLike[str], epoch: int, arrays: Mapping[str, np.ndarray],
                 library: str = LIBRARIES[0]) -> list[Path]:
    """Write the weights of an epoch, float32, so that theano_alexnet loads them; return the files.

    Raises UsageError where a layer of the network is not among the arrays.
    """
    written = []
    for number, layer in enumerate(LAYERS):
        try:
            weight, bias = arrays[f"{layer.name}_weight"], arrays[f"{layer.name}_bias"]
        except KeyError as error:
            raise UsageError(f"no layer {layer.name}: theano_alexnet's network is `network` alexnet-towers "
                             "with `variant` theano") from error
        weight = _to_theano(weight, layer, library)
        suffixes = [str(group) for group in range(layer.num_groups)] if layer.num_groups > 1 else [""]
        for letter, array in (("W", weight), ("b", bias)):
            for suffix, part in zip(suffixes, np.split(array, len(suffixes), axis=-1), strict=True):
                path = _path(folder, f"{letter}{suffix}_{number}_{epoch}")
                _save(path, np.ascontiguousarray(part, np.float32))
                written.append(path)
    return written


def save_val_record(folder: str | os.PathLike[str], record: list[tuple[float, float]]) -> Path:
    """Write the validation record, (error, loss) of each epoch, as val_record.npy; return its path."""
    path = Path(folder) / _RECORD_FILE
    _save(path, np.array(record, np.float64).reshape(-1, 2))
    return path


def _to_mxnet(weight: np.ndarray, layer: _Layer, library: str) -> np.ndarray:
    if weight.ndim == 4:
        weight = weight.transpose(3, 0, 1, 2)
        weight = weight[:, :, ::-1, ::-1] if library == "cudnn" else weight
    else:
        weight = weight.T
    # Theano halves the layer behind a dropout in validation; here units are doubled in training instead
    return np.ascontiguousarray(weight) * np.float32(0.5 if layer.is_after_dropout else 1)


def _to_theano(weight: np.ndarray, layer: _Layer, library: str) -> np.ndarray:
    if weight.ndim == 4:
        weight = weight[:, :, ::-1, ::-1] if library == "cudnn" else weight
        return weight.transpose(1, 2, 3, 0)
    return weight.T * np.float32(2 if layer.is_after_dropout else 1)


def _path(folder: str | os.PathLike[str], name: str) -> Path:
    return Path(folder) / f"{name}{npy.SUFFIX}"


def _load(folder: str | os.PathLike[str], name: str, num_dimensions: int) -> np.ndarray:
    path = _path(folder, name)
    array = npy.load(path, _MAX_BYTES)
    # weights of another network may have the same names
    if array.ndim != num_dimensions or not array.size:
        raise DataError(path, f"is of shape {array.shape}, where {num_dimensions} dimensions are needed")
    return array.astype(np.float32)


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_write(path) as stream:
        np.lib.format.write_array(stream, array, version=(1, 0))
