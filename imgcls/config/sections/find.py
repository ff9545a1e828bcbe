"""Settings that are found by trying instead of by guessing."""

from __future__ import annotations

from dataclasses import dataclass

from imgcls.config.flags import flag
from imgcls.config.sections.bounds import MAX_NUMBER


@dataclass(frozen=True)
class FindConfig:
    """Finding settings"""

    find_lr: str = flag("", "do not train: raise the learning rate until the loss rises, suggest a rate, "
                        "and plot the curve to this file (.svg or .png)", metavar="FILE")
    find_batch_size: str = flag("", "do not train: measure speed and memory of growing batch sizes, suggest "
                                "a size and a learning rate for it, and plot both to this file (.svg or "
                                ".png)", metavar="FILE")
    time_budget: float = flag(0.0, "time limit of the run in minutes: train as many epochs as fit, estimated "
                              "from the first batches, adapt the schedule to them, and begin with small "
                              "images if they are few; 0: use --num-epochs", metavar="MINUTES", minimum=0,
                              maximum=MAX_NUMBER)
