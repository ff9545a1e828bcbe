"""Early stopping, and which epoch was best. `saver.py` calls it after every validation.

PREFIX-best.json has the accuracy of each epoch that was validated, so that a run which resumes after epoch 7
begins with the accuracies of the first seven and of no later one, as if it had not been stopped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from imgcls.config.sections import EarlyStoppingConfig
from imgcls.data.loaders.batch import Loader
from imgcls.distributed.process_group import Worker
from imgcls.errors import UsageError
from imgcls.formats import json_text
from imgcls.storage.paths import to_path
from imgcls.training.checkpoint import Position, Saved, prefix_of
from imgcls.training.checkpoint.files import read_best
from imgcls.training.reporter import Reporter


class BestEpoch:
    """Validation accuracy by the number of its epoch (from 1, as files are numbered); the same in every
    process."""

    def __init__(self, config: EarlyStoppingConfig, accuracies: Mapping[int, float],
                 reporter: Reporter) -> None:
        """`accuracies` are those of the epochs before a resume."""
        self._config = config
        # a copy: the mapping that was passed stays as it is
        self._accuracies = dict(accuracies)
        self._reporter = reporter

    @property
    def epoch(self) -> int:
        """The first epoch with the highest accuracy; 0 where none was validated."""
        # the first of equal ones: with a validation set of some hundred images ties are common, and
        # a later epoch that is no better has only had more time to overfit
        return max(self._accuracies, key=lambda epoch: (self._accuracies[epoch], -epoch), default=0)

    @property
    def content(self) -> str:
        """What PREFIX-best.json is to hold."""
        return json.dumps({
            "epoch": self.epoch, "accuracy": self._accuracies[self.epoch],
            "accuracies": {str(number): value for number, value in self._accuracies.items()}}, indent=1)

    def note(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Record the validation of an epoch; the saver writes the file, behind the weights."""
        # every process notes, so that all of them stop at the same epoch; rank 0 alone writes
        self._accuracies[epoch] = metrics["accuracy"]

    def is_to_be_kept(self, epoch: int) -> bool:
        """Whether `epoch` is the best so far and its weights are to be saved in any case."""
        # whatever `save_period` says: the best epoch rarely is one of every ten
        return self._config.keep_best and epoch == self.epoch

    def is_over(self, epoch: int) -> bool:
        """Whether training ends with `epoch`, as the last `patience` were no better; if so, log it."""
        # as Keras's EarlyStopping counts: epochs since the best one, whose own number is 0
        patience = self._config.patience
        if not patience or epoch - self.epoch < patience:
            return False
        self._reporter.info(f"stopped after epoch {epoch}: {self.describe()}, and {patience} more were no "
                            "better (`patience`)")
        return True

    def was_over(self, epoch: int) -> bool:
        """Whether the run that is resumed after `epoch` ended there already: without this, every start would
        train one more epoch."""
        return epoch in self._accuracies and self.is_over(epoch)

    def saved(self, path: str) -> None:
        """Log that the weights were saved to `path`; "" in a process that saves none."""
        if path:
            self._reporter.saved(path)

    def describe(self) -> str:
        """Return which epoch was best, for people."""
        return f"epoch {self.epoch} was best, with validation accuracy {self._accuracies[self.epoch]:.4f}"


def begin_best(config: EarlyStoppingConfig, saved: Saved | None, position: Position, worker: Worker,
               reporter: Reporter, val_loader: Loader | None) -> BestEpoch | None:
    """Return the record of the validations, None where neither `patience` nor `keep_best` is set.

    UsageError without validation data, and with dist_async, whose workers end independently.
    """
    if not config.patience and not config.keep_best:
        return None
    setting = "`patience`" if config.patience else "`keep_best`"
    if val_loader is None:
        # training accuracy would always say to continue
        raise UsageError(f"{setting}: needs validation data, and there is none (`data_val`, `val_ratio`)")
    if worker.is_async:
        raise UsageError(f"{setting}: does not go with `kv_store` dist_async, where each worker has its own "
                         "accuracy; take dist_sync")
    # read by rank 0 and sent: other machines need not have the folder, and processes that
    # disagreed on the best epoch would stop at different ones, which is a job that hangs
    before = _read(saved, position) if saved and not worker.rank else {}
    content = worker.broadcast(json.dumps(before).encode(), 0)
    accuracies = {int(epoch): value for epoch, value in json.loads(content).items()}
    return BestEpoch(config, accuracies, reporter)


def _read(saved: Saved, position: Position) -> dict[str, float]:
    """Return the accuracies up to the position, from the file beside the checkpoint."""
    prefix = prefix_of(saved.path)
    path = to_path(f"{prefix}-best.json")
    accuracies = read_best(prefix).get("accuracies", {})
    # the file may have been edited: a wrong one is refused by name, and not by a traceback
    json_text.check(accuracies, _is_by_epoch, "accuracies", "an accuracy for each epoch", path)
    # later epochs are trained again, with what may be another learning rate: their accuracy says
    # nothing about the run that begins here
    return {epoch: value for epoch, value in accuracies.items() if int(epoch) <= position.epoch}


def _is_by_epoch(value: Any) -> bool:
    return isinstance(value, dict) and all(
        re.fullmatch("[0-9]{1,9}", epoch) and json_text.is_number(number) for epoch, number in value.items())
