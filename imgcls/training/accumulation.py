"""`accumulate`: the gradients of several batches in a row make one step, as one batch of all their samples.

`micro_batches` is something else: it divides one batch, and changes how that is computed and not how many
steps there are. Updates, and with them the schedule, still count batches. The last step of an epoch takes the
batches that are left.
"""

from __future__ import annotations

from dataclasses import dataclass

from imgcls.config.sections import OptimizerConfig
from imgcls.data.loaders.batch import Loader
from imgcls.optim.schedules import Schedule


def num_accumulated(config: OptimizerConfig, schedule: Schedule) -> int:
    """Return the number of batches in a step: `accumulate`, or those of lbsgd's macrobatch."""
    return schedule.macrobatch.num_batches if schedule.macrobatch else config.accumulate


@dataclass(frozen=True)
class Window:
    """The place of a batch among those of one step."""

    is_first: bool = True
    is_last: bool = True
    #: the part of the samples of the step that are in this batch: the weight of its mean loss
    share: float = 1.0


class Accumulation:
    """Which batches of an epoch belong to one step: `count` each, and what is left at the end."""

    def __init__(self, count: int, loader: Loader) -> None:
        self.count = count
        self._batches_per_epoch = max(loader.batches_per_epoch, 1)
        self._batch_size = loader.batch_size
        # the last batch of an epoch may be smaller
        self._last_size = loader.num_samples - (self._batches_per_epoch - 1) * loader.batch_size

    def window(self, update: int) -> Window:
        """Return the place of the batch of an update (from 1) in its step; a function of the update alone."""
        if self.count == 1:
            return _ALONE
        index = (update - 1) % self._batches_per_epoch
        first = index // self.count * self.count
        end = min(first + self.count, self._batches_per_epoch)
        # not a sum over the window: a step may be of a whole epoch, and this is computed for each batch
        total = (end - first - 1) * self._batch_size + self._size(end - 1)
        return Window(index == first, index == end - 1, self._size(index) / total)

    def _size(self, index: int) -> int:
        is_smaller = index == self._batches_per_epoch - 1 and 0 < self._last_size < self._batch_size
        return self._last_size if is_smaller else self._batch_size


_ALONE = Window()
