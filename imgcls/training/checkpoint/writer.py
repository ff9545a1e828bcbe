"""Write the checkpoints of a run: what holds for the whole run, an epoch, and a position inside an epoch.

The order of writing is part of the format: `.states` before `.params`, so that weights that are there can be
resumed from, and both before anything older is removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from typing import IO, Any

import numpy as np
import torch
from torch import nn

import imgcls.training.checkpoint.states as states
from imgcls import graph
from imgcls.config.sections import NetworkConfig
from imgcls.config.version import __version__
from imgcls.errors import RunError, reason, verbatim
from imgcls.formats import params, symbol
from imgcls.layers import Layer
from imgcls.storage.atomic import check_writable, remove_leftovers
from imgcls.storage.locks import lock_file, open_lock
from imgcls.storage.paths import to_local_path, to_path
from imgcls.storage.uploads import UploadQueue
from imgcls.training.checkpoint.files import (
    WRITTEN,
    check_prefix,
    mean_image_path,
    numbered_epochs,
    read_meta,
)
from imgcls.training.checkpoint.history import is_own_epoch, later_epochs
from imgcls.training.checkpoint.latest import LatestFile
from imgcls.training.checkpoint.optimizer_state import optimizer_tensors
from imgcls.training.checkpoint.position import Position, Saved

#: where `keep_states` is not given: the bytes that all states of a prefix may have together, and how many
#: stay whatever they have
STATES_BYTES = 10**9
MIN_STATES = 2


class Checkpoint:
    """Writes the files of one run under `prefix`; holds the prefix's lock, so that two runs cannot share it.

    A URL has no lock: there a second run is noticed at the next save, by PREFIX-latest.json.
    """

    def __init__(self, prefix: str, *, keep_states: int | None = None, run: str = "") -> None:
        """Raise RunError where the folder cannot be written or another run is writing there.

        The weights of all epochs stay, and the states of the last `keep_states`; None: as many of the last as
        are STATES_BYTES together, two at least. `run` names a run that is resumed.
        """
        check_prefix(prefix, "`model_prefix`")
        self.prefix = os.fspath(to_path(prefix, "`model_prefix`"))
        self.run = run or uuid.uuid4().hex
        self._keep_states = keep_states
        check_writable(self.prefix, "`model_prefix`")
        self._uploads = UploadQueue(self.prefix)
        # stores of objects have no locks
        self._lock = None if self._uploads.is_remote else _lock(self.prefix)
        if self._lock is not None:  # no one else writes here: what is half written was left by a kill
            path = to_local_path(self.prefix)
            remove_leftovers(path.parent, re.compile(re.escape(path.name) + WRITTEN))
        self._latest = LatestFile(self.prefix, self.run, self._uploads) if self._uploads.is_remote else None

    def begin(self, model: nn.Module, network: NetworkConfig, meta: Mapping[str, Any], *,
              mean_image: bytes = b"", resumed_epoch: int | None) -> None:
        """Write what holds for the whole run: the network, the mean image if there is one, the meta data.

        `resumed_epoch` is how many epochs were done where it resumes; None: a new run. Weights under the
        prefix that are not what it resumes from are noted, so that `load_epoch` auto never takes them for its
        own. They and their states stay until the run has something to put in their place.
        """
        foreign = set(numbered_epochs(self.prefix, "params"))
        if resumed_epoch is not None:
            before = read_meta(self.prefix)
            later = later_epochs(self.prefix, resumed_epoch)
            foreign = {epoch for epoch in foreign
                       if epoch in later or not is_own_epoch(self.prefix, epoch, before)}
            if later:  # under another name: what the run saved of those epochs is not what it saves now
                self.run = uuid.uuid4().hex
        if self._latest:
            self._latest.take_over(self.run, is_resumed=resumed_epoch is not None)
        if any(isinstance(module, Layer) for module in model.modules()):
            self._uploads.write(f"{self.prefix}-symbol.json", symbol.dumps(graph.to_symbol(model)).encode())
        else:  # a network of torchvision's or timm's is built again from its name
            self._uploads.write(f"{self.prefix}-network.json", json.dumps(asdict(network), indent=1).encode())
        if mean_image:  # before the meta data, which names it
            self._uploads.write(mean_image_path(self.prefix), mean_image)
        content = {"imgcls": __version__, "run": self.run, "earlier_epochs": sorted(foreign), **meta}
        text = json.dumps(content, indent=1, ensure_ascii=False)  # class names are read by people
        # a command line may hold bytes that are no text: they become \\udcXX, JSON's own spelling of them
        self._uploads.write(f"{self.prefix}-meta.json", text.encode(errors="backslashreplace"))
        self._uploads.flush(wait=True)  # now, not after an epoch: shows whether files can be written there

    def save_epoch(self, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Mapping[str, Any],
                   position: Position, average: nn.Module | None = None, best: str = "") -> str:
        """Write the checkpoint after `position.epoch` epochs; return the path of the weights.

        With an `average` of the weights, that is what the .params holds. `best` is a new PREFIX-best.json.
        """
        arrays = graph.arrays(average or model)
        stem = f"{self.prefix}-{position.epoch:04d}"
        trained = graph.arrays(model) if average else {}
        state = self._state(model, optimizer, scaler, position, arrays, trained)
        content = states.encode(state, with_weights=False)
        self._uploads.write(f"{stem}.states", content)
        # Behind the states: a crash in between leaves states without weights, which no one reads.
        path = f"{stem}.params"
        self._uploads.write(path, *params.serialize(list(arrays), list(arrays.values()), path))
        if best:  # behind the weights: it may name this epoch
            self._uploads.write(f"{self.prefix}-best.json", best.encode())
        if self._latest:
            self._latest.point_to(position)
        # What is older is removed now, and not before; an error in this is no reason to end the run.
        with contextlib.suppress(OSError):
            self._uploads.remove(f"{self.prefix}-position.states")
            self._uploads.wait()
            older = sorted(epoch for epoch in numbered_epochs(self.prefix, "states")
                           if epoch < position.epoch)
            num_kept = self._keep_states or max(MIN_STATES, STATES_BYTES // len(content))
            for old in older[:max(len(older) - (num_kept - 1), 0)]:
                self._uploads.remove(f"{self.prefix}-{old:04d}.states")
        self._uploads.flush()
        return path

    def save_best(self, content: str) -> None:
        """Write PREFIX-best.json, which names the best epoch."""
        self._uploads.write(f"{self.prefix}-best.json", content.encode())
        self._uploads.flush()

    def save_position(self, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Mapping[str, Any],
                      position: Position, average: nn.Module | None = None) -> str:
        """Write all that a position inside an epoch needs into one file, in place of the one before."""
        # One file, weights included: it is renamed over the last one, so there is always a whole position.
        path = f"{self.prefix}-position.states"
        if self._latest:
            path = self._latest.position_path(position.update)
        trained = graph.arrays(model) if average else {}
        state = self._state(model, optimizer, scaler, position, graph.arrays(average or model), trained)
        self._uploads.write(path, states.encode(state, with_weights=True))
        if self._latest:
            self._latest.point_to(position, path)
        self._uploads.flush()
        return path

    @property
    def is_remote(self) -> bool:
        """Whether the files go to a URL, in the background."""
        return self._uploads.is_remote

    def is_busy(self, within_s: float) -> bool:
        """Wait up to `within_s` seconds for what was saved under a URL; return whether it is under way."""
        return self._uploads.is_busy(within_s)

    def wait(self) -> None:
        """Wait until what was saved under a URL has arrived; raise what went wrong with it."""
        self._uploads.wait()

    def close(self) -> None:
        """Release the prefix when all that was saved has arrived."""
        # a second Ctrl-C is someone who does not want to wait for an upload
        is_impatient = isinstance(sys.exc_info()[1], KeyboardInterrupt)
        try:
            self._uploads.close(wait=not is_impatient)
        finally:
            # removed while it is still held: no one else can have taken it
            if self._lock is not None:
                # in a folder that is shared, the file may be someone else's
                with contextlib.suppress(OSError):
                    to_local_path(f"{self.prefix}.lock").unlink()
                self._lock.close()

    def _state(self, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Mapping[str, Any],
               position: Position, arrays: Mapping[str, np.ndarray],
               trained: Mapping[str, np.ndarray]) -> Saved:
        return Saved("", arrays, position, optimizer_tensors(model, optimizer), type(optimizer).__name__,
                     scaler, self.run, trained=trained)


def _lock(prefix: str) -> IO[bytes]:
    """Hold PREFIX.lock for this process; the system releases it however the process ends."""
    try:
        stream = open_lock(f"{prefix}.lock")
    except OSError as error:
        raise RunError(f"`model_prefix` {verbatim(prefix)}: cannot lock {verbatim(prefix)}.lock: "
                       f"{reason(error)}") from error
    if not lock_file(stream):
        stream.close()
        raise RunError(f"`model_prefix` {verbatim(prefix)}: another run is writing there; wait for it or "
                       "choose another prefix")
    return stream
