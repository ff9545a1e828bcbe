"""When to save and when to stop: after epochs, every few minutes, and at the request of a signal or another process.

The trainer asks it after every step. What is written, and how, is the checkpoint's affair.
"""

from __future__ import annotations

import time

from torch import nn

from imgcls.training.checkpoint import Checkpoint, Position, newest_epoch
from imgcls.training.sharing import GradientSharing
from imgcls.training.stop import StopSignal
from imgcls.training.updater import Updater


class Saver:
    """Writes through `checkpoint`, which only rank 0 of a run that saves has; the others follow its decisions.

    An epoch is saved when its number is a multiple of `save_period`, a position inside an epoch every `save_every_min`
    minutes (0: never).
    """

    def __init__(self, checkpoint: Checkpoint | None, stop: StopSignal, sharing: GradientSharing, *,
                 save_period: int = 1, save_every_min: float = 0.0) -> None:
        self._checkpoint = checkpoint
        self._stop = stop
        self._sharing = sharing
        self._save_period = save_period
        self._save_every_min = save_every_min
        self._last_saved = time.monotonic()

    def save_epoch(self, model: nn.Module, updater: Updater, position: Position, *, is_last: bool) -> str:
        """Save the state at the end of an epoch, where it is due or the last; return the path of the weights or ""."""
        if not self._checkpoint or not (is_last or position.epoch % self._save_period == 0):
            return ""
        self._sharing.fetch()
        path = self._checkpoint.save_epoch(model, updater.optimizer, updater.precision.state_dict(), position)
        self._last_saved = time.monotonic()
        return path

    def pending_request(self) -> int:
        """Return what all processes are to do now: 0 go on, `StopSignal.SAVE` save the position, more: leave too."""
        request = self._stop.request
        if not request and self._is_due():
            request = StopSignal.SAVE
            self._last_saved = time.monotonic()
        return self._sharing.agree_on_request(request)

    def handle_request(self, request: int, model: nn.Module, updater: Updater, position: Position) -> None:
        """Save the position inside an epoch, and raise `Stopped` if the request is to leave."""
        progress = f"epoch {position.epoch}, batch {position.batch}"
        if self._checkpoint:
            self._sharing.fetch()
            self._checkpoint.save_position(model, updater.optimizer, updater.precision.state_dict(), position)
            self._last_saved = time.monotonic()
            progress += "; the position was saved, `load_epoch` auto goes on from there"
        elif not self._sharing.worker.rank:
            progress += "; nothing was saved, there is no `model_prefix`"
        if request > StopSignal.SAVE:
            # an upload is under way; signals are held off here and no longer behind `raise_if_requested`
            self.wait()
            self._sharing.leave(request)
        self._stop.raise_if_requested(progress, request)

    def describe_last(self) -> str:
        """Return what a run that fails now has saved, for its error message."""
        last = newest_epoch(self._checkpoint.prefix) if self._checkpoint else None
        if last is None or self._checkpoint is None:
            return "nothing was saved"
        return f"the last checkpoint is {self._checkpoint.prefix}-{last:04d}.params"

    def wait(self) -> None:
        """Wait until what was saved has arrived where it is stored."""
        if self._checkpoint:
            self._checkpoint.wait()

    def _is_due(self) -> bool:
        """Whether the last save is long enough ago."""
        return bool(self._checkpoint and self._save_every_min
                    and time.monotonic() - self._last_saved >= self._save_every_min * 60)
