"""Settings that are found by trying instead of by guessing."""

from __future__ import annotations

from dataclasses import dataclass

from imgcls.config.flags import flag
from imgcls.config.sections.bounds import MAX_NUMBER


@dataclass(frozen=True)
class FindConfig:
    """Finding settings"""

    find_lr: str = flag("", "train nothing: raise the learning rate until the loss does, say which to take, "
                        "and draw the curve here (.svg or .png)", metavar="FILE")
    find_batch_size: str = flag("", "train nothing: measure speed and memory of larger and larger batches, "
                                "say which size to take and which rate goes with it, and draw both here "
                                "(.svg or .png)", metavar="FILE")
    time_budget: float = flag(0.0, "minutes that the run may take: as many epochs as fit, by the time of its "
                              "first batches, the schedule over those, and small images first where "
                              "they are few; 0: --num-epochs holds",
                              metavar="MINUTES", minimum=0, maximum=MAX_NUMBER)
