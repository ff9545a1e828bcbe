"""Find trained weights on this machine, for fine-tuning without a `pretrained_model`. Downloads nothing.

It looks, in this order, for networks of MXNet's zoo and of torchvision in the caches (trained on ImageNet,
they are the better start), then for checkpoints in the working folder and the folders directly in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imgcls.pretrained.torchvision_weights as torchvision_weights
import imgcls.pretrained.zoo as zoo
from imgcls.config.resolve import Config
from imgcls.errors import DataError, UsageError, verbatim
from imgcls.storage import folders
from imgcls.training import checkpoint

#: weights of more bytes take a CPU minutes an epoch of a few hundred photographs: resnet-50's have 10^8
_MAX_BYTES_CPU, _MAX_BYTES_GPU = 120 * 10**6, 700 * 10**6
#: entries of a folder that are looked at, at most: a home folder may have any number
_MAX_LISTED = 10_000
#: what --pretrained-model would be where nothing is found, and the size of its download
DOWNLOAD = "torchvision:resnet18"
_DOWNLOAD_MB = 45


@dataclass(frozen=True)
class LocalWeights:
    """Weights on this machine: `name` is a value of `pretrained_model`, `reason` says why these."""

    name: str
    reason: str


def find(config: Config) -> LocalWeights | None:
    """Return the weights to begin with, None if there are none.

    Among torchvision's the most accurate ones (as published) are taken, in the zoo the largest, among
    checkpoints those of the most classes; weights too large for the device to train in reasonable time only
    if there are no smaller ones.
    """
    # a GPU in `gpus` that is not there has been refused by the command before
    max_bytes = _MAX_BYTES_GPU if config.device.gpus else _MAX_BYTES_CPU
    for found, reason in ((_of_zoo(), "of MXNet's zoo, in the cache"),
                          (_of_torchvision(), "trained on ImageNet, in torchvision's cache"),
                          (_in_working_folder(config), "a checkpoint here")):
        # weights that are too large are sorted to the front: taken only where there are no others
        ranked = sorted(found, key=lambda weights: (weights.num_bytes <= max_bytes, weights.merit))
        if ranked:
            several = f"; of {len(ranked)} the best for this device" if len(ranked) > 1 else ""
            return LocalWeights(ranked[-1].name, f"{reason}{several}")
    return None


def no_local_weights() -> UsageError:
    """Return the error for a command that names no weights, on a machine that has none."""
    return UsageError(
        f"`pretrained_model` is missing, and no trained weights are on this machine: `pretrained_model` "
        f"{DOWNLOAD} downloads some ({_DOWNLOAD_MB} MB); a prefix, a network of MXNet's zoo such as "
        "resnext-101, a URL or torchvision:NAME is what it takes")


@dataclass(frozen=True)
class _Weights:
    name: str
    num_bytes: int
    #: larger is better, among weights of one kind
    merit: tuple[float, ...]


def _of_zoo() -> list[_Weights]:
    """Return the networks of MXNet's zoo whose files are in the cache."""
    found = []
    for name, model in zoo.ZOO.items():
        folder = folders.cache_folder(model.folder)
        # a download that was cut off has another name, so that what has this one is complete
        num_bytes = _size(folder / f"{model.stem}-{model.epoch:04d}.params")
        if num_bytes and (folder / f"{model.stem}-symbol.json").exists():
            found.append(_Weights(name, num_bytes, (num_bytes,)))
    return found


def _of_torchvision() -> list[_Weights]:
    """Return torchvision's networks whose weights are in torch's cache or in ours."""
    sizes = {path.name: _size(path) for folder in torchvision_weights.cache_folders()
             for path in _listed(folder) if path.suffix == ".pth"}
    if not sizes:  # spares the second that importing torchvision takes
        return []
    return [_Weights(name, sizes[file], (accuracy,))
            for name, file, accuracy in torchvision_weights.published() if sizes.get(file)]


def _in_working_folder(config: Config) -> list[_Weights]:
    """Return the checkpoints of colour images in the working folder and the folders in it.

    Not the run's own, nor those trained on the same data, which are to be resumed (`resume`).
    """
    own = {os.path.abspath(prefix) for prefix in (config.checkpoint.model_prefix,
                                                  config.checkpoint.save_model_prefix) if prefix}
    found = []
    for path in _descriptions():
        prefix = str(path)[:-len("-symbol.json")]
        try:
            weights = None if os.path.abspath(prefix) in own else _checkpoint(prefix, config)
        except (DataError, UsageError):
            continue  # damaged files, or another program's of the same name: not weights to begin with
        if weights:
            found.append(weights)
    return found


def _descriptions() -> Iterator[Path]:
    here = _listed(Path("."))
    # no deeper: files further down are hardly meant, and a home folder may be very large
    inside = (path for folder in here if folder.is_dir() and not folder.name.startswith(".")
              for path in _listed(folder))
    for path in (*here, *inside):
        if path.name.endswith("-symbol.json"):
            yield path


def _checkpoint(prefix: str, config: Config) -> _Weights | None:
    epoch = checkpoint.newest_epoch(prefix)
    meta = checkpoint.read_meta(prefix)
    # MXNet's own have no meta data: what they were trained for would be known only after reading them
    if epoch is None or not meta or not _is_for_photographs(meta):
        return None
    if _is_same_data(meta.get("config") or {}, config):
        return None
    num_bytes = _size(Path(f"{prefix}-{epoch:04d}.params"))
    # by classes: weights of more classes have learnt to distinguish more, which is likely the better start
    return _Weights(prefix, num_bytes, (len(meta.get("class_names") or ()), num_bytes))


def _is_for_photographs(meta: dict[str, Any]) -> bool:
    shape = (meta.get("preprocessing") or {}).get("image_shape") or ()
    return isinstance(shape, Sequence) and len(shape) == 3 and shape[0] == 3


def _is_same_data(noted: dict[str, Any], config: Config) -> bool:
    data = config.data
    # as absolute paths: the other run may have named the folder relative to another one
    given = [os.path.abspath(path) for path in (data.data_train, data.data_dir) if path]
    return any(os.path.abspath(str(noted.get(name) or os.devnull)) in given
               for name in ("data_train", "data_dir"))


def _listed(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted; [] for one that is not there or cannot be read."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry, _ in zip(entries, range(_MAX_LISTED), strict=False)]
    except OSError:
        return []
    return [folder / name for name in sorted(names)]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def describe(found: LocalWeights) -> str:
    """Return the log line with the weights that were taken and the reason, settings between backquotes."""
    return f"chosen: `pretrained_model` {verbatim(found.name)} ({found.reason})"
