"""When to save and when to stop: after epochs, every few minutes, and when a signal or another process
requests it.

The trainer calls it after every step. What is written, and how, is decided in `checkpoint`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from torch import nn

from imgcls.config.sections import CheckpointConfig
from imgcls.errors import LostDataError, RunError
from imgcls.training.best_epoch import BestEpoch
from imgcls.training.checkpoint import Checkpoint, Position, newest_epoch
from imgcls.training.sharing import GradientSharing
from imgcls.training.stop import StopSignal
from imgcls.training.updater import Updater

#: seconds between two messages of rank 0 that an upload is still under way
_POLL_S = 1.0


class Saver:
    """Decides for all processes together; only rank 0 has the `checkpoint` that writes, and only if the run
    saves.

    An epoch is saved when its number is a multiple of `save_period`, a position inside an epoch every
    `save_every` minutes (0: never).
    """

    def __init__(self, checkpoint: Checkpoint | None, stop: StopSignal, sharing: GradientSharing,
                 config: CheckpointConfig, average: nn.Module | None = None,
                 best: BestEpoch | None = None) -> None:
        """`average` is the network with the averaged weights, where there is one: saved in place of them.
        `best` is the record of validations for early stopping and `keep_best`, where either is on."""
        self._checkpoint = checkpoint
        self._stop = stop
        self._sharing = sharing
        self._average = average
        self.best = best
        self._saved_epoch = 0
        self._save_period = config.save_period
        self._save_every_s = config.save_every * 60
        self._last_saved = time.monotonic()
        # only rank 0 has the checkpoint: all processes must make their Saver at the same time
        is_remote = checkpoint is not None and checkpoint.is_remote
        self._waits_together = sharing.worker.is_synchronous and any(sharing.worker.gather(float(is_remote)))

    def save_epoch(self, model: nn.Module, updater: Updater, position: Position, *, is_last: bool,
                   best: str = "") -> str:
        """Save the state at the end of an epoch where that is due; return the path of the weights, or "".

        `best` is the content of PREFIX-best.json, which is written behind the weights that it may name.
        """
        # the last epoch is what the run was made for: saved whatever its number is
        if not (is_last or position.epoch % self._save_period == 0):
            return ""
        self._saved_epoch = position.epoch  # in all processes: they decide by it what is still to be saved
        self._wait_together()
        if not self._checkpoint:
            return ""
        self._sharing.fetch()
        path = self._checkpoint.save_epoch(model, updater.optimizer, updater.precision.state_dict(), position,
                                           self._average, best)
        self._last_saved = time.monotonic()
        return path

    def was_over(self, position: Position) -> bool:
        """Return whether early stopping has ended the training at this position, which a run begins at."""
        return self.best is not None and not position.batch and self.best.was_over(position.epoch)

    def note_validation(self, model: nn.Module, updater: Updater, position: Position,
                        metrics: Mapping[str, float]) -> bool:
        """Record the validation of an epoch, save it if it is to be kept; return whether training ends."""
        if not self.best:
            return False
        self.best.note(position.epoch, metrics)
        is_over = self.best.is_over(position.epoch)
        # where training ends is saved too, as the last epoch is
        if self._saved_epoch != position.epoch and (is_over or self.best.is_to_be_kept(position.epoch)):
            self.best.saved(self.save_epoch(model, updater, position, is_last=True, best=self.best.content))
        else:
            self._wait_together()
            if self._checkpoint:
                self._checkpoint.save_best(self.best.content)
        return is_over

    def pending_request(self) -> int:
        """Return what all processes are to do now: 0 continue, `StopSignal.SAVE` save, more: save and end."""
        request = self._stop.request
        if not request and self._is_due():
            request = StopSignal.SAVE
            # now, not when it is saved: processes agree one step late, and would request it again meanwhile
            self._last_saved = time.monotonic()
        return self._sharing.agree_on_request(request)

    def handle_request(self, request: int, model: nn.Module, updater: Updater, position: Position) -> None:
        """Save the position inside an epoch, and raise `Stopped` if the request is to end."""
        progress = f"epoch {position.epoch}, batch {position.batch}"
        self._wait_together()
        if self._checkpoint:
            self._sharing.fetch()
            self._checkpoint.save_position(model, updater.optimizer, updater.precision.state_dict(), position,
                                           self._average)
            self._last_saved = time.monotonic()
            progress += "; the position was saved, `load_epoch` auto resumes from there"
        elif not self._sharing.worker.rank:
            progress += "; nothing was saved, there is no `model_prefix`"
        if request > StopSignal.SAVE:
            # Wait for the upload here, where signals are held off: behind `raise_if_requested` they are not.
            self.wait()
            self._sharing.leave(request)
        self._stop.raise_if_requested(progress, request)

    def save_after_loss(self, error: LostDataError, model: nn.Module, updater: Updater,
                        position: Position) -> RunError:
        """Save the position of a run whose data have gone; return the error to end it with."""
        # Before the first update there is nothing to keep that a new start would not make again.
        if not self._checkpoint or not position.update:
            return error
        self._sharing.fetch()
        self._checkpoint.save_position(model, updater.optimizer, updater.precision.state_dict(), position,
                                       self._average)
        self._checkpoint.wait()  # not together: the data may be gone for this process alone
        return RunError(f"{error.message}; in epoch {position.epoch}, batch {position.batch} the position "
                        "was saved, `load_epoch` auto resumes from there once the file is complete again")

    def describe_last(self) -> str:
        """Return what a run that fails now has saved, for its error message."""
        # Read from the disk: another process may have saved it, or it may have been removed since.
        last = newest_epoch(self._checkpoint.prefix) if self._checkpoint else None
        if last is None or self._checkpoint is None:
            return "nothing was saved"
        return f"the last checkpoint is {self._checkpoint.prefix}-{last:04d}.params"

    def wait(self) -> None:
        """Wait until what was saved has arrived where it is stored; called by all processes."""
        self._wait_together()
        if self._checkpoint:
            self._checkpoint.wait()

    def _wait_together(self) -> None:
        """Wait in all processes until the last upload has arrived, where files go to a URL.

        Without this, processes whose rank 0 waits for a slow upload would take it for lost after
        `dist_timeout`.
        """
        is_busy = self._waits_together
        while is_busy:
            own = self._checkpoint is not None and self._checkpoint.is_busy(_POLL_S)
            is_busy = any(self._sharing.worker.gather(float(own)))

    def _is_due(self) -> bool:
        """Whether the last save is long enough ago."""
        return bool(self._checkpoint and self._save_every_s
                    and time.monotonic() - self._last_saved >= self._save_every_s)
