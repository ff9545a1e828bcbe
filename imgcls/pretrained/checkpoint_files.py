"""The files of one prefix on disk as a pretrained network: PREFIX-symbol.json, PREFIX-0008.params and so on.

They are ours or MXNet's; a network that no symbol expresses has PREFIX-network.json in place of the symbol.
In place of a prefix, the path of one of its .params files may be given.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from imgcls.config.flags import convert, flags_of
from imgcls.config.sections import NetworkConfig
from imgcls.errors import DataError, UsageError, reason, verbatim
from imgcls.formats import json_text, params, symbol
from imgcls.pretrained.reference import Pretrained, PretrainedRef
from imgcls.storage.paths import AnyPath, to_local_path, to_path
from imgcls.training import checkpoint

_SETTINGS = "the settings of a network"


def any_exist(prefix: str) -> bool:
    """Return whether any file of a checkpoint has this prefix.

    Also True for a URL and for a .params file: whether those exist shows on reading, with a better error.
    """
    if "://" in prefix or prefix.endswith(".params"):
        return True
    root = to_local_path(prefix)
    # 0-symbol.json: rank 0 of the first generation's distributed training wrote PREFIX-0.
    descriptions = ("symbol.json", "network.json", "0-symbol.json")
    has_description = any(Path(f"{root}-{end}").exists() for end in descriptions)
    return has_description or checkpoint.newest_epoch(prefix) is not None


def describe(prefix: str, epoch: str) -> PretrainedRef:
    """Return the reference to a prefix, with what its meta.json says; DataError for a damaged one."""
    # MXNet's checkpoints have no meta.json: {} then
    stem = _stem(prefix)
    meta = checkpoint.read_meta(stem)
    settings = to_path(f"{stem}-network.json")
    config = meta.get("config") or {}
    network = meta.get("network") or Path(stem).name  # MXNet's files have no name but that of the file
    shape: tuple[int, ...] = ()
    if settings.exists():
        built = _settings(settings)
        network = built.network
        shape = built.image_shape
    # with `imgcls.fit` the data were arrays of the caller's: the data set's name there is only the default
    dataset = "" if meta.get("command") == "imgcls.fit" else str(config.get("dataset") or "")
    return PretrainedRef(
        prefix, network, prefix, epoch,
        preprocessing=meta.get("preprocessing") or {}, mean_image=checkpoint.mean_image_path(stem),
        class_names=meta.get("class_names") or (), origin=f"{stem}-meta.json", dataset=dataset,
        held_out=meta.get("held_out") or {},
        dtype=meta["dtype"] if meta.get("dtype") in ("float32", "bfloat16", "float16") else "",
        image_shape=shape, note=" ".join(_notes(prefix, epoch, meta, f"{stem}-meta.json")))


def _notes(prefix: str, epoch: str, meta: Mapping[str, Any], origin: str) -> Iterator[str]:
    """Yield the notes for the user where the meta data are another run's, or where the data were floats."""
    match = re.search(r"-(\d{4,})\.params$", prefix)
    number = int(match[1]) if match else -1 if checkpoint.is_auto(epoch) else checkpoint.parse_epoch(
        epoch, _stem(prefix))
    if number in (meta.get("earlier_epochs") or ()):
        yield (f"note: epoch {number} is of an earlier run under this prefix, and what {verbatim(origin)} "
               "says of images and classes is the later run's")
    if (meta.get("preprocessing") or {}).get("range") == "as given":
        yield ("note: it was trained on arrays of floats, taken as they were; pictures are given to it as "
               "mean and std say: `rgb_std` 1 where the arrays went from 0 to 255")


def read_weights(ref: PretrainedRef) -> tuple[dict[str, np.ndarray], str]:
    """Read the weights of a reference; return (arrays by name, path of the file).

    UsageError where the prefix has no such epoch, DataError for a damaged file.
    """
    if ref.prefix.endswith(".params"):
        return params.load(ref.prefix), ref.prefix
    # Also finds a position inside an epoch, and the newest epoch for "auto".
    saved = checkpoint.load(ref.prefix, ref.epoch)
    if saved is None:
        raise UsageError(f"`model` {verbatim(ref.prefix)}: there is no {verbatim(ref.prefix)}-0001.params "
                         "or any other epoch")
    return dict(saved.arrays), saved.path


def read_network(prefix: str, arrays: Mapping[str, np.ndarray], path: str) -> Pretrained:
    """Read the symbol or settings of this prefix, for weights (`arrays`) that were already read from `path`.

    DataError where there is neither, or where it is damaged.
    """
    settings = to_path(f"{_stem(prefix)}-network.json")
    if settings.exists():
        return Pretrained(_settings(settings), arrays, path)
    symbol_path = _symbol_path(path, prefix)
    return Pretrained(symbol.load(symbol_path), arrays, path, str(symbol_path))


def _stem(prefix: str) -> str:
    """PREFIX of PREFIX-0008.params; any other prefix as it is."""
    return os.fspath(to_path(re.sub(r"(-\d{4,})?\.params$", "", prefix)))


def _symbol_path(params_path: str, prefix: str) -> AnyPath:
    """Return the symbol that belongs to the weights: PREFIX-symbol.json, also for PREFIX-0-0008.params."""
    # What was requested, what was found, and what it would be without the rank of the first generation.
    stem = params_path.rpartition("-")[0]
    for candidate in (prefix.removesuffix(".params"), stem, stem.removesuffix("-0")):
        path = to_path(f"{candidate}-symbol.json")
        if path.exists():
            return path
    raise DataError(f"{prefix}-symbol.json", "does not exist; it says which network the weights belong to")


def _settings(path: AnyPath) -> NetworkConfig:
    """Read the settings of a network that no symbol expresses."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(path, reason(error)) from error
    settings = json_text.loads_object(content, path, _SETTINGS)
    fields = flags_of(NetworkConfig)
    if "image_shape" not in settings or not settings.keys() <= fields.keys():
        raise DataError(path, f"not {_SETTINGS}: other members than those of a network")
    try:
        # the bounds are those of the command line
        return NetworkConfig(**{name: convert(fields[name], value) for name, value in settings.items()})
    except UsageError as error:
        raise DataError(path, f"not {_SETTINGS}: {error.message}") from error
