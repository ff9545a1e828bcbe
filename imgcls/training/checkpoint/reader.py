"""Read a checkpoint: the one of an epoch, or the newest state there is."""

from __future__ import annotations

import dataclasses
import os

import imgcls.training.checkpoint.states as states
from imgcls.errors import UsageError, verbatim
from imgcls.formats import params
from imgcls.formats import states as mxnet_states
from imgcls.storage.paths import to_path
from imgcls.training.checkpoint.files import (
    check_prefix,
    find_position,
    is_auto,
    numbered_epochs,
    parse_epoch,
    read_meta,
)
from imgcls.training.checkpoint.history import is_own_epoch, is_own_position
from imgcls.training.checkpoint.mxnet_states import is_mxnets
from imgcls.training.checkpoint.position import Position, Saved


def load(prefix: str, epoch: str) -> Saved | None:
    """Return the checkpoint that `load_epoch` means: a number (8, 0008), best for the epoch that
    PREFIX-best.json names, or auto for the newest state.

    None for auto where nothing was saved. Raises UsageError when there is no such epoch, naming those there
    are, and DataError for damaged files.
    """
    check_prefix(prefix, "`model_prefix`")
    root = os.fspath(to_path(prefix, "`model_prefix`"))
    if is_auto(epoch):
        return _load_newest(root)
    number = parse_epoch(epoch, root)
    # the second name: MXNet's first scripts wrote one file for each rank
    for stem in (f"{root}-{number:04d}", f"{root}-0-{number:04d}"):
        if to_path(f"{stem}.params").exists():
            return _load_epoch(stem, number)
    epochs = sorted(numbered_epochs(root, "params"))
    have = f"there is {', '.join(map(str, epochs))}" if epochs else "no epoch was saved there"
    raise UsageError(f"`load_epoch` {epoch}: {verbatim(root)}-{number:04d}.params does not exist; {have}")


def _load_newest(root: str) -> Saved | None:
    """Return the state that is furthest on among those of the run that wrote the meta data."""
    meta = read_meta(root)
    # read first: when it is newer than every epoch, no weights need be read
    position = _load_position(root)
    if position and not is_own_position(position, meta):
        position = None
    for epoch in sorted(numbered_epochs(root, "params"), reverse=True):
        if position and position.position.epoch >= epoch:
            break
        if is_own_epoch(root, epoch, meta):
            return _load_epoch(f"{root}-{epoch:04d}", epoch)
        # else the weights of an earlier, longer run under the same prefix
    return position


def _load_position(root: str) -> Saved | None:
    """Return the state inside an epoch, if there is one."""
    path = find_position(root)
    return states.read(path) if path else None


def _load_epoch(stem: str, number: int) -> Saved:
    """Return the weights in STEM.params, and the state beside them if it is theirs."""
    arrays = params.load(f"{stem}.params")
    weights_only = Saved(f"{stem}.params", arrays, Position(epoch=number))
    path = to_path(f"{stem}.states")
    if not path.exists():
        return weights_only
    if is_mxnets(path):
        return dataclasses.replace(weights_only, mxnet_states=mxnet_states.load(str(path)))
    # With the weights at hand: the checksum in the states says whether the two were saved together.
    return dataclasses.replace(states.read(path, arrays), path=f"{stem}.params", arrays=arrays)
