"""Which run the files under a prefix are of: the one that wrote its meta data, or an earlier one.

A run that starts again, or goes back with `load_epoch` 8, finds epochs there that are not its own. It notes
their numbers in PREFIX-meta.json (`earlier_epochs`) and writes over them one by one; nothing else of theirs
is touched. Each `.states` names its run, so that an epoch that was written anew can be told from an old one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from imgcls.errors import DataError
from imgcls.storage.paths import AnyPath, to_path
from imgcls.storage.remote import RemotePath
from imgcls.training.checkpoint.files import numbered_epochs, read_meta
from imgcls.training.checkpoint.position import Saved

#: safetensors' own limit for its header
_MAX_HEADER_BYTES = 100_000_000


def is_own_epoch(prefix: str, epoch: int, meta: Mapping[str, Any]) -> bool:
    """Return whether the weights of an epoch are those of the run that wrote `meta`."""
    if epoch not in _earlier_epochs(meta):
        return True
    path = to_path(f"{prefix}-{epoch:04d}.states")
    run = _run_of(path) if path.exists() else ""
    return bool(run) and run == meta.get("run")


def is_own_position(saved: Saved, meta: Mapping[str, Any]) -> bool:
    """Return whether a position inside an epoch was saved by the run that wrote `meta`."""
    # without meta data, or from a version that did not write it down, it counts as the run's own
    return not saved.run or not meta.get("run") or saved.run == meta["run"]


def later_epochs(prefix: str, epoch: int) -> list[int]:
    """Return the epochs under a prefix that a run which resumes from `epoch` leaves behind, rising."""
    meta = read_meta(prefix)
    return sorted(later for later in numbered_epochs(prefix, "params")
                  if later > epoch and is_own_epoch(prefix, later, meta))


def _earlier_epochs(meta: Mapping[str, Any]) -> list[Any]:
    """Return the epochs that were there before the run began; [] where that is no list."""
    epochs = meta.get("earlier_epochs")
    return epochs if isinstance(epochs, list) else []


def _run_of(path: AnyPath) -> str:
    """Return the run that a `.states` file of ours names, from its header alone; "" for any other file."""
    try:
        length = int.from_bytes(_read_range(path, 0, 8), "little")
        if not 0 < length <= _MAX_HEADER_BYTES:
            return ""
        header = json.loads(_read_range(path, 8, 8 + length))
        return str(json.loads(header["__metadata__"]["imgcls"])["run"])
    # a pickle of MXNet's, another format, or damage: reading the state reports it
    except (OSError, DataError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def _read_range(path: AnyPath, begin: int, end: int) -> bytes:
    if isinstance(path, RemotePath):
        # as of a local file: less where it ends before
        return path.read_range(begin, min(end, path.stat().size))
    with path.open("rb") as stream:
        stream.seek(begin)
        return stream.read(end - begin)
