"""Which epoch was best, and when to stop because none was better since."""

from __future__ import annotations

from dataclasses import dataclass

from imgcls.config.flags import flag
from imgcls.config.sections.bounds import MAX_EPOCHS


@dataclass(frozen=True)
class EarlyStoppingConfig:
    """Early stopping"""

    patience: int = flag(0, "stop after N epochs without a better validation accuracy; 0: never",
                         metavar="N", minimum=0, maximum=MAX_EPOCHS)
    keep_best: bool = flag(False, "record the best epoch in PREFIX-best.json and save it regardless of "
                           "--save-period; --load-epoch best loads it")
